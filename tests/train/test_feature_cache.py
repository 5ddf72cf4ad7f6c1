"""Hidden states kept on disk: what is read back, what is computed, and what is never trusted."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_cases import START, VOCAB, make_target, random_text, vary
from feature_runs import tiny_run
from specrt.train.data import Example
from specrt.train.feature_cache import FeatureCache, FeatureShape
from specrt.train.generate import TOP, Scored
from specrt.train.group_batches import GroupBatch, make_group_batch
from specrt.train.group_mask import KEEP_ALL
from specrt.train.medusa import MedusaOptions, MedusaTrainee
from specrt.train.medusa_heads import MedusaConfig, MedusaHeads
from specrt.train.parallel import Run, train_parallel
from specrt.train.rows import Row
from specrt.train.trainee import TargetView

DEPTHS, WIDTH = 3, 32
LENGTHS = (9, 14, 6, 11)


def plain(length: int) -> Example:
    return Example(np.asarray(random_text(length), dtype=np.int32), START)


def scored(length: int) -> Scored:
    """The teacher said something that no model would."""
    ids = np.arange((length - START) * TOP).reshape(-1, TOP) % VOCAB
    return Scored(plain(length), ids.astype(np.uint16), np.full(ids.shape, -4.0, dtype=np.float16))


class Rig:
    """Rows, a target whose runs are counted, and caches of it in one file."""

    def __init__(self, folder: Path, rows: Sequence[Row], *, teach: bool = True) -> None:
        self.rows, self.teach, self.runs = rows, teach, 0
        self.path = folder / "features.bin"
        self.target = make_target()
        self.trainee = MedusaTrainee(vary(MedusaHeads(MedusaConfig(DEPTHS, 1, WIDTH, VOCAB))))

    def open(
        self, dtype: torch.dtype = torch.float32, limit: int = 1 << 30, layer: int = 1
    ) -> FeatureCache:
        shape = FeatureShape(self.trainee.width(self.target), dtype, TOP if self.teach else 0)
        return FeatureCache(self.path, self.rows, shape, begin=1, limit=limit, key={"layer": layer})

    def batch(self, *picked: int) -> GroupBatch:
        rows = [self.rows[one] for one in picked]
        random = np.random.default_rng(0)
        batch = make_group_batch(rows, DEPTHS, KEEP_ALL, random, begin=1)
        return replace(batch, examples=picked)

    def look(self, batch: GroupBatch) -> TargetView:
        self.runs += 1
        return self.trainee.view(self.target, batch, teach=self.teach)

    def view(self, cache: FeatureCache, *picked: int) -> TargetView:
        """Of a batch, the same as without a cache but for rounding."""
        batch = self.batch(*picked)
        view = cache.view(batch, lambda: self.look(batch))
        self.check(batch, view, rounding=0.0 if cache.shape.dtype == torch.float32 else 2**-8)
        return view

    def check(self, batch: GroupBatch, view: TargetView, rounding: float) -> None:
        own = self.trainee.view(self.target, batch, teach=self.teach)
        assert view.states is not None
        assert own.states is not None
        for place, row in enumerate(batch.examples):
            inputs = LENGTHS[row] - 1
            found, known = (one.states[place, :inputs] for one in (view, own))
            torch.testing.assert_close(found, known, rtol=rounding + 1e-5, atol=1e-5)
        assert (view.top is None) == (own.top is None)
        if view.top is not None and own.top is not None:
            assert torch.equal(view.top[0], own.top[0])
            torch.testing.assert_close(view.top[1], own.top[1], rtol=1e-5, atol=1e-5)


def plain_rows() -> list[Row]:
    return [plain(length) for length in LENGTHS]


def scored_rows() -> list[Row]:
    return [scored(length) for length in LENGTHS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "teach"), [(plain_rows, True), (plain_rows, False), (scored_rows, True)]
)
def test_the_target_runs_over_each_row_once(
    rows: Callable[[], list[Row]], teach: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    rig = Rig(tmp_path, rows(), teach=teach)
    cache = rig.open(dtype)
    first = rig.view(cache, 1, 0), rig.view(cache, 2, 3)
    assert rig.runs == 2
    again = rig.view(cache, 1, 0), rig.view(cache, 2, 3)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.states, other.states)  # to the bit, rounded or not
    rig.view(cache, 3, 1, 0, 2)
    rig.view(rig.open(dtype), 0, 3)  # and by a run that goes on
    assert rig.runs == 2
    rig.view(rig.open(dtype, layer=2), 0, 3)  # of other layers
    assert rig.runs == 3


def test_a_batch_that_is_known_in_part_keeps_what_was_known(tmp_path: Path) -> None:
    rig = Rig(tmp_path, plain_rows())
    cache = rig.open(torch.bfloat16)
    alone = rig.view(cache, 1).states
    beside = rig.view(cache, 1, 0).states
    assert torch.equal(alone[0], beside[0])
    assert not beside[1, LENGTHS[0] - 1 :].any()
    assert rig.runs == 2


def test_rows_beyond_the_limit_are_computed_each_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path, scored_rows())
    record = 4 + (LENGTHS[0] - 1) * WIDTH * 4
    cache = rig.open(limit=record)
    for runs in (1, 2):
        rig.view(cache, 0)
        rig.view(cache, 1)
        assert rig.runs == 1 + runs
    assert rig.path.stat().st_size == record


@pytest.mark.parametrize("damage", ["flip", "cut", "zero"])
def test_a_damaged_record_is_not_read(damage: str, tmp_path: Path) -> None:
    rig = Rig(tmp_path, plain_rows())
    rig.view(rig.open(), 0, 1)
    stored = bytearray(rig.path.read_bytes())
    if damage == "flip":
        stored[100] ^= 1
    rig.path.write_bytes({"flip": stored, "cut": stored[:100], "zero": bytes(len(stored))}[damage])
    cache = rig.open()
    rig.view(cache, 0, 1)
    assert rig.runs == 2
    rig.view(cache, 0, 1)
    assert rig.runs == 2


def test_a_full_disk_ends_the_keeping_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, plain_rows())
    cache = rig.open()

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        rig.view(cache, 0, 1)
    assert rig.runs == 2
    assert caplog.text.count("No space left on device") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_keeps_them_until_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = MedusaOptions(**tiny_run(tmp_path) | {"steps": 12, "loss": "kl"})
    looks: list[tuple[int, ...]] = []
    view, step = MedusaTrainee.view, Run.step
    seen: set[int] = set()
    sizes: list[int] = []

    def counted(
        trainee: MedusaTrainee, target: object, batch: GroupBatch, **kwargs: bool
    ) -> object:
        looks.append(batch.examples)
        return view(trainee, target, batch, **kwargs)  # type: ignore[arg-type]

    def noted(run: Run, batch: GroupBatch, factor: float) -> float:
        before = len(looks)
        loss = step(run, batch, factor)
        assert (len(looks) > before) == (not seen.issuperset(batch.examples))
        seen.update(batch.examples)
        sizes.append((run.work / "features-0.bin").stat().st_size)
        return loss

    monkeypatch.setattr(MedusaTrainee, "view", counted)
    monkeypatch.setattr(Run, "step", noted)
    train_parallel(options)
    assert len([one for one in looks if one]) < options.steps
    assert min(sizes) > 0
    assert not list((options.out / "work").glob("features*"))
    looks.clear()
    without = replace(options, out=tmp_path / "without", feature_cache_bytes=0)
    monkeypatch.setattr(Run, "step", step)
    train_parallel(without)
    assert len([one for one in looks if one]) == options.steps
    with pytest.raises(ValueError, match="0 bytes or more, not -1"):
        replace(options, feature_cache_bytes=-1)
