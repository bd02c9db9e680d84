"""The fields of a row, checked: texts, messages, weights. Errors name the field; formats.py adds file and line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tunesmith.errors import DataError
from tunesmith.records import Conversation, Message, Role
from tunesmith.store.checks import valid_labeler
from tunesmith.store.files import Row, kind_of

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant",
                          "tool": "tool", "function": "tool"}
SPEAKERS: dict[str, Role] = {"system": "system", "human": "user", "user": "user", "gpt": "assistant",
                             "chatgpt": "assistant", "bot": "assistant", "bard": "assistant", "assistant": "assistant",
                             "tool": "tool", "function": "tool", "observation": "tool"}
"""What ShareGPT and other logs call the roles."""


class Skip(Exception):
    """A row that the layout's own makers left unusable; the message is the reason."""


def read_messages(value: Any, where: str) -> Conversation:
    """OpenAI-style messages: known roles, non-empty text, turns in order."""
    found = []
    for n, turn in enumerate(read_list(value, where)):
        here = f"{where}[{n}]"
        if not isinstance(turn, Mapping):
            raise DataError(f'"{here}" must be an object with "role" and "content", it is {kind_of(turn)}')
        role = ROLES.get(turn.get("role")) if isinstance(turn.get("role"), str) else None  # type: ignore[arg-type]
        if role is None:
            raise DataError(f'"role" must be system, user, assistant or tool, got {short(turn.get("role"))} ({here})')
        found.append(Message(role, _content(turn, here), read_weight(turn, here)))
    return in_order(tuple(found), where)


def _content(turn: Mapping[str, Any], where: str) -> str:
    """A text, a list of text parts, or the calls that an assistant makes instead."""
    content, calls = turn.get("content"), turn.get("tool_calls")
    if isinstance(content, list):
        parts = [p.get("text") if isinstance(p, Mapping) and p.get("type") == "text" else None for p in content]
        if not all(isinstance(p, str) for p in parts):
            raise DataError(f'"content" may hold only parts of type "text" ({where})')
        content = "".join(parts)  # type: ignore[arg-type]
    if isinstance(calls, list) and calls and isinstance(content, str | None):
        texts = [f"<tool_call>\n{json.dumps(c.get('function', c), ensure_ascii=False)}\n</tool_call>"
                 for c in calls if isinstance(c, Mapping)]
        content = "\n".join([*([content] if content else []), *texts])
    return read_text({"content": content}, "content", where)


def in_order(messages: Conversation, where: str) -> Conversation:
    """System only first, user and assistant in turns."""
    for n, m in enumerate(messages):
        before = messages[n - 1].role if n else ""
        if m.role == "system" and n:
            raise DataError(f'a "system" message must come first ({where}[{n}])')
        if m.role == before and m.role in ("user", "assistant"):
            raise DataError(f'two "{m.role}" turns in a row; merge them ({where}[{n}])')
        if m.role == "tool" and before not in ("assistant", "tool"):
            raise DataError(f'a "tool" message must follow an assistant turn ({where}[{n}])')
    return messages


def check_waiting(messages: Conversation, what: str) -> None:
    """A prompt ends with what an assistant answers to."""
    if messages[-1].role not in ("user", "tool"):
        raise DataError(f'{what} must end with a user turn, this one ends with "{messages[-1].role}"')


def read_turns(row: Row, key: str, role: Role) -> Conversation:
    """A field that is a text (one turn of `role`) or a list of messages."""
    if isinstance(row[key], str):
        return (Message(role, read_text(row, key)),)
    return read_messages(row[key], key)


def read_answer(row: Row, key: str, prompt: Conversation) -> str:
    """A field that is a text or messages; messages may repeat the prompt before the one assistant turn."""
    if isinstance(row[key], str):
        return read_text(row, key)
    messages = read_messages(row[key], key)
    if len(messages) > 1 and messages[:-1] == prompt:
        messages = messages[-1:]
    if len(messages) != 1 or messages[0].role != "assistant":
        raise DataError(f'"{key}" must be one assistant turn')
    return messages[0].content


def read_instruction(row: Row) -> Conversation:
    """Alpaca's instruction with its input, Dolly's with its context."""
    extra = "input" if "input" in row else "context"
    more = row.get(extra, "")
    if not isinstance(more, str):
        raise DataError(f'"{extra}" must be a text, it is {kind_of(more)}')
    text = read_text(row, "instruction")
    return (Message("user", f"{text}\n\n{more}" if more.strip() else text),)


def read_text(row: Mapping[str, Any], key: str, where: str = "") -> str:
    """A text with something in it."""
    value = read_raw(row, key, where)
    if not value.strip():
        raise DataError(f'"{key}" is empty{_at(key, where)}')
    return value


def read_raw(row: Mapping[str, Any], key: str, where: str = "") -> str:
    """A text, possibly empty. `where` tells which of several objects holds the field."""
    value = row.get(key)
    if value is None:
        raise DataError(f'"{key}" is missing{_at(key, where)}')
    if not isinstance(value, str):
        raise DataError(f'"{key}" must be a text, it is {kind_of(value)}{_at(key, where)}')
    return value


def _at(key: str, where: str) -> str:
    return f" ({where})" if where and where != key else ""


def read_list(value: Any, where: str) -> list[Any]:
    """A list with something in it."""
    if not isinstance(value, list):
        raise DataError(f'"{where}" must be a list, it is {kind_of(value)}')
    if not value:
        raise DataError(f'"{where}" is empty')
    return value


def read_optional(row: Row, key: str) -> str:
    """A text that may be missing or empty."""
    return read_raw(row, key) if key in row else ""


def read_labeler(row: Row) -> str:
    """Who judged; empty if unknown."""
    return valid_labeler(read_raw(row, "labeler")) if row.get("labeler", "") != "" else ""


def read_weight(row: Mapping[str, Any], where: str = "") -> float:
    """How much it counts; 1 if unsaid."""
    weight = row.get("weight")
    if weight is None:
        return 1
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
        raise DataError(f'"weight" must be a number of at least 0, got {short(weight)}{_at("weight", where)}')
    return weight


def short(value: Any) -> str:
    """A value as an error message shows it."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
