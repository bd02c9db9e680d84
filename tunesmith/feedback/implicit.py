"""Evidence and what it is worth -> answer groups to learn from: pairs, single answers, thumbs.

A reaction is a verdict that came through a noisy channel: with p = P(a person prefers), its likelihood under a reward r
is p σ(r) + (1 - p) σ(-r). Near r = 0, where weak reactions leave it, this has the slope of a plain verdict of weight
|2p - 1|, and hardly any curvature. So a group says which side is better, and its weight how sure that is. (A soft label
p of weight 1 has the same slope, but draws every reward towards log p/(1-p): thousands of faint reactions then flatten
what few clear verdicts say.) Weights also correct for the place on the page, for traffic that was split unevenly, and,
of thumbs, for who cares to give one; reactions of users who say very much are made fainter before their worth is
measured. Every group names the interactions that it was made of. Left out: a doubly robust outcome model; rewards are
learned from the groups afterwards.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import TypeVar

import numpy as np

from tunesmith.feedback.calibration import Calibrated
from tunesmith.feedback.signals import Evidence
from tunesmith.feedback.trust import capped
from tunesmith.records import AnswerGroup, Pair, fingerprint
from tunesmith.statistics import Floats

CLIP = 10.0
"""Inverse propensities are cut here: the rare arm's answers count more, but no single one counts for a crowd."""
LABELER = "implicit"
EQUALS = 3.0
"""Where users are too few for the share that one may have: so many equal shares."""
VOCAL = 20.0
"""How many of a user's answers without a thumb it takes to believe their own rate more than everybody's."""
FACT = "mined"
"""The key in a prompt's facts under which a group says what it was made of; models and labelers never see it."""

Judged = TypeVar("Judged", Evidence, AnswerGroup)


@dataclass(frozen=True, slots=True)
class Worth:
    """What single answers' signals and what choices between two are worth."""

    single: Calibrated
    double: Calibrated

    def of(self, e: Evidence) -> Calibrated:
        return self.double if len(e.answers) == 2 else self.single


def corrected(found: Iterable[Evidence], user_share: float = 0.01) -> list[Evidence]:
    """The evidence with fainter signals of those who say very much, and with weights, whose mean is 1.

    Args:
        user_share: the largest share of each kind of reaction that one user may have a say in.
    """
    every = list(found)
    place, limit = _places(every), _limits(every, user_share)
    weights = np.array([place[e.position, e.shown] * min(CLIP, 1 / e.propensity) for e in every])
    return [replace(e, weight=float(w), signals={n: v * limit[n][e.user] for n, v in e.signals.items()})
            for e, w in zip(every, weights / (weights.mean() if every else 1))]


def groups(found: Iterable[Evidence], worth: Worth) -> list[AnswerGroup]:
    """Pairs of choices and labelled single answers, weighed by how sure they are; evidence of which nothing counts is
    left out.

    Several reactions to the same answers by different users are several groups.
    """
    return [_group(e, p, heard) for e in found if (heard := worth.of(e).heeds(e.signals))
            for p in [worth.of(e).probability(e.signals)] if round(p, 6) != 0.5]


def thumbs(found: Iterable[Evidence], worth: Worth) -> list[AnswerGroup]:
    """Answers with a thumb or a rating, as good or bad, for methods that need no pairs (KTO, 2402.01306).

    Who gives thumbs is no sample of all users: each counts by how strong it is (those of a user who gives very many are
    faint), over the probability that this user gives one to such an answer, cut at `CLIP`.
    """
    single = [e for e in found if len(e.answers) == 1]
    given = [(e, e.signals[name]) for e in single for name in ("thumb", "rating")
             if e.signals.get(name) and name in worth.single.heeds(e.signals)]
    chance = feedback_propensity(single)
    weights = np.array([e.weight * abs(value) * min(CLIP, 1 / chance[e.interactions[0]]) for e, value in given])
    return [replace(_group(e, float(value > 0), ["thumb", "rating"]), weight=float(w))
            for (e, value), w in zip(given, weights / (weights.mean() if given else 1))]


def feedback_propensity(found: Sequence[Evidence]) -> dict[str, float]:
    """P(an answer gets a thumb or a rating), by interaction: logistic regression on how long question and answer are
    and how often this user gave one to other answers."""
    if not found:
        return {}
    gave = np.array([bool(e.signals.keys() & {"thumb", "rating"}) for e in found], dtype=float)
    asked, given = Counter(e.user for e in found), Counter[str]()
    for e, yes in zip(found, gave):
        given[e.user] += int(yes)
    rate = (gave.sum() + 0.5) / (gave.size + 1)
    own = [(given[e.user] - yes + VOCAL * rate) / (asked[e.user] - 1 + VOCAL) for e, yes in zip(found, gave)]
    x = np.array([[1.0, log(p / (1 - p)), log(1 + len(e.prompt.messages[-1].content.split())),
                   log(1 + len(e.answers[0].text.split()))] for e, p in zip(found, own)])
    return dict(zip((e.interactions[0] for e in found), _logistic(x, gave).tolist(), strict=True))


