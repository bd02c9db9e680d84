"""Many models in one order, and rates that length cannot buy: what outcomes of pairs say together.

A ladder gives each model one strength (Bradley & Terry 1952; ties as half a win, or with Davidson's parameter, 1970).
Both are conditional logits, so one Newton iteration fits them, all resamples of the bootstrap at once. Left out:
strengths that depend on the kind of prompt; give `ladder` the outcomes on some of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, softmax

from tunesmith import statistics
from tunesmith.errors import UserError
from tunesmith.evaluate.compare import Comparison
from tunesmith.evaluate.outcomes import Outcomes, Pair
from tunesmith.statistics import Floats, Interval, Preference

Ties = Literal["half", "davidson"]

RESAMPLES = 1000
MOST_STEPS, STILL, LONGEST = 100, 1e-8, 2.0
"""Newton's steps: how many, the move that ends them, the longest one in log-odds."""
RIDGE = 0.2
"""Of the length term (AlpacaEval's weight of its regularisation), added to the whole log-likelihood."""
HOLD = 1e-3
"""Of nothing, almost: keeps finite what a resample without a tie, or one that one side wins, would let run away."""


# ---- the ladder

@dataclass(frozen=True, slots=True)
class Rung:
    """One model: its strength in log-odds over the mean of all models (or over the anchor); its place, 1 the best."""

    model: str
    strength: Interval
    place: Interval


@dataclass(frozen=True, slots=True)
class Ladder:
    """Models best to worst. `fit` holds, for each pair compared, the rate observed and the rate that the strengths
    predict: where they differ much, one order does not describe these models. `tie` is Davidson's ν, 0 where ties
    count as half a win. `converged` is the share of resamples that came to rest."""

    rungs: tuple[Rung, ...]
    fit: Mapping[Pair, tuple[float, float]]
    prompts: int
    tie: float = 0.0
    converged: float = 1.0

    def rate(self, model: str, baseline: str) -> float:
        """How often the model should be preferred over the baseline, ties half."""
        strength = {r.model: r.strength.value for r in self.rungs}
        return _rate(strength[model] - strength[baseline], self.tie)

    def to_dict(self) -> dict[str, Any]:
        """For a report."""
        return {"rungs": [{"model": r.model, "strength": r.strength.to_dict(), "place": r.place.to_dict()}
                          for r in self.rungs],
                "fit": [{"model": a, "baseline": b, "observed": seen, "expected": said}
                        for (a, b), (seen, said) in self.fit.items()],
                "prompts": self.prompts, "tie": self.tie, "converged": self.converged}


def ladder(outcomes: Outcomes, *, ties: Ties = "half", anchor: str = "", prior: float = 1.0,
           resamples: int = RESAMPLES, seed: int = 0) -> Ladder:
    """Strengths of all models from the outcomes of their pairs, intervals by bootstrap over prompts.

    Args:
        anchor: the model whose strength is 0; the mean of all models if empty.
        prior: so many undecided comparisons are added to each pair that was compared, half a win for either: a model
            that won everything stays finite. 0 is plain maximum likelihood.

    Raises:
        UserError: fewer than two models, models that no chain of comparisons connects, or without a prior one that won
            or lost everything.
    """
    models, pairs = outcomes.models, [p for p, x in outcomes.table.items() if not np.isnan(x).all()]
    _check(outcomes, pairs, prior)
    counts_NPA = np.stack([_counts(outcomes.table[p], ties) for p in pairs], axis=1)
    features_PAD = _features(models, pairs, ties)
    drawn_RN = np.random.default_rng(seed).multinomial(len(counts_NPA), np.full(len(counts_NPA), 1 / len(counts_NPA)),
                                                       resamples).astype(float)
    every_RN = np.concatenate([np.ones((1, len(counts_NPA))), drawn_RN])
    counts_RPA = np.einsum("rn,npa->rpa", every_RN, counts_NPA)
    counts_RPA[:, :, [0, -1]] += prior / 2
    if ties == "davidson":
        counts_RPA[:, :, 1] += HOLD
    theta_RD, still_R = _newton(counts_RPA, features_PAD, len(models))
    if not still_R[0]:
        raise UserError(f"the ladder did not come to rest in {MOST_STEPS} steps; add comparisons or a prior")
    strength_RM = theta_RD[:, :len(models)]
    zero = strength_RM.mean(1) if not anchor else strength_RM[:, models.index(anchor)]
    strength_RM = strength_RM - zero[:, None]
    tie = float(np.exp(theta_RD[0, -1])) if ties == "davidson" else 0.0
    places_RM = np.apply_along_axis(statistics.ranks, 1, -np.round(strength_RM, 9))
    n = int((~np.isnan(np.stack(list(outcomes.table.values())))).any(0).sum())
    rungs = [Rung(m, _of(strength_RM[:, i], n), _of(places_RM[:, i], n)) for i, m in enumerate(models)]
    value = dict(zip(models, strength_RM[0].tolist(), strict=True))
    fit = {(a, b): (float(np.nanmean(outcomes.table[a, b])), _rate(value[a] - value[b], tie)) for a, b in pairs}
    return Ladder(tuple(sorted(rungs, key=lambda r: -r.strength.value)), fit, n, tie, float(still_R[1:].mean()))


