"""Greedy decoding over TensorRT-LLM engines: alone, with drafts in turns, or at the same time.

Every token that is returned was chosen by the target's engine, in an answer to a text that the
target chose before; what the draft model says only decides how many tokens one answer has. So the
output is that of the target alone, as far as its engine computes the same whatever it verifies at
once, which is TensorRT-LLM's to say: its kernels are not specrt's.

    speculative  the draft model drafts, then the target verifies (Leviathan et al., 2211.17192)
    pearl        while the target verifies a draft, the draft model goes on behind it (Liu et al.,
                 2408.11850). Where nothing is drafted yet, the target makes one token meanwhile,
                 which judges the first drafted one: pre-verify and post-verify in one rule.

On one GPU the two engines of PEARL compete for it; a gain needs a GPU for each.
"""

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

from specrt._core import Error
from specrt.build.bundle import MANIFEST, TENSORRT_LLM_FORMAT
from specrt.build.json_file import read_json
from specrt.trtllm.builder import ENGINE, FORMAT_VERSION
from specrt.trtllm.executor import Answer, Engine, Placement, load_bindings
from specrt.trtllm.roles import Role

METHODS = ("autoregressive", "speculative", "pearl")


class Round(NamedTuple):
    """One request of the target: tokens that it verified, that held, and that it gave."""

    drafted: int
    accepted: int
    committed: int


@dataclass
class Output:
    """What was generated. An end token is the last of `token_ids`."""

    token_ids: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] = "length"
    rounds: list[Round] = field(default_factory=list)


