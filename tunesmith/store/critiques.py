"""Critiques that labelers may see beside a group's answers, and who sees them.

Whether a labeler sees a group's critique is decided once, by group and labeler alone, so that reloading, undoing and a
second look show the same; the share that sees them is the project's (`Project.critique_share`). The verdict keeps which
arm it belongs to (`Ranking.trace["critique"]`), and `evaluate.oversight.anchoring` compares the two.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tunesmith.errors import DataError, NotFound
from tunesmith.records import Ranking
from tunesmith.store import tables as db
from tunesmith.store.places import set_seq
from tunesmith.store.runs import now

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

SHOWN, HIDDEN = "shown", "hidden"
LONGEST = 10_000
"""Characters of a critique."""
MANY = 1000


@dataclass(frozen=True, slots=True)
class Critique:
    """What somebody or something (`by`) holds of a group's answers, called `[[0]]`, `[[1]]`, ... in the text, and which
    it holds for the best."""

    group: str
    text: str
    choice: int | None = None
    by: str = ""


def add_critiques(workspace: Workspace, critiques: Iterable[Critique]) -> int:
    """Keep critiques, one per group; how many were new. One that is there stays: people may have seen it.

    Raises:
        NotFound: an unknown group.
        DataError: no text, one too long, or a choice that is no answer of the group.
    """
    found = {c.group: c for c in critiques}
    for c in found.values():
        if not c.text.strip() or len(c.text) > LONGEST or "\0" in c.text:
            raise DataError(f"a critique has 1 to {LONGEST} characters, the one of group {c.group} has {len(c.text)}")
    return sum(workspace.database.write(partial(_add, critiques=chunk)) for chunk in _chunks(list(found.values())))


def _add(c: sa.Connection, critiques: list[Critique]) -> int:
    ids = [x.group for x in critiques]
    answers = {row.id: row.answers for row in c.execute(sa.select(db.groups.c.id, db.groups.c.answers)
                                                        .where(db.groups.c.id.in_(ids)))}
    for x in critiques:
        if x.group not in answers:
            raise NotFound(f'no answer group "{x.group}"')
        if x.choice is not None and not 0 <= x.choice < answers[x.group]:
            raise DataError(f"the critique of group {x.group} chooses answer {x.choice}, but there are answers 0 to "
                            f"{answers[x.group] - 1}")
    there = set(c.scalars(sa.select(db.critiques.c.group_id).where(db.critiques.c.group_id.in_(ids))))
    new = [x for x in critiques if x.group not in there]
    if new:
        c.execute(sa.insert(db.critiques), [{"group_id": x.group, "text": x.text, "choice": x.choice, "by": x.by[:300],
                                             "created": now()} for x in new])
    return len(new)


def critique(workspace: Workspace, group_id: str) -> Critique | None:
    """The critique of a group, if there is one."""
    with workspace.database.read() as c:
        row = c.execute(sa.select(db.critiques).where(db.critiques.c.group_id == group_id)).first()
    return None if row is None else Critique(row.group_id, row.text, row.choice, row.by)


def critiques(workspace: Workspace, set_name: str) -> dict[str, Critique]:
    """The critiques of a set's groups, by group.

    Raises:
        NotFound: naming the nearest set.
    """
    m, k = db.members.c, db.critiques.c
    with workspace.database.read() as c:
        rows = c.execute(sa.select(db.critiques).join(db.members, m.group_id == k.group_id)
                         .where(m.set_seq == set_seq(c, set_name))).all()
    return {row.group_id: Critique(row.group_id, row.text, row.choice, row.by) for row in rows}


def arm(group_id: str, labeler: str, share: float) -> str:
    """Whether this labeler sees this group's critique, where a share of all labelers and groups does."""
    return SHOWN if zlib.crc32(f"critique\0{group_id}\0{labeler}".encode()) < share * 2**32 else HIDDEN


def arm_of(ranking: Ranking) -> str:
    """Which arm a verdict belongs to; "" for neither: no critique, or a project that shows none."""
    said = ranking.trace.get("critique", "")
    return said if said in (SHOWN, HIDDEN) else ""


def _chunks(rows: list[Critique]) -> Iterable[list[Critique]]:
    return (rows[start:start + MANY] for start in range(0, len(rows), MANY))
