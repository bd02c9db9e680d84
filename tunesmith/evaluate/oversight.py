"""Whether a judge can be trusted, and whether help for judges helps: calibration against people, reliance, anchoring.

    accuracy(judge, known)                     pairs whose better answer is known
    against_people(verdicts, people, ...)      agreement, kappa, position, length, self-preference, confidence
    reliance(...)                              what people do with a critique that is right, and with one that is wrong
    anchoring(groups, rankings, critiques)     what showing a critique does to labelers, arm against arm

Whoever judges, a figure comes with an interval; nothing here says that a judge is good enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isnan, nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tunesmith import statistics
from tunesmith.evaluate.judges import About, PairJudge, Told, Verdict, about
from tunesmith.feedback.groups import apply, pairs
from tunesmith.records import AnswerGroup, Prompt, Ranking, Tiers
from tunesmith.statistics import Calibration, Floats, Interval, bootstrap_mean, wilson
from tunesmith.store.critiques import HIDDEN, SHOWN, Critique, arm_of

RESAMPLES = 1000
FEWEST = 4
"""Verdicts that an arm needs before it is compared with the other."""


# ---- where the better answer is known

@dataclass(frozen=True, slots=True)
class Known:
    """A pair whose better answer is known: 0 the first, 1 the second."""

    prompt: Prompt
    first: str
    second: str
    better: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """`rate`: of the pairs with a readable verdict how many are right, ties half. `decided`: right and strict, of all
    pairs; a tie or a reply that cannot be read is wrong here."""

    rate: Interval
    decided: Interval
    about: About
    verdicts: tuple[Verdict, ...]

    def to_dict(self) -> dict[str, Any]:
        """For a report."""
        return {"rate": self.rate.to_dict(), "decided": self.decided.to_dict(), **self.about.to_dict()}


def accuracy(judge: PairJudge, known: Sequence[Known], progress: Told | None = None) -> Accuracy:
    """How often a judge prefers the better answer."""
    verdicts = judge.compare([k.prompt for k in known], [k.first for k in known], [k.second for k in known], progress)
    right = right_of(verdicts, [1.0 - k.better for k in known])
    read = right[~np.isnan(right)]
    return Accuracy(statistics.mean_interval(read) if read.size else Interval(nan, 0.0, 1.0, 0),
                    wilson(int((read == 1).sum()), len(known)), about(verdicts), tuple(verdicts))


def right_of(verdicts: Sequence[Verdict], truth: ArrayLike) -> Floats:
    """Of each verdict 1 if it says what is true (1: the first is better), 0.5 for a tie, 0; nan if it says nothing."""
    t = np.asarray(truth, dtype=float)
    x = np.array([nan if v.outcome is None else v.outcome for v in verdicts])
    return np.where(t > 0.5, x, 1 - x)


# ---- against people

@dataclass(frozen=True, slots=True)
class AgainstPeople:
    """A judge beside people on the same pairs.

    agreement: share of the pairs strict for both on which they agree. kappa: Cohen's on three verdicts (first, tie,
    second), 0 is chance. behaviour: position and unreadable replies. longer: P(the judge prefers the longer answer)
    less P(people do), on pairs of unequal length; own: likewise for answers by the judge's own model against others.
    0 is no bias, or people's own. confidence: is it right as often as it says (None if it names none).
    """

    agreement: Interval
    kappa: Interval
    behaviour: About
    longer: Interval
    own: Interval
    confidence: Calibration | None

    def to_dict(self) -> dict[str, Any]:
        """For a report."""
        found: dict[str, Any] = {k: getattr(self, k).to_dict() for k in ("agreement", "kappa", "longer", "own")}
        found["behaviour"] = self.behaviour.to_dict()
        if self.confidence:
            found["confidence"] = {"ece": self.confidence.ece, "brier": self.confidence.brier, "n": self.confidence.n,
                                   "bins": [{"predicted": b.predicted, "observed": b.observed.to_dict()}
                                            for b in self.confidence.bins]}
        return found


def against_people(verdicts: Sequence[Verdict], people_N: ArrayLike, first: Sequence[str], second: Sequence[str], *,
                   own: Sequence[int | None] = (), seed: int = 0) -> AgainstPeople:
    """Calibrate a judge against people.

    Args:
        people_N: what people say of each pair: 1 the first, 0.5, 0, a share of votes, nan where nobody judged.
        first, second: the texts.
        own: of each pair which answer the judge's own model wrote, 0 or 1; None for neither or both.
    """
    people = np.asarray(people_N, dtype=float)
    judge = np.array([nan if v.outcome is None else v.outcome for v in verdicts])
    both = ~np.isnan(judge) & ~np.isnan(people)
    strict = both & (judge != 0.5) & (people != 0.5)
    agree = ((judge > 0.5) == (people > 0.5))[strict].astype(float)
    longer = np.sign([len(a.split()) - len(b.split()) for a, b in zip(first, second, strict=True)])
    mine = np.array([0 if o is None else 1 - 2 * o for o in own]) if own else np.zeros(len(judge))
    sure = np.array([nan if v.p is None else v.p for v in verdicts])
    told = ~np.isnan(sure) & ~np.isnan(people) & (people != 0.5)
    return AgainstPeople(
        wilson(float(agree.sum()), int(strict.sum())), kappa(judge[both], people[both], seed=seed), about(verdicts),
        _leaning(judge, people, longer, both, seed), _leaning(judge, people, mine, both, seed),
        statistics.calibration(sure[told], people[told] > 0.5) if told.any() else None)


def _leaning(judge: Floats, people: Floats, side: ArrayLike, both: Any, seed: int) -> Interval:
    """How much more often than people the judge prefers the side (1 the first, -1 the second, 0 neither)."""
    s = np.asarray(side, dtype=float)
    asked = both & (s != 0)
    toward = np.where(s > 0, judge - people, people - judge)[asked]
    return bootstrap_mean(toward, seed=seed) if toward.size else Interval(nan, nan, nan, 0)


def kappa(one: ArrayLike, two: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Cohen's κ (1960) of two judges' verdicts, above, at and below one half; bootstrap over pairs. nan where chance
    alone would agree on everything."""
    a, b = (np.sign(np.asarray(x, dtype=float) - 0.5).astype(int) + 1 for x in (one, two))
    if not a.size:
        return Interval(nan, nan, nan, 0)
    cells = np.bincount(3 * a + b, minlength=9)
    draws = np.random.default_rng(seed).multinomial(a.size, cells / a.size, resamples)
    found = np.array([_kappa(c) for c in draws])
    found = found[~np.isnan(found)]
    low, high = np.quantile(found, [0.025, 0.975]) if found.size else (nan, nan)
    return Interval(_kappa(cells), float(low), float(high), int(a.size))


