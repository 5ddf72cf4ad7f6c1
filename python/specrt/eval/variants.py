"""Methods with settings of their own in one run: METHOD@SETTING+SETTING.

"pearl@pre_verify_only" is "pearl" with one of its phases; "streaming@tokens=2+nodes=8+kept=4" has
at most two drafted tokens on a path, eight in a tree, and four rows that are not pruned.
"""

from typing import Any

from specrt.methods import PHASES

# Arguments of `LLM` by what stands for them.
_NUMBERS = {"tokens": "num_speculative_tokens", "nodes": "tree_nodes", "kept": "kept_nodes"}


def parse_variant(name: str) -> tuple[str, dict[str, Any]]:
    """The method of a name and the arguments of `LLM` that it sets.

    Raises:
        ValueError: a setting is none of those above.
    """
    method, _, text = name.partition("@")
    settings: dict[str, Any] = {}
    for setting in text.split("+") if text else ():
        key, _, value = setting.partition("=")
        if setting in PHASES:
            settings["phases"] = setting
        elif key in _NUMBERS and value.isdecimal():
            settings[_NUMBERS[key]] = int(value)
        else:
            known = ", ".join((*PHASES, *(f"{key}=N" for key in _NUMBERS)))
            raise ValueError(f"{name!r} has {setting!r}; behind @ may stand {known}")
    return method, settings
