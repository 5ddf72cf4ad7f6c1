"""What a generation returns. Times are in milliseconds, measured on the host."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from specrt import _core
from specrt.sampling_params import SamplingParams

FinishReason = Literal["stop", "length", "cancelled"]


class Round(NamedTuple):
    """One decoding round: one step of the target model.

    Attributes:
        drafted: tokens proposed.
        accepted: proposed tokens that were judged and found right. Under "pearl" most of them were
            drafted in the round before.
        committed: tokens that joined the output.
        ms: from the verdict before to this one, as the host read them; the rounds of a completion
            and its `ttft_ms` add up to the time at which the last verdict was read. A host that is
            late for a verdict, because all cores compute, finds the next one there at once.
    """

    drafted: int
    accepted: int
    committed: int
    ms: float


class Step(NamedTuple):
    """When a step of a model ran.

    Attributes:
        role: "target" or "draft".
        begin_ms: since the request began.
        end_ms: the same for its end.
    """

    role: Literal["target", "draft"]
    begin_ms: float
    end_ms: float


@dataclass(frozen=True)
class SpeculativeMetrics:
    """How well drafting went; the names are vLLM's.

    Attributes:
        num_spec_steps: target steps, the one of the prompt not counted.
        num_draft_tokens: tokens proposed.
        num_accepted_draft_tokens: of those, accepted.
        accepted_at_position: steps in which the draft held at least up to this position (from 0).
        mean_acceptance_length: tokens committed in a target step, bonus included.
        mean_accepted_run: tokens committed from one refusal to the next, the replacement included.
            For drafting in turns it differs little from the mean acceptance length; under "pearl",
            where an accepted draft goes on in the next round, this is the paper's mean number of
            accepted tokens.
    """

    num_spec_steps: int
    num_draft_tokens: int
    num_accepted_draft_tokens: int
    accepted_at_position: list[int]
    mean_acceptance_length: float
    mean_accepted_run: float

    @property
    def draft_acceptance_rate(self) -> float:
        """Accepted / drafted; 0 if nothing was drafted."""
        if self.num_draft_tokens == 0:
            return 0.0
        return self.num_accepted_draft_tokens / self.num_draft_tokens


@dataclass(frozen=True)
class RequestMetrics:
    """Counts and times of one completion.

    Attributes:
        prompt_tokens: length of the prompt.
        cached_tokens: of these, found in the KV cache, so not fed again.
        completion_tokens: tokens returned.
        ttft_ms: time to the first token.
        total_ms: of the whole call.
        rounds: what each target step after the prompt's did.
        steps: when each step after the prompt's ran, by role and time; empty unless the LLM traces
            steps.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ttft_ms: float
    total_ms: float
    rounds: list[Round]
    steps: list[Step] = field(default_factory=list)

    @property
    def tpot_ms(self) -> float:
        """Time per output token after the first."""
        if self.completion_tokens < 2:
            return 0.0
        return (self.total_ms - self.ttft_ms) / (self.completion_tokens - 1)

    @property
    def tokens_per_second(self) -> float:
        """Decoding rate, the prompt and the first token left out."""
        return 1000.0 / self.tpot_ms if self.tpot_ms > 0 else 0.0

    @cached_property
    def speculative_decoding(self) -> SpeculativeMetrics | None:
        """None if nothing was drafted."""
        drafted = sum(r.drafted for r in self.rounds)
        if drafted == 0:
            return None
        longest = max(r.drafted for r in self.rounds)
        committed = sum(r.committed for r in self.rounds)
        # The end of the output ends a run as well.
        runs = sum(r.committed > r.accepted for r in self.rounds[:-1]) + 1
        return SpeculativeMetrics(
            num_spec_steps=len(self.rounds),
            num_draft_tokens=drafted,
            num_accepted_draft_tokens=sum(r.accepted for r in self.rounds),
            accepted_at_position=[
                sum(r.accepted > position for r in self.rounds) for position in range(longest)
            ],
            mean_acceptance_length=committed / len(self.rounds),
            mean_accepted_run=committed / runs,
        )


@dataclass(frozen=True)
class RequestOutput:
    """One completion.

    Attributes:
        text: the completion, special tokens left out.
        token_ids: the completion; an end-of-sequence or stop token is its last.
        prompt_token_ids: what was fed.
        finish_reason: "stop" (end-of-sequence, stop token, stop sequence or stop string), "length"
            (max_tokens or the end of the context) or "cancelled".
        stop_reason: the stop string, or the stop token or last token of the stop sequence, that
            ended the completion; None for anything else.
        logprobs: for each token, if asked for, log-probabilities by token id: its own first, then
            those of the likeliest tokens.
        seed: of the sampling; with it the completion can be repeated.
        method: the decoding method that was in effect.
        metrics: counts and times.
    """

    text: str
    token_ids: list[int]
    prompt_token_ids: list[int]
    finish_reason: FinishReason
    seed: int
    method: str
    metrics: RequestMetrics
    stop_reason: int | str | None = None
    logprobs: list[dict[int, float]] | None = None


@dataclass(frozen=True)
class StreamChunk:
    """What a round added; `output` is the whole completion in the last chunk, else None."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    output: RequestOutput | None = None


_FINISH_REASONS: dict[_core.FinishReason, FinishReason] = {
    _core.FinishReason.stop: "stop",
    _core.FinishReason.length: "length",
    _core.FinishReason.cancelled: "cancelled",
}


_ROLES: dict[_core.EngineRole, Literal["target", "draft"]] = {
    _core.EngineRole.target: "target",
    _core.EngineRole.drafter: "draft",
}


def output_of(
    completion: _core.Completion,
    text: str,
    prompt_token_ids: list[int],
    method: str,
    params: SamplingParams,
) -> RequestOutput:
    """Turns a completion of the runtime into what the user gets."""
    times = completion.metrics
    logprobs = [{entry.token: entry.logprob for entry in row} for row in completion.logprobs]
    stop_reason = completion.stop_reason
    return RequestOutput(
        text=text,
        token_ids=completion.token_ids,
        prompt_token_ids=prompt_token_ids,
        finish_reason=_FINISH_REASONS[completion.finish_reason],
        seed=completion.seed,
        method=method,
        metrics=RequestMetrics(
            prompt_tokens=times.prompt_tokens,
            cached_tokens=times.cached_tokens,
            completion_tokens=len(completion.token_ids),
            ttft_ms=1000.0 * times.time_to_first_token,
            total_ms=1000.0 * times.total_time,
            rounds=[
                Round(r.drafted, r.accepted, r.committed, 1000.0 * r.seconds) for r in times.rounds
            ],
            steps=[
                Step(_ROLES[step.role], 1000.0 * step.begin, 1000.0 * step.end)
                for step in times.steps
            ],
        ),
        stop_reason=stop_reason.decode() if isinstance(stop_reason, bytes) else stop_reason,
        logprobs=None if params.logprobs is None else logprobs,
    )
