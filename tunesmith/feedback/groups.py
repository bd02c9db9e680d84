"""Rankings to answer groups, groups to pairs, several labelers' groups to one.

Nothing here weighs labelers by how good they are: one ranking counts once. The loss divides by the number of pairs
of a group, so the weights here only compare the pairs of one group with each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

from tunesmith.contracts import check_tiers
from tunesmith.errors import DataError
from tunesmith.records import AnswerGroup, Pair, Ranking, Source, Tiers

Ties = Literal["drop", "half"]


def apply(group: AnswerGroup, ranking: Ranking) -> AnswerGroup | None:
    """The group as this labeler sees it; None if it was skipped.

    "All bad" keeps the order (the best of the bad still teaches the reward model) and becomes labels of 0, a thumb
    down for each answer, unless there are ratings.

    Raises:
        DataError: the ranking is about another group, or its tiers name an answer twice or one that is not there.
    """
    if ranking.skipped:
        return None
    if ranking.group != group.id:
        raise DataError(f"ranking {ranking.id} is about group {ranking.group}, not {group.id}")
    check_tiers(ranking.tiers, len(group.answers))
    thumbs_down = (0.0,) * len(group.answers) if ranking.all_bad else ()
    source: Source = "simulated" if ranking.simulated else "human"
    return replace(group, tiers=ranking.tiers, pairs=(), labels=ranking.ratings or thumbs_down,
                   labeler=ranking.labeler, shown=ranking.shown, source=source)


def pairs(group: AnswerGroup, ties: Ties = "drop") -> tuple[Pair, ...]:
    """The comparisons that a group holds, for the pairwise loss.

    Soft `group.pairs` are returned as they are. From tiers: every answer beats every answer of a lower tier (p = 1).
    Ties are dropped as InstructGPT does (2203.02155, app. C.2), or kept at p = 0.5 with `ties="half"`, which pulls
    the two rewards together. In a partial ranking unranked answers lose to every ranked one; between two of them
    nothing is known, so they make no pair, not even a tie.
    """
    if group.pairs:
        return group.pairs
    level = _levels(group)
    ranked = {i for tier in group.tiers for i in tier}
    found = []
    for i, j in combinations(range(len(group.answers)), 2):
        if level[i] != level[j]:
            found.append(Pair(i, j) if level[i] < level[j] else Pair(j, i))
        elif ties == "half" and i in ranked:
            found.append(Pair(i, j, p=0.5))
    return tuple(found)


def merge(groups: Sequence[AnswerGroup], *, ties: Ties = "half", without: Collection[str] = ()) -> AnswerGroup | None:
    """Several labelers' rankings of one group as a single group with soft pairs; None if `without` leaves nobody.

    P(i beats j) is the share of the labelers' weight that put i above j, a tie counting half (`ties="drop"`: a tie
    is no vote). A pair's weight is the share of the labelers who compared it, where a ranking has as much to give
    however many pairs it compared; the group's weight is the sum of theirs. So with `ties="half"` the loss of the
    merged group, weight times the mean over its pairs, equals the sum of the losses of the single ones. Two answers
    with the same text cannot be told apart and make no pair.
    `tiers` is the consensus by mean share of wins (Borda), for losses on whole rankings. A judgement that any
    simulated labeler had a part in stays marked simulated.

    Raises:
        DataError: the groups are not about the same prompt and answers.
    """
    kept = [g for g in groups if g.labeler not in without and (g.tiers or g.pairs) and g.weight > 0]
    if not kept:
        return None
    if len({g.id for g in kept}) > 1:
        raise DataError(f"cannot merge rankings of different groups ({kept[0].id} and others)")
    k, total = len(kept[0].answers), sum(g.weight for g in kept)
    texts = [a.text for a in kept[0].answers]
    votes: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)   # (i < j) -> [(P(i beats j), weight)]
    for g in kept:
        compared = sum(p.weight for p in pairs(g, "half"))
        say = g.weight * (k * (k - 1) / 2 / compared) if compared else 0.0
        for p in pairs(g, ties):
            i, j, share = (p.better, p.worse, p.p) if p.better < p.worse else (p.worse, p.better, 1 - p.p)
            if p.weight > 0 and texts[i] != texts[j]:
                votes[i, j].append((share, p.weight * say))
    merged, borda = [], [0.0] * k
    for (i, j), cast in sorted(votes.items()):
        weight = sum(w for _, w in cast)
        share = sum(s * w for s, w in cast) / weight
        merged.append(Pair(i, j, share, weight / total) if share >= 0.5 else Pair(j, i, 1 - share, weight / total))
        borda[i] += (share - 0.5) * weight
        borda[j] -= (share - 0.5) * weight
    return replace(kept[0], tiers=_tiers_by(borda), pairs=tuple(merged), labels=mean_labels(kept), weight=total,
                   labeler=",".join(sorted({g.labeler for g in kept})), shown=(), source=common_source(kept))


def ranked(groups: Iterable[AnswerGroup], rankings: Iterable[Ranking], *, without: Collection[str] = (),
           merged: bool = True, ties: Ties = "half") -> list[AnswerGroup]:
    """Stored groups and the append-only rankings of them, as what a reward model learns from.

    A labeler's later ranking of a group replaces the earlier one (a later skip withdraws it); test questions and second
    looks teach nothing; labelers named in `without` are left out; groups that nobody ranked are left out. `merged`
    makes one soft group of several labelers' rankings, otherwise each stays a group of its own.
    """
    latest: dict[str, dict[str, Ranking]] = defaultdict(dict)
    for r in rankings:
        if r.labeler not in without and r.purpose not in ("gold", "repeat"):
            latest[r.group][r.labeler] = r
    result = []
    for group in groups:
        judged = [g for r in latest[group.id].values() if (g := apply(group, r)) and g.tiers]
        together = merge(judged, ties=ties) if merged and len(judged) > 1 else None
        result += [together] if together else judged
    return result


def by_item(groups: Iterable[AnswerGroup]) -> dict[str, list[AnswerGroup]]:
    """Groups by what was judged: prompt and answers."""
    result: dict[str, list[AnswerGroup]] = defaultdict(list)
    names: dict[tuple[int, int], tuple[str, AnswerGroup]] = {}  # rankings of one group share its prompt and answers
    for g in groups:
        key = id(g.prompt), id(g.answers)
        if key not in names:
            names[key] = g.id, g  # the group is kept so that its parts keep their numbers
        result[names[key][0]].append(g)
    return dict(result)


def _levels(group: AnswerGroup) -> list[int]:
    """The tier of each answer, 0 the best; unranked ones come after the last."""
    level = [len(group.tiers)] * len(group.answers)
    for t, tier in enumerate(group.tiers):
        for i in tier:
            level[i] = t
    return level


def _tiers_by(scores: Sequence[float]) -> Tiers:
    rounded = [round(s, 9) for s in scores]
    return tuple(tuple(i for i, s in enumerate(rounded) if s == value) for value in sorted(set(rounded), reverse=True))


def mean_labels(groups: Sequence[AnswerGroup]) -> tuple[float, ...]:
    """The mean of the groups' labels, answer by answer, over those that have any."""
    given = [g.labels for g in groups if g.labels]
    return tuple(sum(column) / len(given) for column in zip(*given, strict=True))


def common_source(groups: Sequence[AnswerGroup]) -> Source:
    """Where the groups come from, if all from one; a simulated part marks the whole, other mixtures are imported."""
    sources = {g.source for g in groups}
    if len(sources) == 1:
        return sources.pop()
    return "simulated" if "simulated" in sources else "imported"
