"""How fast the decoding methods of a bundle are on this machine, and how often its drafts hold."""

from dataclasses import dataclass

from tqdm import tqdm

from specrt._core import EngineRole
from specrt.build.engine_file import read_header
from specrt.bundle import Bundle
from specrt.eval.acceptance import AcceptanceCounts, counts_of
from specrt.eval.prompts import encode_prompt
from specrt.llm import LLM
from specrt.methods import available_methods
from specrt.outputs import RequestOutput
from specrt.sampling_params import SamplingParams

# Short tasks of different kinds: acceptance, and so the best method, depends on the text.
_PROMPTS = (
    "Write a Python function that returns the median of a list of numbers.",
    "A train leaves at 9:40 and arrives at 13:05. How long does it travel? Explain step by step.",
    "Describe a small cafe near the river that serves Italian food and is good for families.",
    "List three advantages and three disadvantages of working from home.",
    "Summarize in two sentences: The council met on Monday to discuss the new bridge. Several "
    "residents spoke against the plan. They said that the bridge would bring more traffic. The "
    "council will vote on the plan next month.",
    "Write an SQL query that counts the orders of every customer in the table orders.",
)
_NEW_TOKENS = 64
_BUDGET_SECONDS = 30.0
_ACCEPTANCE_SECONDS = 10.0


def measure_methods(
    bundle: Bundle, threads: int | None = None, *, progress: bool = False
) -> dict[str, float]:
    """Decoding rate (tokens per second, greedy) of every method that the bundle can run.

    One method is loaded at a time, as a bundle may fill the memory; each gets its turn twice, the
    second time in reverse order, so that a machine that slows down meets all of them alike.
    """
    methods = available_methods(bundle)
    budget = _BUDGET_SECONDS / (2 * len(methods))
    runs: dict[str, list[_Run]] = {name: [] for name in methods}
    disable = None if progress else True  # None: off unless stderr is a terminal
    turns = [*methods, *reversed(methods)]
    for name in tqdm(turns, desc="measure methods", disable=disable, leave=False):
        llm = LLM(bundle, name, threads=threads, enable_prefix_caching=False)
        runs[name] += _runs(llm, budget)
    return {
        name: round(sum(run.tokens for run in done) / sum(run.seconds for run in done), 2)
        for name, done in runs.items()
        if sum(run.seconds for run in done) > 0
    }


def measure_acceptance(bundle: Bundle, threads: int | None = None) -> AcceptanceCounts | None:
    """How often the draft model is right on the prompts of `measure_methods`, greedy.

    It is asked for every token of the target's answers, also for those that decoding would not have
    let it draft. None if the context leaves no room for an answer.
    """
    llm = LLM(bundle, "speculative", threads=threads, enable_prefix_caching=False)
    return counts_of([matches_of(llm, run.output) for run in _runs(llm, _ACCEPTANCE_SECONDS)])


def matches_of(llm: LLM, output: RequestOutput) -> list[bool]:
    """For every token of a greedy answer after its first, whether the draft model would draft it.

    Args:
        llm: with a draft model.
        output: what it, or another method of the same bundle, answered.

    Returns:
        No more than the draft model's context holds.
    """
    window = read_header(llm.bundle.drafters["draft"]).plan.context
    first = len(output.prompt_token_ids)
    tokens = [*output.prompt_token_ids, *output.token_ids][: window + 1]
    drafted = llm.core.logits(EngineRole.drafter, tokens[:-1])[first:].argmax(axis=1)
    pairs = zip(tokens[first + 1 :], drafted, strict=True)
    return [token == int(draft) for token, draft in pairs]


@dataclass(frozen=True)
class _Run:
    tokens: int  # after the first
    seconds: float  # that they took
    output: RequestOutput


def _runs(llm: LLM, budget: float) -> list[_Run]:
    """As many of the prompts as fit into `budget` seconds, at least one.

    One is run before that: it warms the caches, and the draft lengths learn from it.
    """
    _run(llm, _PROMPTS[0])
    runs: list[_Run] = []
    for prompt in _PROMPTS:
        runs.append(_run(llm, prompt))
        if sum(run.seconds for run in runs) > budget:
            break
    return runs


def _run(llm: LLM, prompt: str) -> _Run:
    ids = encode_prompt(llm.tokenizer, prompt, raw=False)[: max(1, llm.core.context - _NEW_TOKENS)]
    params = SamplingParams(temperature=0.0, max_tokens=_NEW_TOKENS, ignore_eos=True)
    [output] = llm.generate([ids], params)
    metrics = output.metrics
    seconds = (metrics.total_ms - metrics.ttft_ms) / 1000.0
    return _Run(metrics.completion_tokens - 1, seconds, output)
