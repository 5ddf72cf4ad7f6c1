"""How much of the drafting was hidden behind steps of the target."""

from bisect import bisect_left
from collections.abc import Sequence

from specrt.outputs import Step


def draft_overlap(requests: Sequence[Sequence[Step]]) -> float | None:
    """Share of the draft steps' time that lies under a step of the target; None without drafts.

    Args:
        requests: the steps of each request. Those of one role follow each other.
    """
    drafting = overlapped = 0.0
    for steps in requests:
        target = sorted((s.begin_ms, s.end_ms) for s in steps if s.role == "target")
        ends = [end for _, end in target]
        for step in (s for s in steps if s.role == "draft"):
            drafting += step.end_ms - step.begin_ms
            for begin, end in target[bisect_left(ends, step.begin_ms) :]:
                if begin >= step.end_ms:
                    break
                overlapped += min(step.end_ms, end) - max(step.begin_ms, begin)
    return overlapped / drafting if drafting > 0.0 else None
