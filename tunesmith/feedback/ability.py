"""Who judges well, and what the labelers agree on once that is known: abilities and answers' scores, fitted together.

Labeler k, who sees answer i before answer j, prefers i with probability σ(a_k (s_i - s_j) + b_k): a_k is the labeler's
ability (0 careless, negative the scale upside down), b_k the pull of what is shown first. Priors a ~ N(1, 1),
b ~ N(0, 1), s ~ N(0, 3). A tie is half a win for either side. Intervals are Laplace's, decisions go by the interval.

A ranking of K answers is expanded to its pairs, each weighted 3 / (K + 1): the pairs of a ranking hang together and
tell that much less than as many separate comparisons (the efficiency of a ranking where the answers are alike).
Weighted 1 / C(K, 2), as in the reward model's loss, long rankings would say too little to find anybody careless; in
full, too much. Abilities are measured against what the others say, scores are what all say; see `_alternate`.

A score belongs to an answer of a prompt, so groups that share answers inform each other. Left out: abilities that
change over time or with the subject (see `detect` for the latter), Davidson's parameter for ties, and any use of who a
labeler is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan, pi, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, ndtr

from tunesmith.feedback.groups import by_item, common_source, mean_labels, pairs
from tunesmith.records import AnswerGroup, Pair, Tiers
from tunesmith.statistics import Interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Standing = Literal["reliable", "careless", "inverted", "position-biased", "unknown"]

SCORE_VARIANCE, ABILITY_VARIANCE, POSITION_VARIANCE = 3.0, 1.0, 1.0
"""Priors. With scores of variance 3, two labelers of ability 1 agree on 73% of the pairs, as people do."""
LEAST_REFERENCE = 0.05
MOST_STEPS = 100
STILL = 1e-3
"""Steps end when no ability moves by more than this share of the median."""
DAMPING = 0.6
"""Of the labelers' steps: whole ones make abilities and scores swing against each other."""
ENOUGH_SHARED = 20
"""Pairs that a labeler must share with others before the fit says much about them."""
POSITION_LIMIT = 0.5
"""log-odds for what is shown first from which on a labeler counts as position-biased: 62 to 38 between equals."""
ABOUT_EQUAL = 0.4
"""Two answers whose difference is below this many log-odds (60 to 40) are about equal."""
Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class Ability:
    """What the fit says about one labeler, intervals at 95%.

    `ability` 1 is the prior's mean; compare it with `Fit.reference`. `position` is the log-odds for what is shown
    first. `rankings` were used; `shared` is the number of answer pairs that somebody else with a say compared
    too.
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
    weights: Mapping[str, float]
    judged: Mapping[str, Sequence[AnswerGroup]] = field(repr=False)
    rows: Rows = field(repr=False)
    score_A: Floats = field(repr=False)
    covariance: Floats = field(repr=False)

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
        cov_KK[np.ix_(known, known)] = self._block(block)[np.ix_(local[known], local[known])]
        return mean_K, cov_KK

    def _block(self, block: Block) -> Floats:
        k = len(block.answers)
        return self.covariance[block.cells:block.cells + k * k].reshape(k, k)


@dataclass(frozen=True, slots=True)
class Block:
    """One prompt's answers: their scores begin at `start`, the matrix of their covariances at `cells`."""

    number: int
    start: int
    cells: int
    answers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rows:
    """All comparisons, one row each: a labeler compared answers `first` and `second`, numbered over all prompts.

    `y_R` is 1 if the first won, 0.5 for a tie; `position_R` 1 if it was shown first, -1 if second, 0 if not known.
    `weight_R` is what the row counts for the scores, `own_R` for the labeler's own ability.
    """

    names: tuple[str, ...]
    blocks: Mapping[str, Block]
    labeler_R: Ints
    first_R: Ints
    second_R: Ints
    y_R: Floats
    position_R: Floats
    weight_R: Floats
    own_R: Floats
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
        weights: what a ranking of a labeler counts for the scores, 1 for those not named; at 0 a labeler is measured
            against the others and has no say.

    Groups without an order (thumbs, skipped ones) teach nothing here. No group at all gives an empty fit.
    """
    judged = by_item(groups)
    rows = comparisons([g for same in judged.values() for g in same], weights)
    found, shared_W = _alternate(rows), _shared(rows)
    deviation_W, deviation_of_position_W = np.split(found.deviations_2W, 2)
    abilities = {name: Ability(name, _interval(found.ability_W[w], deviation_W[w], rows.rankings_W[w]),
                               _interval(found.position_W[w], deviation_of_position_W[w], rows.rankings_W[w]),
                               int(rows.rankings_W[w]), int(shared_W[w])) for w, name in enumerate(rows.names)}
    heard = [a for name, a in zip(rows.names, found.ability_W, strict=True) if (weights or {}).get(name, 1) > 0]
    reference = _median(np.array(heard)) if heard else 1.0
    return Fit(abilities, reference, _warnings(rows, shared_W, found.rest), dict(weights or {}), judged, rows,
               found.score_A, found.covariance)


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
    vote is not taken for certain. `tiers` go by score. `weight` is what the rankings' labelers' votes count.
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
    weight = sum(g.weight * abs(vote(fit, g.labeler)) for g in judged)
    return replace(group, tiers=_tiers(mean_K), pairs=tuple(found), labels=mean_labels(judged), shown=(), weight=weight,
                   labeler=",".join(sorted({g.labeler for g in judged})), source=common_source(judged))


def vote(fit: Fit, labeler: str) -> float:
    """What this labeler's judgements count in training, from -1 to 1: a_k / median, decided by the interval.

    A full vote unless the ability is surely below the median labeler's; nothing from a careless one; turned around,
    where it is surely negative.
    """
    about, say = fit.labelers[labeler].ability, fit.weights.get(labeler, 1.0)
    if about.high >= fit.reference:
        return say
    return say * max(-1.0, min(1.0, about.value / fit.reference)) if about.value > 0 or about.high < 0 else 0.0


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
        share, say = group.weight * 3 / (len(local) + 1), (weights or {}).get(group.labeler, 1.0)
        seen = {answer: place for place, answer in enumerate(group.shown)}
        rankings[labeler] = rankings.get(labeler, 0) + 1
        for p in found:
            if local[p.better] != local[p.worse]:  # the same text twice cannot be told apart
                order = (seen[p.worse] > seen[p.better]) * 2 - 1 if p.better in seen and p.worse in seen else 0
                table.append((prompt, labeler, local[p.better], local[p.worse], p.p, order,
                              share * p.weight * say, share * p.weight))
    return _rows(names, blocks, table, rankings)


def _rows(names: Mapping[str, int], blocks: Mapping[str, Mapping[str, int]], table: Sequence[tuple[object, ...]],
          rankings: Mapping[int, int]) -> Rows:
    sizes = np.array([len(a) for a in blocks.values()], dtype=np.int64)
    starts, cells = _starts(sizes), _starts(sizes ** 2)
    index = {prompt: Block(n, int(starts[n]), int(cells[n]), answers)
             for n, (prompt, answers) in enumerate(blocks.items())}
    block_R = np.array([index[str(row[0])].number for row in table], dtype=np.int64)
    rest = np.array([row[1:] for row in table], dtype=float).reshape(len(table), 7)
    first_R, second_R = (rest[:, c].astype(np.int64) + starts[block_R] for c in (1, 2))
    return Rows(tuple(names), index, rest[:, 0].astype(np.int64), first_R, second_R, rest[:, 3], rest[:, 4], rest[:, 5],
                rest[:, 6], block_R, np.array([rankings[w] for w in range(len(names))], dtype=np.int64))


# ---- the fit

@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the values and the square matrices of things of different sizes lie in flat arrays."""

    sizes: Ints
    starts: Ints
    cells: Ints

    @classmethod
    def of(cls, sizes: Ints) -> _Layout:
        return cls(sizes, _starts(sizes), _starts(sizes ** 2))

    def cell(self, which_R: Ints, i_R: Ints, j_R: Ints) -> Ints:
        """The place of entry (i, j) of the matrix of thing `which_R`."""
        return self.cells[which_R] + i_R * self.sizes[which_R] + j_R

    def laplacian(self, which_R: Ints, i_R: Ints, j_R: Ints, weight_R: Floats) -> Floats:
        """Every thing's sum of weight * (e_i - e_j)(e_i - e_j)', flat."""
        places = [self.cell(which_R, *ij) for ij in ((i_R, i_R), (j_R, j_R), (i_R, j_R), (j_R, i_R))]
        length = int((self.sizes ** 2).sum())
        parts = [np.bincount(place, weight_R, length) for place in places]
        return np.asarray(parts[0] + parts[1] - parts[2] - parts[3], dtype=float)

    def inverse(self, flat: Floats, values: Floats) -> tuple[Floats, Floats]:
        """The inverse of every matrix, flat, and its product with that thing's values."""
        inverses, products = np.empty_like(flat), np.empty_like(values)
        for k in np.unique(self.sizes):
            of_size = np.flatnonzero(self.sizes == k)
            cells, places = (first[of_size][:, None] + np.arange(n) for first, n in ((self.cells, k * k),
                                                                                    (self.starts, k)))
            blocks = np.linalg.inv(flat[cells].reshape(-1, k, k))
            inverses[cells] = blocks.reshape(-1, k * k)
            products[places] = np.einsum("nij,nj->ni", blocks, values[places])
        return inverses, products

    def spread(self, flat: Floats, which_R: Ints, i_R: Ints, j_R: Ints) -> Floats:
        """The variance of the difference of entries i and j under covariances `flat`."""
        ii, jj, ij = (flat[self.cell(which_R, *pair)] for pair in ((i_R, i_R), (j_R, j_R), (i_R, j_R)))
        return np.maximum(ii + jj - 2 * ij, 0.0)


