"""Lockstep equals direct sampling, and the named edge cases of the state machine."""

import itertools
import random
from collections.abc import Iterable

import pytest

from .lockstep import Lockstep, run_lockstep
from .table_model import (
    Generation,
    NoisyModel,
    OppositeModel,
    Options,
    Stop,
    TableModel,
    generate,
)
from .warp import GREEDY, Sampling

WIDE = TableModel(vocab=97, salt=1)  # tokens rarely repeat
PROMPT = [3, 1, 4, 1, 5]
FREE = generate(WIDE, PROMPT, Options(40)).tokens


def constant(length: int) -> Iterable[int]:
    """Ask for the same draft length every round."""
    return itertools.repeat(length)


def checked(loop: Lockstep, lengths: Iterable[int], prompt: list[int] = PROMPT) -> Generation:
    """Run to the end, compare with direct sampling."""
    tokens = tuple(run_lockstep(loop, lengths))
    expected = generate(loop.target.model, prompt, loop.options)
    assert (tokens, loop.cells.stop) == (expected.tokens, expected.finish)
    return expected


def perfect(options: Options, prompt: list[int] = PROMPT) -> Lockstep:
    """Make a loop whose drafter is the target."""
    return Lockstep(WIDE, WIDE, prompt, options)


@pytest.mark.parametrize("error", [0.0, 0.15, 0.4, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_random_runs(error: float, temperature: float) -> None:
    """Random prompts, limits, EOS sets, windows, draft lengths."""
    rng = random.Random(f"{error} {temperature}")
    for _ in range(40):
        target = TableModel(rng.choice([5, 6, 8]), rng.randrange(100))
        prompt = [rng.randrange(5) for _ in range(rng.randint(1, 6))]
        options = Options(
            max_tokens=rng.randint(1, 24),
            context=rng.choice([100, len(prompt) + rng.randint(1, 12)]),
            eos=frozenset(rng.sample(range(5), rng.randint(0, 2))),
            seed=rng.randrange(2**64),
            sampling=Sampling(temperature, top_k=rng.choice([0, 4])),
        )
        window = rng.choice([100, rng.randint(1, 30)])
        loop = Lockstep(target, NoisyModel(target, error), prompt, options, window)
        lengths = rng.choice([constant(rng.randint(1, 8)), iter(lambda: rng.randint(0, 8), 9)])
        checked(loop, lengths, prompt)


@pytest.mark.parametrize("length", range(1, 9))
def test_the_drafter_lacks_one_or_two_tokens(length: int) -> None:
    """With a draft in every round: 1, or 2 after a full acceptance."""
    loop = Lockstep(WIDE, NoisyModel(WIDE, 0.3), PROMPT, Options(40))
    checked(loop, constant(length))
    full = [entry.accepted == entry.drafted > 0 for entry in loop.log]
    assert loop.needs == [1 + after_full for after_full in full[: len(loop.needs)]]


def test_prompt_of_one_token() -> None:
    """L = 1 is no special case."""
    checked(perfect(Options(12), [7]), constant(3), [7])


def test_one_new_token() -> None:
    """max_tokens = 1: the prefill commits it, no round is live."""
    loop = perfect(Options(1))
    assert checked(loop, constant(3)) == Generation(FREE[:1], Stop.LIMIT)
    assert [len(entry.tokens) for entry in loop.log] == [1, 0, 0]


def test_eos_as_first_token() -> None:
    """The prefill stops the sequence."""
    loop = perfect(Options(20, eos=frozenset({FREE[0]})))
    assert checked(loop, constant(3)) == Generation(FREE[:1], Stop.EOS)


def test_eos_in_the_middle_of_an_accepted_run() -> None:
    """Drafts behind an accepted EOS are neither committed nor counted."""
    loop = perfect(Options(20, eos=frozenset({FREE[2]})))
    assert checked(loop, constant(4)) == Generation(FREE[:3], Stop.EOS)
    entry = loop.log[1]
    assert (entry.drafted, entry.judged, entry.accepted, entry.tokens) == (4, 4, 2, FREE[1:3])


def test_eos_as_last_judged_token() -> None:
    """The bonus row behind an accepted EOS commits nothing."""
    loop = perfect(Options(20, eos=frozenset({FREE[4]})))
    assert checked(loop, constant(4)) == Generation(FREE[:5], Stop.EOS)
    assert (loop.log[1].accepted, len(loop.log[1].tokens)) == (4, 4)


def test_eos_as_bonus() -> None:
    """The bonus token may be the EOS."""
    loop = perfect(Options(20, eos=frozenset({FREE[5]})))
    assert checked(loop, constant(4)) == Generation(FREE[:6], Stop.EOS)
    assert (loop.log[1].accepted, len(loop.log[1].tokens)) == (4, 5)


def test_eos_as_replacement() -> None:
    """A refused draft may be replaced by the EOS."""
    greedy = Options(20, sampling=GREEDY)
    eos = generate(WIDE, PROMPT, greedy).tokens[1]
    loop = Lockstep(
        WIDE, OppositeModel(WIDE), PROMPT, Options(20, eos=frozenset({eos}), sampling=GREEDY)
    )
    checked(loop, constant(3))
    assert (loop.log[1].accepted, loop.log[1].tokens) == (0, (eos,))


@pytest.mark.parametrize("max_tokens", range(1, 14))
def test_limit_falls_on_the_bonus(max_tokens: int) -> None:
    """Drafts leave room for the bonus, so a perfect drafter ends on it."""
    loop = perfect(Options(max_tokens))
    checked(loop, constant(4))
    live = [entry for entry in loop.log if entry.tokens][1:]
    assert all(len(entry.tokens) == entry.drafted + 1 for entry in live)
    assert len(loop.log[0].tokens) + sum(e.drafted + 1 for e in live) == max_tokens


def test_limit_on_an_accepted_token() -> None:
    """A tail that another loop left behind may reach the limit; its last token ends the run."""
    loop = perfect(Options(4))
    cells = loop.cells
    cells.tok[cells.C :] = FREE[1:4]
    cells.m = 4
    checked(loop, constant(3))
    entry = loop.log[1]
    assert (entry.drafted, entry.judged, entry.accepted, entry.tokens) == (0, 3, 3, FREE[1:4])
    assert entry.stop is Stop.LIMIT


def test_drafting_behind_a_tail() -> None:
    """A tail of another loop is judged together with new drafts."""
    loop = perfect(Options(20))
    loop.cells.tok[loop.cells.C] = FREE[1]
    loop.cells.m = 2
    checked(loop, constant(3))
    assert (loop.log[1].drafted, loop.log[1].judged, loop.log[1].accepted) == (3, 4, 4)


def test_one_draft_token_per_round() -> None:
    """With g = 1 a perfect drafter commits two tokens a round."""
    loop = perfect(Options(21))
    checked(loop, constant(1))
    assert [len(entry.tokens) for entry in loop.log] == [1, *[2] * 10, 0, 0]


def test_perfect_drafter() -> None:
    """Every draft is accepted."""
    loop = perfect(Options(21))
    checked(loop, constant(4))
    assert [len(entry.tokens) for entry in loop.log] == [1, 5, 5, 5, 5, 0, 0]


def test_useless_drafter() -> None:
    """No draft is accepted, and the output is the same."""
    loop = Lockstep(WIDE, OppositeModel(WIDE), PROMPT, Options(9, sampling=GREEDY))
    checked(loop, constant(4))
    assert [len(entry.tokens) for entry in loop.log] == [*[1] * 9, 0, 0]
    assert sum(entry.accepted for entry in loop.log) == 0


@pytest.mark.parametrize("window", range(1, 30))
def test_drafter_window(window: int) -> None:
    """W_d below the prompt drafts nothing; a window that ends later is used to its end."""
    loop = Lockstep(WIDE, WIDE, PROMPT, Options(20), window)
    checked(loop, constant(4))
    assert len(loop.drafter.slots) <= window
    assert any(entry.drafted for entry in loop.log) == (window > len(PROMPT))


def test_no_draft_after_full_acceptance() -> None:
    """After k = 0 the drafter lacks three tokens: one round only feeds, the next drafts."""
    loop = perfect(Options(30))
    checked(loop, iter([4, 0, 4, 4, 4, *[4] * 9]))
    assert loop.needs[:4] == [1, 2, 3, 2]
    assert [entry.drafted for entry in loop.log][1:5] == [4, 0, 0, 4]


def test_catching_up_after_idle_rounds() -> None:
    """A catch-up step lets the drafter draft at once after ten rounds without it."""
    loop = perfect(Options(40))
    for _ in range(10):
        loop.round(0)
    loop.catch_up(rows=16)
    assert loop.round(4).drafted == 4
    checked(loop, constant(4))


def test_idle_rounds_without_catching_up() -> None:
    """Two rows a round gain one token: nine rounds are lost after ten idle ones."""
    loop = perfect(Options(40))
    for _ in range(10):
        loop.round(0)
    lost = 0
    while not loop.round(4).drafted:
        lost += 1
    assert lost == 9
    checked(loop, constant(4))


def test_a_wrong_drafter_cache_is_noticed() -> None:
    """The asserts bite: a drafter cache taken for one token longer than it is."""
    loop = Lockstep(WIDE, OppositeModel(WIDE), PROMPT, Options(20, sampling=GREEDY))
    loop.round(4)
    loop.cells.D += 1
    with pytest.raises(AssertionError):
        loop.round(4)


def test_stale_slots_are_noticed() -> None:
    """The asserts bite: rejected tokens that stay in the drafter's valid slots."""
    loop = Lockstep(WIDE, OppositeModel(WIDE), PROMPT, Options(20, sampling=GREEDY))
    loop.round(4)
    loop.drafter.slots[loop.cells.D - 1] += 1
    with pytest.raises(AssertionError):
        loop.round(4)
