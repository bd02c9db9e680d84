"""The same request sent twice makes one thing: clients that heard no answer send theirs again.

A request carries an `Idempotency-Key`, or it is known by who sent it and by what it says. In the second case only a
client that says so (`again`) means the same thing: two alike requests may well mean two jobs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import sqlalchemy as sa

from tunesmith.errors import UserError
from tunesmith.store import tables as db
from tunesmith.store.runs import now
from tunesmith.store.team import from_now

RETRY_MINUTES = 10
KEY_DAYS = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells a request from others. `who` and `path` say whose it is, `said` is its content in a fixed form."""

    who: str
    path: str
    said: str
    key: str = ""
    again: bool = False
    arrived: str = field(default_factory=now)

    @property
    def digest(self) -> str:
        """64 hex digits: the first half names the request, the second its content."""
        content = _hash(self.said)
        return (_hash("key", self.who, self.path, self.key) if self.key else _hash(self.who, self.path, content)) + (
            content)


def first(c: sa.Connection, mark: Mark) -> str:
    """The id of what this request made when it came before, "" if it did not.

    Raises:
        UserError: the key came before with another content.
    """
    table, digest = db.once, mark.digest
    since = from_now(days=-KEY_DAYS) if mark.key else from_now(minutes=-RETRY_MINUTES)
    query = (sa.select(table.c.mark, table.c.object).where(table.c.mark.startswith(digest[:32]))
             .order_by(table.c.seq).limit(1))
    if mark.key or mark.again:
        row = c.execute(query.where(table.c.created >= since)).first()
    else:  # the client gave up on this one and its second try was faster
        row = c.execute(query.where(table.c.again, table.c.created >= mark.arrived)).first()
    if row and row.mark != digest:
        raise UserError("this Idempotency-Key came before with another request; use a new one")
    return str(row.object) if row else ""


def note(c: sa.Connection, mark: Mark, object: str) -> None:
    """Remember what the request made."""
    c.execute(sa.insert(db.once).values(mark=mark.digest, object=object, again=mark.again, created=now()))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
