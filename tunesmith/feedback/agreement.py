"""How far labelers agree: with each other, with what the others say, with themselves and with test questions.

Groups are as `groups.apply` makes them: one per ranking, several with the same id. Intervals are by bootstrap over
items, for single labelers Wilson's with an item as the unit, because an item's pairs hang together. Left out: any
judgement of a labeler (that is `trust`). Low agreement can be a hard question as well as a careless person.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import isnan, log, nan
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array

from tunesmith.feedback.ability import Fit
from tunesmith.feedback.groups import by_item, pairs
from tunesmith.feedback.leftout import judgements, without_each
from tunesmith.records import AnswerGroup, Ranking, Tiers
from tunesmith.statistics import Interval, bootstrap_mean, bootstrap_ratio, kendall_tau_b, ranks, wilson

Floats = NDArray[np.float64]
Scale = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What `agreement` found. `items` is the number of groups that at least two labelers judged.

    `percent`: share of the pairs strict for both on which two labelers agree, interval by bootstrap over items;
    comparable with the 73% that InstructGPT's labelers reach. `ties`: share of all judged pairs that are ties; of the
    pairs that two labelers judged, `tie_against_strict` is the share that one tied and the other did not.
    `alpha_ranks`: Krippendorff's α on the answers' ranks (ordinal); `alpha_pairs`: on win/tie/loss of each pair
    (nominal). `tau`: Kendall's τ_b of two labelers on the answers that both ranked, `w`: Kendall's W of all who ranked
    every answer, both the mean over items. `by_labelers`: percent agreement of each two labelers.
    """

    percent: Interval
    ties: Interval
    tie_against_strict: Interval
    alpha_ranks: Interval
    alpha_pairs: Interval
    tau: Interval
    w: Interval
    items: int
    by_labelers: dict[tuple[str, str], Interval]


def agreement(groups: Iterable[AnswerGroup], *, seed: int = 0) -> Agreement:
    """Agreement of the labelers on the groups that more than one of them judged. Values are nan if there is none."""
    every = [g for g in groups if g.tiers]
    items = [judged for judged in by_item(every).values() if len(judged) > 1]
    counts: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    totals, mixed = [], []
    for judged in items:
        signs = [(g.labeler, _signs(g)) for g in judged]
        found = [((a, b), _agreeing(s, t)) for (a, s), (b, t) in combinations(signs, 2)]
        for (a, b), pair in found:
            counts[min(a, b), max(a, b)].append(pair)
        totals.append((sum(agree for _, (agree, _) in found), sum(strict for _, (_, strict) in found)))
        both = [(s[ij], t[ij]) for (_, s), (_, t) in combinations(signs, 2) for ij in s if ij in t]
        mixed.append((sum((x == 0) != (y == 0) for x, y in both), len(both)))
    ties = [(list(signs.values()).count(0), len(signs)) for g in every for signs in [_signs(g)]]
    taus = [tau for judged in items if not isnan(tau := mean_tau(judged))]
    ws = [w for judged in items if not isnan(w := concordance(judged))]
    return Agreement(_percent(totals, seed), _percent(ties, seed), _percent(mixed, seed),
                     bootstrap_alpha([_rank_units(judged) for judged in items], "ordinal", seed=seed),
                     bootstrap_alpha([_pair_units(judged) for judged in items], "nominal", seed=seed),
                     bootstrap_mean(taus, seed=seed), bootstrap_mean(ws, seed=seed), len(items),
                     {two: _of_items(c) for two, c in sorted(counts.items())})


def mean_tau(judged: Sequence[AnswerGroup]) -> float:
    """Kendall's τ_b, the mean over every two labelers of one item, on the answers that both ranked; nan if there is
    no such two, or one of them ties everything."""
    ranked = [_mid_ranks(g) for g in judged]
    found = []
    for one, two in combinations(ranked, 2):
        both = sorted(one.keys() & two.keys())
        if len(both) > 1 and not isnan(tau := kendall_tau_b([one[i] for i in both], [two[i] for i in both])):
            found.append(tau)
    return float(np.mean(found)) if found else nan


