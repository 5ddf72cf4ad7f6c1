"""What a benchmark run says: one row for every group of prompts and method.

Tokens per second is decoding alone: tokens after the first over the time after the first, pooled
over prompts. The prompt's step is in `ttft_ms`. A prompt with several turns counts as one, with the
tokens, times and rounds of all of its answers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from specrt.eval.bench import BASELINE, BenchRun, MethodRun
from specrt.eval.overlap import draft_overlap
from specrt.eval.repetition import Repetition, repetition
from specrt.eval.sample import Sample

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One line of the JSON file. Numbers that do not apply are None.

    Attributes:
        method: that decoded.
        category: of the prompts; "all" pools every one.
        prompt_file: name of their file, or names joined by commas.
        prompts: how many.
        new_tokens: generated, the first ones included.
        num_speculative_tokens: drafted in a round at most, on a path of a tree.
        tree_nodes: tokens of a tree at most; 0: drafts are chains.
        tokens_per_second: decoding, the prompt's step excluded, pooled over prompts.
        speedup_vs_autoregressive: ratio of tokens_per_second, in the same run.
        speedup_without_looping_prompts: the same without prompts whose autoregressive output
            repeats more than half of its 8-grams.
        predicted_speedup: by the step times of this run and the rounds that were needed.
        loop_efficiency: time that the steps of the rounds take when timed one by one / time
            that decoding took; 1 is a loop that costs nothing.
        mean_acceptance_length: tokens committed in a round, bonus included.
        mean_accepted_run: tokens committed from one refusal to the next (`SpeculativeMetrics`).
        draft_acceptance_rate: accepted / drafted.
        accepted_at_position: share of rounds whose draft held at least up to this position.
        draft_overlap: share of the draft steps' time that lay under a step of the target, for
            methods that overlap them.
        ttft_ms: time to the first token, median over prompts.
        tpot_ms: time per output token after the first, median over prompts.
        ms_per_round: decoding time / rounds.
        identical_to_autoregressive: whether every output, of every repeat, has the same tokens.
        bytes_per_step: weights that a round reads: the target's once, the draft's in each of its
            steps. KV cache and activations are not counted.
        memory_bandwidth_share: bytes_per_step / ms_per_round over the bandwidth that reading
            memory reached in this run; may exceed 1 where the weights stay in a cache.
        weights_fit_in_cache: whether bytes_per_step is less than the last-level cache.
        repeated_8gram_share: 8-grams of the outputs that occurred earlier in the same output.
        eos_share: outputs that ended by themselves.
    """

    method: str
    category: str
    prompt_file: str
    prompts: int
    new_tokens: int
    num_speculative_tokens: int
    tree_nodes: int
    tokens_per_second: float
    speedup_vs_autoregressive: float | None
    speedup_without_looping_prompts: float | None
    predicted_speedup: float | None
    loop_efficiency: float
    mean_acceptance_length: float
    mean_accepted_run: float
    draft_acceptance_rate: float | None
    accepted_at_position: list[float]
    draft_overlap: float | None
    ttft_ms: float
    tpot_ms: float
    ms_per_round: float
    identical_to_autoregressive: bool | None
    bytes_per_step: int
    memory_bandwidth_share: float
    weights_fit_in_cache: bool
    repeated_8gram_share: float
    eos_share: float


@dataclass(frozen=True)
class _Speed:
    """Decoded tokens, and the time that they took or should have taken."""

    tokens: int
    ms: float

    @property
    def per_second(self) -> float:
        return 1000.0 * self.tokens / self.ms if self.ms > 0 else 0.0

    def over(self, other: "_Speed") -> float | None:
        return self.per_second / other.per_second if other.per_second > 0 else None


def _measured(samples: Sequence[Sample]) -> _Speed:
    return _Speed(sum(s.decoded_tokens for s in samples), sum(s.decode_ms for s in samples))


def _predicted(samples: Sequence[Sample]) -> _Speed:
    return _Speed(sum(s.decoded_tokens for s in samples), sum(s.predicted_ms for s in samples))


@dataclass(frozen=True)
class _Drafting:
    """Acceptance, pooled over rounds."""

    rounds: int
    tokens_per_round: float
    rate: float | None
    shares: list[float]


def _drafting(samples: Sequence[Sample]) -> _Drafting:
    rounds = [r for sample in samples for r in sample.rounds]
    drafted = sum(r.drafted for r in rounds)
    if not rounds:
        return _Drafting(0, 1.0, None, [])
    longest = max(r.drafted for r in rounds)
    return _Drafting(
        rounds=len(rounds),
        tokens_per_round=sum(r.committed for r in rounds) / len(rounds),
        rate=sum(r.accepted for r in rounds) / drafted if drafted else None,
        shares=[
            round(sum(r.accepted > position for r in rounds) / len(rounds), 4)
            for position in range(longest)
        ],
    )


def _mean_run(samples: Sequence[Sample]) -> float:
    metrics = [answer.metrics for sample in samples for answer in sample.answers]
    drafted = [m.speculative_decoding for m in metrics if m.speculative_decoding is not None]
    return fmean(each.mean_accepted_run for each in drafted) if drafted else 1.0


def _overlap(samples: Sequence[Sample]) -> float | None:
    return draft_overlap([answer.metrics.steps for sample in samples for answer in sample.answers])


