"""From everybody's judgements to what a model learns from: one group per prompt and answers, soft labels and a weight.

A reward model pools what all prompts say, so it learns best from every vote, weighed by what its labeler's votes are
worth; the scores of `ability` are of one prompt at a time and were worth up to a point less in a simulation with random
and inverted labelers, where plain votes lost 3 to 12. `ability.consensus` is for people to look at.

The prompts that are held out keep the votes as they were cast: what a model is measured by must not depend on the
method that made what it learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any, Literal

from tunesmith.feedback.ability import ENOUGH_SHARED, fit, vote
from tunesmith.feedback.groups import by_item, merge, pairs
from tunesmith.feedback.trust import capped
from tunesmith.records import AnswerGroup

Method = Literal["ability", "votes", "none"]

NOTHING = 0.02
"""A vote worth less than this is left out."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """Groups to learn from, and how they were made: for the run's summary."""

    groups: list[AnswerGroup]
    about: dict[str, Any] = field(default_factory=dict)


def agree(judged: Iterable[AnswerGroup], method: Method = "ability", *, cap: float = 1.0,
          held_out: float = 0.0) -> Agreed:
    """One group per prompt and answers from one per ranking.

    "ability": the share of votes weighed by `ability.vote`, those of inverted labelers turned around, if labelers share
    enough pairs to be known; otherwise, and with "votes": the plain share of votes. "none": every ranking stays a group
    of its own. Thumbs stay as they are. `cap` is the largest share of the weight that one labeler may have, before and
    after votes are weighed; `held_out` as in training.
    """
    every = list(judged)
    if method == "none":
        return Agreed(every, {"consensus": "none"})
    ordered = [g for g in every if g.tiers or g.pairs]
    factors = capped(_weights(ordered), cap) if cap < 1 else {}
    weighted = _scaled(every, factors)
    about: dict[str, Any] = {"labelers": len({g.labeler for g in ordered}), **_cut(factors)}
    found = fit(ordered, weights=factors) if method == "ability" and _overlap(ordered) else None
    if found is None or not any(a.shared >= ENOUGH_SHARED for a in found.labelers.values()):
        return Agreed(_votes(weighted), {"consensus": "votes", **about})
    votes = {name: vote(found, name) / factors.get(name, 1.0) for name in found.labelers}  # the cap is in the weights
    cast = [w for g in weighted if (w := _weighed(g, votes, held_out))]
    if cap < 1:  # those who had nothing to say left the others a larger share
        more = capped(_weights(g for g in cast if not is_held_out(g, held_out)), cap)
        cast = _scaled(cast, more)
        about |= _cut({name: f * more.get(name, 1.0) for name, f in factors.items()})
    return Agreed(_votes(cast), {"consensus": "ability", **about, "abilities": {
        name: [round(x, 3) for x in (a.ability.value, a.ability.low, a.ability.high)]
        for name, a in sorted(found.labelers.items())}, "votes": {n: round(v, 3) for n, v in sorted(votes.items())}})


def is_held_out(group: AnswerGroup, share: float) -> bool:
    """Whether a prompt is on the held-out side, by a hash of it: the same side whatever else is in the data."""
    return int(group.prompt.id[:8], 16) < int(share * 2**32)


def flip_rate(agreement: float) -> float:
    """ε, the share of labels that are wrong, if two looks at the same pair agree this often: c = (1 - ε)² + ε².

    At most 0.45: beyond it, labels would be noise and the unbiased loss without bound.
    """
    return min(0.45, (1 - sqrt(max(0.0, 2 * agreement - 1))) / 2)


def _weighed(group: AnswerGroup, votes: Mapping[str, float], held_out: float) -> AnswerGroup | None:
    """A ranking at what its labeler's vote is worth; None if that is nothing. Held-out prompts and thumbs stay."""
    worth = votes.get(group.labeler, 1.0)
    if worth == 1 or not (group.tiers or group.pairs) or is_held_out(group, held_out):
        return group
    if abs(worth) < NOTHING:
        return None
    if worth > 0:
        return replace(group, weight=group.weight * worth)
    turned = tuple(replace(p, better=p.worse, worse=p.better) for p in pairs(group, "half"))
    ranked = {i for tier in group.tiers for i in tier}
    rest = tuple(i for i in range(len(group.answers)) if i not in ranked)
    tiers = (*([rest] if rest else []), *reversed(group.tiers)) if group.tiers else ()
    return replace(group, weight=-group.weight * worth, tiers=tiers, pairs=turned, labels=())


def _weights(groups: Iterable[AnswerGroup]) -> Counter[str]:
    """What each labeler's rankings weigh together."""
    total = Counter[str]()
    for g in groups:
        if g.tiers or g.pairs:
            total[g.labeler] += g.weight  # type: ignore[assignment]
    return total


def _scaled(groups: list[AnswerGroup], factors: Mapping[str, float]) -> list[AnswerGroup]:
    return [replace(g, weight=g.weight * f) if (f := factors.get(g.labeler, 1.0)) != 1 else g for g in groups]


def _cut(factors: Mapping[str, float]) -> dict[str, Any]:
    cut = {name: round(f, 4) for name, f in factors.items() if f < 1}
    return {"capped": cut} if cut else {}


def _votes(judged: list[AnswerGroup]) -> list[AnswerGroup]:
    """Several rankings of one group become one, a vote each. A tie is half a win for either, whether one labeler judged
    the group or several; what holds no tie and nobody else judged stays as it is, and so do thumbs."""
    out: list[AnswerGroup] = []
    for same in by_item(judged).values():
        ordered = [g for g in same if (g.tiers or g.pairs) and not _all_bad(g)]
        together = merge(ordered) if len(ordered) > 1 or any(map(_tied, ordered)) else None
        out += [together, *(g for g in same if _all_bad(g) or not (g.tiers or g.pairs))] if together else same
    return out


def _tied(group: AnswerGroup) -> bool:
    return not group.pairs and any(len(tier) > 1 for tier in group.tiers)


def _all_bad(group: AnswerGroup) -> bool:
    """A thumb down for each answer and no order among them: that they are alike is the least it says."""
    return _tied(group) and len(group.tiers) == 1 and bool(group.labels) and not any(group.labels)


def _overlap(judged: list[AnswerGroup]) -> bool:
    """Whether any prompt was judged by two labelers."""
    first: dict[int, str] = {}
    seen: dict[str, str] = {}
    for g in judged:
        prompt = first.get(id(g.prompt)) or first.setdefault(id(g.prompt), g.prompt.id)
        if seen.setdefault(prompt, g.labeler) != g.labeler:
            return True
    return False
