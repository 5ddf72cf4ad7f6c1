"""One engine of TensorRT-LLM as specrt sees it: requests that begin now and are waited for later.

TensorRT-LLM's executor runs requests in a thread of its own. A round of drafting or verifying is a
new request with the whole text as its prompt; blocks of the KV cache are used again for what texts
share, so that little is computed twice and what was refused needs no rollback. The drafts that a
target verifies come with the request, at most as many as its engine was built for. The answer is
the drafts that the target would have chosen, and one token of its own behind them.

`bindings` is the module `tensorrt_llm.bindings.executor` of TensorRT-LLM 1.0 to 1.2, whose names
come from its source. It has not been run by this project yet.
"""

import importlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from specrt._core import Error
from specrt.build.fields import Fields
from specrt.build.hf import CONFIG
from specrt.build.json_file import read_json
from specrt.trtllm import preflight

_PATIENCE = timedelta(seconds=0.5)  # of one wait, so that interrupts get through
_MOST = 1 << 22


def load_bindings() -> Any:
    """Import TensorRT-LLM's executor, where it can run.

    Without a GPU the import itself may end the process, so the machine is looked at before, by a
    process of its own. Raises PreflightError.
    """
    preflight.check_runtime(preflight.look(sys.executable))
    return importlib.import_module("tensorrt_llm.bindings.executor")


@dataclass(frozen=True)
class EngineShape:
    """What an engine was built for."""

    vocab: int
    max_input_len: int
    max_seq_len: int
    max_draft_len: int  # 0: it verifies nothing


def read_shape(folder: Path) -> EngineShape:
    """Read an engine's config.json. Raises BuildError, and Error for engines of several ranks."""
    path = folder / CONFIG
    config = read_json(path)
    model = Fields(f"{path}: pretrained_config", config.get("pretrained_config") or {})
    built = Fields(f"{path}: build_config", config.get("build_config") or {})
    mapping = Fields(model.origin, model.values.get("mapping") or {})
    ranks = mapping.integer("world_size", 64, 1)
    if ranks > 1:
        raise Error(
            f"{folder} has {ranks} ranks; specrt runs engines of one rank. Run it with "
            "TensorRT-LLM under MPI, or build it with --tensor-parallel 1"
        )
    return EngineShape(
        vocab=model.integer("vocab_size", _MOST),
        max_input_len=built.integer("max_input_len", _MOST),
        max_seq_len=built.integer("max_seq_len", _MOST),
        max_draft_len=int(built.values.get("max_draft_len") or 0),
    )


@dataclass(frozen=True)
class Placement:
    """Where an engine runs."""

    memory_fraction: float  # of the GPU's free memory, for the KV cache
    device: int | None = None  # None: TensorRT-LLM's choice


class Answer:
    """The tokens of one request as they come."""

    def __init__(self, engine: "Engine", request_id: int) -> None:
        self.request_id = request_id
        self._engine = engine
        self._tokens: list[int] = []
        self.is_final = False

    def first(self, count: int) -> list[int]:
        """Wait for `count` tokens, or for the end; all that came. Raises Error."""
        while not self.is_final and len(self._tokens) < count:
            self._receive()
        return self._tokens

    def all(self) -> list[int]:
        """Wait for the end; all tokens. Raises Error."""
        while not self.is_final:
            self._receive()
        return self._tokens

    def cancel(self) -> None:
        """End the request; its last answer is taken by `Engine.settle`."""
        if not self.is_final:
            self._engine.executor.cancel_request(self.request_id)

    def _receive(self) -> None:
        responses = self._engine.executor.await_responses(self.request_id, timeout=_PATIENCE)
        for response in responses:
            if response.has_error():
                self.is_final = True
                self._engine.forget(self)
                raise Error(
                    f"TensorRT-LLM refused a request of {self._engine}: {response.error_msg}"
                )
            self._tokens += response.result.output_token_ids[0]
            self.is_final = bool(response.result.is_final)
        if self.is_final:
            self._engine.forget(self)


class Engine:
    """One executor with beam width 1 and greedy requests. Not for several threads."""

    def __init__(self, bindings: Any, folder: Path, placement: Placement) -> None:
        self.shape = read_shape(folder)
        self._bindings = bindings
        self._folder = folder
        self._open: dict[int, Answer] = {}
        parallel = None
        if placement.device is not None:
            parallel = bindings.ParallelConfig(device_ids=[placement.device])
        cache = bindings.KvCacheConfig(
            enable_block_reuse=True, free_gpu_memory_fraction=placement.memory_fraction
        )
        config = bindings.ExecutorConfig(
            max_beam_width=1,
            kv_cache_config=cache,
            enable_chunked_context=True,
            parallel_config=parallel,
        )
        kind = bindings.ModelType.DECODER_ONLY
        self.executor = bindings.Executor(folder, kind, config)

    def __str__(self) -> str:
        return str(self._folder)

    def begin(self, text: Sequence[int], count: int, drafts: Sequence[int] = ()) -> Answer:
        """Ask for `count` tokens behind `text`; a target verifies `drafts`, which come first.

        Without drafts tokens come one by one. No end of text is told to the executor: what comes
        behind one is cut off by the caller.
        """
        external = None
        if drafts:
            external = self._bindings.ExternalDraftTokensConfig(tokens=list(drafts))
        request = self._bindings.Request(
            input_token_ids=list(text),
            max_tokens=count,
            streaming=not drafts,
            sampling_config=self._bindings.SamplingConfig(beam_width=1, top_k=1),
            output_config=self._bindings.OutputConfig(exclude_input_from_output=True),
            external_draft_tokens_config=external,
        )
        answer = Answer(self, self.executor.enqueue_request(request))
        self._open[answer.request_id] = answer
        return answer

    def forget(self, answer: Answer) -> None:
        """Note that a request has ended."""
        self._open.pop(answer.request_id, None)

    def settle(self) -> None:
        """Cancel all requests and wait until they have ended."""
        answers = list(self._open.values())
        for answer in answers:
            answer.cancel()
        for answer in answers:
            with suppress(Error):  # of tokens that nobody waits for
                answer.all()

    def close(self) -> None:
        """Free the GPU's memory."""
        self.executor.shutdown()
