"""What a TensorRT-LLM checkpoint holds: the fields of its config.json and the tensors of each rank.

Linear weights are (outputs, inputs), as Hugging Face stores them. Under tensor parallelism every
rank has its own rows of q, k, v, gate and up, its own columns of what follows them, and its part of
the vocabulary. TensorRT-LLM checks names and shapes when it loads a checkpoint, not values: a
swapped `fc` and `gate` or a missing `rotary_base` would load. So every field is written, and the
tests rebuild the model from all ranks.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from specrt.build.config import ModelConfig
from specrt.build.errors import BuildError
from specrt.build.graph import Parameter
from specrt.build.hf import ARCHITECTURES

TENSOR_PARALLEL = (1, 2, 4)
MEDUSA_DRAFT_LENGTH = 63  # nodes of Medusa's usual tree


class Dtype(Enum):
    """Element type of a checkpoint: what specrt calls it, TensorRT-LLM, and safetensors."""

    F16 = ("f16", "float16", "F16")
    BF16 = ("bf16", "bfloat16", "BF16")

    @property
    def name_here(self) -> str:
        """The word of `--dtype`."""
        return self.value[0]

    @property
    def config_name(self) -> str:
        """TensorRT-LLM's word."""
        return self.value[1]

    @property
    def stored_name(self) -> str:
        """The word of safetensors files."""
        return self.value[2]


class Embedding(Enum):
    """Where the rows of the input embedding are."""

    WHOLE = "whole"  # all on every rank
    SHARDED = "sharded"  # each rank has a part, padded to the same size


@dataclass(frozen=True)
class MedusaHeads:
    """Heads behind a model's last hidden state; head h guesses the token h + 2 ahead."""

    heads: int
    layers: int  # residual blocks of each head


@dataclass(frozen=True)
class Layout:
    """How a model is laid out over ranks."""

    dtype: Dtype
    ranks: int  # tensor parallel
    embedding: Embedding = Embedding.WHOLE
    medusa: MedusaHeads | None = None


@dataclass(frozen=True)
class Slice:
    """Rows and columns of a stored parameter, [begin, end) each, and zero rows behind them.

    The elements of a vector count as rows.
    """

    parameter: Parameter
    rows: tuple[int, int]
    columns: tuple[int, int] | None = None  # None: all, or a vector
    padding: int = 0


