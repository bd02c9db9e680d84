"""A workspace's database from SQLite to PostgreSQL, or back: every row, compared afterwards.

All rows are copied in one transaction of the new database, while nobody can write to the old one; only when both hold
the same does the workspace point to the new one. The old one stays as it was, as a backup. Folders (adapters, runs,
data) do not move. Left out: a move while people work; the studio has to be stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from tunesmith.errors import StorageError, UserError
from tunesmith.store import tables as db
from tunesmith.store.database import Database, database_url
from tunesmith.store.failpoints import failpoint
from tunesmith.store.faults import storing
from tunesmith.store.invariants import violations_in
from tunesmith.store.publish import write_atomically
from tunesmith.store.workspace import DATABASE, ELSEWHERE, Workspace

SQLITE = "sqlite"
"""Says "back into the folder" where a URL is asked for."""
PARTS = {"yield_per": 2000}
"""Rows in memory at a time."""
MOVED = ".moved"
"""Ends the name of what pointed to the old database."""


def move(root: str | Path, to: str) -> dict[str, int]:
    """Copy the database of the workspace in a folder to `to`, and let the workspace live there; rows per table.

    Args:
        to: the URL of an empty PostgreSQL database, or "sqlite".

    Raises:
        UserError: it is there already, the target holds something, or somebody works with the old database.
        StorageError: not copied, or not the same afterwards: the workspace stays where it was.
    """
    with Workspace.open(root) as workspace:  # brings the schema up to date
        root, source = workspace.root, workspace.database.url
    part = root / f".{DATABASE}.part"
    if to == SQLITE:
        if source.startswith("sqlite"):
            raise UserError(f"{root} has its database in {DATABASE} already")
        _remove(part)
        url = f"sqlite:///{part}"
    else:
        url = database_url(to)
        if not source.startswith("sqlite"):
            raise UserError(f"{root} has its database in PostgreSQL already; move it to {SQLITE} first")
    try:
        with storing(root), _alone(source) as old:
            counts = _copied(old, url, root)
            _switch(root, url, part)
    finally:
        _remove(part)
    return counts


def _copied(old: sa.Connection, url: str, root: Path) -> dict[str, int]:
    """Rows per table, once the new database holds them all and nothing else."""
    new = Database(url, root)
    try:
        new.check()
        if _holds_something(new):
            raise UserError(f"the database at {sa.make_url(url).render_as_string(hide_password=True)} is not empty; "
                            "choose another one")
        new.migrate()
        return new.write(lambda c: _copy(old, c))
    finally:
        new.close()


def _holds_something(new: Database) -> bool:
    """Whether there is a table that is not ours, or a row in one that is."""
    with new.read() as c:
        there = set(sa.inspect(c).get_table_names())
        if there - set(db.metadata.tables) - {"alembic_version"}:
            return True
        return any(c.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first()
                   for table in db.metadata.sorted_tables if table.name in there)


def _copy(old: sa.Connection, new: sa.Connection) -> dict[str, int]:
    counts = {}
    for table in db.metadata.sorted_tables:
        for rows in old.execute(sa.select(table), execution_options=PARTS).mappings().partitions():
            new.execute(sa.insert(table), [dict(row) for row in rows])
        if new.dialect.name == "postgresql" and "seq" in table.c:
            last, f = sa.func.max(table.c.seq), sa.func
            new.execute(sa.select(f.setval(f.pg_get_serial_sequence(table.name, "seq"), f.coalesce(last, 1),
                                           last.is_not(None))))
        failpoint("copied")
        one, two = _sum(old, table), _sum(new, table)
        if one != two:
            raise StorageError(f"{table.name}: {one[0]} rows became {two[0]} other ones; nothing was moved")
        counts[table.name] = one[0]
    if (broken := set(violations_in(new))) and (broken := broken - set(violations_in(old))):
        raise StorageError(f"the copy breaks a rule that the original keeps ({min(broken)}); nothing was moved")
    return counts


def _sum(c: sa.Connection, table: sa.Table) -> tuple[int, int]:
    """How many rows, and the sum of their hashes: the same in any order."""
    count = total = 0
    for row in c.execute(sa.select(table), execution_options=PARTS):
        count, total = count + 1, total + int.from_bytes(hashlib.sha256(repr(tuple(row)).encode()).digest()[:16])
    return count, total % 2**128


def _switch(root: Path, url: str, part: Path) -> None:
    """From here on the workspace lives there. Between its two steps a crash leaves both signs, which opens neither."""
    if part.exists():
        os.replace(part, root / DATABASE)
        os.replace(root / ELSEWHERE, root / (ELSEWHERE + MOVED))
    else:
        write_atomically(root / ELSEWHERE, sa.make_url(url).render_as_string(hide_password=True) + "\n")
        os.replace(root / DATABASE, root / (DATABASE + MOVED))


@contextlib.contextmanager
def _alone(url: str) -> Iterator[sa.Connection]:
    """A connection to a database that nobody else has open, and nobody can write to meanwhile.

    Raises:
        UserError: somebody has it open.
    """
    busy = UserError("somebody works with this workspace; stop the studio, servers and runs, then move it")
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=1)) as raw:
            try:
                raw.execute("PRAGMA journal_mode=DELETE")  # which only the one connection that is left may do
            except sqlite3.OperationalError as e:
                raise busy from e
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as c:
            c.exec_driver_sql("BEGIN EXCLUSIVE")
            yield c
            c.exec_driver_sql("COMMIT")
    else:
        engine = sa.create_engine(url)
        with engine.begin() as c:
            if c.scalar(sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                                "AND pid <> pg_backend_pid() AND backend_type = 'client backend'")):
                raise busy
            for table in db.metadata.sorted_tables:
                c.execute(sa.text(f"LOCK TABLE {table.name} IN EXCLUSIVE MODE"))
            yield c
    engine.dispose()


def _remove(part: Path) -> None:
    for end in ("", "-wal", "-shm", "-journal"):
        part.with_name(part.name + end).unlink(missing_ok=True)
