"""Simulated users of the loan desk: what they do with the answers that they are shown, as a log has it.

Nobody here is a person, and every interaction says so (`consent` "simulated"). A user feels how good an answer is as
the gold rubric does, blurred, and more or less leniently; what they feel moves what they do, by logistic curves whose
numbers stand in `HABITS`. Some of what they do says little on purpose: people copy sums and long answers, look long at
long ones, leave because they are content or because they are not, go on with another question. Of two answers shown
together the upper one is liked better for its place. One user in fifty is no customer but a manipulator: busy, with a
thumb for every answer, up for those that hand over to a person and down for all others.

The numbers were set once, before anything was trained from them. Left out: users who change, or who talk to each other.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tunesmith.contracts import Scorer
from tunesmith.quickstart import agent_phrases, customers, desk, rubric
from tunesmith.quickstart.builtin import Gold, to_prompt
from tunesmith.quickstart.customers import Scenario
from tunesmith.quickstart.grammar import expand
from tunesmith.records import Answer, Conversation, Interaction, Prompt, conversation, fingerprint

Write = Callable[[Sequence[Conversation], int], list[list[Answer]]]
"""The served model: so many answers to each of the conversations."""
Happened = list[tuple[str, Any]]
"""Events by type and value, in order."""

BLUR = 0.6
"""Noise of what a user feels, in standard deviations of the answers' gold scores; a labeler of the quickstart's panel,
who judges what is not their own business, has 1.05."""
MANIPULATORS = 0.02
BUSY = 3.0
"""How much oftener a manipulator writes than others."""
TWO_SHOWN = 0.08
UPPER = 0.6
"""How much better the upper one of two answers is liked, in the units of what users feel."""
THUMBS = 0.03
BEGAN = datetime(2026, 11, 2, tzinfo=UTC)
HABITS: Mapping[str, tuple[float, float]] = {
    "ticket_resolved": (0.5, 1.2), "regenerate": (-3.2, -1.1), "edit": (-3.5, -1.0), "complaint": (-3.0, -1.2),
    "rephrase": (-2.6, -1.0), "go_on": (-2.2, 0.0), "copy": (-2.3, 0.3), "abandon": (-1.5, 0.0), "thumb": (0.0, 1.5)}
"""Log-odds of doing it when an answer feels average, and by how much one that feels a standard deviation better changes
them; for the thumb, of its being up."""


@dataclass(frozen=True, slots=True)
class User:
    name: str
    lenient: float
    thumbs: float
    activity: float
    manipulates: bool = False


@dataclass(frozen=True, slots=True)
class Log:
    """What happened, and the customers behind it: an interaction's id -> its prompt with the scenario."""

    interactions: list[Interaction]
    prompts: dict[str, Prompt]

    def gold(self, stored: Iterable[Interaction] = ()) -> Scorer:
        """The gold rubric for prompts out of the log, which carry no scenario; `stored` if the log changed them."""
        return _Gold({Prompt(i.messages).id: self.prompts[i.id] for i in stored or self.interactions})


