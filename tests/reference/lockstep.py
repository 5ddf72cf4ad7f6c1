"""Lockstep rounds with an autoregressive drafter, simulated on the host cell by cell.

Draft-then-verify (Leviathan et al. 2023, arXiv 2211.17192, algorithm 1) under rule `exact`: the
target's own keyed choice is committed, and a draft only decides how far one round gets. Here the
key/value caches are lists of the tokens that were fed, slots past the valid length keep stale
tokens, and a row's logits come from what it sees, so that a wrong length or slot changes tokens.
Every step asserts its invariants.

    C     committed length                    base = C-1     target cache length, start of round
    m     tail length, tail = tok[base:end]   end  = C-1+m   first position behind the tail
    c     tokens drafted this round           D, Dend        drafter cache length, planned length
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .pick import pick
from .table_model import Model, Options, Stop, stop_after

EMPTY = -1
BONUS_ROWS = 1  # a Lockstep round always leaves one row without a draft to judge
FEED_ROWS = 2  # committed tokens that the first draft step can feed


@dataclass
class Cells:
    """The state of one sequence."""

    tok: list[int]  # (limit,)
    limit: int
    C: int
    m: int = 1
    c: int = 0
    D: int = 0
    Dend: int = 0
    stop: Stop = Stop.RUN
    round: int = 0

    @property
    def base(self) -> int:
        """Target cache length at the start of a round."""
        return self.C - 1

    @property
    def end(self) -> int:
        """First position that is neither committed nor in the tail."""
        return self.C - 1 + self.m


@dataclass(frozen=True)
class LogEntry:
    """What one round did.

    `judged` counts the drafts that a row decided on, `accepted` those of them that were committed:
    a draft that equals the token on which the sequence stops is accepted, those behind it are not.
    """

    round: int
    C_before: int
    drafted: int
    judged: int
    accepted: int
    stop: Stop
    tokens: tuple[int, ...]


@dataclass
class Cache:
    """A model with the tokens in its cache slots."""

    model: Model
    slots: list[int] = field(default_factory=list)

    def feed(self, slot: int, token: int) -> list[int]:
        """Write one slot; what its row sees is returned: slots 0..slot."""
        self.slots.extend([EMPTY] * (slot + 1 - len(self.slots)))
        self.slots[slot] = token
        return self.slots[: slot + 1]


def walk(cells: Cells, choices: Sequence[int], eos: frozenset[int]) -> None:
    """Judge the tail and commit: sets C, m, stop and at most one entry of tok.

    choices[i] is the target's own token for the position behind tail[i]. The committed token is
    always the target's; the walk goes on while the next tail token is the same.
    """
    n = 0
    for i, y in enumerate(choices):
        n += 1
        cells.stop = stop_after(y, cells.C + n, cells.limit, eos)
        if cells.stop or i + 1 == cells.m or cells.tok[cells.base + i + 1] != y:
            break
    cells.tok[cells.C + n - 1] = y
    cells.C, cells.m = cells.C + n, 1


class Lockstep:
    """One sequence. `window` is the number of positions that the drafter can feed."""

    def __init__(
        self,
        target: Model,
        drafter: Model,
        prompt: Sequence[int],
        options: Options,
        window: int = 1 << 20,
    ) -> None:
        """Prefill both models and commit the first token as entry 0 of the log."""
        self.options, self.window = options, window
        self.log: list[LogEntry] = []
        self.needs: list[int] = []  # per live round: tokens that the drafter lacked
        self.target, self.drafter = Cache(target), Cache(drafter)
        limit, length = options.limit(len(prompt)), len(prompt)
        tok = [*prompt, *[EMPTY] * (limit - length)]
        self.cells = Cells(tok, limit, C=length, D=min(length, window))
        for i in range(length - 1):
            self.target.feed(i, tok[i])
        for i in range(self.cells.D):
            self.drafter.feed(i, tok[i])
        self.cells.Dend = self.cells.D
        self.judge_and_commit(drafted=0)

    def choose(self, seen: list[int], model: Model) -> int:
        """Choice of a row for the position behind all that it sees."""
        assert seen == self.cells.tok[: len(seen)], "a row sees something else than the sequence"
        return pick(model.logits(seen), len(seen), self.options.seed, self.options.sampling)

    def catch_up(self, rows: int) -> None:
        """Feed the drafter committed tokens that rounds without drafting left out."""
        s = self.cells
        if s.stop:
            return
        last = min(s.D + rows, s.end - 1, self.window)
        for p in range(s.D, last):
            self.drafter.feed(p, s.tok[p])
        s.D = last

    def draft(self, length: int) -> None:
        """Feed what the drafter lacks, then draft up to `length` tokens behind the tail."""
        s = self.cells
        need, room = s.end - s.D, s.limit - s.end - BONUS_ROWS
        assert need >= 1, "the drafter is ahead of the sequence"
        self.needs.append(need)
        c = max(0, min(length, room, self.window - s.end + 1))
        fed = min(need, FEED_ROWS) if c else 0
        s.c = c if fed == need else 0
        s.Dend = s.end + s.c - 1 if s.c else s.D + fed
        for p in range(s.D, s.D + fed):
            self.drafter.feed(p, s.tok[p])
        for p in range(s.end, s.end + s.c):
            seen = self.drafter.feed(p - 1, s.tok[p - 1])
            s.tok[p] = self.choose(seen, self.drafter.model)

    def append(self) -> int:
        """Put the draft behind the tail; its length is returned."""
        s = self.cells
        drafted, s.m, s.c = s.c, s.m + s.c, 0
        return drafted

    def judge_and_commit(self, drafted: int) -> LogEntry:
        """Feed the tail to the target, judge it, commit, log."""
        s = self.cells
        before, tail = s.C, s.tok[s.base : s.end]
        seen = [self.target.feed(s.base + i, token) for i, token in enumerate(tail)]
        walk(s, [self.choose(row, self.target.model) for row in seen], self.options.eos)
        s.D = min(s.Dend, s.C - 1)
        tokens = tuple(s.tok[before : s.C])
        judged = len(tail) - 1
        accepted = sum(y == d for y, d in zip(tokens, tail[1:], strict=False))
        return self.record(LogEntry(s.round, before, drafted, judged, accepted, s.stop, tokens))

    def record(self, entry: LogEntry) -> LogEntry:
        """Log one entry and count the round."""
        self.log.append(entry)
        self.cells.round += 1
        return entry

    def round(self, length: int) -> LogEntry:
        """Run one round that may draft `length` tokens. After the stop it logs an empty entry."""
        s = self.cells
        if s.stop:
            return self.record(LogEntry(s.round, s.C, 0, 0, 0, s.stop, ()))
        self.check_start()
        capacity = s.m + length
        self.draft(length)
        drafted = self.append()
        assert s.m <= capacity, "more rows than the step was recorded for"
        assert s.base + s.m <= s.limit, "a row behind the limit"
        return self.judge_and_commit(drafted)

    def check_start(self) -> None:
        """Assert what holds at the start of every live round."""
        s = self.cells
        assert self.target.slots[: s.base] == s.tok[: s.base]
        assert self.drafter.slots[: s.D] == s.tok[: s.D]
        assert s.m >= 1
        assert s.end - 1 >= s.D
        assert s.limit >= s.end

    def check_end(self) -> None:
        """Assert what holds after the last round."""
        s = self.cells
        assert s.stop is not Stop.RUN
        assert s.limit >= s.C
        assert s.base >= s.D
        assert self.target.slots[: s.C - 1] == s.tok[: s.C - 1]
        assert self.drafter.slots[: s.D] == s.tok[: s.D]
        at = self.log[0].C_before
        for i, entry in enumerate(self.log):
            assert (entry.round, entry.C_before) == (i, at), "entries are not contiguous"
            live = i == 0 or self.log[i - 1].stop is Stop.RUN
            assert (len(entry.tokens) >= 1) == live
            at += len(entry.tokens)


def run_lockstep(loop: Lockstep, lengths: Iterable[int], rounds_after_stop: int = 2) -> list[int]:
    """Run rounds of the given draft lengths until the stop and a few more; new tokens.

    `lengths` must not end before the sequence does.
    """
    schedule = iter(lengths)
    while not loop.cells.stop:
        loop.round(next(schedule))
    frozen = repr(loop.cells.__dict__ | {"round": 0})
    for _ in range(rounds_after_stop):
        loop.round(4)
    assert repr(loop.cells.__dict__ | {"round": 0}) == frozen, "a cell changed after the stop"
    loop.check_end()
    return [token for entry in loop.log for token in entry.tokens]
