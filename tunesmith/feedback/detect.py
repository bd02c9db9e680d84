"""Who may be careless, in a hurry, in league with others or poisoning the data: tests on judgements, with p-values.

Each kind of fault has one test per labeler; Benjamini and Hochberg's procedure (1995) over the labelers bounds the
expected share of false ones among those that are named, kind by kind. A test that looks at many words or partners is
first corrected for them within the labeler. Where people may differ for honest reasons (taste, topic), the scale of
the null hypothesis is taken from the panel itself (Efron 2004), so that only what stands out is named.

A suspicion is a reason to look, never a verdict: the pages show it, a person decides, and quarantine can be lifted.
Left out: whether somebody lets a language model judge (needs the keystrokes, see `Ranking.trace`), shared addresses
and devices (the studio does not keep them), and attackers who know these tests and stay below them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import factorial, inf, prod
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import binom
from scipy.stats import t as student

from tunesmith.feedback.ability import Z95, Fit
from tunesmith.feedback.features import style, words
from tunesmith.feedback.leftout import Judgements, abilities, judgements, predicted, sway, without_both, without_each
from tunesmith.records import AnswerGroup, Ranking, Tiers
from tunesmith.statistics import ranks

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Kind = Literal["careless", "inverted", "position", "straight-lining", "speeding", "taste", "collusion", "targeted",
               "trigger"]

FEWEST = 4
"""Judgements that a test needs on either side before it says anything."""
READING_SPEED = 15.0
"""Words a second that nobody reads."""
COMMON_HASTE = 0.05
"""Share of verdicts faster than that which proves nothing: double clicks, pages reopened."""
ATTAINABLE = 1e-4
"""A word that could not reach this p-value however it came out is not tried: it would only cost the others power."""
MOST_WORDS = 10_000
"""Words that are tried, the most frequent ones: what is kept of each labeler and word has to fit into memory."""
PRIOR = 4.0
"""Verdicts that the prior on a word's odds is worth (Monroe, Colaresi & Quinn 2008: a Dirichlet prior)."""
CROWD = 12
"""Up to so many judges of a prompt a pair's residuals are taken without both of them; beyond it, without each."""
CIRCLE = 20
"""The most partners that a circle of colluding labelers is sought among."""
NULL_DRAWS = 10_000
SURPRISING = 2.0
"""-log10 p from which on a word that one labeler is tested on makes it likelier to be the one for others."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One labeler stands out in one way. `p` is the test's, `q` the false-discovery rate at which it would be named.

    `statistic` is the effect in the unit that `detail`, a sentence for a person, speaks of.
    """

    labeler: str
    kind: Kind
    statistic: float
    p: float
    q: float
    detail: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What one test says about one labeler, before the correction for how many were tested."""

    labeler: str
    statistic: float
    p: float
    detail: str


def detect(fit: Fit, rankings: Iterable[Ranking] = (), *, level: float = 0.05, seed: int = 0) -> list[Suspicion]:
    """Everything that stands out at a false-discovery rate of `level` for each kind, the surest first.

    Args:
        fit: of the judgements to look at, one group per ranking with its labeler, tiers and the order shown.
        rankings: the same verdicts with their seconds, in the order they came; without them speeding is not tested,
            and "in a row" means in the order of the groups.
        level: 1 returns every test that was made.
        seed: of the shuffles behind the p-values for collusion.
    """
    if not len(fit.rows.y_R):
        return []
    given, found = list(rankings), judgements(fit)
    residuals = _residuals(fit, found)
    tests: dict[Kind, Iterable[Finding]] = {
        "careless": careless(fit), "inverted": inverted(fit), "position": position(fit),
        "straight-lining": straight_lining(fit, given), "speeding": speeding(fit, given),
        "taste": taste(fit, found, residuals), "collusion": collusion(fit, found, residuals, seed),
        "targeted": targeted(fit, found, residuals), "trigger": trigger(fit),
    }
    return sorted((s for kind, made in tests.items() for s in _corrected(kind, list(made)) if s.q <= level),
                  key=lambda s: (s.q, s.p, s.labeler, s.kind))


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """q-values: the smallest false-discovery rate at which each hypothesis would be rejected (1995)."""
    x = np.asarray(p, dtype=float)
    order = np.argsort(x)[::-1]
    raw = x[order] * x.size / np.arange(x.size, 0, -1)
    result = np.empty_like(x)
    result[order] = np.minimum(np.minimum.accumulate(raw), 1.0)
    return result


def _corrected(kind: Kind, findings: Sequence[Finding]) -> Iterator[Suspicion]:
    for f, q in zip(findings, benjamini_hochberg([f.p for f in findings]), strict=True):
        yield Suspicion(f.labeler, kind, f.statistic, float(f.p), float(q), f.detail)


# ---- from the fit

def careless(fit: Fit) -> Iterator[Finding]:
    """H0: the ability is at least half of the median labeler's."""
    for name, about in fit.labelers.items():
        if about.shared:
            a = about.ability.value
            p = ndtr((a - 0.5 * fit.reference) / _deviation(about.ability.low, about.ability.high))
            yield Finding(name, a, float(p), f"ability {a:.2f}, the median labeler's is {fit.reference:.2f}")


