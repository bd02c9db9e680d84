"""Does training data hold what a model will be tested on? n-grams of evaluations, looked up in training rows.

An evaluation item leaks through a row that holds most of its n-grams of words: with n = 8 and a share of 0.7 the rule
by which PaLM's evaluations were sorted (2204.02311, section 8), applied to one row at a time, so that the row can go.
Items shorter than n words leak through a turn of the very same words. Memory holds the evaluations' n-grams; training
rows pass by. Left out: paraphrases and translations of an item, which no n-gram finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.rows import words
from tunesmith.records import Message
from tunesmith.statistics import Interval, wilson

N = 8
SHARE = 0.7
SHORTEST = 3
"""Words of an item that is looked for: a shorter one ("Thank you") stands in every data set by chance."""


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


class Evaluations:
    """The n-grams of evaluation items, and which item each belongs to.

    Args:
        n: words of a run that is looked for.
        share: of an item's runs that a row must hold.
    """

    def __init__(self, items: Iterable[Item], n: int = N, share: float = SHARE):
        self.n, self.share, self.found = n, share, Leakage()
        self.names: list[str] = []
        self.sizes: list[int] = []
        grams: list[NDArray[np.uint64]] = []
        for item in items:
            runs = self._runs_of(item)
            if not runs.size:
                self.found.too_short[item.evaluation] += 1
                continue
            self.found.looked_for[item.evaluation] += 1
            grams.append(runs)
            self.names.append(item.evaluation)
            self.sizes.append(runs.size)
        owners = np.repeat(np.arange(len(grams)), self.sizes) if grams else np.empty(0, np.int64)
        flat = np.concatenate(grams) if grams else np.empty(0, np.uint64)
        order = np.argsort(flat, kind="stable")
        self.grams, self.owners = flat[order], owners[order]

    def leaks(self, texts: Sequence[str]) -> list[int]:
        """Which items (by their number) a training row of these texts holds; counted in `found`."""
        self.found.rows += 1
        runs = np.unique(np.concatenate([*map(self._runs, texts), np.empty(0, np.uint64)]))
        first, end = np.searchsorted(self.grams, runs), np.searchsorted(self.grams, runs, side="right")
        hits = Counter(owner for a, b in zip(first, end) if a < b for owner in self.owners[a:b].tolist())
        found = [item for item, count in hits.items() if count >= self.share * self.sizes[item]]
        for item in found:
            self.found.items.setdefault(self.names[item], set()).add(item)
        self.found.leaky += bool(found)
        return found

    def _runs_of(self, item: Item) -> NDArray[np.uint64]:
        """An item's n-grams; where all of its texts are short, the longest of them as a whole."""
        long = [text for text in item.texts if len(words(text)) >= self.n]
        if not long:
            long = sorted(item.texts, key=lambda text: len(words(text)))[-1:]
        if not long or len(words(long[0])) < SHORTEST:
            return np.empty(0, np.uint64)
        return np.unique(np.concatenate([self._runs(text) for text in long]))

    def _runs(self, text: str) -> NDArray[np.uint64]:
        """n-grams as hashes; of a shorter text the whole, marked so that no longer text holds it."""
        found = words(text)
        if len(found) < self.n:
            runs = [["whole:", *found]] if found else []
        else:
            runs = [found[i:i + self.n] for i in range(len(found) - self.n + 1)]
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
