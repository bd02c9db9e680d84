"""What a language model's preferences are worth beside people's: measured where people judged the same answers.

Each judge is held against people's votes, never against other judges, who may share its mistakes (abilities that are
fitted together would let two alike judges vouch for each other). Two things come of it:

- **What it says, as a person would.** A judge's probability p that one answer is better becomes
  σ(slope · logit p + length · d), the share of people who prefer that answer as far as the sample knows, where d is how
  many times the answer's words are doubled against the other's. A judge that is too sure of itself gets a small slope;
  one that loves length gets it taken off again, as length-controlled win rates do (Dubois et al., 2404.04475). No
  offset, for neither answer is the better one by itself; standard normal priors, so that few votes mean little.
- **How much it counts.** (2a - 1) / (2h - 1) of a person's vote, where a is how often what it then says agrees with a
  person and h how often two people agree: how much the one pulls towards what people hold, against the other. Never
  more than 1, and nothing where an interval of a or of the slope reaches chance.

A bias that neither sureness nor length explains stays in the labels: look at what judge and people disagree about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2, sqrt
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from tunesmith.feedback.ability import Z95
from tunesmith.feedback.agreement import agreement
from tunesmith.feedback.consensus import is_held_out
from tunesmith.feedback.groups import pairs
from tunesmith.records import AnswerGroup
from tunesmith.statistics import Floats, Interval, wilson

PEOPLE_AGREE = 0.73
"""How often two people agree where a set's own people do not say (InstructGPT 72.6 ± 1.5%, 2203.02155)."""
ENOUGH = 20
"""Groups that two people have judged before their own agreement counts."""
FEWEST = 10
"""Groups that judge and people must share before a judge counts at all."""
SURE = 0.98
"""A judge is never taken to be surer than this."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """One judge against people.

    `raw`: how often it agrees with a person, on pairs strict for both; `agreement`: how often what it says once
    corrected does. Means over groups, with Wilson's interval and a group as the unit, because its pairs hang together.
    `people`: how often two people agree. `slope`, `length`: the correction, with intervals robust to groups (a slope
    below 0 corrects nothing: such a judge is worth nothing). `worth` of a label beside a person's vote. `votes` by
    people that it was held against, ties included.
    """

    judge: str
    raw: Interval
    agreement: Interval
    people: float
    slope: Interval
    length: Interval
    worth: float
    votes: int

    def to_dict(self) -> dict[str, Any]:
        """For a run's summary."""
        return {**{key: getattr(self, key).to_dict() for key in ("raw", "agreement", "slope", "length")},
                "people": round(self.people, 4), "worth": round(self.worth, 4), "votes": self.votes}

    def p(self, said: float, doublings: float = 0.0) -> float:
        """P(a person prefers an answer) where the judge says P(it is better), by how much longer it is."""
        return float(expit(max(0.0, self.slope.value) * _surely(said) + self.length.value * doublings))


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
    alike = max(found.value if found.n >= ENOUGH else PEOPLE_AGREE, 0.55)
    by_judge: dict[str, list[AnswerGroup]] = defaultdict(list)
    for g in judged:
        by_judge[g.labeler].append(g)
    return {name: _measured(name, [row for n, g in enumerate(groups) for row in _meetings(n, g, votes.get(g.id, ()))],
                            alike) for name, groups in sorted(by_judge.items())}


def weighed(judged: Iterable[AnswerGroup], found: Mapping[str, Reliability], held_out: float = 0.0
            ) -> list[AnswerGroup]:
    """Judges' groups as they train beside people's: probabilities corrected, weights by worth. Left out are judges who
    are worth nothing, and prompts that are held out: what measures a model is people's."""
    out = []
    for g in judged:
        judge = found[g.labeler]
        if judge.worth > 0 and not is_held_out(g, held_out):
            soft = tuple(replace(p, p=judge.p(p.p, _doublings(g, p.better, p.worse))) for p in pairs(g, "half"))
            out.append(replace(g, pairs=soft, weight=g.weight * judge.worth))
    return out


