"""Prompts that were read before: what begins alike under the same adapter is not computed again.

A prompt is known by the hashes of its first 1, 2, 3, ... blocks, each covering those before it. What is found is looked
at token by token, so two prompts with one hash are never mixed up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from tunesmith.model.cache import Prefix

BLOCK = 32
"""Tokens. A beginning that is known saves at least two of them, and half of its prompt."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One prompt and what it left behind."""

    model: str
    tokens: tuple[int, ...]
    prefix: Prefix

    @property
    def bytes(self) -> int:
        return self.prefix.keys.nbytes + self.prefix.values.nbytes


class Known:
    """The prompts read last, as far as their keys and values fit into `limit` bytes."""

    def __init__(self, limit: int = 2**28):
        self.limit = limit
        self.saved = 0
        """Tokens that were not computed again."""
        self._entries: OrderedDict[tuple[str, tuple[int, ...]], Entry] = OrderedDict()  # least recently used first
        self._index: dict[tuple[str, int], Entry] = {}
        self._size = 0

    def find(self, model: str, tokens: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """Keys and values [layers, KV heads, n, D/H] of the first n tokens; None if too few are known."""
        for n, key in reversed(list(_hashes(model, tokens))):
            entry = self._index.get(key)
            if n < max(2 * BLOCK, len(tokens) / 2):
                return None
            if entry and n < len(tokens) and entry.tokens[:n] == tuple(tokens[:n]):
                self._entries.move_to_end((model, entry.tokens))
                self.saved += n
                return entry.prefix.keys[:, :, :n], entry.prefix.values[:, :, :n]
        return None

    def keep(self, model: str, tokens: Sequence[int], prefix: Prefix) -> None:
        """Remember a prompt that was read."""
        entry = Entry(model, tuple(tokens), prefix.clone())
        if len(tokens) < 2 * BLOCK or (model, entry.tokens) in self._entries or entry.bytes > self.limit / 4:
            return
        self._entries[model, entry.tokens] = entry
        self._size += entry.bytes
        for _, key in _hashes(model, tokens):
            self._index.setdefault(key, entry)
        while self._size > self.limit:
            self._drop(next(iter(self._entries.values())))

    def forget(self, model: str) -> None:
        """The adapter has changed or is gone."""
        for entry in [e for e in self._entries.values() if e.model == model]:
            self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.model, entry.tokens]
        self._size -= entry.bytes
        for _, key in _hashes(entry.model, entry.tokens):
            if self._index.get(key) is entry:
                del self._index[key]


def _hashes(model: str, tokens: Sequence[int]) -> Iterator[tuple[int, tuple[str, int]]]:
    """(tokens covered, key) of each block."""
    before = 0
    for n in range(BLOCK, len(tokens) + 1, BLOCK):
        before = hash((before, *tokens[n - BLOCK:n]))
        yield n, (model, before)
