"""Text to tokens and back, and chat templates."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as HfTokenizer

from specrt._core import Error
from specrt.conversation import Conversation, checked_conversation
from specrt.json_file import read_bytes, read_json

if TYPE_CHECKING:
    from specrt.chat_template import ChatTemplate

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
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("the text holds half of a surrogate pair; it is not Unicode") from None
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
        self, messages: Conversation, *, add_generation_prompt: bool = True
    ) -> str:
        """Renders `messages` ({"role", "content"} each) as the model was trained to read them.

        Raises:
            ValueError: the bundle has no template, the messages are none, or the template refuses
                them; `chat_template.py` says how a template is kept in bounds.
        """
        return self._chat_template.render(
            checked_conversation(messages),
            add_generation_prompt=add_generation_prompt,
            tools=None,
            documents=None,
            **self._special_tokens(),
        )

    def encode_chat(self, messages: Conversation) -> list[int]:
        """Token ids of a conversation, up to where the assistant answers.

        A template writes the special tokens itself, so none are added to what it makes.
        """
        return self.encode(self.apply_chat_template(messages), add_special_tokens=False)

    @cached_property
    def _chat_template(self) -> "ChatTemplate":
        if not self.has_chat_template:
            raise ValueError(
                "this bundle has no chat template; complete plain prompts with LLM.generate or "
                "`specrt generate --raw`"
            )
        from specrt.chat_template import ChatTemplate  # jinja2 only where a conversation needs it

        return ChatTemplate(self._config["chat_template"])

    def _special_tokens(self) -> dict[str, str]:
        """bos_token and its like, those that the tokenizer has."""
        tokens = {}
        for name, token in self._config.items():
            text = token.get("content") if isinstance(token, dict) else token
            if name.endswith("_token") and isinstance(text, str):
                tokens[name] = text
        return tokens


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
