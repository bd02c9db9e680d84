"""How sure we are: intervals, bootstrap, calibration, rank correlation, on plain arrays.

numpy only (no scipy: three formulas do not justify it). Nothing here prints or knows about models. Every random
number comes from a seed, so that a report computed twice is the same report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf, isfinite, nan, sqrt, tan
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Method = Literal["percentile", "bca"]

RESAMPLES = 2000
_CHUNK = 4_000_000
"""Elements of one block of resampled items: 32 MB, whatever the number of prompts."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate from `n` items with the ends of its interval.

    >>> print(Interval(0.721, 0.698, 0.744, 900))
    72.1% [69.8, 74.4]
    >>> f"{Interval(38.04, 36.2, 40, 900):.1f}"
    '38.0 [36.2, 40.0]'
    """

    value: float
    low: float
    high: float
    n: int

    def __format__(self, spec: str) -> str:
        spec = spec or ".1%"
        ends = " [{}, {}]".format(*(format(x, spec).rstrip("%") for x in (self.low, self.high)))
        return format(self.value, spec) + ends

    def __str__(self) -> str:
        return format(self, ".1%")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict; an end that is not a finite number is None."""
        value, low, high = (x if isfinite(x) else None for x in (self.value, self.low, self.high))
        return {"value": value, "low": low, "high": high, "n": self.n}


