"""Collapse: how different a model's answers to one prompt are, and how much of people's own answers it still finds
likely. A suite (`suite.Suite`), whose figures are read as ratios to the model that training began from (`ratios`).

Several answers per prompt are compared with each other, which is what reward learning narrows first (Kirk et al., arXiv
2310.06452, "per-input diversity"); variety across prompts is part of every report (`text.of_all`). Embeddings are
hashed bags of words, so that nothing is downloaded and a row depends on its own prompt alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import exp, isnan, log, nan
from typing import Any

import numpy as np

from tunesmith.contracts import Sampling
from tunesmith.errors import DataError
from tunesmith.evaluate.suite import Figure, Item, Row, Subject, columns
from tunesmith.evaluate.text import ngrams, words
from tunesmith.records import Demonstration, Prompt
from tunesmith.statistics import Floats, Interval, bootstrap_mean, relative_change

VOCABULARY = 10_000
"""Words that a writer could use, for the expected number of different ones: of a size with common English."""
DIMENSIONS = 1024
FIRST = 5
"""Tokens at the beginning of an answer whose entropy is measured."""
BATCH = 16
"""Prompts that are asked at once."""
COLLAPSED = 0.5
"""Of the reference's variety; below that for sure, it has collapsed."""

FIGURES = (
    Figure("unique", "Different answers of n", "%", "higher", headline=True,
           help="answers to one prompt that are not word for word the same, of n"),
    Figure("vendi", "Effective number of answers (Vendi)", "", "higher", headline=True,
           help="1: all alike; n: nothing in common (Friedman & Dieng 2022)"),
    Figure("distinct_1", "Distinct words", "", "higher", help="over what chance gives for so many words (EAD)"),
    Figure("distinct_2", "Distinct word pairs", "", "higher", help="over what chance gives for so many pairs (EAD)"),
    Figure("distinct_3", "Distinct word triples", "", "higher", help="over what chance gives for so many (EAD)"),
    Figure("self_bleu", "Self-BLEU-4", "", "lower", help="1: every answer is found in the others (Zhu et al. 2018)"),
    Figure("distance", "Mean distance of two answers", "", "higher", help="1 - cosine of bags of words"),
    Figure("entropy", "Entropy of the first tokens", "nats", "higher",
           help="mean surprise of the first five tokens, as the model draws them"),
    Figure("human", "Nats per token of people's answers", "nats", "lower",
           help="how unlikely the model finds what people wrote"),
)
LABELS = {f.key: f.label for f in FIGURES}
DISPERSION = ("unique", "vendi", "distinct_2", "distance", "entropy")
"""The figures that say whether it has collapsed: two of them must."""


class Diversity:
    """The suite: n answers to each prompt, compared with each other. `human` is what people wrote, by a prompt's id."""

    name = "diversity"
    title = "Variety of answers"
    about = ("How different the answers are that a model gives to one and the same prompt. Training on a reward "
             "narrows them; when it goes wrong, all of them become the same.")
    source = "Tunesmith's own; figures after Kirk et al. 2023 (arXiv 2310.06452)"
    figures = FIGURES

    def __init__(self, prompts: Sequence[Prompt], samples: int = 8, sampling: Sampling | None = None,
                 human: Mapping[str, str] | None = None):
        """
        Raises:
            DataError: fewer than two answers per prompt.
        """
        if samples < 2:
            raise DataError("diversity compares answers to one prompt: ask for at least 2, better 8")
        self.prompts = list({p.id: p for p in prompts}.values())
        self.samples, self.sampling, self.human = samples, sampling or Sampling(), human or {}
        self.version = f"1 n={samples} t={self.sampling.temperature:g} {self.sampling.max_tokens}"

    def items(self) -> list[Item]:
        return [Item(p.id, p, stratum=p.domain) for p in self.prompts]

    def measure(self, subject: Subject, items: Sequence[Item]) -> Iterator[Row]:
        for start in range(0, len(items), BATCH):
            prompts: list[Prompt] = [i.about for i in items[start:start + BATCH]]
            drawn = subject.answers([p.messages for p in prompts], self.sampling, self.samples)
            likely = self._human(subject, prompts)
            for prompt, answers in zip(prompts, drawn):
                texts = [a.text for a in answers]
                surprise = [-sum(a.logprobs[:FIRST]) / len(a.logprobs[:FIRST]) for a in answers if a.logprobs]
                yield {**of_texts(texts), "entropy": sum(surprise) / len(surprise) if surprise else None,
                       "human": likely.get(prompt.id), "answer": texts[0], "another": texts[1]}

    def _human(self, subject: Subject, prompts: Sequence[Prompt]) -> dict[str, float]:
        """Nats per token of people's answers, where there is one and somebody can tell."""
        known = [p for p in prompts if self.human.get(p.id)]
        if not known or subject.reader is None:
            return {}
        read = subject.read([p.messages for p in known], [[self.human[p.id]] for p in known])
        return {p.id: -float(row[0].logprob) / int(row[0].tokens) for p, row in zip(known, read)}


def human_answers(demonstrations: Sequence[Demonstration]) -> dict[str, str]:
    """People's answers by the id of the prompt that they answer."""
    return {Prompt(d.messages[:-1]).id: d.messages[-1].content for d in demonstrations}


def of_texts(texts: Sequence[str]) -> dict[str, float]:
    """Every figure that texts alone give."""
    kernel = similarities(texts)
    n = len(texts)
    return {"unique": len({" ".join(words(t)) for t in texts}) / n, "vendi": vendi(kernel),
            **{f"distinct_{k}": ead(texts, k) for k in (1, 2, 3)}, "self_bleu": self_bleu(texts),
            "distance": float((n * n - kernel.sum()) / (n * n - n))}


