"""Questions with several answers that nobody has ranked yet -> answer groups that wait for people.

    prompt (or instruction, or messages) + answers (or responses, completions, outputs, candidates)
    prompt + answer_1, answer_2, ... (or response_a, response_b, ...), with model_1, model_2, ... if known
    prompt + chosen + rejected     a pair; which was chosen is forgotten, so that people judge it afresh

An answer is a text, or an object with `text` (or content, response, output, completion, answer) and perhaps `model`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.errors import DataError
from tunesmith.records import Answer, Conversation
from tunesmith.store.fields import (
    Skip,
    read_answer,
    read_instruction,
    read_list,
    read_messages,
    read_optional,
    read_text,
    read_turns,
)
from tunesmith.store.files import Row, kind_of

FEWEST, MOST = 2, 9
LISTS = ("answers", "responses", "completions", "outputs", "candidates")
TEXTS = ("text", "content", "response", "output", "completion", "answer")
_COLUMN = re.compile(r"(?:answer|response|completion|output)[ _-]?([0-9]{1,2}|[a-i])", re.IGNORECASE)


def question(row: Row) -> Conversation:
    """What was asked."""
    if "prompt" in row:
        return read_turns(row, "prompt", "user")
    if "messages" in row:
        return read_messages(row["messages"], "messages")
    if "instruction" in row:
        return read_instruction(row)
    raise DataError('"prompt" is missing')


def listed(row: Row, key: str) -> tuple[Answer, ...]:
    """The answers of a list; their models beside them or in a list `models`."""
    answers = read_list(row[key], key)
    models = row.get("models", [])
    if not isinstance(models, list) or (models and len(models) != len(answers)):
        raise DataError(f'"models" must be a list as long as "{key}"')
    return several([_answer(answer, f"{key}[{n}]", models[n] if models else None) for n, answer in enumerate(answers)])


def columns(row: Row) -> list[tuple[str, str]]:
    """(key, its number or letter) of every column that holds an answer."""
    return [(key, match[1].lower()) for key in row if isinstance(key, str) and (match := _COLUMN.fullmatch(key))]


def spread(row: Row) -> tuple[Answer, ...]:
    """The answers of several columns, empty cells left out."""
    models = {match[1].lower(): key for key in row if isinstance(key, str)
              and (match := re.fullmatch(r"model[ _-]?([0-9]{1,2}|[a-i])", key, re.IGNORECASE))}
    return several([Answer(read_text(row, key), read_optional(row, models[which]) if which in models else "")
                    for key, which in columns(row)])


def pair(row: Row, prompt: Conversation) -> tuple[Answer, ...]:
    """A preference without its judgement."""
    return several([Answer(read_answer(row, key, prompt)) for key in ("chosen", "rejected")])


def several(answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """Different answers, as many as a page can show.

    Raises:
        DataError: too few or too many.
        Skip: all alike.
    """
    found = tuple(a for n, a in enumerate(answers) if all(a.text != b.text for b in answers[:n][:MOST]))
    if len(found) == 1 and len(answers) > 1:
        raise Skip("all answers are alike")
    if not FEWEST <= len(found) <= MOST:
        raise DataError(f"{len(found)} answers; {FEWEST} to {MOST} can be ranked on one page")
    return found


def _answer(value: Any, where: str, model: Any) -> Answer:
    if isinstance(value, Mapping):
        key = next((key for key in TEXTS if key in value), "text")
        own = value.get("model", model)
        return Answer(read_text(value, key, where), _model(own, where))
    if not isinstance(value, str):
        raise DataError(f'"{where}" must be a text or an object with "text", it is {kind_of(value)}')
    return Answer(read_text({where: value}, where), _model(model, where))


def _model(value: Any, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > 200:
        raise DataError(f'"model" must be a short text ({where})')
    return value
