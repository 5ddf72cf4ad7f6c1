"""Hugging Face transformers on the shapes that the CUDA backend is measured on.

    python tools/gpu/peers.py --shapes 1b,8b

Random bf16 weights, made on the device. Two ways to run: eager with a dynamic cache, and a static
cache under torch.compile with CUDA graphs. Prints readings as lines of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu.predictions import SHAPES, Shape

_TINY = Shape(dim=64, layers=2, ffn=96, heads=4, kv_heads=2, head_dim=16, vocab=128)
_SAMPLES, _BATCH, _WARM_UPS = 7, 10, 3


class Bench:
    """One model and its cached context."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.shape = SHAPES.get(name, _TINY)
        self.context = 1024 if name in SHAPES else 32
        self.device = device
        self.model = self._model()

    def _model(self) -> Any:
        shape = self.shape
        config = transformers.LlamaConfig(
            hidden_size=shape.dim,
            num_hidden_layers=shape.layers,
            intermediate_size=shape.ffn,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            vocab_size=shape.vocab,
            max_position_embeddings=4 * self.context,
            tie_word_embeddings=self.name == "1b",
        )
        with torch.device(self.device):
            model: Any = transformers.LlamaForCausalLM(config)
        return model.to(torch.bfloat16).eval()

    def tokens(self, count: int) -> torch.Tensor:
        """Random tokens of one sequence."""
        return torch.randint(self.shape.vocab, (1, count), device=self.device)

    def step_bytes(self) -> float:
        """Bytes that a step of one row must move."""
        matrices = self.shape.matrices()
        head = matrices.pop("head")
        layer = sum(matrices.values()) + self.shape.kv_bytes(self.context)
        return float(self.shape.layers * layer + head)

    def time_ms(self, run: Callable[[], object], batch: int) -> float:
        """Median time of one run, in batches."""
        times = []
        for _ in range(_SAMPLES):
            self._wait()
            begin = time.perf_counter()
            for _ in range(batch):
                run()
            self._wait()
            times.append(1e3 * (time.perf_counter() - begin) / batch)
        return median(times[1:])

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def print(self, name: str, value: float, size: float) -> None:
        """A reading."""
        row = {"name": f"hf.{self.name}.{name}", "value": value, "unit": "ms", "bytes": size}
        print(json.dumps(row), flush=True)

    def eager(self, rows: int) -> None:
        """Steps with a dynamic cache, which is cut back after each."""
        cache = transformers.DynamicCache(config=self.model.config)
        self.model(self.tokens(self.context), past_key_values=cache, use_cache=True)
        ids = self.tokens(rows)

        def step() -> None:
            self.model(ids, past_key_values=cache, use_cache=True)
            cache.crop(-rows)

        self.print(f"eager.r{rows}", self.time_ms(step, _BATCH), self.step_bytes())

    def compiled(self, rows: int) -> None:
        """Steps with a static cache under torch.compile; each goes behind the one before it."""
        room = self.context + (_WARM_UPS + _SAMPLES) * rows
        cache = transformers.StaticCache(config=self.model.config, max_cache_len=room)
        self.model(self.tokens(self.context), past_key_values=cache, use_cache=True)
        ids = self.tokens(rows)
        forward: Any = torch.compile(self.model.forward, mode="reduce-overhead")

        def step() -> None:
            forward(ids, past_key_values=cache, use_cache=True)

        for _ in range(_WARM_UPS):
            step()
        self.print(f"compiled.r{rows}", self.time_ms(step, 1), self.step_bytes())

    def prefill(self) -> None:
        """A prompt of 1024 tokens."""
        ids = self.tokens(self.context)
        time_ms = self.time_ms(lambda: self.model(ids, use_cache=True, logits_to_keep=1), 1)
        self.print(f"prefill.t{self.context}", time_ms, 0.0)


def main() -> int:
    """Measures the shapes one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", default="1b,8b")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(1)
    with torch.inference_mode():
        for name in parser.parse_args().shapes.split(","):
            bench = Bench(name, device)
            for rows in (1, 8):
                bench.eager(rows)
            bench.prefill()
            for rows in (1, 8):
                bench.compiled(rows)
            del bench
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
