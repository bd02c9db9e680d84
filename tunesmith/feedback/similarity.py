"""How alike two texts are, from 0 to 1: the measures of OpenAI's `text_similarity` grader.

`fuzzy_match` is RapidFuzz's WRatio over lower-cased words, as in the guide's own example; `bleu`, `gleu` and `meteor`
are NLTK's. OpenAI's guide says no more than these names, so three things are decided here and in docs/graders.md:

- BLEU is of one sentence: orders that the answer is too short for are left out, and an order without a match counts as
  1/2, 1/4, ... of one (NIST smoothing), as sacreBLEU does. So an equal text has 1 however short it is.
- METEOR matches words and stems. WordNet's synonyms are left out: a reward must not depend on whether a corpus has
  been downloaded.
- `cosine` is that of word counts, where OpenAI embeds with a model of theirs (and only in evals).

Words are lower-cased runs of letters and digits of any script. ROUGE is the F-measure, number for number Google's
rouge-score without stemming wherever the text is ASCII (which is all that rouge-score reads).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec

from tunesmith.errors import MissingExtra

LONGEST = 20_000
"""Characters of a text that is compared."""


def words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits."""
    return re.findall(r"[^\W_]+", text.lower())


def cosine(text: str, reference: str) -> float:
    """Of the two vectors of word counts."""
    a, b = Counter(words(text)), Counter(words(reference))
    length = math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))
    return min(sum(n * b[w] for w, n in a.items()) / length, 1.0) if length else 0.0


def fuzzy_match(text: str, reference: str) -> float:
    from rapidfuzz import fuzz, utils

    return fuzz.WRatio(text, reference, processor=utils.default_process) / 100


def bleu(text: str, reference: str) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    hypothesis, wanted = words(text), words(reference)
    order = min(4, len(hypothesis))
    if not order or not wanted or not set(hypothesis) & set(wanted):
        return 0.0
    return float(sentence_bleu([wanted], hypothesis, [1 / order] * order, SmoothingFunction().method3))


def gleu(text: str, reference: str) -> float:
    """Of n-grams of 1 to 4 words, the smaller of precision and recall (Wu et al., arXiv 1609.08144, section 6)."""
    from nltk.translate.gleu_score import sentence_gleu

    return float(sentence_gleu([words(reference)], words(text)))


def meteor(text: str, reference: str) -> float:
    from nltk.stem.porter import PorterStemmer
    from nltk.translate.meteor_score import single_meteor_score

    if not words(text) or not words(reference):
        return 0.0
    return float(single_meteor_score(words(reference), words(text), stemmer=PorterStemmer(), wordnet=_NoSynonyms()))


class _NoSynonyms:
    def synsets(self, word: str) -> list[object]:
        return []


def rouge_n(text: str, reference: str, *, n: int) -> float:
    """F-measure of the n-grams that both have."""
    a, b = (Counter(zip(*(found[i:] for i in range(n)))) for found in (words(text), words(reference)))
    return _f((a & b).total(), a.total(), b.total())


def rouge_l(text: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words."""
    from rapidfuzz.distance import LCSseq

    a, b = words(text), words(reference)
    return _f(LCSseq.similarity(a, b), len(a), len(b))


def _f(common: float, a: int, b: int) -> float:
    return 2 * common / (a + b) if common else 0.0


METRICS: dict[str, Callable[[str, str], float]] = {
    "cosine": cosine, "fuzzy_match": fuzzy_match, "bleu": bleu, "gleu": gleu, "meteor": meteor,
    **{f"rouge_{n}": partial(rouge_n, n=n) for n in range(1, 6)}, "rouge_l": rouge_l}
_NEEDS: dict[str, Sequence[str]] = {"rapidfuzz": ("fuzzy_match", "rouge_l"), "nltk": ("bleu", "gleu", "meteor")}


def need(metric: str) -> None:
    """
    Raises:
        MissingExtra: the library for this metric is not installed.
    """
    for package, metrics in _NEEDS.items():
        if metric in metrics and find_spec(package) is None:
            raise MissingExtra(package, "graders")
