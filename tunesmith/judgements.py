"""What people said of a set or a dataset, as a model learns from it: who is left out, and how votes become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tunesmith.errors import UserError, nearest
from tunesmith.feedback.agreement import agreement, self_consistency
from tunesmith.feedback.consensus import Agreed, agree, flip_rate, is_held_out
from tunesmith.feedback.groups import ranked
from tunesmith.feedback.reliability import reliability, weighed
from tunesmith.records import AnswerGroup
from tunesmith.settings import PreferSettings, RewardSettings
from tunesmith.statistics import Interval
from tunesmith.store.project import gold, project
from tunesmith.store.sets import set_names
from tunesmith.store.team import quarantined
from tunesmith.store.workspace import Workspace


def comparisons(workspace: Workspace, name: str, without: Sequence[str] = ()) -> list[AnswerGroup]:
    """What people said of a set's groups, or an imported dataset's rows: one group per ranking.

    Labelers named in `without` are left out, and so are, of a set, those in quarantine; test questions never train.

    Raises:
        NotFound: neither a set nor a dataset has this name.
        UserError: nobody has ranked yet, or only people who are left out; or `without` names somebody who did not.
    """
    if name in set_names(workspace):
        groups = said(workspace, name, without)
        if not groups:
            out = {*without, *quarantined(workspace)}
            why = f" (left out: {', '.join(sorted(out))})" if out else ""
            raise UserError(f"nobody has ranked a group of {name} yet{why}; run: tunesmith studio --groups {name}")
        return groups
    dataset = workspace.dataset(name)
    if dataset.kind not in ("comparisons", "rankings"):
        raise UserError(f"{name} holds {dataset.kind}, not comparisons or rankings")
    rows = list(dataset.rows())
    _known_labelers(without, {g.labeler for g in rows}, name)
    return [g for g in rows if g.labeler not in without]


def said(workspace: Workspace, name: str, without: Sequence[str] = ()) -> list[AnswerGroup]:
    """What people said of a set's groups, as in `comparisons`; empty if all of them are left out."""
    rankings, tests = workspace.rankings(name), gold(workspace, name)
    _known_labelers(without, {r.labeler for r in rankings}, name)
    groups = [g for g in workspace.groups(name) if g.id not in tests]
    return ranked(groups, rankings, without={*without, *quarantined(workspace)}, merged=False)


def _known_labelers(wanted: Sequence[str], known: set[str], name: str) -> None:
    """
    Raises:
        UserError: one of the names judged nothing of these data: leaving it out would change nothing, unnoticed.
    """
    if strange := [who for who in wanted if who not in known]:
        raise UserError(f'"{strange[0]}" has judged nothing of {name}, so nothing can be left out'
                        f"{nearest(strange[0], known)}")


def agreed(workspace: Workspace, settings: RewardSettings | PreferSettings) -> Agreed:
    """The comparisons as a model learns from them, and how they were made, for the run's summary.

    Raises:
        NotFound, UserError: as `comparisons`.
    """
    name = settings.comparisons
    held = sorted(quarantined(workspace) - set(settings.without))
    cap = project(workspace, name).share_cap if name in set_names(workspace) else 1.0
    people = comparisons(workspace, name, settings.without)
    found = agree(people, settings.consensus, cap=cap, held_out=settings.held_out)
    if settings.judged:
        found = _beside(workspace, settings, people, found)
    if held and name in set_names(workspace):
        left = {who: count for who, count in Counter(r.labeler for r in workspace.rankings(name, latest=True)).items()
                if who in held}
        return Agreed(found.groups, {**found.about, "quarantined": left})
    return found


def _beside(workspace: Workspace, settings: RewardSettings | PreferSettings, people: Sequence[AnswerGroup],
            found: Agreed) -> Agreed:
    """People's groups, and language models' labels beside them, each at what it is worth.

    Raises:
        UserError: a dataset that holds no judge's labels.
    """
    labels = []
    for name in settings.judged:
        dataset = workspace.dataset(name)
        rows = list(dataset.rows()) if dataset.kind == "comparisons" else []
        if not rows or any(g.source != "judge" for g in rows):
            raise UserError(f"{name} holds no labels by a language model: --judged is for what tunesmith judge makes")
        labels += rows
    known = reliability([g for g in people if not is_held_out(g, settings.held_out)], labels)
    more = weighed(labels, known, settings.held_out)
    about = {who: {**r.to_dict(), "groups": sum(g.labeler == who for g in more)} for who, r in known.items()}
    return Agreed([*found.groups, *more], {**found.about, "judges": about})


def label_noise(workspace: Workspace, settings: RewardSettings) -> float:
    """The share of wrong labels: from labelers' second looks, or without any from how far two labelers agree.

    Raises:
        UserError: nobody judged anything twice.
    """
    name = settings.comparisons
    if name in set_names(workspace):
        out = {*settings.without, *quarantined(workspace)}
        rankings = [r for r in workspace.rankings(name) if r.labeler not in out]
        looks = self_consistency({g.id: g for g in workspace.groups(name)}, rankings).values()
        if count := sum(i.n for i in looks):
            return round(flip_rate(sum(i.value * i.n for i in looks) / count), 4)
    found = agreement(comparisons(workspace, name, settings.without)).percent
    if not found.n:
        raise UserError(f"--label-smoothing auto: in {name} nothing was judged twice; give a number instead, such as "
                        "--label-smoothing 0.1")
    return round(flip_rate(found.value), 4)


def labelers_agreement(workspace: Workspace, name: str, without: Sequence[str] = ()) -> Interval:
    """How often two labelers of these comparisons agreed; of nothing, where no two judged the same group or all are in
    quarantine by now."""
    of_set = name in set_names(workspace)
    return agreement(said(workspace, name, without) if of_set else comparisons(workspace, name, without)).percent
