"""Tests on departures from what the others think: taste, and circles of labelers who depart in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import t as student

from tunesmith.feedback.ability import Fit
from tunesmith.feedback.features import style
from tunesmith.feedback.findings import FEWEST, Finding, Floats, Ints, outlying, scale
from tunesmith.feedback.leftout import Judgements, abilities, predicted, sway, without_both, without_each

CROWD = 12
"""Up to so many judges of a prompt a pair's residuals are taken without both of them; beyond it, without each."""
CIRCLE = 20
"""The most partners that a circle of colluding labelers is sought among."""
NULL_DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Residuals:
    """Per judgement: what the labeler said minus what was to be expected, given the others' consensus.

    `own_JKK` allows for the labeler's own ability and position bias; `against_J` is positive where the labeler sides
    with a consensus that is sure, negative where against it, and 0 on average for a reliable labeler. `sway_JKK`: see
    `leftout.sway`.
    """

    own_JKK: Floats
    sway_JKK: Floats
    against_J: Floats


def residuals_of(fit: Fit, found: Judgements) -> Residuals:
    own, moved = np.full_like(found.preference_JKK, np.nan), np.zeros_like(found.preference_JKK)
    against = np.zeros(len(found.block_J))
    upper = np.triu(np.ones(own.shape[1:], dtype=bool), 1)
    for units, mean, covariance in without_each(fit, found):
        said = found.preference_JKK[units]
        own[units], moved[units] = _departure(fit, found, units, mean, covariance)
        typical = predicted(np.full(len(units), fit.reference), mean, covariance)
        against[units] = np.nansum(np.where(upper, (said - typical) * (2 * typical - 1), 0), axis=(1, 2))
    return Residuals(own, moved, against)


