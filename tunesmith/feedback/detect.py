"""Who may be careless, in a hurry, in league with others or poisoning the data: tests on judgements, with p-values.

Each kind of fault has one test per labeler; Benjamini and Hochberg's procedure (1995) over the labelers bounds the
expected share of false ones among those that are named, kind by kind. A test that looks at many words or partners is
first corrected for them within the labeler. Where people may differ for honest reasons (taste, topic), the scale of
the null hypothesis is taken from the panel itself (Efron 2004), so that only what stands out is named. Here are the
tests on the fit, the page and the clock; `departures` and `wordtests` hold the others.

A suspicion is a reason to look, never a verdict: the pages show it, a person decides, and quarantine can be lifted.
Left out: whether somebody lets a language model judge (needs the keystrokes, see `Ranking.trace`), shared addresses
and devices (the studio does not keep them), and attackers who know these tests and stay below them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import factorial, prod
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr
from scipy.stats import binom

from tunesmith.feedback.ability import Z95, Fit
from tunesmith.feedback.departures import collusion, residuals_of, taste
from tunesmith.feedback.findings import FEWEST, Finding, Floats, scale, whole
from tunesmith.feedback.leftout import judgements
from tunesmith.feedback.wordtests import targeted, trigger
from tunesmith.records import AnswerGroup, Ranking

Kind = Literal["careless", "inverted", "position", "straight-lining", "speeding", "taste", "collusion", "targeted",
               "trigger"]

READING_SPEED = 15.0
"""Words a second that nobody reads."""
COMMON_HASTE = 0.05
"""Share of verdicts faster than that which proves nothing: double clicks, pages reopened."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One labeler stands out in one way. `p` is the test's, `q` the false-discovery rate at which it would be named.

    `statistic` is the effect in the unit that `detail`, a sentence for a person, speaks of.
    """

    labeler: str
    kind: Kind
    statistic: float
    p: float
    q: float
    detail: str


def detect(fit: Fit, rankings: Iterable[Ranking] = (), *, level: float = 0.05, seed: int = 0) -> list[Suspicion]:
    """Everything that stands out at a false-discovery rate of `level` for each kind, the surest first.

    Args:
        fit: of the judgements to look at, one group per ranking with its labeler, tiers and the order shown.
        rankings: the same verdicts with their seconds, in the order they came; without them speeding is not tested,
            and "in a row" means in the order of the groups.
        level: 1 returns every test that was made.
        seed: of the shuffles behind the p-values for collusion.
    """
    if not len(fit.rows.y_R):
        return []
    given, found = list(rankings), judgements(fit)
    residuals = residuals_of(fit, found)
    tests: dict[Kind, Iterable[Finding]] = {
        "careless": careless(fit), "inverted": inverted(fit), "position": position(fit),
        "straight-lining": straight_lining(fit, given), "speeding": speeding(fit, given),
        "taste": taste(fit, found, residuals), "collusion": collusion(fit, found, residuals, seed),
        "targeted": targeted(fit, found, residuals), "trigger": trigger(fit),
    }
    return sorted((s for kind, made in tests.items() for s in _corrected(kind, list(made)) if s.q <= level),
                  key=lambda s: (s.q, s.p, s.labeler, s.kind))


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """q-values: the smallest false-discovery rate at which each hypothesis would be rejected (1995)."""
    x = np.asarray(p, dtype=float)
    order = np.argsort(x)[::-1]
    raw = x[order] * x.size / np.arange(x.size, 0, -1)
    result = np.empty_like(x)
    result[order] = np.minimum(np.minimum.accumulate(raw), 1.0)
    return result


def _corrected(kind: Kind, findings: Sequence[Finding]) -> Iterator[Suspicion]:
    for f, q in zip(findings, benjamini_hochberg([f.p for f in findings]), strict=True):
        yield Suspicion(f.labeler, kind, f.statistic, float(f.p), float(q), f.detail)


# ---- from the fit

def careless(fit: Fit) -> Iterator[Finding]:
    """H0: the ability is at least half of the median labeler's."""
    for name, about in fit.labelers.items():
        if about.shared:
            a = about.ability.value
            p = ndtr((a - 0.5 * fit.reference) / _deviation(about.ability.low, about.ability.high))
            yield Finding(name, a, float(p), f"ability {a:.2f}, the median labeler's is {fit.reference:.2f}")


def inverted(fit: Fit) -> Iterator[Finding]:
    """H0: the ability is not negative."""
    for name, about in fit.labelers.items():
        if about.shared:
            a = about.ability.value
            p = ndtr(a / _deviation(about.ability.low, about.ability.high))
            yield Finding(name, a, float(p), f"ability {a:.2f}: tends to rank best what others rank worst")


def _deviation(low: float, high: float) -> float:
    return max((high - low) / (2 * Z95), 1e-9)


# ---- from the order on the page, which the studio draws at random

def position(fit: Fit) -> Iterator[Finding]:
    """Exact binomial test, two-sided, on "what was shown first is among the best"; H0: as often as chance has it.

    Any answer may be shown first, also one that is left unranked. With several answers in the best tier or different K
    the chances differ; the mean chance is used, which makes the test err on the cautious side (Hoeffding 1956).
    """
    for name, groups in _by_labeler(fit):
        tried = [(len(g.tiers[0]) / k, g.shown[0] in g.tiers[0]) for g in groups
                 for k in [len(g.answers)] if g.shown and len(g.tiers[0]) < k]
        if len(tried) >= FEWEST:
            chance, hits, n = sum(c for c, _ in tried) / len(tried), sum(h for _, h in tried), len(tried)
            p = 2 * min(binom.sf(hits - 1, n, chance), binom.cdf(hits, n, chance))
            yield Finding(name, hits / n, min(1.0, float(p)), f"what was shown first came first in {hits} of {n} "
                                                              f"verdicts; chance would give {chance * n:.0f}")


