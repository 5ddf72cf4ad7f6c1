"""The choice of a token, through pick_draft: noise, filters, ties, NaN."""

import numpy as np
import pytest
from backends import by_backend
from op_arrays import padded_rows
from reference.pick import pick
from reference.warp import Sampling
from specrt._core import ops

SAMPLINGS = [
    Sampling(0.0),
    Sampling(1.0),
    Sampling(0.3),
    Sampling(1.7),
    Sampling(1.0, top_k=1),
    Sampling(1.0, top_k=7),
    Sampling(0.8, top_k=5000),
    Sampling(1.0, top_p=0.3),
    Sampling(0.9, top_p=0.95),
    Sampling(1.0, min_p=0.2),
    Sampling(1.3, top_k=40, top_p=0.9, min_p=0.05),
]
VOCABS = [1, 3, 16, 17, 64, 65, 500, by_backend(cpu=8192, cuda=2100)]


def chosen(
    runner: ops.Runner, logits: np.ndarray, position: int, seed: int, sampling: Sampling
) -> int:
    """The token that pick_draft chooses for `position` from logits (v,)."""
    tokens = [0] * (position + 1)
    sequence = ops.Sequence(tokens, seed)
    sequence.set_sampling(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
    sequence.set({"snap_begin": position, "snap_count": 1, "rows": 1})
    runner.pick_draft(sequence, padded_rows(logits[None], "f32"), 0)
    return int(sequence.tokens()[position])


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_equals_reference(runner: ops.Runner, vocab: int, sampling: Sampling) -> None:
    """The same token as the float64 reference, for many positions and seeds."""
    rng = np.random.default_rng(vocab)
    for position, seed in [(0, 0), (1, 1), (37, 2**40 + 3), (1000, 2**64 - 1)]:
        row = (rng.standard_normal(vocab) * 3).astype(np.float32)
        expected = pick(row, position, seed, sampling)
        assert chosen(runner, row, position, seed, sampling) == expected


def test_uniform_row_reaches_top_p_exactly(runner: ops.Runner) -> None:
    """Half of four equal tokens is two, the lower ids."""
    sampling = Sampling(1.0, top_p=0.5)
    row = np.zeros(4, dtype=np.float32)
    picks = {chosen(runner, row, position, 5, sampling) for position in range(60)}
    assert picks == {0, 1}


@pytest.mark.parametrize("vocab", [5, 16, 100])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_extreme_logits(runner: ops.Runner, vocab: int, sampling: Sampling) -> None:
    """NaN and infinities give some token of the vocabulary; a NaN is never the choice."""
    rows = [np.full(vocab, value, dtype=np.float32) for value in (np.nan, -np.inf, np.inf, 3e38)]
    mixed = np.full(vocab, np.nan, dtype=np.float32)
    mixed[vocab - 2] = -5
    for row in rows:
        assert 0 <= chosen(runner, row, 3, 9, sampling) < vocab
    assert chosen(runner, mixed, 3, 9, sampling) == vocab - 2
    mixed[1] = np.inf
    assert chosen(runner, mixed, 3, 9, sampling) == 1


def test_ties_go_to_the_lowest_id(runner: ops.Runner) -> None:
    """Greedy, whichever lanes the equal logits are in."""
    for first, second in [(0, 1), (15, 16), (3, 35), (17, 40), (30, 33)]:
        row = np.zeros(50, dtype=np.float32)
        row[[first, second]] = 1
        assert chosen(runner, row, 0, 0, Sampling(0.0)) == first


def test_devices_agree(runner_of) -> None:
    """Noise and filters are the same on every instruction set and on CUDA, bit for bit."""
    rng = np.random.default_rng(3)
    devices = [*ops.cpu_isas(), *by_backend(cpu=[], cuda=["cuda"])]
    for position in range(40):
        row = (rng.standard_normal(3000) * 0.01).astype(np.float32)
        picks = {chosen(runner_of(device, 1), row, position, 77, Sampling(1.0)) for device in
                 devices}  # fmt: skip
        assert len(picks) == 1
