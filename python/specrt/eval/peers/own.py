"""specrt itself, through its public Python API, on a bundle built from the same weights."""

from functools import partial
from pathlib import Path
from statistics import median

import specrt
from specrt import LLM, SamplingParams, _core
from specrt.eval.peers.prompts import Text
from specrt.eval.peers.records import (
    Generation,
    NotMeasured,
    Peer,
    PeerError,
    Prompt,
    Settings,
    StepTime,
    Variant,
)

PLAIN = "autoregressive"


def measure_own(bundle: Path, text: Text, settings: Settings, methods: tuple[str, ...]) -> Peer:
    """Variants for each of `methods`, and the target's step times.

    Raises:
        PeerError: the bundle cannot be loaded.
    """
    params = SamplingParams(temperature=0.0, max_tokens=settings.max_new_tokens)
    variants: list[Variant] = []
    missing: list[NotMeasured] = []
    steps: list[StepTime] = []
    facts = {"specrt": specrt.__version__}
    for method in dict.fromkeys((PLAIN, *methods)):
        try:
            llm = LLM(bundle, method, threads=settings.threads, enable_prefix_caching=False)
        except (ValueError, specrt.Error) as error:
            missing.append(NotMeasured("specrt", method, str(error)))
            continue
        label = method if method == PLAIN else f"{method} k<={llm.num_speculative_tokens}"
        variants.append(Variant("specrt", label, PLAIN, partial(_generate, llm, params, text)))
        if method == PLAIN:
            facts["backend"] = llm.core.backend
            steps += [_step(llm, rows, settings) for rows in settings.step_rows]
    if not variants:
        raise PeerError("; ".join(item.reason for item in missing))
    return Peer(variants, steps, missing, facts)


def _generate(llm: LLM, params: SamplingParams, text: Text, prompt: Prompt) -> Generation:
    [output] = llm.generate([prompt.token_ids], params)
    metrics = output.metrics
    speculation = metrics.speculative_decoding
    return Generation(
        text=text.decode(output.token_ids),
        tokens=len(output.token_ids),
        prefill_s=metrics.ttft_ms / 1e3,
        decode_s=(metrics.total_ms - metrics.ttft_ms) / 1e3,
        decode_tokens=len(output.token_ids) - 1,
        rounds=len(metrics.rounds),
        drafted=speculation.num_draft_tokens if speculation else None,
        accepted=speculation.num_accepted_draft_tokens if speculation else None,
    )


def _step(llm: LLM, rows: int, settings: Settings) -> StepTime:
    """Median of single steps, as the other peers' times are medians."""
    role = _core.EngineRole.target
    repeats = settings.step_repeats * (settings.step_tokens if rows == 1 else 1)
    times = llm.core.time_steps(role, rows, settings.step_depth, repeats)
    return StepTime("specrt", PLAIN, rows, settings.step_depth, median(times))
