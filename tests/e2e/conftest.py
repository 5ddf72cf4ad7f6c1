"""A tiny bundle with a draft model that sees less than the target."""

from pathlib import Path

import pytest
from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt.build import build


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny target of context 64 with a tiny draft of context 48; tests do not change it."""
    folder = tmp_path_factory.mktemp("tiny")
    target = write_tiny_llama(folder / "target", TinyLlama(context=64))
    draft = write_tiny_llama(folder / "draft", TinyLlama(context=48, layers=1, seed=2))
    return build(target, draft=draft, out=folder / "bundle", progress=False, tune=False)
