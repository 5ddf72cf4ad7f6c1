"""Generating text with a bundle."""

import operator
import os
import queue
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import SupportsIndex

from specrt import _core
from specrt.bundle import Bundle, open_bundle
from specrt.conversation import Conversation, conversations_of
from specrt.curves import mismatch
from specrt.methods import (
    AT_ONCE,
    MOST_TREE_NODES,
    PHASES,
    RULES,
    STREAMING,
    MethodChoice,
    Pace,
    choose_method,
)
from specrt.outputs import RequestOutput, StreamChunk, output_of
from specrt.running import RUNNING
from specrt.sampling_params import SamplingParams
from specrt.tokenizer import IncrementalDecoder, Tokenizer

Prompt = str | Sequence[int]


class LLM:
    """A model ready to generate.

    Args:
        bundle: folder made by `specrt build`, or "demo" for the packaged models.
        method: "auto", "autoregressive", "speculative" (the bundle's draft model), "ngram" (what
            followed the same tokens before) or "ngram+speculative" (the draft model where that
            finds nothing); "pearl" drafts with the draft model while the target verifies the draft
            before, "pearl:ngram" and "pearl:ngram+speculative" do so with those. "parallel" and
            "pearl:parallel" draft with a model that fills masks, all tokens in one step;
            "parallel-eagle" with one that reads hidden states of the target besides (P-EAGLE),
            "parallel-medusa" with one that reads its last hidden states alone, and "medusa" with a
            head for each token; "eagle" drafts token by token from those states and estimates of
            them. All of these overlap as "pearl:" and their name.
            "streaming" drafts with the target itself, whose step verifies a draft and makes the
            next (Speculative Streaming). The output is the same with each.
        num_speculative_tokens: tokens drafted in every round, 1 to 63, or up to the streams of a
            streaming adapter or to the heads of Medusa; None drafts as many as should pay, by the
            bundle's step times and by how the last drafts held, down to none.
        speculative_config: the two arguments above as vLLM spells them, for example
            {"method": "draft_model", "num_speculative_tokens": 4}.
        tree_nodes: methods that draft in turns with the target, without a lookup, may draft trees
            of at most so many tokens, 0 to 63, each path of at most num_speculative_tokens, and
            verify them in one step; 0 drafts chains. None leaves it to the costs where
            num_speculative_tokens is None as well; "speculative" then drafts chains. For the rule
            "exact".
        kept_nodes: of a tree under "streaming", the row of the committed token included, that the
            layers with streams get at most, 0 to 63; the others are pruned before by an early
            exit. 0 and None: as many as fit, or as the costs say.
        rule: how drafted tokens are judged when sampling. "exact" gives the tokens of
            autoregressive decoding with the same seed. "rejection" (speculative sampling) and
            "block" (block verification) accept more, and keep the distribution of the tokens
            instead. At temperature 0 all give the same tokens.
        threads: cores that a CPU bundle uses; None takes all that the process may run on.
        draft_threads: of these, the drafter's own under "pearl"; None takes a quarter, at least
            one. The target gets the others.
        isa: instruction set that a CPU bundle uses instead of the best one, for tests.
        device: number of the GPU that runs a CUDA bundle.
        run_ahead: rounds enqueued before an earlier verdict is read, 0 to 8.
        trace_steps: whether the metrics tell when every step ran.
        pace: paced mode, for studies of loops: milliseconds that a step of the target and one of
            the draft model last at least, as if each had a device of that speed. Draft lengths
            follow from these times.
        phases: for studies of "pearl" with a CPU bundle under the rule "exact": "pre_verify_only"
            drafts nothing while a draft is verified, "post_verify_only" does not judge the first
            drafted token while the others are drafted. The output is the same.
        enable_prefix_caching: whether a prompt that begins like the text before it feeds only the
            rest, as the next turn of a conversation does. The output is the same.

    Raises:
        ValueError: an argument is out of its range.
        Error: the bundle is missing, damaged or made by another version.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        method: str = "auto",
        num_speculative_tokens: int | None = None,
        speculative_config: Mapping[str, object] | None = None,
        threads: int | None = None,
        *,
        tree_nodes: int | None = None,
        kept_nodes: int | None = None,
        rule: str = "exact",
        draft_threads: int | None = None,
        isa: str = "",
        device: int = 0,
        run_ahead: int = 1,
        trace_steps: bool = False,
        pace: Pace | None = None,
        phases: str = "both",
        enable_prefix_caching: bool = True,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else _open(bundle)
        cores = len(os.sched_getaffinity(0))
        if threads is not None and (not isinstance(threads, int) or not 1 <= threads <= 1024):
            raise ValueError(f"threads must be in [1, 1024], not {threads!r}")
        if isinstance(device, bool) or not isinstance(device, int) or not 0 <= device < 1024:
            raise ValueError(f"device must be the number of a GPU, from 0 on, not {device!r}")
        self.threads = threads or cores
        _check_draft_threads(draft_threads, self.threads)
        choice = choose_method(self.bundle, method, num_speculative_tokens, speculative_config)
        if draft_threads is not None and method != "auto" and not choice.overlaps:
            raise ValueError(f'draft_threads belong to "pearl" methods, not {choice.method!r}')
        self._choice: MethodChoice = choice
        self.tokenizer = Tokenizer(self.bundle.path)
        options = _core.LLMOptions()
        options.target = str(self.bundle.target_engine)
        if choice.drafter is not None:
            options.drafter = str(self.bundle.drafters[choice.drafter])
        options.prompt_lookup_min, options.prompt_lookup_max = choice.lookup or (0, 0)
        options.num_speculative_tokens = choice.num_speculative_tokens
        options.tree_nodes = self._tree_nodes = _tree_nodes(tree_nodes, choice, rule)
        options.streaming = choice.method == STREAMING
        options.kept_nodes = _kept_nodes(kept_nodes, choice)
        options.trace_steps = trace_steps
        if pace is not None:
            options.pace_target_ms, options.pace_draft_ms = pace
        options.step_costs = _step_costs(self.bundle, choice, pace)
        options.rule = _rule(rule)
        options.phases = _phases(phases, choice)
        if choice.overlaps:
            options.loop = _core.LoopKind.pearl
            options.draft_threads = draft_threads or 0
        options.threads = self.threads
        options.run_ahead = run_ahead
        options.enable_prefix_caching = enable_prefix_caching
        options.isa = isa
        options.device = device
        with RUNNING.call():
            self.core = _core.LLM(options)
        if pace is None and (method == "auto" or choice.lengths == "adaptive"):
            self._warn_of_other_curves()

    @property
    def method(self) -> str:
        """The method in effect; "auto" has been resolved."""
        return self._choice.method

    @property
    def num_speculative_tokens(self) -> int:
        """Tokens drafted in a round at most; 0 for autoregressive decoding."""
        return self._choice.num_speculative_tokens

    @property
    def tree_nodes(self) -> int:
        """Tokens of a tree at most; 0: drafts are chains."""
        return self._tree_nodes

    @property
    def drafter(self) -> str | None:
        """Name of the bundle's engine that drafts; None: none does."""
        return self._choice.drafter

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | None = None,
    ) -> list[RequestOutput]:
        """Completes every prompt, one after another; Ctrl-C cancels.

        Args:
            prompts: a text, token ids, or a sequence of these.
            sampling_params: the same for all prompts; None for the defaults.

        Returns:
            One output for each prompt, in order.

        Raises:
            ValueError: a prompt is empty, longer than the context, or holds unknown tokens.
            Error: the runtime failed; the next call starts afresh.
        """
        params = sampling_params or SamplingParams()
        return [self._complete(self._token_ids(prompt), params) for prompt in _as_list(prompts)]

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None
    ) -> Iterator[StreamChunk]:
        """Completes one prompt and yields what every round adds; the texts joined are the whole.

        Closing the iterator, or leaving its loop, cancels the request.

        Raises:
            As `generate`, from the iterator.
        """
        params = sampling_params or SamplingParams()
        prompt_ids = self._token_ids(prompt)
        return self._stream(prompt_ids, params)

    def _warn_of_other_curves(self) -> None:
        from specrt.eval.machine import place_of

        other = mismatch(self.bundle.curves or {}, place_of(self.core.backend, self.threads))
        if self.bundle.curves is not None and other is not None:
            warnings.warn(
                f"the step times of {self.bundle.path} were measured {other}; draft lengths and "
                f"the method chosen may not be the best. Measure again with: specrt tune "
                f"{self.bundle.path}",
                stacklevel=3,
            )

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | None = None,
    ) -> list[RequestOutput]:
        """Answers conversations, through the chat template of the bundle.

        Args:
            messages: a conversation, as a list of {"role", "content"}, or a list of conversations.
            sampling_params: as for `generate`.

        Returns:
            One output for each conversation, in order; append its text as the assistant's message
            and call again to go on.

        Raises:
            ValueError: the bundle has no chat template, something is not a message, the template
                refuses the messages, or they do not fit into the context.
            Error: the runtime failed; the next call starts afresh.
        """
        params = sampling_params or SamplingParams()
        prompts = [self.tokenizer.encode_chat(one) for one in conversations_of(messages)]
        return [self._complete(prompt_ids, params) for prompt_ids in prompts]

    def chat_stream(
        self, messages: Conversation, sampling_params: SamplingParams | None = None
    ) -> Iterator[StreamChunk]:
        """Answers one conversation as `chat` does and yields the answer as `stream` does."""
        params = sampling_params or SamplingParams()
        return self._stream(self.tokenizer.encode_chat(messages), params)

    def _token_ids(self, prompt: Prompt) -> list[int]:
        try:
            tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
            token_ids = [operator.index(token) for token in tokens]
        except TypeError:
            raise ValueError(
                f"a prompt must be a text or a sequence of token ids, not {prompt!r:.80}"
            ) from None
        unknown = [token for token in token_ids if not 0 <= token < self.core.vocab]
        if unknown:
            raise ValueError(
                f"token {unknown[0]} is outside of the vocabulary of {self.core.vocab}"
            )
        return token_ids

    def _complete(self, prompt_ids: list[int], params: SamplingParams) -> RequestOutput:
        def on_progress(token_ids: Sequence[int], piece: bytes) -> bool:
            return not RUNNING.ending

        with RUNNING.call():
            completion = self.core.generate(prompt_ids, params.to_core(), on_progress)
        return self._output(completion, prompt_ids, params)

    def _output(
        self, completion: _core.Completion, prompt_ids: list[int], params: SamplingParams
    ) -> RequestOutput:
        text = (
            completion.text.decode(errors="replace")
            if self.core.has_text
            else self.tokenizer.decode(completion.token_ids)
        )
        return output_of(completion, text, prompt_ids, self.method, params)

    def _stream(self, prompt_ids: list[int], params: SamplingParams) -> Iterator[StreamChunk]:
        arrived: queue.SimpleQueue[StreamChunk | BaseException] = queue.SimpleQueue()
        wanted = threading.Event()
        wanted.set()
        decoder = IncrementalDecoder(self.tokenizer)

        def on_progress(token_ids: Sequence[int], piece: bytes) -> bool:
            if token_ids:
                has_text = self.core.has_text
                text = piece.decode(errors="replace") if has_text else decoder.push(token_ids)
                arrived.put(StreamChunk(text, list(token_ids)))
            return wanted.is_set() and not RUNNING.ending

        def work() -> None:
            try:
                with RUNNING.call():
                    completion = self.core.generate(prompt_ids, params.to_core(), on_progress)
                output = self._output(completion, prompt_ids, params)
                rest = "" if self.core.has_text else decoder.flush()
                arrived.put(StreamChunk(rest, [], output.finish_reason, output))
            except BaseException as error:
                arrived.put(error)

        worker = threading.Thread(target=work, name="specrt-stream", daemon=True)
        worker.start()
        try:
            while True:
                item = arrived.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if item.output is not None:
                    return
        finally:
            wanted.clear()
            worker.join()


