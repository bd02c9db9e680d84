"""A labeler's own verdicts, to look at and to change. Nobody's but their own can be asked for here."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tunesmith.errors import NotFound
from tunesmith.records import AnswerGroup, Ranking
from tunesmith.store import tables as db
from tunesmith.store.places import set_seq

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict that counts, its group, and what it replaced, oldest first. `set_name` is one that has the group."""

    seq: int
    ranking: Ranking
    created: str
    set_name: str
    group: AnswerGroup
    earlier: tuple[tuple[Ranking, str], ...] = ()


def verdicts(workspace: Workspace, labeler: str, set_name: str = "", before: int = 0, limit: int = 50) -> list[Verdict]:
    """The verdicts of a labeler that count, newest first.

    Args:
        set_name: only those on groups of this set.
        before: only those older than the verdict of this `seq`; 0 begins with the newest.

    Raises:
        NotFound: naming the nearest set.
    """
    r, m = db.rankings.c, db.members.c
    newer = db.rankings.alias()
    # A verdict counts unless another one says that it revises it; revisions have the same group and labeler.
    revised = sa.exists().where(newer.c.group_id == r.group_id, newer.c.labeler == r.labeler, newer.c.seq > r.seq,
                                newer.c.body.contains(sa.literal('"revises":"') + r.id + sa.literal('"')))
    query = sa.select(r.seq, r.group_id).where(r.labeler == labeler, ~revised)
    with workspace.database.read() as c:
        if set_name:
            query = query.where(sa.exists().where(m.group_id == r.group_id, m.set_seq == set_seq(c, set_name)))
        rows = c.execute((query.where(r.seq < before) if before else query).order_by(r.seq.desc()).limit(limit)).all()
        return _with_groups(c, labeler, [(row.seq, row.group_id) for row in rows], set_name)


def verdict(workspace: Workspace, id: str, labeler: str) -> Verdict:
    """The verdict that counts now in the line of the one with this id.

    Raises:
        NotFound: this labeler has no such verdict.
    """
    r = db.rankings.c
    with workspace.database.read() as c:
        row = c.execute(sa.select(r.seq, r.group_id).where(r.id == id, r.labeler == labeler)).first()
        if row is None:
            raise NotFound("you have no such verdict")
        own = c.execute(sa.select(r.seq, r.id, r.body).where(r.group_id == row.group_id, r.labeler == labeler)
                        .order_by(r.seq)).all()
        revises = {json.loads(o.body).get("revises", ""): o for o in own}
        newest = next(o for o in own if o.id == id)
        while newest.id in revises:
            newest = revises[newest.id]
        return _with_groups(c, labeler, [(newest.seq, row.group_id)], "")[0]


def _with_groups(c: sa.Connection, labeler: str, found: list[tuple[int, str]], set_name: str) -> list[Verdict]:
    r, m = db.rankings.c, db.members.c
    ids = [group for _, group in found]
    bodies = {row.id: row.body for row in c.execute(
        sa.select(db.groups.c.id, db.groups.c.body).where(db.groups.c.id.in_(ids)))}
    sets = {row.group_id: row.name for row in c.execute(  # the oldest set comes last and stays
        sa.select(m.group_id, db.sets.c.name).join(db.sets).where(m.group_id.in_(ids)).order_by(m.set_seq.desc()))}
    own: dict[int, tuple[Ranking, str]] = {}
    of_group: dict[str, dict[str, tuple[Ranking, str]]] = defaultdict(dict)
    for row in c.execute(sa.select(r.seq, r.group_id, r.body, r.created).where(
            r.labeler == labeler, r.group_id.in_(ids)).order_by(r.seq)):
        own[row.seq] = Ranking.from_dict(json.loads(row.body)), row.created
        of_group[row.group_id][own[row.seq][0].id] = own[row.seq]
    result = []
    for seq, group in found:
        ranking, created = own[seq]
        earlier, before = [], of_group[group].get(ranking.revises)
        while before is not None:
            earlier.append(before)
            before = of_group[group].get(before[0].revises)
        result.append(Verdict(seq, ranking, created, set_name or sets.get(group, ""),
                              AnswerGroup.from_dict(json.loads(bodies[group])), tuple(reversed(earlier))))
    return result
