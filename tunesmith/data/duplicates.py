"""Which rows say the same, word for word or nearly: MinHash-LSH with its index on disk.

Texts pass by once. What is kept of each lies in files: a hash of the whole text, its set of 5-word shingles, and the
keys of its bands (Broder 1997; Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, ch. 3). Rows that share a
band's key are candidates; of these the true Jaccard similarity is computed, so that chance never removes a row. Then,
in the order of the rows, each one with an earlier twin that stays is left out: every row that goes has a twin that
stays, which the usual connected components do not promise.

The files are read in parts, so memory holds one part and four bytes per row, whatever the number of rows. Signatures
are datasketch's, number for number. Left out: duplicates in meaning (paraphrases), which need embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.rows import words

Hashes = NDArray[np.uint32]
Keys = NDArray[np.uint64]

SHINGLE = 5
"""Words that are looked at together, as in FineWeb (2406.17557)."""
PERMUTATIONS = 128
RECALL = 0.99
"""Of pairs that are exactly as similar as the threshold; of more similar ones more are found."""
FIRST = 8
"""Rows of a bucket that every later one is held against: a million rows from one template stay a linear amount of
work."""
PARTS = 128
BLOCK, TOGETHER = 2048, 128
"""Rows that go to the files together, and rows whose hashes fit into the processor's cache."""
EMPTY = np.uint32(2**32 - 1)
_KEYED = np.dtype([("key", "<u8"), ("row", "<u4")])


@dataclass(frozen=True, slots=True)
class Duplicates:
    """`twin` [N]: of each row that goes, the row that stays and says the same; -1 of those that stay."""

    twin: NDArray[np.int32]
    exact: int
    near: int

    @property
    def kept(self) -> NDArray[np.bool_]:
        return self.twin < 0


def find(texts: Iterable[str], folder: Path, threshold: float = 0.8, *, known: int = 0,
         progress: Callable[[int], None] | None = None) -> Duplicates:
    """The duplicates among texts.

    Args:
        folder: an empty folder for the index, about 700 bytes per text of 100 words.
        threshold: Jaccard similarity of the sets of shingles from which two texts say the same; 1: equal words alone.
        known: so many of the first texts all stay, whatever they say; the others are held against each of them.
        progress: called with the number of texts read since the last call.
    """
    index = _Index(folder, threshold)
    rest, count = iter(texts), 0
    while block := list(islice(rest, BLOCK)):
        index.add(block, count)
        count += len(block)
        if progress:
            progress(len(block))
    twin = index.equal(count)
    exact = int((twin[known:] >= 0).sum())
    index.similar(twin, known)
    twin[:known] = -1
    of_twin = twin[twin]  # whom a text repeats may itself be nearly another one
    twin = np.where((twin >= 0) & (of_twin >= 0), of_twin, twin)
    return Duplicates(twin, exact, int((twin >= 0).sum()) - exact)


def shingles(text: str) -> Hashes:
    """The set of runs of five words as sorted 32-bit hashes; of fewer words one run; of none, nothing."""
    codes = np.array([crc32(w.encode()) for w in words(text)], np.uint64)
    if not codes.size:
        return np.empty(0, np.uint32)
    runs = max(1, codes.size - SHINGLE + 1)
    found = np.zeros(runs, np.uint64)
    for k in range(min(SHINGLE, codes.size)):
        found = found * np.uint64(0x100000001B3) + codes[k:k + runs]
    return np.unique(_mixed(found) >> np.uint64(32)).astype(np.uint32)


def jaccard(a: Hashes, b: Hashes) -> float:
    """Shared over all; of two sets in order. 0 for two empty ones: nothing said is nothing alike."""
    shared = np.intersect1d(a, b, assume_unique=True).size
    return shared / (a.size + b.size - shared) if shared else 0.0