@dataclass(frozen=True, slots=True)
class _Solved:
    """Scores, their covariances (flat), abilities and positions with their standard deviations; `rest` is by how much
    the abilities still moved in the last step, as a share of the median, 0 once they lie still."""

    score_A: Floats
    covariance: Floats
    ability_W: Floats
    position_W: Floats
    deviations_2W: Floats
    rest: float


def _alternate(rows: Rows) -> _Solved:
    """Scores given the abilities, abilities given what the *others'* judgements say of the scores, until both rest.

    A labeler is never measured against scores that the own judgements went into: where few judge an answer, everybody
    would look able. Taking one labeler out of a prompt's scores is one Newton step from the scores of all.
    """
    prompts = _Layout.of(rows.sizes_B)
    seats, seat_R = np.unique(np.stack([rows.block_R, rows.labeler_R]), axis=1, return_inverse=True)  # who sat where
    seat_R = seat_R.ravel()
    places = _Layout.of(rows.sizes_B[seats[0]])
    start_R = prompts.starts[rows.block_R]
    i, j = rows.first_R - start_R, rows.second_R - start_R
    n = len(rows.names)
    a, b, score_A = np.ones(n), np.zeros(n), np.zeros(int(rows.sizes_B.sum()))
    covariance, deviations, rest = np.zeros(0), np.ones(2 * n), 0.0
    for _ in range(MOST_STEPS if len(rows.y_R) else 0):
        bend_R, pull_R = _pulls(rows, score_A, a, b)
        hessian = prompts.laplacian(rows.block_R, i, j, bend_R) + _ridge(prompts)
        gradient_A = _per_answer(rows.first_R, rows.second_R, pull_R, len(score_A)) + score_A / SCORE_VARIANCE
        covariance, move_A = prompts.inverse(hessian, gradient_A)
        score_A = score_A - np.clip(move_A, -2, 2)

        bend_R, pull_R = _pulls(rows, score_A, a, b)
        hessian = prompts.laplacian(rows.block_R, i, j, bend_R) + _ridge(prompts)
        own = _per_answer(places.starts[seat_R] + i, places.starts[seat_R] + j, pull_R, int(places.sizes.sum()))
        of_all = np.repeat(prompts.cells[seats[0]], places.sizes ** 2) + _within(places.sizes ** 2)
        without, move = places.inverse(hessian[of_all] - places.laplacian(seat_R, i, j, bend_R), own)
        others_R = (score_A[rows.first_R] - score_A[rows.second_R]
                    + move[places.starts[seat_R] + i] - move[places.starts[seat_R] + j])
        before = a / _median(a)
        a, b, deviations = _labelers_step(rows, others_R, places.spread(without, seat_R, i, j), a, b)
        rest = float(np.abs(a / _median(a) - before).max())
        if rest < STILL and np.abs(move_A).max() < 1e-2:
            rest = 0.0
            break
    return _Solved(score_A, covariance, a, b, deviations, rest)


