"""More data or better data? A power law through the losses of models that learned from ever more examples.

L(n) = floor + scale · n^-exponent (Hestness et al., 1712.00409; for fine-tuning Zhang et al., 2402.17193, eq. 1 with
the model held fixed). The exponent says how fast more of the same helps, the floor what no amount of it reaches: the
model's own limit, and that of the data's quality. Five sizes do not pin both down, so what is decided upon is what can
be known: how much the next doubling would bring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tunesmith.errors import DataError
from tunesmith.statistics import Floats, Interval

EXPONENTS = np.geomspace(0.02, 3.0, 150)
"""Among which the best is sought: a line search has local minima, a grid has none."""
WORTH = 0.02
"""A doubling that lowers the loss by less than this share is not worth a team's weeks."""
FEWEST = 6
"""Runs below which nothing is advised: three parameters go through three losses whatever they are."""
RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Law:
    """A power law: floor, scale and exponent, each [R] or one number."""

    floor: Floats
    scale: Floats
    exponent: Floats

    def at(self, n: float) -> Floats:
        """The loss after n examples."""
        return self.floor + self.scale * n ** -self.exponent


@dataclass(frozen=True, slots=True)
class Growth:
    """The fitted law with intervals. `doubling`: the share of the loss at the largest size that twice as many examples
    would take off. `advice` is "more", "better" or "unclear"."""

    floor: Interval
    scale: Interval
    exponent: Interval
    doubling: Interval
    advice: str
    text: str
    line: tuple[tuple[float, float, float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        return {"floor": self.floor.to_dict(), "scale": self.scale.to_dict(), "exponent": self.exponent.to_dict(),
                "doubling": self.doubling.to_dict(), "advice": self.advice, "text": self.text,
                "line": [list(point) for point in self.line]}


def fit(sizes_N: ArrayLike, losses_RN: ArrayLike) -> Law:
    """The law of least squared relative error of each row of losses.

    For each exponent floor and scale are a linear least-squares problem with both >= 0, whose solution is written out.
    """
    n, y = np.asarray(sizes_N, float), np.atleast_2d(np.asarray(losses_RN, float))
    weight = 1 / y**2
    best = np.full(len(y), np.inf)
    law = np.zeros((3, len(y)))
    for exponent in EXPONENTS:
        x = n**-exponent
        sw, sx, sxx, sy, sxy = (np.sum(weight * v, 1) for v in (1, x, x * x, y, x * y))
        det = sw * sxx - sx * sx
        scale = np.where(det > 1e-300, (sw * sxy - sx * sy) / np.where(det > 1e-300, det, 1), 0)
        floor = (sy - scale * sx) / sw
        scale, floor = np.where(floor < 0, sxy / sxx, scale), np.maximum(floor, 0)
        scale, floor = np.maximum(scale, 0), np.where(scale < 0, sy / sw, floor)
        error = (weight * (floor[:, None] + scale[:, None] * x - y) ** 2).sum(1)
        better = error < best - 1e-15
        best = np.where(better, error, best)
        law = np.where(better, np.stack([floor, scale, np.full(len(y), exponent)]), law)
    return Law(*law)


def growth(losses: Mapping[int, Sequence[float]], seed: int = 0) -> Growth:
    """The law through the losses of each size, one for every training seed, and what it advises.

    Intervals are of a residual bootstrap on logarithms, widened for the parameters that were fitted. They know how
    training seeds differ and how well the law fits, not how another set of held-out examples would.

    Raises:
        DataError: fewer than three sizes, or a loss that is not above zero.
    """
    if len(losses) < 3:
        raise DataError(f"a learning curve needs at least 3 sizes, got {len(losses)}")
    pairs = sorted((n, y) for n, of in losses.items() for y in of)
    sizes, y = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], float)
    if not (np.isfinite(y).all() and (y > 0).all()):
        raise DataError("a learning curve needs losses above zero")
    law = fit(sizes, y)
    fitted = np.array([law.at(n)[0] for n in sizes])
    residuals = np.log(y) - np.log(fitted)
    residuals = (residuals - residuals.mean()) * np.sqrt(y.size / max(1, y.size - 3))
    draws = np.random.default_rng(seed).choice(residuals, (RESAMPLES, y.size))
    laws = fit(sizes, fitted * np.exp(draws))
    last = sizes[-1]

    def interval(values: Floats, value: float) -> Interval:
        low, high = np.quantile(values, [0.025, 0.975])
        return Interval(value, float(low), float(high), y.size)

    def gain(of: Law) -> Floats:
        return 1 - of.at(2 * last) / of.at(last)

    doubling = interval(gain(laws), float(gain(law)[0]))
    few = y.size < FEWEST
    advice = "unclear" if few else "more" if doubling.low >= WORTH else "better" if doubling.high < WORTH else "unclear"
    spread = np.geomspace(sizes[0], 4 * last, 40)
    drawn = [(float(n), interval(laws.at(n), float(law.at(n)[0]))) for n in spread]
    exponent = interval(laws.exponent, float(law.exponent[0]))
    return Growth(interval(laws.floor, float(law.floor[0])), interval(laws.scale, float(law.scale[0])), exponent,
                  doubling, advice, _said(int(last), doubling, advice),
                  tuple((n, i.value, i.low, i.high) for n, i in drawn))


def _said(last: int, doubling: Interval, advice: str) -> str:
    what = {"more": "more data of the same kind is worth it",
            "better": "more of the same hardly helps: better data, other data or a larger base would",
            "unclear": "the curve does not say yet whether more data is worth it; measure more sizes or seeds"}
    return f"From {last:,} to {2 * last:,} examples the loss would fall by {doubling}: {what[advice]}."
