"""Written guidelines for answers, a principle at a time: what a critic holds a draft against, what a judge goes by.

As TOML,                                            or as Markdown:

    name = "Kestrel's voice"                            # Kestrel's voice
    about = "Kestrel sells rain gear by mail."          Kestrel sells rain gear by mail.

    [[principle]]                                       ## plain words
    name = "plain words"                                Plain words. No superlatives, no exclamation marks.
    text = "Plain words. No superlatives, ..."
    domains = ["mail"]       # leave out: every domain

The idea is Bai et al. 2022 (arXiv 2212.08073). A principle that a program can check is better put into a rubric
(`rubric`): a rule is never of two minds.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError, nearest
from tunesmith.records import Prompt, fingerprint

LONGEST = 4000
"""Characters of one principle."""


@dataclass(frozen=True, slots=True)
class Principle:
    """One thing that answers should do or leave; of no domain: in all of them."""

    name: str
    text: str
    domains: tuple[str, ...] = ()

    def applies(self, prompt: Prompt) -> bool:
        return not self.domains or prompt.domain in self.domains


@dataclass(frozen=True, slots=True)
class Constitution:
    """Principles under a name; `about` is what whoever goes by them should know first."""

    name: str
    principles: tuple[Principle, ...]
    about: str = ""

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.name, self.about, [[p.name, p.text, list(p.domains)] for p in self.principles]])

    def of(self, prompt: Prompt) -> tuple[Principle, ...]:
        """The principles that apply to answers to this prompt."""
        return tuple(p for p in self.principles if p.applies(prompt))

    def text(self) -> str:
        """All of it, for a judge."""
        lines = [f"{n}. {p.name}{' (for ' + ', '.join(p.domains) + ')' if p.domains else ''}: {p.text}"
                 for n, p in enumerate(self.principles, 1)]
        return "\n".join([*([self.about] if self.about else []), *lines])


def parse(path: str | Path) -> Constitution:
    """A constitution from its TOML or Markdown file.

    Raises:
        DataError: naming the file, the principle and what is wrong with it.
    """
    try:
        written = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as e:
        raise DataError("there is no such constitution", path) from e
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"cannot be read as text: {e}", path) from e
    if Path(path).suffix not in (".toml", ".md"):
        raise DataError("a constitution is a .toml or a .md file", path)
    try:
        found = _toml(written) if Path(path).suffix == ".toml" else _markdown(written)
        principles = tuple(_principle(row, n) for n, row in enumerate(found.get("principle", ()), 1))
    except ValueError as e:
        raise DataError(str(e), path) from e
    if not principles:
        raise DataError("a constitution has at least one principle: [[principle]] in TOML, ## NAME in Markdown", path)
    if len({p.name for p in principles}) < len(principles):
        twice = next(p.name for n, p in enumerate(principles) if p.name in [q.name for q in principles[:n]])
        raise DataError(f'two principles are called "{twice}"', path)
    return Constitution(str(found.get("name") or Path(path).stem), principles, str(found.get("about", "")).strip())


def _toml(written: str) -> Mapping[str, Any]:
    """
    Raises:
        ValueError: no TOML, or a key that nobody knows.
    """
    try:
        found = tomllib.loads(written)
    except tomllib.TOMLDecodeError as e:
        raise ValueError(f"not TOML: {e}") from e
    known = ("name", "about", "principle")
    if unknown := [key for key in found if key not in known]:
        raise ValueError(f'unknown key "{unknown[0]}"{nearest(unknown[0], known)}')
    rows = found.get("principle", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("principles are written as [[principle]]")
    return found


def _markdown(written: str) -> Mapping[str, Any]:
    """`# name`, what it is about, then a `## principle` each."""
    head, *parts = re.split(r"^##[ \t]+", written, flags=re.MULTILINE)
    title = re.search(r"^#[ \t]+(.+)$", head, re.MULTILINE)
    rows = [dict(zip(("name", "text"), (*part.split("\n", 1), ""))) for part in parts]
    return {"name": title[1].strip() if title else "", "about": head.replace(title[0], "", 1) if title else head,
            "principle": rows}


def _principle(row: Mapping[str, Any], number: int) -> Principle:
    """
    Raises:
        ValueError: what is wrong with it.
    """
    name, text, domains = row.get("name", ""), row.get("text", ""), row.get("domains", [])
    which = f'principle {number} ("{name}")' if isinstance(name, str) and name else f"principle {number}"
    known = ("name", "text", "domains")
    if unknown := [key for key in row if key not in known]:
        raise ValueError(f'{which}: unknown key "{unknown[0]}"{nearest(unknown[0], known)}')
    if not isinstance(name, str) or not name.strip() or not name.strip().isprintable():
        raise ValueError(f'{which}: "name" must be a line of text')
    if not isinstance(text, str) or not 0 < len(text.strip()) <= LONGEST:
        raise ValueError(f'{which}: "text" must say what answers should do, in 1 to {LONGEST} characters')
    if not isinstance(domains, list) or not all(isinstance(d, str) for d in domains):
        raise ValueError(f'{which}: "domains" must be a list of texts')
    return Principle(name.strip(), text.strip(), tuple(domains))
