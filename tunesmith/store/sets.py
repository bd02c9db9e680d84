"""Sets of answer groups, a part at a time: what pages need of sets with a million groups."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tunesmith.records import AnswerGroup
from tunesmith.store import tables as db
from tunesmith.store.places import CHUNK, set_seq
from tunesmith.store.work import OPEN, RANKABLE

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace


def set_names(workspace: Workspace) -> list[str]:
    """The names of all sets, oldest first."""
    with workspace.database.read() as c:
        return list(c.scalars(sa.select(db.sets.c.name).order_by(db.sets.c.seq)))


def sets_of(workspace: Workspace, group_id: str) -> list[str]:
    """The names of the sets that have a group, oldest first."""
    with workspace.database.read() as c:
        return list(c.scalars(sa.select(db.sets.c.name).join(db.members).where(db.members.c.group_id == group_id)
                              .order_by(db.sets.c.seq)))


def differing(workspace: Workspace, groups: Iterable[AnswerGroup]) -> int:
    """How many of these groups are stored already with other details: another split, other models. The first ones
    stay, whatever is imported later."""
    rest, count = iter({g.id: g for g in groups}.items()), 0
    while chunk := dict(itertools.islice(rest, CHUNK)):
        with workspace.database.read() as c:
            rows = c.execute(sa.select(db.groups.c.id, db.groups.c.body).where(db.groups.c.id.in_(chunk))).all()
        count += sum(AnswerGroup.from_dict(json.loads(row.body)) != chunk[row.id] for row in rows)
    return count


def asked_first(workspace: Workspace, set_name: str, limit: int) -> list[tuple[AnswerGroup, float]]:
    """The open groups of highest priority, with it: what is asked first in an informative order.

    Raises:
        NotFound: naming the nearest set.
    """
    m = db.members.c
    with workspace.database.read() as c:
        rows = c.execute(sa.select(db.groups.c.body, m.priority).join(db.members).where(
            m.set_seq == set_seq(c, set_name), OPEN).order_by(m.priority.desc(), m.shuffled.desc()).limit(limit)).all()
    return [(AnswerGroup.from_dict(json.loads(row.body)), row.priority) for row in rows]


def unrankable(workspace: Workspace, set_name: str) -> int:
    """How many open groups of a set nobody can rank: with one answer, or with more than a page shows.

    Raises:
        NotFound: naming the nearest set.
    """
    with workspace.database.read() as c:
        return c.scalar(sa.select(sa.func.count()).select_from(db.members).join(db.groups).where(
            db.members.c.set_seq == set_seq(c, set_name), OPEN, ~RANKABLE)) or 0


def some_groups(workspace: Workspace, set_name: str, start: int = 0, limit: int = 100) -> list[AnswerGroup]:
    """Up to `limit` groups of a set, from its `start`th on, in the order they came.

    Raises:
        NotFound: naming the nearest set.
    """
    m = db.members.c
    with workspace.database.read() as c:
        bodies = c.scalars(sa.select(db.groups.c.body).join(db.members).where(
            m.set_seq == set_seq(c, set_name), m.position >= start).order_by(m.position).limit(limit)).all()
    return [AnswerGroup.from_dict(json.loads(body)) for body in bodies]
