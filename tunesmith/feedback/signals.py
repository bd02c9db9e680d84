"""What users did with an answer -> what that may say about it, by named rules.

A rule turns events into a number: above 0 it seems to speak for the answer, below 0 against it, and 0 is silence. What
a number is worth is not decided here but measured (`feedback.calibration`): whether copying, leaving or a long look is
good news depends on the product. Left out: moods and thanks in the text of a next turn, which need a language model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np

from tunesmith.records import Answer, Interaction, Prompt

ALIKE = 0.5
"""A next message that shares this part of its words with the one before says the same again (WildFeedback, 2408.15549,
has a language model find such turns)."""
EDITS = (0.02, 0.7)
"""Smaller edits are typing, larger ones another answer (normalised Levenshtein distance; after PRELUDE, 2404.15269)."""
WORDS_PER_SECOND = 4.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What reactions say of one answer, or of the first of two to the same prompt against the second.

    `signals` are by the names of `RULES` for one answer, of `CHOICES` for two. `position` is where the first of two
    stood on the page, from 0, among `shown`; -1 where they were not shown together. `weight` is how much it counts.

        Evidence(prompt, (answer,), {"copied": 1.0, "resolved": -1.0}, "u-3f", ("i7",))
        Evidence(prompt, (chosen, other), {"chosen": 1.0}, "u-3f", ("i8", "i9"), position=1, shown=2)
    """

    prompt: Prompt
    answers: tuple[Answer, ...]
    signals: Mapping[str, float]
    user: str
    interactions: tuple[str, ...]
    simulated: bool = False
    position: int = -1
    shown: int = 0
    weight: float = 1.0
    propensity: float = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """An interaction with its newest event of each type, and what the user wrote next ("" if nothing)."""

    interaction: Interaction
    events: Mapping[str, Any]
    next: str = ""

    def number(self, event: str) -> float:
        return float(self.events.get(event) or 0.0)

    def verdict(self, event: str) -> float:
        """1 for yes, -1 for no, 0 where nobody said."""
        return 2 * self.number(event) - 1 if event in self.events else 0.0


Rule = Callable[[Seen], float]

RULES: Mapping[str, Rule] = {
    "thumb": lambda s: s.verdict("thumb"),
    "rating": lambda s: s.verdict("rating"),
    "resolved": lambda s: s.verdict("ticket_resolved"),
    "code ran": lambda s: s.verdict("code_run_ok"),
    "copied": lambda s: s.number("copy"),
    "complained": lambda s: -float(bool({"complaint", "report"} & set(s.events)) or _again(s)),
    "went on": lambda s: float(bool(s.next) and not _again(s)),
    "left": lambda s: -float("abandon" in s.events),
    "looked long": lambda s: _dwelt(s),
}
"""What one answer's events say, with the sign that people expect. To ask the same again is a complaint."""

CHOICES = ("chosen", "kept", "edit")
"""Two answers to one prompt: chosen of several shown together; kept, after another was regenerated; the user's edit."""

GUESSES: Mapping[str, float] = {
    "thumb": 2.0, "rating": 2.0, "resolved": 1.0, "code ran": 1.0, "copied": 1.0, "complained": 1.5, "went on": 0.3,
    "left": 0.8, "looked long": 0.3, "chosen": 3.0, "kept": 2.0, "edit": 3.0}
"""Weights as a careful person might guess them, in nats of log-odds per unit of a signal."""


def evidence(interactions: Iterable[Interaction]) -> list[Evidence]:
    """All that the reactions to these interactions say; interactions without any event say nothing.

    An answer that was edited or sent away is one side of a choice, and nothing else is read into what its user did.
    Interactions that events point to must be among these; what points elsewhere is left out.
    """
    seen = _seen(interactions)
    out: list[Evidence] = []
    for s in seen.values():
        i = s.interaction
        if s.events and not {"edit", "regenerate"} & set(s.events):
            found = {name: value for name, rule in RULES.items() if (value := rule(s))}
            out.append(Evidence(Prompt(i.messages), (i.answer,), found, i.user, (i.id,), i.consent == "simulated",
                                propensity=i.propensity))
        out += [*_chosen(s, seen), *_kept(s, seen), *_edit(s)]
    return out