def straight_lining(fit: Fit, rankings: Sequence[Ranking] = ()) -> Iterator[Finding]:
    """The same places on the page for the same ranks, over and over, or many times in a row.

    H0: each arrangement that the verdict's ties allow is equally likely, whatever the labeler thinks of the answers,
    because the page shuffles them. p: twice the smaller of the two union bounds (exact or too large).
    """
    for name, groups in _by_labeler(fit, rankings):
        patterns = [_pattern(g) for g in groups if g.shown]
        if len(patterns) >= FEWEST:
            often, p_often = _most_frequent(patterns)
            run, p_run = _longest_run(patterns)
            yield Finding(name, float(often), min(1.0, 2 * min(p_often, p_run)),
                          f"the same arrangement on the page {often} times in {len(patterns)} verdicts, "
                          f"{run} times in a row")


Pattern = tuple[tuple[int, ...], ...]


def _pattern(group: AnswerGroup) -> Pattern:
    """The tiers as places on the page."""
    place = {answer: n for n, answer in enumerate(group.shown)}
    return tuple(tuple(sorted(place[i] for i in tier if i in place)) for tier in whole(group))


def _arrangements(pattern: Pattern) -> int:
    return factorial(sum(map(len, pattern))) // prod(factorial(len(tier)) for tier in pattern)


def _most_frequent(patterns: Sequence[Pattern]) -> tuple[int, float]:
    shapes: dict[tuple[int, ...], list[Pattern]] = {}
    for pattern in patterns:
        shapes.setdefault(tuple(map(len, pattern)), []).append(pattern)
    counts, bounds = [], []
    for same in shapes.values():
        m, count = _arrangements(same[0]), max(same.count(p) for p in set(same))
        counts.append(count)
        bounds.append(min(1.0, m * float(binom.sf(count - 1, len(same), 1 / m))) if m > 1 else 1.0)
    return max(counts), min(1.0, min(bounds) * len(bounds))


def _longest_run(patterns: Sequence[Pattern]) -> tuple[int, float]:
    runs = [(m ** (1 - length), length) for pattern, same in groupby(patterns)
            for m, length in [(_arrangements(pattern), len(list(same)))] if m > 1]
    chance, length = min(runs, default=(1.0, 0))
    return length, min(1.0, chance * len(patterns))


# ---- from the clock

def speeding(fit: Fit, rankings: Iterable[Ranking]) -> Iterator[Finding]:
    """Faster than the panel for the same number of words, and faster than anybody reads: the larger of both p-values.

    The first: mean log time, given the words shown, against the other labelers' (robust z). The second: binomial test
    on the share of verdicts above `READING_SPEED`, H0: no more than `COMMON_HASTE`. A skip and a change of one's mind
    need no second reading: they are not counted.
    """
    length = {g.id: _words_shown(g) for g in (same[0] for same in fit.judged.values())}
    timed = [(r.labeler, length[r.group], r.seconds) for r in rankings
             if r.seconds > 0 and r.group in length and not (r.skipped or r.revises)]
    names, labeler = np.unique([name for name, _, _ in timed], return_inverse=True)
    if len(names) < 3:
        return
    count, seconds = (np.array([float(row[c]) for row in timed]) for c in (1, 2))
    n_W = np.bincount(labeler)
    residual = np.log(seconds) - _line(np.log(count), np.log(seconds))
    mean_W = np.bincount(labeler, residual) / n_W
    z_W = (mean_W - np.median(mean_W)) / max(0.05, scale(mean_W))
    fast_W = np.bincount(labeler, count / seconds > READING_SPEED)
    for w, name in enumerate(names.tolist()):
        if n_W[w] >= FEWEST:
            p = max(ndtr(z_W[w]), binom.sf(fast_W[w] - 1, n_W[w], COMMON_HASTE))
            yield Finding(name, float(fast_W[w] / n_W[w]), float(p),
                          f"{fast_W[w]:.0f} of {n_W[w]} verdicts faster than {READING_SPEED:.0f} words a second; "
                          f"{np.exp(mean_W[w]):.2f} of the usual time for the words shown")


def _words_shown(group: AnswerGroup) -> int:
    return max(1, sum(len(a.text.split()) for a in group.answers) + len(group.prompt.messages[-1].content.split()))


def _line(x: Floats, y: Floats) -> Floats:
    """Least squares; level where all x are equal."""
    centred = x - x.mean()
    spread = float(centred @ centred)
    return y.mean() + (float(centred @ y) / spread if spread > 0 else 0.0) * centred


def _by_labeler(fit: Fit, rankings: Sequence[Ranking] = ()) -> list[tuple[str, list[AnswerGroup]]]:
    """Each labeler's judged groups, in the order of their (newest) verdicts, else in the order of the groups."""
    came = {(r.labeler, r.group): n for n, r in enumerate(rankings) if r.purpose not in ("gold", "repeat")}
    result: dict[str, list[tuple[int, AnswerGroup]]] = {name: [] for name in fit.rows.names}
    for id, same in fit.judged.items():
        for g in same:
            if g.labeler in result and g.tiers:
                result[g.labeler].append((came.get((g.labeler, id), 0), g))
    return [(name, [g for _, g in sorted(given, key=lambda one: one[0])]) for name, given in result.items()]