def unjudged(found: Iterable[Judged], judged: Iterable[AnswerGroup]) -> list[Judged]:
    """The evidence, or groups, on answers of which no person said anything: where one did, the person is right."""
    known: dict[str, set[str]] = defaultdict(set)
    for g in judged:
        known[g.prompt.id] |= {a.text for a in g.answers}
    return [e for e in found if not {a.text for a in e.answers} <= known[e.prompt.id]]


def without(made: Iterable[AnswerGroup], unsafe: Collection[str]) -> list[AnswerGroup]:
    """The groups in which no answer of `unsafe` texts is preferred."""
    return [g for g in made if not any(text in unsafe for text in preferred(g))]


def preferred(group: AnswerGroup) -> list[str]:
    """The texts that a group speaks for."""
    return [group.answers[k].text for k in {*(p.better for p in group.pairs), *np.flatnonzero(group.labels).tolist()}]


def spots(made: Sequence[AnswerGroup], count: int, seed: int = 0) -> list[AnswerGroup]:
    """Mined pairs for people to check, drawn at random, in an order that does not tell which side was mined."""
    paired = [g for g in made if g.pairs]
    drawn = np.random.default_rng(seed).permutation(len(paired))[:count]
    return [_blind(paired[n]) for n in sorted(drawn)]


def agreement(checked: Iterable[AnswerGroup]) -> tuple[float, int]:
    """How often people preferred what was mined, ties half: wins and verdicts, of `spots` with tiers."""
    won, n = 0.0, 0
    for g in checked:
        if FACT in g.prompt.facts and g.tiers:
            level = {k: t for t, tier in enumerate(g.tiers) for k in tier}
            better = int(g.prompt.facts[FACT]["better"])
            mined, other = (level.get(k, len(g.tiers)) for k in (better, 1 - better))  # who is left out is last
            won, n = won + (0.5 + 0.5 * np.sign(other - mined)), n + 1
    return won, n


def _group(e: Evidence, p: float, heard: Sequence[str]) -> AnswerGroup:
    """Of two answers a pair, of one a label of 0 or 1; the weight says how sure."""
    about = {"signals": {name: round(e.signals[name], 4) for name in heard if name in e.signals}, "p": round(p, 4),
             "interactions": list(e.interactions)}
    prompt = replace(e.prompt, facts={**e.prompt.facts, FACT: about})
    two, better = len(e.answers) == 2, int(p < 0.5)
    return AnswerGroup(prompt, e.answers, pairs=(Pair(better, 1 - better),) if two else (),
                       labels=() if two else (float(p > 0.5),), labeler=LABELER,
                       source="simulated" if e.simulated else "implicit", weight=e.weight * abs(2 * p - 1))


def _blind(group: AnswerGroup) -> AnswerGroup:
    """A pair without its order, its two answers sorted by their texts' fingerprint."""
    better = group.pairs[0].better
    turned = fingerprint(group.answers[0].text) > fingerprint(group.answers[1].text)
    facts = {**group.prompt.facts, FACT: {**group.prompt.facts[FACT], "better": 1 - better if turned else better}}
    return AnswerGroup(replace(group.prompt, facts=facts), group.answers[::-1] if turned else group.answers)


def _places(found: Sequence[Evidence]) -> dict[tuple[int, int], float]:
    """By place on the page and answers shown: 1 over the share of choices that fell there, times what chance would say.

    Where the order is random, what is left of a preference for a place is none (Joachims et al., 1608.04468).
    """
    chosen = Counter((e.position, e.shown) for e in found)
    together = Counter(e.shown for e in found)
    return {(at, shown): min(CLIP, together[shown] / (shown * n)) if shown else 1.0
            for (at, shown), n in chosen.items()}


def _limits(found: Sequence[Evidence], share: float) -> Mapping[str, Mapping[str, float]]:
    """By kind of reaction and user: what their reactions are to be multiplied by so that nobody says too much; of few
    users nobody more than `EQUALS` times an equal share."""
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for e in found:
        for rule in e.signals:
            said[rule][e.user] += 1
    return {rule: capped(who, max(share, EQUALS / len(who))) for rule, who in said.items()}


def _logistic(x: Floats, y: Floats) -> Floats:
    """Probabilities of a logistic regression with a slight ridge, by Newton's method."""
    theta, ridge = np.zeros(x.shape[1]), np.eye(x.shape[1]) * 1e-2
    for _ in range(25):
        p = 1 / (1 + np.exp(-x @ theta))
        theta = theta - np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + ridge, x.T @ (p - y) + ridge @ theta)
    return np.clip(1 / (1 + np.exp(-x @ theta)), 1e-3, 1.0)