def _kappa(cells: ArrayLike) -> float:
    table = np.asarray(cells, dtype=float).reshape(3, 3)
    table = table / table.sum()
    chance = float(table.sum(0) @ table.sum(1))
    return (float(np.trace(table)) - chance) / (1 - chance) if chance < 1 - 1e-12 else nan


# ---- reliance

@dataclass(frozen=True, slots=True)
class Reliance:
    """Accuracy of judges without help, and with help that was right or wrong. Appropriate reliance keeps `wrong` near
    `alone` and lifts `right` above it; `harm` is alone less wrong, `gain` right less alone."""

    alone: Interval
    right: Interval
    wrong: Interval
    gain: float
    harm: float

    def to_dict(self) -> dict[str, Any]:
        """For a report."""
        return {"alone": self.alone.to_dict(), "right": self.right.to_dict(), "wrong": self.wrong.to_dict(),
                "gain": _or_none(self.gain), "harm": _or_none(self.harm)}


def reliance(alone_N: ArrayLike, helped_N: ArrayLike, help_right_N: ArrayLike) -> Reliance:
    """What help does, by whether it was right.

    Args:
        alone_N: how right each verdict without help is: 1, 0.5, 0; nan are left out. The pairs may differ from those
            with help, as they do between arms.
        helped_N: how right each verdict with help is.
        help_right_N: for each of `helped_N` whether the help preferred the better answer; nan where it said nothing.
    """
    alone, helped, good = (np.asarray(x, dtype=float) for x in (alone_N, helped_N, help_right_N))
    a, right, wrong = (_share(x) for x in (alone, helped[good > 0.5], helped[good < 0.5]))
    return Reliance(a, right, wrong, right.value - a.value, a.value - wrong.value)


def _share(x: Floats) -> Interval:
    x = x[~np.isnan(x)]
    return statistics.mean_interval(x) if x.size else Interval(nan, 0.0, 1.0, 0)


def _or_none(x: float) -> float | None:
    """JSON has no nan."""
    return None if isnan(x) else x


# ---- anchoring

@dataclass(frozen=True, slots=True)
class Anchoring:
    """What showing a critique does to labelers; `shown` and `hidden` are how far verdicts of either arm go with the
    critique's choice (share of the other answers that it is ranked above). `effect` is the difference, with a
    bootstrap over groups, `p` its p-value when arms are dealt anew at random. `time` is how much longer (1.1: 10%)
    verdicts take with a critique. `reliance` is by what is known of the groups, None without that.
    """

    shown: Interval
    hidden: Interval
    effect: Interval
    p: float
    time: Interval
    verdicts: tuple[int, int]
    reliance: Reliance | None = None

    def to_dict(self) -> dict[str, Any]:
        """For a report."""
        return {"shown": self.shown.to_dict(), "hidden": self.hidden.to_dict(), "effect": self.effect.to_dict(),
                "p": _or_none(self.p), "time": self.time.to_dict(), "verdicts": list(self.verdicts),
                "reliance": self.reliance.to_dict() if self.reliance else None}


