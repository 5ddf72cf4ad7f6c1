"""Runs prompts with several methods side by side and keeps what every completion took.

All methods run in one process, prompt by prompt, their order turned by one for every prompt, so
that clock changes and neighbours of the machine meet all of them alike. Single steps are timed
between the prompts: what a method should take follows from them (report.py).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from tqdm import tqdm

from specrt._core import EngineRole, inspect_engine
from specrt.bundle import Bundle
from specrt.eval.machine import Machine, read_bandwidth, this_machine
from specrt.eval.prompts import Prompt, encode_prompt
from specrt.eval.sample import Answers, Sample, converse
from specrt.eval.variants import parse_variant
from specrt.llm import LLM
from specrt.methods import AT_ONCE, Pace, overlaps
from specrt.outputs import Round
from specrt.sampling_params import SamplingParams

BASELINE = "autoregressive"
_WARM_UP_TOKENS = 16
_TIMED_STEPS = 6  # in a row; the first warms the caches and is dropped


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What to run.

    Attributes:
        methods: names as `LLM` takes them, with settings as in `parse_variant`.
        max_new_tokens: most tokens of a completion.
        temperature: 0 is greedy.
        seed: of the first prompt; every further one adds 1.
        threads: cores to use; None takes all.
        num_speculative_tokens: for methods that draft; None adapts to the drafts.
        repeats: completions of every prompt; times are their median.
        raw: feed prompts as they are, without the chat template, and only their first turns.
        rule: how drafts are judged when sampling.
        pace: step times of paced mode; None: as fast as it is.
    """

    methods: tuple[str, ...] = (BASELINE, "speculative")
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    threads: int | None = None
    num_speculative_tokens: int | None = None
    repeats: int = 1
    raw: bool = False
    rule: str = "exact"
    pace: Pace | None = None

    @property
    def keeps_tokens(self) -> bool:
        """Whether every method gives the tokens of autoregressive decoding."""
        return self.rule == "exact" or self.temperature == 0.0

    def __post_init__(self) -> None:
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods must be different names, not {', '.join(self.methods)!r}")
        if self.repeats < 1:
            raise ValueError(f"repeats must be >= 1, not {self.repeats}")


@dataclass(frozen=True)
class MethodRun:
    """All samples of a method, in the order of the prompts."""

    method: str
    num_speculative_tokens: int
    bytes_per_round: int  # weights read on average: the target's once, the draft's in each step
    samples: tuple[Sample, ...]
    tree_nodes: int = 0  # tokens of a tree at most; 0: drafts are chains


@dataclass(frozen=True)
class BenchRun:
    """A whole run.

    Attributes:
        options: what was asked for.
        machine: where it ran.
        threads: cores in use.
        backend: for example "cpu:avx512bf16".
        bandwidth: bytes per second that reading memory reached in this run; 0 with a GPU, where it
            is not measured.
        skipped: prompts that did not fit into the context and were left out.
        methods: what was measured.
    """

    options: BenchOptions
    machine: Machine
    threads: int
    backend: str
    bandwidth: float
    skipped: int
    methods: tuple[MethodRun, ...]

    @property
    def skipped_turns(self) -> int:
        """Later turns of prompts that were not run."""
        return sum(sample.skipped_turns for sample in self.methods[0].samples)


