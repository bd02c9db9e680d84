"""Does training data hold what a model will be tested on? n-grams of evaluations, looked up in training rows.

An evaluation item leaks through a row that holds most n-grams of words of one of its texts, the question or the answer:
with n = 8 and a share of 0.7 the rule by which PaLM's evaluations were sorted (2204.02311, section 8), applied to one
row at a time, so that the row can go. A text that many items share (an instruction, a form) is no sign of any of them.
Items without a text of n words leak through a turn of the very same words. Memory holds the evaluations' n-grams;
training rows pass by. Left out: paraphrases and translations of an item, which no n-gram finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.rows import words
from tunesmith.records import Message
from tunesmith.statistics import Interval, wilson

N = 8
SHARE = 0.7
SHORTEST = 3
"""Words of a text that is looked for: a shorter one ("Thank you") stands in every data set by chance."""
MANY, COMMON = 10, 0.05
"""A text that more items of an evaluation have than so many, and than this share of them, is looked for only in items
that have no other."""


@dataclass(frozen=True, slots=True)
class Item:
    """What a model is tested with: the evaluation's name, and the item's texts."""

    evaluation: str
    texts: tuple[str, ...]


@dataclass
class Leakage:
    """What was found: `rows` looked at, `leaky` of them with an item inside; `items` of each evaluation that were
    found, of how many that were `looked_for`; `too_short` were not."""

    rows: int = 0
    leaky: int = 0
    items: dict[str, set[int]] = field(default_factory=dict)
    looked_for: Counter[str] = field(default_factory=Counter)
    too_short: Counter[str] = field(default_factory=Counter)

    def share(self, evaluation: str) -> Interval:
        """Of the evaluation's items that training has seen."""
        return wilson(len(self.items.get(evaluation, ())), self.looked_for[evaluation])

    def to_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "leaky": self.leaky, "evaluations": {name: {
            "items": count, "leaked": len(self.items.get(name, ())), "too_short": self.too_short[name],
            "share": self.share(name).to_dict()} for name, count in self.looked_for.items()}}


class _Text(NamedTuple):
    words: int
    runs: NDArray[np.uint64]


class Evaluations:
    """The n-grams of evaluation items' texts, and which items each text belongs to.

    Args:
        n: words of a run that is looked for.
        share: of the runs of one of an item's texts that a row must hold.
    """

    def __init__(self, items: Iterable[Item], n: int = N, share: float = SHARE):
        self.n, self.share, self.found = n, share, Leakage()
        texts: dict[int, _Text] = {}
        said: list[tuple[str, list[int]]] = []
        for item in items:
            own = {_hash(text): text for text in map(words, item.texts) if len(text) >= SHORTEST}
            texts |= {key: _Text(len(text), np.unique(self._runs(text))) for key, text in own.items()
                      if key not in texts}
            said.append((item.evaluation, list(own)))
        self.names: list[str] = []
        owners = self._owners(said, texts)
        self.owners = list(owners.values())
        self.sizes = np.array([texts[key].runs.size for key in owners], np.int64)
        flat = np.concatenate([*(texts[key].runs for key in owners), np.empty(0, np.uint64)])
        order = np.argsort(flat, kind="stable")
        self.grams, self.text_of = flat[order], np.repeat(np.arange(len(owners)), self.sizes)[order]

    def leaks(self, texts: Sequence[str]) -> list[int]:
        """Which items (by their number) a training row of these texts holds; counted in `found`."""
        self.found.rows += 1
        runs = np.unique(np.concatenate([*(self._runs(words(text)) for text in texts), np.empty(0, np.uint64)]))
        first, end = np.searchsorted(self.grams, runs), np.searchsorted(self.grams, runs, side="right")
        hits = Counter(text for a, b in zip(first, end) if a < b for text in self.text_of[a:b].tolist())
        held = (text for text, count in hits.items() if count >= self.share * self.sizes[text])
        found = sorted({item for text in held for item in self.owners[text]})
        for item in found:
            self.found.items.setdefault(self.names[item], set()).add(item)
        self.found.leaky += bool(found)
        return found

    def _owners(self, said: Sequence[tuple[str, list[int]]], texts: Mapping[int, _Text]) -> dict[int, list[int]]:
        """The items that each text stands for: of an item all texts of n words, else its longest as a whole."""
        items_of = Counter(evaluation for evaluation, _ in said)
        having = Counter((evaluation, key) for evaluation, keys in said for key in keys)
        owners: dict[int, list[int]] = {}
        for evaluation, keys in said:
            if not keys:
                self.found.too_short[evaluation] += 1
                continue
            few = max(MANY, COMMON * items_of[evaluation])
            own = [key for key in keys if having[evaluation, key] <= few] or keys
            long = [key for key in own if texts[key].words >= self.n]
            for key in long or [max(own, key=lambda key: texts[key].words)]:
                owners.setdefault(key, []).append(len(self.names))
            self.found.looked_for[evaluation] += 1
            self.names.append(evaluation)
        return owners

    def _runs(self, text: Sequence[str]) -> NDArray[np.uint64]:
        """n-grams of words as hashes; of a shorter text the whole, marked so that no longer text holds it."""
        if len(text) < self.n:
            runs: list[Sequence[str]] = [["whole:", *text]] if text else []
        else:
            runs = [text[i:i + self.n] for i in range(len(text) - self.n + 1)]
        return np.array([_hash(run) for run in runs], np.uint64)


def items(name: str, rows: Iterable[Sequence[str]]) -> Iterator[Item]:
    """The items of an evaluation from the texts of each."""
    return (Item(name, tuple(texts)) for texts in rows)


def texts_in(about: Any) -> Iterator[str]:
    """Every text somewhere inside a suite's item, system messages apart."""
    if isinstance(about, str):
        yield about
    elif isinstance(about, Message):
        yield from [about.content] if about.role != "system" else []
    elif isinstance(about, Mapping):
        yield from (text for value in about.values() for text in texts_in(value))
    elif is_dataclass(about):
        yield from (text for f in fields(about) for text in texts_in(getattr(about, f.name)))
    elif isinstance(about, list | tuple):
        yield from (text for value in about for text in texts_in(value))


def _hash(run: Sequence[str]) -> int:
    return int.from_bytes(blake2b(" ".join(run).encode(errors="surrogatepass"), digest_size=8).digest())
