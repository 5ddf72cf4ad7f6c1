"""Transformers in f32 and bf16: plain greedy `generate`, assisted generation, prompt lookup.

Eager PyTorch with its default attention; `torch.compile` is not used.
"""

from __future__ import annotations

import copy
import platform
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from transformers.generation.streamers import BaseStreamer

from specrt.eval.peers.prompts import Text
from specrt.eval.peers.records import (
    Generation,
    NotMeasured,
    Peer,
    Prompt,
    Settings,
    StepTime,
    Variant,
)

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}

_Drafting = dict[str, Any]  # arguments of `generate` that say how to draft


class _Clock(BaseStreamer):
    """Notes when each run of tokens arrives; the first `put` is the prompt itself."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.sizes: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())
        self.sizes.append(value.numel())

    def end(self) -> None:
        pass


def measure_hf(
    model: Path, draft: Path | None, text: Text, settings: Settings, dtypes: tuple[str, ...]
) -> Peer:
    """Variants and step times of transformers for each of `dtypes` (`f32`, `bf16`)."""
    torch.set_num_threads(settings.threads)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    variants: list[Variant] = []
    steps: list[StepTime] = []
    missing: list[NotMeasured] = []
    if draft is None:
        missing.append(NotMeasured("hf", "assisted", "no --draft given"))
    for dtype in dtypes:
        target = _load(model, dtype)
        steps += [_step(target, dtype, rows, settings) for rows in settings.step_rows]
        for label, drafting in _draftings(draft, dtype, settings.draft_lengths).items():
            run = partial(_generate, target, drafting, text, settings.max_new_tokens)
            variants.append(Variant("hf", f"{label} {dtype}", f"plain {dtype}", run))
    facts = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "torch threads": str(torch.get_num_threads()),
        "torch CPU capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
    }
    return Peer(variants, steps, missing, facts)


def _load(folder: Path, dtype: str) -> Any:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=_DTYPES[dtype])
    return model.eval()


def _draftings(draft: Path | None, dtype: str, lengths: tuple[int, ...]) -> dict[str, _Drafting]:
    """Every way to draft by its label. Prompt lookup matches the last two tokens, or one."""
    ways: dict[str, _Drafting] = {"plain": {}}
    ways |= {f"prompt-lookup {length}": {"prompt_lookup_num_tokens": length} for length in lengths}
    if draft is not None:
        assistant = _load(draft, dtype)
        ways["assisted default"] = {"assistant_model": assistant}
        for length in lengths:
            fixed = _with_draft_length(assistant, length)
            ways[f"assisted {length}"] = {"assistant_model": fixed}
    return ways


def _with_draft_length(assistant: Any, length: int) -> Any:
    """The same weights with a constant number of drafted tokens and no confidence threshold."""
    fixed = copy.copy(assistant)
    fixed.generation_config = copy.deepcopy(assistant.generation_config)
    fixed.generation_config.num_assistant_tokens = length
    fixed.generation_config.num_assistant_tokens_schedule = "constant"
    fixed.generation_config.assistant_confidence_threshold = 0.0
    return fixed


def _generate(
    target: Any, drafting: _Drafting, text: Text, max_new_tokens: int, prompt: Prompt
) -> Generation:
    ids = torch.tensor([prompt.token_ids])
    clock = _Clock()
    begin = time.perf_counter()
    with torch.inference_mode():
        out = target.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            streamer=clock,
            **drafting,
        )
    end = time.perf_counter()
    new = out[0, ids.shape[1] :].tolist()
    first = clock.times[1]
    return Generation(
        text=text.decode(new),
        tokens=len(new),
        prefill_s=first - begin,
        decode_s=end - first,
        decode_tokens=len(new) - clock.sizes[1],
        rounds=len(clock.sizes) - 2,
    )


def _step(target: Any, dtype: str, rows: int, settings: Settings) -> StepTime:
    """Forwards of `rows` tokens behind `step_depth` cached ones; rows == 1 walks on greedily."""
    vocab = int(target.config.vocab_size)
    generator = torch.Generator().manual_seed(0)
    cache = transformers.DynamicCache(config=target.config)
    count = settings.step_tokens if rows == 1 else settings.step_repeats
    times = []
    with torch.inference_mode():
        if settings.step_depth:
            ids = torch.randint(vocab, (1, settings.step_depth), generator=generator)
            target(ids, past_key_values=cache, use_cache=True)
        for _ in range(count + 3):
            ids = torch.randint(vocab, (1, rows), generator=generator)
            begin = time.perf_counter()
            target(ids, past_key_values=cache, use_cache=True)
            times.append(time.perf_counter() - begin)
            if rows > 1:
                cache.crop(-rows)
    return StepTime("hf", dtype, rows, settings.step_depth, 1e3 * median(times[3:]))
