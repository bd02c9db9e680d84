"""Who judges well, and what the labelers agree on once that is known: abilities and answers' scores, fitted together.

Labeler k, who sees answer i before answer j, prefers i with probability σ(a_k (s_i - s_j) + b_k): a_k is the labeler's
ability (0 careless, negative the scale upside down), b_k the pull of what is shown first. Priors a ~ N(1, 1),
b ~ N(0, 1), s ~ N(0, 10). A ranking is expanded to its pairs, each weighted 1 / C(K, 2), so that one ranking counts
once whatever its length; a tie is half a win for either side. Intervals are Laplace's, decisions go by the interval.

A score belongs to an answer of a prompt, so groups that share answers inform each other. Left out: abilities that
change over time or with the subject (see `detect` for the latter), Davidson's parameter for ties, and any use of who a
labeler is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import comb, nan, pi, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, ndtr

from tunesmith.feedback.groups import by_item, common_source, mean_labels, pairs
from tunesmith.records import AnswerGroup, Pair, Tiers
from tunesmith.statistics import Interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Standing = Literal["reliable", "careless", "inverted", "position-biased", "unknown"]

SCORE_VARIANCE, ABILITY_VARIANCE, POSITION_VARIANCE = 10.0, 1.0, 1.0
ENOUGH_SHARED = 20
"""Pairs that a labeler must share with others before the fit says much about them."""
POSITION_LIMIT = 0.5
"""log-odds for what is shown first from which on a labeler counts as position-biased: 62 to 38 between equals."""
DENSE_LABELERS = 2000
"""More labelers than this have their variances from the diagonal alone: the full matrix would not fit."""
ABOUT_EQUAL = 0.4
"""Two answers whose difference is below this many log-odds (60 to 40) are about equal."""
Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class Ability:
    """What the fit says about one labeler, intervals at 95%.

    `ability` 1 is the prior's mean; compare it with `Fit.reference`. `position` is the log-odds for what is shown
    first. `rankings` were used; `shared` is the number of answer pairs that somebody else compared too.
    """

    labeler: str
    ability: Interval
    position: Interval
    rankings: int
    shared: int


@dataclass(frozen=True, slots=True)
class Fit:
    """Scores of the answers of each prompt and abilities of the labelers. Read it with the functions below.

    `reference` is the median ability: the labeler whose preference the consensus states. `warnings` say what the data
    cannot tell, in sentences for people.
    """

    labelers: Mapping[str, Ability]
    reference: float
    warnings: tuple[str, ...]
    judged: Mapping[str, Sequence[AnswerGroup]] = field(repr=False)
    rows: Rows = field(repr=False)
    score_A: Floats
    ability_W: Floats
    position_W: Floats
    covariance: Mapping[int, Floats] = field(repr=False)

    def scores(self, group: AnswerGroup) -> Floats:
        """The scores of a group's answers, higher is better; nan for one that nobody compared with another."""
        return self._posterior(group)[0]

    def _posterior(self, group: AnswerGroup) -> tuple[Floats, Floats]:
        """Mean [K] and covariance [K, K] of the answers' scores."""
        block = self.rows.blocks.get(group.prompt.id)
        k = len(group.answers)
        if block is None:
            return np.full(k, nan), np.full((k, k), nan)
        local = np.array([block.answers.get(a.text, -1) for a in group.answers])
        known, mean_K, cov_KK = local >= 0, np.full(k, nan), np.full((k, k), nan)
        mean_K[known] = self.score_A[block.start + local[known]]
        cov_KK[np.ix_(known, known)] = self.covariance[block.number][np.ix_(local[known], local[known])]
        return mean_K, cov_KK


@dataclass(frozen=True, slots=True)
class Block:
    """One prompt's answers: they take the scores `start` to `start + len(answers)`."""

    number: int
    start: int
    answers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rows:
    """All comparisons, one row each: a labeler compared answers `first` and `second`, numbered over all prompts.

    `y_R` is 1 if the first won, 0.5 for a tie; `position_R` 1 if it was shown first, -1 if second, 0 if not known.
    """

    names: tuple[str, ...]
    blocks: Mapping[str, Block]
    labeler_R: Ints
    first_R: Ints
    second_R: Ints
    y_R: Floats
    position_R: Floats
    weight_R: Floats
    block_R: Ints
    rankings_W: Ints

    @property
    def sizes_B(self) -> Ints:
        """The number of answers of each block."""
        return np.array([len(b.answers) for b in self.blocks.values()], dtype=np.int64)


