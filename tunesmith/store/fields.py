"""The fields of a row, checked: texts, messages, weights. Errors name the field; formats.py adds file and line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from tunesmith.contracts import check_tiers
from tunesmith.errors import DataError
from tunesmith.records import AnswerGroup, Conversation, Message, Role, Source, Split
from tunesmith.store.checks import valid_labeler
from tunesmith.store.files import Row, kind_of

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant",
                          "tool": "tool", "function": "tool"}
SPEAKERS: dict[str, Role] = {"system": "system", "human": "user", "user": "user", "gpt": "assistant",
                             "chatgpt": "assistant", "bot": "assistant", "bard": "assistant", "assistant": "assistant",
                             "tool": "tool", "function": "tool", "observation": "tool"}
"""What ShareGPT and other logs call the roles."""
SPLITS: dict[str, Split] = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev",
                            "test": "test", "eval": "test", "held-out": "test", "heldout": "test"}


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


def read_speaker(turn: Any, where: str) -> tuple[Role, str]:
    """Who speaks in a turn of a log, and the name of the field that holds what is said."""
    if not isinstance(turn, Mapping):
        raise DataError(f'"{where}" must be an object, it is {kind_of(turn)}')
    key, text = ("from", "value") if "from" in turn else ("role", "content")
    role = SPEAKERS.get(str(turn.get(key, "")).lower())
    if role is None:
        raise DataError(f'"{key}" must be one of {", ".join(SPEAKERS)}, got {short(turn.get(key))} ({where})')
    return role, text


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
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise DataError(f'"weight" must be a number of at least 0, got {short(weight)}{_at("weight", where)}')
    return weight


def read_group(value: Any) -> AnswerGroup:
    """An answer group as Tunesmith writes it, every field checked; other names of the splits are understood.

    Raises:
        DataError: naming the field.
    """
    row = _object(value, "group")
    prompt = _object(row.get("prompt"), "prompt")
    for n, turn in enumerate(read_list(prompt.get("messages"), "prompt.messages")):
        where = f"prompt.messages[{n}]"
        if _object(turn, where).get("role") not in ("system", "user", "assistant", "tool"):
            raise DataError(f'"role" must be system, user, assistant or tool, got {short(turn.get("role"))} ({where})')
        read_raw(turn, "content", where)
        read_weight(turn, where)
    _object(prompt.get("facts", {}), "prompt.facts")
    read_optional(prompt, "domain")
    answers = read_list(row.get("answers"), "answers")
    for n, answer in enumerate(answers):
        where = f"answers[{n}]"
        read_raw(_object(answer, where), "text", where)
        read_optional(answer, "model")
        _object(answer.get("sampling", {}), f"{where}.sampling")
        _numbers(answer.get("tokens", []), f"{where}.tokens", whole=True)
        _numbers(answer.get("logprobs", []), f"{where}.logprobs")
    for name, length in (("labels", len(answers)), ("shown", len(answers))):
        if (given := row.get(name)) and len(_numbers(given, name, whole=name == "shown")) != length:
            raise DataError(f'"{name}" has {len(given)} entries for {length} answers')
    if (shown := row.get("shown")) and sorted(shown) != list(range(len(answers))):
        raise DataError(f'"shown" is not an order of answers 0 to {len(answers) - 1}')
    tiers = row.get("tiers", [])
    if not isinstance(tiers, list) or not all(isinstance(tier, list) for tier in tiers):
        raise DataError(f'"tiers" must be lists of answers, got {short(tiers)}')
    check_tiers([_numbers(tier, "tiers", whole=True) for tier in tiers], len(answers))
    for n, pair in enumerate(row.get("pairs", [])):
        where = f"pairs[{n}]"
        sides = _numbers([_object(pair, where).get("better"), pair.get("worse")], where, whole=True)
        check_tiers([sides], len(answers))
        if not 0 <= _numbers([pair.get("p", 1)], where)[0] <= 1:
            raise DataError(f'"p" must lie between 0 and 1, got {short(pair["p"])} ({where})')
        read_weight(pair, where)
    read_labeler(row)
    read_weight(row)
    if row.get("source", "imported") not in get_args(Source):
        raise DataError(f'"source" must be one of {", ".join(get_args(Source))}, got {short(row["source"])}')
    group = AnswerGroup.from_dict(row)
    check_waiting(group.prompt.messages, "a prompt")
    return replace(group, prompt=replace(group.prompt, split=read_split(prompt)))


def read_split(row: Mapping[str, Any]) -> Split:
    """Which part of the data it belongs to; train if unsaid."""
    split = SPLITS.get(str(row.get("split", "train")).lower())
    if split is None:
        raise DataError(f'"split" must be train, dev or test, got {short(row["split"])}')
    return split


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f'"{where}" must be an object, it is {kind_of(value)}')
    return value


def _numbers(value: Any, where: str, whole: bool = False) -> list[Any]:
    if not isinstance(value, list) or not all(
            isinstance(x, int if whole else int | float) and not isinstance(x, bool) and math.isfinite(x)
            for x in value):
        raise DataError(f'"{where}" must hold {"whole " * whole}numbers, got {short(value)}')
    return value


def short(value: Any) -> str:
    """A value as an error message shows it."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
