"""The end of what users said: retention, erasure on request, and what has to be trained again after that.

Whoever makes a dataset or a set of answer groups of interactions notes it with `used`; the note holds ids and the
user's pseudonym and stays when the interactions are gone, so what learned from them can be named at any time:
`to_retrain`. Erasing takes the pseudonym out of it.
Erasing overwrites the rows on the disk (SQLite: secure_delete, and the write-ahead log is emptied). Backups, copies
that were exported, and datasets that exist already are the owner's to delete: these last are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tunesmith.store import tables as db
from tunesmith.store.audit import append
from tunesmith.store.interactions import CHUNK, later
from tunesmith.store.privacy import pseudonym, secret_of
from tunesmith.store.runs import now
from tunesmith.store.team import SHELL

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Learned:
    """What was made from interactions: datasets (and sets of answers), the runs that read them, and the adapters that
    came of these, children included."""

    datasets: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How much went, and what learned from it and has to be made again."""

    interactions: int
    events: int
    learned: Learned


def used(workspace: Workspace, dataset: str, interactions: Iterable[str]) -> int:
    """Note that a dataset or a set of answers was made from interactions; how many notes were new. What is made of an
    older set after its user was forgotten is to be made again as well."""
    rest, new = iter(dict.fromkeys(interactions)), 0
    while chunk := [*islice(rest, CHUNK)]:
        def write(c: sa.Connection, ids: Sequence[str] = chunk) -> int:
            u = db.interaction_uses.c
            there = set(c.scalars(sa.select(u.interaction).where(u.dataset == dataset, u.interaction.in_(ids))))
            whose = _whose(c, ids)
            erased = dict(c.execute(sa.select(u.interaction, u.erased).where(
                u.interaction.in_(ids), u.erased != "")).tuples().all())
            fresh = [{"dataset": dataset, "interaction": id, "user": "" if id in erased else whose.get(id, ""),
                      "erased": erased.get(id, "")} for id in ids if id not in there]
            if fresh:
                c.execute(sa.insert(db.interaction_uses), fresh)
            return len(fresh)

        new += workspace.database.write(write)
    return new


def _whose(c: sa.Connection, ids: Sequence[str]) -> dict[str, str]:
    """Interaction -> its user; of one that retention has deleted, as an earlier note has it."""
    i, u = db.interactions.c, db.interaction_uses.c
    noted = c.execute(sa.select(u.interaction, u.user).where(u.interaction.in_(ids), u.user != ""))
    logged = c.execute(sa.select(i.id, i.user).where(i.id.in_(ids)))
    return {**dict(noted.tuples().all()), **dict(logged.tuples().all())}


def uses(workspace: Workspace, dataset: str) -> list[str]:
    """The interactions that a dataset or a set of answers was made from, to note them for what is made of it."""
    u = db.interaction_uses.c
    with workspace.database.read() as c:
        return list(c.scalars(sa.select(u.interaction).where(u.dataset == dataset).order_by(u.seq)))


def forget(workspace: Workspace, user: str, by: str = SHELL) -> Forgotten:
    """Erase everything of a user: an id as the application knows it, or a pseudonym. A second time, nothing is left.

    What was made of exchanges that retention has deleted since is named too. The audit log notes how much was erased,
    not whose it was.
    """
    who, u = pseudonym(secret_of(workspace.root), "user", user), db.interaction_uses.c
    gone = sa.select(db.interactions.c.id).where(db.interactions.c.user == who)
    theirs = (u.user == who) | u.interaction.in_(gone)
    with workspace.database.read() as c:
        names = sorted(set(c.scalars(sa.select(u.dataset).where(theirs))))

    found = learned(workspace, names)

    def write(c: sa.Connection) -> tuple[int, int]:
        c.execute(sa.update(db.interaction_uses).where(theirs).values(erased=now(), user=""))
        interactions, events = _delete(c, db.interactions.c.user == who)
        if interactions or names:
            append(c, by, "interactions.forget", "a user", {"interactions": interactions, "events": events,
                                                            "datasets": names, "adapters": found.adapters})
        return interactions, events

    return Forgotten(*_erase(workspace, write), found)


def purge(workspace: Workspace, days: float = 0) -> int:
    """Delete exchanges whose time is over, and with `days` all that are older; how many.

    Raises:
        StorageError: not deleted.
    """
    i = db.interactions.c
    over = (i.expires != "") & (i.expires <= now())
    if days:
        over = over | (i.created < later(now(), days=-days))
    with workspace.database.read() as c:
        if not c.scalar(sa.select(i.seq).where(over).limit(1)):
            return 0
    return _erase(workspace, lambda c: _delete(c, over))[0]


def to_retrain(workspace: Workspace) -> Learned:
    """What learned from interactions that were erased since, and stands until it is made again."""
    with workspace.database.read() as c:
        names = c.scalars(sa.select(db.interaction_uses.c.dataset).distinct()
                          .where(db.interaction_uses.c.erased != "")).all()
    return learned(workspace, sorted(names))


def learned(workspace: Workspace, names: Sequence[str]) -> Learned:
    """The datasets and sets of these names that are still there, and what was trained on them."""
    there = {d.name for d in workspace.datasets()} | {s["name"] for s in workspace.group_sets()}
    wanted, adapters = set(names), workspace.adapters()
    parents: dict[str, list[str]] = {}
    for adapter in adapters:
        for parent in adapter.lineage.get("parents", {}).values():
            parents.setdefault(parent, []).append(str(adapter))
    found = [str(a) for a in adapters if wanted & set(a.lineage.get("data", {}))]
    for name in found:  # grows while it is read: children of children
        found += [child for child in parents.get(name, ()) if child not in found]
    made = {a.lineage.get("run") for a in adapters if str(a) in found}
    runs = [r.id for r in workspace.runs() if r.id in made or wanted & set(_read(r.settings))]
    return Learned(tuple(n for n in names if n in there), tuple(runs),
                   tuple(str(a) for a in adapters if str(a) in found))


def _read(settings: Mapping[str, Any]) -> Iterator[str]:
    """The data that a run's settings name: it may have ended before it made an adapter."""
    for key in ("data", "comparisons", "prompts", "ptx", "replay"):
        value = settings.get(key) or ()
        yield from [value] if isinstance(value, str) else value


def _erase(workspace: Workspace, write: Callable[[sa.Connection], tuple[int, int]]) -> tuple[int, int]:
    """In SQLite the freed pages are overwritten, and the write-ahead log, where older ones stand, is emptied; who reads
    at this moment may delay that to the next time."""
    database = workspace.database
    if not database.sqlite:
        return database.write(write)
    database.write(lambda c: c.exec_driver_sql("PRAGMA secure_delete=ON").fetchall())
    done = database.write(write)
    with database.read() as c:
        c.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return done


def _delete(c: sa.Connection, which: sa.ColumnElement[bool]) -> tuple[int, int]:
    seqs = sa.select(db.interactions.c.seq).where(which)
    events = c.execute(sa.delete(db.interaction_events).where(db.interaction_events.c.interaction_seq.in_(seqs)))
    gone = c.execute(sa.delete(db.interactions).where(which))
    return gone.rowcount, events.rowcount