def concordance(judged: Sequence[AnswerGroup]) -> float:
    """Kendall's W of one item over the labelers who ranked every answer; nan for fewer than two of them."""
    full = [[rank for _, rank in sorted(found.items())] for g in judged
            if len(found := _mid_ranks(g)) == len(g.answers)]
    return kendall_w(full) if len(full) > 1 else nan


# ---- one labeler at a time

def leave_one_out(fit: Fit) -> dict[str, Interval]:
    """How often each labeler's strict pairs go with the consensus of the others, without the own judgements.

    Pairs of answers of which nobody else says anything are left out; a labeler without any has nan. The abilities are
    those of the fit, the scores are solved without the labeler, so that silence and ties give exactly 0.
    """
    names, found = fit.rows.names, judgements(fit)
    total, items = np.zeros(len(names)), np.zeros(len(names), dtype=np.int64)
    if not names:
        return {}
    upper = np.triu(np.ones(found.preference_JKK.shape[1:], dtype=bool), 1)
    for units, mean, _ in without_each(fit, found):
        said = np.nan_to_num(np.sign(found.preference_JKK[units] - 0.5)) * upper
        difference = mean[:, :, None] - mean[:, None, :]
        product = said * np.sign(difference) * (np.abs(difference) > 1e-6)
        right, strict = (product > 0).sum((1, 2)), (product != 0).sum((1, 2))
        who, share = found.labeler_J[units], right / np.maximum(strict, 1)
        total += np.bincount(who, share, len(names))
        items += np.bincount(who[strict > 0], minlength=len(names))
    return {name: wilson(float(total[w]), int(items[w])) for w, name in enumerate(names)}


def self_consistency(groups: Mapping[str, AnswerGroup], rankings: Iterable[Ranking]) -> dict[str, Interval]:
    """How often labelers order the same two answers as they did before, from their second looks (`purpose` "repeat").

    Args:
        groups: by id; rankings of others are passed over.
        rankings: in the order they came; the look before a repeat is what it is compared with. Of a repeat that was
            changed afterwards the last state counts.
    """
    before: dict[tuple[str, str], dict[tuple[int, int], int]] = {}
    again: dict[tuple[str, str], float] = {}
    for r in rankings:
        if r.group not in groups or r.skipped or not r.tiers:
            continue
        signs, key = _signs(replace(groups[r.group], tiers=r.tiers, pairs=())), (r.group, r.labeler)
        if r.purpose == "repeat" and key in before:
            agree, strict = _agreeing(before[key], signs)
            again.pop(key, None)
            again.update({key: agree / strict} if strict else {})
        elif r.purpose != "repeat" and key not in again:
            before[key] = signs
    shares: dict[str, list[float]] = defaultdict(list)
    for (_, labeler), share in again.items():
        shares[labeler].append(share)
    return {labeler: wilson(sum(s), len(s)) for labeler, s in shares.items()}


@dataclass(frozen=True, slots=True)
class Gold:
    """Test questions of one labeler: the share answered rightly, and what Wald's sequential test says so far."""

    accuracy: Interval
    decision: Literal["pass", "fail", "undecided"]


def gold_accuracy(groups: Mapping[str, AnswerGroup], rankings: Iterable[Ranking],
                  known: Mapping[str, Tiers]) -> dict[str, Gold]:
    """Answers to test questions, `known` by group; right is at least three quarters of a question's strict pairs.

    The first answer counts: one that is changed afterwards may have been looked up, or tried until it passed.
    """
    answers: dict[str, list[bool]] = defaultdict(list)
    answered: set[tuple[str, str]] = set()
    for r in rankings:
        key = r.group, r.labeler
        if r.purpose == "gold" and r.group in known and r.group in groups and r.tiers and key not in answered:
            answered.add(key)
            truth, said = (_signs(replace(groups[r.group], tiers=t, pairs=())) for t in (known[r.group], r.tiers))
            credit = [(1 + sign * said.get(ij, 0)) / 2 for ij, sign in truth.items() if sign]
            answers[r.labeler] += [sum(credit) >= 0.75 * len(credit)] if credit else []
    return {labeler: Gold(wilson(sum(right), len(right)), sprt(right)) for labeler, right in answers.items()}


