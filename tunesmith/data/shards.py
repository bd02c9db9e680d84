"""Demonstrations as tokens, cut once and read from memory-mapped files.

    tokens.bin   the tokens of all conversations, one behind the other, two bytes each where the vocabulary allows
    index.bin    an entry for each conversation, those of one source together
    runs.bin     which tokens are learned: (how many, their weight), from the first learned one on

Writing holds one block of rows, whatever their number; the entries are brought into the order of their sources part by
part on the disk. Reading lets the pages go again: a run that has seen a million rows is no larger for it.
"""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import UserError
from tunesmith.records import Demonstration
from tunesmith.store.publish import verify

Tokens = Sequence[int]
Weights = Sequence[float]
Encode = Callable[[Sequence[Demonstration]], Iterable[tuple[Tokens, Weights] | str]]
"""Demonstrations to their tokens and each token's weight in the loss; or why one is left out."""

BLOCK = 512
"""Demonstrations cut at a time: enough for the tokenizer to work on many at once."""

PART = 65_536
"""Entries brought into order at a time."""

FIELDS = {"start": "<u8", "runs": "<u8", "length": "<u4", "first": "<u4", "count": "<u4"}
ENTRY, RAW = np.dtype(list(FIELDS.items())), np.dtype([("source", "<u4"), *FIELDS.items()])
"""Of one conversation: where its tokens begin and how many there are, which is the first that is learned (at least 1,
for something must come before it), and where its runs are and how many."""
RUN = np.dtype([("tokens", "<u4"), ("weight", "<f4")])
"""The files are little-endian on every machine."""


def write(folder: Path, rows: Iterable[Demonstration], sources: Sequence[str], encode: Encode,
          vocabulary: int) -> dict[str, Any]:
    """Fill an empty folder; what the manifest shall say of it: the tokens' type, rows of each source, what was left
    out. `sources` are the names that the rows' `source` may have.

    Raises:
        UserError: no row is left.
    """
    kind = "<u2" if vocabulary <= 1 << 16 else "<u4"
    numbers = {name: i for i, name in enumerate(sources)}
    counts_S, skipped = np.zeros(len(sources), np.int64), Counter[str]()
    start = runs = 0
    with (open(folder / "tokens.bin", "wb") as tokens_file, open(folder / "runs.bin", "wb") as runs_file,
          open(folder / "raw.bin", "wb") as raw_file):
        for source, encoded in _encoded(rows, encode):
            if isinstance(encoded, str):
                skipped[encoded] += 1
                continue
            tokens, weights = encoded
            first = max(1, next(i for i, w in enumerate(weights) if w))
            spans = [(sum(1 for _ in same), weight) for weight, same in groupby(weights[first:])]
            tokens_file.write(np.array(tokens, kind).tobytes())
            runs_file.write(np.array(spans, RUN).tobytes())
            raw_file.write(np.array((numbers[source], start, runs, len(tokens), first, len(spans)), RAW).tobytes())
            counts_S[numbers[source]] += 1
            start, runs = start + len(tokens), runs + len(spans)
    if not start:
        raise UserError(f"no demonstration is left to learn from: {dict(skipped)}")
    _order(folder / "raw.bin", folder / "index.bin", counts_S)
    (folder / "raw.bin").unlink()
    return {"tokens": kind, "counts": counts_S.tolist(), "skipped": dict(skipped), "sources": list(sources)}


class Shards:
    """A folder that `write` filled."""

    def __init__(self, folder: Path, about: dict[str, Any]):
        self._maps = [_mapped(folder / name) for name in ("tokens.bin", "index.bin", "runs.bin")]
        self.tokens_T: NDArray[Any] = np.frombuffer(self._maps[0], about["tokens"])
        self.index_N: NDArray[Any] = np.frombuffer(self._maps[1], ENTRY)
        self.runs_R: NDArray[Any] = np.frombuffer(self._maps[2], RUN)
        self.sources: list[str] = about["sources"]
        self.skipped: dict[str, int] = about["skipped"]
        self.counts_S: NDArray[np.int64] = np.array(about["counts"])
        self.starts_S: NDArray[np.int64] = np.cumsum(self.counts_S) - self.counts_S

    @classmethod
    def open(cls, folder: Path) -> Self:
        """
        Raises:
            Damaged: a file is not what it was.
        """
        return cls(folder, verify(folder)["about"])

    def __len__(self) -> int:
        return len(self.index_N)

    def row(self, source: int, row: int) -> tuple[list[int], list[int], list[float]]:
        """Row number `row` of a source: the prompt's tokens, the rest, and the weights of the rest."""
        entry = self.index_N[self.starts_S[source] + row]
        start, first, runs = int(entry["start"]), int(entry["first"]), int(entry["runs"])
        tokens = self.tokens_T[start:start + int(entry["length"])].tolist()
        spans = self.runs_R[runs:runs + int(entry["count"])]
        return tokens[:first], tokens[first:], np.repeat(spans["weight"], spans["tokens"]).tolist()

    def rest(self) -> None:
        """Let go of the pages that were read; the system keeps them as long as it has nothing better to do with the
        memory."""
        for part in self._maps:
            part.madvise(mmap.MADV_DONTNEED)


def _mapped(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _encoded(rows: Iterable[Demonstration], encode: Encode) -> Iterator[tuple[str, tuple[Tokens, Weights] | str]]:
    rest = iter(rows)
    while block := list(islice(rest, BLOCK)):
        yield from zip((row.source for row in block), encode(block))


def _order(raw: Path, index: Path, counts_S: NDArray[np.int64]) -> None:
    """Entries in the order of the rows -> in the order of their sources, and of the rows within one."""
    place_S = np.cumsum(counts_S) - counts_S
    with open(raw, "rb") as unordered, open(index, "wb") as out:
        out.truncate(int(counts_S.sum()) * ENTRY.itemsize)
        while len(part := np.fromfile(unordered, RAW, PART)):
            part = part[np.argsort(part["source"], kind="stable")]
            source_C, begin_C, count_C = np.unique(part["source"], return_index=True, return_counts=True)
            for source, begin, count in zip(source_C, begin_C, count_C):
                entries = np.empty(count, ENTRY)
                for name in FIELDS:
                    entries[name] = part[name][begin:begin + count]
                os.pwrite(out.fileno(), entries.tobytes(), int(place_S[source]) * ENTRY.itemsize)
                place_S[source] += count
