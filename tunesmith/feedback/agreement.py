"""How far labelers who judged the same answers agree.

All functions take groups as `groups.apply` makes them: one per ranking, several with the same id. Left out: any
judgement of a labeler. Low agreement can be a hard question as well as a careless person.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import nan
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tunesmith.feedback.groups import by_item, pairs
from tunesmith.records import AnswerGroup
from tunesmith.statistics import Interval, bootstrap_ratio, ranks

Floats = NDArray[np.float64]
Scale = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What `agreement` found. `items` is the number of groups that at least two labelers judged.

    `percent`: share of the pairs strict for both on which two labelers agree, interval by bootstrap over items;
    comparable with the 73% that InstructGPT's labelers reach. `ties`: share of all judged pairs that are ties.
    `alpha_ranks`: Krippendorff's α on the answers' ranks (ordinal); `alpha_pairs`: on win/tie/loss of each pair
    (nominal). `by_labelers`: percent agreement of each two labelers.
    """

    percent: Interval
    ties: Interval
    alpha_ranks: float
    alpha_pairs: float
    items: int
    by_labelers: dict[tuple[str, str], Interval]


def agreement(groups: Iterable[AnswerGroup], *, seed: int = 0) -> Agreement:
    """Agreement of the labelers on the groups that more than one of them judged. Values are nan if there is none."""
    every = [g for g in groups if g.tiers]
    items = [judged for judged in by_item(every).values() if len(judged) > 1]
    counts: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    totals = []
    for judged in items:
        signs = [(g.labeler, _signs(g)) for g in judged]
        found = [((a, b), _agreeing(s, t)) for (a, s), (b, t) in combinations(signs, 2)]
        for (a, b), pair in found:
            counts[min(a, b), max(a, b)].append(pair)
        totals.append((sum(agree for _, (agree, _) in found), sum(strict for _, (_, strict) in found)))
    ties = [(list(signs.values()).count(0), len(signs)) for g in every for signs in [_signs(g)]]
    return Agreement(_percent(totals, seed), _percent(ties, seed),
                     krippendorff_alpha(_rank_table(items), "ordinal"),
                     krippendorff_alpha(_pair_table(items), "nominal"), len(items),
                     {two: _percent(c, seed) for two, c in sorted(counts.items())})


def krippendorff_alpha(table_RU: ArrayLike, scale: Scale = "nominal") -> float:
    """Krippendorff's α: 1 - observed / expected disagreement (Computing Krippendorff's Alpha-Reliability, 2011).

    Args:
        table_RU: one row per labeler, one column per unit; nan where a labeler did not judge.

    nan when nothing was judged twice; 1 when all values are the same.
    """
    table = np.atleast_2d(np.asarray(table_RU, dtype=float))
    values, codes = np.unique(table[~np.isnan(table)], return_inverse=True)
    if values.size == 0:
        return nan
    units = np.nonzero(~np.isnan(table))[1]
    counts_UV = np.zeros((table.shape[1], values.size))
    np.add.at(counts_UV, (units, codes), 1)
    counts_UV = counts_UV[counts_UV.sum(1) > 1]
    if counts_UV.size == 0:
        return nan
    weighted_UV = counts_UV / (counts_UV.sum(1, keepdims=True) - 1)
    coincidence_VV = weighted_UV.T @ counts_UV - np.diag(weighted_UV.sum(0))
    totals_V = coincidence_VV.sum(1)
    n = totals_V.sum()
    distance_VV = _distances(values, totals_V, scale)
    expected = totals_V @ distance_VV @ totals_V / (n - 1)
    return 1.0 if expected == 0 else float(1 - (coincidence_VV * distance_VV).sum() / expected)


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


def _rank_table(items: Sequence[Sequence[AnswerGroup]]) -> Floats:
    """Mid-ranks, a row per labeler and a column per answer of each item; unranked answers stay nan."""
    return _table({(g.labeler, n, i): rank for n, judged in enumerate(items) for g in judged
                   for i, rank in _mid_ranks(g).items()})


def _pair_table(items: Sequence[Sequence[AnswerGroup]]) -> Floats:
    return _table({(g.labeler, n, ij): sign for n, judged in enumerate(items) for g in judged
                   for ij, sign in _signs(g).items()})


def _table(entries: Mapping[tuple[str, int, Any], float]) -> Floats:
    """{(labeler, item, unit): value} as a matrix with nan for what is missing."""
    rows = {name: r for r, name in enumerate(sorted({labeler for labeler, _, _ in entries}))}
    columns = {unit: c for c, unit in enumerate(dict.fromkeys((n, u) for _, n, u in entries))}
    table = np.full((len(rows), len(columns)), nan)
    for (labeler, n, unit), value in entries.items():
        table[rows[labeler], columns[n, unit]] = value
    return table


def _mid_ranks(group: AnswerGroup) -> dict[int, float]:
    result, start = {}, 1
    for tier in group.tiers:
        result.update(dict.fromkeys(tier, start + (len(tier) - 1) / 2))
        start += len(tier)
    return result


def _distances(values_V: Floats, totals_V: Floats, scale: Scale) -> Floats:
    """δ² between values: 0/1, squared difference, or squared number of values ranked between (half at both ends)."""
    if scale == "nominal":
        return 1.0 - np.eye(values_V.size)
    position = values_V if scale == "interval" else np.cumsum(totals_V) - totals_V / 2
    return (position[:, None] - position[None, :]) ** 2
