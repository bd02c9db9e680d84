"""What the others think: the scores of a prompt's answers without some of the labelers who judged it.

To ask whether somebody departs from the consensus, that consensus must not contain them. Refitting everything once
per labeler would be slow; here the abilities stay as they are and only the few answers of each prompt are refitted
(Newton's method, many prompts at once). An ability that rests on hundreds of pairs hardly depends on one prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tunesmith.feedback.ability import SCORE_VARIANCE, Fit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CHUNK = 20_000
"""Prompts refitted at once: about 200 MB with nine answers each."""
STEPS, LONGEST = 12, 2.0
NODES = (-2.8569700, -1.3556262, 0.0, 1.3556262, 2.8569700)
NODE_WEIGHTS = (0.0112574, 0.2220759, 0.5333333, 0.2220759, 0.0112574)
"""Gauss-Hermite places and weights that stand for a standard normal variable."""


@dataclass(frozen=True, slots=True)
class Judgements:
    """The rows of a fit by judgement, that is by prompt and labeler, sorted by prompt.

    `preference_JKK[j, i, l]` is what labeler `labeler_J[j]` said of answers i and l of prompt `block_J[j]`: 1 if i is
    better, 0 if l is, 0.5 for a tie, nan if not compared; `first_JKK` 1 if i was shown before l, -1 if after, else 0.
    """

    block_J: Ints
    labeler_J: Ints
    preference_JKK: Floats
    first_JKK: Floats

    @property
    def shared_J(self) -> NDArray[np.bool_]:
        """Whether somebody else judged the prompt too."""
        return np.bincount(self.block_J)[self.block_J] > 1


def judgements(fit: Fit) -> Judgements:
    """The fit's rows, one dense table of preferences for each labeler and prompt; K is the largest number of answers.

    Two verdicts of a labeler on the same pair of a prompt's answers are averaged.
    """
    rows = fit.rows
    k, starts_B = _size(fit), _starts(fit)
    keys, judgement_R = np.unique(rows.block_R * max(1, len(rows.names)) + rows.labeler_R, return_inverse=True)
    block_J, labeler_J = keys // max(1, len(rows.names)), keys % max(1, len(rows.names))
    i, j = rows.first_R - starts_B[rows.block_R], rows.second_R - starts_B[rows.block_R]
    shape = (len(keys), k, k)
    total, count, order = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for a, b, y, side in ((i, j, rows.y_R, rows.position_R), (j, i, 1 - rows.y_R, -rows.position_R)):
        np.add.at(total, (judgement_R, a, b), y)
        np.add.at(count, (judgement_R, a, b), 1)
        np.add.at(order, (judgement_R, a, b), side)
    preference = np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)
    return Judgements(block_J, labeler_J, preference, np.sign(order))


def without_each(fit: Fit, found: Judgements) -> Iterator[tuple[Ints, Floats, Floats]]:
    """For each judgement the scores of its prompt's answers from everybody else's: (judgements, mean, covariance)."""
    yield from _refit(fit, found, found.block_J, found.labeler_J[:, None])


def without_both(fit: Fit, found: Judgements, one: Ints, two: Ints) -> Iterator[tuple[Ints, Floats, Floats]]:
    """The same for pairs of judgements of one prompt, `one[n]` and `two[n]`, without either labeler's."""
    yield from _refit(fit, found, found.block_J[one], found.labeler_J[np.stack([one, two], axis=1)])


def predicted(ability_U: Floats, mean_UK: Floats, covariance_UKK: Floats, pull_UKK: Floats | float = 0.0) -> Floats:
    """P(i beats l) [U, K, K] for labelers of the given abilities, allowing for the scores' uncertainty.

    `pull_UKK` is added to the log-odds: a labeler's position bias, signed by what was shown first.
    """
    difference, a = mean_UK[:, :, None] - mean_UK[:, None, :], ability_U[:, None, None]
    return np.asarray(expit((a * difference + pull_UKK) / np.sqrt(1 + np.pi * a ** 2 * _variance(covariance_UKK) / 8)))


def sway(ability_U: Floats, mean_UK: Floats, covariance_UKK: Floats, pull_UKK: Floats | float = 0.0) -> Floats:
    """Standard deviation of P(i beats l) over what the scores may be, negative for a negative ability.

    The product of two labelers' is the covariance that their verdicts have because both know what the scores do not
    say (nearly: both probabilities rise with the same difference). By quadrature.
    """
    difference, a = mean_UK[:, :, None] - mean_UK[:, None, :], ability_U[:, None, None]
    deviation = np.sqrt(_variance(covariance_UKK))
    p_NUKK = [expit(a * (difference + x * deviation) + pull_UKK) for x in NODES]
    first, second = (sum(w * p ** power for w, p in zip(NODE_WEIGHTS, p_NUKK, strict=True)) for power in (1, 2))
    return np.asarray(np.sign(a) * np.sqrt(np.maximum(second - first ** 2, 0)))


