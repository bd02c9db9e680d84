"""A row and a written template -> the words of a demonstration.

`{field}` stands for a field of the row, `{{` and `}}` are braces. That is all a template can say: no attributes, no
formats, no code, so that one from anywhere is only text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from tunesmith.errors import DataError, SettingsError
from tunesmith.records import Conversation, Message

Pieces = tuple[tuple[str, str], ...]
"""Pieces of (text, the field behind it), the field "" where none follows."""


@dataclass(frozen=True, slots=True)
class Template:
    """What is asked and what is to be answered.

    >>> Template.parse("Is {x} even?", "{y}").fill({"x": 4, "y": "yes"})
    ('Is 4 even?', 'yes')
    """

    prompt: Pieces
    answer: Pieces

    @classmethod
    def parse(cls, prompt: str, answer: str) -> Template:
        """
        Raises:
            SettingsError: a lone brace, a field without a name, or one with a format.
        """
        return cls(pieces(prompt), pieces(answer))

    def fill(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """(prompt, answer) for a row.

        Raises:
            DataError: the row lacks a field, or holds something there that is no text.
        """
        return filled(self.prompt, row), filled(self.answer, row)


def pieces(text: str) -> Pieces:
    """A template's pieces. Raises what `Template.parse` raises."""
    try:
        found = list(Formatter().parse(text))
    except ValueError as e:
        raise SettingsError(f"template {_short(text)}: {e}; a brace that stands for itself is written twice") from e
    for _, name, form, conversion in found:
        if name is not None and (not name or form or conversion):
            raise SettingsError(f"template {_short(text)}: {{{name or ''}...}} must be the plain name of a field")
    return tuple((literal, name or "") for literal, name, _, _ in found)


def filled(parts: Pieces, row: Mapping[str, Any]) -> str:
    """The text with the row's fields in their places; without spaces around it. Raises what `Template.fill` raises."""
    return "".join(text + (_said(name, row) if name else "") for text, name in parts).strip()


def conversation(prompt: str, answer: str, examples: Sequence[tuple[str, str]] = ()) -> Conversation:
    """A demonstration's turns. Solved examples come first, as turns of which nothing is learned."""
    before = [m for ask, said in examples for m in (Message("user", ask), Message("assistant", said, 0))]
    return (*before, Message("user", prompt), Message("assistant", answer))


def _said(name: str, row: Mapping[str, Any]) -> str:
    if row.get(name) is None:
        raise DataError(f'no field "{name}"; there is: {", ".join(k for k, v in row.items() if v is not None)}')
    return _text(row[name], name)


def plain(value: Any) -> str:
    """A text or number as people write it: 1.0, which a CSV file makes of 1, is 1."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _text(value: Any, name: str) -> str:
    """A list becomes lines that begin with "- ", as the choices of a question are shown."""
    if isinstance(value, str | int | float):
        return plain(value)
    if isinstance(value, list | tuple):
        return "\n".join(f"- {_text(v, name)}" for v in value)
    raise DataError(f'field "{name}" holds an object, and a template takes texts, numbers and lists')


def _short(text: str) -> str:
    return repr(text if len(text) < 50 else text[:47] + "...")
