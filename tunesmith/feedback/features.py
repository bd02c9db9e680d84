"""What can be counted in a text without understanding it: words, length, lists, headings, bold type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import log

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_LIST = re.compile(r"^[ \t]*(?:[-*+•]|\d+[.)])[ \t]", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}[ \t]", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


def words(text: str) -> frozenset[str]:
    """The different words of a text, in small letters.

    >>> sorted(words("Don't: the rate, THE rate"))
    ["don't", 'rate', 'the']
    """
    return frozenset(_WORD.findall(text.lower()))


def style(text: str) -> Mapping[str, float]:
    """What an answer looks like: the logarithm of its length in words, its list items, headings and bold passages."""
    return {"length": log(1 + len(text.split())), "lists": float(len(_LIST.findall(text))),
            "headings": float(len(_HEADING.findall(text))), "bold": float(len(_BOLD.findall(text)))}
