"""Markdown of models and people as HTML that can do nothing.

Three fences: the parser knows no raw HTML, links are http(s) or mailto only and pictures are never loaded, and what it
wrote passes nh3's list of allowed tags. Characters that are there but not seen (zero-width, bidirectional overrides,
tags, control characters) are shown as marks such as `U+202E`, so that two answers that look the same are the same.

Left out: mathematics, raw HTML, syntax colours. Headings become bold paragraphs: a model's "# Title" must not break
into the structure of the page around it.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Sequence
from html import escape
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup

LONGEST = 100_000
"""Characters; a longer text is shown as it was written."""
MOST_LINES = 5000
MOST_CELLS = 5000
MOST_OPENED = 5000
MOST_MARKED = 10_000
"""Lines, cells of tables, opening brackets and marks of emphasis; a text with more is shown as it was written. A short
text can ask for a table of a million cells, and at every bracket the parser looks for a link up to the end."""
CACHED = 16 * 2**20
"""Characters that are kept, of texts and of what became of them."""

_TAGS = {"p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ol", "ul", "li", "a", "table", "thead",
         "tbody", "tr", "th", "td", "span"}
_CLEANER = nh3.Cleaner(
    tags=_TAGS, attributes={"*": set(), "a": {"href"}, "ol": {"start"}},
    allowed_classes={"p": {"heading"}, "span": {"picture"}},
    url_schemes={"http", "https", "mailto"}, url_relative="deny", link_rel="noopener noreferrer nofollow",
    set_tag_attribute_values={"a": {"target": "_blank"}})
_LINK = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
_JOINERS = "\u200c\u200d"
# Letters and spaces that print nothing, which Unicode does not class as formats; selectors beyond the emoji's two.
_BLANKS = "\u034f\u115f\u1160\u17b4\u17b5\u2028\u2029\u2800\u3164\uffa0"
_SUSPECT = re.compile(f"(([\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\u0600-\\u0605\\u061c\\u06dd\\u070f\\u180b-\\u180f"
                      f"\\u200b-\\u200f\\u202a-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb{_BLANKS}"
                      "\\U000110bd\\U000110cd\\U00013430-\\U0001343f\\U0001bca0-\\U0001bca3\\U0001d173-\\U0001d17a"
                      "\\U000e0000-\\U000e0fff])\\2*)")


class _Kept:
    """What was rendered lately."""

    def __init__(self) -> None:
        self.pages: dict[str, Markup] = {}
        self.size = 0
        self.lock = threading.Lock()

    def get(self, text: str) -> Markup:
        with self.lock:
            found = self.pages.pop(text, None)
            if found is not None:
                self.pages[text] = found  # the newest again
                return found
        found = _render(text)
        with self.lock:
            if text not in self.pages:
                self.pages[text] = found
                self.size += len(text) + len(found)
            while self.size > CACHED:
                old = next(iter(self.pages))
                self.size -= len(old) + len(self.pages.pop(old))
        return found


_KEPT = _Kept()


def render(text: str) -> Markup:
    """Markdown as safe HTML; a single line break stays a line break."""
    return _KEPT.get(text)


def _render(text: str) -> Markup:
    if len(text) > LONGEST or text.count("\n") > MOST_LINES or _cells(text) > MOST_CELLS or \
            text.count("[") > MOST_OPENED or sum(map(text.count, "*_~`")) > MOST_MARKED:
        return plain(text)
    text = text.replace("\x00", "\ufffd")
    return Markup(_outside_tags(_CLEANER.clean(_PARSER.render(text))))


def _cells(text: str) -> int:
    """At most so many cells have the tables of a text: every line under a row of dashes is filled up to its columns."""
    cells = columns = 0
    for line in text.splitlines():
        if not line.strip(" \t>"):
            columns = 0
        elif "-" in line and not line.strip(" \t>|:-"):
            columns = max(columns, line.count("|") + 1)
        cells += columns
    return cells


def plain(text: str) -> Markup:
    """The text as it was written, escaped, with marks for what is not seen."""
    return Markup(mark(escape(text)))


def mark(html: str) -> str:
    """Marks for characters that are not seen, in escaped text without tags."""
    return _SUSPECT.sub(_mark, html)


def unseen(text: str) -> int:
    """How many characters of a text are not seen."""
    return sum(len(found[0]) for found in _SUSPECT.finditer(text) if not _harmless(found))


def _mark(found: re.Match[str]) -> str:
    if _harmless(found):
        return found[0]
    char, count = found[2], len(found[1])
    name = escape(unicodedata.name(char, "control character").lower(), quote=True)
    times = f" × {count}" if count > 1 else ""
    return f'<span class="unseen" title="{name}{times}">U+{ord(char):04X}{times}</span>'


def _harmless(found: re.Match[str]) -> bool:
    """A joiner inside an emoji or a script that needs it, the emoji of a region's flag, a line break of Windows."""
    text, start, end = found.string, found.start(), found.end()
    before, after = text[start - 1:start], text[end:end + 1]
    if found[1] == "\r":
        return after == "\n"
    if found[1] in tuple(_JOINERS):
        return bool(before and after) and not before.isascii() and not after.isascii()
    return False


def _outside_tags(html: str) -> str:
    return "".join(part if part.startswith("<") else mark(part) for part in re.split(r"(<[^>]*>)", html))


def _valid_link(url: str) -> bool:
    return bool(_LINK.match(url))


def _picture(tokens: Sequence[Token], at: int, options: OptionsDict, env: Any) -> str:
    """A picture is named, never loaded: loading would tell its host who reads what."""
    token = tokens[at]
    return f'<span class="picture">[picture: {escape(token.content)} {escape(str(token.attrs.get("src", "")))}]</span>'


def _heading(tokens: Sequence[Token], at: int, options: OptionsDict, env: Any) -> str:
    return '<p class="heading"><strong>' if tokens[at].nesting > 0 else "</strong></p>\n"


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 20})
    parser.enable(["table", "strikethrough"])
    parser.validateLink = _valid_link  # type: ignore[method-assign]
    rules: dict[str, Any] = {"image": _picture, "heading_open": _heading, "heading_close": _heading}
    for name, rule in rules.items():
        parser.renderer.rules[name] = rule  # type: ignore[attr-defined]
    return parser


_PARSER = _parser()
