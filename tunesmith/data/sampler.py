"""Which row of which source is drawn when: a pure function of the seed and the position, in constant memory.

A schedule of one period lays every source's turns at even distances and reads them in the order of time, so that the
source of any position, and how often it was drawn before, are found by one look. How often it was drawn says which
pass over the source this is and how far it has come; a permutation that belongs to the pass says which row. It is a
Feistel network, computed for one row as for all, so nothing is shuffled in memory. What is drawn next after a million
steps is found as quickly as the first, on one rank as on another.

Legend: `S` sources, `N` positions asked for, `P` positions of a period.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Places = NDArray[np.int32]
Words = NDArray[np.uint64]

PERIOD = 65_536
"""Positions after which the order of the sources repeats. A rate is kept to one part in this many."""

ROUNDS = 8
"""Of the Feistel network; four make a pseudo-random permutation of good round functions (Luby and Rackoff 1988)."""

GOLDEN = 0.6180339887498949
"""Multiples of it, whole parts dropped, lie apart from each other however many there are."""


class Sampler:
    """An endless sequence of draws from sources of `sizes` rows in proportion to `rates`.

    >>> source, row = Sampler([3, 1], [100, 10], keys=[1, 2]).at(np.arange(8))
    >>> source.tolist()
    [0, 0, 0, 1, 0, 0, 0, 1]

    Every source gives all its rows before it gives one again.
    """

    def __init__(self, rates: ArrayLike, sizes: ArrayLike, keys: Sequence[int], period: int = PERIOD):
        """`keys` (64 bits each) choose the sources' orders: derive them from the seed and the source's name, and a
        source that joins leaves the others' orders alone."""
        self.sizes_S = np.asarray(sizes, np.int64)
        self.keys_S = np.array(keys, np.uint64)
        if not np.size(rates) == len(self.keys_S) == len(self.sizes_S) > 0 or (self.sizes_S < 1).any():
            raise ValueError("every source needs a rate, a key and at least one row")
        self.quota_S = apportion(rates, max(period, 16 * len(self.sizes_S)))
        self.source_P, self.turn_P = schedule(self.quota_S)

    def at(self, position_N: ArrayLike) -> tuple[Ints, Ints]:
        """The source [N] and the row of it [N] at any positions from 0."""
        lap_N, place_N = np.divmod(np.asarray(position_N, np.int64), len(self.source_P))
        source_N = self.source_P[place_N].astype(np.int64)
        drawn_N = lap_N * self.quota_S[source_N] + self.turn_P[place_N]
        pass_N, index_N = np.divmod(drawn_N, self.sizes_S[source_N])
        key_N = scrambled(self.keys_S[source_N] + scrambled(pass_N.astype(np.uint64)))
        return source_N, permuted(index_N, self.sizes_S[source_N], key_N)

    def counts(self, end: int) -> Ints:
        """How often each source is drawn before position `end`, [S]."""
        laps, rest = divmod(end, len(self.source_P))
        return laps * self.quota_S + np.bincount(self.source_P[:rest], minlength=len(self.quota_S))


def positions(step: int, batch: int, rank: int = 0, world: int = 1) -> Ints:
    """The positions of one step that one of `world` ranks takes; together they take each of the step's once."""
    return np.arange(step * batch + rank, (step + 1) * batch, world)


def apportion(rates: ArrayLike, total: int) -> Ints:
    """Whole numbers in proportion to the rates, at least 1 each, that add up to `total` (largest remainders), [S]."""
    rates_S = np.asarray(rates, np.float64)
    if not (np.isfinite(rates_S).all() and (rates_S > 0).all()):
        raise ValueError("rates must be positive numbers")
    ideal_S = rates_S / rates_S.sum() * (total - len(rates_S))
    quota_S = np.floor(ideal_S).astype(np.int64)
    most = np.argsort(quota_S - ideal_S, kind="stable")[:total - len(rates_S) - int(quota_S.sum())]
    quota_S[most] += 1
    return quota_S + 1


def schedule(quota_S: Ints) -> tuple[Places, Places]:
    """The order of one period: at each place the source and which of its turns this is, both [P].

    Turn k of q happens at the time (k + phase) / q of the period, so a source comes at even distances; the phases lie
    apart, so rare sources do not all come at once.
    """
    source_P = np.repeat(np.arange(len(quota_S), dtype=np.int32), quota_S)
    turn_P = np.concatenate([np.arange(q, dtype=np.int32) for q in quota_S])
    phase_S = (np.arange(1, len(quota_S) + 1) * GOLDEN) % 1
    order_P = np.argsort((turn_P + phase_S[source_P]) / quota_S[source_P], kind="stable")
    return source_P[order_P], turn_P[order_P]


def permuted(index_N: ArrayLike, size_N: ArrayLike, key_N: ArrayLike) -> Ints:
    """Where index i of 0 .. size - 1 goes under the permutation that `key` names; elementwise, [N].

    A Feistel network over the bits that the size takes; what leaves the range goes through again until it is back
    (cycle walking, Black and Rogaway 2002), less than once on average.
    """
    out_N = np.array(index_N, np.uint64)
    size_N, key_N = np.asarray(size_N, np.uint64), np.asarray(key_N, np.uint64)
    bits_N = np.frexp((size_N - np.uint64(1)).astype(np.float64))[1].astype(np.uint64)
    todo = np.arange(len(out_N))
    while len(todo):
        out_N[todo] = _feistel(out_N[todo], bits_N[todo], key_N[todo])
        todo = todo[out_N[todo] >= size_N[todo]]
    return out_N.astype(np.int64)


def _feistel(x_N: Words, bits_N: Words, key_N: Words) -> Words:
    """One pass through the network; the halves differ by one bit where the number of bits is odd."""
    one = np.uint64(1)
    left_bits, right_bits = bits_N >> one, bits_N - (bits_N >> one)
    left, right = x_N >> right_bits, x_N & ((one << right_bits) - one)
    for turn in range(ROUNDS):
        mask = (one << left_bits) - one
        round_key = scrambled(key_N + np.uint64(turn << 32))  # related keys would show in small ranges
        left, right = right, left ^ (scrambled(right + round_key) & mask)
        left_bits, right_bits = right_bits, left_bits
    return left << right_bits | right


def scrambled(x_N: Words) -> Words:
    """Every bit of the result depends on every bit of a 64-bit word (the finaliser of SplitMix64, Steele 2014)."""
    x_N = x_N + np.uint64(0x9E3779B97F4A7C15)
    x_N = (x_N ^ (x_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x_N = (x_N ^ (x_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x_N ^ (x_N >> np.uint64(31))
