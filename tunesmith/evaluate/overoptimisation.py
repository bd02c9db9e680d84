"""How much of a reward is real: gold against the distance that a policy has moved, and where more of it does harm.

Gao et al. (arXiv 2210.10760, section 3) measured that the gold reward over the start, with d the square root of the KL
divergence in nats, follows d (alpha - beta d) for best-of-n sampling and d (alpha - beta log d) for reinforcement
learning. Both are linear in alpha and beta, so a least-squares fit needs no search. `from_metrics` takes the points of
a training run that had a gold judge, `best_of_n` those of one pool of samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, isfinite, log, nan, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from tunesmith.errors import DataError
from tunesmith.evaluate import svg
from tunesmith.statistics import Floats, Interval, bootstrap_mean

Kind = Literal["rl", "bon"]
DRAWS = 4000
FAR = 50.0
"""alpha over beta from which on an RL curve has no peak that anybody will see."""
FEWEST = 4
"""Points from which on a curve of two parameters is fitted."""


@dataclass(frozen=True, slots=True)
class Point:
    """A policy (or a best-of-n): KL from the start in nats per answer, gold over the start's, what training saw."""

    kl: float
    gold: float
    proxy: float = nan
    step: int = 0
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class Curve:
    """A fit with 95% intervals; `distance` is d* in √nats, where gold is highest, and `peak` gold there. They are
    infinite where the points do not bend down: no peak is in sight."""

    kind: Kind
    alpha: Interval
    beta: Interval
    distance: Interval
    peak: Interval
    points: int

    def gold(self, d: float) -> float:
        """The fitted gold at distance d."""
        return float(_value(self.kind, self.alpha.value, self.beta.value, d))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "points": self.points, **{
            k: getattr(self, k).to_dict() for k in ("alpha", "beta", "distance", "peak")}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Curve:
        """Back from `to_dict`; an end that was not finite is infinite."""
        def interval(found: Mapping[str, Any]) -> Interval:
            value, low, high = (inf if found[end] is None else found[end] for end in ("value", "low", "high"))
            return Interval(value, low, high, found["n"])

        return cls(data["kind"], interval(data["alpha"]), interval(data["beta"]), interval(data["distance"]),
                   interval(data["peak"]), data["points"])


def fit(points: Sequence[Point], kind: Kind, *, seed: int = 0) -> Curve:
    """Least squares, weighted by the points' errors where all are known; intervals from draws of (alpha, beta).

    The draws are normal, with the covariance of the residuals. Points of one run lean on each other: intervals over
    several runs are wider.

    Raises:
        DataError: fewer than 4 points away from the start.
    """
    used = [p for p in points if p.kl > 0 and isfinite(p.gold)]
    if len(used) < FEWEST:
        raise DataError(f"{len(used)} points away from the start are too few for a curve of two parameters; it takes "
                        f"{FEWEST}")
    d = np.sqrt([p.kl for p in used])
    x_N2 = np.stack([d, -d * np.log(d) if kind == "rl" else -d * d], axis=1)
    y = np.array([p.gold for p in used])
    weight = np.array([1 / p.error for p in used]) if all(p.error > 0 for p in used) else np.ones(len(used))
    x_N2, y = x_N2 * weight[:, None], y * weight
    found = np.linalg.lstsq(x_N2, y, rcond=None)[0]
    residual = y - x_N2 @ found
    covariance = np.linalg.pinv(x_N2.T @ x_N2) * float(residual @ residual) / max(1, len(used) - 2)
    drawn = np.random.default_rng(seed).multivariate_normal(found, covariance, DRAWS)
    distances, tops = _peak(kind, drawn[:, 0], drawn[:, 1])
    best_distance, best_top = _peak(kind, found[0], found[1])
    n = len(used)
    return Curve(kind, _around(float(found[0]), drawn[:, 0], n), _around(float(found[1]), drawn[:, 1], n),
                 _around(float(best_distance[0]), distances, n), _around(float(best_top[0]), tops, n), n)


def _value(kind: Kind, alpha: ArrayLike, beta: ArrayLike, d: ArrayLike) -> Any:
    d = np.asarray(d, float)
    bend = np.log(np.maximum(d, 1e-300)) if kind == "rl" else d
    return d * (np.asarray(alpha) - np.asarray(beta) * bend)


def _peak(kind: Kind, alpha: ArrayLike, beta: ArrayLike) -> tuple[Floats, Floats]:
    """d* and gold there, where the derivative is 0: α - β log d - β, or α - 2 β d. Infinite where it bends upwards."""
    a, b = np.atleast_1d(np.asarray(alpha, float)), np.atleast_1d(np.asarray(beta, float))
    bends = (b > 0) & ((a / np.where(b > 0, b, 1) < FAR) if kind == "rl" else a > 0)
    a, b = np.where(bends, a, 1.0), np.where(bends, b, 1.0)
    d = np.exp(a / b - 1) if kind == "rl" else a / (2 * b)
    return np.where(bends, d, inf), np.where(bends, _value(kind, a, b, d), inf)


def _around(value: float, draws: Floats, n: int) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975], method="nearest")  # some may be infinite
    return Interval(value, float(low), float(high), n)


def from_metrics(lines: Sequence[Mapping[str, Any]], start: float) -> list[Point]:
    """The points of a run's metrics that have `gold` (and KL), over the gold of the `start`.

    An update's KL and reward are those of the answers that it learned from: the version that gold saw behind it is the
    one that the next line measures. The first line's reward is that of the start.
    """
    out = []
    for line, after in zip(lines, [*lines[1:], *lines[-1:]]):
        if line.get("gold") is None or after.get("kl") is None:
            continue
        proxy = float(after.get("reward", nan)) - float(lines[0].get("reward", nan))
        out.append(Point(float(after["kl"]), float(line["gold"]) - start, proxy, int(line["step"])))
    return out