def inverted(fit: Fit) -> Iterator[Finding]:
    """H0: the ability is not negative."""
    for name, about in fit.labelers.items():
        if about.shared:
            a = about.ability.value
            p = ndtr(a / _deviation(about.ability.low, about.ability.high))
            yield Finding(name, a, float(p), f"ability {a:.2f}: tends to rank best what others rank worst")


def _deviation(low: float, high: float) -> float:
    return max((high - low) / (2 * Z95), 1e-9)


# ---- from the order on the page, which the studio draws at random

def position(fit: Fit) -> Iterator[Finding]:
    """Exact binomial test, two-sided, on "what was shown first is among the best"; H0: as often as chance has it.

    Any answer may be shown first, also one that is left unranked. With several answers in the best tier or different K
    the chances differ; the mean chance is used, which makes the test err on the cautious side (Hoeffding 1956).
    """
    for name, groups in _by_labeler(fit):
        tried = [(len(g.tiers[0]) / k, g.shown[0] in g.tiers[0]) for g in groups
                 for k in [len(g.answers)] if g.shown and len(g.tiers[0]) < k]
        if len(tried) >= FEWEST:
            chance, hits, n = sum(c for c, _ in tried) / len(tried), sum(h for _, h in tried), len(tried)
            p = 2 * min(binom.sf(hits - 1, n, chance), binom.cdf(hits, n, chance))
            yield Finding(name, hits / n, min(1.0, float(p)), f"what was shown first came first in {hits} of {n} "
                                                              f"verdicts; chance would give {chance * n:.0f}")


def straight_lining(fit: Fit, rankings: Sequence[Ranking] = ()) -> Iterator[Finding]:
    """The same places on the page for the same ranks, over and over, or many times in a row.

    H0: each arrangement that the verdict's ties allow is equally likely, whatever the labeler thinks of the answers,
    because the page shuffles them. p: twice the smaller of the two union bounds (exact or too large).
    """
    for name, groups in _by_labeler(fit, rankings):
        patterns = [_pattern(g) for g in groups if g.shown]
        if len(patterns) >= FEWEST:
            often, p_often = _most_frequent(patterns)
            run, p_run = _longest_run(patterns)
            yield Finding(name, float(often), min(1.0, 2 * min(p_often, p_run)),
                          f"the same arrangement on the page {often} times in {len(patterns)} verdicts, "
                          f"{run} times in a row")


Pattern = tuple[tuple[int, ...], ...]


def _pattern(group: AnswerGroup) -> Pattern:
    """The tiers as places on the page."""
    place = {answer: n for n, answer in enumerate(group.shown)}
    return tuple(tuple(sorted(place[i] for i in tier if i in place)) for tier in _whole(group))


def _arrangements(pattern: Pattern) -> int:
    return factorial(sum(map(len, pattern))) // prod(factorial(len(tier)) for tier in pattern)


def _most_frequent(patterns: Sequence[Pattern]) -> tuple[int, float]:
    shapes: dict[tuple[int, ...], list[Pattern]] = {}
    for pattern in patterns:
        shapes.setdefault(tuple(map(len, pattern)), []).append(pattern)
    counts, bounds = [], []
    for same in shapes.values():
        m, count = _arrangements(same[0]), max(same.count(p) for p in set(same))
        counts.append(count)
        bounds.append(min(1.0, m * float(binom.sf(count - 1, len(same), 1 / m))) if m > 1 else 1.0)
    return max(counts), min(1.0, min(bounds) * len(bounds))


def _longest_run(patterns: Sequence[Pattern]) -> tuple[int, float]:
    runs = [(m ** (1 - length), length) for pattern, same in groupby(patterns)
            for m, length in [(_arrangements(pattern), len(list(same)))] if m > 1]
    chance, length = min(runs, default=(1.0, 0))
    return length, min(1.0, chance * len(patterns))


