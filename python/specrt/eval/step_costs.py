"""Step times of a target and its draft model by rows, as a manifest keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specrt._core import Error
from specrt.methods import DRAFTERS

_MOST_ROWS = 64  # of a step


@dataclass(frozen=True)
class StepCurve:
    """Milliseconds of a step by its rows, measured at some row counts.

    Attributes:
        points: (rows, ms), rows ascending, at least one.
    """

    points: tuple[tuple[int, float], ...]

    def at(self, rows: int) -> float:
        """Milliseconds at `rows`: linear between measured counts, level outside of them."""
        below, below_ms = self.points[0]
        if rows <= below:
            return below_ms
        for above, above_ms in self.points[1:]:
            if rows <= above:
                return below_ms + (above_ms - below_ms) * (rows - below) / (above - below)
            below, below_ms = above, above_ms
        return below_ms


@dataclass(frozen=True)
class StepCosts:
    """Step curves of a target and its draft model."""

    target: StepCurve
    draft: StepCurve


def step_curve(step_ms: object) -> StepCurve:
    """The curve of a manifest's {"rows": milliseconds}. Raises Error if it is damaged."""
    try:
        if not isinstance(step_ms, Mapping) or not step_ms:
            raise ValueError("no step times")
        points = sorted((int(rows), float(ms)) for rows, ms in step_ms.items())
        if not 1 <= points[0][0] <= points[-1][0] <= _MOST_ROWS:
            raise ValueError(f"rows must be in [1, {_MOST_ROWS}]")
        if not all(0.0 < ms < float("inf") for _, ms in points):
            raise ValueError("milliseconds must be positive")
    except (TypeError, ValueError, OverflowError) as error:
        raise Error(
            f"the step times in the manifest are damaged ({error}); "
            "measure them again with: specrt tune BUNDLE"
        ) from None
    return StepCurve(tuple(points))


def step_curves(curves: Mapping[str, Any], *, overlapped: bool = False) -> dict[str, StepCurve]:
    """Curves by role, "target" and those of drafters, of a manifest. Raises Error if damaged.

    Args:
        curves: what the manifest keeps.
        overlapped: as steps are when the models divide the cores; without such a measurement, as
            they are otherwise.
    """
    step_ms = curves.get("overlapped_step_ms" if overlapped else "step_ms") or curves.get("step_ms")
    roles: Mapping[str, Any] = step_ms if isinstance(step_ms, Mapping) else {}
    found = {"target": step_curve(roles.get("target"))}
    return found | {name: step_curve(roles[name]) for name in DRAFTERS if name in roles}


def step_costs(curves: Mapping[str, Any]) -> StepCosts | None:
    """The costs in a manifest's `curves`; None without a draft. Raises Error if damaged."""
    found = step_curves(curves)
    return StepCosts(found["target"], found["draft"]) if "draft" in found else None