def _pulls(rows: Rows, score_A: Floats, a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Per row the curvature and the slope of the negative log-likelihood in the difference of the two scores."""
    w = rows.labeler_R
    p = expit(a[w] * (score_A[rows.first_R] - score_A[rows.second_R]) + b[w] * rows.position_R)
    return rows.weight_R * p * (1 - p) * a[w] ** 2, rows.weight_R * (p - rows.y_R) * a[w]


def _labelers_step(rows: Rows, mean_R: Floats, variance_R: Floats, a: Floats,
                   b: Floats) -> tuple[Floats, Floats, Floats]:
    """One Newton step on abilities and positions given what the others say; then standard deviations, a's and b's."""
    w, n, x = rows.labeler_R, len(a), rows.position_R
    shrink_R = 1 / np.sqrt(1 + pi / 8 * a[w] ** 2 * variance_R)
    p = expit(a[w] * mean_R * shrink_R + b[w] * x)
    slope_R = mean_R * shrink_R ** 3
    error, bend = rows.own_R * (p - rows.y_R), rows.own_R * p * (1 - p)
    g_a = np.bincount(w, error * slope_R, n) + (a - 1) / ABILITY_VARIANCE
    g_b = np.bincount(w, error * x, n) + b / POSITION_VARIANCE
    h_aa = np.bincount(w, bend * slope_R ** 2, n) + 1 / ABILITY_VARIANCE
    h_bb = np.bincount(w, bend * x ** 2, n) + 1 / POSITION_VARIANCE
    h_ab = np.bincount(w, bend * slope_R * x, n)
    scale = h_aa * h_bb - h_ab ** 2
    move_a, move_b = (h_bb * g_a - h_ab * g_b) / scale, (h_aa * g_b - h_ab * g_a) / scale
    deviations = np.sqrt(np.concatenate([h_bb / scale, h_aa / scale]))
    return a - DAMPING * np.clip(move_a, -1, 1), b - DAMPING * np.clip(move_b, -1, 1), deviations


def _per_answer(first: Ints, second: Ints, pull_R: Floats, length: int) -> Floats:
    return np.asarray(np.bincount(first, pull_R, length) - np.bincount(second, pull_R, length), dtype=float)


def _ridge(layout: _Layout) -> Floats:
    """The scores' prior precision on every diagonal, flat."""
    within, size = _within(layout.sizes ** 2), np.repeat(layout.sizes, layout.sizes ** 2)
    return (within // size == within % size) / SCORE_VARIANCE


def _median(ability_W: Floats) -> float:
    return max(LEAST_REFERENCE, float(np.median(ability_W)))


def _within(lengths: Ints) -> Ints:
    """0, 1, ... anew for every length."""
    return np.arange(int(lengths.sum())) - np.repeat(_starts(lengths), lengths)


def _starts(sizes: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64) if len(sizes) else np.zeros(0, dtype=np.int64)


def _interval(value: float, deviation: float, n: int) -> Interval:
    return Interval(float(value), float(value - Z95 * deviation), float(value + Z95 * deviation), int(n))


# ---- what the data cannot tell

def _shared(rows: Rows) -> Ints:
    """For each labeler the pairs of answers that another labeler, who has a say, compared too."""
    low, high = np.minimum(rows.first_R, rows.second_R), np.maximum(rows.first_R, rows.second_R)
    triples, row = np.unique(np.stack([low, high, rows.labeler_R]), axis=1, return_index=True)
    _, which = np.unique(triples[:2], axis=1, return_inverse=True)
    heard, which = rows.weight_R[row] > 0, which.ravel()
    others = np.bincount(which, heard)[which] - heard
    return np.bincount(triples[2], others > 0, len(rows.names)).astype(np.int64)


def _warnings(rows: Rows, shared_W: Ints, rest: float) -> tuple[str, ...]:
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
    if rest:
        found.append(f"abilities still moved by {rest:.2%} of the median when the fit ended after {MOST_STEPS} steps: "
                     "take them as approximate; more people on the same groups would settle them")
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
