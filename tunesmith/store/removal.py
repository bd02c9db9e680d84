"""Taking an adapter away: never one that something else needs, and its number is never given to another."""

from __future__ import annotations

import json
from collections.abc import Iterator

import sqlalchemy as sa

from tunesmith.errors import Conflict, NotFound, UserError
from tunesmith.store import loops
from tunesmith.store import tables as db
from tunesmith.store.checks import split_version
from tunesmith.store.database import pack
from tunesmith.store.faults import storing
from tunesmith.store.publish import remove
from tunesmith.store.runs import now
from tunesmith.store.workspace import Adapter, Workspace

OVER = ("succeeded", "failed", "cancelled")
"""Fine-tuning jobs that need nothing any more."""


def remove_adapter(workspace: Workspace, name: str) -> Adapter:
    """Delete one version, files and all; other versions stay. Its row remains, so that no new one gets its number.

    A server that holds it in memory finishes the answers it is writing with it, and then no longer knows it.

    Raises:
        NotFound: naming the nearest.
        UserError: no version is named, and there are several.
        Conflict: something needs it; says what.
    """
    stem, version = split_version(name)
    versions = [a for a in workspace.adapters() if a.name == stem]
    if version is None and len(versions) > 1:
        raise UserError(f"{stem} has the versions {', '.join(str(a.version) for a in versions)}; say which, as in "
                        f"{versions[-1]}")
    adapter = next((a for a in versions if version in (None, a.version)), None)
    if adapter is None:
        raise NotFound(f'no adapter "{name}" to remove; `tunesmith adapters ls` lists what there is')
    if needs := [*_needs(workspace, adapter)]:
        more = f" (and {len(needs) - 3} more)" if len(needs) > 3 else ""
        raise Conflict(f"{adapter} is needed by {', '.join(needs[:3])}{more}; remove or end that first")
    here = (db.adapters.c.name == adapter.name, db.adapters.c.version == adapter.version)

    def mark(c: sa.Connection) -> None:
        about = json.loads(c.scalar(sa.select(db.adapters.c.about).where(*here)) or "{}")
        c.execute(sa.update(db.adapters).where(*here).values(about=pack({"removed": {"at": now(), **about}})))

    workspace.database.write(mark)
    with storing(workspace.root):
        if adapter.path.is_dir():
            remove(adapter.path)
    return adapter


def _needs(workspace: Workspace, adapter: Adapter) -> Iterator[str]:
    """What would break without it: its children's lineage, adapters on a full model, runs and jobs at work, loops."""
    others = [a for a in workspace.adapters() if str(a) != str(adapter)]
    newest = adapter.version == max(a.version for a in [adapter, *others] if a.name == adapter.name)
    words = {str(adapter), *([adapter.name] if newest else [])}
    children = [a for a in others if str(adapter) in a.lineage.get("parents", {}).values()]
    yield from (f"adapter {a}, trained from it" for a in children)
    if adapter.base.get("kind") == "full":
        yield from (f"adapter {a}, whose base it is" for a in others if a.base["spec"] == str(adapter))
    yield from (f"run {r.id}, which is at work" for r in workspace.runs()
                if r.alive and str(adapter) in r.inputs.values())
    with workspace.database.read() as c:
        jobs = c.execute(sa.select(db.jobs.c.id, db.jobs.c.body).where(db.jobs.c.status.not_in(OVER))).all()
        aliases = c.scalars(sa.select(db.model_names.c.name).where(
            db.model_names.c.adapter == str(adapter), ~db.model_names.c.deleted)).all()
    yield from (f"fine-tuning job {row.id}" for row in jobs if json.loads(row.body).get("model") in words)
    yield from (f"model {name} of the API" for name in aliases)
    yield from _loops(workspace, str(adapter))


def _loops(workspace: Workspace, adapter: str) -> Iterator[str]:
    """Loops that serve it or may go back to it, and rounds that are not over and have made it."""
    for loop in loops.names(workspace):
        standing = [a.adapter for a in loops.standing(workspace, loop)]
        back = f"tunesmith round rollback {loop}"
        if standing[0] == adapter:
            yield f"loop {loop}, which started from it and keeps it"
        elif standing[-1] == adapter:
            yield f"loop {loop}, which serves it (`{back}` goes back to the model before)"
        elif adapter in standing:
            yield f"loop {loop}, which may go back to it (until `{back}` has gone back further)"
    for r in loops.rounds(workspace):
        if r.open and adapter in [step.get("adapter") for step in r.steps.values()]:
            yield f"round {r}, which is not over (`tunesmith round refuse {r.loop}`)"