# ---- from the clock

def speeding(fit: Fit, rankings: Iterable[Ranking]) -> Iterator[Finding]:
    """Faster than the panel for the same number of words, and faster than anybody reads: the larger of both p-values.

    The first: mean log time, given the words shown, against the other labelers' (robust z). The second: binomial test
    on the share of verdicts above `READING_SPEED`, H0: no more than `COMMON_HASTE`. A skip and a change of one's mind
    need no second reading: they are not counted.
    """
    length = {g.id: _words_shown(g) for g in (same[0] for same in fit.judged.values())}
    timed = [(r.labeler, length[r.group], r.seconds) for r in rankings
             if r.seconds > 0 and r.group in length and not (r.skipped or r.revises)]
    names, labeler = np.unique([name for name, _, _ in timed], return_inverse=True)
    if len(names) < 3:
        return
    count, seconds = (np.array([float(row[c]) for row in timed]) for c in (1, 2))
    n_W = np.bincount(labeler)
    residual = np.log(seconds) - _line(np.log(count), np.log(seconds))
    mean_W = np.bincount(labeler, residual) / n_W
    z_W = (mean_W - np.median(mean_W)) / max(0.05, _scale(mean_W))
    fast_W = np.bincount(labeler, count / seconds > READING_SPEED)
    for w, name in enumerate(names.tolist()):
        if n_W[w] >= FEWEST:
            p = max(ndtr(z_W[w]), binom.sf(fast_W[w] - 1, n_W[w], COMMON_HASTE))
            yield Finding(name, float(fast_W[w] / n_W[w]), float(p),
                          f"{fast_W[w]:.0f} of {n_W[w]} verdicts faster than {READING_SPEED:.0f} words a second; "
                          f"{np.exp(mean_W[w]):.2f} of the usual time for the words shown")


def _words_shown(group: AnswerGroup) -> int:
    return max(1, sum(len(a.text.split()) for a in group.answers) + len(group.prompt.messages[-1].content.split()))


def _line(x: Floats, y: Floats) -> Floats:
    """Least squares; level where all x are equal."""
    centred = x - x.mean()
    spread = float(centred @ centred)
    return y.mean() + (float(centred @ y) / spread if spread > 0 else 0.0) * centred


# ---- from departures from what the others think

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


def _residuals(fit: Fit, found: Judgements) -> Residuals:
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
            for z in [_outlying(_score_z(fit, found, residuals, table_AF[:, f]))]}
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


def targeted(fit: Fit, found: Judgements, residuals: Residuals) -> Iterator[Finding]:
    """Sides with the consensus in general but against it where the prompt contains a certain word.

    Rank-sum test of the labeler's judgements with the word against those without it, for the least favourable word;
    corrected for the words tried by `_weighted`, as an attack that several accounts share shows in more than one.
    """
    word_BV, vocabulary = _prompt_words(fit)
    names = fit.rows.names
    z_WV, gap_WV, hits_WV = (np.full((len(names), len(vocabulary)), np.nan) for _ in range(3))
    for w in range(len(names)):
        mine = np.flatnonzero((found.labeler_J == w) & found.shared_J)
        with_JV = word_BV[found.block_J[mine]]
        hits_WV[w] = with_JV.sum(axis=0)
        use = (hits_WV[w] >= FEWEST) & (len(mine) - hits_WV[w] >= FEWEST)
        if use.any():
            z_WV[w, use], gap_WV[w, use] = _rank_sum(residuals.against_J[mine], with_JV[:, use])
    known = z_WV[~np.isnan(z_WV)]
    z_WV /= max(1.0, _scale(known)) if known.size else 1.0
    for w, v, p in _weighted(ndtr(z_WV)):
        yield Finding(names[w], float(gap_WV[w, v]), p, f"goes against the others on prompts with \"{vocabulary[v]}\" "
                                                        f"({hits_WV[w, v]:.0f} judgements), not elsewhere")


