"""How tokens are chosen and when a completion ends."""

from collections.abc import Sequence
from dataclasses import dataclass

from specrt import _core


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Sampling options; the names are vLLM's.

    Filters apply in the order temperature, top_k, top_p, min_p. The same seed gives the same tokens
    whatever the drafting method.

    Attributes:
        temperature: >= 0; 0 is greedy.
        top_k: >= 0; keep the k most likely tokens; 0 keeps all.
        top_p: in (0, 1]; keep the smallest set of tokens with this probability mass.
        min_p: in [0, 1]; drop tokens less likely than this share of the likeliest.
        max_tokens: >= 1; most tokens of a completion.
        seed: 0 .. 2**64 - 1; None draws one at random, reported in the output.
        ignore_eos: do not end at the model's end-of-sequence tokens.
        stop_token_ids: further tokens that end a completion.

    Raises:
        ValueError: an attribute is out of its range; the message names both.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_tokens: int = 16
    seed: int | None = None
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, 1e6)
        _check_integer("top_k", self.top_k, 0, 2**31 - 1)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0:
            raise ValueError("top_p must be in (0, 1], not 0")
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
        if self.seed is not None:
            _check_integer("seed", self.seed, 0, 2**64 - 1)
        if not isinstance(self.ignore_eos, bool):
            raise ValueError(f"ignore_eos must be True or False, not {self.ignore_eos!r}")
        if isinstance(self.stop_token_ids, str):
            raise ValueError("stop_token_ids must be a sequence of token ids, not a string")
        for token in self.stop_token_ids:
            _check_integer("stop_token_ids", token, 0, 2**31 - 1)

    def to_core(self) -> _core.SamplingParams:
        """The same options as the runtime takes them."""
        params = _core.SamplingParams()
        params.temperature = float(self.temperature)
        params.top_k = self.top_k
        params.top_p = float(self.top_p)
        params.min_p = float(self.min_p)
        params.max_tokens = self.max_tokens
        params.seed = self.seed
        params.ignore_eos = self.ignore_eos
        params.stop_token_ids = list(self.stop_token_ids)
        return params


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}], not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low:g}, {high:g}], not {value!r}")


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be an integer in [{low}, {high}], not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], not {value!r}")
