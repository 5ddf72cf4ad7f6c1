"""A tiny bundle whose draft model is the target itself, so that every drafted token is accepted."""

from pathlib import Path

import pytest
from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt.build import build


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without step curves; tests do not change it."""
    folder = tmp_path_factory.mktemp("tiny")
    model = write_tiny_llama(folder / "model", TinyLlama())
    return build(model, draft=model, out=folder / "bundle", progress=False, tune=False)
