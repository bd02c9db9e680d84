"""Do people still prefer what they preferred some rounds ago? Measured on what was ranked again.

Two verdicts on the same two answers agree with probability 1/2 + a exp(-λ age), where `age` is how many rounds lie
between them: at age 0, two labelers of one round, a is what their noise leaves of certainty; λ is how fast preferences
change. Both are fitted by maximum likelihood, from answers that were ranked in several rounds, so that they are
compared with themselves. If preferences of `age` rounds ago have a correlation ρ = exp(-λ age) with today's, a verdict
of then is worth ρ of one of now, so that is its weight. Without sure signs of change (the interval of λ includes 0)
nothing is weighed down: old rankings are dear.

A labeler who ranks upside down looks like drift: leave those out first. Left out: change of a part of the preferences
only (of one topic), and change that is no decay (with the seasons).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import exp

import numpy as np
from numpy.typing import NDArray

from tunesmith.feedback.groups import pairs
from tunesmith.records import AnswerGroup
from tunesmith.statistics import Interval

Floats = NDArray[np.float64]
CERTAINTY = np.linspace(0.005, 0.5, 100)
RATE = np.linspace(-0.7, 3, 186)
"""λ may come out below 0, so that an interval can include 0; at 3, a round later nothing is left."""
RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Meeting:
    """Verdicts on the same answers, `age` rounds apart: how many pairs were put in order by both, and how often both
    put them in the same order."""

    item: str
    age: int
    agreed: int
    pairs: int


@dataclass(frozen=True, slots=True)
class Drift:
    """`rate` is λ per round, with its interval; `agreement` what two verdicts of one round reach; `meetings` the pairs
    compared, by age."""

    rate: Interval
    agreement: float
    meetings: dict[int, tuple[int, int]]

    @property
    def sure(self) -> bool:
        return self.rate.low > 0

    def weight(self, age: int) -> float:
        """What a verdict of `age` rounds ago is worth beside one of now."""
        return exp(-self.rate.value * age) if self.sure else 1.0


def meetings(judged: Iterable[tuple[int, AnswerGroup]]) -> list[Meeting]:
    """Every two verdicts on the same answers to the same prompt by different labelers or in different rounds, from
    (round, ranked group); the order of the answers within a group does not matter."""
    by_item: dict[str, list[tuple[int, str, dict[tuple[str, str], float]]]] = defaultdict(list)
    for number, group in judged:
        item = " ".join([group.prompt.id, *sorted(a.text for a in group.answers)])
        by_item[item].append((number, group.labeler, _order(group)))
    return [Meeting(item, abs(m - n), sum(one[p] * two[p] > 0 for p in both), len(both))
            for item, said in by_item.items() for (m, who, one), (n, other, two) in combinations(said, 2)
            if (m, who) != (n, other) and (both := [p for p in one if one[p] and two.get(p)])]


def drift(found: Sequence[Meeting], seed: int = 0) -> Drift | None:
    """How fast preferences change; None where nothing was judged twice in one round and again in a later one.

    The interval (95%) is from a bootstrap over items, since the pairs of one item stand or fall together.
    """
    again = {m.item for m in found if m.age}
    found = [m for m in found if m.item in again]  # easy and hard answers must not be taken for change
    ages = sorted({m.age for m in found})
    if 0 not in ages or len(ages) < 2:
        return None
    place = {item: n for n, item in enumerate(dict.fromkeys(m.item for m in found))}
    counts_IA2 = np.zeros((len(place), len(ages), 2))  # both in the same order, both in an order
    for m in found:
        counts_IA2[place[m.item], ages.index(m.age)] += m.agreed, m.pairs
    age_A = np.array(ages, dtype=float)
    certainty, rate = _fit(age_A, counts_IA2.sum(axis=0)[None])[0]
    times_BI = np.random.default_rng(seed).multinomial(len(place), [1 / len(place)] * len(place), RESAMPLES)
    drawn = _fit(age_A, np.tensordot(times_BI, counts_IA2, 1))[:, 1]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Drift(Interval(float(rate), float(low), float(high), len(place)), 0.5 + float(certainty),
                 {age: (int(agreed), int(n)) for age, (agreed, n) in zip(ages, counts_IA2.sum(axis=0))})


def _fit(age_A: Floats, counts_BA2: Floats) -> Floats:
    """(a, λ) of each row of counts, [B, 2], the likeliest on a grid that is finer than any interval."""
    a_G, rate_G = (x.ravel() for x in np.meshgrid(CERTAINTY, RATE))
    p_AG = 0.5 + a_G * np.exp(-np.outer(age_A, rate_G))
    p_AG = np.clip(p_AG, 1e-6, 1 - 1e-6)
    agreed_BA = counts_BA2[..., 0]
    likelihood_BG = agreed_BA @ np.log(p_AG) + (counts_BA2[..., 1] - agreed_BA) @ np.log(1 - p_AG)
    best_B = likelihood_BG.argmax(axis=1)
    return np.stack([a_G[best_B], rate_G[best_B]], axis=1)


def _order(group: AnswerGroup) -> dict[tuple[str, str], float]:
    """(text, text), the first one sorting first -> above 0 if it is better, below if worse, 0 tied."""
    texts, out = [a.text for a in group.answers], {}
    for p in pairs(group, "half"):
        one, two = texts[p.better], texts[p.worse]
        sign = p.p - 0.5
        out[min(one, two), max(one, two)] = sign if one < two else -sign
    return out
