"""P-EAGLE folders: what is read, what is shared with the target, and what is refused by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import tiny_eagle
from reference.tiny_eagle import TinyEagle, weights, write_tiny_eagle
from reference.tiny_llama import Head, TinyLlama, write_tiny_llama
from safetensors.torch import load_file, save_file
from specrt import LLM
from specrt._core import EngineRole
from specrt.build import BuildError, build
from specrt.build.engine_file import read_header
from specrt.cli.plan_text import op_texts

EAGLE = tiny_eagle(TinyLlama(context=64), layers=1)


def built(folder: Path, eagle: Path, target: TinyLlama = EAGLE.target) -> Path:
    source = folder / "target"
    if not source.exists():
        write_tiny_llama(source, target)
    return build(source, draft=eagle, out=folder / "bundle", progress=False, tune=False)


def changed(folder: Path, model: TinyEagle = EAGLE, **entries: Any) -> Path:
    """A drafter whose config.json has other entries; `decoder` holds those of its layers."""
    path = write_tiny_eagle(folder / "eagle", model) / "config.json"
    config = json.loads(path.read_text())
    config["transformer_layer_config"] |= entries.pop("decoder", {})
    path.write_text(json.dumps(config | entries))
    return path.parent


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"speculators_model_type": "mtp"}, "'mtp' is not supported; specrt builds peagle, eagle3"),
    ({"speculators_model_type": None}, "None is not supported"),
    ({"surprise": 1}, "keys that specrt does not know: 'surprise'"),
    ({"decoder": {"surprise": 1}}, "transformer_layer_config has keys that specrt does not know"),
    ({"transformer_layer_config": [1]}, "transformer_layer_config must be an object"),
    ({"decoder": {"hidden_act": "gelu"}}, "transformer_layer_config: hidden_act = 'gelu'"),
    ({"decoder": {"model_type": "gpt2"}}, "model_type 'gpt2' is not supported"),
    ({"decoder": {"hidden_size": 40}}, "hidden_size of 40 and the target of 48; the drafter belo"),
    ({"decoder": {"vocab_size": 300}}, "the drafter has 300 tokens and the target 277"),
    ({"target_hidden_size": 64}, "target_hidden_size is not the target's 48"),
    ({"draft_vocab_size": 100}, "100 is below the target's 277 tokens, and there is no d2t"),
    ({"draft_vocab_size": 500}, "draft_vocab_size = 500 is not an integer, 1 to 277"),
    ({"mask_token_id": None}, "mask_token_id None is not a token below 277"),
    ({"mask_token_id": 277}, "mask_token_id 277 is not a token below 277"),
    ({"mask_token_id": True}, "mask_token_id True is not a token"),
    ({"eagle_aux_hidden_state_layer_ids": [0, 2, 4]}, r"\[0, 2, 4\] go beyond the 3 layers"),
    ({"eagle_aux_hidden_state_layer_ids": [1, 1]}, "are not different numbers of layers"),
    ({"eagle_aux_hidden_state_layer_ids": []}, "are not different numbers of layers"),
    ({"eagle_aux_hidden_state_layer_ids": ["2"]}, "are not different numbers of layers"),
    ({"eagle_aux_hidden_state_layer_ids": [0, 2]}, "'mask_hidden' has shape"),
    ({"fc_norm": True, "norm_before_fc": True}, "norm_before_fc and fc_norm exclude each other"),
    ({"fc_norm": 1}, "fc_norm = 1 is neither true nor false"),
    ({"fc_norm": True}, "tensor 'fc_norm.0.weight' is missing"),
    ({"norm_before_fc": True}, "tensor 'input_norm.weight' is missing"),
]


@pytest.mark.parametrize(("entries", "message"), REFUSALS)
def test_what_is_not_honoured_is_refused(
    entries: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match=message):
        built(tmp_path, changed(tmp_path, **entries))
    assert not (tmp_path / "bundle").exists()


def test_a_decoder_without_a_first_layer_of_pairs_is_refused(tmp_path: Path) -> None:
    model = replace(EAGLE, decoder=replace(EAGLE.decoder, architecture="qwen2"))
    with pytest.raises(BuildError, match=r"model_type 'qwen2' is not supported; .* llama, qwen3"):
        built(tmp_path, changed(tmp_path, model))


@pytest.mark.parametrize("name", ["fc.weight", "mask_hidden", "layers.0.hidden_norm.weight"])
def test_a_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    tensors = weights(EAGLE)
    del tensors[name]
    with pytest.raises(BuildError, match=f"tensor '{name}' is missing"):
        built(tmp_path, write_tiny_eagle(tmp_path / "eagle", EAGLE, tensors))


def test_a_tensor_without_a_place_is_named(tmp_path: Path) -> None:
    tensors = weights(EAGLE) | {"layers.0.extra": torch.zeros(3)}
    with pytest.raises(BuildError, match=r"no place in this architecture: 'layers.0.extra'"):
        built(tmp_path, write_tiny_eagle(tmp_path / "eagle", EAGLE, tensors))


def test_what_only_training_needs_is_left_out(tmp_path: Path) -> None:
    tensors = weights(EAGLE) | {
        "d2t": torch.zeros(277, dtype=torch.int64),
        "t2d": torch.ones(277, dtype=torch.bool),
        "verifier_norm.weight": torch.ones(48),
    }
    bundle = built(tmp_path, write_tiny_eagle(tmp_path / "eagle", EAGLE, tensors))
    assert (bundle / "drafters" / "parallel-eagle.engine").exists()


def drafter_logits(bundle: Path) -> np.ndarray:
    core = LLM(bundle, "parallel-eagle", 3, threads=1).core
    return np.asarray(core.logits(EngineRole.drafter, [10, 20, 30, 40, 5, 5]))


@pytest.mark.cpu_only("the builder is the same")
@pytest.mark.parametrize("head", Head)
def test_embedding_and_head_may_be_the_target_s(head: Head, tmp_path: Path) -> None:
    target = replace(EAGLE.target, head=head)
    source = write_tiny_llama(tmp_path / "a" / "target", target)
    of_target = load_file(source / "model.safetensors")
    table = of_target["model.embed_tokens.weight"]
    own = weights(EAGLE) | {
        "embed_tokens.weight": table,
        "lm_head.weight": of_target.get("lm_head.weight", table.clone()),
    }
    whole = built(tmp_path / "a", write_tiny_eagle(tmp_path / "a" / "eagle", EAGLE, own))
    wanted = drafter_logits(whole)
    for name in ("embed_tokens.weight", "lm_head.weight"):
        del own[name]
    write_tiny_llama(tmp_path / "b" / "target", target)
    shared = built(tmp_path / "b", write_tiny_eagle(tmp_path / "b" / "eagle", EAGLE, own))
    np.testing.assert_array_equal(drafter_logits(shared), wanted)


def test_layers_have_a_default(tmp_path: Path) -> None:
    """The second, the middle and the last but two of the target's layers."""
    target = replace(EAGLE.target, layers=8)
    model = replace(EAGLE, target=target, feature_layers=(2, 4, 5))
    eagle = changed(tmp_path, model, eagle_aux_hidden_state_layer_ids=None)
    plan = read_header(built(tmp_path, eagle, target) / "target.engine").plan
    kept = [i for i, op in enumerate(plan.ops) if op.kind == "keep_features"]
    attentions = [i for i, op in enumerate(plan.ops) if op.kind == "attention"]
    assert [sum(a < i for a in attentions) for i in kept] == [2, 4, 5]


