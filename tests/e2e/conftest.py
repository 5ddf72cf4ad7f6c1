"""A tiny bundle with a draft model that sees less than the target."""

from pathlib import Path

import pytest
from bundles import bundle_of, tiny_model
from reference.tiny_llama import write_tiny_llama


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny target of context 64 with a tiny draft of context 48; tests do not change it."""
    folder = tmp_path_factory.mktemp("tiny")
    target = write_tiny_llama(folder / "target", tiny_model(context=64))
    draft = write_tiny_llama(folder / "draft", tiny_model(context=48, layers=1, seed=2))
    return bundle_of(target, folder / "bundle", draft=draft)
