"""What a data set is about, and what people ask that it is not about.

Questions become TF-IDF vectors of their words, 50 directions of these are kept (latent semantic analysis, Deerwester et
al. 1990), and k-means finds groups, each named by the words that set it apart. A question of the reference is uncovered
if its nearest neighbour in the data is farther than the neighbours of all but a twentieth of the data's own questions:
of a reference drawn from the same people about 5% are. It is by words: a paraphrase without a common word is far.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from tunesmith.data.rows import words
from tunesmith.statistics import Floats, Interval, wilson

DIRECTIONS = 50
USUAL = 0.05
TRIES = 5
LEAST = 50
"""Questions below which there are no topics to speak of."""
_COMMON = 0.5
"""A word in more of the questions than this says nothing about their topic, as these say nothing anywhere."""
_FILLERS = frozenset((
    "about", "all", "and", "any", "are", "based", "because", "been", "but", "can", "could", "did", "does", "each",
    "find", "following", "for", "from", "get", "give", "given", "had", "has", "have", "her", "his", "how", "into",
    "its", "just", "know", "like", "make", "many", "may", "more", "most", "much", "must", "need", "not", "one",
    "only", "other", "our", "out", "over", "please", "provide", "she", "should", "some", "such", "tell", "than",
    "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "two", "use", "used",
    "using", "very", "want", "was", "were", "what", "when", "where", "which", "while", "who", "why", "will", "with",
    "would", "you", "your"))


@dataclass(frozen=True, slots=True)
class Topic:
    """A group of questions: its words, its share of the data, and of the reference where there is one."""

    words: tuple[str, ...]
    share: float
    reference: float | None = None


@dataclass(frozen=True, slots=True)
class Topics:
    """The groups, the largest first; `uncovered`: the share of the reference that the data is not about; `examples`:
    places of such questions in the reference, the farthest first."""

    topics: tuple[Topic, ...]
    uncovered: Interval | None = None
    examples: tuple[int, ...] = ()


def topics(questions: Sequence[str], reference: Sequence[str] = (), *, count: int = 12, seed: int = 0) -> Topics | None:
    """
    Args:
        reference: what people really ask, if somebody knows.
        count: groups at most; fewer where there are few questions.

    Returns:
        None where there are too few questions, or they share no words.
    """
    space = _Space(questions)
    if len(questions) < LEAST or len(space.words) < 10:
        return None
    x = space.vectors(questions)
    k = max(2, min(count, len(questions) // 25))
    directions = svds(x, min(DIRECTIONS, min(x.shape) - 1), random_state=seed)[2].T
    low = _unit(x @ directions)
    centres, group = _groups(low, k, seed)
    asked = space.vectors(reference) if reference else None
    theirs = (_unit(asked @ directions) @ _unit(centres).T).argmax(1) if asked is not None else np.empty(0, np.int64)
    found = [Topic(_names(x, group == g, space.words), float((group == g).mean()),
                   float((theirs == g).mean()) if reference else None) for g in range(k) if (group == g).any()]
    found.sort(key=lambda t: -t.share)
    if asked is None:
        return Topics(tuple(found))
    once = x[sorted({q: n for n, q in enumerate(questions)}.values())]  # a question asked twice is no near neighbour
    near, usual = nearest(asked, x), float(np.quantile(nearest(once, once, itself=False), USUAL))
    far = np.flatnonzero(near < usual)
    return Topics(tuple(found), wilson(float(far.size), len(reference)), tuple(far[np.argsort(near[far])].tolist()))


def _groups(x_ND: Floats, k: int, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Centres, and whose each row is: the tightest of several k-means, which stop where they happen to."""
    def spread(found: tuple[Floats, NDArray[np.int64]]) -> float:
        return float(((x_ND - found[0][found[1]]) ** 2).sum())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a group may end empty, and is left out
        return min((kmeans2(x_ND, k, minit="++", rng=seed + n) for n in range(TRIES)), key=spread)


def nearest(x_ND: csr_matrix, y_MD: csr_matrix, itself: bool = True) -> Floats:
    """[N]: cosine with the nearest of y; `itself` False: x is y, and no row counts as its own neighbour."""
    turned, out = y_MD.T.tocsr(), np.zeros(x_ND.shape[0])
    for start in range(0, len(out), 500):
        cosines = (x_ND[start:start + 500] @ turned).toarray()
        if not itself:
            cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = -1
        out[start:start + 500] = cosines.max(1)
    return out


class _Space:
    """The words of a data set and how rare each is."""

    def __init__(self, questions: Sequence[str]):
        seen = Counter(w for q in questions for w in set(words(q)))
        most = max(_COMMON * len(questions), 2)
        self.words = sorted(w for w, n in seen.items() if 2 <= n <= most and len(w) > 2 and w not in _FILLERS)
        self.place = {w: n for n, w in enumerate(self.words)}
        self.rarity = np.log((1 + len(questions)) / (1 + np.array([seen[w] for w in self.words]))) + 1

    def vectors(self, questions: Sequence[str]) -> csr_matrix:
        """[N, W], of length one, or zero where no word is known."""
        counts = [Counter(self.place[w] for w in words(q) if w in self.place) for q in questions]
        where = [n for n, c in enumerate(counts) for _ in c]
        what = [w for c in counts for w in c]
        weight = [(1 + np.log(n)) * self.rarity[w] for c in counts for w, n in c.items()]
        x = csr_matrix((weight, (where, what)), (len(questions), len(self.words)))
        length = np.sqrt(np.asarray(x.multiply(x).sum(1)).ravel())
        return csr_matrix(x.multiply(1 / np.where(length > 0, length, 1)[:, None]))


def _names(x: csr_matrix, inside: NDArray[np.bool_], vocabulary: Sequence[str], most: int = 4) -> tuple[str, ...]:
    """The words that a group has more of than the rest."""
    own = np.asarray(x[inside].mean(0)).ravel()
    rest = np.asarray(x[~inside].mean(0)).ravel() if (~inside).any() else np.zeros_like(own)
    best = np.argsort(-(own - rest), kind="stable")[:most]
    return tuple(vocabulary[w] for w in best if own[w] > rest[w])


def _unit(x: Floats) -> Floats:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)