def anchoring(groups: Iterable[AnswerGroup], rankings: Iterable[Ranking], critiques: Mapping[str, Critique], *,
              known: Mapping[str, Tiers] | None = None, seed: int = 0, resamples: int = RESAMPLES) -> Anchoring:
    """Labelers who saw a critique against those who did not, on groups that have one.

    Args:
        rankings: as the workspace keeps them; each says which arm it belongs to. A changed verdict counts as changed,
            second looks not at all.
        critiques: by group (`store.critiques.critiques`).
        known: the right tiers of some groups (test questions, experts), for `reliance`.
    """
    every = {g.id: g for g in groups}
    rows = _rows(every, rankings, critiques, known or {})
    x = np.array([r.follows for r in rows])
    shown = np.array([r.shown for r in rows], dtype=bool)
    _, group_N = np.unique([r.group for r in rows], return_inverse=True) if rows else (None, np.zeros(0, dtype=int))
    time = np.log([max(r.seconds, 0.1) for r in rows]) if rows else np.zeros(0)
    effect = _difference(x, shown, group_N, seed, resamples)
    slower = _difference(time, shown, group_N, seed, resamples)
    slower = Interval(exp(slower.value), exp(slower.low), exp(slower.high), slower.n)
    right = [(r.shown, r.right, r.critique_right) for r in rows if not isnan(r.right)]
    return Anchoring(_share(x[shown]), _share(x[~shown]), effect, _dealt_anew(x, shown, seed), slower,
                     (int(shown.sum()), int((~shown).sum())),
                     reliance([r for s, r, _ in right if not s], [r for s, r, _ in right if s],
                              [c for s, _, c in right if s]) if right else None)


@dataclass(frozen=True, slots=True)
class _Row:
    group: str
    shown: bool
    follows: float
    seconds: float
    right: float
    """How far the verdict agrees with what is known, and whether the critique does; nan where nothing is."""
    critique_right: float


def _rows(groups: Mapping[str, AnswerGroup], rankings: Iterable[Ranking], critiques: Mapping[str, Critique],
          known: Mapping[str, Tiers]) -> list[_Row]:
    latest: dict[tuple[str, str], Ranking] = {}
    for r in rankings:
        if r.purpose != "repeat" and r.group in groups and r.group in critiques and arm_of(r) in (SHOWN, HIDDEN):
            latest[r.group, r.labeler] = r
    found = []
    for r in latest.values():
        choice = critiques[r.group].choice
        judged = apply(groups[r.group], r)
        follows = _wins(judged, choice) if judged and choice is not None else None
        if judged is None or follows is None:
            continue
        right = critic = nan
        if r.group in known and (strict := _strict(groups[r.group], known[r.group])):
            said = {(p.better, p.worse): p.p for p in pairs(judged, "half")}
            right = float(np.mean([said.get((i, j), 1 - said.get((j, i), 0.5)) for i, j in strict]))
            truth = [1.0 if i == choice else 0.0 for i, j in strict if choice in (i, j)]
            critic = float(np.mean(truth)) if truth else nan
        found.append(_Row(r.group, arm_of(r) == SHOWN, follows, r.seconds, right, critic))
    return found


def _wins(judged: AnswerGroup, choice: int) -> float | None:
    """The share of the other answers that `choice` is ranked above, ties half; None if it was compared with none."""
    won = [p.p if p.better == choice else 1 - p.p for p in pairs(judged, "half") if choice in (p.better, p.worse)]
    return sum(won) / len(won) if won else None


def _strict(group: AnswerGroup, tiers: Tiers) -> list[tuple[int, int]]:
    return [(i, j) for n, tier in enumerate(tiers) for i in tier for worse in tiers[n + 1:] for j in worse]


def _difference(x: Floats, shown: Any, group_N: Any, seed: int, resamples: int) -> Interval:
    """Mean with a critique less mean without; groups are drawn with replacement."""
    if shown.sum() < FEWEST or (~shown).sum() < FEWEST:
        return Interval(nan, nan, nan, len(x))
    count = int(group_N.max()) + 1
    sums = np.stack([np.bincount(group_N, w, count) for w in (x * shown, shown, x * ~shown, ~shown)], axis=1)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples) @ sums
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Interval(float(x[shown].mean() - x[~shown].mean()), float(low), float(high), len(x))


def _dealt_anew(x: Floats, shown: Any, seed: int, deals: int = 2000) -> float:
    """p-value of "the arm does not matter": how often arms dealt at random differ as much (Fisher 1935)."""
    if shown.sum() < FEWEST or (~shown).sum() < FEWEST:
        return nan
    rng, n = np.random.default_rng(seed), int(shown.sum())
    seen = abs(float(x[shown].mean() - x[~shown].mean()))
    total, hits = float(x.sum()), 0
    for _ in range(deals):
        part = float(rng.permutation(x)[:n].sum())
        hits += abs(part / n - (total - part) / (len(x) - n)) >= seen - 1e-12
    return (1 + hits) / (1 + deals)
