"""What an edit changed, word by word, for a page to show. Left out: moved passages (they show as gone and new)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Literal

Change = tuple[Literal["same", "gone", "new"], str]
_WORDS = re.compile(r"(?:\d+(?:[.,]\d+)+|\w+|[^\w\s])\s*|\s+")
_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_MOST = 250_000
"""Comparisons that a diff may cost; above it whole lines are compared, above that the texts as a whole."""


def changes(old: str, new: str) -> list[Change]:
    """Pieces of both texts in order: without those that are "new" they spell `old`, without "gone" `new`."""
    for pieces in (_WORDS, _LINES):
        a, b = pieces.findall(old), pieces.findall(new)
        head = _common(a, b)
        tail = _common(a[head:][::-1], b[head:][::-1])
        inner_a, inner_b = a[head:len(a) - tail], b[head:len(b) - tail]
        if len(inner_a) * len(inner_b) <= _MOST:
            middle = [*_compare(inner_a, inner_b)]
            break
    else:
        middle = [("gone", "".join(inner_a)), ("new", "".join(inner_b))]
    return _merged([("same", "".join(a[:head])), *middle, ("same", "".join(a[len(a) - tail:]))])


def _compare(a: Sequence[str], b: Sequence[str]) -> Iterator[Change]:
    for kind, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            yield "same", "".join(a[a0:a1])
        else:
            yield "gone", "".join(a[a0:a1])
            yield "new", "".join(b[b0:b1])


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """How many pieces are alike at the beginning."""
    return next((n for n, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def _merged(found: list[Change]) -> list[Change]:
    """Without empty pieces; a space alone between two changes belongs to them, so that phrases stay together."""
    found = [c for c in found if c[1]]
    merged: list[Change] = []
    for n, (kind, text) in enumerate(found):
        between = 0 < n < len(found) - 1 and found[n - 1][0] != "same" != found[n + 1][0]
        parts: list[Change] = [("gone", text), ("new", text)] if kind == "same" and text.isspace() and between \
            else [(kind, text)]
        for part in parts:
            _append(merged, part)
    return _loosened(merged)


def _loosened(merged: list[Change]) -> list[Change]:
    """The space behind a changed place is no change if both texts have it."""
    for n in range(len(merged) - 1, 0, -1):
        (kind, gone), (_, new) = merged[n - 1:n + 1]
        space = gone[len(gone.rstrip()):]
        if kind == "gone" and merged[n][0] == "new" and space and new.endswith(space):
            after = merged[n + 1:]
            first = after.pop(0)[1] if after and after[0][0] == "same" else ""
            merged[n - 1:] = [("gone", gone.removesuffix(space)), ("new", new.removesuffix(space)),
                              ("same", space + first), *after]
    return [c for c in merged if c[1]]


def _append(merged: list[Change], part: Change) -> None:
    """At the end, gone before new within one changed place."""
    kind, text = part
    at = len(merged)
    while kind != "same" and at and merged[at - 1][0] != "same":
        at -= 1
        if merged[at][0] == kind:
            merged[at] = (kind, merged[at][1] + text)
            return
    merged.append(part)