def best_of(gold_PN: ArrayLike, proxy_PN: ArrayLike, n: int) -> Floats:
    """For each prompt the expected gold of the best of n answers by the proxy, from a pool of N: unbiased, without
    drawing (Nakano et al., arXiv 2112.09332, appendix I). Answers of one proxy score share their places.

    The k-th worst of N is the best of n in C(k - 1, n - 1) of C(N, n) draws.

    Raises:
        DataError: fewer than n answers, or tables of two shapes.
    """
    gold, proxy = np.atleast_2d(np.asarray(gold_PN, float)), np.atleast_2d(np.asarray(proxy_PN, float))
    if gold.shape != proxy.shape or n < 1 or n > gold.shape[1]:
        raise DataError(f"best of {n} from {gold.shape[1]} answers with gold and {proxy.shape[1]} with a proxy score: "
                        "both must be there, of at least n answers")
    size = gold.shape[1]
    k = np.arange(1, size + 1)
    weight_N = np.where(k >= n, np.exp(_log_choose(k - 1, n - 1) - _log_choose(size, n)), 0.0)
    out = np.empty(len(gold))
    for row, (g, p) in enumerate(zip(gold, proxy)):
        _, group, counts = np.unique(p, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        shares = np.add.reduceat(weight_N, np.concatenate([[0], ends[:-1]])) / counts
        out[row] = float(shares[group] @ g)
    return out


def _log_choose(n: ArrayLike, k: int) -> Any:
    top = np.maximum(np.asarray(n, float), k)
    return gammaln(top + 1) - gammaln(k + 1) - gammaln(top - k + 1)


def bon_kl(n: int) -> float:
    """KL of best-of-n from one draw, at most: log n - (n - 1)/n nats, and exactly that where no two answers are alike
    (Beirami et al., arXiv 2401.01879)."""
    return log(n) - (n - 1) / n


def best_of_n(gold_PN: ArrayLike, proxy_PN: ArrayLike, sizes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)) -> list[Point]:
    """The best-of-n curve of one pool: gold and proxy over those of one draw; `step` is n.

    Sizes beyond the pool are left out.
    """
    pool = np.atleast_2d(np.asarray(gold_PN, float)).shape[1]
    gold_1, proxy_1 = best_of(gold_PN, proxy_PN, 1), best_of(proxy_PN, proxy_PN, 1)
    points = []
    for n in (n for n in sizes if n <= pool):
        gain = best_of(gold_PN, proxy_PN, n) - gold_1
        error = float(gain.std(ddof=1)) / sqrt(len(gain)) if len(gain) > 1 else 0.0
        points.append(Point(bon_kl(n), float(gain.mean()), float((best_of(proxy_PN, proxy_PN, n) - proxy_1).mean()), n,
                            error))
    return points


def interval_of(gold_PN: ArrayLike, proxy_PN: ArrayLike, n: int, seed: int = 0) -> Interval:
    """Gold of best-of-n over one draw, bootstrap over prompts."""
    return bootstrap_mean(best_of(gold_PN, proxy_PN, n) - best_of(gold_PN, proxy_PN, 1), seed=seed)


def section(points: Sequence[Point], kind: Kind, *, title: str, gold: str, stopped: str = "",
            best_step: int | None = None) -> dict[str, Any]:
    """What a report says of a run (or of best-of-n): points, the fit if there are enough, a sentence, a picture.

    Args:
        gold: who judged.
        stopped: why the run ended before its last update; "" if it did not.
        best_step: the version that was kept.
    """
    try:
        curve = fit(points, kind)
    except DataError:
        curve = None
    return {"title": title, "gold": gold, "points": [asdict(p) for p in points], "stopped": stopped,
            "best_step": best_step, **({"fit": curve.to_dict()} if curve else {}),
            "text": _sentence(points, curve, stopped, best_step), "svg": str(plot(points, curve, title))}


def _sentence(points: Sequence[Point], curve: Curve | None, stopped: str, best_step: int | None) -> str:
    if not points:
        return "No gold judge looked at this run, so nobody knows whether its reward was real."
    top, last = max(points, key=lambda p: p.gold), points[-1]
    said = [f"Gold was highest at {top.kl:.2f} nats ({top.gold:+.3f} over the start) and {last.gold:+.3f} at the end."]
    if curve and isfinite(curve.distance.value):
        ends = curve.distance
        high = f"{ends.high ** 2:.2f}" if isfinite(ends.high) else "no end in sight"
        said.append(f"The fitted curve has its peak at {ends.value ** 2:.2f} nats ({ends.low ** 2:.2f} to {high}).")
    elif curve:
        said.append("The fitted curve does not bend down: there is no sign of over-optimisation.")
    if stopped:
        said.append(f"The run was stopped: {stopped}.")
    if best_step is not None:
        said.append(f"The version of update {best_step} was kept.")
    return " ".join(said)


def plot(points: Sequence[Point], curve: Curve | None, title: str) -> Any:
    """Gold and the reward over the start against d, with the fitted curve."""
    measured = [(sqrt(max(0.0, p.kl)), p) for p in sorted(points, key=lambda p: p.kl)]
    series = [svg.Series("gold", [(d, p.gold) for d, p in measured])]
    if any(isfinite(p.proxy) for p in points):
        series.append(svg.Series("what training maximised", [(d, p.proxy) for d, p in measured]))
    if curve and measured:
        grid = np.linspace(0.0, measured[-1][0], 40)[1:]
        series.append(svg.Series("fit of gold", [(float(d), curve.gold(float(d))) for d in grid]))
    return svg.lines(series, title=title, description="Gold reward over the start against the square root of KL",
                     x_label="square root of KL (nats)", y_label="over the start")
