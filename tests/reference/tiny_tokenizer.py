"""A byte-level tokenizer without merges: specials first, then one token per byte."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIALS = {
    "<|endoftext|>": 0,
    "<|user|>": 1,
    "<|assistant|>": 2,
    "<|end|>": 3,
    "<|system|>": 4,
    "<|pad|>": 5,
    "<|mask|>": 6,
}
VOCAB = len(SPECIALS) + 256

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_characters() -> list[str]:
    """Printable stand-in of every byte, in byte order (the table of GPT-2's `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [
        chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256)
    ]


def byte_tokenizer() -> Tokenizer:
    """Build the tokenizer; byte b is token len(SPECIALS) + b."""
    vocab = dict(SPECIALS)
    vocab.update({char: len(SPECIALS) + byte for byte, char in enumerate(byte_characters())})
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    return tokenizer


def write_tokenizer(folder: Path, context: int) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {
        "bos_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|end|>",
        "model_max_length": context,
        "pad_token": "<|pad|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    text = json.dumps(settings, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
