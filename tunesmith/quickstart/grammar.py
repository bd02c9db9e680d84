"""Phrases with alternatives: `[a|b|]` picks one, may nest; `{fact}` is filled in.

>>> import random
>>> expand("[Hi|Hello], {name}[.|!]", {"name": "Ana"}, random.Random(1))
'Hi, Ana!'
"""

import random
import re
from collections.abc import Mapping

CHOICE = re.compile(r"\[([^\[\]]*)\]")
SENTENCE_START = re.compile(r"(^|[.!?] +)([a-z])")


def expand(phrase: str, facts: Mapping[str, object], rng: random.Random) -> str:
    """One sentence of the phrase. Raises KeyError for a fact that is not given."""

    def pick(match: re.Match) -> str:
        return rng.choice(match.group(1).split("|"))

    while CHOICE.search(phrase):
        phrase = CHOICE.sub(pick, phrase)
    return tidy(phrase.format_map(facts))


def tidy(text: str) -> str:
    """Single spaces, none before punctuation, capitals where sentences start."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" ([,.!?;:])", r"\1", text)
    text = re.sub(r",([.!?])", r"\1", text)
    return SENTENCE_START.sub(lambda m: m.group(1) + m.group(2).upper(), text)


def with_article(text: str) -> str:
    """'a' becomes 'an' before 'auto', the one product name that needs it."""
    return re.sub(r"\b([Aa]) (?=auto\b)", r"\1n ", text)


def words_of(phrases: list[str]) -> set[str]:
    """Every lower-case word that some alternative of the phrases contains."""
    return {w for p in phrases for w in re.findall(r"[a-z']+", re.sub(r"\{\w+\}", " ", p.lower()))}