def fit(groups: Iterable[AnswerGroup], *, weights: Mapping[str, float] | None = None) -> Fit:
    """Scores and abilities from judged groups, several labelers on the same group or on groups of the same prompt.

    Args:
        groups: one per ranking, as `groups.apply` makes them; soft pairs are taken as they are.
        weights: what a ranking of a labeler counts, 1 for those not named; 0 leaves them out of the scores' fit.

    Groups without an order (thumbs, skipped ones) teach nothing here. No group at all gives an empty fit.
    """
    judged = by_item(groups)
    rows = comparisons([g for same in judged.values() for g in same], weights)
    labelers, answers = len(rows.names), int(rows.sizes_B.sum())
    start = np.concatenate([np.zeros(answers), np.ones(labelers), np.zeros(labelers)])
    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-10, "gtol": 1e-5}
    found = minimize(_objective, start, args=(rows, answers, labelers), jac=True, method="L-BFGS-B",
                     options=options).x if len(rows.y_R) else start
    score_A, ability_W, position_W = np.split(found, [answers, answers + labelers])
    covariance, deviation_2W = _laplace(rows, score_A, ability_W, position_W)
    shared_W = _shared(rows)
    abilities = {name: Ability(name, _interval(ability_W[w], deviation_2W[w], rows.rankings_W[w]),
                               _interval(position_W[w], deviation_2W[labelers + w], rows.rankings_W[w]),
                               int(rows.rankings_W[w]), int(shared_W[w])) for w, name in enumerate(rows.names)}
    reference = max(0.05, float(np.median(ability_W))) if labelers else 1.0
    return Fit(abilities, reference, _warnings(rows, shared_W), judged, rows, score_A, ability_W, position_W,
               covariance)


def standing(fit: Fit, labeler: str) -> Standing:
    """What the intervals allow to say of a labeler.

    "inverted": ability surely below 0; "careless": surely below half of the median; "position-biased": what is shown
    first surely matters more than `POSITION_LIMIT`; "unknown": too few pairs shared with others and nothing sure.
    """
    about = fit.labelers[labeler]
    if about.ability.high < 0:
        return "inverted"
    if about.ability.high < 0.5 * fit.reference and abs(about.position.value) < POSITION_LIMIT:
        return "careless"
    if max(about.position.low, -about.position.high) > POSITION_LIMIT:
        return "position-biased"
    if about.ability.high < 0.5 * fit.reference:
        return "careless"
    return "reliable" if about.shared >= ENOUGH_SHARED else "unknown"


def consensus(fit: Fit, group: AnswerGroup) -> AnswerGroup | None:
    """The group with what its labelers agree on, given how able each is; None if nobody compared its answers.

    A pair's p is the probability that another labeler of median ability, who sees the answers in either order, prefers
    the better one; it allows for the scores' uncertainty (σ of a normal variable: MacKay 1992, eq. 10), so that one
    vote is not taken for certain. `tiers` go by score. `weight` is the sum of the rankings' `informativeness`.
    """
    mean_K, cov_KK = fit._posterior(group)
    known = np.flatnonzero(~np.isnan(mean_K)).tolist()
    if len(known) < 2:
        return None
    judged = fit.judged.get(group.id, ())
    found = []
    for x, i in enumerate(known):
        for j in known[x + 1:]:
            p = _predictive(fit.reference, mean_K[i] - mean_K[j], _variance(cov_KK, i, j))
            found.append(Pair(i, j, p) if p >= 0.5 else Pair(j, i, 1 - p))
    weight = sum(g.weight * informativeness(fit, g.labeler) for g in judged)
    return replace(group, tiers=_tiers(mean_K), pairs=tuple(found), labels=mean_labels(judged), shown=(), weight=weight,
                   labeler=",".join(sorted({g.labeler for g in judged})), source=common_source(judged))


