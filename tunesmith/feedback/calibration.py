"""What reactions are worth: P(a person prefers this answer | its signals), from answers that people also ranked.

Each signal is first held alone against what people said. Where the interval of its AUC includes 1/2 it is heeded no
more; where people prefer what it speaks against, neither, for somebody may be gaming it. A ridge logistic regression
adds up those that are left, and isotonic regression turns the sum into a probability (Zadrozny & Elkan 2002). The
figures of the whole are on prompts that it did not see: prompts are divided into folds, and each is judged by a fit of
the others. Left out: what is worth more together than apart, which needs more rankings than anybody has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.feedback.groups import pairs
from tunesmith.feedback.signals import CHOICES, GUESSES, RULES, Evidence, speakers
from tunesmith.records import AnswerGroup, Pair, fingerprint
from tunesmith.statistics import Floats, Interval, auc_interval, calibration, isotonic

FOLDS = 5
RIDGE = 1.0
PSEUDO = 4.0
"""Cases that each level of the probability starts from, at the base rate: a level of three cases is not sure."""
LEVEL = 0.9
"""Of the interval that must not include 1/2. What is heeded by mistake gets a weight near 0 all the same."""
NOTHING = Interval(float("nan"), 0.0, 1.0, 0)


@dataclass(frozen=True, slots=True)
class Case:
    """A comparison by a person of which one side, or both, had reactions. The cases of one piece of evidence weigh 1
    together."""

    signals: Mapping[str, float]
    preferred: bool
    prompt: str
    weight: float


@dataclass(frozen=True, slots=True)
class Signal:
    """One kind of reaction: how well it tells which answer people prefer, from how many cases in which it spoke, by how
    many users it was shown in all, and its weight in nats; 0: it is not heeded, for the reason `why`."""

    name: str
    auc: Interval
    cases: int
    users: int
    weight: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Signals to P(a person prefers the answer). `symmetric`: of two answers, so that turned signals turn the answer.

    `scores` and `levels` are the corners of the rising curve from the weighted sum to the probability. `auc` and
    `error` (expected calibration error) are on prompts left out of the fit; `cases` compares by people.
    """

    signals: tuple[Signal, ...]
    symmetric: bool
    scores: tuple[float, ...]
    levels: tuple[float, ...]
    auc: Interval = NOTHING
    error: float = float("nan")
    cases: int = 0

    def probability(self, signals: Mapping[str, float]) -> float:
        """P(a person prefers the answer to another one for the same prompt)."""
        score = sum(s.weight * signals.get(s.name, 0.0) for s in self.signals)
        p = float(np.interp(score, self.scores, self.levels))
        return p if not self.symmetric else (p + 1 - float(np.interp(-score, self.scores, self.levels))) / 2

    def heeds(self, signals: Mapping[str, float]) -> list[str]:
        """The signals among these that count."""
        return [s.name for s in self.signals if s.weight and s.name in signals]

    def to_dict(self) -> dict[str, Any]:
        """JSON for a report."""
        signals = {s.name: {"auc": s.auc.to_dict(), "cases": s.cases, "users": s.users, "weight": round(s.weight, 4),
                            **({"why": s.why} if s.why else {})} for s in self.signals}
        error = None if np.isnan(self.error) else self.error
        return {"auc": self.auc.to_dict(), "error": error, "cases": self.cases, "signals": signals}


def cases(found: Iterable[Evidence], judged: Iterable[AnswerGroup]) -> list[Case]:
    """What people said of answers that users reacted to: every comparison of a single answer with another of its group,
    or of two with each other. Ties say nothing here.

    Two answers come in an order that does not know which one the user chose.
    """
    groups: dict[str, list[AnswerGroup]] = defaultdict(list)
    for g in judged:
        groups[g.prompt.id].append(g)
    out = []
    for e in found:
        said = [won for g in groups[e.prompt.id] for p in pairs(g) if (won := _first_won(e, g, p)) is not None]
        sides = fingerprint([e.prompt.id, *(a.text for a in e.answers)])
        turn = -1.0 if len(e.answers) == 2 and sides > "8" else 1.0
        signals = {name: turn * value for name, value in e.signals.items()}
        out += [Case(signals, won == (turn > 0), e.prompt.id, 1 / len(said)) for won in said]
    return out


def _first_won(e: Evidence, group: AnswerGroup, pair: Pair) -> bool | None:
    """Whether a person preferred the first of the evidence's answers; None if the comparison was about others."""
    better, worse = (group.answers[k].text for k in (pair.better, pair.worse))
    if pair.p == 0.5 or better == worse:
        return None
    if pair.p < 0.5:
        better, worse = worse, better
    first, against = e.answers[0].text, {a.text for a in e.answers[1:]}
    if first == better and (not against or worse in against):
        return True
    return False if first == worse and (not against or better in against) else None


def calibrate(found: Sequence[Evidence], judged: Iterable[AnswerGroup], *, min_users: int = 1
              ) -> tuple[Calibrated, Calibrated]:
    """What signals are worth, of single answers and of choices between two.

    Args:
        found: all evidence, so that the users of each kind of reaction can be counted.
        judged: one group per ranking by a person.
        min_users: a kind of reaction that fewer users showed is not heeded.
    """
    groups, users = list(judged), speakers(found)
    single = [e for e in found if len(e.answers) == 1]
    double = [e for e in found if len(e.answers) == 2]
    few = {name: len(who) for name, who in users.items() if len(who) < min_users}
    counts = {name: len(users.get(name, ())) for name in (*RULES, *CHOICES)}
    return (_fit(cases(single, groups), tuple(RULES), counts, few, symmetric=False),
            _fit(cases(double, groups), CHOICES, counts, few, symmetric=True))