def _weighted(p_WV: Floats) -> Iterator[tuple[int, int, float]]:
    """For each labeler the most suspicious word and its p-value, corrected for the words tried: (labeler, word, p).

    Weighted Bonferroni (Genovese, Roeder & Wasserman 2006): half of a labeler's weight is spread evenly over the words,
    half by how surprising each word is for the *other* labelers, which the labeler's own data cannot influence.
    nan: not tried.
    """
    tried_WV = ~np.isnan(p_WV)
    surprise_WV = np.where(tried_WV, np.maximum(-np.log10(np.maximum(np.nan_to_num(p_WV, nan=1.0), 1e-30)) - SURPRISING,
                                                0), 0)
    others_WV = np.where(tried_WV, surprise_WV.sum(0) - surprise_WV, 0)
    for w in np.flatnonzero(tried_WV.any(1)):
        use = np.flatnonzero(tried_WV[w])
        share = others_WV[w, use] / others_WV[w].sum() if others_WV[w].any() else np.full(use.size, 1 / use.size)
        corrected = p_WV[w, use] / (0.5 / use.size + 0.5 * share)
        best = int(np.argmin(corrected))
        yield int(w), int(use[best]), min(1.0, float(corrected[best]))


def _rank_sum(value_J: Floats, with_JV: csr_array) -> tuple[Floats, Floats]:
    """z of the rank-sum test of each column (normal approximation with ties), and the difference in means."""
    n, rank_J = len(value_J), ranks(value_J)
    inside = with_JV.sum(axis=0)
    variance = inside * (n - inside) / (n * (n - 1)) * float(((rank_J - rank_J.mean()) ** 2).sum())
    shift = rank_J @ with_JV - inside * (n + 1) / 2
    z = (np.sign(shift) * np.maximum(np.abs(shift) - 0.5, 0)) / np.sqrt(np.maximum(variance, 1e-9))
    total = value_J @ with_JV
    return z, total / inside - (value_J.sum() - total) / (n - inside)


def _prompt_words(fit: Fit) -> tuple[csr_array, list[str]]:
    """[prompt, word] 1 where it contains the word; words that are rare or in most prompts are left out."""
    text = {g.prompt.id: g.prompt for g in (same[0] for same in fit.judged.values())}
    sets = [words(text[b].messages[-1].content) | {f"domain {text[b].domain}"} for b in fit.rows.blocks]
    vocabulary = sorted(_common(Counter(word for s in sets for word in s), FEWEST, len(sets) / 2))
    column = {word: c for c, word in enumerate(vocabulary)}
    cells = [(b, column[word]) for b, s in enumerate(sets) for word in s if word in column]
    row, place = np.array(cells, dtype=np.int64).reshape(-1, 2).T
    return csr_array((np.ones(len(cells)), (row, place)), shape=(len(sets), len(vocabulary))), vocabulary


def _common(counts: Counter[str], fewest: int, most: float = inf) -> list[str]:
    """The words that come between `fewest` and `most` times, the most frequent first, no more than `MOST_WORDS`."""
    return sorted((word for word, n in counts.items() if fewest <= n <= most),
                  key=lambda word: (-counts[word], word))[:MOST_WORDS]


def trigger(fit: Fit) -> Iterator[Finding]:
    """A word in an answer takes it to the top (or the bottom) for this labeler, and not for the others.

    Per word and labeler: in how many of the verdicts where some answers contain it did one of them come first. H0: at
    the odds of the other labelers, which are shrunk towards chance by a Dirichlet prior (Monroe, Colaresi & Quinn
    2008). Binomial tail, on the scale of the panel, corrected for the words by `_weighted` and for both ends.
    """
    ends = _word_counts(fit)
    best: dict[int, tuple[float, float, str]] = {}
    for end, counts in ends.items():
        p_WV, odds_WV, usual_WV = _word_tests(counts)
        for w, v, p in _weighted(p_WV):
            detail = (f"answers with \"{counts.vocabulary[v]}\" came {end} in {counts.hits_WV[w, v]:.0f} of "
                      f"{counts.tried_WV[w, v]:.0f} verdicts; the others' taste would give {usual_WV[w, v]:.0f}")
            best[w] = min(best.get(w, (2.0, 0.0, "")), (min(1.0, p * len(ends)), float(odds_WV[w, v]), detail))
    for w, (p, odds, detail) in sorted(best.items()):
        yield Finding(fit.rows.names[w], odds, p, detail)


@dataclass(frozen=True, slots=True)
class WordCounts:
    """By labeler and word: verdicts where it could matter, those where it came first, and the sum of the chances."""

    vocabulary: Sequence[str]
    tried_WV: Floats
    hits_WV: Floats
    chance_WV: Floats


