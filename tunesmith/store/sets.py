"""Sets of answer groups, a part at a time: what pages need of sets with a million groups."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tunesmith.records import AnswerGroup
from tunesmith.store import tables as db
from tunesmith.store.places import set_seq

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
