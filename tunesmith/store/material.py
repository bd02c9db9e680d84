"""What is exported: groups with the verdicts on them, or the rows of a dataset; and which of the verdicts count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tunesmith.errors import NotFound, nearest
from tunesmith.records import AnswerGroup, Ranking, Tiers
from tunesmith.store.sets import set_names
from tunesmith.store.team import quarantined

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

UNTRAINED = ("gold", "repeat")
"""Purposes of verdicts that never train."""


@dataclass
class Material:
    """What is exported: groups with verdicts, or the rows of a dataset."""

    name: str
    licence: str = ""
    source: str = ""
    groups: Sequence[AnswerGroup] = ()
    rankings: Mapping[str, list[Ranking]] = field(default_factory=dict)
    rows: Sequence[Any] = ()
    quarantined: frozenset[str] = frozenset()
    skipped: Counter[str] = field(default_factory=Counter)


def material(workspace: Workspace, name: str) -> Material:
    """A set with its verdicts, or a dataset.

    Raises:
        NotFound: neither has this name.
    """
    sets = set_names(workspace)
    if name in sets:
        verdicts: dict[str, list[Ranking]] = {}
        for ranking in workspace.rankings(name):
            verdicts.setdefault(ranking.group, []).append(ranking)
        return Material(name, groups=workspace.groups(name), rankings=verdicts,
                        quarantined=frozenset(quarantined(workspace)))
    datasets = {d.name: d for d in workspace.datasets()}
    if name not in datasets:
        raise NotFound(f'no set and no dataset "{name}"{nearest(name, {*sets, *datasets})}')
    found = datasets[name]
    rows = list(found.rows())
    groups = rows if found.kind in ("comparisons", "rankings") else ()
    return Material(name, found.licence, found.source, groups, {}, () if groups else rows)


def pseudonymous(material: Material) -> Material:
    """Names of people and of simulated labelers become numbers, in the order in which they came."""
    numbers: dict[str, str] = {}

    def hide(name: str) -> str:
        return numbers.setdefault(name, f"labeler-{len(numbers) + 1}") if name else ""

    verdicts = {id: [replace(r, labeler=hide(r.labeler)) for r in given] for id, given in material.rankings.items()}
    groups = [replace(g, labeler=hide(g.labeler)) if g.labeler else g for g in material.groups]
    hidden = frozenset(numbers[name] for name in material.quarantined if name in numbers)
    return replace(material, groups=groups, rankings=verdicts, quarantined=hidden)


def standing(material: Material, group: AnswerGroup) -> list[tuple[str, Ranking]]:
    """(labeler, verdict): each labeler's last one on a group, but for test questions and people in quarantine; a
    dataset's own order as one. What is passed over is counted."""
    given = material.rankings.get(group.id, [])
    if not given and group.tiers:
        given = [Ranking("", group.id, group.labeler, group.tiers)]
    last: dict[str, Ranking] = {}
    for ranking in given:
        if ranking.purpose in UNTRAINED:
            material.skipped["a verdict on a test question or a second look"] += 1
        elif ranking.labeler in material.quarantined:
            material.skipped["a verdict of a quarantined labeler"] += 1
        else:
            material.skipped["a verdict that was revised"] += ranking.labeler in last
            last[ranking.labeler] = ranking
    return list(last.items())


def trained(material: Material) -> Iterator[tuple[AnswerGroup, str, Tiers]]:
    """(group, labeler, tiers) of every verdict that training sees; what was left unranked is the last tier."""
    for group in material.groups:
        if not (group.tiers or material.rankings.get(group.id)):
            material.skipped["a group without a verdict"] += 1
        for labeler, ranking in standing(material, group):
            if not ranking.tiers:
                material.skipped["a skipped group" if ranking.skipped else "a verdict without an order"] += 1
                continue
            named = {i for tier in ranking.tiers for i in tier}
            rest = tuple(i for i in range(len(group.answers)) if i not in named)
            yield group, labeler, (*ranking.tiers, rest) if rest else ranking.tiers
