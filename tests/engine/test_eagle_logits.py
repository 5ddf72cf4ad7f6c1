"""A step of a P-EAGLE drafter gives the logits of the reference, at every depth of a draft."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from backends import by_backend
from bundles import bundle_of, tiny_eagle, tiny_model
from reference import parallel_eagle
from reference.tiny_eagle import TinyEagle, weights, write_tiny_eagle
from reference.tiny_llama import write_tiny_llama
from specrt import LLM
from specrt._core import EngineRole

CONTEXT, DEPTHS = 96, 6
PLAIN = tiny_eagle(tiny_model(context=CONTEXT))
QWEN3 = replace(PLAIN, decoder=replace(PLAIN.decoder, architecture="qwen3", layers=1))
VARIANTS = {
    "plain": PLAIN,
    "norm before the residual": replace(PLAIN, norm_before_residual=True),
    "norm of all features": replace(PLAIN, norm_before_fc=True),
    "norm of each feature": replace(PLAIN, fc_norm=True),
    "one feature": replace(PLAIN, feature_layers=(1,)),
    "features in another order": replace(PLAIN, feature_layers=(3, 0)),
    "qwen3": QWEN3,
    "qwen3, norms": replace(QWEN3, fc_norm=True, norm_before_residual=True),
}


def relative_error(model: TinyEagle, folder: Path, dtype: str, rows: int) -> np.ndarray:
    """Errors of the runtime's logits (depths last) in parts of their range."""
    target = write_tiny_llama(folder / "target", model.target)
    drafter = write_tiny_eagle(folder / "drafter", model)
    bundle = bundle_of(target, folder / "bundle", draft=drafter, dtype=dtype)
    tokens = np.random.default_rng(rows).integers(6, model.target.vocab, 71).tolist()
    fed = [*tokens, *[model.mask_token] * (DEPTHS - 1)]
    core = LLM(bundle, "parallel-eagle", DEPTHS, threads=2).core
    actual = core.logits(EngineRole.drafter, fed, rows)
    assert not actual[0].any()
    features = parallel_eagle.target_features(target, tokens, model.feature_layers)
    wanted = parallel_eagle.draft_logits(model, weights(model), tokens, features, DEPTHS).numpy()
    return np.asarray(np.abs(actual[1:] - wanted) / np.ptp(wanted))


@pytest.mark.cpu_only("CUDA engines hold bf16")
@pytest.mark.parametrize("name", VARIANTS)
def test_f32_equals_the_reference(name: str, tmp_path: Path) -> None:
    assert relative_error(VARIANTS[name], tmp_path, "f32", 64).max() < 1e-5


@pytest.mark.parametrize("name", by_backend(cpu=list(VARIANTS), cuda=["plain", "qwen3, norms"]))
def test_bf16_is_close_to_the_reference(name: str, tmp_path: Path) -> None:
    error = relative_error(VARIANTS[name], tmp_path, "bf16", 64)
    assert error.max() < by_backend(cpu=4e-2, cuda=8e-2)
    assert error.mean() < 5e-3


@pytest.mark.cpu_only("the kernels of every backend take the same rows")
def test_rows_of_a_step_do_not_matter(tmp_path: Path) -> None:
    for rows in (1, 7, 30):
        assert relative_error(PLAIN, tmp_path / str(rows), "f32", rows).max() < 1e-5


def test_masks_of_another_anchor_change_nothing() -> None:
    """The reference itself: groups are isolated, and depth 0 does not know of masks."""
    w, random = weights(PLAIN), torch.Generator().manual_seed(1)
    tokens = torch.randint(6, PLAIN.target.vocab, (12,), generator=random)
    features = torch.randn(12, PLAIN.feature_cols, generator=random)
    anchors = torch.cat([torch.arange(11), torch.tensor([4, 4, 8, 8])])
    depths = torch.cat([torch.zeros(11, dtype=torch.long), torch.tensor([1, 2, 1, 2])])
    both = parallel_eagle.forward(PLAIN, w, tokens, features, anchors, depths)
    kept = [*range(11), 13, 14]
    one = parallel_eagle.forward(PLAIN, w, tokens, features, anchors[kept], depths[kept])
    torch.testing.assert_close(both[kept], one)
    none = parallel_eagle.forward(PLAIN, w, tokens, features, anchors[:11], depths[:11])
    torch.testing.assert_close(both[:11], none)
