"""What the step times of a bundle predict for every decoding loop, beside what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specrt.eval.acceptance import stored_counts
from specrt.eval.cost_model import (
    SEPARATE_DEVICES,
    Overlap,
    Prediction,
    autoregressive,
    best_pearl,
    best_speculative,
    default_gamma,
    pearl,
)
from specrt.eval.step_costs import step_costs, step_curves


@dataclass(frozen=True)
class PredictedSpeed:
    """A loop, its prediction and its measurement.

    Attributes:
        method: as `LLM` takes it.
        setting: what was assumed, in words.
        prediction: tokens, time and speed.
        measured: tokens per second when the bundle was tuned; None if it was not run like that.
        measured_speedup: over autoregressive decoding, likewise.
    """

    method: str
    setting: str
    prediction: Prediction
    measured: float | None
    measured_speedup: float | None

    @property
    def off(self) -> float | None:
        """Predicted / measured rate - 1."""
        return self.prediction.tokens_per_second / self.measured - 1.0 if self.measured else None

    @property
    def speedup_off(self) -> float | None:
        """The same of the speed-ups, from which a machine that was slower by then drops out."""
        speedup = self.measured_speedup
        return self.prediction.speedup / speedup - 1.0 if speedup else None


def predicted_speeds(curves: Mapping[str, Any], one_bus: Overlap) -> list[PredictedSpeed]:
    """Every loop that `curves` of a manifest say enough about.

    Loops that draft need step times and the acceptance of a draft model. PEARL is predicted for two
    devices and for models that share `one_bus`, with the best gamma and with t_target / t_draft.

    Raises:
        Error: the curves are damaged.
    """
    speeds = [_speed(curves, "autoregressive", "", autoregressive(step_curves(curves)["target"]))]
    costs, counts = step_costs(curves), stored_counts(curves)
    if costs is None or counts is None:
        return speeds
    acceptance = counts.by_position()
    best = best_speculative(costs, acceptance)
    speeds.append(_speed(curves, "speculative", "best draft length", best))
    gamma = default_gamma(costs)
    for where, overlap in (("separate devices", SEPARATE_DEVICES), ("shared bus", one_bus)):
        for name, prediction in (
            ("best gamma", best_pearl(costs, acceptance, overlap)),
            ("default gamma", pearl(costs, acceptance, gamma, overlap)),
        ):
            known = curves if overlap is one_bus else {}  # one machine is what is measured
            speeds.append(_speed(known, "pearl", f"{where}, {name}", prediction))
    return speeds


def _speed(
    curves: Mapping[str, Any], method: str, setting: str, prediction: Prediction
) -> PredictedSpeed:
    rate, plain = _rate(curves, method), _rate(curves, "autoregressive")
    speedup = rate / plain if rate is not None and plain is not None else None
    return PredictedSpeed(method, setting, prediction, rate, speedup)


def _rate(curves: Mapping[str, Any], method: str) -> float | None:
    rates = curves.get("tokens_per_second")
    rate = rates.get(method) if isinstance(rates, Mapping) else None
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 < rate < 1e9:
        return None
    return float(rate)
