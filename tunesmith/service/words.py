"""Words that several pages share, and how they shorten and spell them."""

from __future__ import annotations

from tunesmith.records import Tiers

NAMES = "ABCDEFGHI"
"""The answers of a group, as people read them."""
SPEAKERS = {"system": "Instructions to the model", "user": "Person", "assistant": "Model", "tool": "Tool"}


def short(text: str, longest: int = 160) -> str:
    """One line of a text."""
    line = " ".join(text[:4 * longest].split())
    return line if len(line) <= longest else f"{line[:longest - 1]}…"


def upper(text: str) -> str:
    """With a capital first letter."""
    return f"{text[:1].upper()}{text[1:]}"


def sentence(error: Exception) -> str:
    """An error as a sentence of a page."""
    text = upper(str(error))
    return text if text.endswith((".", "?")) else f"{text}."


def in_letters(tiers: Tiers) -> str:
    """A verdict in letters, in the stored order of the answers: "B > A = C"."""
    return " > ".join(" = ".join(NAMES[i] if i < len(NAMES) else str(i) for i in sorted(tier)) for tier in tiers)
