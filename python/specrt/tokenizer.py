"""Text to tokens and back, and chat templates."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HfTokenizer

from specrt._core import Error
from specrt.json_file import read_bytes, read_json

_TOKENIZER_LIMIT = 256 << 20  # bytes


@contextmanager
def library_errors(what: str, error: type[Exception]) -> Iterator[None]:
    """Turns whatever the tokenizers library throws into one line of `error`, begun by `what`.

    It raises plain Exception, and where its Rust code panics a BaseException of its own.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as failure:
        raise error(f"{what}: {' '.join(str(failure).split())}") from None


class Tokenizer:
    """The tokenizer of a bundle folder.

    Raises:
        Error: `tokenizer.json` is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "tokenizer.json"
        content = read_bytes(self._file, _TOKENIZER_LIMIT, Error)
        with library_errors(f"cannot load {self._file}", Error):
            self._tokenizer = HfTokenizer.from_buffer(content)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; special tokens as the tokenizer's own rules add them.

        Raises:
            ValueError: `text` holds half of a surrogate pair.
            Error: the tokenizer is damaged.
        """
        text.encode()
        with library_errors(f"{self._file} cannot encode the text", Error):
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids`, special tokens left out. Raises Error for a damaged tokenizer."""
        with library_errors(f"{self._file} cannot decode tokens", Error):
            text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    @cached_property
    def _config(self) -> dict[str, Any]:
        file = self._folder / "tokenizer_config.json"
        return read_json(file, _TOKENIZER_LIMIT, Error) if os.path.lexists(file) else {}

    @property
    def has_chat_template(self) -> bool:
        """Whether `apply_chat_template` can be used."""
        return isinstance(self._config.get("chat_template"), str)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True
    ) -> str:
        """Renders `messages` ({"role", "content"} each) as the model was trained to read them.

        The template comes with the model and is not trusted: it runs in jinja2's sandbox.

        Raises:
            ValueError: the bundle has no template, or the template refuses the messages.
            Error: the template is damaged.
        """
        if not self.has_chat_template:
            raise ValueError("this bundle has no chat template; pass plain prompts instead")
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class RefusedError(TemplateError):
            """The template's own word on the messages."""

        def raise_exception(message: object) -> None:
            raise RefusedError(str(message))

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = raise_exception
        tokens = {
            name: self._special_token(name) for name in ("bos_token", "eos_token", "pad_token")
        }
        try:
            template = environment.from_string(self._config["chat_template"])
            text = template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                **tokens,
            )
            text.encode()  # refuses half of a surrogate pair
            return text
        except RefusedError as error:
            raise ValueError(f"the chat template refuses the messages: {error}") from None
        except Exception as error:  # a template is a program, so it can raise anything
            raise Error(f"the chat template of {self._folder} failed: {error!r}") from None

    def _special_token(self, name: str) -> str:
        token = self._config.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        return token if isinstance(token, str) else ""


class IncrementalDecoder:
    """Turns tokens into text as they come, never splitting a character.

    Tokens whose text could still change (half of a UTF-8 character) wait for the next ones, so the
    pieces joined, `flush` included, are exactly `Tokenizer.decode` of all tokens.
    """

    _WINDOW_TOKENS = 8

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        self._begin = 0  # the text of tokens before this one is out for good
        self._sent = ""  # what is out of the text of tokens from `_begin` on

    def push(self, token_ids: Sequence[int]) -> str:
        """Text that is certain now."""
        self._token_ids.extend(token_ids)
        text = self._tokenizer.decode(self._token_ids[self._begin :])
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        piece = text.removeprefix(self._sent)
        self._sent = text
        self._move_window()
        return piece

    def flush(self) -> str:
        """The rest, incomplete characters included."""
        text = self._tokenizer.decode(self._token_ids[self._begin :])
        piece = text.removeprefix(self._sent)
        self._sent = text
        return piece

    def _move_window(self) -> None:
        """Keeps a few tokens of context, as some decoders treat the first token in another way."""
        begin = len(self._token_ids) - self._WINDOW_TOKENS
        if begin - self._begin < self._WINDOW_TOKENS:
            return
        head = self._tokenizer.decode(self._token_ids[self._begin : begin])
        tail = self._tokenizer.decode(self._token_ids[begin:])
        if head + tail == self._sent:
            self._begin, self._sent = begin, tail