def _check(outcomes: Outcomes, pairs: list[Pair], prior: float) -> None:
    """
    Raises:
        UserError: the comparisons do not say where some models stand.
    """
    if len(outcomes.models) < 2:
        raise UserError("a ladder needs at least two models")
    met = {m: {m} for m in outcomes.models}
    beat = {m: {m} for m in outcomes.models}
    for a, b in pairs:
        x = outcomes.table[a, b]
        met[a] |= {b}
        met[b] |= {a}
        beat[a] |= {b} if (x > 0).any() else set()
        beat[b] |= {a} if (x < 1).any() else set()
    apart = [m for m in outcomes.models if m not in _reached(met, outcomes.models[0])]
    if apart:
        rest = [m for m in outcomes.models if m not in apart]
        raise UserError(f"nobody compared {_named(apart)} with {_named(rest)}, not even through others: judge some "
                        "prompts on which both sides answered")
    if prior > 0:
        return
    for m in outcomes.models:
        if below := [o for o in outcomes.models if o not in _reached(beat, m)]:
            raise UserError(f"{_named(below)} never lost to {m} or anybody below: without a prior its strength has no "
                            "bound; give a prior above 0 or judge more prompts")


def _reached(edges: Mapping[str, set[str]], start: str) -> set[str]:
    found, waiting = {start}, [start]
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def _named(models: list[str]) -> str:
    return ", ".join(f'"{m}"' for m in models)


def _counts(x_N: Floats, ties: Ties) -> Floats:
    """Of each prompt how much of a win, (a tie,) a loss the first model had: [N, 2] or [N, 3]; 0 where not judged."""
    judged, x = ~np.isnan(x_N), np.nan_to_num(x_N)
    if ties == "half":
        return np.stack([x, judged - x], axis=1)
    tied = judged & (x == 0.5)
    return np.stack([np.where(tied, 0, x), tied, np.where(tied, 0, judged - x)], axis=1).astype(float)


def _features(models: tuple[str, ...], pairs: list[Pair], ties: Ties) -> Floats:
    """Of each pair's alternatives what adds up to their log-odds: [P, A, D]. A win counts the winner's strength; a tie
    half of both, and log ν (Davidson 1970, eq. 2.3)."""
    m = len(models)
    out = np.zeros((len(pairs), 2, m) if ties == "half" else (len(pairs), 3, m + 1))
    for p, (a, b) in enumerate(pairs):
        i, j = models.index(a), models.index(b)
        out[p, 0, i] = out[p, -1, j] = 1
        if ties == "davidson":
            out[p, 1, [i, j]] = 0.5
            out[p, 1, m] = 1
    return out


def _newton(counts_RPA: Floats, features_PAD: Floats, models: int) -> tuple[Floats, Any]:
    """Maximum likelihood of R conditional logits, [R, D], and which of them came to rest. Strengths are known up to a
    constant: their sum stays 0."""
    n_RP = counts_RPA.sum(-1)
    d = features_PAD.shape[-1]
    sum_DD = np.zeros((d, d))
    sum_DD[:models, :models] = 1
    theta_RD, move_RD = np.zeros((len(counts_RPA), d)), np.full((len(counts_RPA), d), np.inf)
    for _ in range(MOST_STEPS):
        p_RPA = softmax(np.einsum("pad,rd->rpa", features_PAD, theta_RD), axis=-1)
        gradient_RD = np.einsum("rpa,pad->rd", counts_RPA - n_RP[..., None] * p_RPA, features_PAD)
        mean_RPD = np.einsum("rpa,pad->rpd", p_RPA, features_PAD)
        curve_RDD = (np.einsum("rp,rpa,pad,pae->rde", n_RP, p_RPA, features_PAD, features_PAD, optimize=True)
                     - np.einsum("rp,rpd,rpe->rde", n_RP, mean_RPD, mean_RPD, optimize=True))
        move_RD = np.linalg.solve(curve_RDD + sum_DD, gradient_RD[..., None])[..., 0]
        theta_RD = theta_RD + np.clip(move_RD, -LONGEST, LONGEST)
        if np.abs(move_RD).max() < STILL:
            break
    return theta_RD, np.abs(move_RD).max(1) < 1e-4


def _rate(difference: float, tie: float) -> float:
    """P(win) + P(tie) / 2 at a difference of strengths (Davidson 1970); σ(difference) without ties."""
    win, loss = np.exp(difference / 2), np.exp(-difference / 2)
    return float((win + tie / 2) / (win + loss + tie))


