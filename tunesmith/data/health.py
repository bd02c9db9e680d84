"""Is a data set fit to learn from? One pass over all rows, and closer looks at a sample of them.

What is cheap is done to every row: lengths, duplicates, personal data, leaks of evaluations. What is not is done to a
sample: language, toxicity, wrong labels, topics. Every share has its interval, and every finding a sentence with what
to do about it. No text of a row leaves here but the suspects' labels and the topics' words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data import duplicates, noise, rows, topics
from tunesmith.data.leakage import Evaluations
from tunesmith.feedback.agreement import agreement
from tunesmith.feedback.consensus import flip_rate
from tunesmith.records import AnswerGroup, Demonstration, Record
from tunesmith.statistics import Interval, wilson

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
TOXIC = 0.9
"""Where few texts are toxic, most that a classifier gives 50% are false alarms; of what it gives 90%, fewer."""
MANY_DUPLICATES, FOREIGN, MUCH_TOXIC, MUCH_NOISE, UNCOVERED = 0.05, 0.02, 0.01, 0.05, 0.1
"""Shares from which on, for sure, the report says to do something about it."""
LANGUAGE_WORDS = 5
"""Of fewer words nobody can tell the language."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the looks need from above; what is None is not looked at.

    toxic: probability of each text (`evaluate.toxicity`). private: the kinds of personal data in a text
    (`store.privacy`). evaluations: what must not be learned. reference: what people really ask.
    """

    toxic: Callable[[Sequence[str]], Sequence[float]] | None = None
    private: Callable[[str], Iterable[str]] | None = None
    evaluations: Evaluations | None = None
    reference: Sequence[str] = ()


@dataclass
class Health:
    """The figures: JSON-able but for intervals. A look that was not taken is absent, or says why in `not_measured`."""

    name: str
    kind: str
    rows: int
    figures: dict[str, Any] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)


def examine(name: str, kind: str, records: Iterable[Record], folder: Path, tools: Tools, *, sample: int = 2000,
            threshold: float = 0.8, seed: int = 0, progress: Callable[[int], None] | None = None) -> Health:
    """All looks at a data set.

    Args:
        folder: an empty folder for the index of duplicates.
        sample: rows that are looked at closely.
        progress: called with the number of rows read since the last call.
    """
    pass_ = _Pass(tools, sample, seed)
    twins = duplicates.find(pass_.read(records), folder, threshold, progress=progress)
    health = Health(name, kind, pass_.rows)
    health.figures = {"lengths": pass_.lengths(), "duplicates": {
        "threshold": threshold, "exact": wilson(twins.exact, pass_.rows), "near": wilson(twins.near, pass_.rows)}}
    if tools.private:
        health.figures["private"] = {"rows": wilson(pass_.private_rows, pass_.rows), "kinds": dict(pass_.private)}
    if tools.evaluations:
        health.figures["leakage"] = tools.evaluations.found.to_dict()
    _closely(health, pass_.sample, tools, seed)
    return health


def _closely(health: Health, some: Sequence[Record], tools: Tools, seed: int) -> None:
    """Looks at the sample."""
    questions = [rows.question(r) for r in some]
    if find_spec("py3langid"):
        health.figures["languages"] = languages([" ".join(rows.texts(r)) for r in some])
    else:
        health.not_measured["languages"] = 'pip install "tunesmith[curation]"'
    if tools.toxic:
        health.figures["toxicity"] = {
            "questions": _toxic(tools.toxic, questions),
            "answers": _toxic(tools.toxic, [text for r in some for text in rows.answered(r)])}
    if (found := wrong_labels(some, seed)) is not None:
        health.figures["labels"] = found
    if (groups := topics.topics(questions, tools.reference, seed=seed)) is not None:
        health.figures["topics"] = groups


class _Pass:
    """What is counted while the rows go by."""

    def __init__(self, tools: Tools, sample: int, seed: int):
        self.tools, self.most, self.rng = tools, sample, np.random.default_rng(seed)
        self.rows = self.private_rows = 0
        self.private: Counter[str] = Counter()
        self.sample: list[Record] = []
        self.asked: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()

    def read(self, records: Iterable[Record]) -> Iterator[str]:
        """Each row as one text, after it was looked at."""
        for record in records:
            self.rows += 1
            self._keep(record)
            self.asked[sum(len(m.content.split()) for m in rows.asked(record))] += 1
            self.answered.update(len(text.split()) for text in rows.answered(record))
            texts = rows.texts(record)
            if self.tools.private:
                kinds = {kind for text in texts for kind in self.tools.private(text)}
                self.private.update(kinds)
                self.private_rows += bool(kinds)
            if self.tools.evaluations:
                self.tools.evaluations.leaks(texts)
            yield rows.whole(record)

    def _keep(self, record: Record) -> None:
        """Every row has the same chance to be in the sample (Vitter 1985, algorithm R)."""
        if len(self.sample) < self.most:
            self.sample.append(record)
        elif (at := int(self.rng.integers(self.rows))) < self.most:
            self.sample[at] = record

    def lengths(self) -> dict[str, dict[str, int]]:
        """Words of prompts and answers at `QUANTILES`."""
        return {what: _quantiles(counts) for what, counts in (("prompts", self.asked), ("answers", self.answered))
                if counts}


def languages(texts: Sequence[str]) -> dict[str, Any]:
    """Shares of languages (ISO 639-1), the commonest first; "unclear" are short texts and those it is unsure of."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    tell = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    found: Counter[str] = Counter()
    for text in texts:
        language, sure = tell.classify(text) if len(rows.words(text)) >= LANGUAGE_WORDS else ("unclear", 0.0)
        found[language if sure >= 0.5 else "unclear"] += 1
    return {language: wilson(count, len(texts)) for language, count in found.most_common()}


def wrong_labels(some: Sequence[Record], seed: int = 0) -> dict[str, Any] | None:
    """The share of wrong labels: of answers that are labels by confident learning, of comparisons from how often two
    labelers agree; None where neither applies."""
    groups = [r for r in some if isinstance(r, AnswerGroup)]
    if groups:
        agreed = agreement(groups).percent
        if not agreed.n:
            return None
        share = Interval(flip_rate(agreed.value), flip_rate(agreed.high), flip_rate(agreed.low), agreed.n)
        return {"how": "two labelers of one group", "agreement": agreed, "share": share}
    told = [r for r in some if isinstance(r, Demonstration)]
    found = noise.label_noise([rows.question(r) for r in told], [rows.answered(r)[0] for r in told], seed)
    if found is None:
        return None
    pairs = Counter((given, likelier) for _, given, likelier in found.suspects)
    return {"how": "confident learning", "share": found.share, "classifier": found.accuracy, "trusted": found.trusted,
            "labels": found.labels,
            "suspects": [[given, likelier, count] for (given, likelier), count in pairs.most_common(8)]}


def _toxic(score: Callable[[Sequence[str]], Sequence[float]], texts: Sequence[str]) -> Interval:
    return wilson(sum(p >= TOXIC for p in score(texts)), len(texts))


def _quantiles(counts: Counter[int]) -> dict[str, int]:
    values, share = sorted(counts), np.cumsum([counts[v] for v in sorted(counts)])
    return {f"{q:.0%}": values[int(np.searchsorted(share, q * share[-1] - 1e-9))] for q in QUANTILES}