def _repetition(samples: Sequence[Sample]) -> Repetition:
    each = [repetition(answer.token_ids) for sample in samples for answer in sample.answers]
    return Repetition(sum(r.ngrams for r in each), sum(r.repeated for r in each))


def _same(samples: Sequence[Sample], baseline: Sequence[Sample]) -> bool:
    """Whether all repeats of both gave the same tokens for every prompt."""
    pairs = zip(samples, baseline, strict=True)
    return all(len(sample.token_ids | base.token_ids) == 1 for sample, base in pairs)


def _without_loops(samples: Sequence[Sample], baseline: Sequence[Sample]) -> float | None:
    """Speed-up over the prompts whose baseline output is not degenerate."""
    pairs = [
        (sample, base)
        for sample, base in zip(samples, baseline, strict=True)
        if not _repetition([base]).is_looping
    ]
    ours = _measured([sample for sample, _ in pairs])
    return ours.over(_measured([base for _, base in pairs]))


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


@dataclass(frozen=True)
class _Group:
    """Prompts whose samples make one row for every method, by their place in the run."""

    category: str
    prompt_file: str
    places: tuple[int, ...]

    def of(self, method: MethodRun) -> list[Sample]:
        return [method.samples[place] for place in self.places]


def _groups(run: BenchRun) -> list[_Group]:
    """One group for every file and category, if there are several, and then all together."""
    places: dict[tuple[str, str], list[int]] = {}
    for place, sample in enumerate(run.methods[0].samples):
        key = (sample.prompt.file, sample.prompt.category)
        places.setdefault(key, []).append(place)
    files = ",".join(dict.fromkeys(file for file, _ in places))
    everything = _Group(ALL, files, tuple(range(len(run.methods[0].samples))))
    if len(places) == 1:
        return [everything]
    parts = [_Group(name, file, tuple(found)) for (file, name), found in places.items()]
    return [*parts, everything]


def _row(run: BenchRun, method: MethodRun, group: _Group) -> BenchRow:
    samples = group.of(method)
    base_run = next((m for m in run.methods if m.method == BASELINE), None)
    base = group.of(base_run) if base_run else None
    speed, drafting = _measured(samples), _drafting(samples)
    predicted = _predicted(samples)
    ms_per_round = speed.ms / drafting.rounds if drafting.rounds else 0.0
    bytes_per_second = 1000.0 * method.bytes_per_round / ms_per_round if ms_per_round else 0.0
    ended = [answer.finish_reason == "stop" for s in samples for answer in s.answers]
    per_token = [s.decode_ms / s.decoded_tokens for s in samples if s.decoded_tokens]
    return BenchRow(
        method=method.method,
        category=group.category,
        prompt_file=group.prompt_file,
        prompts=len(samples),
        new_tokens=sum(s.new_tokens for s in samples),
        num_speculative_tokens=method.num_speculative_tokens,
        tree_nodes=method.tree_nodes,
        tokens_per_second=round(speed.per_second, 2),
        speedup_vs_autoregressive=_rounded(speed.over(_measured(base))) if base else None,
        speedup_without_looping_prompts=_rounded(_without_loops(samples, base)) if base else None,
        predicted_speedup=_rounded(predicted.over(_predicted(base))) if base else None,
        loop_efficiency=round(predicted.ms / speed.ms, 4) if speed.ms > 0 else 0.0,
        mean_acceptance_length=round(drafting.tokens_per_round, 4),
        mean_accepted_run=round(_mean_run(samples), 4),
        draft_acceptance_rate=_rounded(drafting.rate),
        accepted_at_position=drafting.shares,
        draft_overlap=_rounded(_overlap(samples)),
        ttft_ms=round(median(s.ttft_ms for s in samples), 3),
        tpot_ms=round(median(per_token), 4) if per_token else 0.0,
        ms_per_round=round(ms_per_round, 4),
        identical_to_autoregressive=(
            _same(samples, base) if base and run.options.keeps_tokens else None
        ),
        bytes_per_step=method.bytes_per_round,
        memory_bandwidth_share=(
            round(bytes_per_second / run.bandwidth, 4) if run.bandwidth else 0.0
        ),
        weights_fit_in_cache=method.bytes_per_round < run.machine.cache_bytes,
        repeated_8gram_share=round(_repetition(samples).share, 4),
        eos_share=round(sum(ended) / len(ended), 4),
    )


def bench_rows(run: BenchRun) -> list[BenchRow]:
    """Rows by group, then method; the last group is everything."""
    return [_row(run, method, group) for group in _groups(run) for method in run.methods]


def json_rows(run: BenchRun, version: str, commit: str | None) -> list[dict[str, Any]]:
    """The rows as JSON objects, each with the machine, the options and the source it belongs to."""
    context = {
        "options": asdict(run.options),
        "skipped_prompts": run.skipped,
        "skipped_turns": run.skipped_turns,
        "machine": {
            **asdict(run.machine),
            "backend": run.backend,
            "threads": run.threads,
            "memory_bandwidth_gb_per_second": round(run.bandwidth / 1e9, 2),
        },
        "version": version,
        "commit": commit,
    }
    return [{**asdict(row), **context} for row in bench_rows(run)]
