"""Prompts that take one step, several, or a part of one: the same bits however they are fed."""

from pathlib import Path

import numpy as np
import pytest
from bundles import bundle_of, tiny_model
from reference.tiny_llama import write_tiny_llama
from specrt import LLM, SamplingParams
from specrt._core import EngineRole

LENGTHS = (1, 63, 64, 65, 255, 256, 257, 300)
PROMPT = [3 + 7 * i % 180 for i in range(LENGTHS[-1])]
PARAMS = SamplingParams(temperature=0, max_tokens=3, logprobs=2, ignore_eos=True)


@pytest.fixture(scope="module")
def long_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with room for more than one step of a prompt on every backend."""
    folder = tmp_path_factory.mktemp("long")
    model = tiny_model(context=320, layers=2, architecture="mistral", window=100)
    return bundle_of(write_tiny_llama(folder / "target", model), folder / "bundle")


def test_a_prompt_of_any_length_equals_the_same_prompt_fed_in_pieces(long_bundle: Path) -> None:
    """Piece by piece: each prompt begins with the one before, which stays in the cache."""
    pieces = LLM(long_bundle, "autoregressive", threads=2)
    whole = LLM(long_bundle, "autoregressive", threads=2, enable_prefix_caching=False)
    logits = whole.core.logits(EngineRole.target, PROMPT, 7)
    for length in LENGTHS:
        [fed] = pieces.generate([PROMPT[:length]], PARAMS)
        [fresh] = whole.generate([PROMPT[:length]], PARAMS)
        assert fresh.metrics.cached_tokens == 0
        assert fed.token_ids == fresh.token_ids
        assert fed.logprobs == fresh.logprobs  # as floats: no bit differs
        assert fresh.token_ids[0] == np.argmax(logits[length - 1])
    assert fed.metrics.cached_tokens >= LENGTHS[-2]