def _departure(fit: Fit, found: Judgements, units: Ints, mean: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    """What these judgements say minus what was to be expected of their labelers, and the expectation's sway."""
    ability_J, position_J = (values_W[found.labeler_J[units]] for values_W in abilities(fit))
    pull = position_J[:, None, None] * found.first_JKK[units]
    p = predicted(ability_J, mean, covariance, pull)
    return found.preference_JKK[units] - p, sway(ability_J, mean, covariance, pull)


def taste(fit: Fit, found: Judgements, residuals: Residuals) -> Iterator[Finding]:
    """Score test of a labeler's coefficient on length, lists, headings and bold type in the preference model.

    H0: no more than other labelers have. One judgement is one observation. What remains is compared with the panel:
    the median labeler's taste is part of the consensus, and labelers who differ honestly set the scale.
    """
    looks_A = [style(text) for block in fit.rows.blocks.values() for text in block.answers]
    names = list(looks_A[0])
    table_AF = np.array([[look[name] for name in names] for look in looks_A])
    z_FW = {name: z for f, name in enumerate(names) if np.ptp(table_AF[:, f]) > 0
            for z in [outlying(_score_z(fit, found, residuals, table_AF[:, f]))]}
    for w, labeler in enumerate(fit.rows.names):
        zs = {name: z_W[w] for name, z_W in z_FW.items() if not np.isnan(z_W[w])}
        if zs:
            name = max(zs, key=lambda f: abs(zs[f]))
            p = min(1.0, 2 * len(zs) * float(ndtr(-abs(zs[name]))))
            yield Finding(labeler, float(zs[name]), p, f"prefers {'more' if zs[name] > 0 else 'less'} {name} than the "
                                                       f"others do, {abs(zs[name]):.1f} standard errors")


def _score_z(fit: Fit, found: Judgements, residuals: Residuals, feature_A: Floats) -> Floats:
    """z per labeler of the sum over judgements of residual times difference in the feature; nan where too few."""
    start_J = np.array([b.start for b in fit.rows.blocks.values()])[found.block_J]
    k = found.preference_JKK.shape[1]
    value_JK = feature_A[np.minimum(start_J[:, None] + np.arange(k), len(feature_A) - 1)]
    upper = np.triu(np.ones((k, k), dtype=bool), 1)
    product = residuals.own_JKK * (value_JK[:, :, None] - value_JK[:, None, :])
    u_J = np.nansum(np.where(upper, product, 0), axis=(1, 2))
    use = found.shared_J & (u_J != 0)
    labelers = len(fit.rows.names)
    n, total, squares = (np.bincount(found.labeler_J[use], x, labelers) for x in (None, u_J[use], u_J[use] ** 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = total / np.sqrt((squares - total ** 2 / n) * n / (n - 1))
        z = -np.sign(t) * ndtri(np.maximum(student.sf(np.abs(t), n - 1), 1e-300))
    return np.where((n >= 2 * FEWEST) & np.isfinite(t), z, np.nan)


def collusion(fit: Fit, found: Judgements, residuals: Residuals, seed: int = 0) -> Iterator[Finding]:
    """Departs from the consensus in the same way as certain others do, more than independent labelers would.

    For two judgements of a prompt: the mean product of their residuals, given the consensus without both and each
    one's own ability and position bias. A circle is the labeler and the m closest partners, for any m up to `CIRCLE`;
    the statistic is the smaller of two standardized sums, over all pairs within the circle and over the labeler's own
    (or whoever happens to resemble a ring would pass for a member), at the best m. p from shuffling the products over
    all the pairs of judgements, so that the search needs no formula. Able labelers resemble each other because both
    know what few judges' scores do not say: that much is taken off, then what is common to all products of a labeler,
    and how far honest pairs still differ widens the scale. Made for up to a few thousand labelers.
    """
    one, two, product = _products(fit, found, residuals)
    if len(product) < FEWEST or np.ptp(product) == 0:
        return
    labelers = len(fit.rows.names)
    cell = found.labeler_J[one] * labelers + found.labeler_J[two]
    count_WW = _symmetric(cell, None, labelers)
    common_W = _shared_by_all(_symmetric(cell, product, labelers), count_WW)
    standard = product - common_W[found.labeler_J[one]] - common_W[found.labeler_J[two]]
    standard = (standard - standard.mean()) / standard.std()
    sum_WW = _symmetric(cell, standard, labelers)
    met = np.triu(count_WW) > 0
    widened = max(1.0, scale(sum_WW[met] / np.sqrt(count_WW[met])))
    rng = np.random.default_rng(seed)
    draws = max(20, NULL_DRAWS // labelers)
    null = np.concatenate([_circles(_symmetric(cell, rng.permutation(standard), labelers), count_WW)[0]
                           for _ in range(draws)])
    null = np.sort(null[~np.isnan(null)])
    statistic_W, partners_W = _circles(sum_WW / widened, count_WW)
    for w, name in enumerate(fit.rows.names):
        if not np.isnan(statistic_W[w]):
            above = len(null) - np.searchsorted(null, statistic_W[w])
            yield Finding(name, float(statistic_W[w]), (1 + above) / (1 + len(null)), "departs from the consensus in "
                          f"the same way as {', '.join(fit.rows.names[x] for x in partners_W[w][:5])}")


def _symmetric(cell: Ints, value: Floats | None, n: int) -> Floats:
    """Sums (counts without values) of what is known for each two labelers, [n, n]."""
    table = np.bincount(cell, value, n * n).astype(float).reshape(n, n)
    return table + table.T


def _shared_by_all(sum_WW: Floats, count_WW: Floats) -> Floats:
    """What each labeler adds to their products: the least-squares fit of one number per labeler, shrunk a little."""
    return np.asarray(np.linalg.solve(np.diag(count_WW.sum(1)) + count_WW + np.eye(len(sum_WW)), sum_WW.sum(1)))


def _circles(sum_WW: Floats, count_WW: Floats) -> tuple[Floats, list[list[int]]]:
    """Each labeler's best circle: its statistic, nan without any partner, and the partners in it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        closeness = np.where(count_WW > 0, sum_WW / np.sqrt(count_WW), -np.inf)
    order_WM = np.argsort(-closeness, axis=1, kind="stable")[:, :CIRCLE]
    known_WM = np.isfinite(np.take_along_axis(closeness, order_WM, axis=1))
    circle = np.concatenate([np.arange(len(sum_WW))[:, None], order_WM], axis=1)
    i, j = circle[:, :, None], circle[:, None, :]
    all_WM, n_all_WM = (np.einsum("wmm->wm", x[i, j].cumsum(1).cumsum(2))[:, 1:] / 2 for x in (sum_WW, count_WW))
    own_WM, n_own_WM = (np.take_along_axis(x, order_WM, axis=1).cumsum(1) for x in (sum_WW, count_WW))
    z_WM = np.where(known_WM, np.minimum(all_WM / np.sqrt(np.maximum(n_all_WM, 1)),
                                         own_WM / np.sqrt(np.maximum(n_own_WM, 1))), -np.inf)
    best_W = z_WM.argmax(1)
    statistic = np.where(known_WM.any(1), np.take_along_axis(z_WM, best_W[:, None], axis=1)[:, 0], np.nan)
    return statistic, [order_WM[w, :best + 1].tolist() for w, best in enumerate(best_W)]


def _products(fit: Fit, found: Judgements, residuals: Residuals) -> tuple[Ints, Ints, Floats]:
    """Two judgements of the same prompt, and by how much the mean product of their residuals is above expectation."""
    begin = np.flatnonzero(np.diff(found.block_J, prepend=-1))
    sizes = np.diff(np.append(begin, len(found.block_J)))
    small = [_pairs_of(begin[sizes == r], r) for r in np.unique(sizes) if 3 <= r <= CROWD]
    large = [_pairs_of(begin[sizes == r], r) for r in np.unique(sizes) if r > CROWD]
    parts = []
    if small:
        one, two = np.concatenate(small, axis=1)
        for units, mean, covariance in without_both(fit, found, one, two):
            (r1, s1), (r2, s2) = (_departure(fit, found, j, mean, covariance) for j in (one[units], two[units]))
            parts.append((one[units], two[units], _mean_excess(r1 * r2, s1 * s2)))
    for one, two in large:
        for units in np.array_split(np.arange(len(one)), -(-len(one) // 100_000)):
            product, expected = (x[one[units]] * x[two[units]] for x in (residuals.own_JKK, residuals.sway_JKK))
            parts.append((one[units], two[units], _mean_excess(product, expected)))
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    one, two, product = (np.concatenate(column) for column in zip(*parts, strict=True))
    known = ~np.isnan(product) & (found.labeler_J[one] != found.labeler_J[two])
    return one[known], two[known], product[known]


def _pairs_of(begin: Ints, size: int) -> Ints:
    """[2, n * C(size, 2)] positions of the pairs in runs of `size` from each `begin`."""
    i, j = np.triu_indices(size, 1)
    return np.stack([(begin[:, None] + i).ravel(), (begin[:, None] + j).ravel()])


def _mean_excess(product_UKK: Floats, expected_UKK: Floats) -> Floats:
    """Mean over the pairs of answers that both compared of product minus expectation; nan if there is none."""
    known = ~np.isnan(product_UKK)
    count = known.sum((1, 2))
    total = np.where(known, product_UKK - expected_UKK, 0).sum((1, 2))
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
