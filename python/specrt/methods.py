"""Which decoding method runs: names, aliases, and what `auto` means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from specrt.bundle import Bundle
from specrt.curves import fastest_method

_PEARL = "pearl"
STREAMING = "streaming"
METHODS = (
    "auto",
    "autoregressive",
    "speculative",
    "ngram",
    "ngram+speculative",
    "parallel",
    "parallel-eagle",
    "parallel-medusa",
    "medusa",
    "eagle",
    STREAMING,
    _PEARL,
    f"{_PEARL}:ngram",
    f"{_PEARL}:ngram+speculative",
    f"{_PEARL}:parallel",
    f"{_PEARL}:parallel-eagle",
    f"{_PEARL}:parallel-medusa",
    f"{_PEARL}:medusa",
    f"{_PEARL}:eagle",
)

RULES = ("exact", "rejection", "block")  # how drafted tokens are judged
PHASES = ("both", "pre_verify_only", "post_verify_only")  # what PEARL does ahead

# The first are vLLM's words for the same thing.
_ALIASES = {
    "draft_model": "speculative",
    f"{_PEARL}:speculative": _PEARL,
    f"{_PEARL}:draft_model": _PEARL,
}

_CONFIG_KEYS = ("method", "num_speculative_tokens", "prompt_lookup_max", "prompt_lookup_min")
_MAX_LOOKUP = 16
_DEFAULT_LOOKUP = (2, 4)

# The engine that drafts, by the part of a method's name that says so.
_DRAFTER_OF = {
    "speculative": "draft",
    "ngram+speculative": "draft",
    _PEARL: "draft",
    "parallel": "parallel",
    "parallel-eagle": "parallel-eagle",
    "parallel-medusa": "parallel-medusa",
    "medusa": "medusa",
    "eagle": "eagle",
}
_OPTION_OF = {
    "draft": "--draft MODEL",
    "parallel": "--draft MODEL, a model that fills masks (specrt train parallel)",
    "parallel-eagle": "--draft MODEL, a P-EAGLE drafter of this target",
    "parallel-medusa": "--draft MODEL, a drafter of specrt train parallel-medusa",
    "medusa": "--draft MODEL, Medusa heads of this target",
    "eagle": "--draft MODEL, an EAGLE drafter of this target",
}
_MISSING = {
    "draft": "draft model",
    "parallel": "parallel drafter",
    "parallel-eagle": "P-EAGLE drafter",
    "parallel-medusa": "parallel Medusa drafter",
    "medusa": "Medusa heads",
    "eagle": "EAGLE drafter",
}

DRAFTERS = tuple(_OPTION_OF)
# Engines that make all tokens of a draft in one step.
AT_ONCE = ("parallel", "parallel-eagle", "parallel-medusa", "medusa")
# Methods whose drafter takes a step for each token of a chain, or each depth of a tree.
BY_DEPTH = ("speculative", "eagle")

# Drafting with a lookup takes no time that could be hidden behind a step.
_NEVER_FASTEST = (f"{_PEARL}:ngram", f"{_PEARL}:ngram+speculative")

MOST_TREE_NODES = 63  # a step has 64 rows
_MAX_SPECULATIVE_TOKENS = 63
_DEFAULT_SPECULATIVE_TOKENS = 4  # where no step times are known
_MOST_ADAPTIVE_TOKENS = 16


class Pace(NamedTuple):
    """Milliseconds that a step lasts at least, in paced mode."""

    target_ms: float
    draft_ms: float

    @property
    def text(self) -> str:
        """As results name it, so that nobody takes them for the machine's own speed."""
        return f"PACED: target steps {self.target_ms:g} ms, draft steps {self.draft_ms:g} ms"