def informativeness(fit: Fit, labeler: str) -> float:
    """How much a ranking by this labeler tells, against one by the median labeler: (a_k / median)², at most 1.

    Nothing from a careless labeler; a full vote, which the scores take turned around, from an inverted one.
    """
    return min(1.0, (fit.labelers[labeler].ability.value / fit.reference) ** 2)


def certainty(fit: Fit, group: AnswerGroup) -> float:
    """How sure the consensus on a group is, from 1/3 (nothing known) to 1; nan if nobody compared its answers.

    The mean over its pairs of the probability of the likeliest of: first better, second better, about equal. Labelers
    who agree on a tie make it as sure as those who agree on an order. A low figure after several verdicts is a
    contested group.
    """
    mean_K, cov_KK = fit._posterior(group)
    known = np.flatnonzero(~np.isnan(mean_K))
    if len(known) < 2:
        return nan
    i, j = (known[x] for x in np.triu_indices(len(known), 1))
    gap = ABOUT_EQUAL / fit.reference
    deviation = np.sqrt(np.maximum(cov_KK[i, i] + cov_KK[j, j] - 2 * cov_KK[i, j], 1e-12))
    d = mean_K[i] - mean_K[j]
    better, worse = ndtr((d - gap) / deviation), ndtr((-d - gap) / deviation)
    return float(np.maximum(np.maximum(better, worse), 1 - better - worse).mean())


# ---- from groups to rows

def comparisons(groups: Iterable[AnswerGroup], weights: Mapping[str, float] | None = None) -> Rows:
    """Every comparison that the groups hold as rows of numbers."""
    names: dict[str, int] = {}
    blocks: dict[str, dict[str, int]] = {}
    ids: dict[int, str] = {}
    keep, table, rankings = [], [], {}  # type: ignore[var-annotated]
    for group in groups:
        found = pairs(group, "half")
        if not found:
            continue
        keep.append(group.prompt)  # an object's number is its own only as long as it lives
        prompt = ids.get(id(group.prompt)) or ids.setdefault(id(group.prompt), group.prompt.id)
        answers = blocks.setdefault(prompt, {})
        local = {i: answers.setdefault(group.answers[i].text, len(answers)) for p in found for i in (p.better, p.worse)}
        labeler = names.setdefault(group.labeler, len(names))
        share = group.weight * (weights or {}).get(group.labeler, 1.0) / comb(len(local), 2)
        seen = {answer: place for place, answer in enumerate(group.shown)}
        rankings[labeler] = rankings.get(labeler, 0) + 1
        for p in found:
            if local[p.better] != local[p.worse]:  # the same text twice cannot be told apart
                order = (seen[p.worse] > seen[p.better]) * 2 - 1 if p.better in seen and p.worse in seen else 0
                table.append((prompt, labeler, local[p.better], local[p.worse], p.p, order, share * p.weight))
    return _rows(names, blocks, table, rankings)


def _rows(names: Mapping[str, int], blocks: Mapping[str, Mapping[str, int]], table: Sequence[tuple[object, ...]],
          rankings: Mapping[int, int]) -> Rows:
    starts = np.concatenate([[0], np.cumsum([len(a) for a in blocks.values()])]).astype(np.int64)
    index = {prompt: Block(n, int(starts[n]), answers) for n, (prompt, answers) in enumerate(blocks.items())}
    block_R = np.array([index[str(row[0])].number for row in table], dtype=np.int64)
    rest = np.array([row[1:] for row in table], dtype=float).reshape(len(table), 6)
    first_R, second_R = (rest[:, c].astype(np.int64) + starts[block_R] for c in (1, 2))
    return Rows(tuple(names), index, rest[:, 0].astype(np.int64), first_R, second_R, rest[:, 3], rest[:, 4], rest[:, 5],
                block_R, np.array([rankings[w] for w in range(len(names))], dtype=np.int64))


# ---- the fit

