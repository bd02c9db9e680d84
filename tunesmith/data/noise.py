"""How many labels are wrong, where answers are labels: confident learning (Northcutt et al., 1911.00068).

A classifier that never saw a row says how likely each label is for it. Where another label than the given one is more
likely than it usually is for its own rows, the row counts as one of the other label. That needs labels: short answers
that many rows share, such as intents or yes and no. Of written-out answers nothing is said here; comparisons have
`feedback.agreement`.

The classifier is logistic regression on words and word pairs: quick, and good enough to know banking's intents. Where
it is not (`Noise.trusted`), the estimate is too high, and is shown without a conclusion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import log_softmax, softmax

from tunesmith.data.rows import words
from tunesmith.statistics import Floats, Interval, wilson

LABEL_WORDS = 6
"""A longer answer is no label."""
LEAST = 40
"""Rows that a label needs: of fewer a classifier learns too little to doubt it."""
AGREES, UNEXPLAINED = 0.6, 0.1
"""Share of the labels that a classifier must agree with to doubt the others, and on how many it may disagree beyond the
noise that it sees. With 15 rows of each of 72 intents it agreed with 59%, saw 23% of noise where none was planted, and
19% was its own."""
ROWS = 100
"""Rows with labels below which nothing is estimated."""
FEATURES = 2**14
FOLDS = 5
PENALTY = 1e-3
RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Noise:
    """`share` of wrong labels with its interval; the classifier's `accuracy` against the labels as given; `labels` and
    `rows` that were looked at; `suspects`: (row, given label, likelier label), the surest first."""

    share: Interval
    accuracy: Interval
    labels: int
    rows: int
    suspects: tuple[tuple[int, str, str], ...]

    @property
    def trusted(self) -> bool:
        """Whether noise explains why the classifier disagrees; else it may simply not know the labels, and the share
        is too high."""
        return self.accuracy.value >= AGREES and 1 - self.accuracy.value - self.share.value <= UNEXPLAINED


def label_noise(questions: Sequence[str], answers: Sequence[str], seed: int = 0) -> Noise | None:
    """The estimate; None where answers are no labels, or too few of each."""
    given = [" ".join(words(a)) if len(words(a)) <= LABEL_WORDS else "" for a in answers]
    counts = Counter(filter(None, given))
    names = sorted(label for label, count in counts.items() if count >= LEAST)
    rows = [n for n, label in enumerate(given) if label in set(names)]
    if len(names) < 2 or len(rows) < ROWS:
        return None
    place = {label: n for n, label in enumerate(names)}
    label_N = np.array([place[given[n]] for n in rows])
    p_NC = out_of_sample(features([questions[n] for n in rows]), label_N, len(names), seed)
    other_N, share = confident(p_NC, label_N)
    interval = _bootstrap(label_N, other_N, len(names), share, seed)
    sure = p_NC[np.arange(len(rows)), other_N] - p_NC[np.arange(len(rows)), label_N]
    suspects = [i for i in np.argsort(-sure) if other_N[i] not in (-1, label_N[i])]
    right = float((p_NC.argmax(1) == label_N).sum())
    return Noise(interval, wilson(right, len(rows)), len(names), len(rows),
                 tuple((rows[i], names[label_N[i]], names[other_N[i]]) for i in suspects))


def features(texts: Sequence[str]) -> csr_matrix:
    """[N, D]: words and word pairs, hashed, weighed by rarity, of length one."""
    where: list[int] = []
    what: Any = []
    for n, text in enumerate(texts):
        found = words(text)
        grams = {*found, *(f"{a} {b}" for a, b in pairwise(found))}
        what += [crc32(g.encode()) % FEATURES for g in grams]
        where += [n] * len(grams)
    known, what = np.unique(np.array(what, np.int64), return_inverse=True)
    x = csr_matrix((np.ones(len(what)), (where, what)), (len(texts), len(known)))
    rarity = np.log((1 + len(texts)) / (1 + x.getnnz(0))) + 1
    x = x.multiply(rarity).tocsr()
    length = np.sqrt(np.asarray(x.multiply(x).sum(1)).ravel())
    return csr_matrix(x.multiply(1 / np.maximum(length, 1e-12)[:, None]))


def out_of_sample(x_ND: csr_matrix, label_N: NDArray[np.int64], classes: int, seed: int = 0) -> Floats:
    """[N, C]: each row's probabilities by a classifier that learned from the other folds."""
    fold = _folds(label_N, seed)
    out = np.zeros((len(label_N), classes))
    for k in range(FOLDS):
        held = fold == k
        weights = _fit(x_ND[~held], label_N[~held], classes)
        out[held] = softmax(x_ND[held] @ weights[:-1] + weights[-1], axis=1)
    return out


