"""The `speculators` package reads our P-EAGLE folders and computes the same, and we read its own.

The package asks for versions of other packages than these tests do, so it has an environment of its
own, whose Python SPECRT_SPECULATORS_PYTHON names. `tools/speculators_env.sh` makes one.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reference.tiny_llama import Head, TinyLlama, write_tiny_llama
from specrt.train.data import Example
from specrt.train.drafter_layers import layer_config
from specrt.train.eagle_drafter import EagleConfig, EagleDrafter
from specrt.train.eagle_folder import read_eagle, write_eagle
from specrt.train.group_batches import make_group_batch
from specrt.train.group_mask import Cod, dense_mask
from specrt.train.parallel import load_target
from specrt.train.parallel_eagle import EagleTrainee

PYTHON = os.environ.get("SPECRT_SPECULATORS_PYTHON", "")
SCRIPT = Path(__file__).parent / "speculators_scores.py"
DEPTHS, LENGTH, START = 4, 19, 5

pytestmark = pytest.mark.skipif(
    not PYTHON,
    reason="SPECRT_SPECULATORS_PYTHON names no Python with the speculators package "
    "(tools/speculators_env.sh makes one)",
)


CASES: dict[str, tuple[int, tuple[str, ...]]] = {
    "plain": (1, ()),
    "two_layers": (2, ("norm_before_residual", "norm_before_fc")),
    "norms": (1, ("fc_norm",)),
}


@dataclass(frozen=True)
class Case:
    """A drafter, what it computes here, and where the package wrote what it computes."""

    trainee: EagleTrainee
    scores: np.ndarray
    folder: Path


def write_case(folder: Path, target: Path, layers: int, flags: tuple[str, ...]) -> Case:
    """A random drafter and the elements of a random sequence."""
    model = load_target(target)
    vocab: int = model.config.vocab_size
    config = EagleConfig(
        layer_config(model.config, layers), (0, 2, 3), vocab - 1, **dict.fromkeys(flags, True)
    )
    torch.manual_seed(0)
    random = EagleDrafter(config)
    with torch.no_grad():
        for one in random.parameters():
            one.normal_(std=0.2)
    drafter = folder / "drafter"
    drafter.mkdir(parents=True)
    write_eagle(random, DEPTHS, target, drafter)
    trainee = EagleTrainee(read_eagle(drafter, model), DEPTHS)  # rounded to bf16

    ids = np.random.default_rng(1).integers(0, vocab - 1, LENGTH).astype(np.int32)
    some = make_group_batch(
        [Example(ids, START)], DEPTHS, Cod(0.7, 0.2), np.random.default_rng(2), begin=1
    )
    batch = replace(some, rows=torch.arange(some.anchors.numel()))
    view = trainee.view(model, batch, teach=False)
    assert view.states is not None
    np.savez(
        folder / "elements.npz",
        ids=batch.ids[:, 1:].numpy(),
        states=view.states[:, :-1].numpy(),
        anchors=batch.anchors[0].numpy() - 1,
        depths=batch.depths[0].numpy(),
    )
    with torch.inference_mode():
        seen = dense_mask(batch.anchors, batch.depths)
        scores = trainee.scores(trainee.module, batch, seen, view).numpy()
    return Case(trainee, scores, folder)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """All cases, after the package had its turn; starting it takes longest."""
    root = tmp_path_factory.mktemp("formats")
    shape = TinyLlama(layers=4, context=96, head=Head.UNTIED, rope_theta=500.0, seed=4)
    target = write_tiny_llama(root / "target", shape)
    made = {name: write_case(root / name, target, *case) for name, case in CASES.items()}
    folders = [case.folder for case in made.values()]
    done = subprocess.run([PYTHON, SCRIPT, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return made


@pytest.mark.parametrize("name", CASES)
def test_the_package_computes_the_same(name: str, cases: dict[str, Case]) -> None:
    case = cases[name]
    result = np.load(case.folder / "result.npz")
    assert str(result["kind"]) == "PEagleDraftModel"
    error = np.abs(result["scores"] - case.scores).max()
    assert error < 1e-4 * np.ptp(case.scores)


@pytest.mark.parametrize("name", CASES)
def test_what_the_package_saves_is_read(name: str, cases: dict[str, Case]) -> None:
    case = cases[name]
    again = read_eagle(case.folder / "saved", load_target(case.folder.parent / "target"))
    assert again.config.target_layers == (0, 2, 3)
    for tensor, one in case.trainee.module.state_dict().items():
        assert torch.equal(again.state_dict()[tensor], one), tensor