def _rule(name: str) -> _core.AcceptanceRule:
    if name not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, not {name!r}")
    rule: _core.AcceptanceRule = getattr(_core.AcceptanceRule, name)
    return rule


def _phases(name: str, choice: MethodChoice) -> _core.PearlPhases:
    if name not in PHASES:
        raise ValueError(f"phases must be one of {', '.join(PHASES)}, not {name!r}")
    if name != "both" and not choice.overlaps:
        raise ValueError(f'phases {name!r} belong to "pearl" methods, not {choice.method!r}')
    phases: _core.PearlPhases = getattr(_core.PearlPhases, name)
    return phases


def _tree_nodes(tree_nodes: int | None, choice: MethodChoice, rule: str) -> int:
    """Tokens of a tree at most; 0: drafts are chains. Raises ValueError."""
    if tree_nodes is None:
        follows = choice.lengths == "adaptive" and choice.prefers_trees
        return MOST_TREE_NODES if follows and choice.trees(rule) else 0
    if isinstance(tree_nodes, bool) or not isinstance(tree_nodes, int):
        raise ValueError(f"tree_nodes must be an integer, not {tree_nodes!r}")
    if not 0 <= tree_nodes <= MOST_TREE_NODES:
        raise ValueError(f"tree_nodes must be in [0, {MOST_TREE_NODES}], not {tree_nodes}")
    if tree_nodes > 0 and not choice.trees(rule):
        raise ValueError(
            'trees are drafted under the rule "exact", in turns and without a lookup, not by '
            f"{choice.method!r} under {rule!r}"
        )
    return tree_nodes


