"""Tests word by word: against the others on prompts with a certain word, or for answers that carry one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import binom

from tunesmith.feedback.ability import Fit
from tunesmith.feedback.departures import Residuals
from tunesmith.feedback.features import words
from tunesmith.feedback.findings import FEWEST, Finding, Floats, scale, whole
from tunesmith.feedback.leftout import Judgements
from tunesmith.statistics import ranks

ATTAINABLE = 1e-4
"""A word that could not reach this p-value however it came out is not tried: it would only cost the others power."""
MOST_WORDS = 10_000
"""Words that are tried, the most frequent ones: what is kept of each labeler and word has to fit into memory."""
PRIOR = 4.0
"""Verdicts that the prior on a word's odds is worth (Monroe, Colaresi & Quinn 2008: a Dirichlet prior)."""
SURPRISING = 2.0
"""-log10 p from which on a word that one labeler is tested on makes it likelier to be the one for others."""


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
    z_WV /= max(1.0, scale(known)) if known.size else 1.0
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
    width = max(1.0, scale(((hits - n * usual)[tried]) / np.sqrt((n * usual * (1 - usual))[tried])))
    z = ndtri(np.clip(binom.sf(np.floor(hits + 1e-9) - 1, n, usual), 1e-300, 1 - 1e-12))
    return np.where(tried, ndtr(z / width), np.nan), own - others, n * usual


def _word_counts(fit: Fit) -> dict[str, WordCounts]:
    """Counts for the first and for the last tier of the verdicts."""
    row = {name: w for w, name in enumerate(fit.rows.names)}
    items = [(sets, verdicts) for same in fit.judged.values()
             if (verdicts := [(row[g.labeler], tiers) for g in same if g.labeler in row
                              for tiers in [whole(g)] if len(tiers) > 1])
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
