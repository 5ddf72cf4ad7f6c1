"""A stand-in for `tensorrt_llm.bindings.executor`, which needs a GPU and an engine.

It has the names and the contract of the real module as far as specrt uses them: requests with ids,
answered by a thread of the executor one after another; streaming; cancelling, which is answered
too; drafts that come with a request, at most as many as the engine was built for; as the answer to
them the drafts that hold and one token of the target's own. Where specrt breaks the contract the
answer is an error. What an engine computes is a function from a text to its next token.
"""

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

Next = Callable[[Sequence[int]], int]
STALL_SECONDS = 5.0
BLOCK = 32  # tokens whose keys and values are kept together


class ModelType(Enum):
    DECODER_ONLY = 0


@dataclass
class SamplingConfig:
    beam_width: int = 1
    top_k: int | None = None


@dataclass
class OutputConfig:
    exclude_input_from_output: bool = False


@dataclass
class ExternalDraftTokensConfig:
    tokens: list[int]
    logits: Any = None


@dataclass
class KvCacheConfig:
    enable_block_reuse: bool = True
    free_gpu_memory_fraction: float | None = None


@dataclass
class ParallelConfig:
    device_ids: list[int] | None = None


@dataclass
class ExecutorConfig:
    max_beam_width: int = 1
    kv_cache_config: KvCacheConfig = field(default_factory=KvCacheConfig)
    enable_chunked_context: bool = False
    parallel_config: ParallelConfig | None = None


@dataclass
class Request:
    input_token_ids: list[int]
    max_tokens: int
    streaming: bool = field(default=False, kw_only=True)
    sampling_config: SamplingConfig = field(default_factory=SamplingConfig, kw_only=True)
    output_config: OutputConfig = field(default_factory=OutputConfig, kw_only=True)
    end_id: int | None = field(default=None, kw_only=True)
    external_draft_tokens_config: ExternalDraftTokensConfig | None = field(
        default=None, kw_only=True
    )

    @property
    def drafts(self) -> list[int]:
        external = self.external_draft_tokens_config
        return [] if external is None else external.tokens


@dataclass
class Result:
    output_token_ids: list[list[int]]
    is_final: bool


@dataclass
class Response:
    request_id: int
    result: Result
    error_msg: str = ""

    def has_error(self) -> bool:
        return bool(self.error_msg)


class Fault(Enum):
    """Ways in which an executor may answer that are no errors."""

    NONE = "none"
    FORGETS_DRAFTS = "forgets_drafts"  # where they do not fit a step: it decodes without them
    NO_BONUS = "no_bonus"  # an answer ends with the last draft
    SHORT = "short"  # an answer to drafts ends early now and then
    SLOW = "slow"  # now and then


@dataclass
class StandIn:
    """The module. `engines` says by the name of an engine's model what it computes."""

    engines: dict[str, Next]
    fault: Fault = Fault.NONE
    broken_after: int | None = None  # requests of the target, then they are errors
    stalls: str = ""  # the engine that makes one token and then waits until it is cancelled
    executors: dict[str, "Executor"] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)  # of (engine, what), in order
    problems: list[str] = field(default_factory=list)  # answers that were errors

    ModelType = ModelType
    SamplingConfig = SamplingConfig
    OutputConfig = OutputConfig
    ExternalDraftTokensConfig = ExternalDraftTokensConfig
    KvCacheConfig = KvCacheConfig
    ParallelConfig = ParallelConfig
    ExecutorConfig = ExecutorConfig
    Request = Request

    def Executor(  # noqa: N802  # a class in the real module
        self, model_path: Path, model_type: ModelType, executor_config: ExecutorConfig
    ) -> "Executor":
        assert model_type is ModelType.DECODER_ONLY
        made = Executor(self, Path(model_path), executor_config)
        self.executors[made.name] = made
        return made