def _kept_nodes(kept_nodes: int | None, choice: MethodChoice) -> int:
    """Rows of a tree that are not pruned at most; 0: as many as fit. Raises ValueError."""
    if kept_nodes is None:
        return 0
    if isinstance(kept_nodes, bool) or not isinstance(kept_nodes, int):
        raise ValueError(f"kept_nodes must be an integer, not {kept_nodes!r}")
    if not 0 <= kept_nodes <= MOST_TREE_NODES:
        raise ValueError(f"kept_nodes must be in [0, {MOST_TREE_NODES}], not {kept_nodes}")
    if kept_nodes > 0 and choice.method != STREAMING:
        raise ValueError(f'kept_nodes belong to "streaming", not {choice.method!r}')
    return kept_nodes


def _check_draft_threads(draft_threads: int | None, threads: int) -> None:
    if draft_threads is None:
        return
    if not isinstance(draft_threads, int) or not 1 <= draft_threads < threads:
        raise ValueError(
            f"draft_threads must be at least 1 and leave the target one of {threads} threads, "
            f"not {draft_threads!r}"
        )


def _step_costs(bundle: Bundle, choice: MethodChoice, pace: Pace | None) -> _core.StepCosts:
    """What adaptive draft lengths follow from; empty for fixed ones."""
    if choice.lengths == "fixed":
        return _core.StepCosts()
    if pace is not None:
        draft_points = [(1, pace.draft_ms)] if choice.drafter is not None else []
        return _core.StepCosts([(1, pace.target_ms)], draft_points, choice.drafter in AT_ONCE)
    if bundle.curves is None:
        return _core.StepCosts()
    from specrt.eval.step_costs import step_curves

    curves = step_curves(bundle.curves, overlapped=choice.overlaps)
    draft = curves[choice.drafter].points if choice.drafter in curves else ()
    at_once = choice.drafter in AT_ONCE
    return _core.StepCosts(list(curves["target"].points), list(draft), at_once)


def _open(bundle: str | Path) -> Bundle:
    if str(bundle) == "demo":
        from specrt.demo import bundle_path

        return open_bundle(bundle_path())
    return open_bundle(bundle)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A single prompt becomes a list of one."""
    if isinstance(prompts, str):
        return [prompts]
    texts_or_ids: list[Prompt] = []
    token_ids: list[int] = []
    for item in prompts:
        if isinstance(item, SupportsIndex):
            token_ids.append(operator.index(item))
        else:
            texts_or_ids.append(item)
    if not token_ids:
        return texts_or_ids
    if texts_or_ids:
        raise ValueError("prompts mix token ids with prompts; give texts or lists of token ids")
    return [token_ids]
