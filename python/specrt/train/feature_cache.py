"""The target's hidden states for training rows, kept on disk: it runs over each row once.

A row's states are the same whenever it comes, so later passes over the data, and a run that goes on
from its checkpoint, read them back. What was read from the file and what was computed a moment ago
are the same bits: both are rounded to the file's dtype.
"""

from __future__ import annotations

import json
import logging
import os
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from specrt.train.generate import TOP, Scored
from specrt.train.group_batches import GroupBatch
from specrt.train.rows import Row, example_of
from specrt.train.trainee import TargetView, TopTokens

log = logging.getLogger(__name__)

_CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class FeatureShape:
    """States of `width` numbers of `dtype`, and the teacher's `best` tokens (0 without teacher)."""

    width: int
    dtype: torch.dtype
    best: int = TOP


class FeatureCache:
    """A file with one record for each row.

    It holds a checksum, states (t, width), and for a row that is not scored the teacher's best
    tokens (m, best) with their log-probabilities. Rows that do not fit into `limit` bytes have
    none. A record that was never or only partly written, or is damaged, fails its checksum and is
    written again.
    """

    def __init__(
        self,
        path: Path,
        rows: Sequence[Row],
        shape: FeatureShape,
        *,
        begin: int,
        limit: int,
        key: Mapping[str, object],
    ) -> None:
        """Open the file at `path`, or start it anew.

        Args:
            path: with a file beside it that says of what the records are.
            rows: of the training data; batches name them by their number.
            shape: of the records.
            begin: first position that a drafter reads.
            limit: bytes of the file.
            key: what the states depend on beside the rows, as JSON.
        """
        self.shape = shape
        self._inputs = [len(example_of(row).ids) - 1 for row in rows]
        self._answers = [
            0
            if isinstance(row, Scored) or shape.best == 0
            else inputs - max(example_of(row).start - 1, begin)
            for row, inputs in zip(rows, self._inputs, strict=True)
        ]
        ends = list(accumulate(self._sizes(row)[-1] for row in range(len(rows))))
        self._offsets = [0, *(end for end in ends if end <= limit)]
        self._path, self._sidecar = path, path.with_suffix(".json")
        about = json.dumps({**key, "shape": repr(shape), "begin": begin, "rows": rows_hash(rows)})
        same = path.exists() and self._sidecar.exists() and self._sidecar.read_text() == about
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | (0 if same else os.O_TRUNC), 0o644)
        self._close = weakref.finalize(self, os.close, self._file)
        self._sidecar.write_text(about)

    def view(self, batch: GroupBatch, look: Callable[[], TargetView]) -> TargetView:
        """What the target gives for a batch: from the file, or from `look`, which runs it."""
        device = batch.ids.device
        parts = [self._read(row) for row in batch.examples]
        if any(part is None for part in parts):
            looked = self._split(batch, look())
            for place, row in enumerate(batch.examples):
                if parts[place] is None:
                    parts[place] = looked[place]
                    self._write(row, looked[place])
        b, t = batch.ids.shape
        states = torch.zeros(b, t, self.shape.width, dtype=self.shape.dtype)
        tops: list[TopTokens] = []
        for place, part in enumerate(parts):
            assert part is not None
            states[place, : len(part.states)] = part.states
            tops.append((part.ids.long(), part.logp))
        if self.shape.best == 0 or batch.top is not None:
            top = batch.top if self.shape.best > 0 else None
        else:
            ids, logp = (torch.cat(one).to(device) for one in zip(*tops, strict=True))
            top = ids, logp
        return TargetView(top, states.to(device).float())

    def remove(self) -> None:
        """Close and delete the file: nothing is read from it or kept any more."""
        self._close()
        self._path.unlink(missing_ok=True)
        self._sidecar.unlink(missing_ok=True)

    def _sizes(self, row: int) -> tuple[int, int, int]:
        """Ends of the states, the best tokens and the log-probabilities within a record."""
        states = _CHECKSUM_BYTES + self._inputs[row] * self.shape.width * self.shape.dtype.itemsize
        top = self._answers[row] * self.shape.best * 4
        return states, states + top, states + 2 * top

    def _has_room(self, row: int) -> bool:
        return self._close.alive and row + 1 < len(self._offsets)

    def _split(self, batch: GroupBatch, view: TargetView) -> list[_Record]:
        """The records of a batch that the target was run over."""
        if view.states is None:
            raise TypeError("there are no hidden states to keep")
        states = view.states.to("cpu", self.shape.dtype)
        ids, logp = torch.empty(0, self.shape.best), torch.empty(0, self.shape.best)
        if batch.top is None and view.top is not None:
            ids, logp = (one.cpu() for one in view.top)
        answers = [self._answers[row] for row in batch.examples]
        ids_of, logp_of = (torch.split(one, answers) for one in (ids, logp))
        return [
            _Record(states[place, : self._inputs[row]], one_ids.int(), one_logp.float())
            for place, (row, one_ids, one_logp) in enumerate(
                zip(batch.examples, ids_of, logp_of, strict=True)
            )
        ]

    def _read(self, row: int) -> _Record | None:
        if not self._has_room(row):
            return None
        states, ids, end = self._sizes(row)
        stored = bytearray(os.pread(self._file, end, self._offsets[row]))
        if len(stored) < end or checksum(stored[_CHECKSUM_BYTES:]) != stored[:_CHECKSUM_BYTES]:
            return None
        best = self.shape.best
        return _Record(
            _tensor(stored[_CHECKSUM_BYTES:states], self.shape.dtype, self.shape.width),
            _tensor(stored[states:ids], torch.int32, best),
            _tensor(stored[ids:], torch.float32, best),
        )

    def _write(self, row: int, record: _Record) -> None:
        if not self._has_room(row):
            return
        payload = b"".join(
            one.contiguous().flatten().view(torch.uint8).numpy().tobytes()
            for one in (record.states, record.ids, record.logp)
        )
        try:
            os.pwrite(self._file, checksum(payload) + payload, self._offsets[row])
        except OSError as error:
            log.warning("hidden states are not kept any more: %s: %s", self._path, error.strerror)
            self.remove()


@dataclass(frozen=True)
class _Record:
    """States (t, width), best tokens (m, best) and their log-probabilities of one row."""

    states: Tensor
    ids: Tensor
    logp: Tensor


def checksum(data: bytes | bytearray) -> bytes:
    """CRC-32; that of zeros is not zero, so a hole in a file is no record."""
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "little")


def rows_hash(rows: Sequence[Row]) -> str:
    """SHA-256 over tokens and answers' starts."""
    digest = sha256()
    for row in rows:
        one = example_of(row)
        digest.update(f"{len(one.ids)} {one.start} {isinstance(row, Scored)};".encode())
        digest.update(one.ids.tobytes())
    return digest.hexdigest()


def _tensor(data: bytearray, dtype: torch.dtype, width: int) -> Tensor:
    if not data:
        return torch.empty(0, width, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).view(-1, width)
