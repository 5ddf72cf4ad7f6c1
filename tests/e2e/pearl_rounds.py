"""Rounds of PEARL (arXiv 2408.11850) as the paper's rules give them, for any way of drafting."""

from collections.abc import Callable, Sequence

# Tokens drafted behind the first list, of which so many are committed, at most so many.
Draft = Callable[[list[int], int, int], list[int]]


def pearl_rounds(
    text: Sequence[int], committed: int, length: int, draft: Draft
) -> list[tuple[int, int]]:
    """Tokens drafted and accepted in every round of a greedy answer.

    A round verifies the tail, drafted in the round before, and the first token of the draft made
    meanwhile. If all hold, that draft is the next tail.

    Args:
        text: what the target answers, prompt included.
        committed: tokens of it that are there when the first round begins.
        length: tokens of a draft.
        draft: what the drafter proposes.
    """
    rounds: list[tuple[int, int]] = []
    tail: list[int] = []  # drafted before, not verified
    while committed < len(text):
        known = [*text[:committed], *tail]
        drafted = draft(known, committed, max(0, min(length, len(text) - len(known))))
        unsure = [*tail, *drafted[:1]]
        held = 0
        while held < len(unsure) and unsure[held] == text[committed + held]:
            held += 1
            if committed + held == len(text):
                break
        rounds.append((len(drafted), held))
        survives = held == len(tail) + 1 and drafted and committed + held < len(text)
        committed += held if survives else min(held + 1, len(text) - committed)
        tail = drafted[1:] if survives else []
    return rounds
