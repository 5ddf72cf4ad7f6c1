"""Conversations: messages with a role and a content, as chat templates read them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, object]
Conversation = Sequence[Message]


def conversations_of(messages: Conversation | Sequence[Conversation]) -> list[list[dict[str, Any]]]:
    """One conversation becomes a list of one; each is checked.

    Raises:
        ValueError: as `checked_conversation`.
    """
    items = _items(messages, "messages")
    if isinstance(items[0], Mapping):
        return [checked_conversation(items)]
    return [checked_conversation(item, f"messages[{i}]") for i, item in enumerate(items)]


def checked_conversation(messages: object, name: str = "messages") -> list[dict[str, Any]]:
    """Messages as plain data: `role` and `content` are texts, anything else is as JSON has it.

    Content in parts, [{"type": "text", "text": ...}], is joined with line breaks as vLLM does.

    Raises:
        ValueError: they are not messages; the error says which one, by `name`, and why.
    """
    return [_message(item, f"{name}[{i}]") for i, item in enumerate(_items(messages, name))]


def _items(messages: object, name: str) -> Sequence[Any]:
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise ValueError(
            f'{name} must be a list of messages {{"role", "content"}}, not {messages!r:.80}'
        )
    if not messages:
        raise ValueError(f"{name} is empty; a conversation has at least one message")
    return messages


def _message(message: object, name: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ValueError(f'{name} must be a mapping with "role" and "content", not {message!r:.80}')
    for key in ("role", "content"):
        if key not in message:
            raise ValueError(f'{name} has no "{key}"')
    if not isinstance(message["role"], str):
        raise ValueError(f"{name}: role must be a text, not {message['role']!r:.80}")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(message)))
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"{name} must hold texts, numbers, lists and mappings only") from None
    return plain | {"content": _text(plain["content"], f"{name}: content")}


def _text(content: object, name: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise ValueError(f"{name} must be a text or a list of text parts, not {content!r:.80}")
    texts = []
    for i, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f"{name}[{i}] is {kind!r:.80}; specrt reads parts of type 'text' only")
        if not isinstance(part.get("text"), str):
            raise ValueError(f'{name}[{i}] has no "text"')
        texts.append(part["text"])
    return "\n".join(texts)
