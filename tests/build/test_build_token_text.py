"""The token table: bytes of every token, as the tokenizers library decodes them."""

import json
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt.build.errors import BuildError
from specrt.build.token_text import token_table
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers


def unpack(table: bytes, vocab: int) -> tuple[int, list[bytes]]:
    flags, *offsets = struct.unpack_from(f"<{vocab + 2}I", table)
    text = table[4 * (vocab + 2) :]
    assert offsets[-1] == len(text)
    return flags, [text[a:b] for a, b in pairwise(offsets)]


def test_byte_level(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    words = ["the caf\u00e9 \u2603 is open", "na\u00efve \U0001f600 text", "the the the"] * 3
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer.add_tokens(["<plain>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    flags, texts = unpack(token_table(tmp_path / "tokenizer.json", size + 3), size + 3)
    assert flags == 0
    for text in ["the caf\u00e9 \u2603", "\U0001f600<plain><|end|> x", "\x00\x7f\u0080\uffff"]:
        ids = tokenizer.encode(text).ids
        joined = b"".join(texts[token] for token in ids).decode(errors="replace")
        assert joined == tokenizer.decode(ids, skip_special_tokens=True)
    assert texts[-3:] == [b""] * 3


def test_sentence_piece(tmp_path: Path) -> None:
    bytes_ = {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **bytes_, "\u2581the": 259, "\u2581": 260, "x": 261}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    flags, texts = unpack(token_table(tmp_path / "tokenizer.json", 262), 262)
    assert flags == 1
    for ids in ([1, 259, 260, 261, 2], [261, 259, 3 + 0xE2, 3 + 0x98, 3 + 0x83], [259, 259]):
        joined = b"".join(texts[token] for token in ids).removeprefix(b" ").decode()
        assert joined == tokenizer.decode(ids, skip_special_tokens=True)


def test_an_unknown_decoder_has_no_table(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"decoder": {"type": "WordPiece"}}))
    assert token_table(tmp_path / "tokenizer.json", 10) == b""


@pytest.mark.parametrize("damage", ["model", "vocab", "added"])
def test_a_damaged_tokenizer_is_refused(damage: str, tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "model", TinyLlama())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    if damage == "model":
        tokenizer["model"] = 3
    elif damage == "vocab":
        tokenizer["model"]["vocab"]["a"] = 10**9
    else:
        tokenizer["added_tokens"][0] = {"id": 0}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BuildError, match=r"tokenizer\.json"):
        token_table(folder / "tokenizer.json", 277)
