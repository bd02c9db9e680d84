"""Which groups to ask about first: those that another verdict teaches most about.

A group that its labelers disagree on comes before one they agree on; one that nobody judged is rated by how unsure the
reward model is of its answers' order, if it says so; where nothing is known the order is random. Every figure comes
with the rule that made it. Left out: the cost of a verdict (long answers take longer), and new prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from tunesmith.feedback.ability import Fit, certainty
from tunesmith.records import AnswerGroup, fingerprint

ENOUGH_VERDICTS = 2
"""Verdicts from which on a low certainty is disagreement and not ignorance."""


@dataclass(frozen=True, slots=True)
class Ordering:
    """How early a group should be asked, 0 to 1, and the rule that says so."""

    priority: float
    why: str


def order(groups: Iterable[AnswerGroup], fit: Fit | None = None, scores: Mapping[str, ArrayLike] | None = None, *,
          seed: int = 0) -> dict[str, Ordering]:
    """A priority for every group.

    Args:
        fit: of the verdicts so far.
        scores: what reward models think of a group's answers: [K] of one model, or [M, K] of an ensemble; by group.
        seed: of the random order where nothing is known.

    Higher is sooner; below 0.1 are the random ones. All figures of one call are comparable.
    """
    models = {id: np.atleast_2d(np.asarray(s, dtype=float)) for id, s in (scores or {}).items()}
    gaps = np.concatenate([_gaps(s.mean(0)) for s in models.values()]) if models else np.zeros(0)
    typical = float(np.median(gaps)) if gaps.size and np.median(gaps) > 0 else 1.0
    result: dict[str, Ordering] = {}
    for group in groups:
        verdicts = len(fit.judged.get(group.id, ())) if fit else 0
        if fit and verdicts >= ENOUGH_VERDICTS and (sure := certainty(fit, group)) == sure:
            result[group.id] = Ordering(0.1 + 0.9 * (1 - sure), f"{verdicts} labelers disagree: the consensus is "
                                        f"{sure:.0%} certain")
        elif group.id in models:
            unsure, what = _unsure(models[group.id], typical)
            result[group.id] = Ordering(0.1 + 0.9 * unsure, f"reward {what}: {unsure:.0%} unsure of the order")
        else:
            result[group.id] = Ordering(0.1 * _random(seed, group.id), "random: nothing is known of it yet")
    return result


def contested(groups: Iterable[AnswerGroup], fit: Fit, below: float) -> list[str]:
    """Groups that several judged and whose consensus is less certain than `below`: for a reviewer to settle."""
    return [g.id for g in groups if len(fit.judged.get(g.id, ())) >= ENOUGH_VERDICTS and certainty(fit, g) < below]


def rules(orderings: Mapping[str, Ordering]) -> dict[str, int]:
    """How many groups each rule ordered, for a sentence on the page."""
    return dict(Counter(o.why.split(":")[0].lstrip("0123456789 ") for o in orderings.values()))


def _unsure(scores_MK: np.ndarray, typical: float) -> tuple[float, str]:  # type: ignore[type-arg]
    """0 (sure) to 1 (no idea) of the order of the answers, and who says so.

    An ensemble: 1 - |2P - 1| for P the share of it that prefers one answer, as a normal variable's. One model: answers
    whose scores are close are those that it cannot tell apart.
    """
    i, j = np.triu_indices(scores_MK.shape[1], 1)
    if not i.size:
        return 0.0, "model"
    difference_MP = scores_MK[:, i] - scores_MK[:, j]
    if len(scores_MK) > 1:
        p = ndtr(difference_MP.mean(0) / np.maximum(difference_MP.std(0, ddof=1), 1e-9))
        return float(1 - np.abs(2 * p - 1).mean()), f"models ({len(scores_MK)})"
    return float(np.exp(-np.abs(difference_MP[0]) / typical).mean()), "model"


def _gaps(score_K: Sequence[float] | np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    i, j = np.triu_indices(len(score_K), 1)
    x = np.asarray(score_K)
    return np.asarray(np.abs(x[i] - x[j]))


def _random(seed: int, id: str) -> float:
    return int(fingerprint([seed, id])[:8], 16) / 2**32
