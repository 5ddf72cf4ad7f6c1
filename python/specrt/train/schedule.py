"""A learning-rate schedule over wall-clock time, optimisers, and resumable checkpoints.

Training on a shared machine ends when its minutes are over, whatever the speed: progress is the
share of the minutes used, and a checkpoint carries the minutes already used.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, constant, linear decay to zero; shares are of the whole run."""

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


OPTIMIZERS = ("adamw", "muon")


class Optimizers:
    """AdamW for embedding, head and norms, the same or Muon for the matrices of the layers.

    Both follow one factor. Peak learning rates are in the scale of AdamW: the update of Muon is
    matched to it in RMS.
    """

    def __init__(
        self, model: nn.Module, matrix_lr: float, other_lr: float, matrices: str = "muon"
    ) -> None:
        """`matrices` is the optimiser of the layers' matrices, one of OPTIMIZERS."""
        inside: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, one in model.named_parameters():
            if not one.requires_grad:
                continue
            outer = one.dim() != 2 or "embed" in name or "lm_head" in name
            (others if outer else inside).append(one)
        self.parameters = inside + others
        self.peaks = (matrix_lr, other_lr)
        make = _muon if matrices == "muon" else _adamw
        self.parts = (make(inside, matrix_lr), _adamw(others, other_lr))

    def step(self, factor: float) -> float:
        """Clip, update and clear the gradients; returns their norm before clipping."""
        norm = float(nn.utils.clip_grad_norm_(self.parameters, 1.0))
        for part, peak in zip(self.parts, self.peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = peak * factor
            part.step()
            part.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """State of both optimisers, for a checkpoint."""
        return {str(index): part.state_dict() for index, part in enumerate(self.parts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for index, part in enumerate(self.parts):
            part.load_state_dict(state_dict[str(index)])


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps done, tokens seen, seconds used."""

    steps: int
    tokens: int
    used_s: float


def _muon(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Muon(parameters, lr=lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")


def _adamw(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True)


def save_checkpoint(path: Path, model: nn.Module, opts: Optimizers, progress: Progress) -> None:
    """Write everything that a restart needs; the old file stays until the new one is whole."""
    part = path.with_suffix(".part")
    torch.save(
        {
            "model": model.state_dict(),
            "optimizers": opts.state_dict(),
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
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"])
    opts.load_state_dict(saved["optimizers"])
    return Progress(saved["steps"], saved["tokens"], saved["used_s"])
