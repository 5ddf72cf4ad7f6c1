"""What a benchmark keeps of one prompt with one method, and the conversation that makes it."""

from dataclasses import dataclass
from statistics import median

from specrt.eval.prompts import Prompt, encode_prompt
from specrt.llm import LLM
from specrt.outputs import RequestOutput, Round
from specrt.sampling_params import SamplingParams

Answers = tuple[RequestOutput, ...]  # one for each turn of a prompt


@dataclass(frozen=True)
class Sample:
    """One prompt with one method. Times in milliseconds, medians over the repeats.

    Attributes:
        prompt: what was asked.
        repeats: the answers of every repeat.
        predicted_ms: what `rounds` should take by the step times at their context lengths.
    """

    prompt: Prompt
    repeats: tuple[Answers, ...]
    predicted_ms: float

    @property
    def answers(self) -> Answers:
        """Those of the first repeat."""
        return self.repeats[0]

    @property
    def token_ids(self) -> set[tuple[tuple[int, ...], ...]]:
        """The different outputs of the repeats: token ids of every answer."""
        return {tuple(tuple(a.token_ids) for a in answers) for answers in self.repeats}

    @property
    def rounds(self) -> list[Round]:
        """All of the first repeat."""
        return [r for answer in self.answers for r in answer.metrics.rounds]

    @property
    def ttft_ms(self) -> float:
        """To the first token of an answer, median over the turns too."""
        return median(answer.metrics.ttft_ms for answers in self.repeats for answer in answers)

    @property
    def decode_ms(self) -> float:
        """From the first token of each answer to its last, added up over the turns."""
        return median(
            sum(a.metrics.total_ms - a.metrics.ttft_ms for a in answers) for answers in self.repeats
        )

    @property
    def new_tokens(self) -> int:
        """Length of the answers."""
        return sum(len(answer.token_ids) for answer in self.answers)

    @property
    def decoded_tokens(self) -> int:
        """Tokens after the first of each answer, which belongs to the prompt's step."""
        return sum(max(0, len(answer.token_ids) - 1) for answer in self.answers)

    @property
    def skipped_turns(self) -> int:
        """Turns that were not run: without a chat template, or too long for the context."""
        return 1 + len(self.prompt.follow_ups) - len(self.answers)


def converse(llm: LLM, prompt: Prompt, params: SamplingParams, *, raw: bool) -> Answers:
    """Runs a prompt's turns, of which the first must fit into the context.

    Every answer goes into the prompt of the next turn, through the chat template; without one, or
    with `raw`, there is only the first turn. A turn that does not fit ends the conversation.
    """
    ids = encode_prompt(llm.tokenizer, prompt.text, raw=raw)
    answers = [llm.generate([ids], params)[0]]
    if raw or not llm.tokenizer.has_chat_template:
        return tuple(answers)
    messages = [{"role": "user", "content": prompt.text}]
    for turn in prompt.follow_ups:
        messages.append({"role": "assistant", "content": answers[-1].text})
        messages.append({"role": "user", "content": turn})
        ids = llm.tokenizer.encode_chat(messages)
        if len(ids) >= llm.core.context:
            break
        answers += llm.generate([ids], params)
    return tuple(answers)
