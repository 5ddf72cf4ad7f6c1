"""How tokens are chosen and when a completion ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
        stop_token_ids: further tokens that end a completion; such a token is its last.
        stop: texts that end a completion and are cut off its text. A stop may begin in one token
            and end in another; the token that completes it is the last of token_ids.
        stop_sequences: sequences of token ids that end a completion and stay in it.
        min_tokens: no stop of any kind before that many tokens.
        logit_bias: token id to a summand of its logit.
        repetition_penalty: > 0; divides the positive logits of tokens that occurred, prompt
            included, and multiplies the negative ones; 1 changes nothing.
        frequency_penalty: in [-2, 2]; taken off a logit for each time that its token was generated.
        presence_penalty: in [-2, 2]; taken off a logit once if its token was generated.
        logprobs: 0 .. 20; report the log-probability of each token and of that many likeliest ones
            under the model's own distribution, before everything above; None reports none.

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
    stop: str | Sequence[str] = ()
    stop_sequences: Sequence[Sequence[int]] = ()
    min_tokens: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None

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
        _check_tokens("stop_token_ids", self.stop_token_ids)
        self._check_stops()
        self._check_logit_options()

    def _check_stops(self) -> None:
        _check_integer("min_tokens", self.min_tokens, 0, self.max_tokens)
        if not all(isinstance(text, str) and text for text in self._stop_texts()):
            raise ValueError(f"stop must hold texts that are not empty, not {self.stop!r}")
        for sequence in self.stop_sequences:
            if not isinstance(sequence, Sequence) or not sequence:
                raise ValueError(f"stop_sequences must hold sequences of ids, not {sequence!r}")
            _check_tokens("stop_sequences", sequence)

    def _check_logit_options(self) -> None:
        _check_number("repetition_penalty", self.repetition_penalty, 0.0, 1e6)
        if self.repetition_penalty == 0:
            raise ValueError("repetition_penalty must be > 0, not 0")
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        for token, value in self.logit_bias.items():
            _check_integer("logit_bias", token, 0, 2**31 - 1)
            _check_number(f"logit_bias[{token}]", value, -1e6, 1e6)
        if self.logprobs is not None:
            _check_integer("logprobs", self.logprobs, 0, 20)

    def _stop_texts(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)

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
        params.stop = [text.encode() for text in self._stop_texts()]
        params.stop_sequences = [list(sequence) for sequence in self.stop_sequences]
        params.min_tokens = self.min_tokens
        params.logit_bias = [(token, float(value)) for token, value in self.logit_bias.items()]
        params.repetition_penalty = float(self.repetition_penalty)
        params.frequency_penalty = float(self.frequency_penalty)
        params.presence_penalty = float(self.presence_penalty)
        params.logprobs = self.logprobs
        return params


def _check_tokens(name: str, tokens: object) -> None:
    if isinstance(tokens, str) or not isinstance(tokens, Sequence):
        raise ValueError(f"{name} must be a sequence of token ids, not {tokens!r}")
    for token in tokens:
        _check_integer(name, token, 0, 2**31 - 1)


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