def _said(group: AnswerGroup) -> dict[tuple[int, int], float]:
    """P(i beats j) for each pair i < j that was compared."""
    return {(p.better, p.worse) if p.better < p.worse else (p.worse, p.better): p.p if p.better < p.worse else 1 - p.p
            for p in pairs(group, "half")}


def _meetings(number: int, group: AnswerGroup, votes: Sequence[Mapping[tuple[int, int], float]]
              ) -> Iterator[tuple[float, float, float, float]]:
    """The group's number, the judge's logit, the doublings and a person's vote, for each pair and person."""
    for (i, j), said in _said(group).items():
        yield from ((number, _surely(said), _doublings(group, i, j), vote[i, j]) for vote in votes if (i, j) in vote)


def _doublings(group: AnswerGroup, i: int, j: int) -> float:
    """How many times answer i's words are doubled against j's; below 0 where it is shorter."""
    one, two = (1 + len(group.answers[k].text.split()) for k in (i, j))
    return log2(one / two)


def _measured(name: str, rows: Sequence[tuple[float, float, float, float]], people: float) -> Reliability:
    group_N, said_N, longer_N, vote_N = np.array(rows).reshape(-1, 4).T
    x_N2 = np.stack([said_N, longer_N], axis=1)
    slope, length = _correction(group_N, x_N2, vote_N)
    fixed_N = x_N2 @ [max(0.0, slope.value), length.value]
    raw, agrees = (_agreement(group_N, z, said_N, vote_N) for z in (said_N, fixed_N))
    sure = agrees.n >= FEWEST and agrees.low > 0.5 and slope.low > 0
    worth = min(1.0, (2 * agrees.value - 1) / (2 * people - 1)) if sure else 0.0
    return Reliability(name, raw, agrees, people, slope, length, worth, len(rows))


def _agreement(group_N: Floats, z_N: Floats, said_N: Floats, vote_N: Floats) -> Interval:
    """How often the sign of z is that of the vote, where the judge and the person decided."""
    strict = (said_N != 0) & (vote_N != 0.5)
    same = ((z_N > 0) == (vote_N > 0.5))[strict]
    shares = [float(same[group_N[strict] == g].mean()) for g in np.unique(group_N[strict])]
    return wilson(sum(shares), len(shares))


def _correction(group_N: Floats, x_N2: Floats, vote_N: Floats) -> tuple[Interval, Interval]:
    """Slope and length, maximum a posteriori, with intervals by the sandwich over groups (Huber 1967; Liang & Zeger
    1986); zero without votes."""
    groups = len(np.unique(group_N))

    def loss(b: Floats) -> float:
        z_N = x_N2 @ b
        return float((np.logaddexp(0, z_N) - vote_N * z_N).sum() + b @ b / 2)

    best = minimize(loss, np.zeros(2), jac=lambda b: x_N2.T @ (expit(x_N2 @ b) - vote_N) + b, method="BFGS").x
    p_N = expit(x_N2 @ best)
    bread = np.linalg.inv((x_N2 * (p_N * (1 - p_N))[:, None]).T @ x_N2 + np.eye(2))
    pull_N2 = x_N2 * (p_N - vote_N)[:, None]
    sums = np.array([pull_N2[group_N == g].sum(0) for g in np.unique(group_N)]).reshape(-1, 2)
    spread = bread @ (sums.T @ sums) @ bread
    slope, length = (Interval(float(b), float(b) - Z95 * sqrt(v), float(b) + Z95 * sqrt(v), groups)
                     for b, v in zip(best, np.diag(spread), strict=True))
    return slope, length


def _surely(p: float) -> float:
    """logit, of nothing surer than `SURE`."""
    return float(logit(min(max(p, 1 - SURE), SURE)))