def test_only_a_target_with_such_a_drafter_keeps_features(tmp_path: Path) -> None:
    bundle = built(tmp_path, write_tiny_eagle(tmp_path / "eagle", EAGLE))
    target, drafter = (
        read_header(bundle / name) for name in ("target.engine", "drafters/parallel-eagle.engine")
    )
    assert target.plan.feature_cols == drafter.plan.feature_cols == 3 * 48
    assert drafter.plan.context == target.plan.context - 1
    texts = [op.text for op in (*op_texts(target), *op_texts(drafter))]
    assert sum("from column 48 of the features on" in text for text in texts) == 1
    assert sum("where there are none mask_hidden" in text for text in texts) == 1
    plain = build(tmp_path / "target", out=tmp_path / "plain", progress=False, tune=False)
    plan = read_header(plain / "target.engine").plan
    assert plan.feature_cols == 0
    assert len(plan.ops) == len(target.plan.ops) - 3


def test_a_folder_of_two_files_is_read(tmp_path: Path) -> None:
    """Shards and an index, as large drafters are saved."""
    folder = write_tiny_eagle(tmp_path / "eagle", EAGLE)
    tensors, places = load_file(folder / "model.safetensors"), {}
    (folder / "model.safetensors").unlink()
    for number, names in enumerate((list(tensors)[::2], list(tensors)[1::2])):
        file = f"model-{number + 1:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert (built(tmp_path, folder) / "drafters" / "parallel-eagle.engine").exists()