def ead(texts: Sequence[str], n: int, vocabulary: int = VOCABULARY) -> float:
    """Distinct n-grams over the number expected of a writer who draws as many from a vocabulary at random: V (1 - ((V -
    1)/V)^C) for C n-grams (Liu et al., arXiv 2202.13587, eq. 2), so that long answers do not look dull. nan without
    any.
    """
    found = [g for text in texts for g in ngrams(words(text), n)]
    if not found:
        return nan
    size = vocabulary ** n
    return len(set(found)) / (-size * np.expm1(len(found) * np.log1p(-1 / size)))


def self_bleu(texts: Sequence[str], most: int = 16) -> float:
    """Mean BLEU-4 of each answer against all others (Zhu et al., arXiv 1802.01886); of many, evenly chosen `most` are
    held against the others."""
    tokens = [words(t) for t in texts]
    chosen = range(0, len(tokens), max(1, len(tokens) // most))
    return float(np.mean([bleu(tokens[i], tokens[:i] + tokens[i + 1:]) for i in chosen]))


def bleu(hypothesis: Sequence[str], references: Sequence[Sequence[str]], order: int = 4, epsilon: float = 0.1) -> float:
    """Sentence BLEU (Papineni et al. 2002) with a match of `epsilon` where an order has none (Chen & Cherry 2014,
    method 1); 0 without a single common word."""
    if not hypothesis:
        return 0.0
    logs = 0.0
    for n in range(1, order + 1):
        counts = Counter(ngrams(hypothesis, n))
        most: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            most |= Counter(ngrams(reference, n))
        hits = sum((counts & most).values())
        if n == 1 and not hits:
            return 0.0
        logs += log((hits or epsilon) / max(1, sum(counts.values()))) / order
    closest = min((abs(len(r) - len(hypothesis)), len(r)) for r in references)[1]
    brevity = min(0.0, 1 - closest / len(hypothesis))
    return exp(brevity + logs)


def embed(texts: Sequence[str]) -> Floats:
    """Unit vectors [n, D]: words and word pairs, hashed with a sign (Weinberger et al. 2009), damped by a logarithm.

    A text without words is the zero vector's stand-in: a direction of its own.
    """
    out = np.zeros((len(texts), DIMENSIONS))
    for row, text in zip(out, texts):
        found = words(text)
        for gram, count in Counter([(w,) for w in found] + ngrams(found, 2)).items():
            place, sign = _place(" ".join(gram))
            row[place] += sign * (1 + log(count))
        if not row.any():
            row[0] = 1.0
    return out / np.linalg.norm(out, axis=1, keepdims=True)


@lru_cache(maxsize=200_000)
def _place(gram: str) -> tuple[int, int]:
    digest = hashlib.blake2b(gram.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4]) % DIMENSIONS, 1 if digest[4] & 1 else -1


def similarities(texts: Sequence[str]) -> Floats:
    """Cosine of every two texts, [n, n]."""
    vectors = embed(texts)
    return np.clip(vectors @ vectors.T, -1.0, 1.0)


def vendi(kernel: Floats) -> float:
    """exp of the entropy of the eigenvalues of K/n: the effective number of different things (Friedman & Dieng, arXiv
    2210.02410, eq. 1). `kernel` [n, n] is positive semidefinite with ones on its diagonal."""
    values = np.linalg.eigvalsh(kernel / len(kernel))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def ratios(rows: Sequence[Row], reference: Sequence[Row], seed: int = 0) -> dict[str, Interval]:
    """Every figure as a ratio to the reference's on the same prompts, with a bootstrap over prompts; for people's
    answers the ratio of their likelihood per token."""
    a, b = columns(rows), columns(reference)
    out = {}
    for figure in FIGURES:
        both = ~(np.isnan(a[figure.key]) | np.isnan(b[figure.key]))
        if not both.any():
            continue
        x, y = a[figure.key][both], b[figure.key][both]
        if figure.key == "human":
            kept = bootstrap_mean(y - x, seed=seed)
            out[figure.key] = Interval(exp(kept.value), exp(kept.low), exp(kept.high), kept.n)
        elif y.sum():
            change = relative_change(x, y, seed=seed)
            out[figure.key] = Interval(change.value + 1, change.low + 1, change.high + 1, change.n)
    return out


def collapsed(found: Mapping[str, Interval]) -> str:
    """What says that variety has collapsed: at least two figures of dispersion below half of the reference's for sure,
    or people's answers less than half as likely per token (then it has become something else); "" if it has not."""
    lost = {k: i for k, i in found.items() if not isnan(i.value) and i.high < COLLAPSED}
    narrow = [f"{LABELS[k].lower()} {lost[k].value:.2f}" for k in DISPERSION if k in lost]
    said = []
    if len(narrow) >= 2:
        said.append(f"variety has collapsed: {', '.join(narrow)} of the reference's")
    if "human" in lost:
        said.append(f"people's answers are {lost['human'].value:.2f} times as likely per token as they were to the "
                    "reference")
    return "; ".join(said)


def section(rows_by_model: Mapping[str, Sequence[Row]], reference: str, seed: int = 0) -> dict[str, Any]:
    """Beside the suite's own section: ratios to the reference policy, and who has collapsed."""
    told = {m: ratios(rows, rows_by_model[reference], seed) for m, rows in rows_by_model.items() if m != reference}
    return {"reference": reference, "models": {m: {
        "ratios": [{"key": k, "label": LABELS[k], **i.to_dict()} for k, i in found.items()],
        "collapsed": collapsed(found)} for m, found in told.items()}}


