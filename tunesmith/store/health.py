"""How the work on a set goes, in counts: the queue, the days, what waits for somebody.

What may count a million rows (`tally`, `day_counts`) is for a thread beside the pages; the rest reads few rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tunesmith.records import AnswerGroup
from tunesmith.store import tables as db
from tunesmith.store.places import chunks, set_seq
from tunesmith.store.project import HAS_GOLD, read_project
from tunesmith.store.runs import now
from tunesmith.store.work import LIVE, WAITING

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

NEWEST_CLAIMS = 1000


@dataclass(frozen=True, slots=True)
class Queue:
    """Claims of a set now. `overdue` live ones gave no sign of life for a lease; `oldest` is when the oldest live one
    was made, "" if there is none. `recent` are the set's among the workspace's newest 1,000 claims, by their state."""

    live: int
    overdue: int
    oldest: str
    waiting: int
    gold: int
    recent: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Tally:
    """Groups of a set (test questions apart) by how many people judged them; `left` is how many verdicts are missing
    until every group has its overlap."""

    by_verdicts: Mapping[int, int]
    left: int


def queue(workspace: Workspace, set_name: str) -> Queue:
    """
    Raises:
        NotFound: naming the nearest set.
    """
    k, m, count = db.claims.c, db.members.c, sa.func.count()
    with workspace.database.read() as c:
        seq = set_seq(c, set_name)
        live, oldest = c.execute(sa.select(count, sa.func.min(k.created)).where(k.set_seq == seq, LIVE)).one()
        overdue = c.scalar(sa.select(count).where(k.set_seq == seq, LIVE, k.until < now()))
        waiting = c.scalar(sa.select(count).select_from(db.members).where(m.set_seq == seq, WAITING))
        gold = c.scalar(sa.select(count).select_from(db.members).where(m.set_seq == seq, HAS_GOLD))
        newest = sa.select(k.set_seq, k.state).order_by(k.seq.desc()).limit(NEWEST_CLAIMS).subquery()
        recent = c.execute(sa.select(newest.c.state, count).where(newest.c.set_seq == seq).group_by(newest.c.state))
        states = {str(state): int(n) for state, n in recent}
    return Queue(live, overdue or 0, oldest or "", waiting or 0, gold or 0, states)


def tally(workspace: Workspace, set_name: str) -> Tally:
    """
    Raises:
        NotFound: naming the nearest set.
    """
    m = db.members.c
    with workspace.database.read() as c:
        seq = set_seq(c, set_name)
        overlap = read_project(c, seq).overlap
        rows = c.execute(sa.select(m.done, sa.func.count()).where(m.set_seq == seq, m.gold == "").group_by(m.done))
        found = {int(done): int(n) for done, n in rows}
    return Tally(dict(sorted(found.items())), sum(max(overlap - done, 0) * n for done, n in found.items()))


def newest_verdict(workspace: Workspace) -> int:
    """The seq of the newest verdict of the workspace, 0 if there is none."""
    with workspace.database.read() as c:
        return c.scalar(sa.select(sa.func.max(db.rankings.c.seq))) or 0


def newest_of(workspace: Workspace, set_name: str, after: int, to: int) -> int:
    """The seq of a set's newest verdict behind `after` and up to `to`, 0 if there is none.

    Raises:
        NotFound: naming the nearest set.
    """
    r, m = db.rankings.c, db.members.c
    with workspace.database.read() as c:
        return c.scalar(sa.select(sa.func.max(r.seq)).join(db.members, m.group_id == r.group_id).where(
            m.set_seq == set_seq(c, set_name), r.seq > after, r.seq <= to)) or 0


def day_counts(workspace: Workspace, set_name: str, after: int, to: int) -> Counter[tuple[date, bool]]:
    """Verdicts and changes of verdicts behind `after` and up to `to`, by the machine's own days, and whether they are a
    simulated labeler's.

    They are summed by the hour, so that in a time zone of half hours some fall on the day beside.

    Raises:
        NotFound: naming the nearest set.
    """
    r, m = db.rankings.c, db.members.c
    hour = sa.func.substr(r.created, 1, 13)
    with workspace.database.read() as c:
        rows = c.execute(sa.select(hour, db.labelers.c.simulated, sa.func.count())
                         .join(db.members, m.group_id == r.group_id).join(db.labelers, db.labelers.c.name == r.labeler)
                         .where(m.set_seq == set_seq(c, set_name), r.seq > after, r.seq <= to)
                         .group_by(hour, db.labelers.c.simulated)).all()
    days: Counter[tuple[date, bool]] = Counter()
    for text, simulated, n in rows:
        moment = datetime.strptime(text, "%Y-%m-%dT%H").replace(tzinfo=UTC)
        days[moment.astimezone().date(), bool(simulated)] += n
    return days


def judged_groups(workspace: Workspace, set_name: str) -> list[AnswerGroup]:
    """The groups of a set that anybody judged, in the set's order.

    Raises:
        NotFound: naming the nearest set.
    """
    m, r = db.members.c, db.rankings.c
    with workspace.database.read() as c:
        seq = set_seq(c, set_name)
        ids = sa.select(r.group_id).join(db.members, m.group_id == r.group_id).where(m.set_seq == seq)
        bodies = c.execute(sa.select(m.position, db.groups.c.body).join(db.members).where(
            m.set_seq == seq, m.group_id.in_(ids))).all()
    return [AnswerGroup.from_dict(json.loads(row.body)) for row in sorted(bodies)]


def contested_states(workspace: Workspace, set_name: str, group_ids: Iterable[str]) -> dict[str, str]:
    """For each of the groups "waiting" (for a reviewer), "settled" (by one) or "" (nobody sent it).

    Raises:
        NotFound: naming the nearest set.
    """
    m, found = db.members.c, {}
    with workspace.database.read() as c:
        seq = set_seq(c, set_name)
        for chunk in chunks(group_ids):
            found.update({row.group_id: row.contested for row in c.execute(
                sa.select(m.group_id, m.contested).where(m.set_seq == seq, m.group_id.in_(chunk)))})
    return found


def in_set(workspace: Workspace, set_name: str, group_id: str) -> bool:
    """Whether a group is in a set.

    Raises:
        NotFound: naming the nearest set.
    """
    m = db.members.c
    with workspace.database.read() as c:
        return c.scalar(sa.select(m.position).where(
            m.set_seq == set_seq(c, set_name), m.group_id == group_id)) is not None


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a set's guidelines, and how many people have read it."""

    version: int
    by: str
    created: str
    readers: int


def guideline_versions(workspace: Workspace, set_name: str) -> list[Version]:
    """All versions of a set's guidelines, the newest first.

    Raises:
        NotFound: naming the nearest set.
    """
    g, a = db.guidelines.c, db.acknowledgements.c
    readers = sa.select(sa.func.count()).where(a.set_seq == g.set_seq, a.version == g.version).scalar_subquery()
    with workspace.database.read() as c:
        return [Version(*row) for row in c.execute(sa.select(g.version, g.by, g.created, readers).where(
            g.set_seq == set_seq(c, set_name)).order_by(g.version.desc()))]
