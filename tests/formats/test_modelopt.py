"""Our TensorRT-LLM checkpoints are NVIDIA ModelOpt's, bit for bit.

ModelOpt asks for another transformers than these tests do, so it has an environment of its own,
whose Python SPECRT_MODELOPT_PYTHON names. `tools/modelopt_env.sh` makes one. ModelOpt exports Llama
and Mistral; Qwen2 and Qwen3 are tested by rebuilding them (tests/trtllm). It always shards the
embedding.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from reference.tiny_llama import LLAMA3_SCALING, ConfigForm, Head, TinyLlama, write_tiny_llama
from reference.tiny_medusa import TinyMedusa, write_tiny_medusa
from safetensors.torch import load_file
from specrt.build.source import Source
from specrt.trtllm.checkpoint import read_model, write_checkpoint
from specrt.trtllm.unified import Dtype, Embedding

PYTHON = os.environ.get("SPECRT_MODELOPT_PYTHON", "")
SCRIPT = Path(__file__).parent / "modelopt_checkpoints.py"

pytestmark = pytest.mark.skipif(
    not PYTHON,
    reason="SPECRT_MODELOPT_PYTHON names no Python with nvidia-modelopt "
    "(tools/modelopt_env.sh makes one)",
)


def tiny(**fields: object) -> TinyLlama:
    """A model as transformers 4 writes it; its heads are not hidden / heads wide."""
    given = {"layers": 2, "context": 64, "config_form": ConfigForm.TRANSFORMERS_4} | fields
    return TinyLlama(**given)


UNTIED = {"head": Head.UNTIED}


@dataclass(frozen=True)
class Case:
    """A model, how it is exported, and its Medusa heads if it has some."""

    model: TinyLlama
    dtype: Dtype
    ranks: int
    medusa: TinyMedusa | None = None


def with_heads(layers: int, dtype: Dtype, ranks: int) -> Case:
    base = tiny(**UNTIED)
    return Case(base, dtype, ranks, TinyMedusa(base, layers=layers))


CASES = {
    "untied_bf16_1": Case(tiny(**UNTIED), Dtype.BF16, 1),
    "untied_f16_2": Case(tiny(**UNTIED), Dtype.F16, 2),
    "from_bf16_2": Case(tiny(**UNTIED, dtype="bf16", shards=2), Dtype.BF16, 2),
    "from_bf16_f16_2": Case(tiny(**UNTIED, dtype="bf16"), Dtype.F16, 2),
    "tied_2": Case(tiny(), Dtype.BF16, 2),
    "one_kv_head_2": Case(tiny(**UNTIED, kv_heads=1), Dtype.BF16, 2),
    "llama3_rope_2": Case(tiny(rope_theta=500.0, rope_scaling=LLAMA3_SCALING), Dtype.F16, 2),
    "mistral_1": Case(tiny(**UNTIED, architecture="mistral"), Dtype.BF16, 1),
    "mistral_f16_2": Case(tiny(**UNTIED, architecture="mistral", kv_heads=1), Dtype.F16, 2),
    "medusa_1": with_heads(1, Dtype.BF16, 1),
    "medusa_f16_2": with_heads(2, Dtype.F16, 2),
}
# What ModelOpt alone writes, and where it differs from what TensorRT-LLM reads: attn_bias and
# mlp_bias are missing, and logits are float16.
OTHER_FIELDS = {
    "producer",
    "logits_dtype",
    "share_embedding_table",
    "residual_mlp",
    "bias",
    "rotary_pct",
    "rank",
    "decoder",
    "rmsnorm",
    "lm_head_bias",
}


def write_case(folder: Path, case: Case) -> None:
    """What ModelOpt exports, and what we do."""
    source = Source("tiny", write_tiny_llama(folder / "model", case.model), None)
    heads = None
    if case.medusa is not None:
        heads = Source("heads", write_tiny_medusa(folder / "heads", case.medusa), None)
    told = {"dtype": case.dtype.config_name, "ranks": case.ranks}
    (folder / "case.json").write_text(json.dumps(told), encoding="utf-8")
    for embedding in Embedding:
        model = read_model(source, case.ranks, dtype=case.dtype, embedding=embedding, heads=heads)
        write_checkpoint(model, folder / embedding.value)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each case, after ModelOpt had its turn; starting it takes longest."""
    root = tmp_path_factory.mktemp("modelopt")
    for name, case in CASES.items():
        write_case(root / name, case)
    folders = [root / name for name in CASES]
    done = subprocess.run([PYTHON, SCRIPT, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return root


@pytest.mark.parametrize("name", CASES)
def test_tensors_are_the_same_bits(name: str, cases: Path) -> None:
    for rank in range(CASES[name].ranks):
        file = f"rank{rank}.safetensors"
        theirs = load_file(cases / name / "modelopt" / file)
        ours = load_file(cases / name / Embedding.SHARDED.value / file)
        assert ours.keys() == theirs.keys()
        for tensor, values in theirs.items():
            assert values.dtype == ours[tensor].dtype, tensor
            assert torch.equal(values.view(torch.int16), ours[tensor].view(torch.int16)), tensor


@pytest.mark.parametrize("name", CASES)
def test_a_whole_embedding_is_all_of_the_shards(name: str, cases: Path) -> None:
    embedding = "transformer.vocab_embedding.weight"
    files = [f"rank{rank}.safetensors" for rank in range(CASES[name].ranks)]
    shards = [load_file(cases / name / "modelopt" / file)[embedding] for file in files]
    whole = torch.cat(shards)[: CASES[name].model.vocab]
    for file in files:
        assert torch.equal(load_file(cases / name / Embedding.WHOLE.value / file)[embedding], whole)


@pytest.mark.parametrize("name", CASES)
def test_fields_that_both_write_are_equal(name: str, cases: Path) -> None:
    def config(kind: str) -> dict[str, object]:
        text = (cases / name / kind / "config.json").read_text(encoding="utf-8")
        return json.loads(text)

    theirs, ours = config("modelopt"), config(Embedding.SHARDED.value)
    for field in OTHER_FIELDS:
        theirs.pop(field, None)
    assert {field: ours[field] for field in theirs} == theirs