def sprt(right: Iterable[bool], good: float = 0.9, bad: float = 0.6,
         error: float = 0.05) -> Literal["pass", "fail", "undecided"]:
    """Wald's sequential probability ratio test of `good` against `bad` accuracy, errors of either kind at `error`.

    After a decision the test begins anew, so that somebody who tires is found; the last decision counts.
    """
    bound, score = log((1 - error) / error), 0.0
    decision: Literal["pass", "fail", "undecided"] = "undecided"
    for one in right:
        score += log(bad / good) if one else log((1 - bad) / (1 - good))
        if abs(score) >= bound:
            decision, score = ("fail" if score > 0 else "pass"), 0.0
    return decision


# ---- coefficients

def krippendorff_alpha(table_RU: ArrayLike, scale: Scale = "nominal") -> float:
    """Krippendorff's α: 1 - observed / expected disagreement (Computing Krippendorff's Alpha-Reliability, 2011).

    Args:
        table_RU: one row per labeler, one column per unit; nan where a labeler did not judge.

    nan when nothing was judged twice; 1 when all values are the same.
    """
    table = np.atleast_2d(np.asarray(table_RU, dtype=float))
    return bootstrap_alpha([[column[~np.isnan(column)] for column in table.T]], scale, resamples=0).value


def bootstrap_alpha(items: Sequence[Sequence[Sequence[float]]], scale: Scale = "nominal", *, level: float = 0.95,
                    resamples: int = 1000, seed: int = 0) -> Interval:
    """Krippendorff's α with its bootstrap interval over items.

    Args:
        items: for each item its units, for each unit the values that the labelers gave.

    Everything that α is made of is a sum over items: how often two values meet in a unit.
    """
    units = [(n, np.asarray(values, dtype=float)) for n, item in enumerate(items) for values in item if len(values) > 1]
    if not units:
        return Interval(nan, nan, nan, 0)
    values, codes = np.unique(np.concatenate([v for _, v in units]), return_inverse=True)
    v = len(values)
    unit_of = np.repeat(np.arange(len(units)), [len(x) for _, x in units])
    counts_UV = coo_array((np.ones(len(codes)), (unit_of, codes)), shape=(len(units), v)).tocsr()
    meetings = _meetings(counts_UV, np.array([n for n, _ in units]), len(items))
    value = float(_alpha(meetings.sum(0).reshape(1, v, v), values, scale)[0])
    if not resamples or len(items) < 2:
        return Interval(value, nan, nan, len({n for n, _ in units}))
    rng, drawn = np.random.default_rng(seed), []
    for start in range(0, resamples, 50):
        picks = rng.multinomial(len(items), np.full(len(items), 1 / len(items)), min(50, resamples - start))
        drawn.append(_alpha((meetings.T @ picks.T).T.reshape(-1, v, v), values, scale))
    low, high = np.nanquantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), len({n for n, _ in units}))


def _meetings(counts_UV: csr_array, item_U: NDArray[np.int64], items: int) -> csr_array:
    """Per item the coincidence matrix of its units, flat: [items, V * V]."""
    v = counts_UV.shape[1]
    size_U = counts_UV.sum(axis=1)
    row, column, value = [], [], []
    for d in range(int(np.diff(counts_UV.indptr).max())):  # pairs of distinct values of a unit, by their places in it
        for e in range(int(np.diff(counts_UV.indptr).max())):
            has = np.flatnonzero(np.diff(counts_UV.indptr) > max(d, e))
            one, two = counts_UV.indptr[has] + d, counts_UV.indptr[has] + e
            meet = counts_UV.data[one] * (counts_UV.data[two] - (d == e)) / (size_U[has] - 1)
            row.append(item_U[has])
            column.append(counts_UV.indices[one] * v + counts_UV.indices[two])
            value.append(meet)
    return coo_array((np.concatenate(value), (np.concatenate(row), np.concatenate(column).astype(np.int64))),
                     shape=(items, v * v)).tocsr()


