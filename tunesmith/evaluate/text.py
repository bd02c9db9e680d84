"""Figures of plain text that show a hack before a judge does: length, diversity, repetition, copies, cut answers.

Left out: embedding distances and Vendi scores, which need a model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from math import nan

import numpy as np

from tunesmith.records import Answer

SAMPLE = 2000
"""n-grams on which distinct-n is measured; fewer if a model wrote fewer."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation.

    >>> words("It's 7.15% APR, isn't it?")
    ["it's", '7', '15', 'apr', "isn't", 'it']
    """
    return _WORD.findall(text.lower())


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n tokens, in order."""
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def distinct(texts: Sequence[str], n: int, *, sample: int = SAMPLE, draws: int = 20, seed: int = 0) -> float:
    """Distinct-n: the share of different n-grams (Li et al. 2016, 1510.03055), on samples of one size.

    Plain distinct-n falls with the amount of text, so a model that answers at length looks dull. Here whole answers
    are drawn in random order until `sample` n-grams are together, and the share is averaged over `draws`: the
    correction that EAD makes with a formula (Liu et al. 2022, 2202.13587). Compare models at the same `sample`;
    `common_sample` says which they all reach. nan if there is no n-gram.
    """
    found = [g for text in texts if (g := ngrams(words(text), n))]
    if not found:
        return nan
    rng = np.random.default_rng(seed)
    return float(np.mean([_distinct_share([found[i] for i in rng.permutation(len(found))], sample)
                          for _ in range(draws)]))


def common_sample(texts_by_model: Sequence[Sequence[str]], n: int, sample: int = SAMPLE) -> int:
    """The number of n-grams, at most `sample`, that every model wrote."""
    totals = (sum(max(0, len(words(t)) - n + 1) for t in texts) for texts in texts_by_model)
    return max(1, min(sample, *totals, sample))


def repetition(text: str, n: int = 3) -> float:
    """The share of n-grams that occurred before in the same answer (seq-rep-n, Welleck et al. 2020, 1908.04319)."""
    found = ngrams(words(text), n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def duplicates(texts: Sequence[str]) -> float:
    """The share of answers that another answer equals word for word. nan without answers."""
    counts = Counter(" ".join(words(t)) for t in texts)
    return sum(c for c in counts.values() if c > 1) / len(texts) if texts else nan


PER_ANSWER: dict[str, Callable[[Answer], float | None]] = {
    "words": lambda a: len(words(a.text)),
    "tokens": lambda a: len(a.tokens) or None,
    "repetition": lambda a: repetition(a.text),
    "unfinished": lambda a: not a.finished,
}
"""Figures of one answer, by name; None where unknown."""


def of_all(texts: Sequence[str], samples: Sequence[int] = (SAMPLE, SAMPLE, SAMPLE), *, seed: int = 0
           ) -> dict[str, float]:
    """Figures of the whole set of answers: distinct-1, -2 and -3 on samples of the given sizes, and duplicates."""
    return {**{f"distinct_{n}": distinct(texts, n, sample=size, seed=seed) for n, size in enumerate(samples, 1)},
            "duplicates": duplicates(texts)}


def _distinct_share(answers: Sequence[Sequence[tuple[str, ...]]], sample: int) -> float:
    taken: list[tuple[str, ...]] = []
    for grams in answers:
        taken += grams[:sample - len(taken)]
        if len(taken) >= sample:
            break
    return len(set(taken)) / len(taken)