def _of(draws_R: Floats, n: int) -> Interval:
    """The first is the estimate, the others are resamples."""
    low, high = np.quantile(draws_R[1:], [0.025, 0.975]) if len(draws_R) > 1 else (np.nan, np.nan)
    return Interval(float(draws_R[0]), float(low), float(high), n)


# ---- without the length

@dataclass(frozen=True, slots=True)
class Controlled:
    """The raw rate, the rate at equal length, and what the longer answer gains: `slope` in log-odds from equal length
    to much longer. `longer` is the share of prompts on which the model wrote more; near 0 or 1 there is little to
    tell length from quality by, and the interval of `rate` says so."""

    raw: Preference
    rate: Interval
    slope: Interval
    longer: Interval

    def to_dict(self) -> dict[str, Any]:
        """For a report."""
        return {"raw": self.raw.rate.to_dict(), "rate": self.rate.to_dict(), "slope": self.slope.to_dict(),
                "longer": self.longer.to_dict()}


def length_controlled(outcomes_N: ArrayLike, lengths_N: ArrayLike, baseline_N: ArrayLike, *, ridge: float = RIDGE,
                      resamples: int = RESAMPLES, seed: int = 0) -> Controlled:
    """The preference rate if both had written equally much: AlpacaEval's length-controlled rate in its minimal form
    (Dubois et al. 2024, 2404.04475), logit P = θ + φ tanh(Δ / sd(Δ)), read at Δ = 0.

    Args:
        outcomes_N: 1, 0.5, 0 per prompt; nan are left out.
        lengths_N, baseline_N: how long the model's and the baseline's answers are, in any unit.
        ridge: weight of φ²/2 against the log-likelihood of all prompts. AlpacaEval chooses its penalty by
            cross-validation; here it is fixed, so that two evaluations compare.
    """
    y_N = np.asarray(outcomes_N, dtype=float)
    difference_N = np.asarray(lengths_N, dtype=float) - np.asarray(baseline_N, dtype=float)
    known = ~np.isnan(y_N) & ~np.isnan(difference_N)
    y_N, difference_N = y_N[known], difference_N[known]
    raw = statistics.preference_rate(y_N, seed=seed)
    longer = statistics.mean_interval(np.where(difference_N == 0, 0.5, difference_N > 0), seed=seed)
    scale = float(difference_N.std()) if y_N.size else 0.0
    if not scale or np.ptp(y_N) == 0:  # nothing varies that length could explain
        return Controlled(raw, raw.rate, Interval(0.0, 0.0, 0.0, y_N.size), longer)
    n = y_N.size
    weights_RN = np.concatenate([np.ones((1, n)), np.random.default_rng(seed).multinomial(
        n, np.full(n, 1 / n), resamples).astype(float)])
    theta_R, slope_R = _logistic(np.tanh(difference_N / scale), y_N, weights_RN, ridge)
    return Controlled(raw, _of(expit(theta_R), n), _of(slope_R, n), longer)


def controlled(comparison: Comparison, model: str, baseline: str, seed: int = 0) -> Controlled:
    """The length-controlled rate of two models of a comparison, by words."""
    return length_controlled(comparison.outcomes(model, baseline), comparison.values(model, "words"),
                             comparison.values(baseline, "words"), seed=seed)


def _logistic(x_N: Floats, y_N: Floats, weights_RN: Floats, ridge: float) -> tuple[Floats, Floats]:
    """Constant and slope of R weighted logistic regressions, by Newton's method."""
    theta_R, slope_R = np.zeros(len(weights_RN)), np.zeros(len(weights_RN))
    for _ in range(MOST_STEPS):
        p_RN = expit(theta_R[:, None] + slope_R[:, None] * x_N)
        pull_RN, bend_RN = weights_RN * (y_N - p_RN), weights_RN * p_RN * (1 - p_RN)
        g0, g1 = pull_RN.sum(1) - HOLD * theta_R, pull_RN @ x_N - ridge * slope_R
        h00, h01, h11 = bend_RN.sum(1) + HOLD, bend_RN @ x_N, bend_RN @ x_N ** 2 + ridge
        det = h00 * h11 - h01 ** 2
        move = np.clip([(h11 * g0 - h01 * g1) / det, (h00 * g1 - h01 * g0) / det], -LONGEST, LONGEST)
        theta_R, slope_R = theta_R + move[0], slope_R + move[1]
        if np.abs(move).max() < STILL:
            break
    return theta_R, slope_R


def worst_fit(found: Ladder) -> tuple[Pair, float]:
    """The pair on which the strengths err most, and by how much: its observed rate less the expected one."""
    errors = {pair: seen - said for pair, (seen, said) in found.fit.items() if not isnan(seen)}
    pair = max(errors, key=lambda p: abs(errors[p]))
    return pair, errors[pair]
