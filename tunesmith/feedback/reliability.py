"""What a language model's preferences are worth beside people's: measured where people judged the same answers.

Each judge is held against people's votes, never against other judges, who may share its mistakes (abilities that are
fitted together would let two alike judges vouch for each other). Two things come of it:

- **What it says, as a person would.** A judge's probability p that one answer is better becomes σ(slope · logit p), the
  share of people who prefer that answer as far as the sample knows: logistic calibration without an offset, for neither
  answer is the better one by itself, with a standard normal prior on the slope, so that few votes mean little.
- **How much it counts.** (2a - 1) / (2h - 1) of a person's vote, where a is how often the judge agrees with a person
  and h how often two people agree: how much the one pulls towards what people hold, against the other. Never more than
  1, and nothing where the interval of a reaches chance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from tunesmith.feedback.agreement import agreement
from tunesmith.feedback.consensus import is_held_out
from tunesmith.feedback.groups import pairs
from tunesmith.records import AnswerGroup
from tunesmith.statistics import Interval, wilson

PEOPLE_AGREE = 0.73
"""How often two people agree where a set's own people do not say (InstructGPT 72.6 ± 1.5%, 2203.02155)."""
ENOUGH = 20
"""Pairs that two people have judged before their own agreement counts."""
SURE = 0.98
"""A judge is never taken to be surer than this."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """One judge against people. `agreement`: on pairs strict for both, the mean over groups (Wilson's interval with a
    group as the unit, because its pairs hang together); `people`: how often two people agree; `slope` of the
    calibration; `worth` of a label beside a person's vote; `votes` by people that it was held against, ties included.
    """

    judge: str
    agreement: Interval
    people: float
    slope: float
    worth: float
    votes: int

    def to_dict(self) -> dict[str, Any]:
        """For a run's summary."""
        return {"agreement": self.agreement.to_dict(), "people": round(self.people, 4), "slope": round(self.slope, 4),
                "worth": round(self.worth, 4), "votes": self.votes}

    def p(self, said: float) -> float:
        """P(a person prefers it) where the judge says P(it is better)."""
        return float(expit(self.slope * _surely(said)))


def reliability(people: Sequence[AnswerGroup], judged: Iterable[AnswerGroup]) -> dict[str, Reliability]:
    """Every judge that has judged anything, against people's votes on the same answers.

    Args:
        people: one group per ranking; a group is known by its prompt and answers.
        judged: one group per judge and item, with soft pairs.
    """
    votes = defaultdict(list)
    for g in people:
        votes[g.id].append(_said(g))
    found = agreement(list(people)).percent
    alike = found.value if found.n >= ENOUGH else PEOPLE_AGREE
    by_judge: dict[str, list[AnswerGroup]] = defaultdict(list)
    for g in judged:
        by_judge[g.labeler].append(g)
    return {name: _measured(name, [list(_meetings(g, votes.get(g.id, ()))) for g in groups], max(alike, 0.55))
            for name, groups in sorted(by_judge.items())}


def weighed(judged: Iterable[AnswerGroup], found: Mapping[str, Reliability], held_out: float = 0.0
            ) -> list[AnswerGroup]:
    """Judges' groups as they train beside people's: probabilities calibrated, weights by worth. Left out are judges who
    are worth nothing, and prompts that are held out: what measures a model is people's."""
    out = []
    for g in judged:
        judge = found[g.labeler]
        if judge.worth > 0 and not is_held_out(g, held_out):
            soft = tuple(replace(p, p=judge.p(p.p)) for p in pairs(g, "half"))
            out.append(replace(g, pairs=soft, weight=g.weight * judge.worth))
    return out


def _said(group: AnswerGroup) -> dict[tuple[int, int], float]:
    """P(i beats j) for each pair i < j that was compared."""
    return {(p.better, p.worse) if p.better < p.worse else (p.worse, p.better): p.p if p.better < p.worse else 1 - p.p
            for p in pairs(group, "half")}


def _meetings(group: AnswerGroup, votes: Sequence[Mapping[tuple[int, int], float]]) -> Iterator[tuple[float, float]]:
    """What the judge and a person say of the same pair, for every person."""
    for pair, said in _said(group).items():
        yield from ((said, vote[pair]) for vote in votes if pair in vote)


def _measured(name: str, groups: Sequence[Sequence[tuple[float, float]]], people: float) -> Reliability:
    strict = [[(x, y) for x, y in rows if x != 0.5 and y != 0.5] for rows in groups]
    strict = [rows for rows in strict if rows]
    agree = wilson(sum(sum((x > 0.5) == (y > 0.5) for x, y in rows) / len(rows) for rows in strict), len(strict))
    said, vote = (np.array([row[k] for rows in groups for row in rows]) for k in (0, 1))
    worth = min(1.0, (2 * agree.value - 1) / (2 * people - 1)) if agree.n and agree.low > 0.5 else 0.0
    return Reliability(name, agree, people, _slope(said, vote), worth, len(said))


def _slope(said_N: np.ndarray[Any, Any], vote_N: np.ndarray[Any, Any]) -> float:
    """The maximum a posteriori of the calibration's slope; 0 without votes: then a judge says nothing."""
    x_N = np.array([_surely(p) for p in said_N])

    def loss(slope: float) -> float:
        return float(np.logaddexp(0, slope * x_N).sum() - (vote_N * slope * x_N).sum() + slope ** 2 / 2)

    return max(0.0, float(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x))


def _surely(p: float) -> float:
    """logit, of nothing surer than `SURE`."""
    return float(logit(min(max(p, 1 - SURE), SURE)))