class MinHash:
    """Signatures whose entries are equal with the probability of the Jaccard similarity.

    h(x) = a · mix(x) + b modulo 2^32, with odd a: datasketch's scheme "affine32" and its constants for the same seed.
    """

    def __init__(self, permutations: int = PERMUTATIONS, seed: int = 1):
        draw = np.random.RandomState(seed)  # its stream never changes, unlike a Generator's
        self.a = draw.randint(0, 2**31, permutations, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        self.b = draw.randint(0, 2**32, permutations, dtype=np.uint32)

    def signatures(self, sets: list[Hashes]) -> Hashes:
        """[B, P] of B sets; those of an empty set are all 2^32 - 1."""
        out = np.full((len(sets), len(self.a)), EMPTY)
        full = [n for n, found in enumerate(sets) if found.size]
        for some in (full[n:n + TOGETHER] for n in range(0, len(full), TOGETHER)):
            starts = np.cumsum([0, *(sets[n].size for n in some[:-1])])
            hashes = _murmured(np.concatenate([sets[n] for n in some]))
            for p, (a, b) in enumerate(zip(self.a, self.b)):
                out[some, p] = np.minimum.reduceat(a * hashes + b, starts)
        return out


def bands(threshold: float, permutations: int = PERMUTATIONS) -> tuple[int, int]:
    """(bands, rows of each): the longest bands, which give the fewest candidates, whose 1 - (1 - s^r)^b at the
    threshold s is `RECALL` or more."""
    for rows in range(permutations, 1, -1):
        count = permutations // rows
        if 1 - (1 - threshold**rows) ** count >= RECALL:
            return count, rows
    return permutations, 1


def band_keys(signatures: Hashes, count: int, rows: int) -> Keys:
    """[B, bands]: equal where all of a band's entries are."""
    folded: Keys = np.zeros((len(signatures), count), np.uint64)
    numbers: Keys = np.arange(count, dtype=np.uint64)
    for r in range(rows):
        folded = _mixed(folded ^ signatures[:, r:count * rows:rows].astype(np.uint64))
    return _mixed(folded + numbers)


class _Spill:
    """Records in files by their part, so that what belongs together is read together."""

    def __init__(self, folder: Path, dtype: Any):
        folder.mkdir(parents=True)
        self.paths = [folder / f"{n:03}" for n in range(PARTS)]
        self.dtype = np.dtype(dtype)

    def add(self, part: NDArray[Any], records: NDArray[Any]) -> None:
        """`part` [n] says where each of `records` [n] goes."""
        order = np.argsort(part, kind="stable")
        ends = np.searchsorted(part[order], np.arange(PARTS + 1))
        for n in np.flatnonzero(np.diff(ends)):
            with open(self.paths[n], "ab") as f:
                records[order[ends[n]:ends[n + 1]]].tofile(f)

    def parts(self) -> Iterator[NDArray[Any]]:
        """One part after the other, in the order that it was written."""
        for path in self.paths:
            if path.exists():
                yield np.fromfile(path, self.dtype)


class _Index:
    """The files of one search."""

    def __init__(self, folder: Path, threshold: float):
        self.folder, self.threshold = folder, threshold
        self.minhash = MinHash()
        self.shape = bands(threshold)
        self.whole = _Spill(folder / "whole", _KEYED)
        self.banded = _Spill(folder / "banded", _KEYED)
        self.ends = np.zeros(1, np.int64)

    def add(self, block: list[str], first: int) -> None:
        """Hash rows that begin at number `first`."""
        rows = np.arange(first, first + len(block), dtype=np.uint32)
        self._spill(self.whole, np.array([_fingerprint(text) for text in block], np.uint64), rows)
        if self.threshold >= 1:
            return
        sets = [shingles(text) for text in block]
        with ExitStack() as files:
            flat, ends = (files.enter_context(open(self.folder / name, "ab")) for name in ("shingles", "ends"))
            np.concatenate(sets).tofile(flat)
            self.ends = self.ends[-1] + np.cumsum([s.size for s in sets])
            self.ends.tofile(ends)
        keys = band_keys(self.minhash.signatures(sets), *self.shape)
        full = np.array([s.size > 0 for s in sets])
        self._spill(self.banded, keys[full].reshape(-1), np.repeat(rows[full], self.shape[0]))

    def equal(self, count: int) -> NDArray[np.int32]:
        """[N]: for rows that repeat an earlier one word for word the first that says it, else -1."""
        twin = np.full(count, -1, np.int32)
        for part in self.whole.parts():
            order = np.lexsort((part["row"], part["key"]))
            key, row = part["key"][order], part["row"][order]
            start = _starts(key)
            again = start < np.arange(key.size)
            twin[row[again]] = row[start[again]]
        return twin

    def similar(self, twin: NDArray[np.int32], known: int) -> None:
        """Enter for each row from number `known` on the first one that stays and is as similar as the threshold, if
        there is one. Of known rows with equal words the first stands for all: the sets are the same.

        Candidates, as later << 32 | earlier, are taken in the order of the later ones, so it is known which of the
        earlier ones stay, and most need no look.
        """
        if not (self.folder / "shingles").exists():
            return
        pairs = _Spill(self.folder / "pairs", np.uint64)
        for part in self.banded.parts():
            for found in _candidates(part[twin[part["row"]] < 0]):
                found = found[found >> np.uint64(32) >= known]
                pairs.add((found >> np.uint64(32)) * np.uint64(PARTS) // np.uint64(twin.size), found)
        sets = _Sets(self.folder)
        for part in pairs.parts():
            for pair in np.unique(part):
                later, earlier = int(pair) >> 32, int(pair) & 0xFFFFFFFF
                if twin[later] < 0 and twin[earlier] < 0 and sets.alike(later, earlier, self.threshold):
                    twin[later] = earlier

    def _spill(self, to: _Spill, keys: Keys, rows: NDArray[np.uint32]) -> None:
        records = np.empty(keys.size, _KEYED)
        records["key"], records["row"] = keys, rows
        to.add(keys % np.uint64(PARTS), records)


class _Sets:
    """The sets of shingles of all rows, on disk."""

    def __init__(self, folder: Path):
        self.flat, self.ends = _mapped(folder / "shingles", np.uint32), _mapped(folder / "ends", np.int64)

    def alike(self, a: int, b: int, threshold: float) -> bool:
        """Whether two rows are as similar as the threshold."""
        (a0, a1), (b0, b1) = ((self.ends[n - 1] if n else 0, self.ends[n]) for n in (a, b))
        if min(a1 - a0, b1 - b0) < threshold * max(a1 - a0, b1 - b0):
            return False  # their sizes alone keep them apart
        return jaccard(self.flat[a0:a1], self.flat[b0:b1]) >= threshold


def _candidates(part: NDArray[Any]) -> Iterator[Keys]:
    """Each row of a bucket with the first ones of it."""
    order = np.lexsort((part["row"], part["key"]))
    key, row = part["key"][order], part["row"][order].astype(np.uint64)
    start, place = _starts(key), np.arange(key.size)
    for n in range(FIRST):
        later = np.flatnonzero(place - start > n)
        if not later.size:
            return
        yield row[later] << np.uint64(32) | row[start[later] + n]


def _starts(key: Keys) -> NDArray[np.int64]:
    """Where the run of equal keys begins that each place of a sorted array is in."""
    new = np.ones(key.size, np.bool_)
    new[1:] = key[1:] != key[:-1]
    return np.maximum.accumulate(np.where(new, np.arange(key.size), 0))


def _fingerprint(text: str) -> int:
    """64 bits of the text with its white space evened out; two of ten million texts share them by chance once in
    400,000 data sets."""
    said = " ".join(text.split()).casefold()
    return int.from_bytes(blake2b(said.encode(errors="surrogatepass"), digest_size=8).digest())


def _murmured(x: Hashes) -> Hashes:
    """The finaliser of MurmurHash3: spreads what is close together."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def _mixed(x: Keys) -> Keys:
    """The finaliser of splitmix64 (Steele et al. 2014): every bit of the result depends on every bit of `x`."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)
