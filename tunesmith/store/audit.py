"""Who did what: an append-only log in which every entry's digest covers the one before.

A changed, inserted or removed entry breaks the chain (`verify_audit`); removing the newest entries can only be noticed
by who wrote down an earlier head. The digest holds no secret: it shows accidents and clumsy hands, not somebody who
may rewrite the whole database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tunesmith.errors import StorageError
from tunesmith.store import tables as db
from tunesmith.store.database import pack
from tunesmith.store.runs import now

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

_START = "0" * 64
_LOCK = 0x74756E65
"""The advisory lock on PostgreSQL, where several writers could otherwise extend the same head."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log. `detail` is JSON-able."""

    seq: int
    at: str
    actor: str
    action: str
    object: str
    detail: Any
    digest: str


def audit(workspace: Workspace, actor: str, action: str, object: str = "",
          detail: Mapping[str, Any] | None = None) -> None:
    """Append an entry of its own. What changes something else should call `append` in the same transaction."""
    workspace.database.write(lambda c: append(c, actor, action, object, detail))


def append(c: sa.Connection, actor: str, action: str, object: str = "",
           detail: Mapping[str, Any] | None = None) -> None:
    """Append an entry inside the caller's transaction. Texts are cut at what the columns hold."""
    lock(c)
    head = c.scalar(sa.select(db.audit.c.digest).order_by(db.audit.c.seq.desc()).limit(1)) or _START
    row = {"at": now(), "actor": actor[:64], "action": action[:32], "object": object[:200],
           "detail": pack(dict(detail or {}))}
    c.execute(sa.insert(db.audit).values(**row, digest=_digest(head, row)))


def lock(c: sa.Connection) -> None:
    """Let no other transaction append before this one ends. SQLite has a single writer anyway."""
    if c.dialect.name == "postgresql":
        c.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def entries(workspace: Workspace, limit: int = 100, before: int = 0) -> list[Entry]:
    """The newest entries first; `before` is the seq where the last page ended."""
    query = sa.select(db.audit).order_by(db.audit.c.seq.desc()).limit(limit)
    if before:
        query = query.where(db.audit.c.seq < before)
    with workspace.database.read() as c:
        return [Entry(r.seq, r.at, r.actor, r.action, r.object, json.loads(r.detail), r.digest)
                for r in c.execute(query)]


def verify_audit(workspace: Workspace) -> tuple[int, str]:
    """How many entries there are and the digest of the newest, after checking them all.

    Raises:
        StorageError: naming the first entry that does not fit the one before.
    """
    head, count, last = _START, 0, 0
    with workspace.database.read() as c:
        while rows := c.execute(sa.select(db.audit).where(db.audit.c.seq > last).order_by(db.audit.c.seq)
                                .limit(10_000)).all():
            for r in rows:
                row = {"at": r.at, "actor": r.actor, "action": r.action, "object": r.object, "detail": r.detail}
                if _digest(head, row) != r.digest:
                    raise StorageError(f"the audit log was altered at entry {r.seq} ({r.at}) or just before it; "
                                       "compare it with a backup")
                head, count, last = r.digest, count + 1, r.seq
    return count, head


def _digest(head: str, row: Mapping[str, str]) -> str:
    return hashlib.sha256(f"{head}{pack(row)}".encode()).hexdigest()