def _objective(x: Floats, rows: Rows, answers: int, labelers: int) -> tuple[float, Floats]:
    """Negative log posterior and its gradient, at (scores, abilities, positions)."""
    s, a, b = np.split(x, [answers, answers + labelers])
    w, i, j = rows.labeler_R, rows.first_R, rows.second_R
    d = s[i] - s[j]
    z = a[w] * d + b[w] * rows.position_R
    error = rows.weight_R * (expit(z) - rows.y_R)
    pull = error * a[w]
    loss = (rows.weight_R * (np.logaddexp(0, z) - rows.y_R * z)).sum()
    prior = (s @ s / SCORE_VARIANCE + (a - 1) @ (a - 1) / ABILITY_VARIANCE + b @ b / POSITION_VARIANCE) / 2
    gradient = [np.bincount(i, pull, answers) - np.bincount(j, pull, answers) + s / SCORE_VARIANCE,
                np.bincount(w, error * d, labelers) + (a - 1) / ABILITY_VARIANCE,
                np.bincount(w, error * rows.position_R, labelers) + b / POSITION_VARIANCE]
    return float(loss + prior), np.concatenate(gradient)


def _laplace(rows: Rows, s: Floats, a: Floats, b: Floats) -> tuple[dict[int, Floats], Floats]:
    """Covariance of each block's scores given the abilities, and standard deviations of all abilities, then positions.

    The Hessian is an arrow: one small block per prompt, a border for the labelers. Eliminating the blocks one by one
    leaves the labelers' marginal precision, at a cost that grows with the comparisons alone.
    """
    w, i, j, labelers = rows.labeler_R, rows.first_R, rows.second_R, len(a)
    d = s[i] - s[j]
    p = expit(a[w] * d + b[w] * rows.position_R)
    bend, error = rows.weight_R * p * (1 - p), rows.weight_R * (p - rows.y_R)
    covariance = _inverse_blocks(rows, bend * a[w] ** 2)
    to_a, to_b = bend * a[w] * d + error, bend * a[w] * rows.position_R
    cross = coo_array((np.concatenate([to_a, -to_a, to_b, -to_b]),
                       (np.concatenate([i, j, i, j]), np.concatenate([w, w, w + labelers, w + labelers]))),
                      shape=(len(s), 2 * labelers)).tocsr()
    precision = _border(rows, a, b, bend, d)
    spread = _block_diagonal(covariance, rows, len(s)) @ cross
    if labelers > DENSE_LABELERS:
        lost = np.asarray(cross.multiply(spread).sum(axis=0)).ravel()
        return covariance, 1 / np.sqrt(np.maximum(precision.diagonal() - lost, 1e-9))
    schur = precision.toarray() - (cross.T @ spread).toarray()
    values, vectors = np.linalg.eigh((schur + schur.T) / 2)  # not quite positive where the fit stopped early
    return covariance, np.sqrt((vectors ** 2 / np.maximum(values, 1e-6)).sum(1))


def _border(rows: Rows, a: Floats, b: Floats, bend_R: Floats, d_R: Floats) -> coo_array:
    """The labelers' own part of the Hessian: abilities, positions, and the two of one labeler together."""
    w, n = rows.labeler_R, len(a)
    aa = np.bincount(w, bend_R * d_R ** 2, n) + 1 / ABILITY_VARIANCE
    bb = np.bincount(w, bend_R * rows.position_R ** 2, n) + 1 / POSITION_VARIANCE
    ab = np.bincount(w, bend_R * d_R * rows.position_R, n)
    k = np.arange(n)
    return coo_array((np.concatenate([aa, bb, ab, ab]),
                      (np.concatenate([k, k + n, k, k + n]), np.concatenate([k, k + n, k + n, k]))),
                     shape=(2 * n, 2 * n)).tocsr()


def _inverse_blocks(rows: Rows, bend_R: Floats) -> dict[int, Floats]:
    """The inverse of each block's Hessian, by the block's number."""
    sizes_B = rows.sizes_B
    starts_B, flat_B = _starts(sizes_B), _starts(sizes_B ** 2)
    size_R, base_R = sizes_B[rows.block_R], flat_B[rows.block_R]
    i, j = rows.first_R - starts_B[rows.block_R], rows.second_R - starts_B[rows.block_R]
    cells = np.concatenate([base_R + i * size_R + i, base_R + j * size_R + j, base_R + i * size_R + j,
                            base_R + j * size_R + i])
    flat = np.bincount(cells, np.concatenate([bend_R, bend_R, -bend_R, -bend_R]), int((sizes_B ** 2).sum()))
    result: dict[int, Floats] = {}
    for k in np.unique(sizes_B):
        numbers = np.flatnonzero(sizes_B == k)
        blocks = flat[flat_B[numbers][:, None] + np.arange(k * k)].reshape(-1, k, k) + np.eye(k) / SCORE_VARIANCE
        result.update(zip(numbers.tolist(), np.linalg.inv(blocks), strict=True))
    return result