def distance(a: str, b: str) -> float:
    """Levenshtein distance over the longer length, 0 (equal) to 1 (Levenshtein 1966; Wagner & Fischer 1974)."""
    if not a or not b:
        return float(a != b)
    letters = np.array([ord(c) for c in b])
    steps = np.arange(len(b) + 1)
    row = steps
    for n, c in enumerate(a, 1):
        best = np.minimum(row[:-1] + (letters != ord(c)), row[1:] + 1)
        row = np.minimum.accumulate(np.concatenate([[n], best]) - steps) + steps  # insertions cost 1 for each step
    return float(row[-1] / max(len(a), len(b)))


def _seen(interactions: Iterable[Interaction]) -> dict[str, Seen]:
    every = {i.id: i for i in interactions}
    out = {}
    for i in every.values():
        events = {str(e["type"]): e.get("value") for e in sorted(i.events, key=lambda e: str(e.get("at", "")))}
        following = every.get(str(events.get("follow_up", "")))
        out[i.id] = Seen(i, events, following.messages[-1].content if following else "")
    return out


def _again(s: Seen) -> bool:
    before, after = (set(re.findall(r"\w+", t.lower())) for t in (s.interaction.messages[-1].content, s.next))
    return bool(after) and len(before & after) >= ALIKE * len(before)


def _dwelt(s: Seen) -> float:
    """Log of the time an answer was looked at, over the time it takes to read."""
    seconds = s.number("dwell_ms") / 1000
    words = max(1, len(s.interaction.answer.text.split()))
    return log(seconds * WORDS_PER_SECOND / words) if seconds > 0 else 0.0


def _chosen(s: Seen, seen: Mapping[str, Seen]) -> list[Evidence]:
    """One of several shown together against each of the others."""
    shown = [str(id) for id in s.events.get("select_variant") or ()]
    if s.interaction.id not in shown:
        return []
    at = shown.index(s.interaction.id)
    return [replace(_pair("chosen", s, seen[id].interaction.answer, id), position=at, shown=len(shown))
            for id in shown if id in seen and _same_prompt(s, seen[id]) and id != s.interaction.id]


def _kept(s: Seen, seen: Mapping[str, Seen]) -> list[Evidence]:
    """The answer that took a regenerated one's place, unless it was sent away as well or the first was never read."""
    later = seen.get(str(s.events.get("regenerate", "")))
    if not later or not _same_prompt(s, later) or not s.interaction.answer.finished:
        return []
    if {"regenerate", "complaint", "report", "abandon"} & set(later.events):
        return []
    return [_pair("kept", later, s.interaction.answer, s.interaction.id)]


def _edit(s: Seen) -> list[Evidence]:
    text = s.events.get("edit")
    if not isinstance(text, str) or not EDITS[0] <= distance(text, s.interaction.answer.text) <= EDITS[1]:
        return []
    better = replace(s.interaction.answer, text=text, tokens=(), logprobs=())
    return [replace(_pair("edit", s, s.interaction.answer), answers=(better, s.interaction.answer))]


def _pair(rule: str, s: Seen, other: Answer, *ids: str) -> Evidence:
    i = s.interaction
    return Evidence(Prompt(i.messages), (i.answer, other), {rule: 1.0}, i.user, (i.id, *ids), i.consent == "simulated",
                    propensity=i.propensity)


def _same_prompt(a: Seen, b: Seen) -> bool:
    return a.interaction.messages == b.interaction.messages


def speakers(found: Sequence[Evidence]) -> dict[str, set[str]]:
    """Who showed each kind of reaction; users without a pseudonym count as one."""
    out: dict[str, set[str]] = {}
    for e in found:
        for rule in e.signals:
            out.setdefault(rule, set()).add(e.user)
    return out
