"""What must still be told to webhooks: one delivery for each job that has ended and each webhook.

The jobs themselves are the outbox: a job that has ended and has no delivery gets one, so nothing is lost whoever ended
it and whatever was killed meanwhile. A delivery that is being tried is put off first, so that two servers do not try it
at once; one that dies in the middle has it tried again later. So an event arrives at least once, under one id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tunesmith.records import fingerprint
from tunesmith.store import tables as db
from tunesmith.store.database import insert_once
from tunesmith.store.jobs import OVER
from tunesmith.store.runs import now
from tunesmith.store.team import from_now

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

WAITS: tuple[float, ...] = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
"""Seconds before each further try, as Standard Webhooks recommends; after the last it is given up, three days on."""
TRYING = 120.0
"""Seconds that a try may take."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event for a webhook: `job` has ended as `status` at `ended`."""

    id: str
    url: str
    job: str
    status: str
    ended: str
    tries: int


def subscribe(workspace: Workspace, urls: Sequence[str]) -> None:
    """From its first time on, a webhook hears of every job that ends."""
    def write(c: sa.Connection) -> None:
        for url in urls:
            insert_once(c, db.webhooks, {"url": url}, {"since": now()})

    workspace.database.write(write)


def take(workspace: Workspace, url: str, most: int = 20) -> list[Delivery]:
    """The deliveries to one webhook that are due, oldest first; each is put off while it is tried."""
    if not _anything(workspace, url):
        return []

    def write(c: sa.Connection) -> list[Delivery]:
        for id in c.scalars(_missing(url)).all():
            insert_once(c, db.deliveries, {"url": url, "job_id": id}, {
                "id": f"wh_{fingerprint([url, id])}", "state": "waiting", "tries": 0, "next": "", "said": ""})
        rows = c.execute(_due(url).limit(most).with_for_update(of=db.deliveries, skip_locked=True)).all()
        for row in rows:
            c.execute(sa.update(db.deliveries).where(db.deliveries.c.id == row.id).values(
                tries=row.tries + 1, next=from_now(minutes=TRYING / 60)))
        return [Delivery(row.id, url, row.job_id, row.status, row.finished, row.tries + 1) for row in rows]

    return workspace.database.write(write)


def arrived(workspace: Workspace, delivery: Delivery) -> None:
    """It need not be tried again."""
    _set(workspace, delivery, state="delivered", said="")


def failed(workspace: Workspace, delivery: Delivery, why: str, wait: float = 0.0) -> float:
    """It is tried again later, in this many seconds; 0: it was given up. `wait` is what the other side asked for."""
    if delivery.tries > len(WAITS):
        _set(workspace, delivery, state="given up", said=why)
        return 0.0
    seconds = max(WAITS[delivery.tries - 1], wait)
    _set(workspace, delivery, next=from_now(minutes=seconds / 60), said=why)
    return seconds


def _set(workspace: Workspace, delivery: Delivery, **values: str) -> None:
    workspace.database.write(lambda c: c.execute(
        sa.update(db.deliveries).where(db.deliveries.c.id == delivery.id).values(**values)))


def _anything(workspace: Workspace, url: str) -> bool:
    with workspace.database.read() as c:
        return bool(c.scalar(sa.select(sa.or_(_missing(url).exists(), _due(url).exists()))))


def _missing(url: str) -> sa.Select[tuple[str]]:
    """Jobs that have ended since the webhook is there and have no delivery to it."""
    since = sa.select(db.webhooks.c.since).where(db.webhooks.c.url == url).scalar_subquery()
    there = sa.exists().where(db.deliveries.c.url == url, db.deliveries.c.job_id == db.jobs.c.id)
    return sa.select(db.jobs.c.id).where(db.jobs.c.status.in_(OVER), db.jobs.c.finished >= since, ~there).order_by(
        db.jobs.c.finished)


def _due(url: str) -> sa.Select[tuple[str, int, str, str, str]]:
    """The webhook's deliveries whose time has come."""
    return (sa.select(db.deliveries.c.id, db.deliveries.c.tries, db.deliveries.c.job_id, db.jobs.c.status,
                      db.jobs.c.finished)
            .join(db.jobs, db.jobs.c.id == db.deliveries.c.job_id)
            .where(db.deliveries.c.url == url, db.deliveries.c.state == "waiting", db.deliveries.c.next <= now())
            .order_by(db.jobs.c.finished))
