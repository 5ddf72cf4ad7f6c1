"""A benchmark run with known numbers: two prompts, autoregressive and speculative."""

from collections.abc import Sequence

from specrt.eval.bench import BenchOptions, BenchRun, MethodRun
from specrt.eval.machine import Machine
from specrt.eval.prompts import Prompt
from specrt.eval.sample import Sample
from specrt.outputs import RequestMetrics, RequestOutput, Round

MACHINE = Machine("cpu", 2, cache_bytes=1000, memory_bytes=10**9, system="Linux")
PROMPT_TOKENS = 10
VARIED = tuple(range(9))  # 8 decoded tokens, 2 8-grams
LOOP = (5,) * 33  # 32 decoded tokens, 26 8-grams, 25 of them repeated


def answer(tokens: tuple[int, ...], decode_ms: float, rounds: Sequence[Round]) -> RequestOutput:
    ttft_ms = decode_ms / 8
    return RequestOutput(
        text=" ".join(map(str, tokens)),
        token_ids=list(tokens),
        prompt_token_ids=[0] * PROMPT_TOKENS,
        finish_reason="stop" if len(tokens) < 10 else "length",
        seed=0,
        method="",
        metrics=RequestMetrics(
            PROMPT_TOKENS, 0, len(tokens), ttft_ms, ttft_ms + decode_ms, list(rounds)
        ),
    )


def sample(
    tokens: tuple[int, ...], decode_ms: float, rounds: Sequence[Round], *, file: str = "f"
) -> Sample:
    return Sample(
        prompt=Prompt("p", category="c", file=file),
        repeats=((answer(tokens, decode_ms, rounds),),),
        predicted_ms=decode_ms / 2,
    )


def run(*methods: MethodRun) -> BenchRun:
    return BenchRun(BenchOptions(), MACHINE, 2, "cpu:x", bandwidth=1e6, skipped=0, methods=methods)


def plain(count: int) -> list[Round]:
    return [Round(0, 0, 1, 1.0)] * count


BASELINE = MethodRun(
    "autoregressive",
    0,
    bytes_per_round=500,
    samples=(sample(VARIED, 8.0, plain(8)), sample(LOOP, 32.0, plain(32), file="g")),
)
DRAFTED = MethodRun(
    "speculative",
    3,
    bytes_per_round=2000,
    samples=(
        sample(VARIED, 8.0, [Round(3, 3, 4, 3.0), Round(3, 1, 2, 3.0), Round(2, 1, 2, 2.0)]),
        sample(LOOP, 8.0, [Round(3, 3, 4, 1.0)] * 8, file="g"),
    ),
)
