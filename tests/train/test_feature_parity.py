"""Engines built from trained folders give the scores of training's own rounds, at every depth.

That these are those of the training layout is tested beside each kind.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt import LLM, SamplingParams
from specrt._core import EngineRole
from specrt.build import build
from specrt.train import eagle1_drafter, medusa_heads, parallel_medusa_drafter
from specrt.train.drafter_layers import layer_config
from specrt.train.eagle1_drafter import Eagle1Drafter
from specrt.train.eagle1_folder import read_eagle1, write_eagle1
from specrt.train.medusa_folder import read_medusa, write_medusa
from specrt.train.medusa_heads import MedusaConfig, MedusaHeads
from specrt.train.parallel import load_target
from specrt.train.parallel_medusa_drafter import ParallelMedusaDrafter
from specrt.train.parallel_medusa_folder import read_parallel_medusa, write_parallel_medusa
from torch import nn

DEPTHS = 5
SHAPE = TinyLlama(context=96, layers=3, seed=6)
TEXTS = [np.random.default_rng(i).integers(6, SHAPE.vocab, 9 + 4 * i).tolist() for i in range(4)]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "target", SHAPE)


def randomised(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for one in module.parameters():
            one.normal_(std=0.2)
    return module


def built(base: Path, drafter: Path) -> Path:
    out = base.parent / "bundle"
    return build(base, draft=drafter, out=out, dtype="f32", progress=False, tune=False)


def check_rounds(bundle: Path, method: str, wanted: list[NDArray[np.float32]]) -> None:
    core = LLM(bundle, method, DEPTHS, threads=2).core
    for text, scores in zip(TEXTS, wanted, strict=True):
        assert scores.shape == (DEPTHS, SHAPE.vocab)
        actual = core.logits(EngineRole.drafter, [*text, *[0] * (DEPTHS - 1)], 64)[-DEPTHS:]
        error = np.abs(actual - scores).max(axis=1)  # by depth
        assert (error < 1e-4 * np.ptp(scores)).all(), f"{len(text)} tokens: {error}"


def test_medusa(base: Path, tmp_path: Path) -> None:
    target = load_target(base)
    heads = MedusaHeads(MedusaConfig(DEPTHS, 2, SHAPE.hidden, SHAPE.vocab))
    (tmp_path / "drafter").mkdir()
    write_medusa(randomised(heads), base, tmp_path / "drafter")
    read = read_medusa(tmp_path / "drafter", target)
    wanted = [medusa_heads.round_scores(read, target, text, DEPTHS).numpy() for text in TEXTS]
    check_rounds(built(base, tmp_path / "drafter"), "medusa", wanted)


def test_parallel_medusa(base: Path, tmp_path: Path) -> None:
    target = load_target(base)
    drafter = ParallelMedusaDrafter(layer_config(target.config, 2))
    (tmp_path / "drafter").mkdir()
    write_parallel_medusa(randomised(drafter), DEPTHS, base, tmp_path / "drafter")
    read = read_parallel_medusa(tmp_path / "drafter", target, base)
    wanted = [
        parallel_medusa_drafter.round_scores(read, target, text, DEPTHS).numpy() for text in TEXTS
    ]
    check_rounds(built(base, tmp_path / "drafter"), "parallel-medusa", wanted)


def test_eagle(base: Path, tmp_path: Path) -> None:
    """Scores of the first depth; of the others what they draft, on estimates of the drafter."""
    target = load_target(base)
    drafter = Eagle1Drafter(layer_config(target.config, 1))
    (tmp_path / "drafter").mkdir()
    write_eagle1(randomised(drafter), base, tmp_path / "drafter")
    read = read_eagle1(tmp_path / "drafter", target)
    bundle = built(base, tmp_path / "drafter")
    llm, plain = LLM(bundle, "eagle", DEPTHS, threads=1), LLM(bundle, "autoregressive", threads=1)
    for text in TEXTS:
        scores = eagle1_drafter.round_scores(read, target, text, DEPTHS).numpy()
        actual = llm.core.logits(EngineRole.drafter, text, 64)[-1]
        assert np.abs(actual - scores[0]).max() < 1e-4 * np.ptp(scores[0])
        params = SamplingParams(temperature=0, max_tokens=DEPTHS + 2, ignore_eos=True)
        answer = plain.generate([text[:-1]], params)[0].token_ids
        prompt = [*text[:-1], answer[0]]
        drafted = eagle1_drafter.round_scores(read, target, prompt, DEPTHS).numpy().argmax(axis=1)
        wrong = [a != b for a, b in zip(drafted, answer[1:], strict=False)]
        first = llm.generate([text[:-1]], params)[0].metrics.rounds[0]
        assert (first.drafted, first.accepted) == (DEPTHS, int(np.argmax([*wrong, True])))
