"""What a model is, in specrt's own words: the input of every architecture."""

from dataclasses import dataclass
from enum import Enum

MAX_VOCAB = 1 << 22  # these limits are those of cpp/engine/format.h and cpp/device/ops.h
MIN_CONTEXT = 2
MAX_CONTEXT = 1 << 22
MAX_DIM = 1 << 20
MAX_HEAD_DIM = 512
MAX_LAYERS = 1024
MAX_EOS = 16
MAX_STREAMS = 16
MAX_WINDOW = (1 << 31) - 1


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of the low rotary frequencies; lengths in positions."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True)
class Rope:
    """Rotary embedding over whole heads, half-split pairs."""

    theta: float
    scaling: Llama3Scaling | None


class InputNorm(Enum):
    """What a drafter normalises of the hidden states that it reads."""

    NONE = "none"
    ALL = "all"  # side by side, as one row
    EACH = "each"  # each layer's by itself


OUTPUT = -1  # in place of a layer: the target's last hidden states, as its head reads them
ESTIMATE = -2  # room beside what the target keeps, for a drafter's own hidden states


@dataclass(frozen=True)
class Eagle:
    """What makes a decoder a drafter that reads hidden states of its target beside tokens.

    A layer stands for the residual before it, the number of layers for that behind the last. With
    masks it drafts all tokens in one step, else one by one: then its own hidden states stand for
    those that the target has not computed yet.
    """

    read_layers: tuple[int, ...]  # of the target
    norm_before_residual: bool  # the first layer's residual begins behind the norm of its input
    input_norm: InputNorm
    masks: bool = True
    norm_output: bool = False  # its own hidden states are those behind the last norm
    draft_tokens: tuple[int, ...] = ()  # of a reduced vocabulary, in its order; (): all tokens

    @property
    def layers(self) -> tuple[int, ...]:
        """What the target keeps for it."""
        return self.read_layers if self.masks else (*self.read_layers, ESTIMATE)


@dataclass(frozen=True)
class ParallelMedusa:
    """What makes a decoder a drafter whose rows are the target's last hidden states, and masks."""

    layers: tuple[int, ...] = (OUTPUT,)


@dataclass(frozen=True)
class Medusa:
    """A drafter with a head for each token, over the target's last hidden state."""

    heads: int
    blocks: int  # of each head, before its output matrix
    layers: tuple[int, ...] = (OUTPUT,)


@dataclass(frozen=True)
class Eagle1:
    """A decoder that drafts token by token from the target's last hidden states, or estimates."""

    fc_bias: bool
    layers: tuple[int, ...] = (OUTPUT, ESTIMATE)


# What a drafter computes from hidden states of its target; `layers` says which.
FeatureDrafter = Eagle | Eagle1 | ParallelMedusa | Medusa


@dataclass(frozen=True)
class Kept:
    """Where a drafter finds its hidden states among those that the target keeps."""

    first: int  # of the layers that are kept
    layers: int  # that are kept, some for other drafters


@dataclass(frozen=True)
class Streaming:
    """The streams of a target that drafts for itself."""

    streams: int  # of a row
    layers: int  # that have them, the last ones
    shifted: bool  # stream j is rotated as the position j behind its row; else as its row
    lora_rank: int
    lora_modules: tuple[str, ...]  # of LORA_MODULES: those in which streams have a LoRA
    prune_rank: int


LORA_MODULES = ("qkv", "o", "down")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer. Sizes in elements."""

    architecture: str
    vocab: int
    width: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int  # divides heads
    head_dim: int  # even
    norm_eps: float
    context: int  # most positions
    tied: bool  # the output matrix is the embedding
    rope: Rope
    eos: tuple[int, ...]
    mask_token: int | None = None  # stands for a token to be drafted, in a drafter that fills masks
    features: FeatureDrafter | None = None  # of a drafter that reads features
    kept: Kept | None = None  # of such a drafter; None: the target keeps its layers alone
    kept_layers: tuple[int, ...] = ()  # of a target with such drafters: what they read
    streaming: Streaming | None = None  # of a target with a streaming adapter
    windows: tuple[int, ...] = ()  # positions that a row of each layer sees, 0: all; (): no windows
