"""Places: how many people may judge a group of a set, and who holds one.

A place is held by a person's verdict (the newest one, unless it is a skip) or by a live claim. Test questions, second
looks and reviews hold none, nor do simulated labelers, nor verdicts of people in quarantine: others judge those groups
anew. `settle` counts the places from the rows themselves, so that
the counters in `members` cannot drift; whoever changes claims or verdicts of a group locks it first and settles it
last, in one transaction.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa

from tunesmith.errors import NotFound, nearest
from tunesmith.store import tables as db

OVERLAP = 2
"""How many people judge each group, unless the project says otherwise."""
CHUNK = 500


def set_seq(c: sa.Connection, name: str) -> int:
    """The key of a set.

    Raises:
        NotFound: naming the nearest.
    """
    seq = c.scalar(sa.select(db.sets.c.seq).where(db.sets.c.name == name))
    if seq is None:
        known = c.scalars(sa.select(db.sets.c.name)).all()
        raise NotFound(f'no set of answer groups "{name}"{nearest(name, known)}')
    return int(seq)


def chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    """The ids in order, each once, as many as one query takes."""
    rest = iter(sorted(set(ids)))
    while chunk := list(itertools.islice(rest, CHUNK)):
        yield chunk


def lock(c: sa.Connection, group_ids: Iterable[str]) -> None:
    """Nobody else changes claims and verdicts of these groups until this transaction ends."""
    if c.dialect.name == "sqlite":
        return  # a transaction that writes is alone there
    for chunk in chunks(group_ids):
        c.execute(sa.select(db.groups.c.id).where(db.groups.c.id.in_(chunk)).order_by(db.groups.c.id)
                  .with_for_update(key_share=True)).all()


def settings_of(c: sa.Connection, seqs: Iterable[int], hold: bool = False) -> dict[int, dict[str, Any]]:
    """What the projects of these sets say; with `hold` they stay so until this transaction ends."""
    wanted = sorted(set(seqs))
    if hold and c.dialect.name != "sqlite":
        c.execute(sa.select(db.sets.c.seq).where(db.sets.c.seq.in_(wanted)).order_by(db.sets.c.seq)
                  .with_for_update(read=True)).all()
    rows = c.execute(sa.select(db.projects).where(db.projects.c.set_seq.in_(wanted)))
    return {seq: {} for seq in wanted} | {row.set_seq: json.loads(row.settings) for row in rows}


def settle(c: sa.Connection, group_ids: Iterable[str]) -> None:
    """Bring the counters of these groups, in every set they are in, up to their claims and verdicts."""
    for chunk in chunks(group_ids):
        m = db.members.c
        rows = c.execute(sa.select(m.set_seq, m.group_id, m.taken, m.done, m.gold, m.open)
                         .where(m.group_id.in_(chunk))).all()
        overlap = {seq: int(settings.get("overlap", OVERLAP))
                   for seq, settings in settings_of(c, {row.set_seq for row in rows}, hold=True).items()}
        done, live = people(c, chunk), holders(c, chunk)
        changed = []
        for row in rows:
            verdicts = len(done[row.group_id])
            taken = verdicts + len(live[row.group_id] - done[row.group_id])
            wanted = (taken, verdicts, not row.gold and taken < overlap[row.set_seq])
            if wanted != (row.taken, row.done, row.open):
                changed.append({"the_set": row.set_seq, "the_group": row.group_id,
                                **dict(zip(("taken", "done", "open"), wanted))})
        if changed:
            c.execute(sa.update(db.members).where(m.set_seq == sa.bindparam("the_set"),
                                                  m.group_id == sa.bindparam("the_group")), changed)


def settle_all_of(c: sa.Connection, labeler: str) -> None:
    """Settle every group that somebody has judged: their verdicts hold places now, or hold them no more."""
    judged = c.scalars(sa.select(db.rankings.c.group_id).distinct().where(db.rankings.c.labeler == labeler)).all()
    lock(c, judged)
    settle(c, judged)


def people(c: sa.Connection, group_ids: list[str]) -> dict[str, set[str]]:
    """Whose verdicts count on each group: people not in quarantine whose newest one is no skip."""
    r, q = db.rankings.c, db.quarantines.c
    held = sa.exists().where(q.labeler == r.labeler, q.lifted_at == "")
    rows = c.execute(sa.select(r.group_id, r.labeler, r.body).join(db.labelers)
                     .where(r.group_id.in_(group_ids), sa.not_(db.labelers.c.simulated), ~held).order_by(r.seq))
    judged: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        body = json.loads(row.body)
        if not body.get("purpose"):
            (judged[row.group_id].discard if body.get("skipped") else judged[row.group_id].add)(row.labeler)
    return judged


def holders(c: sa.Connection, group_ids: list[str]) -> dict[str, set[str]]:
    """Who holds a live claim for ordinary work on each group."""
    k = db.claims.c
    rows = c.execute(sa.select(k.group_id, k.labeler).where(
        k.group_id.in_(group_ids), k.state == "live", k.purpose == "normal"))
    holding: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        holding[row.group_id].add(row.labeler)
    return holding
