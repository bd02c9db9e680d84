"""What a step of training draws from: conversations in memory, or a mixture on the disk.

Both answer the same question, which conversations stand at positions `start` .. `start + count` of an endless
sequence, without having given the ones before; so a resumed run goes on with exactly the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

from tunesmith.contracts import Progress
from tunesmith.data import shards
from tunesmith.data.mixture import Mixture, told
from tunesmith.data.sampler import Sampler
from tunesmith.data.shards import Shards
from tunesmith.errors import DataError
from tunesmith.model.base import Base
from tunesmith.model.batch import Tree
from tunesmith.records import Demonstration, fingerprint
from tunesmith.store.publish import Damaged, Taken, publish, remove
from tunesmith.store.workspace import Dataset, Workspace
from tunesmith.train.learner import indices

Item = TypeVar("Item")

AHEAD = 1024
"""Positions that are looked up together: many cost numpy hardly more than a few."""

FOLDER = "tokens"
"""Of the workspace: what is in it can be made again, and may be deleted at any time."""


class Material(Protocol[Item]):
    """Conversations in the order of training. Its length is one pass."""

    def __len__(self) -> int: ...

    def take(self, start: int, count: int) -> list[Item]:
        """Those at positions start .. start + count."""
        ...


class Shuffled(Generic[Item]):
    """Items in memory, shuffled anew for every pass."""

    def __init__(self, items: Sequence[Item], seed: int):
        self.items, self.seed = items, seed

    def __len__(self) -> int:
        return len(self.items)

    def take(self, start: int, count: int) -> list[Item]:
        return [self.items[i] for i in indices(len(self.items), self.seed, start, count)]


class Mixed:
    """A mixture's conversations, drawn at its rates. Sources of which no row fits the base are left out."""

    def __init__(self, mixture: Mixture, tokens: Shards, seed: int):
        known = {name: i for i, name in enumerate(tokens.sources)}
        there = [s for s in mixture.sources if tokens.counts_S[known[s.name]]]
        self.mixture, self.tokens = mixture, tokens
        self.sources = [known[s.name] for s in there]
        self.names = [s.name for s in there]
        self.sampler = Sampler([s.rate for s in there], tokens.counts_S[self.sources],
                               [int(fingerprint([seed, s.name]), 16) for s in there])
        self._block = lru_cache(maxsize=2)(self._places)

    def __len__(self) -> int:
        return self.mixture.size

    def take(self, start: int, count: int) -> list[Tree]:
        made = []
        for position in range(start, start + count):
            prompt, answer, weights = self.tokens.row(*self._block(position // AHEAD)[position % AHEAD])
            made.append(Tree(tuple(prompt), (tuple(answer),), (tuple(weights),)))
        self.tokens.rest()
        return made

    def _places(self, block: int) -> list[tuple[int, int]]:
        """The source, as the tokens number it, and the row at each position of a block."""
        source_N, row_N = self.sampler.at(range(block * AHEAD, (block + 1) * AHEAD))
        return [(self.sources[source], row) for source, row in zip(source_N.tolist(), row_N.tolist())]

    def drawn(self, end: int) -> dict[str, int]:
        """How often each source was drawn before position `end`."""
        return dict(zip(self.names, self.sampler.counts(end).tolist()))


def cut(workspace: Workspace, base: Base, data: Dataset, mixture: Mixture, longest: int,
        progress: Progress | None = None) -> Shards:
    """The tokens of a mixture for this base, made once and kept; conversations over `longest` tokens are left out.

    Raises:
        UserError: none is left.
        DataError: a conversation of which nothing is learned.
        ModelError: the base's template rewrites earlier turns.
        StorageError: no space.
    """
    key = fingerprint([data.fingerprint, base.chat.fingerprint, longest])
    folder = workspace.root / FOLDER / key
    if folder.exists():
        try:
            return Shards.open(folder)
        except Damaged:
            remove(folder)
    vocabulary = base.model.get_input_embeddings().num_embeddings
    sources = [s.name for s in mixture.sources]
    rows = told(data.rows(), data.count, progress) if progress else data.rows()
    about = {"data": data.name, "base": base.spec, "longest": longest}
    with suppress(Taken):  # another process was faster, and made the same
        publish(folder.parent, iter([key]), lambda aside: shards.write(
            aside, rows, sources, encoder(base, longest), vocabulary), about, "tokens")
    return Shards.open(folder)


def encoder(base: Base, longest: int) -> shards.Encode:
    """Demonstrations to tokens, with those too long left out."""
    def encode(rows: Sequence[Demonstration]) -> Iterable[tuple[Sequence[int], Sequence[float]] | str]:
        try:
            rendered = base.chat.render_all([row.messages for row in rows])
        except DataError as e:
            raise DataError(f"a demonstration of {rows[0].source} or one soon behind it: {e}") from e
        return [(r.tokens, r.weight) if len(r.tokens) <= longest else "too long" for r in rendered]

    return encode