@dataclass(frozen=True)
class _Runner:
    """A method's LLM; the step times of each prompt come from the engines that it has loaded."""

    llm: LLM
    name: str  # of the method that runs, and its settings
    options: BenchOptions

    def complete(self, prompt: Prompt, index: int) -> Answers:
        params = SamplingParams(
            temperature=self.options.temperature,
            max_tokens=self.options.max_new_tokens,
            seed=self.options.seed + index,
        )
        return converse(self.llm, prompt, params, raw=self.options.raw)

    def warm_up(self, prompt_ids: list[int]) -> None:
        tokens = min(_WARM_UP_TOKENS, self.options.max_new_tokens)
        self.llm.generate([prompt_ids], SamplingParams(temperature=0.0, max_tokens=tokens))

    def rounds_ms(self, rounds: Sequence[Round], positions: int) -> float:
        """What the steps of `rounds` take when timed one by one behind `positions` tokens."""
        overlapped = overlaps(self.llm.method)
        total = 0.0
        for (target_rows, draft_rows, drafts), times in Counter(self._steps(rounds)).items():
            target = self._step_ms(EngineRole.target, target_rows, positions)
            drafting = 0.0
            if drafts:
                drafting = drafts * self._step_ms(EngineRole.drafter, draft_rows, positions)
            total += times * (max(target, drafting) if overlapped else target + drafting)
        return total

    def _steps(self, rounds: Sequence[Round]) -> Iterator[tuple[int, int, int]]:
        """Rows of the target's step, rows of a draft step, and draft steps, of every round.

        Overlapped, the target feeds the draft of the round before, if that held. A draft made at
        once feeds what the round before committed, and masks. Trees count as if they were as deep
        as they may be: rounds say how many nodes there were, not how they lay.
        """
        fed = tail = 1
        for each in rounds:
            rows = tail if overlaps(self.llm.method) else each.drafted + 1
            depth = min(each.drafted, self.llm.num_speculative_tokens)
            if self.llm.drafter is None or each.drafted == 0:
                yield rows, 0, 0
            elif self.llm.drafter in AT_ONCE:
                yield rows, fed + depth - 1, 1
            else:
                yield rows, -(-each.drafted // depth), depth
            fed = each.committed
            survived = each.accepted == each.committed and each.drafted > 0
            unjudged = 1 if each.committed == 0 else 0  # behind the token that a draft joined
            tail = each.drafted + unjudged if survived else 1

    def _step_ms(self, role: EngineRole, rows: int, positions: int) -> float:
        """The mean, not the median: decoding times, which it is compared with, are sums too."""
        cached = max(0, min(positions, self.llm.core.context - rows))
        return fmean(self.llm.core.time_steps(role, rows, cached, _TIMED_STEPS)[1:])

    def bytes_per_round(self, samples: Sequence[Sample]) -> int:
        """Weights that a round reads on average."""
        bundle = self.llm.bundle
        total = int(inspect_engine(str(bundle.target_engine))["step_weight_bytes"])
        rounds = [r for sample in samples for r in sample.rounds]
        if self.llm.drafter is not None and rounds:
            draft = inspect_engine(str(bundle.drafters[self.llm.drafter]))
            steps = sum(steps for _, _, steps in self._steps(rounds)) / len(rounds)
            total += round(steps * int(draft["step_weight_bytes"]))
        return total


def _load(bundle: Bundle, method: str, options: BenchOptions) -> _Runner:
    settings = method.partition("@")[1:]
    method, arguments = parse_variant(method)
    if method != BASELINE:
        arguments = {"num_speculative_tokens": options.num_speculative_tokens} | arguments
    llm = LLM(
        bundle,
        method,
        threads=options.threads,
        rule=options.rule,
        pace=options.pace,
        trace_steps=overlaps(method),
        enable_prefix_caching=False,
        **arguments,
    )
    return _Runner(llm, "".join((llm.method, *settings)), options)


def _sample(runner: _Runner, prompt: Prompt, repeats: Sequence[Answers]) -> Sample:
    predicted_ms = 0.0
    for metrics in (answer.metrics for answer in repeats[0]):
        positions = metrics.prompt_tokens + metrics.completion_tokens // 2
        predicted_ms += runner.rounds_ms(metrics.rounds, positions)
    return Sample(prompt, tuple(repeats), predicted_ms)


def run_bench(
    bundle: Bundle, prompts: Sequence[Prompt], options: BenchOptions, *, progress: bool = False
) -> BenchRun:
    """Measures every method on every prompt.

    Args:
        bundle: the models.
        prompts: those that do not fit into the context are left out.
        options: what to run.
        progress: whether to show a progress bar.

    Raises:
        ValueError: an option is out of its range, or no prompt fits into the context.
        Error: the bundle cannot be loaded, or the runtime failed.
    """
    runners = [_load(bundle, method, options) for method in options.methods]
    first = runners[0].llm
    encoded = [(p, encode_prompt(first.tokenizer, p.text, raw=options.raw)) for p in prompts]
    fitting = [(prompt, ids) for prompt, ids in encoded if len(ids) < first.core.context]
    if not fitting:
        raise ValueError(f"no prompt fits into the context of {first.core.context} tokens")
    for runner in runners:
        runner.warm_up(fitting[0][1])
    samples: list[list[Sample]] = [[] for _ in runners]
    bar = tqdm(fitting, desc="bench", disable=not progress)
    for index, (prompt, _) in enumerate(bar):
        repeats: list[list[Answers]] = [[] for _ in runners]
        for repeat in range(options.repeats):
            for which in _rotated(len(runners), index + repeat):
                repeats[which].append(runners[which].complete(prompt, index))
        for which in _rotated(len(runners), index):
            samples[which].append(_sample(runners[which], prompt, repeats[which]))
    return BenchRun(
        options=options,
        machine=this_machine(),
        threads=first.threads,
        backend=first.core.backend,
        bandwidth=read_bandwidth(first.threads) if first.core.backend.startswith("cpu:") else 0.0,
        skipped=len(prompts) - len(fitting),
        methods=tuple(
            MethodRun(
                runner.name,
                runner.llm.num_speculative_tokens,
                runner.bytes_per_round(kept),
                tuple(kept),
                runner.llm.tree_nodes,
            )
            for runner, kept in zip(runners, samples, strict=True)
        ),
    )


def _rotated(count: int, by: int) -> list[int]:
    return [(i + by) % count for i in range(count)]
