"""Which decoding method runs: names, aliases, and what `auto` means."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from specrt.bundle import Bundle

METHODS = ("auto", "autoregressive", "speculative", "ngram", "ngram+speculative")

# vLLM's words for the same thing.
_ALIASES = {"draft_model": "speculative"}

_CONFIG_KEYS = ("method", "num_speculative_tokens", "prompt_lookup_max", "prompt_lookup_min")
_MAX_LOOKUP = 16
_DEFAULT_LOOKUP = (2, 4)

_MAX_SPECULATIVE_TOKENS = 63
_DEFAULT_SPECULATIVE_TOKENS = 4


@dataclass(frozen=True)
class MethodChoice:
    """A method as it runs.

    Attributes:
        method: one of METHODS but "auto".
        num_speculative_tokens: tokens that are drafted in a round at most; 0: none.
        lookup: fewest and most tokens that an n-gram lookup matches; None: no lookup.
    """

    method: str
    num_speculative_tokens: int = 0
    lookup: tuple[int, int] | None = None

    @property
    def uses_draft_model(self) -> bool:
        """Whether the bundle's draft model drafts."""
        return self.method in ("speculative", "ngram+speculative")


@dataclass(frozen=True)
class _Request:
    """What the user asked for, in specrt's words."""

    method: str
    num_speculative_tokens: int | None
    lookup: tuple[int, int] | None


def choose_method(
    bundle: Bundle,
    method: str,
    num_speculative_tokens: int | None,
    speculative_config: Mapping[str, object] | None,
) -> MethodChoice:
    """Checks what the user asked for against what the bundle has.

    Raises:
        ValueError: a name or number is not possible; the message says what is.
    """
    request = _request(method, num_speculative_tokens, speculative_config)
    tokens = request.num_speculative_tokens
    if request.method == "auto":
        return _auto(bundle, tokens)
    if request.method == "autoregressive":
        if tokens is not None:
            raise ValueError(
                'num_speculative_tokens needs a method that drafts, not "autoregressive"'
            )
        return MethodChoice("autoregressive")
    lookup = request.lookup or _DEFAULT_LOOKUP if "ngram" in request.method else None
    choice = MethodChoice(request.method, tokens or _DEFAULT_SPECULATIVE_TOKENS, lookup)
    if not choice.uses_draft_model:
        return choice
    if not bundle.has_draft:
        raise ValueError(
            f"{bundle.path} has no draft model; build it with: "
            f"specrt build MODEL --draft MODEL -o {bundle.path}"
        )
    return replace(choice, num_speculative_tokens=tokens or max(1, _favoured_tokens(bundle)))


def _auto(bundle: Bundle, num_speculative_tokens: int | None) -> MethodChoice:
    """Speculative where the bundle has a draft and the measured step times do not speak against."""
    tokens = num_speculative_tokens
    if tokens is None:
        tokens = _favoured_tokens(bundle) if bundle.has_draft else 0
    if tokens == 0 or not bundle.has_draft:
        return MethodChoice("autoregressive")
    return MethodChoice("speculative", tokens)


def _favoured_tokens(bundle: Bundle) -> int:
    """The draft length that the measured step times favour; a usual one before they exist."""
    if bundle.curves is None:
        return _DEFAULT_SPECULATIVE_TOKENS
    from specrt.eval.draft_length import favoured_draft_length

    return favoured_draft_length(bundle.curves)


def _request(
    method: str, num_speculative_tokens: int | None, config: Mapping[str, object] | None
) -> _Request:
    lookup = None
    if config is not None:
        if method != "auto" or num_speculative_tokens is not None:
            raise ValueError(
                "give speculative_config or method and num_speculative_tokens, not both"
            )
        unknown = sorted(set(config) - set(_CONFIG_KEYS))
        if unknown:
            raise ValueError(
                f"speculative_config has {', '.join(unknown)}; specrt reads "
                f"{', '.join(_CONFIG_KEYS)}"
            )
        named = config.get("method", "speculative")
        if not isinstance(named, str):
            raise ValueError(f"speculative_config's method must be a name, not {named!r}")
        method = named
        tokens = config.get("num_speculative_tokens")
        num_speculative_tokens = None if tokens is None else _tokens(tokens)
        lookup = _lookup(config)
    elif num_speculative_tokens is not None:
        _tokens(num_speculative_tokens)
    method = _ALIASES.get(method, method)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if lookup is not None and "ngram" not in method:
        raise ValueError(f"prompt_lookup_max and _min belong to n-gram methods, not {method!r}")
    return _Request(method, num_speculative_tokens, lookup)


def _tokens(value: object) -> int:
    return _integer("num_speculative_tokens", value, 1, _MAX_SPECULATIVE_TOKENS)


def _lookup(config: Mapping[str, object]) -> tuple[int, int] | None:
    """Fewest and most matching tokens, in vLLM's words; one of them stands for both."""
    most, fewest = config.get("prompt_lookup_max"), config.get("prompt_lookup_min")
    if most is None and fewest is None:
        return None
    most = fewest if most is None else most
    longest = _integer("prompt_lookup_max", most, 1, _MAX_LOOKUP)
    fewest = most if fewest is None else fewest
    return _integer("prompt_lookup_min", fewest, 1, longest), longest


def _integer(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be an integer, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], not {value}")
    return value
