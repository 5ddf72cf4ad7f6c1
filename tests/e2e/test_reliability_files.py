"""A bundle that changes on disk while it is loaded: generating goes on as if nothing happened."""

import os
import shutil
import threading
from pathlib import Path

import pytest
import specrt
from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt import LLM, SamplingParams
from specrt.build import build
from specrt.build.bundle import engine_entries, read_manifest

pytestmark = pytest.mark.cpu_only("files are read by the host side, alike for every backend")

PARAMS = SamplingParams(temperature=0.8, max_tokens=30, seed=2, ignore_eos=True, stop="\0")
PROMPT = "Once upon a time"


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))


def texts(llm: LLM) -> tuple[str, str]:
    [out] = llm.generate(PROMPT, PARAMS)
    return out.text, "".join(chunk.text for chunk in llm.stream(PROMPT, PARAMS))


def delete(bundle: Path) -> None:
    shutil.rmtree(bundle)


def truncate(bundle: Path) -> None:
    """In place, which specrt itself never does: the mapped pages are gone."""
    for file in bundle.rglob("*.*"):
        os.truncate(file, 0)


def overwrite(bundle: Path) -> None:
    for file in bundle.rglob("*.*"):
        with file.open("r+b") as opened:
            opened.write(os.urandom(file.stat().st_size))


@pytest.mark.parametrize("change", [delete, truncate, overwrite])
@pytest.mark.parametrize("method", ["autoregressive", "ngram+speculative"])
def test_a_loaded_bundle_may_change(method: str, change: object, bundle: Path) -> None:
    llm = LLM(bundle, method, threads=2)
    expected = texts(llm)
    assert callable(change)
    change(bundle)
    assert texts(llm) == expected
    with pytest.raises(specrt.Error):
        LLM(bundle, method)


def test_a_bundle_may_be_deleted_in_the_middle_of_a_stream(bundle: Path) -> None:
    llm = LLM(bundle, threads=2)
    expected = texts(llm)[0]
    stream = llm.stream(PROMPT, PARAMS)
    first = next(stream)
    delete(bundle)
    assert first.text + "".join(chunk.text for chunk in stream) == expected


def test_a_bundle_is_there_at_every_moment_while_it_is_replaced(tmp_path: Path) -> None:
    """Loads again and again while other threads build into the same place."""
    models = [
        write_tiny_llama(tmp_path / str(seed), TinyLlama(layers=1, seed=seed)) for seed in (1, 2)
    ]
    out = tmp_path / "out" / "bundle"

    def place(model: Path) -> None:
        build(model, out=out, progress=False, tune=False)

    place(models[0])
    size = sum(entry["bytes"] for entry in engine_entries(read_manifest(out)))
    builders = [
        threading.Thread(target=lambda model=model: [place(model) for _ in range(8)])  # type: ignore[misc]
        for model in models
    ]
    for builder in builders:
        builder.start()
    seen = set()
    while any(builder.is_alive() for builder in builders):
        llm = LLM(out, threads=1)
        seen.add(tuple(llm.generate([[8, 9]], PARAMS)[0].token_ids))
        assert llm.bundle.target_engine.stat().st_size == size
    for builder in builders:
        builder.join()
    assert len(seen) == 2
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]
