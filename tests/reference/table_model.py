"""Models whose logits are a hash of the whole context, and direct sampling from them.

A wrong token, position or visible set anywhere changes everything that follows, so loops over such
a model show every mistake. All integers are 64-bit and wrap; the logits are exact in float32:

    mix(x): x ^= x >> 30; x *= 0xBF58476D1CE4E5B9; x ^= x >> 27; x *= 0x94D049BB133111EB;
            x ^= x >> 31                                   (splitmix64, Steele et al. 2014)
    state = mix(salt); for each token t: state = mix(state ^ (t + 1))
    logit of v = (mix(state + (v + 1) * 0x9E3779B97F4A7C15) >> 40) * 2^-21 - 4      in [-4, 4)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import numpy as np

from .arrays import Doubles
from .pick import pick
from .warp import Sampling

WORD = 0xFFFFFFFFFFFFFFFF
GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    """Finaliser of splitmix64."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def context_hash(context: Sequence[int], salt: int) -> int:
    """64-bit hash of a token sequence."""
    state = mix(salt & WORD)
    for token in context:
        state = mix(state ^ (token + 1))
    return state


class Model(Protocol):
    """Anything that gives logits for the token behind a context."""

    def logits(self, context: Sequence[int]) -> Doubles:
        """Logits (v,) of the next token."""


@dataclass(frozen=True)
class TableModel:
    """A random model: every context has logits of its own."""

    vocab: int
    salt: int = 0

    def logits(self, context: Sequence[int]) -> Doubles:
        """Logits (v,) in [-4, 4), multiples of 2^-21."""
        state = context_hash(context, self.salt)
        draws = [mix((state + (v + 1) * GOLDEN) & WORD) >> 40 for v in range(self.vocab)]
        return np.array(draws, dtype=np.float64) * 2.0**-21 - 4.0


@dataclass(frozen=True)
class NoisyModel:
    """A drafter that agrees with `model`, except in a share `error` of all contexts.

    There its logits are another table's: error 0 is a perfect drafter, 1 an unrelated one.
    """

    model: TableModel
    error: float
    salt: int = 1

    def logits(self, context: Sequence[int]) -> Doubles:
        """Logits (v,) of the model, or of an unrelated table."""
        wrong = context_hash(context, ~self.salt) * 2.0**-64 < self.error
        return (TableModel(self.model.vocab, self.salt) if wrong else self.model).logits(context)


@dataclass(frozen=True)
class OppositeModel:
    """A drafter that ranks tokens the other way round: useless at temperature 0."""

    model: TableModel

    def logits(self, context: Sequence[int]) -> Doubles:
        """Negated logits (v,)."""
        return -self.model.logits(context)


class Stop(IntEnum):
    """Why a sequence ended, as the `stop` cell holds it."""

    RUN = 0
    EOS = 1
    LIMIT = 2
    HOST = 3


@dataclass(frozen=True)
class Options:
    """One request."""

    max_tokens: int
    context: int = 1 << 20  # positions that the target has
    eos: frozenset[int] = frozenset()
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)

    def limit(self, prompt_length: int) -> int:
        """Largest sequence length allowed, prompt included."""
        limit = min(prompt_length + self.max_tokens, self.context)
        if not 1 <= prompt_length < limit:
            raise ValueError(f"prompt of {prompt_length} tokens does not fit below {limit}")
        return limit


@dataclass(frozen=True)
class Generation:
    """New tokens (a final EOS included) and why they ended."""

    tokens: tuple[int, ...]
    finish: Stop


def stop_after(token: int, length: int, limit: int, eos: frozenset[int]) -> Stop:
    """State of a sequence of `length` tokens that ends in `token`; EOS goes before the limit."""
    if token in eos:
        return Stop.EOS
    return Stop.LIMIT if length == limit else Stop.RUN


def generate(model: Model, prompt: Sequence[int], options: Options) -> Generation:
    """Autoregressive sampling with rule `exact`: the output that every method must give."""
    tokens, limit, stop = list(prompt), options.limit(len(prompt)), Stop.RUN
    while stop is Stop.RUN:
        y = pick(model.logits(tokens), len(tokens), options.seed, options.sampling)
        tokens.append(y)
        stop = stop_after(y, len(tokens), limit, options.eos)
    return Generation(tuple(tokens[len(prompt) :]), stop)