@dataclass(frozen=True, slots=True)
class Preference:
    """How often one side was preferred: ties count half in `rate`, and their share is `tie_rate`."""

    rate: Interval
    tie_rate: Interval
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions between `low` and `high`: their mean, and the share that came true with its Wilson interval."""

    low: float
    high: float
    predicted: float
    observed: Interval


@dataclass(frozen=True, slots=True)
class Calibration:
    """Do events announced with probability p happen in a share p? `ece` 0 is perfect; `brier` rewards sharpness too."""

    bins: tuple[Bin, ...]
    ece: float
    brier: float
    n: int


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """A share with its score interval (Wilson 1927), honest at 0 and n too, where a bootstrap has no width.

    `successes` may be fractional (ties count half). n = 0 gives (nan, 0, 1).
    """
    if n == 0:
        return Interval(nan, 0.0, 1.0, 0)
    z, p = _z(level), successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)), n)


def bootstrap_mean(values: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0,
                   method: Method = "percentile") -> Interval:
    """The mean over items with its bootstrap interval (Efron & Tibshirani 1993, ch. 13; BCa: ch. 14.3).

    Items are what was drawn independently: prompts, not the answers or pairs inside one.
    """
    x = _floats(values)
    return bootstrap_ratio(x, np.ones_like(x), level=level, resamples=resamples, seed=seed, method=method)


def bootstrap_ratio(numerators: ArrayLike, denominators: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES,
                    seed: int = 0, method: Method = "percentile") -> Interval:
    """sum(numerators) / sum(denominators) with a bootstrap over items, each bringing one of both.

    For figures whose items weigh differently (agreeing pairs over judged pairs), and ratios of two means.
    """
    top, bottom = _floats(numerators), _floats(denominators)
    if top.shape != bottom.shape:
        raise ValueError(f"{top.size} numerators for {bottom.size} denominators")
    if top.size == 0 or bottom.sum() == 0:
        return Interval(nan, nan, nan, int(top.size))
    value = float(top.sum() / bottom.sum())
    sums_R2 = _resampled_sums(np.stack([top, bottom], axis=1), resamples, (seed,))
    draws = _ratio(sums_R2[:, 0], sums_R2[:, 1])
    draws = draws[~np.isnan(draws)]
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca" and top.size > 1:
        tails = _bca_tails(tails, value, draws, _ratio(top.sum() - top, bottom.sum() - bottom))
    low, high = np.quantile(draws, tails)
    return Interval(value, float(low), float(high), int(top.size))


def paired_difference(values: ArrayLike, baseline: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES,
                      seed: int = 0) -> Interval:
    """mean(values - baseline) over the same items: what is common to both cancels, so it is tighter than two means."""
    a, b = _same_items(values, baseline)
    return bootstrap_mean(a - b, level=level, resamples=resamples, seed=seed)


def sign_flip(differences: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of "the mean difference is 0": paired permutation test (Fisher 1935; Good 2005, ch. 3).

    Up to 15 items that differ, all sign patterns are tried (for wins and losses: McNemar's exact test); else
    `resamples` random ones. 1.0 where nothing differs.
    """
    x = _floats(differences)
    x = x[x != 0]
    if not x.size:
        return 1.0
    if x.size <= 15:
        signs = 1 - 2 * ((np.arange(2 ** x.size)[:, None] >> np.arange(x.size)) & 1)
        return float((np.abs(signs @ x) >= abs(x.sum()) - 1e-9).mean())
    rng, block, hits = np.random.default_rng(seed), max(1, _CHUNK // x.size), 0
    for start in range(0, resamples, block):
        signs = 1 - 2 * rng.integers(0, 2, (min(block, resamples - start), x.size))
        hits += int((np.abs(signs @ x) >= abs(x.sum()) - 1e-9).sum())
    return (1 + hits) / (1 + resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for having looked at all of them (Holm 1979): below 0.05, the family's error is below 5%."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    out, highest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
        out[i] = highest
    return out


def relative_change(values: ArrayLike, baseline: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES,
                    seed: int = 0) -> Interval:
    """mean(values) / mean(baseline) - 1 over the same items: -0.5 means halved. nan if the baseline's mean is 0."""
    a, b = _same_items(values, baseline)
    r = bootstrap_ratio(a, b, level=level, resamples=resamples, seed=seed)
    return Interval(r.value - 1, r.low - 1, r.high - 1, r.n)


def outcomes(scores: ArrayLike, baseline: ArrayLike, tie_within: float = 0.0) -> Floats:
    """Per item 1 (better than the baseline), 0.5 (within `tie_within`: a tie) or 0."""
    a, b = _same_items(scores, baseline)
    return np.where(np.abs(a - b) <= tie_within, 0.5, (a > b).astype(float))


def preference_rate(outcomes_N: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
                    ) -> Preference:
    """Preference rate over prompts from `outcomes`: bootstrap over prompts, ties half; the tie rate has Wilson's."""
    x = _floats(outcomes_N)
    wins, losses = int((x > 0.5).sum()), int((x < 0.5).sum())
    ties = x.size - wins - losses
    rate = wilson(float(x.sum()), x.size, level) if x.size and np.ptp(x) == 0 else bootstrap_mean(
        x, level=level, resamples=resamples, seed=seed)
    return Preference(rate, wilson(ties, x.size, level), wins, ties, losses)


def mean_interval(values: ArrayLike, *, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean over items: Wilson where all values are 0 or 1 (a bootstrap of zeros has no width), else bootstrap."""
    x = _floats(values)
    if np.isin(x, (0.0, 1.0)).all():
        return wilson(float(x.sum()), x.size, level)
    return bootstrap_mean(x, level=level, seed=seed)


def over_seeds(values_SN: Sequence[ArrayLike], *, crossed: bool = False, level: float = 0.95,
               resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean of the seeds' means; hierarchical bootstrap: seeds are drawn anew, then prompts.

    Args:
        values_SN: one array of per-prompt values for each training seed.
        crossed: the seeds answered the same prompts, in the same order; one draw of prompts then serves all of them.

    With 3 seeds a bootstrap understates their spread (its variance is 2/3 of the unbiased one): show `t_interval`
    of the seeds' means beside it.
    """
    columns = [_floats(v) for v in values_SN]
    if not columns or any(c.size == 0 for c in columns):
        return Interval(nan, nan, nan, 0)
    slots_RS = np.random.default_rng(seed).integers(0, len(columns), (resamples, len(columns)))
    drawn_RS = np.empty(slots_RS.shape)
    if crossed:
        table_NS = np.stack(columns, axis=1)
        means_RS = _resampled_sums(table_NS, resamples, (seed, 0)) / len(table_NS)
        drawn_RS = np.take_along_axis(means_RS, slots_RS, axis=1)
    else:
        for s, column in enumerate(columns):
            hit = slots_RS == s
            drawn_RS[hit] = _resampled_sums(column[:, None], int(hit.sum()), (seed, s))[:, 0] / column.size
    low, high = np.quantile(drawn_RS.mean(1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean([c.mean() for c in columns])), float(low), float(high), sum(c.size for c in columns))


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean ± t·s/√n of a few independent values (one per seed): the plain interval, wide when n is small."""
    x = _floats(values)
    if x.size < 2:
        return Interval(float(x.mean()) if x.size else nan, -inf, inf, int(x.size))
    half = t_quantile((1 + level) / 2, x.size - 1) * float(x.std(ddof=1)) / sqrt(x.size)
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, int(x.size))


@lru_cache(maxsize=64)
def t_quantile(p: float, df: int) -> float:
    """Student's t at probability p >= 0.5.

    With t = √df·tan(θ) the density is proportional to cos(θ)^(df-1), which is summed on a fine grid.
    """
    theta = np.linspace(0, np.pi / 2, 20_001)
    density = np.cos(theta) ** (df - 1)
    area = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return sqrt(df) * tan(float(np.interp(2 * p - 1, area / area[-1], theta)))


def calibration(probabilities: ArrayLike, happened: ArrayLike, bins: int = 10) -> Calibration:
    """Equal-width bins, expected calibration error (Guo et al. 2017, 1706.04599, eq. 3) and Brier score.

    For a reward model, `probabilities` is σ(r_i - r_j) of a pair in an order that does not know the answer (the
    stored one), `happened` whether the labeler preferred i; soft labels between 0 and 1 are allowed. Empty bins are
    left out.
    """
    p, y = _same_items(probabilities, happened)
    which = np.minimum((p * bins).astype(int), bins - 1)
    rows = tuple(Bin(b / bins, (b + 1) / bins, float(p[hit].mean()), wilson(float(y[hit].sum()), int(hit.sum())))
                 for b in range(bins) if (hit := which == b).any())
    ece = sum(r.observed.n * abs(r.observed.value - r.predicted) for r in rows) / p.size if p.size else nan
    return Calibration(rows, ece, float(((p - y) ** 2).mean()) if p.size else nan, int(p.size))


def ranks(values: ArrayLike) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs."""
    x = _floats(values)
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's on mid-ranks. nan when one side is constant."""
    a, b = (r - r.mean() for r in map(ranks, _same_items(x, y)))
    scale = sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else nan


def kendall_tau_b(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's τ_b, corrected for ties (Kendall 1945). nan when one side is constant. O(n²) memory."""
    a, b = _same_items(x, y)
    i, j = np.triu_indices(a.size, 1)
    dx, dy = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
    scale = sqrt(float(np.abs(dx).sum()) * float(np.abs(dy).sum()))
    return float(dx @ dy) / scale if scale else nan


def auc(scores: ArrayLike, positive: ArrayLike) -> float:
    """P(a positive scores above a negative), ties half (Mann-Whitney U / n₊n₋). nan without both kinds."""
    s, y = _same_items(scores, positive)
    yes = y > 0.5
    p, n = int(yes.sum()), int((~yes).sum())
    return float((ranks(s)[yes].sum() - p * (p + 1) / 2) / (p * n)) if p and n else nan


def auc_interval(scores: ArrayLike, positive: ArrayLike, clusters: Sequence[object],
                 weights: ArrayLike | None = None, *, level: float = 0.95) -> Interval:
    """`auc` with an interval for items that come in clusters, such as the pairs of one prompt (Obuchowski 1997, eq. 5).

    With weights, a pair of a positive and a negative counts by the product of theirs. `n` is the number of clusters.
    The ends are 0 and 1 where one kind is missing or there is only one cluster. Where the kinds do not mix, which
    leaves the formula no width, they are those of a share (Wilson) of as many clusters as the rarer kind has.
    """
    s, y = _same_items(scores, positive)
    w = np.ones_like(s) if weights is None else _same_items(weights, s)[0]
    yes = (y > 0.5) & (w > 0)
    no = (y <= 0.5) & (w > 0)
    _, which = np.unique(np.array([str(c) for c in clusters]), return_inverse=True)
    m = int(which.max(initial=-1)) + 1
    if not yes.any() or not no.any():
        return Interval(nan, 0.0, 1.0, m)
    above = np.zeros(s.size)  # how often an item stands on its own kind's side of the other kind's items
    above[yes] = _below(s[no], w[no], s[yes])
    above[no] = 1 - _below(s[yes], w[yes], s[no])
    value = float((w * above)[yes].sum() / w[yes].sum())
    pull = w * (above - value) / np.where(yes, w[yes].sum(), w[no].sum())
    if m > 1 and value in (0.0, 1.0):
        few = min(np.unique(which[kind]).size for kind in (yes, no))
        return replace(wilson(value * few, few, level), n=m)
    half = _z(level) * sqrt(m / (m - 1) * float((np.bincount(which, pull, m) ** 2).sum())) if m > 1 else 1.0
    return Interval(value, max(0.0, value - half), min(1.0, value + half), m)


def _below(among: Floats, weights: Floats, x: Floats) -> Floats:
    """The weighted share of `among` that is below each x, ties half."""
    order = np.argsort(among)
    ordered, mass = among[order], np.concatenate([[0.0], np.cumsum(weights[order])])
    return (mass[np.searchsorted(ordered, x, "left")] + mass[np.searchsorted(ordered, x, "right")]) / (2 * mass[-1])


def isotonic(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """The rising step function closest to y in weighted squares (pool adjacent violators; Ayer et al. 1955).

    Returns the distinct x, ascending, and the level at each. nan and empty input are the caller's business.
    """
    a, b = _same_items(x, y)
    w = np.ones_like(a) if weights is None else _same_items(weights, a)[0]
    places, which = np.unique(a, return_inverse=True)
    total = np.bincount(which, w)
    levels: list[list[float]] = []  # [level, weight, places] of the blocks so far
    for level, weight in zip(np.bincount(which, w * b) / total, total, strict=True):
        levels.append([float(level), float(weight), 1])
        while len(levels) > 1 and levels[-2][0] >= levels[-1][0]:
            level2, weight2, n2 = levels.pop()
            level1, weight1, n1 = levels.pop()
            both = weight1 + weight2
            levels.append([(level1 * weight1 + level2 * weight2) / both, both, n1 + n2])
    return places, np.repeat([b[0] for b in levels], [int(b[2]) for b in levels])


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _same_items(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    a, b = _floats(x), _floats(y)
    if a.size != b.size:
        raise ValueError(f"{a.size} values against {b.size}: both sides must be about the same items")
    return a, b


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full(top.shape, nan), where=bottom != 0)


def _resampled_sums(table_NC: Floats, resamples: int, seed: tuple[int, ...]) -> Floats:
    """Column sums [resamples, C] of tables whose rows are drawn from this one's with replacement."""
    n = len(table_NC)
    if resamples * n <= _CHUNK:
        return _counts(n, resamples, seed) @ table_NC
    rng, block = np.random.default_rng(seed), max(1, _CHUNK // n)
    return np.concatenate([_draw_counts(rng, min(block, resamples - start), n) @ table_NC
                           for start in range(0, resamples, block)])


@lru_cache(maxsize=2)
def _counts(n: int, resamples: int, seed: tuple[int, ...]) -> Floats:
    """The draws for many figures of the same prompts, kept: they dominate the time of a report."""
    return _draw_counts(np.random.default_rng(seed), resamples, n)


def _draw_counts(rng: np.random.Generator, rows: int, n: int) -> Floats:
    """How often each of n items is drawn in each of `rows` samples of n with replacement."""
    drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _bca_tails(tails: Floats, value: float, draws: Floats, jackknife: Floats) -> Floats:
    """Tail probabilities corrected for bias and skew (Efron & Tibshirani 1993, eq. 14.10-14.15)."""
    normal = NormalDist()
    below = ((draws < value).mean() + (draws <= value).mean()) / 2
    if not 0 < below < 1:
        return tails
    bias = normal.inv_cdf(float(below))
    centred = np.nanmean(jackknife) - jackknife[~np.isnan(jackknife)]
    spread = float((centred ** 2).sum()) ** 1.5
    skew = float((centred ** 3).sum()) / (6 * spread) if spread else 0.0
    z = [bias + normal.inv_cdf(float(t)) for t in tails]
    return np.array([normal.cdf(bias + v / (1 - skew * v)) for v in z])
