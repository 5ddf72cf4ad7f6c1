"""Checks a model's tokenizer and copies it into a bundle, chat template included."""

import json
from pathlib import Path

from specrt.build.errors import BuildError
from specrt.build.json_file import TOKENIZER_LIMIT, read_json
from specrt.chat_template import MAX_TEMPLATE_CHARACTERS
from specrt.json_file import read_bytes
from specrt.tokenizer import library_errors

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"


def read_vocabulary(folder: Path, vocab: int) -> dict[str, int] | None:
    """Token -> id map of a folder's tokenizer, None if it has none. Raises BuildError.

    Ids must be below `vocab`, the rows of the model's embedding.
    """
    from tokenizers import Tokenizer

    path = folder / TOKENIZER
    if not path.exists():
        return None
    content = read_bytes(path, TOKENIZER_LIMIT, BuildError)
    with library_errors(f"{path} is not a tokenizer that can be read", BuildError):
        tokenizer = Tokenizer.from_buffer(content)
        tokens: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    token, largest = max(tokens.items(), key=lambda item: item[1], default=("", -1))
    if largest >= vocab:
        raise BuildError(
            f"{path}: token {token!r} has id {largest}, but the model has {vocab} tokens; "
            "the tokenizer belongs to another model"
        )
    return tokens


def check_same_vocabulary(target: dict[str, int], draft: dict[str, int]) -> None:
    """Raise BuildError that names the first token, in order of ids, on which two differ."""
    for token in (*sorted(target, key=target.__getitem__), *sorted(draft, key=draft.__getitem__)):
        if target.get(token) != draft.get(token):
            raise BuildError(
                f"the draft has another tokenizer: {token!r} is id {target.get(token)} in the "
                f"target and {draft.get(token)} in the draft. Use a draft trained with the "
                "target's tokenizer"
            )


def copy_tokenizer(source: Path, bundle: Path) -> None:
    """Copy the tokenizer; tokenizer_config.json takes up the chat template. Raises BuildError."""
    (bundle / TOKENIZER).write_bytes((source / TOKENIZER).read_bytes())
    config, template = source / TOKENIZER_CONFIG, source / CHAT_TEMPLATE
    settings = read_json(config, TOKENIZER_LIMIT) if config.exists() else {}
    if template.exists():
        if template.stat().st_size > MAX_TEMPLATE_CHARACTERS:
            raise BuildError(f"{template} is larger than {MAX_TEMPLATE_CHARACTERS} bytes")
        try:
            settings["chat_template"] = template.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise BuildError(f"{template} is not UTF-8 text") from error
    named = settings.get("chat_template")
    if isinstance(named, list):  # several templates; the default one is the chat template
        default = (e for e in named if isinstance(e, dict) and e.get("name") == "default")
        settings["chat_template"] = next(default, {}).get("template")
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (bundle / TOKENIZER_CONFIG).write_text(text, encoding="utf-8")
