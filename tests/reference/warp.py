"""Warping of logits: temperature, then top-k, then top-p, then min-p, in this order.

Sources: top-k, Fan, Lewis, Dauphin 2018 (arXiv 1805.04833); top-p (nucleus), Holtzman et al. 2020
(arXiv 1904.09751), section 3.1; min-p, Nguyen et al. 2024 (arXiv 2407.01082), section 3.
Each step works on the survivors of the one before. Ties are broken by the lower token id.
"""

from dataclasses import dataclass

import numpy as np

from .arrays import Doubles, Floats, Ints, Masks


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. The defaults are plain sampling; temperature 0 is greedy."""

    temperature: float = 1.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    min_p: float = 0.0  # 0: off

    def __post_init__(self) -> None:
        """Refuse values that have no meaning."""
        if not 0 <= self.temperature < np.inf:
            raise ValueError(f"temperature {self.temperature} is not a finite number >= 0")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} is negative")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} is not in (0, 1]")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p {self.min_p} is not in [0, 1]")


GREEDY = Sampling(temperature=0.0)


def log_softmax(x: Floats) -> Doubles:
    """log(exp(x) / sum exp(x)) over the last axis, in float64. -inf stays -inf."""
    x = np.asarray(x, dtype=np.float64)
    shifted = x - x.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def ranking(row: Doubles) -> Ints:
    """Token ids by value, largest first; equal values by lower id first."""
    return np.argsort(-row, kind="stable")


def keep_top_k(row: Doubles, k: int) -> Masks:
    """Keep the k largest entries of (v,)."""
    keep = np.zeros(row.shape, dtype=np.bool_)
    keep[ranking(row)[: k if k > 0 else row.size]] = True
    return keep


def keep_top_p(row: Doubles, p: float) -> Masks:
    """Keep the smallest leading part of the ranking whose probability reaches p.

    The token that crosses p is kept. Probabilities are those of `row` renormalised.
    """
    order = ranking(row)
    reached = np.cumsum(np.exp(log_softmax(row[order])))
    count = row.size if p >= 1 else int(np.searchsorted(reached, p)) + 1
    keep = np.zeros(row.shape, dtype=np.bool_)
    keep[order[:count]] = True
    return keep


def keep_min_p(row: Doubles, p: float) -> Masks:
    """Keep entries whose probability is at least p times the largest one."""
    return np.asarray(np.exp(row - row.max()) >= p)


def warped_logits(row: Floats, sampling: Sampling) -> Doubles:
    """Survivors of one row (v,) as logit / T, -inf elsewhere; temperature must be > 0."""
    scaled = np.asarray(row, dtype=np.float64) / sampling.temperature
    scaled = np.where(keep_top_k(scaled, sampling.top_k), scaled, -np.inf)
    scaled = np.where(keep_top_p(scaled, sampling.top_p), scaled, -np.inf)
    return np.where(keep_min_p(scaled, sampling.min_p), scaled, -np.inf)


def warp(logits: Floats, sampling: Sampling) -> Doubles:
    """Log-probabilities (..., v) of the warped distribution of logits (..., v); -inf if removed.

    Temperature 0 gives 0 for the argmax (lowest id on ties) and -inf elsewhere.
    """
    rows = np.asarray(logits, dtype=np.float64)
    if sampling.temperature == 0:
        best = rows.argmax(axis=-1)[..., None]
        return np.where(np.arange(rows.shape[-1]) == best, 0.0, -np.inf)
    flat = rows.reshape(-1, rows.shape[-1])
    warped = np.stack([log_softmax(warped_logits(row, sampling)) for row in flat])
    return np.asarray(warped.reshape(rows.shape))