class Generator:
    """Generates one text at a time; calls from several threads wait for each other.

    `draft` None: only "autoregressive". `num_speculative_tokens` None: as many as the target's
    engine verifies. Raises ValueError.
    """

    def __init__(
        self,
        target: Engine,
        draft: Engine | None = None,
        *,
        method: str = "speculative",
        num_speculative_tokens: int | None = None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
        most = target.shape.max_draft_len
        count = most if num_speculative_tokens is None else num_speculative_tokens
        if method != "autoregressive":
            if draft is None:
                raise ValueError(f"method {method!r} needs the engine of a draft model")
            if draft.shape.vocab != target.shape.vocab:
                raise ValueError(f"{draft} and {target} have different vocabularies")
            if not 1 <= count <= most:
                raise ValueError(f"{target} was built for 1 to {most} drafted tokens, not {count}")
        self.method = method
        self.num_speculative_tokens = count
        self._target = target
        self._draft = draft
        self._lock = threading.Lock()

    def __enter__(self) -> "Generator":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the engines."""
        for engine in self._engines():
            engine.close()

    def generate(
        self, prompt: Sequence[int], max_tokens: int, end_tokens: Collection[int] = ()
    ) -> Output:
        """Generate up to `max_tokens` behind a prompt, or to the first of `end_tokens`.

        Raises ValueError if it does not fit into the target's engine, Error if an engine fails.
        """
        shape = self._target.shape
        if not prompt or max_tokens < 1:
            raise ValueError("a prompt and max_tokens must be of at least one token")
        # The last request has a prompt without the last token.
        room = min(shape.max_seq_len, shape.max_input_len + 1)
        if len(prompt) + max_tokens > room:
            raise ValueError(
                f"{len(prompt)} tokens of prompt and {max_tokens} new ones are more than the "
                f"{room} that {self._target} holds"
            )
        if not all(0 <= token < shape.vocab for token in prompt):
            raise ValueError(f"a token of the prompt is not below {shape.vocab}")
        with self._lock:
            try:
                run = _Run(list(prompt), max_tokens, frozenset(end_tokens))
                self._decode(run)
            finally:
                for engine in self._engines():
                    engine.settle()
        return run.output

    def _engines(self) -> list[Engine]:
        return [self._target] if self._draft is None else [self._target, self._draft]

    def _decode(self, run: "_Run") -> None:
        if self.method == "autoregressive" or self._draft is None:
            answer = self._target.begin(run.text, run.remaining)
            while run.remaining:
                count = len(run.output.token_ids)
                run.commit(answer.first(count + 1)[count:], 0)
            return
        pending: list[int] = []  # drafted, to be verified next
        while run.remaining:
            if self.method == "speculative":
                self._take_turns(self._draft, run)
            else:
                pending = self._overlap(self._draft, run, pending)

    def _begin_draft(self, draft: Engine, run: "_Run", behind: Sequence[int]) -> Answer | None:
        """Begin to draft behind the text and `behind`, as far as it can be of use."""
        text = [*run.text, *behind]
        room = min(draft.shape.max_seq_len, draft.shape.max_input_len + 1) - len(text)
        count = min(self.num_speculative_tokens, run.remaining - len(behind) - 1, room)
        return draft.begin(text, count) if count > 0 else None

    def _take_turns(self, draft: Engine, run: "_Run") -> None:
        """Draft, then verify."""
        drafting = self._begin_draft(draft, run, ())
        drafts = [] if drafting is None else drafting.all()
        answer = self._target.begin(run.text, len(drafts) + 1, drafts).all()
        run.commit(answer, len(drafts), _common(answer, drafts))

    def _overlap(self, draft: Engine, run: "_Run", pending: list[int]) -> list[int]:
        """Verify `pending` and draft what comes behind it; returns what is to be verified next."""
        pending = pending[: self._target.shape.max_draft_len]
        verifying = self._target.begin(run.text, len(pending) + 1, pending)
        drafting = self._begin_draft(draft, run, pending)
        answer = verifying.all()
        held = _common(answer, pending)
        further = answer[len(pending) :]  # judges the first of what was drafted meanwhile
        judged, window = len(pending), []
        if drafting is not None:
            goes_on = held == min(len(answer), len(pending))
            if goes_on and drafting.first(len(further))[: len(further)] == further:
                window = drafting.all()
            else:
                drafting.cancel()
            judged += len(further)
            held = _common(answer, [*pending, *window])
        run.commit(answer, judged, held)
        return [*pending, *window][len(answer) :] if held == len(answer) else []


class _Run:
    """A text that grows."""

    def __init__(self, text: list[int], remaining: int, ends: frozenset[int]) -> None:
        self.text = text
        self.remaining = remaining
        self.output = Output()
        self._ends = ends

    def commit(self, answer: Sequence[int], drafted: int, accepted: int = 0) -> None:
        """Take what the target answered, up to an end of the text. Raises Error for no answer."""
        if not answer or len(answer) > self.remaining:
            raise Error(f"the target answered {len(answer)} tokens, and {self.remaining} were due")
        taken = list(answer)
        for at, token in enumerate(answer):
            if token in self._ends:
                taken = taken[: at + 1]
                self.output.finish_reason = "stop"
                break
        self.text += taken
        self.output.token_ids += taken
        self.output.rounds.append(Round(drafted, min(accepted, len(taken)), len(taken)))
        self.remaining = 0 if self.output.finish_reason == "stop" else self.remaining - len(taken)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first tokens are the same."""
    count = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        count += 1
    return count


def open_generator(
    folder: str | Path,
    *,
    method: str | None = None,
    num_speculative_tokens: int | None = None,
    target_device: int | None = None,
    draft_device: int | None = None,
) -> Generator:
    """Open what `specrt build --backend tensorrt-llm` built, in TensorRT-LLM's environment.

    `method` None: "speculative" where there is a draft model. Raises PreflightError, BuildError,
    ValueError, and Error for a folder that has no engines for it.
    """
    root = Path(folder)
    manifest = read_json(root / MANIFEST)
    if (manifest.get("format"), manifest.get("format_version")) != (
        TENSORRT_LLM_FORMAT,
        FORMAT_VERSION,
    ):
        raise Error(f"{root} was not built by this specrt with --backend tensorrt-llm")
    roles = {entry["name"]: entry["role"] for entry in manifest["models"]}
    runnable = {Role.AUTOREGRESSIVE.value, Role.TARGET.value}
    if roles.get("target") not in runnable:
        raise Error(
            f"{root} has a target for {roles.get('target')}; specrt runs draft models beside a "
            f"target, TensorRT-LLM's own LLM API runs {roles.get('target')}"
        )
    if any(entry["engine"] is None for entry in manifest["models"]):
        raise Error(f"{root} has checkpoints without engines; build them without --checkpoint-only")
    method = method or ("speculative" if "draft" in roles else "autoregressive")
    uses_draft = "draft" in roles and method != "autoregressive"
    bindings = load_bindings()
    # One after another: the second takes of what the first leaves, if both are on one GPU.
    shares_gpu = uses_draft and target_device == draft_device
    placement = Placement(0.6 if shares_gpu else 0.9, target_device)
    target = Engine(bindings, root / "target" / ENGINE, placement)
    draft = None
    if uses_draft:
        draft = Engine(bindings, root / "draft" / ENGINE, Placement(0.9, draft_device))
    return Generator(target, draft, method=method, num_speculative_tokens=num_speculative_tokens)
