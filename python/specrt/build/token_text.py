"""The bytes of every token, from a tokenizer's own description of how it decodes.

Two kinds of decoders are known: byte-level BPE (GPT-2's table of printable stand-ins for bytes) and
SentencePiece's (U+2581 for a space, <0xNN> for a byte). For any other there is no table, and the
runtime leaves text to the tokenizers library.
"""

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specrt.build.errors import BuildError
from specrt.build.json_file import TOKENIZER_LIMIT, read_json

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_STRIPS_SPACE = 1
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def token_table(path: Path, vocab: int) -> bytes:
    """The table of `vocab` tokens as an engine holds it; b"" if the decoder is not known.

    u32 flags (1: a completion begins without the space that its first token may carry), u32 offsets
    (vocab + 1), little endian, then the text. Special tokens, and ids that no token has, are empty.
    Raises BuildError for a damaged tokenizer.json.
    """
    tokenizer = read_json(path, TOKENIZER_LIMIT)
    kinds = _decoder_kinds(tokenizer.get("decoder"))
    to_bytes = {"ByteLevel": _byte_level, "ByteFallback": _sentence_piece}
    known = [to_bytes[kind] for kind in kinds if kind in to_bytes]
    if len(known) != 1:
        return b""
    texts = [b""] * vocab
    try:
        for token, number in tokenizer["model"]["vocab"].items():
            texts[number] = known[0](token)
        for added in tokenizer.get("added_tokens", []):
            texts[added["id"]] = b"" if added["special"] else added["content"].encode()
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise BuildError(f"{path} is not a tokenizer that can be read: {error!r}") from None
    return _pack(_STRIPS_SPACE if "Strip" in kinds else 0, texts)


def _pack(flags: int, texts: Sequence[bytes]) -> bytes:
    offsets = [0]
    for text in texts:
        offsets.append(offsets[-1] + len(text))
    return struct.pack(f"<{1 + len(offsets)}I", flags, *offsets) + b"".join(texts)


def _decoder_kinds(decoder: Any) -> list[str]:
    """Names of the decoder and of those inside of it."""
    if not isinstance(decoder, dict):
        return []
    inner = decoder.get("decoders")
    parts = [kind for part in inner for kind in _decoder_kinds(part)] if inner else []
    return [str(decoder.get("type")), *parts]


def _stand_ins() -> dict[str, int]:
    """Byte of every printable stand-in (GPT-2, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    table.update({chr(0x100 + number): byte for number, byte in enumerate(others)})
    return table


_BYTE_OF = _stand_ins()


def _byte_level(token: str) -> bytes:
    if all(character in _BYTE_OF for character in token):
        return bytes(_BYTE_OF[character] for character in token)
    return token.encode()  # as the tokenizers library does


def _sentence_piece(token: str) -> bytes:
    found = _BYTE_TOKEN.fullmatch(token)
    if found:
        return bytes([int(found[1], 16)])
    return token.replace(_SPACE, " ").encode()
