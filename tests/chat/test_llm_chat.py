"""LLM.chat and LLM.chat_stream: conversations in, the completions of their rendered prompts out."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from specrt import LLM, SamplingParams
from specrt.conversation import checked_conversation

GREEDY = SamplingParams(temperature=0, max_tokens=24)
CONVERSATION = [
    {"role": "user", "content": "Name a fruit."},
    {"role": "assistant", "content": "Plum."},
    {"role": "user", "content": "Another one."},
]


@pytest.fixture(scope="module")
def llm(demo_bundle: Path) -> LLM:
    return LLM(demo_bundle, threads=2)


def test_chat_completes_the_rendered_conversation(llm: LLM) -> None:
    prompt = (
        "<|user|>\nName a fruit.<|end|>\n<|assistant|>\nPlum.<|end|>\n"
        "<|user|>\nAnother one.<|end|>\n<|assistant|>\n"
    )
    [expected] = llm.generate(prompt, GREEDY)
    [answer] = llm.chat(CONVERSATION, GREEDY)
    assert answer.prompt_token_ids == expected.prompt_token_ids
    assert (answer.text, answer.token_ids) == (expected.text, expected.token_ids)


def test_several_conversations_are_answered_in_order(llm: LLM) -> None:
    others = [CONVERSATION[:1], CONVERSATION]
    outs = llm.chat(others, GREEDY)
    assert [out.text for out in outs] == [llm.chat(one, GREEDY)[0].text for one in others]
    assert outs[0].text != outs[1].text


def test_chat_stream_gives_the_answer_of_chat(llm: LLM) -> None:
    [expected] = llm.chat(CONVERSATION, GREEDY)
    chunks = list(llm.chat_stream(CONVERSATION, GREEDY))
    assert len(chunks) > 2
    assert "".join(chunk.text for chunk in chunks) == expected.text
    assert chunks[-1].output is not None
    assert chunks[-1].output.token_ids == expected.token_ids


def test_parts_of_content_are_joined_with_line_breaks(llm: LLM) -> None:
    parts = [{"type": "text", "text": "Name a"}, {"type": "text", "text": "fruit."}]
    [in_parts] = llm.chat([{"role": "user", "content": parts}], GREEDY)
    [whole] = llm.chat([{"role": "user", "content": "Name a\nfruit."}], GREEDY)
    assert in_parts.prompt_token_ids == whole.prompt_token_ids


def test_further_keys_reach_the_template() -> None:
    message = {"role": "tool", "content": "4", "tool": {"name": "add", "arguments": (1, 3)}}
    assert checked_conversation([message]) == [
        {"role": "tool", "content": "4", "tool": {"name": "add", "arguments": [1, 3]}}
    ]


USER = {"role": "user", "content": "Hello"}
BAD: list[tuple[object, str]] = [
    ("Hello", "messages must be a list of messages"),
    (USER, "messages must be a list of messages"),
    (None, "messages must be a list of messages"),
    ([], "messages is empty"),
    ([[]], r"messages[0] is empty"),
    (["Hello"], "messages[0] must be a list of messages"),
    ([USER, "Hello"], "messages[1] must be a mapping"),
    ([[USER], [USER, 3]], "messages[1][1] must be a mapping"),
    ([[USER], USER], "messages[1] must be a list of messages"),
    ([{"content": "Hello"}], 'messages[0] has no "role"'),
    ([USER, {"role": "user"}], 'messages[1] has no "content"'),
    ([{"role": 3, "content": "Hello"}], "messages[0]: role must be a text, not 3"),
    ([{"role": "user", "content": None}], "messages[0]: content must be a text"),
    ([{"role": "user", "content": []}], "messages[0]: content must be a text"),
    ([{"role": "user", "content": b"Hello"}], "messages[0] must hold texts"),
    ([{"role": "user", "content": ["Hello"]}], "content[0] is 'Hello'; specrt reads parts of type"),
    ([{"role": "user", "content": [{"type": "image_url"}]}], "content[0] is 'image_url'; specrt"),
    ([{"role": "user", "content": [{"type": "text"}]}], 'content[0] has no "text"'),
    ([USER | {"call": object()}], "messages[0] must hold texts, numbers, lists and mappings"),
    ([{"role": "user", "content": "\ud800"}], "it is not Unicode"),
    ([{"role": "user", "content": "long " * 3000}], "the context of 2048 leaves room for 2047"),
]


@pytest.mark.parametrize(("messages", "error"), BAD)
def test_what_is_no_conversation_is_refused_by_name(messages: Any, error: str, llm: LLM) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        llm.chat(messages)


def test_a_bundle_without_a_template_says_what_to_do(demo_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))
    file = bundle / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["chat_template"]
    file.write_text(json.dumps(settings))
    llm = LLM(bundle, threads=1)
    for chat in (llm.chat, llm.chat_stream):
        with pytest.raises(ValueError, match=r"no chat template.*LLM\.generate"):
            chat(CONVERSATION)  # type: ignore[operator]