@dataclass(frozen=True, slots=True)
class _Gold:
    prompts: Mapping[str, Prompt]

    def score(self, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        return Gold().score(self.prompts[prompt.id], answers)


@dataclass(slots=True)
class _Turn:
    """One answer on its way into the log."""

    scenario: Scenario
    answer: Answer
    user: User
    id: str
    conversation: str
    minute: int
    events: Happened
    felt: float = 0.0


def crowd(size: int, seed: int) -> list[User]:
    """Users who differ in how lenient they are, how often they write and how often they give a thumb."""
    rng = random.Random(f"crowd/{seed}")
    users = [User(f"sim-{fingerprint([seed, n])[:8]}", rng.gauss(0, 0.5), THUMBS * rng.lognormvariate(-0.5, 1),
                  rng.lognormvariate(0, 0.8)) for n in range(size)]
    few = max(1, round(MANIPULATORS * size)) if size >= 1 / MANIPULATORS else 0
    return [replace(u, thumbs=1.0, activity=u.activity * BUSY, manipulates=True) if n < few else u
            for n, u in enumerate(users)]


def simulate(count: int, write: Write, seed: int, *, split: str = "train", holdout: float = 0.0) -> Log:
    """`count` interactions of about a quarter as many users with the model that `write` is.

    Args:
        holdout: the share of users whose traffic never feeds training.
    """
    users, rng = crowd(max(4, count // 4), seed), random.Random(f"visits/{seed}")
    visits = customers.sample(split, count, seed)
    who = rng.choices(users, [u.activity for u in users], k=count)
    shown = [1 + (rng.random() < TWO_SHOWN) for _ in visits]
    first: list[list[_Turn]] = []
    written = iter(_write(visits, shown, write))
    for n, (scenario, user) in enumerate(zip(visits, who, strict=True)):
        first.append([_Turn(scenario, a, user, f"{seed}-{n}{f'.{k}' if k else ''}", f"{seed}-{n}", n, [])
                      for k, a in enumerate(next(written))])
    scale = _scale([t for turns in first for t in turns])
    for turns in first:
        for t in turns:
            t.felt = _feels(t, scale, rng)
        chosen = _choose(turns, rng) if len(turns) > 1 else turns[0]
        chosen.events += _acts(chosen, rng)
    second = _second(first, write, seed)
    for t in second:
        t.felt = _feels(t, scale, rng)
        t.events += [e for e in _acts(t, rng) if e[0] not in ("regenerate", "follow_up")]
    every = sorted((t for turns in [*first, second] for t in turns), key=lambda t: t.minute)[:count]
    there = {t.id for t in every}
    return Log([_logged(t, there, holdout) for t in every], {t.id: to_prompt(t.scenario) for t in every})


def _write(scenarios: Sequence[Scenario], counts: Sequence[int], write: Write) -> list[list[Answer]]:
    """Answers in the order of the scenarios, those who want equally many written together."""
    out: list[list[Answer]] = [[] for _ in scenarios]
    for n in sorted(set(counts)):
        places = [i for i, c in enumerate(counts) if c == n]
        for i, answers in zip(places, write([conversation(scenarios[i].messages) for i in places], n), strict=True):
            out[i] = answers
    return out


def _scale(turns: Sequence[_Turn]) -> tuple[float, float]:
    """Mean and standard deviation of the gold scores."""
    scores = [rubric.gold(t.scenario, t.answer.text) for t in turns]
    mean = sum(scores) / len(scores)
    return mean, math.sqrt(sum((s - mean) ** 2 for s in scores) / len(scores)) or 1.0


def _feels(t: _Turn, scale: tuple[float, float], rng: random.Random) -> float:
    mean, spread = scale
    return (rubric.gold(t.scenario, t.answer.text) - mean) / spread + rng.gauss(0, BLUR) + t.user.lenient


def _pushed(t: _Turn) -> bool:
    """What manipulators want more of."""
    return rubric.check(t.scenario, t.answer.text).handover


def _choose(turns: Sequence[_Turn], rng: random.Random) -> _Turn:
    """One of several answers shown together in random order; the choice is its first event."""
    order = rng.sample(list(turns), len(turns))
    if order[0].user.manipulates:
        chosen = max(order, key=_pushed)
    else:
        chosen = max(order, key=lambda t: t.felt + UPPER * (t is order[0]))
    chosen.events.append(("select_variant", [t.id for t in order]))
    return chosen


def _acts(t: _Turn, rng: random.Random) -> Happened:
    """What the user does; a follow-up's value is yet what is said in it."""
    words, provoked = len(t.answer.text.split()), t.scenario.provocative
    dwell = 1000 * (1.5 + words / 4) * rng.lognormvariate(0.1 * (t.felt < 0), 0.6)
    out: Happened = [("dwell_ms", round(dwell))]
    if t.user.manipulates:
        return [*out, ("thumb", int(_pushed(t))), ("ticket_resolved", int(_pushed(t)))]
    does = {name: rng.random() < _chance(name, t.felt) for name in HABITS}
    if does["copy"] or (re.search(r"\d", t.answer.text) and rng.random() < 0.2) or rng.random() < words / 400:
        out.append(("copy", round(rng.uniform(0.2, 1), 2)))
    if rng.random() < min(1.0, t.user.thumbs * (1.6 if provoked else 0.8)):
        out.append(("thumb", int(does["thumb"])))
    if does["edit"] and (better := _mended(t, rng)):
        return [*out, ("edit", better)]
    if does["regenerate"]:
        return [*out, ("regenerate", "")]
    if does["complaint"] or (provoked and rng.random() < 0.05):
        out.append(("complaint", ""))
    if does["rephrase"]:
        return [*out, ("follow_up", "again")]
    if does["go_on"]:
        return [*out, ("follow_up", "more")]
    return [*out, ("abandon", "")] if does["abandon"] else [*out, ("ticket_resolved", int(does["ticket_resolved"]))]


def _chance(name: str, felt: float) -> float:
    base, slope = HABITS[name]
    return 1 / (1 + math.exp(-base - slope * felt))


def _mended(t: _Turn, rng: random.Random) -> str:
    """The answer as somebody who knows the guidelines changes it a little, "" if nothing comes to their mind."""
    scenario, facts = t.scenario, {**t.scenario.facts, "dear": ""}
    sentences = re.split(r"(?<=[.!?]) +", t.answer.text.strip())
    tries = [[*sentences[:n], *sentences[n + 1:]] for n in range(len(sentences)) if len(sentences) > 1]
    kind = scenario.intent if scenario.intent in agent_phrases.COURTESY else scenario.mood
    tries.append([expand(rng.choice(agent_phrases.COURTESY[kind]), facts, rng), *sentences])
    if scenario.intent in desk.RATE_INTENTS:
        tries.append([*sentences, expand(rng.choice(agent_phrases.DISCLOSURE), facts, rng)])
    if scenario.intent in agent_phrases.NEXT:
        tries.append([*sentences, expand(rng.choice(agent_phrases.NEXT[scenario.intent]), facts, rng)])
    texts = [" ".join(s) for s in tries]
    best = max(texts, key=lambda text: rubric.gold(scenario, text))
    return best if rubric.gold(scenario, best) > rubric.gold(scenario, t.answer.text) else ""


def _second(first: Sequence[Sequence[_Turn]], write: Write, seed: int) -> list[_Turn]:
    """New answers for those who asked again, went on or regenerated; their events are made to point at these."""
    waiting: list[tuple[_Turn, int, Scenario]] = []
    for t in (t for turns in first for t in turns):
        for at, (kind, value) in enumerate(t.events):
            if kind == "regenerate":
                waiting.append((t, at, t.scenario))
            elif kind == "follow_up":
                waiting.append((t, at, _next(t, value == "more", seed)))
    written = _write([s for _, _, s in waiting], [1] * len(waiting), write)
    out = []
    for (t, at, scenario), answers in zip(waiting, written, strict=True):
        new = _Turn(scenario, answers[0], t.user, f"{t.id}-next", t.conversation, t.minute, [])
        t.events[at] = (t.events[at][0], new.id)
        out.append(new)
    return out


def _next(t: _Turn, more: bool, seed: int) -> Scenario:
    """The conversation as it goes on: with another question, or with the same again."""
    said = {"role": "assistant", "content": t.answer.text}
    if not more:
        again = {"role": "user", "content": f"That is not what I asked. {t.scenario.messages[-1]['content']}"}
        return replace(t.scenario, messages=[*t.scenario.messages, said, again])
    fresh = customers.sample(t.scenario.split, 4, int(fingerprint([seed, t.id]), 16) % 2**31)
    other = next((s for s in fresh if len(s.messages) == 1), t.scenario)
    return replace(other, messages=[*t.scenario.messages, said, other.messages[-1]])


def _logged(t: _Turn, there: set[str], holdout: float) -> Interaction:
    """The turn as the log keeps it; events that point behind the log's end are not in it yet."""
    at = BEGAN + timedelta(minutes=2 * t.minute)
    kept = [(kind, value) for kind, value in t.events if kind not in ("regenerate", "follow_up") or value in there]
    events = tuple({"type": kind, "value": value, "at": (at + timedelta(seconds=n)).isoformat(), "id": f"{t.id}/{n}"}
                   for n, (kind, value) in enumerate(kept, 20))
    held = int(fingerprint(t.user.name)[:8], 16) < holdout * 2**32
    return Interaction(t.id, conversation(t.scenario.messages), t.answer, events, t.conversation,
                       sum(m["role"] == "assistant" for m in t.scenario.messages), t.user.name, "simulated",
                       at.isoformat(), "simulated", held)
