"""The table model and direct sampling."""

import numpy as np
import pytest

from .pick import pick
from .table_model import NoisyModel, OppositeModel, Options, Stop, TableModel, generate
from .warp import GREEDY, Sampling

MODEL = TableModel(vocab=8, salt=3)
PROMPT = [1, 2, 3]


def test_logits_are_exact_in_float32() -> None:
    """Multiples of 2^-21 in [-4, 4)."""
    logits = MODEL.logits(PROMPT)
    assert logits.shape == (8,)
    assert (np.abs(logits) <= 4).all()
    assert np.array_equal(logits, logits.astype(np.float32))


def test_pinned_logits() -> None:
    """Figures that any other implementation of the hash can compare with."""
    steps = ((MODEL.logits(PROMPT) + 4) * 2**21).astype(int).tolist()
    assert steps[:4] == [2044991, 15871195, 15716841, 8658604]
    assert steps[4:] == [11791092, 6212288, 15046573, 2742302]


def test_logits_depend_on_the_whole_context() -> None:
    """Changing, dropping, swapping or adding any token changes the logits."""
    contexts: list[list[int]]
    contexts = [[1, 2, 3], [0, 2, 3], [1, 2], [2, 1, 3], [1, 2, 3, 0], [0, 1, 2, 3], []]
    assert len({MODEL.logits(context).tobytes() for context in contexts}) == len(contexts)


def test_logits_look_uniform() -> None:
    """Mean and variance over many contexts."""
    values = np.concatenate([MODEL.logits([i, j]) for i in range(40) for j in range(40)])
    assert abs(values.mean()) < 0.1
    assert abs(values.var() / (64 / 12) - 1) < 0.05


def test_noisy_model_is_wrong_in_its_share() -> None:
    """Error 0 is the model itself, 1 is always another, 0.4 is another in 40 % of contexts."""
    contexts = [[i, j] for i in range(30) for j in range(30)]
    for error in (0.0, 0.4, 1.0):
        noisy = NoisyModel(MODEL, error)
        wrong = [not np.array_equal(noisy.logits(c), MODEL.logits(c)) for c in contexts]
        assert np.mean(wrong) == pytest.approx(error, abs=0.06)


def test_opposite_model_never_agrees() -> None:
    """Its argmax is the model's least likely token."""
    opposite = OppositeModel(MODEL)
    for i in range(20):
        assert opposite.logits([i]).argmax() == MODEL.logits([i]).argmin()


def test_generation_stops_at_the_limit() -> None:
    """max_tokens, or the end of the context."""
    assert len(generate(MODEL, PROMPT, Options(max_tokens=7)).tokens) == 7
    clipped = generate(MODEL, PROMPT, Options(max_tokens=7, context=8))
    assert (len(clipped.tokens), clipped.finish) == (5, Stop.LIMIT)


def test_generation_stops_at_the_first_eos() -> None:
    """EOS is the last token, and wins over the limit."""
    free = generate(MODEL, PROMPT, Options(max_tokens=20)).tokens
    eos = free[6]
    first = free.index(eos) + 1
    for max_tokens in (20, first):
        stopped = generate(MODEL, PROMPT, Options(max_tokens, eos=frozenset({eos})))
        assert stopped.tokens == free[:first]
        assert stopped.finish is Stop.EOS


def test_generation_by_hand() -> None:
    """Every token is the pick of the row before it, at its own position."""
    sampling = Sampling(temperature=0.7, top_k=5)
    tokens = generate(MODEL, PROMPT, Options(12, seed=8, sampling=sampling)).tokens
    for i, token in enumerate(tokens):
        context = [*PROMPT, *tokens[:i]]
        assert token == pick(MODEL.logits(context), len(context), 8, sampling)


def test_seed_matters_only_when_sampling() -> None:
    """Greedy output has no seed."""
    sampled = {generate(MODEL, PROMPT, Options(20, seed=s)).tokens for s in range(4)}
    greedy = {generate(MODEL, PROMPT, Options(20, seed=s, sampling=GREEDY)).tokens for s in (0, 1)}
    assert (len(sampled), len(greedy)) == (4, 1)


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "context"), [([], 4, 9), ([1], 0, 9), ([1], 4, 1)]
)
def test_refuses_what_leaves_no_room(prompt: list[int], max_tokens: int, context: int) -> None:
    """The prompt has at least one token and ends before the limit."""
    with pytest.raises(ValueError, match="does not fit"):
        generate(MODEL, prompt, Options(max_tokens, context))
