"""Personal data out of texts before anything keeps them; pseudonyms in place of users.

What is found (`find`, by the rules of `pii` and by detectors that are plugged in) gives way to `[EMAIL_3fa2c1]`: the
kind, and a keyed digest that is the same wherever the same thing is said in one conversation and tells nothing without
the workspace's key. So a text stays coherent, and two conversations cannot be joined by what they had in common.

The key lies in the workspace, readable by its owner alone. It is never exported: who destroys it makes every pseudonym
anonymous. Left out: pictures, and personal data that a text spells out in words.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import MissingExtra, StorageError
from tunesmith.store.faults import storing
from tunesmith.store.pii import DIGITS, LONG, RULES, plain

KEY = "interactions.key"
PSEUDONYM = re.compile(r"(?:user|talk)-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Finding:
    """Personal data in a text: `text[start:end]`, and what it is."""

    start: int
    end: int
    kind: str


Detector = Callable[[str], Iterable[Finding]]
"""Finds more than the rules do, such as names; `presidio` makes one."""


def find(text: str, more: Sequence[Detector] = ()) -> list[Finding]:
    """Personal data in a text, in order, without overlaps: what the rules take first, then what the others add."""
    found: list[Finding] = []
    taken = bytearray(len(text))  # 1 where something was found: a look costs the same however much that is
    searched = plain(text)
    digits = not DIGITS.isdisjoint(searched)
    there = {"0": digits, "7": digits and bool(LONG.search(searched))}
    for rule in RULES:
        if there.get(rule.needs, rule.needs in searched):
            _take(found, taken, (Finding(start, end, rule.kind) for start, end in rule.spans(searched)))
    for detector in more:
        _take(found, taken, detector(text))
    return sorted(found, key=lambda f: f.start)


def _take(found: list[Finding], taken: bytearray, candidates: Iterable[Finding]) -> None:
    for new in candidates:
        if new.start < new.end and 1 not in taken[new.start:new.end]:
            taken[new.start:new.end] = bytes([1]) * (new.end - new.start)
            found.append(new)


def scrub(text: str, secret: bytes = b"", scope: str = "", more: Sequence[Detector] = ()) -> str:
    """The text with placeholders for what `find` finds; scrubbing twice changes nothing.

    Args:
        secret: the workspace's key (`secret_of`); without one, placeholders name only the kind.
        scope: within which the same thing has the same placeholder, such as a conversation.
    """
    parts, at = [], 0
    for f in find(text, more):
        said = "".join(c for c in text[f.start:f.end].casefold() if c.isalnum())
        tag = f"_{digest(secret, scope, f.kind, said)[:6]}" if secret else ""
        parts += [text[at:f.start], f"[{f.kind.upper()}{tag}]"]
        at = f.end
    return "".join([*parts, text[at:]])


def digest(secret: bytes, *parts: str) -> str:
    """64 hex digits that only who has the key can compute."""
    return hmac.digest(secret, "\0".join(parts).encode("utf-8", "surrogatepass"), "sha256").hex()


def pseudonym(secret: bytes, kind: Literal["user", "talk"], *parts: str) -> str:
    """`user-3fa2c1d08e7b6a55` for a user's id: the same whenever it comes. "" and a pseudonym stay as they are."""
    if not parts[-1] or PSEUDONYM.fullmatch(parts[-1]):
        return parts[-1]
    return f"{kind}-{digest(secret, kind, *parts)[:16]}"


def secret_of(root: Path) -> bytes:
    """The key of the workspace in a folder, made on first use.

    Raises:
        StorageError: read-only, or somebody altered it.
    """
    path = root / KEY
    with storing(root):
        if not path.exists():
            _make(path)
        text = path.read_text().strip()
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise StorageError(f"{path} is damaged; restore it from a backup: without it, who comes back is somebody new")
    return bytes.fromhex(text)


def _make(path: Path) -> None:
    """Whole or not at all; of several processes one makes it."""
    part = path.with_name(f".tmp-{secrets.token_hex(16)}")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            f.write(secrets.token_hex(32) + "\n")
            f.flush()
            os.fsync(f.fileno())
        os.link(part, path)
    except FileExistsError:
        pass
    finally:
        part.unlink(missing_ok=True)


def presidio(language: str = "en", least: float = 0.5, analyzer: Any = None) -> Detector:
    """Names, places and more, by Presidio's models; slower than the rules by orders of magnitude.

    Args:
        least: the confidence from which on a finding counts.
        analyzer: an `AnalyzerEngine` with models of your own; the default is Presidio's.

    Raises:
        MissingExtra: it is not installed.
    """
    if analyzer is None:
        try:
            from presidio_analyzer import AnalyzerEngine
        except ImportError as e:
            raise MissingExtra("presidio-analyzer", "privacy") from e
        analyzer = AnalyzerEngine()

    def detect(text: str) -> list[Finding]:
        return [Finding(r.start, r.end, str(r.entity_type).lower())
                for r in analyzer.analyze(text=text, language=language) if r.score >= least]

    return detect
