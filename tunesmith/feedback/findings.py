"""What the tests of `detect` share: what a test says, and what counts as usual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tunesmith.records import AnswerGroup, Tiers

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEWEST = 4
"""Judgements that a test needs on either side before it says anything."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one test says about one labeler, before the correction for how many were tested."""

    labeler: str
    statistic: float
    p: float
    detail: str


def whole(group: AnswerGroup) -> Tiers:
    """The tiers with what was left unranked as the last one: training has it lose to the others too."""
    named = {i for tier in group.tiers for i in tier}
    rest = tuple(i for i in range(len(group.answers)) if i not in named)
    return (*group.tiers, rest) if rest and group.tiers else group.tiers


def scale(values: ArrayLike) -> float:
    """Standard deviation of the bulk: the median absolute deviation, scaled for a normal distribution."""
    x = np.asarray(values, dtype=float)
    return float(1.4826 * np.median(np.abs(x - np.median(x))))


def outlying(z_W: Floats) -> Floats:
    """z-values recentred and widened to what most labelers show (Efron 2004); never narrowed."""
    known = z_W[~np.isnan(z_W)]
    return (z_W - np.median(known)) / max(1.0, scale(known)) if known.size else z_W