@dataclass(frozen=True)
class MethodChoice:
    """A method as it runs.

    Attributes:
        method: one of METHODS but "auto".
        num_speculative_tokens: tokens that are drafted in a round at most; 0: none.
        lookup: fewest and most tokens that an n-gram lookup matches; None: no lookup.
        lengths: "fixed", every round drafts as many tokens; "adaptive", as many as should pay.
    """

    method: str
    num_speculative_tokens: int = 0
    lookup: tuple[int, int] | None = None
    lengths: Literal["fixed", "adaptive"] = "fixed"

    @property
    def drafter(self) -> str | None:
        """Name of the bundle's engine that drafts; None: none does."""
        return drafter_of(self.method)

    def trees(self, rule: str) -> bool:
        """Whether drafts can be trees."""
        return self.method in (*AT_ONCE, *BY_DEPTH, STREAMING) and rule == "exact"

    @property
    def prefers_trees(self) -> bool:
        """Whether drafts are trees where nothing else is asked for."""
        return self.trees("exact") and self.method != "speculative"

    @property
    def overlaps(self) -> bool:
        """Whether the next draft is made while the one before is verified (PEARL)."""
        return overlaps(self.method)


def drafter_of(method: str) -> str | None:
    """Name of the engine that drafts under `method`; None: none does."""
    return _DRAFTER_OF.get(method.removeprefix(f"{_PEARL}:"))


def overlaps(method: str) -> bool:
    """Whether `method` drafts and verifies at the same time."""
    return method.partition(":")[0] == _PEARL


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
    name = request.method if request.method != "auto" else _auto(bundle, tokens)
    if name == "autoregressive":
        if tokens is not None:
            raise ValueError(
                'num_speculative_tokens needs a method that drafts, not "autoregressive"'
            )
        return MethodChoice(name)
    drafter = drafter_of(name)
    if drafter is not None and drafter not in bundle.drafters:
        raise ValueError(
            f"{bundle.path} has no {_MISSING[drafter]}; build it with: "
            f"specrt build MODEL {_OPTION_OF[drafter]} -o {bundle.path}"
        )
    if name == STREAMING:
        return _streaming(bundle, tokens)
    heads = None if drafter is None else bundle.heads.get(drafter)
    if heads is not None and tokens is not None and tokens > heads:
        raise ValueError(
            f"num_speculative_tokens {tokens} is more than the {heads} heads of {bundle.path}; "
            "each drafts one"
        )
    lookup = request.lookup or _DEFAULT_LOOKUP if "ngram" in name else None
    if tokens is not None:
        return MethodChoice(name, tokens, lookup)
    most = heads or _MOST_ADAPTIVE_TOKENS
    if bundle.curves is None:
        return MethodChoice(name, min(most, _DEFAULT_SPECULATIVE_TOKENS), lookup)
    return MethodChoice(name, most, lookup, "adaptive")


def _streaming(bundle: Bundle, tokens: int | None) -> MethodChoice:
    if not bundle.streams:
        raise ValueError(
            f"the target of {bundle.path} has no streams; build it with: specrt build MODEL "
            f"--draft ADAPTER -o {bundle.path} (an adapter of specrt train streaming)"
        )
    if tokens is None:
        lengths: Literal["fixed", "adaptive"] = "fixed" if bundle.curves is None else "adaptive"
        return MethodChoice(STREAMING, bundle.streams, lengths=lengths)
    if tokens > bundle.streams:
        raise ValueError(
            f"num_speculative_tokens {tokens} is more than the {bundle.streams} streams that the "
            f"adapter of {bundle.path} was trained with"
        )
    return MethodChoice(STREAMING, tokens)


def available_methods(bundle: Bundle) -> list[str]:
    """The methods of `bundle` that "auto" chooses among."""
    never = ("auto", *_NEVER_FASTEST, *(() if bundle.streams else (STREAMING,)))
    return [
        name
        for name in METHODS
        if name not in never and drafter_of(name) in (None, *bundle.drafters)
    ]


def _auto(bundle: Bundle, num_speculative_tokens: int | None) -> str:
    """What measured fastest; before that, speculative where there is a draft model.

    Whoever gives a number of tokens wants drafts.
    """
    fastest = fastest_method(bundle.curves) if bundle.curves is not None else None
    drafting = "speculative" if bundle.has_draft else "ngram"
    if num_speculative_tokens is not None:
        return fastest if fastest not in (None, "autoregressive") else drafting
    if fastest in available_methods(bundle):
        return fastest
    return "speculative" if bundle.has_draft else "autoregressive"


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