class Executor:
    """One engine and its thread."""

    def __init__(self, module: StandIn, folder: Path, config: ExecutorConfig) -> None:
        built = json.loads((folder / "config.json").read_text(encoding="utf-8"))["build_config"]
        self.name = folder.parent.name
        self.config = config
        self.requests: list[Request] = []
        self.computed: list[int] = []  # prompt tokens that no kept block had, by request
        self.is_shut_down = False
        self._module = module
        self._next = module.engines[self.name]
        self._limits = built
        self._changed = threading.Condition()
        self._queue: deque[int] = deque()
        self._cancelled: set[int] = set()
        self._answers: dict[int, list[Response]] = {}
        self._open: set[int] = set()
        self._kept: list[int] = []
        self._random = random.Random(len(self.name))
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def open_requests(self) -> int:
        """Requests whose last answer nobody has taken."""
        with self._changed:
            return len(self._open)

    def enqueue_request(self, request: Request) -> int:
        with self._changed:
            self.requests.append(request)
            number = len(self.requests)
            self._open.add(number)
            self._answers[number] = []
            self._queue.append(number)
            self._note("enqueue")
            self._changed.notify_all()
        return number

    def await_responses(self, id: int, timeout: timedelta | None = None) -> list[Response]:
        seconds = None if timeout is None else timeout.total_seconds()
        with self._changed:
            self._note("await")
            assert id in self._open, "nobody answers a request that has ended"
            self._changed.wait_for(lambda: self._answers[id], seconds)
            taken, self._answers[id] = self._answers[id], []
            if any(each.has_error() or each.result.is_final for each in taken):
                self._open.remove(id)
            return taken

    def cancel_request(self, id: int) -> None:
        with self._changed:
            self._note("cancel")
            self._cancelled.add(id)
            self._changed.notify_all()

    def shutdown(self) -> None:
        with self._changed:
            self.is_shut_down = True
            self._changed.notify_all()
        self._thread.join()

    def _note(self, what: str) -> None:
        self._module.events.append((self.name, what))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self.is_shut_down)
                if self.is_shut_down:
                    return
                number = self._queue.popleft()
            request = self.requests[number - 1]
            problem = self._problem(number, request)
            if problem:
                self._answer(Response(number, Result([[]], is_final=True), problem))
            else:
                self._run(number, request)

    def _problem(self, number: int, request: Request) -> str:
        """What the executor refuses."""
        limits, length = self._limits, len(request.input_token_ids)
        broken = self._module.broken_after
        if self.name == "target" and broken is not None and number > broken:
            return "stand-in: CUDA error"
        if not 1 <= length <= limits["max_input_len"]:
            return f"prompt of {length} tokens"
        if length + request.max_tokens > limits["max_seq_len"]:
            return f"{length} tokens and {request.max_tokens} new ones"
        if request.max_tokens < 1 or len(request.drafts) > limits["max_draft_len"]:
            return f"{request.max_tokens} new tokens, {len(request.drafts)} drafts"
        if request.sampling_config != SamplingConfig(beam_width=1, top_k=1):
            return "not greedy"
        return ""

    def _run(self, number: int, request: Request) -> None:
        text = request.input_token_ids
        self._reuse(text)
        drafts = request.drafts
        if self._module.fault is Fault.FORGETS_DRAFTS and self._random.random() < 0.5:
            drafts = []
        if drafts:
            self._answer_tokens(number, request, self._verify(text, drafts), is_final=True)
            return
        made: list[int] = []
        while len(made) < request.max_tokens:
            if self._module.fault is Fault.SLOW:
                time.sleep(self._random.random() * 0.001)
            with self._changed:
                if number in self._cancelled:
                    break
            if self._module.stalls == self.name and made and not self._is_cancelled(number):
                self._answer(Response(number, Result([[]], is_final=True), "never cancelled"))
                return
            made.append(self._next([*text, *made]))
            if request.streaming and len(made) < request.max_tokens:
                self._answer_tokens(number, request, made[-1:], is_final=False)
        is_cut = number in self._cancelled and len(made) < request.max_tokens
        rest = made[-1:] if request.streaming and not is_cut else made
        self._answer_tokens(number, request, [] if is_cut else rest, is_final=True)

    def _is_cancelled(self, number: int) -> bool:
        """Wait for it, as long as a test may take."""
        with self._changed:
            return self._changed.wait_for(lambda: number in self._cancelled, STALL_SECONDS)

    def _verify(self, text: list[int], drafts: list[int]) -> list[int]:
        """The drafts that hold, and one token behind them."""
        made: list[int] = []
        for draft in drafts:
            made.append(self._next([*text, *made]))
            if made[-1] != draft:
                return made
        if self._module.fault is not Fault.NO_BONUS:
            made.append(self._next([*text, *made]))
        if self._module.fault is Fault.SHORT and self._random.random() < 0.5:
            made = made[: self._random.randint(1, len(made))]
        return made

    def _reuse(self, text: list[int]) -> None:
        """Whole blocks of the last text that this one begins with are not computed again."""
        same = 0
        while same < min(len(text) - 1, len(self._kept)) and text[same] == self._kept[same]:
            same += 1
        self.computed.append(len(text) - same // BLOCK * BLOCK)
        self._kept = list(text)

    def _answer_tokens(
        self, number: int, request: Request, tokens: list[int], *, is_final: bool
    ) -> None:
        given = list(tokens)
        if not request.streaming and not request.output_config.exclude_input_from_output:
            given = request.input_token_ids + given
        self._answer(Response(number, Result([given], is_final)))

    def _answer(self, response: Response) -> None:
        with self._changed:
            if response.has_error():
                self._module.problems.append(response.error_msg)
            self._answers[response.request_id].append(response)
            self._changed.notify_all()
