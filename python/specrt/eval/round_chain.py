"""Rounds of a decoding loop as a Markov chain, by what the rounds before left behind.

Loops judge the draft model's tokens one by one and begin anew behind a wrong one. So a chain is a
ladder: rounds in which all tokens are right lead upwards, any wrong one leads back to state 0.

speculative  Every round has k + 1 rows. The last, which gives the bonus, leaves open whether the
             draft model would have been right there, but the text goes on all the same.
pearl        Liu et al., PEARL (arXiv 2408.11850). While the target verifies, the draft model drafts
             the next gamma tokens. Behind a refusal there is nothing to verify but the first of
             them (pre-verify, one row). If it holds, the draft becomes the tail: the next round
             verifies its other gamma - 1 tokens and the first of the draft behind it (post-verify,
             gamma rows), and so on until one is refused.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specrt.eval.acceptance import Acceptance


@dataclass(frozen=True)
class RoundChain:
    """States of rounds; state 0 follows a wrong token.

    Attributes:
        first: position of the first judged token in each state.
        rows: rows that the target feeds.
        tokens: that such a round commits on average.
        transition: [from, to], probabilities; from the last state a round without a wrong token
            leads to itself.
    """

    first: tuple[int, ...]
    rows: tuple[int, ...]
    tokens: tuple[float, ...]
    transition: NDArray[np.float64]

    def stationary(self) -> NDArray[np.float64]:
        """Share of rounds in each state in the long run: pi = pi * transition, sum 1."""
        states = len(self.rows)
        equations = self.transition.T - np.eye(states)
        equations[-1] = 1.0  # one of them follows from the others
        return np.linalg.solve(equations, np.eye(states)[-1])

    def tokens_per_round(self) -> float:
        """Tokens that a round commits on average in the long run."""
        return float(self.stationary() @ np.array(self.tokens))


def speculative_chain(acceptance: Acceptance, draft_length: int) -> RoundChain:
    """Lockstep rounds that draft `draft_length` tokens, at least 0."""
    if draft_length < 0:
        raise ValueError(f"draft_length must be >= 0, not {draft_length}")
    return _ladder(acceptance, draft_length + 1, draft_length + 1)


def pearl_chain(acceptance: Acceptance, gamma: int) -> RoundChain:
    """PEARL's rounds of `gamma` drafted tokens, at least 1: pre-verify, then post-verify.

    With i.i.d. acceptance these are the two states of the paper.
    """
    if gamma < 1:
        raise ValueError(f"gamma must be >= 1, not {gamma}")
    return _ladder(acceptance, 1, gamma)


def _ladder(acceptance: Acceptance, rows_at_first: int, rows_later: int) -> RoundChain:
    """States up to the first that repeats: level acceptance, and as many rows as all later ones.

    Also up to one that never leads upwards; what is behind it is never reached.
    """
    first, rows = [0], [rows_at_first]
    holds = [acceptance.all_accepted(0, rows_at_first)]
    while holds[-1] > 0.0 and (first[-1] < acceptance.last or rows[-1] != rows_later):
        first.append(first[-1] + rows[-1])
        rows.append(rows_later)
        holds.append(acceptance.all_accepted(first[-1], rows_later))
    states = len(rows)
    transition = np.zeros((states, states))
    for state, hold in enumerate(holds):
        transition[state, 0] += 1.0 - hold
        transition[state, min(state + 1, states - 1)] += hold
    tokens = (acceptance.committed(at, count) for at, count in zip(first, rows, strict=True))
    return RoundChain(tuple(first), tuple(rows), tuple(tokens), transition)


def pearl_tokens_per_round(acceptance: float, gamma: int) -> float:
    """PEARL's tokens per round for i.i.d. acceptance, in closed form.

    A round holds with probability a in pre-verify and a^g in post-verify, so that the share of
    post-verify rounds is a / (1 + a - a^g); they commit (1 - a^g) / (1 - a) tokens, the others one:
    (1 - a^g) / ((1 - a) (1 + a - a^g)). With g = t_target / t_draft on separate devices it is the
    speed-up, at most g.
    """
    if acceptance == 1.0:
        return float(gamma)
    held = acceptance**gamma
    return (1.0 - held) / ((1.0 - acceptance) * (1.0 + acceptance - held))