def confident(p_NC: Floats, label_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], float]:
    """The label that each row seems to have, -1 where it is unclear (eq. 1), and the share of wrong ones (eq. 3)."""
    classes = p_NC.shape[1]
    usual_C = np.array([p_NC[label_N == c, c].mean() for c in range(classes)])
    likely_NC = np.where(p_NC >= usual_C, p_NC, -1.0)
    other_N = np.where(likely_NC.max(1) >= 0, likely_NC.argmax(1), -1)
    return other_N, _wrong(label_N, other_N, np.bincount(label_N, minlength=classes), classes)


def _wrong(label_N: NDArray[np.int64], other_N: NDArray[np.int64], sizes_C: NDArray[np.int64], classes: int) -> float:
    """The share off the diagonal of the confident joint, each label weighed by how often it was given."""
    clear = other_N >= 0
    joint = np.zeros((classes, classes))
    np.add.at(joint, (label_N[clear], other_N[clear]), 1)
    total = joint.sum(1)
    off = np.divide(total - np.diag(joint), total, out=np.zeros(classes), where=total > 0)
    return float((off * sizes_C).sum() / sizes_C.sum())


def _bootstrap(label_N: NDArray[np.int64], other_N: NDArray[np.int64], classes: int, share: float, seed: int
               ) -> Interval:
    """Rows drawn anew; the classifier stays."""
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        at = rng.integers(0, len(label_N), len(label_N))
        drawn.append(_wrong(label_N[at], other_N[at], np.bincount(label_N[at], minlength=classes), classes))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(share, float(low), float(high), len(label_N))


def _folds(label_N: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Each label's rows dealt out evenly."""
    fold = np.zeros(len(label_N), np.int64)
    rng = np.random.default_rng(seed)
    for label in np.unique(label_N):
        rows = rng.permutation(np.flatnonzero(label_N == label))
        fold[rows] = np.arange(rows.size) % FOLDS
    return fold


def _fit(x_ND: csr_matrix, label_N: NDArray[np.int64], classes: int, penalty: float = PENALTY, steps: int = 30
         ) -> Floats:
    """[D + 1, C] weights and biases of multinomial logistic regression, by L-BFGS."""
    shape = (x_ND.shape[1] + 1, classes)
    one_NC = np.zeros((len(label_N), classes))
    one_NC[np.arange(len(label_N)), label_N] = 1
    turned_DN = x_ND.T.tocsr()

    def loss(flat: Floats) -> tuple[float, Floats]:
        w = flat.reshape(shape)
        logp_NC = log_softmax(x_ND @ w[:-1] + w[-1], axis=1)
        error_NC = (np.exp(logp_NC) - one_NC) / len(label_N)
        gradient = np.vstack([turned_DN @ error_NC + penalty * w[:-1], error_NC.sum(0)])
        nats = -float((one_NC * logp_NC).sum()) / len(label_N) + penalty / 2 * float((w[:-1] ** 2).sum())
        return nats, gradient.ravel()

    found = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": steps})
    return found.x.reshape(shape)