def _variance(covariance_UKK: Floats) -> Floats:
    """The variance of the difference of each two scores."""
    own = np.einsum("ukk->uk", covariance_UKK)
    return np.asarray(np.maximum(own[:, :, None] + own[:, None, :] - 2 * covariance_UKK, 0))


def abilities(fit: Fit) -> tuple[Floats, Floats]:
    """Ability and position bias of each labeler, in the order of the fit's rows."""
    about = [fit.labelers[name] for name in fit.rows.names]
    return np.array([x.ability.value for x in about]), np.array([x.position.value for x in about])


def _refit(fit: Fit, found: Judgements, block_U: Ints, out_UM: Ints) -> Iterator[tuple[Ints, Floats, Floats]]:
    """Chunks of (units, scores [u, K], covariance [u, K, K]): a unit is a prompt and the labelers left out of it."""
    rows, k, starts_B = fit.rows, _size(fit), _starts(fit)
    by_block = np.argsort(rows.block_R, kind="stable")
    begin_B = np.searchsorted(rows.block_R[by_block], np.arange(len(starts_B) + 1))
    count_U = (begin_B[1:] - begin_B[:-1])[block_U]
    size_B = rows.sizes_B
    for units in np.array_split(np.arange(len(block_U)), max(1, -(-len(block_U) // CHUNK))):
        unit_E = np.repeat(np.arange(len(units)), count_U[units])
        within = np.arange(len(unit_E)) - np.repeat(np.cumsum(count_U[units]) - count_U[units], count_U[units])
        row_E = by_block[begin_B[block_U[units]][unit_E] + within]
        kept = (rows.labeler_R[row_E][:, None] != out_UM[units][unit_E]).all(1)
        answer_uK = np.minimum(starts_B[block_U[units]][:, None] + np.arange(k), len(fit.score_A) - 1)
        start_uK = np.where(np.arange(k) < size_B[block_U[units]][:, None], fit.score_A[answer_uK], 0.0)
        yield units, *_newton(fit, start_uK, unit_E[kept], row_E[kept], starts_B)


def _newton(fit: Fit, score_uK: Floats, unit_E: Ints, row_E: Ints, starts_B: Ints) -> tuple[Floats, Floats]:
    """Mode and covariance of the scores given the rows; what no row tells of stays at the prior."""
    rows, (u, k) = fit.rows, score_uK.shape
    start_E = starts_B[rows.block_R[row_E]]
    i, j = rows.first_R[row_E] - start_E, rows.second_R[row_E] - start_E
    ability_W, position_W = abilities(fit)
    a, b = ability_W[rows.labeler_R[row_E]], position_W[rows.labeler_R[row_E]] * rows.position_R[row_E]
    weight, y = rows.weight_R[row_E], rows.y_R[row_E]
    at_i, at_j = unit_E * k + i, unit_E * k + j
    cells = np.concatenate([at_i * k + i, at_j * k + j, at_i * k + j, at_j * k + i])
    for _ in range(STEPS):
        p = expit(a * (score_uK[unit_E, i] - score_uK[unit_E, j]) + b)
        pull, bend = weight * (p - y) * a, weight * p * (1 - p) * a ** 2
        gradient = score_uK / SCORE_VARIANCE + (np.bincount(at_i, pull, u * k)
                                                - np.bincount(at_j, pull, u * k)).reshape(u, k)
        bends = np.bincount(cells, np.concatenate([bend, bend, -bend, -bend]), u * k * k)
        curve = np.eye(k) / SCORE_VARIANCE + bends.reshape(u, k, k)
        step = np.linalg.solve(curve, gradient[:, :, None])[:, :, 0]
        score_uK = score_uK - np.clip(step, -LONGEST, LONGEST)
        if np.abs(step).max(initial=0) < 1e-6:
            break
    return score_uK, np.asarray(np.linalg.inv(curve), dtype=np.float64)


def _size(fit: Fit) -> int:
    return int(fit.rows.sizes_B.max(initial=1))


def _starts(fit: Fit) -> Ints:
    return np.array([b.start for b in fit.rows.blocks.values()], dtype=np.int64)