def _word_tests(counts: WordCounts) -> tuple[Floats, Floats, Floats]:
    """p [labeler, word], nan where not tried; log-odds against the others; hits that their taste would give."""
    n, hits, chance = counts.tried_WV, counts.hits_WV, counts.chance_WV
    base = chance.sum(0) / np.maximum(n.sum(0), 1)
    others = logit((hits.sum(0) - hits + PRIOR * base) / (n.sum(0) - n + PRIOR)) - logit(base)
    own = logit((hits + PRIOR * base) / (n + PRIOR)) - logit(base)
    mean = np.where(n > 0, chance, base) / np.maximum(n, 1)
    usual = expit(logit(mean) + others)
    tried = (n >= FEWEST) & (n * np.log(usual) <= np.log(ATTAINABLE))
    if not tried.any():
        return np.full(n.shape, np.nan), own - others, n * usual
    scale = max(1.0, _scale(((hits - n * usual)[tried]) / np.sqrt((n * usual * (1 - usual))[tried])))
    z = ndtri(np.clip(binom.sf(np.floor(hits + 1e-9) - 1, n, usual), 1e-300, 1 - 1e-12))
    return np.where(tried, ndtr(z / scale), np.nan), own - others, n * usual


def _word_counts(fit: Fit) -> dict[str, WordCounts]:
    """Counts for the first and for the last tier of the verdicts."""
    row = {name: w for w, name in enumerate(fit.rows.names)}
    items = [(sets, verdicts) for same in fit.judged.values()
             if (verdicts := [(row[g.labeler], tiers) for g in same if g.labeler in row
                              for tiers in [_whole(g)] if len(tiers) > 1])
             for sets in [[words(a.text) for a in same[0].answers]]]
    counts: Counter[str] = Counter()  # verdicts that a word could matter for: some answers have it, some not
    for sets, verdicts in items:
        counts.update(dict.fromkeys(_telling(sets), len(verdicts)))
    vocabulary = _common(counts, 2 * FEWEST)  # of natural text most words are rare
    if not vocabulary:
        return {}
    column = {word: c for c, word in enumerate(vocabulary)}
    tried, chance, first, last = (np.zeros((len(row), len(vocabulary))) for _ in range(4))
    for sets, verdicts in items:
        telling = [word for word in _telling(sets) if word in column]
        place = np.array([column[word] for word in telling], dtype=np.int64)
        has_KV = np.array([[word in s for word in telling] for s in sets], dtype=float)
        for w, tiers in verdicts:
            tried[w, place] += 1
            chance[w, place] += has_KV.mean(0)
            first[w, place] += has_KV[list(tiers[0])].mean(0)
            last[w, place] += has_KV[list(tiers[-1])].mean(0)
    return {end: WordCounts(vocabulary, tried, hits, chance) for end, hits in (("first", first), ("last", last))}


def _telling(sets: Sequence[frozenset[str] | set[str]]) -> list[str]:
    """The words that some of the answers have and others have not."""
    return sorted(frozenset().union(*sets) - frozenset(sets[0]).intersection(*sets))


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
    widened = max(1.0, _scale(sum_WW[met] / np.sqrt(count_WW[met])))
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


# ---- shared

def _by_labeler(fit: Fit, rankings: Sequence[Ranking] = ()) -> list[tuple[str, list[AnswerGroup]]]:
    """Each labeler's judged groups, in the order of their (newest) verdicts, else in the order of the groups."""
    came = {(r.labeler, r.group): n for n, r in enumerate(rankings) if r.purpose not in ("gold", "repeat")}
    result: dict[str, list[tuple[int, AnswerGroup]]] = {name: [] for name in fit.rows.names}
    for id, same in fit.judged.items():
        for g in same:
            if g.labeler in result and g.tiers:
                result[g.labeler].append((came.get((g.labeler, id), 0), g))
    return [(name, [g for _, g in sorted(given, key=lambda one: one[0])]) for name, given in result.items()]


def _whole(group: AnswerGroup) -> Tiers:
    """The tiers with what was left unranked as the last one: training has it lose to the others too."""
    named = {i for tier in group.tiers for i in tier}
    rest = tuple(i for i in range(len(group.answers)) if i not in named)
    return (*group.tiers, rest) if rest and group.tiers else group.tiers


def _scale(values: ArrayLike) -> float:
    """Standard deviation of the bulk: the median absolute deviation, scaled for a normal distribution."""
    x = np.asarray(values, dtype=float)
    return float(1.4826 * np.median(np.abs(x - np.median(x))))


def _outlying(z_W: Floats) -> Floats:
    """z-values recentred and widened to what most labelers show (Efron 2004); never narrowed."""
    known = z_W[~np.isnan(z_W)]
    return (z_W - np.median(known)) / max(1.0, _scale(known)) if known.size else z_W