def _block_diagonal(blocks: Mapping[int, Floats], rows: Rows, answers: int) -> coo_array:
    sizes_B = rows.sizes_B
    order = [blocks[n] for n in range(len(sizes_B))]
    if not order:
        return coo_array((0, 0)).tocsr()
    values = np.concatenate([m.ravel() for m in order])
    size_of = np.repeat(sizes_B, sizes_B ** 2)
    within = np.arange(len(values)) - np.repeat(_starts(sizes_B ** 2), sizes_B ** 2)
    start = np.repeat(_starts(sizes_B), sizes_B ** 2)
    return coo_array((values, (start + within // size_of, start + within % size_of)), shape=(answers, answers)).tocsr()


def _starts(sizes: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64) if len(sizes) else np.zeros(0, dtype=np.int64)


def _interval(value: float, deviation: float, n: int) -> Interval:
    return Interval(float(value), float(value - Z95 * deviation), float(value + Z95 * deviation), int(n))


# ---- what the data cannot tell

def _shared(rows: Rows) -> Ints:
    """For each labeler the pairs of answers that another labeler compared too."""
    low, high = np.minimum(rows.first_R, rows.second_R), np.maximum(rows.first_R, rows.second_R)
    triples = np.unique(np.stack([low, high, rows.labeler_R]), axis=1)
    _, which, counts = np.unique(triples[:2], axis=1, return_inverse=True, return_counts=True)
    return np.bincount(triples[2], counts[which.ravel()] > 1, len(rows.names)).astype(np.int64)


def _warnings(rows: Rows, shared_W: Ints) -> tuple[str, ...]:
    names = rows.names
    if len(names) < 2:
        return ("only one labeler: there is nobody to compare with",) if names else ()
    found = []
    parts, part = connected_components(coo_array((np.ones(len(rows.y_R)), (rows.labeler_R, rows.block_R + len(names))),
                                                 shape=(len(names) + len(rows.blocks),) * 2), directed=False)
    of_labelers = part[:len(names)]
    if parts > 1 and len(set(of_labelers.tolist())) > 1:
        smallest = min(set(of_labelers.tolist()), key=lambda c: int((of_labelers == c).sum()))
        who = ", ".join(_some([n for n, c in zip(names, of_labelers, strict=True) if c == smallest]))
        found.append(f"the labelers fall into {len(set(of_labelers.tolist()))} parts that share no prompt ({who} "
                     "apart from the rest): abilities of different parts cannot be compared; raise the overlap")
    few = [n for n, s in zip(names, shared_W, strict=True) if s < ENOUGH_SHARED]
    if few:
        found.append(f"{', '.join(_some(few))} shared fewer than {ENOUGH_SHARED} pairs with others: hardly anything is "
                     "known of them; let more people judge the same groups")
    return tuple(found)


def _some(names: Sequence[str], most: int = 5) -> list[str]:
    return [*names[:most], *([f"{len(names) - most} more"] if len(names) > most else [])]


# ---- from scores to statements

def _predictive(ability: float, difference: float, variance: float) -> float:
    return float(expit(ability * difference / sqrt(1 + pi * ability ** 2 * variance / 8)))


def _variance(cov_KK: Floats, i: int, j: int) -> float:
    return max(float(cov_KK[i, i] + cov_KK[j, j] - 2 * cov_KK[i, j]), 0.0)


def _tiers(score_K: Floats) -> Tiers:
    """Best to worst; scores equal to nine digits share a tier, unknown ones are left out."""
    rounded = [None if np.isnan(s) else round(float(s), 9) for s in score_K]
    return tuple(tuple(i for i, s in enumerate(rounded) if s == value)
                 for value in sorted({s for s in rounded if s is not None}, reverse=True))
