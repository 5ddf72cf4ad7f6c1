"""The choice of a token under rule `exact`: Gumbel-max with keyed noise.

The choice depends on the row, the seed and the position of the chosen token, and on nothing else,
so every drafting method gives the same tokens.
"""

import numpy as np

from .arrays import Floats, Ints
from .gumbel import gumbel
from .warp import Sampling, warped_logits


def pick(
    row: Floats,
    position: int,
    seed: int,
    sampling: Sampling,
    token_ids: Ints | None = None,
) -> int:
    """Index into row (v,): argmax over the survivors of logit / T + G(seed, position, token id).

    `token_ids` (v,) are the target's ids of a drafter with a vocabulary of its own; without it,
    entry i is token i. Temperature 0 is the argmax. Ties go to the lowest index.
    """
    if sampling.temperature == 0:
        return int(np.argmax(row))
    ids = np.arange(len(row)) if token_ids is None else token_ids
    return int(np.argmax(warped_logits(row, sampling) + gumbel(seed, position, ids)))
