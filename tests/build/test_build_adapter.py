"""Streaming adapters: what a bundle has of them, and what is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import bundle_of, tiny_model
from reference.tiny_llama import TinyLlama, write_tiny_llama
from reference.tiny_streaming import TinyStreaming, tensors, write_tiny_streaming
from safetensors.torch import load_file, save_file
from specrt.build.engine_file import read_header
from specrt.build.errors import BuildError
from torch import Tensor

TARGET = tiny_model(layers=3)
MODEL = TinyStreaming(TARGET, streams=3, layers=2)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "base", TARGET)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return write_tiny_streaming(tmp_path / "adapter", MODEL, base)


def change_config(adapter: Path, **changes: Any) -> None:
    path = adapter / "config.json"
    raw = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in raw.items() if v is not None}), encoding="utf-8")


def change_tensors(adapter: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = adapter / "model.safetensors"
    found = load_file(path)
    change(found)
    save_file({name: each.contiguous() for name, each in found.items()}, path)


def test_the_bundle_says_what_the_target_has(base: Path, adapter: Path, tmp_path: Path) -> None:
    bundle = bundle_of(base, tmp_path / "bundle", draft=adapter)
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    entry = manifest["target"]["streaming"]
    sizes = {name: each.numel() for name, each in tensors(MODEL).items()}
    lora = sum(size for name, size in sizes.items() if name.startswith("layers."))
    assert (entry["streams"], entry["layers"]) == (3, 2)
    assert entry["parameters"] == {"streams": sum(sizes.values()) - lora, "lora": lora}
    assert entry["parameters"]["streams"] == (3 + 2 * 8) * TARGET.hidden  # as the paper counts
    assert manifest["drafters"] == []
    plan = read_header(bundle / "target.engine").plan
    kinds = [op.kind for op in plan.ops]
    inserted = kinds.index("insert_streams")
    assert plan.streams == 3
    assert plan.shifted_streams
    assert kinds[:inserted].count("attention") == 1
    assert kinds[inserted:].count("attention") == 2
    assert {op.rows for op in plan.ops[:inserted]} == {"all", "scored"}
    assert {op.rows for op in plan.ops[inserted:]} == {"all", "streams"}


def test_a_step_reads_the_weights_of_the_base_once(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    plans = [
        read_header(bundle_of(base, tmp_path / name, draft=draft) / "target.engine").plan
        for name, draft in (("with", adapter), ("without", None))
    ]
    with_streams, without = (
        sorted(
            plan.tensors[op.tensor].size
            for op in plan.ops
            if op.kind == "linear" and op.rows == "all"
        )
        for plan in plans
    )
    assert with_streams == without


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_sha256": "0" * 64}, "base_sha256 is not the hash"),
        ({"base_sha256": None}, "base_sha256 is not the hash"),
        ({"stream_layers": 4}, "stream_layers 4 of a target with 3 layers"),
        ({"stream_layers": 0}, "stream_layers = 0"),
        ({"stream_layers": 3}, r"tensor 'streaming\.layers\.0\.qkv\.lora_a' is missing"),
        ({"streams": 17}, "streams = 17 is not an integer, 1 to 16"),
        ({"streams": 2}, "stream_embeddings' has shape"),
        ({"stream_positions": "absolute"}, "stream_positions 'absolute' is not one of"),
        ({"lora_modules": ["gate"]}, "lora_modules has 'gate'"),
        ({"lora_modules": ["qkv", "qkv"]}, "not a list of different modules"),
        ({"lora_modules": ["qkv", "o"]}, "have no place"),
        ({"lora_rank": 5}, "has shape"),
        ({"hidden_size": 47}, "hidden_size 47 where the target has"),
        ({"num_hidden_layers": 9}, "num_hidden_layers 9 where the target has 3"),
        ({"vocab_size": 9}, "vocab_size 9 where the target has"),
        ({"hydra": True}, "keys that specrt does not know: hydra"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    changes: dict[str, Any], message: str, base: Path, adapter: Path, tmp_path: Path
) -> None:
    change_config(adapter, **changes)
    with pytest.raises(BuildError, match=message):
        bundle_of(base, tmp_path / "bundle", draft=adapter)
    assert not (tmp_path / "bundle").exists()


def _drop(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda found: found.pop(name)


@pytest.mark.parametrize(
    "name", ["stream_embeddings", "prune.lora_a", "layers.2.down.lora_b", "layers.1.qkv.lora_a"]
)
def test_missing_tensors_are_named(name: str, base: Path, adapter: Path, tmp_path: Path) -> None:
    change_tensors(adapter, _drop(name))
    with pytest.raises(BuildError, match=f"{name}' is missing"):
        bundle_of(base, tmp_path / "bundle", draft=adapter)


def test_tensors_without_a_place_are_named(base: Path, adapter: Path, tmp_path: Path) -> None:
    def add(found: dict[str, Tensor]) -> None:
        found["layers.0.qkv.lora_a"] = found["layers.1.qkv.lora_a"].clone()

    change_tensors(adapter, add)
    with pytest.raises(BuildError, match=r"have no place in this architecture: .*layers\.0"):
        bundle_of(base, tmp_path / "bundle", draft=adapter)


def test_values_that_are_not_finite_are_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    change_tensors(adapter, lambda found: found["stream_embeddings"].fill_(float("nan")))
    with pytest.raises(BuildError, match="holds NaN"):
        bundle_of(base, tmp_path / "bundle", draft=adapter)


def test_another_base_and_a_second_adapter_are_refused(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    other = write_tiny_llama(tmp_path / "other", TinyLlama(**(vars(TARGET) | {"seed": 2})))
    with pytest.raises(BuildError, match="trained for another target"):
        bundle_of(other, tmp_path / "bundle", draft=adapter)
    with pytest.raises(BuildError, match="a second streaming adapter"):
        bundle_of(base, tmp_path / "bundle", draft=[adapter, adapter])
