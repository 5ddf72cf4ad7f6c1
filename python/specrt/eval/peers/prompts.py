"""Prompts as every peer is fed them: one tokenizer, one chat template, the same token ids."""

from collections.abc import Sequence
from pathlib import Path

from specrt.eval.peers.records import Prompt
from specrt.eval.prompts import read_prompts
from specrt.tokenizer import Tokenizer


class Text:
    """Tokenizer and chat template of a Hugging Face folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer(folder)

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`, special tokens in it recognized, none added."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens."""
        return self._tokenizer.decode(ids)

    def chat(self, prompt: str) -> str:
        """`prompt` as the user's turn of the chat template; unchanged if there is none."""
        if not self._tokenizer.has_chat_template:
            return prompt
        return self._tokenizer.apply_chat_template([{"role": "user", "content": prompt}])

    def prompt(self, name: str, text: str) -> Prompt:
        """A prompt from the user's text."""
        rendered = self.chat(text)
        return Prompt(name, rendered, self.encode(rendered))


def load_prompts(text: Text, paths: Sequence[Path], limit: int) -> list[Prompt]:
    """The first `limit` prompts of each file; of those with several turns, the first.

    Raises:
        ValueError: a file cannot be read, or a row has no prompt.
    """
    rows = [row for path in paths for row in read_prompts(path, limit)]
    return [text.prompt(str(row.id), row.text) for row in rows]
