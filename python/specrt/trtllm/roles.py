"""The command line of trtllm-build (TensorRT-LLM 1.0 to 1.2) for every role of an engine."""

from dataclasses import dataclass
from enum import Enum

from specrt.build.errors import BuildError
from specrt.trtllm.unified import Dtype

PROGRAM = "trtllm-build"
MOST_DRAFT_TOKENS = 63
DEFAULT_DRAFT_TOKENS = 8


class Role(Enum):
    """What an engine does. How a target verifies is fixed when it is built."""

    AUTOREGRESSIVE = "autoregressive"
    TARGET = "target"  # verifies drafts that come with a request
    DRAFT = "draft"
    MEDUSA = "medusa"
    EAGLE = "eagle"
    LOOKAHEAD = "lookahead"


@dataclass(frozen=True)
class Lookahead:
    """Lookahead decoding (Fu et al., arXiv 2402.02057): W, N and G of the paper."""

    window: int
    ngram: int
    verification: int

    @property
    def draft_tokens(self) -> int:
        """Draft tokens of a step: W - 1 + G branches of N - 1, and the N - 2 that lead to them."""
        return max(self.ngram - 2, 0) + (self.window - 1 + self.verification) * (self.ngram - 1)


@dataclass(frozen=True)
class Limits:
    """Sizes that an engine is built for."""

    max_seq_len: int  # prompt and output; what is drafted comes on top
    max_draft_len: int = DEFAULT_DRAFT_TOKENS  # of a target that verifies drafts
    lookahead: Lookahead | None = None
    max_batch_size: int = 1
    max_num_tokens: int = 8192  # in one step; longer prompts are fed in chunks

    def check(self) -> None:
        """Raise BuildError for sizes that no engine has."""
        if not 1 <= self.max_draft_len <= MOST_DRAFT_TOKENS:
            raise BuildError(f"{self.max_draft_len} draft tokens are not 1 to {MOST_DRAFT_TOKENS}")
        if self.max_draft_len >= self.max_seq_len:
            raise BuildError(
                f"{self.max_draft_len} draft tokens do not fit into a context of {self.max_seq_len}"
            )


def build_command(
    role: Role, checkpoint: str, engine: str, dtype: Dtype, limits: Limits
) -> list[str]:
    """Words of the command that makes the folder `engine` of the folder `checkpoint`."""
    words = [PROGRAM, "--checkpoint_dir", checkpoint, "--output_dir", engine]
    words += ["--gemm_plugin", dtype.config_name]
    words += ["--max_batch_size", str(limits.max_batch_size)]
    # Every round of drafting and verifying is a new request with the whole text as its prompt.
    words += ["--max_input_len", str(limits.max_seq_len)]
    words += ["--max_seq_len", str(limits.max_seq_len)]
    words += ["--max_num_tokens", str(limits.max_num_tokens)]
    words += ["--max_beam_width", "1"]
    return words + _role_words(role, limits)


def _role_words(role: Role, limits: Limits) -> list[str]:
    mode = "--speculative_decoding_mode"
    reuse = ["--use_paged_context_fmha", "enable"]  # blocks of the KV cache are used again
    match role:
        case Role.AUTOREGRESSIVE | Role.DRAFT:
            return reuse
        case Role.TARGET:
            drafts = ["--max_draft_len", str(limits.max_draft_len)]
            return [mode, "draft_tokens_external", *drafts, *reuse]
        case Role.MEDUSA:  # max_draft_len stands in the checkpoint
            return [mode, "medusa"]
        case Role.EAGLE:
            return [mode, "eagle", *reuse]
        case Role.LOOKAHEAD:
            if limits.lookahead is None:
                raise ValueError("lookahead decoding needs its window, n-gram and verification set")
            drafts = ["--max_draft_len", str(limits.lookahead.draft_tokens)]
            return [mode, "lookahead_decoding", *drafts]