def guessed(found: Sequence[Evidence]) -> tuple[Calibrated, Calibrated]:
    """The same without any person's word: the weights of `signals.GUESSES` through a plain logistic curve."""
    users = speakers(found)
    curve = np.linspace(-6, 6, 121)
    levels = tuple((1 / (1 + np.exp(-curve))).tolist())

    def of(names: Iterable[str], symmetric: bool) -> Calibrated:
        known = tuple(Signal(n, NOTHING, 0, len(users.get(n, ())), GUESSES[n], "guessed") for n in names)
        return Calibrated(known, symmetric, tuple(curve.tolist()), levels)

    return of(RULES, False), of(CHOICES, True)


def _fit(known: Sequence[Case], names: Sequence[str], users: Mapping[str, int], few: Mapping[str, int], *,
         symmetric: bool) -> Calibrated:
    """All of it on all cases, and its figures from folds."""
    alone = [_alone(name, known, users[name], few) for name in names]
    kept = [s.name for s in alone if not s.why]
    if not kept:
        return Calibrated(tuple(alone), symmetric, (0.0,), (0.5,), cases=len(known))
    theta, curve = _learn(known, kept, symmetric)
    weights = dict(zip(kept, theta, strict=True))
    signals = tuple(Signal(s.name, s.auc, s.cases, s.users, float(weights.get(s.name, 0.0)), s.why) for s in alone)
    fold = np.array([int(fingerprint(c.prompt), 16) % FOLDS for c in known])
    guess = np.full(len(known), 0.5)
    for f in range(FOLDS):
        if (fold != f).any() and (fold == f).any():
            theta_f, curve_f = _learn([c for c, at in zip(known, fold) if at != f], kept, symmetric)
            guess[fold == f] = curve_f(_table([c for c, at in zip(known, fold) if at == f], kept) @ theta_f)
    happened = [c.preferred for c in known]
    scores, levels = curve.corners
    return Calibrated(signals, symmetric, scores, levels,
                      auc_interval(guess, happened, [c.prompt for c in known], [c.weight for c in known]),
                      calibration(guess, np.asarray(happened, dtype=float)).ece, len(known))


def _alone(name: str, known: Sequence[Case], users: int, few: Mapping[str, int]) -> Signal:
    """One signal against what people said. Nothing is fitted here, so every case is one that was held out."""
    value = np.array([c.signals.get(name, 0.0) for c in known])
    spoke = int(np.count_nonzero(value))
    two_sided = (value > 0).any() and (value < 0).any()
    heard = [c for c, v in zip(known, value) if v or not two_sided]  # silence is the other side of a signal with one
    found = auc_interval([c.signals.get(name, 0.0) for c in heard], [c.preferred for c in heard],
                         [c.prompt for c in heard], [c.weight for c in heard], level=LEVEL) if spoke else NOTHING
    why = (f"fewer users than asked for: {few[name]}" if name in few else "nobody showed it" if not users else
           "never on an answer that people judged" if not spoke else
           "says nothing for sure: the interval includes 50%" if found.low <= 0.5 <= found.high else
           "people prefer the opposite: is somebody gaming it?" if found.high < 0.5 else "")
    return Signal(name, found, spoke, users, 0.0, why)


class _Curve:
    """Score -> probability: isotonic levels, drawn towards the base rate by `PSEUDO` cases each, straight between."""

    def __init__(self, scores: Floats, happened: Floats, weights: Floats):
        base = float((weights * happened).sum() / weights.sum())
        places, levels = isotonic(scores, happened, weights)
        _, block = np.unique(levels, return_inverse=True)
        mass = np.bincount(block[np.searchsorted(places, scores)], weights)[block]
        soft = np.maximum.accumulate((levels * mass + base * PSEUDO) / (mass + PSEUDO))
        self.corners = tuple(places.tolist()), tuple(soft.tolist())

    def __call__(self, scores: Floats) -> Floats:
        return np.interp(scores, *self.corners)


def _learn(known: Sequence[Case], names: Sequence[str], symmetric: bool) -> tuple[Floats, _Curve]:
    """Weights of the signals, and the curve from their sum to a probability. Newton's method on the ridge loss."""
    x = _table(known, names)
    y = np.array([c.preferred for c in known], dtype=float)
    w = np.array([c.weight for c in known])
    if symmetric:
        x, y, w = np.concatenate([x, -x]), np.concatenate([y, 1 - y]), np.concatenate([w, w]) / 2
    full = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    penalty = np.append(np.full(x.shape[1], RIDGE), 1e-9)
    theta = np.zeros(full.shape[1])
    for _ in range(25):
        p = 1 / (1 + np.exp(-full @ theta))
        gradient = full.T @ (w * (p - y)) + penalty * theta
        curvature = (full * (w * p * (1 - p))[:, None]).T @ full + np.diag(penalty)
        theta = theta - np.linalg.solve(curvature, gradient)
    return theta[:-1], _Curve(np.round(x @ theta[:-1], 9), y, w)


def _table(known: Sequence[Case], names: Sequence[str]) -> Floats:
    return np.array([[c.signals.get(n, 0.0) for n in names] for c in known], dtype=float).reshape(-1, len(names))
