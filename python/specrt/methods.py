"""Which decoding method runs: names, aliases, and what `auto` means."""

from collections.abc import Mapping
from dataclasses import dataclass

from specrt.bundle import Bundle

METHODS = ("auto", "autoregressive", "speculative")

# vLLM's words for the same thing.
_ALIASES = {"draft_model": "speculative"}

_MAX_SPECULATIVE_TOKENS = 63
_DEFAULT_SPECULATIVE_TOKENS = 4


@dataclass(frozen=True)
class MethodChoice:
    """A method and the tokens that it drafts in a round (0: none)."""

    method: str
    num_speculative_tokens: int


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
    if speculative_config is not None:
        method, num_speculative_tokens = _from_config(
            method, num_speculative_tokens, speculative_config
        )
    method = _ALIASES.get(method, method)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if num_speculative_tokens is not None:
        _check_tokens(num_speculative_tokens)
    if method == "auto":
        return _auto(bundle, num_speculative_tokens)
    if method == "autoregressive":
        if num_speculative_tokens is not None:
            raise ValueError(
                'num_speculative_tokens needs a method that drafts, not "autoregressive"'
            )
        return MethodChoice(method, 0)
    if not bundle.has_draft:
        raise ValueError(
            f"{bundle.path} has no draft model; build it with: "
            f"specrt build MODEL --draft MODEL -o {bundle.path}"
        )
    return MethodChoice(method, num_speculative_tokens or max(1, _favoured_tokens(bundle)))


def _auto(bundle: Bundle, num_speculative_tokens: int | None) -> MethodChoice:
    """Speculative where the bundle has a draft and the measured step times do not speak against."""
    tokens = num_speculative_tokens
    if tokens is None:
        tokens = _favoured_tokens(bundle) if bundle.has_draft else 0
    if tokens == 0 or not bundle.has_draft:
        return MethodChoice("autoregressive", 0)
    return MethodChoice("speculative", tokens)


def _favoured_tokens(bundle: Bundle) -> int:
    """The draft length that the measured step times favour; a usual one before they exist."""
    if bundle.curves is None:
        return _DEFAULT_SPECULATIVE_TOKENS
    from specrt.eval.draft_length import favoured_draft_length

    return favoured_draft_length(bundle.curves)


def _from_config(
    method: str, num_speculative_tokens: int | None, config: Mapping[str, object]
) -> tuple[str, int | None]:
    known = {"method", "num_speculative_tokens"}
    unknown = sorted(set(config) - known)
    if unknown:
        raise ValueError(
            f"speculative_config has {', '.join(unknown)}; specrt reads {', '.join(sorted(known))}"
        )
    if method != "auto" or num_speculative_tokens is not None:
        raise ValueError("give speculative_config or method and num_speculative_tokens, not both")
    tokens = config.get("num_speculative_tokens")
    if tokens is not None:
        _check_tokens(tokens)
    named = config.get("method", "speculative")
    if not isinstance(named, str):
        raise ValueError(f"speculative_config's method must be a name, not {named!r}")
    return named, tokens if isinstance(tokens, int) else None


def _check_tokens(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"num_speculative_tokens must be an integer, not {value!r}")
    if not 1 <= value <= _MAX_SPECULATIVE_TOKENS:
        raise ValueError(
            f"num_speculative_tokens must be in [1, {_MAX_SPECULATIVE_TOKENS}], not {value}"
        )
