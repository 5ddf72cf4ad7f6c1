"""A learning-rate schedule over wall-clock time, optimisers, and resumable checkpoints.

Training on a shared machine ends when its minutes are over, whatever the speed: progress is the
share of the minutes used, and a checkpoint carries the minutes already used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, constant, linear decay to zero; shares are of the whole budget."""

    minutes: float
    warm_share: float
    decay_share: float

    def factor(self, progress: float) -> float:
        """Learning-rate factor at a progress of 0 to 1."""
        warm = min(1.0, progress / self.warm_share) if self.warm_share else 1.0
        decay = min(1.0, max(0.0, 1.0 - progress) / self.decay_share)
        return max(min(warm, decay), 1e-3)


class Clock:
    """Minutes used, over restarts; time that the process was paused counts."""

    def __init__(self, minutes: float, used_s: float) -> None:
        """A budget of `minutes`, of which `used_s` seconds are gone."""
        self.budget_s = minutes * 60.0
        self.origin = time.monotonic() - used_s

    def used_s(self) -> float:
        """Seconds used so far."""
        return time.monotonic() - self.origin

    def progress(self) -> float:
        """Share of the budget used, at most 1."""
        return min(1.0, self.used_s() / self.budget_s)


class Optimizers:
    """Muon for the matrices of the layers, AdamW for embedding and norms, under one factor."""

    def __init__(self, model: nn.Module, matrix_lr: float, other_lr: float) -> None:
        """Peak learning rates; Muon's is in the scale of AdamW (its update is matched in RMS)."""
        named = list(model.named_parameters())
        matrices = [p for name, p in named if p.dim() == 2 and "embed" not in name]
        others = [p for name, p in named if p.dim() != 2 or "embed" in name]
        self.parameters = matrices + others
        self.peaks = (matrix_lr, other_lr)
        self.parts: Sequence[torch.optim.Optimizer] = (
            torch.optim.Muon(
                matrices, lr=matrix_lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(
                others, lr=other_lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True
            ),
        )

    def step(self, factor: float) -> float:
        """Clip, update and clear the gradients; returns their norm before clipping."""
        norm = float(nn.utils.clip_grad_norm_(self.parameters, 1.0))
        for part, peak in zip(self.parts, self.peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = peak * factor
            part.step()
            part.zero_grad(set_to_none=True)
        return norm

    def state(self) -> list[dict[str, Any]]:
        """State of both optimisers, for a checkpoint."""
        return [part.state_dict() for part in self.parts]

    def load_state(self, states: Sequence[dict[str, Any]]) -> None:
        """Restore what `state` gave."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps done, tokens seen, seconds used."""

    steps: int
    tokens: int
    used_s: float


def save_checkpoint(path: Path, model: nn.Module, opts: Optimizers, progress: Progress) -> None:
    """Write everything that a restart needs; the old file stays until the new one is whole."""
    part = path.with_suffix(".part")
    torch.save(
        {
            "model": model.state_dict(),
            "optimizers": opts.state(),
            "steps": progress.steps,
            "tokens": progress.tokens,
            "used_s": progress.used_s,
        },
        part,
    )
    part.replace(path)


def load_checkpoint(path: Path, model: nn.Module, opts: Optimizers) -> Progress:
    """Restore model and optimisers from `path` if it exists, and say where the run stood."""
    if not path.exists():
        return Progress(0, 0, 0.0)
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    opts.load_state(saved["optimizers"])
    return Progress(saved["steps"], saved["tokens"], saved["used_s"])
