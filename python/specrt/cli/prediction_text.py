"""What decoding loops should reach on this machine, in words and as JSON."""

import os
from dataclasses import asdict
from typing import Any

from specrt._core import cpu_isas, inspect_engine
from specrt.bundle import Bundle
from specrt.curves import Place, mismatch
from specrt.eval.acceptance import stored_counts
from specrt.eval.cost_model import SHARED_BUS, Overlap, shared_bus
from specrt.eval.machine import place_of
from specrt.eval.predicted_speed import PredictedSpeed, predicted_speeds
from specrt.eval.table import speedup_text, text_table
from specrt.printable import printable

_HEADS = ("method", "", "drafted", "tokens a round", "tokens/s", "measured", "off")
_SPEEDUP_HEADS = ("speed-up", "measured", "off")
_LEGEND = (
    "Predicted from the least step times, without what the loop itself takes; off: predicted over",
    "measured. speculative was measured with draft lengths that adapt. pearl on separate devices:",
    "one for each model, as fast as this one; on a shared bus: both models on this one, at best.",
)


def prediction_lines(bundle: Bundle, threads: int | None, bandwidth: float | None) -> list[str]:
    """The table of predictions, or why there is none.

    Args:
        bundle: what to predict.
        threads: cores that would be used; None: all.
        bandwidth: bytes per second that both models share; None: their step times add up.
    """
    missing = _missing(bundle, threads)
    if missing is not None:
        return [f"prediction  none: {missing}; measure with: specrt tune BUNDLE"]
    curves = bundle.curves or {}
    counts = stored_counts(curves)
    table = [[*_HEADS, *_SPEEDUP_HEADS]]
    table += [_cells(speed) for speed in predicted_speeds(curves, _one_bus(bundle, bandwidth))]
    lines = ["predicted decoding rate"]
    if counts is not None:
        by_position = " ".join(f"{share:.2f}" for share in counts.by_position().by_position)
        lines += [
            f"  acceptance {counts.rate:.2f} over {counts.tokens} tokens",
            f"  after 0, 1, ... accepted in a row: {by_position}",
        ]
    lines += [f"  {line}" for line in text_table(table, texts=2).splitlines()]
    if counts is None and bundle.has_draft:
        return [*lines, "  Acceptance was not measured; do it with: specrt tune BUNDLE"]
    return [*lines, *(f"  {line}" for line in _LEGEND if bundle.has_draft)]


def prediction_facts(
    bundle: Bundle, threads: int | None, bandwidth: float | None
) -> list[dict[str, Any]] | None:
    """The same table as JSON; None if there is none."""
    if _missing(bundle, threads) is not None:
        return None
    return [
        {
            "method": speed.method,
            "setting": speed.setting,
            **asdict(speed.prediction),
            "tokens_per_second": speed.prediction.tokens_per_second,
            "measured_tokens_per_second": speed.measured,
            "measured_speedup": speed.measured_speedup,
        }
        for speed in predicted_speeds(bundle.curves or {}, _one_bus(bundle, bandwidth))
    ]


def _missing(bundle: Bundle, threads: int | None) -> str | None:
    """Why nothing can be predicted for this machine; None if it can."""
    if bundle.curves is None:
        return "step times are not measured"
    if bundle.manifest.get("backend") == "cuda":
        return None  # which GPU is here, nobody looks
    other = mismatch(bundle.curves, _here(threads))
    return None if other is None else f"step times were measured {printable(other)}"


def _here(threads: int | None) -> Place:
    """What an LLM would run on."""
    isa = os.environ.get("SPECRT_CPU_ISA") or cpu_isas()[0]
    return place_of(f"cpu:{isa}", threads or len(os.sched_getaffinity(0)))


def _one_bus(bundle: Bundle, bandwidth: float | None) -> Overlap:
    if bandwidth is None or not bundle.has_draft:
        return SHARED_BUS
    target, draft = (
        int(inspect_engine(str(path))["step_weight_bytes"])
        for path in (bundle.target_engine, bundle.drafters["draft"])
    )
    return shared_bus(target, draft, bandwidth)


def _cells(speed: PredictedSpeed) -> list[str]:
    """A line of the table."""
    prediction = speed.prediction
    return [
        speed.method,
        speed.setting,
        str(prediction.draft_length or "-"),
        f"{prediction.tokens_per_round:.2f}",
        f"{prediction.tokens_per_second:,.0f}",
        f"{speed.measured:,.0f}" if speed.measured is not None else "-",
        _percent(speed.off),
        speedup_text(prediction.speedup),
        speedup_text(speed.measured_speedup),
        _percent(speed.speedup_off),
    ]


def _percent(off: float | None) -> str:
    return "-" if off is None else f"{100.0 * off:+.0f} %"