def _alpha(coincidence_RVV: Floats, values_V: Floats, scale: Scale) -> Floats:
    """1 - observed / expected disagreement for each of R coincidence matrices; 1 where nothing could disagree."""
    totals_RV = coincidence_RVV.sum(2)
    n_R = totals_RV.sum(1)
    distance_RVV = _distances(values_V, totals_RV, scale)
    expected_R = np.einsum("rv,rvw,rw->r", totals_RV, distance_RVV, totals_RV) / np.maximum(n_R - 1, 1)
    observed_R = (coincidence_RVV * distance_RVV).sum((1, 2))
    found_R = 1 - np.divide(observed_R, expected_R, out=np.zeros_like(n_R), where=expected_R > 0)
    return np.where(n_R > 0, found_R, nan)


def kendall_w(table_RK: ArrayLike) -> float:
    """Kendall's W of R complete rankings of K answers, corrected for ties (Kendall & Smith 1939; Siegel 1956).

    1: all labelers rank alike; 0: their ranks cancel out. nan when every labeler ties everything.
    """
    rows = np.stack([ranks(row) for row in np.atleast_2d(np.asarray(table_RK, dtype=float))])
    m, k = rows.shape
    ties = sum(float((c ** 3 - c).sum()) for row in rows for c in [np.unique(row, return_counts=True)[1]])
    squares = float(((rows.sum(0) - m * (k + 1) / 2) ** 2).sum())
    scale = m * m * (k ** 3 - k) - m * ties
    return 12 * squares / scale if scale else nan


def _signs(group: AnswerGroup) -> dict[tuple[int, int], int]:
    """(i < j) -> 1 if i is better, -1 if j is, 0 if tied."""
    return {(min(p.better, p.worse), max(p.better, p.worse)):
            0 if p.p == 0.5 else 1 if (p.better < p.worse) == (p.p > 0.5) else -1 for p in pairs(group, "half")}


def _agreeing(one: dict[tuple[int, int], int], two: dict[tuple[int, int], int]) -> tuple[int, int]:
    """How many pairs are strict for both, and on how many of them they agree: (agree, strict)."""
    products = [sign * two[ij] for ij, sign in one.items() if ij in two]
    return products.count(1), len(products) - products.count(0)


def _percent(counts: Sequence[tuple[int, int]], seed: int) -> Interval:
    return bootstrap_ratio([a for a, _ in counts], [s for _, s in counts], seed=seed)


def _of_items(counts: Sequence[tuple[int, int]]) -> Interval:
    """Share of all pairs, Wilson's interval with items as the units: many small bootstraps would be slow."""
    agree, strict = (sum(column) for column in zip(*counts, strict=True))
    items = sum(n > 0 for _, n in counts)
    return wilson(items * agree / max(strict, 1), items)


def _rank_units(judged: Sequence[AnswerGroup]) -> list[list[float]]:
    """For each answer the mid-ranks that it was given; unranked answers have none."""
    return _units([_mid_ranks(g) for g in judged])


def _pair_units(judged: Sequence[AnswerGroup]) -> list[list[float]]:
    return _units([_signs(g) for g in judged])


def _units(found: Sequence[Mapping[Any, float]]) -> list[list[float]]:
    result: dict[Any, list[float]] = defaultdict(list)
    for one in found:
        for unit, value in one.items():
            result[unit].append(value)
    return list(result.values())


def _mid_ranks(group: AnswerGroup) -> dict[int, float]:
    result, start = {}, 1
    for tier in group.tiers:
        result.update(dict.fromkeys(tier, start + (len(tier) - 1) / 2))
        start += len(tier)
    return result


def _distances(values_V: Floats, totals_RV: Floats, scale: Scale) -> Floats:
    """δ² between values: 0/1, squared difference, or squared number of values ranked between (half at both ends)."""
    v = values_V.size
    if scale == "nominal":
        return np.broadcast_to(1.0 - np.eye(v), (len(totals_RV), v, v))
    position_RV = (np.broadcast_to(values_V, totals_RV.shape) if scale == "interval"
                   else np.cumsum(totals_RV, axis=1) - totals_RV / 2)
    return np.asarray((position_RV[:, :, None] - position_RV[:, None, :]) ** 2)