@dataclass(frozen=True)
class RankTensor:
    """A tensor of one rank: slices one under another."""

    name: str
    parts: tuple[Slice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the rank's file."""
        rows = sum(part.rows[1] - part.rows[0] + part.padding for part in self.parts)
        first = self.parts[0]
        if len(first.parameter.shape) == 1:
            return (rows,)
        begin, end = first.columns or (0, first.parameter.shape[1])
        return (rows, end - begin)


def check_layout(config: ModelConfig, layout: Layout, origin: str) -> None:
    """Raise BuildError for a model that does not divide over the ranks, or has no place there."""
    ranks = layout.ranks
    if ranks not in TENSOR_PARALLEL:
        allowed = ", ".join(map(str, TENSOR_PARALLEL))
        raise BuildError(f"tensor parallel {ranks} is not one of {allowed}")
    parts = {"attention heads": config.heads, "intermediate_size": config.ffn}
    if layout.medusa is not None:
        parts["hidden_size (of Medusa heads)"] = config.width
    for what, count in parts.items():
        if count % ranks:
            raise BuildError(f"{origin}: {count} {what} do not divide over {ranks} ranks")
    if config.kv_heads % ranks and ranks % config.kv_heads:
        raise BuildError(
            f"{origin}: {config.kv_heads} key/value heads neither divide over {ranks} ranks nor "
            "repeat evenly on them"
        )
    if config.mask_token is not None:
        raise BuildError(
            f"{origin}: a drafter that fills masks (pard_token) has no place in TensorRT-LLM"
        )
    if layout.embedding is Embedding.SHARDED and config.architecture.startswith("qwen"):
        raise BuildError(f"{origin}: the embedding of {config.architecture} cannot be sharded")


def checkpoint_config(config: ModelConfig, layout: Layout) -> dict[str, Any]:
    """Contents of config.json, every field that TensorRT-LLM has a default for included."""
    base = ARCHITECTURES[config.architecture]
    fields: dict[str, Any] = {
        "producer": {"name": "specrt"},
        "architecture": base,
        "dtype": layout.dtype.config_name,
        "logits_dtype": "float32",
        "vocab_size": config.vocab,
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_size": config.head_dim,
        "hidden_act": "silu",
        "norm_epsilon": config.norm_eps,
        "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": config.context,
        "rotary_base": config.rope.theta,
        "rotary_scaling": _rotary_scaling(config),
        "attn_bias": config.architecture == "qwen2",
        "mlp_bias": False,
        "use_parallel_embedding": layout.embedding is Embedding.SHARDED,
        "embedding_sharding_dim": 0,
        "tie_word_embeddings": config.tied,
        "mapping": {"world_size": layout.ranks, "tp_size": layout.ranks, "pp_size": 1},
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
    }
    if config.architecture.startswith("qwen"):
        fields |= {"qwen_type": config.architecture, "seq_length": config.context}
    if config.architecture == "qwen3":
        fields["qk_layernorm"] = True
    if layout.medusa is not None:
        fields |= {
            "architecture": "MedusaForCausalLM",
            "base_architecture": base,
            "model_type": config.architecture,
            "num_medusa_heads": layout.medusa.heads,
            "num_medusa_layers": layout.medusa.layers,
            "max_draft_len": MEDUSA_DRAFT_LENGTH,
        }
    return fields


def _rotary_scaling(config: ModelConfig) -> dict[str, Any] | None:
    scaling = config.rope.scaling
    if scaling is None:
        return None
    fields = asdict(scaling)
    fields["original_max_position_embeddings"] = fields.pop("original_context")
    return {"rope_type": "llama3", **fields}


@dataclass(frozen=True)
class _Rank:
    """Cuts parameters for one rank."""

    rank: int
    ranks: int

    def whole(self, name: str, *shape: int) -> Slice:
        return Slice(Parameter(name, shape), (0, shape[0]))

    def rows(self, name: str, *shape: int) -> Slice:
        size = shape[0] // self.ranks
        return Slice(Parameter(name, shape), (self.rank * size, (self.rank + 1) * size))

    def columns(self, name: str, *shape: int) -> Slice:
        size = shape[1] // self.ranks
        columns = (self.rank * size, (self.rank + 1) * size)
        return Slice(Parameter(name, shape), (0, shape[0]), columns)

    def vocabulary(self, name: str, *shape: int) -> Slice:
        """Rows of the tokens of this rank, zeros where the last rank has fewer."""
        size = -(-shape[0] // self.ranks)
        begin, end = (min(at * size, shape[0]) for at in (self.rank, self.rank + 1))
        return Slice(Parameter(name, shape), (begin, end), padding=size - (end - begin))

    def kv_heads(self, name: str, config: ModelConfig, *columns: int) -> Slice:
        """Rows of the rank's key or value heads; where there are fewer heads than ranks, of one."""
        count = max(config.kv_heads // self.ranks, 1)
        first = self.rank * config.kv_heads // self.ranks
        rows = (first * config.head_dim, (first + count) * config.head_dim)
        return Slice(Parameter(name, (config.kv_heads * config.head_dim, *columns)), rows)


def rank_tensors(config: ModelConfig, layout: Layout, rank: int) -> Iterator[RankTensor]:
    """The tensors of a rank. Parameters have specrt's names, `medusa.` before those of heads."""
    cut = _Rank(rank, layout.ranks)
    vocab, width = config.vocab, config.width
    embed = cut.whole if layout.embedding is Embedding.WHOLE else cut.vocabulary
    yield RankTensor("transformer.vocab_embedding.weight", (embed("embed", vocab, width),))
    for layer in range(config.layers):
        yield from _layer_tensors(config, cut, layer)
    yield RankTensor("transformer.ln_f.weight", (cut.whole("final_norm", width),))
    head = "embed" if config.tied else "head"
    yield RankTensor("lm_head.weight", (cut.vocabulary(head, vocab, width),))
    if layout.medusa is not None:
        yield from _medusa_tensors(config, cut, layout.medusa)


def _layer_tensors(config: ModelConfig, cut: _Rank, layer: int) -> Iterator[RankTensor]:
    to, at = f"transformer.layers.{layer}.", f"layers.{layer}."
    width, queries, ffn = config.width, config.heads * config.head_dim, config.ffn

    def tensor(name: str, *parts: Slice) -> RankTensor:
        return RankTensor(to + name, parts)

    def qkv(kind: str, *columns: int) -> tuple[Slice, ...]:
        return (
            cut.rows(f"{at}q{kind}", queries, *columns),
            cut.kv_heads(f"{at}k{kind}", config, *columns),
            cut.kv_heads(f"{at}v{kind}", config, *columns),
        )

    yield tensor("input_layernorm.weight", cut.whole(at + "attention_norm", width))
    yield tensor("attention.qkv.weight", *qkv("", width))
    if config.architecture == "qwen2":
        yield tensor("attention.qkv.bias", *qkv("_bias"))
    if config.architecture == "qwen3":
        yield tensor("attention.q_layernorm.weight", cut.whole(at + "q_norm", config.head_dim))
        yield tensor("attention.k_layernorm.weight", cut.whole(at + "k_norm", config.head_dim))
    yield tensor("attention.dense.weight", cut.columns(at + "o", width, queries))
    yield tensor("post_layernorm.weight", cut.whole(at + "ffn_norm", width))
    # TensorRT-LLM calls the activated projection fc and the other one gate.
    yield tensor("mlp.fc.weight", cut.rows(at + "gate", ffn, width))
    yield tensor("mlp.gate.weight", cut.rows(at + "up", ffn, width))
    yield tensor("mlp.proj.weight", cut.columns(at + "down", width, ffn))


def _medusa_tensors(config: ModelConfig, cut: _Rank, heads: MedusaHeads) -> Iterator[RankTensor]:
    width = config.width
    for head in range(heads.heads):
        to, at = f"medusa_heads.{head}.", f"medusa.{head}."
        for layer in range(heads.layers):
            block, linear = f"{to}medusa_layers.{layer}.linear.", f"{at}{layer}.linear."
            weight = cut.rows(linear + "weight", width, width)
            yield RankTensor(block + "weight", (weight,))
            yield RankTensor(block + "bias", (cut.rows(linear + "bias", width),))
        out = cut.vocabulary(f"{at}{heads.layers}.weight", config.vocab, width)
        yield RankTensor(f"{to}lm_head.weight", (out,))
