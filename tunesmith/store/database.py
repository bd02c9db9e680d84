"""The database: engines, and how writes reach them. The tables are in `tables`.

SQLite lives in the workspace folder. All writes of a process pass through one thread, which commits up to `GROUP` of
them at once (one fsync for many labelers); each write is isolated from its neighbours.
On PostgreSQL, for teams, each write is a transaction of its own in the caller's thread; those that meet (a deadlock,
the same new row) are run again. What must not meet takes a lock: rows (`places.lock`) or a name (`alone`).
On both the caller gets its answer only after the commit.
"""

from __future__ import annotations

import json
import os
import queue
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from tunesmith.errors import MissingExtra, StorageError, UserError
from tunesmith.store.failpoints import failpoint
from tunesmith.store.faults import sqlstate, storing

T = TypeVar("T")
GROUP = 128
IDLE_SECONDS = 5.0
TRIES = 8
"""How often PostgreSQL gets a write that met another one."""
MEETINGS = {"40001", "40P01", "23505"}
"""PostgreSQL's codes for that: not serialisable, a deadlock, a key that another transaction inserted just now."""
HEAD = "0008"
"""The newest revision in migrations/; an up-to-date database opens without loading Alembic."""


def pack(value: Any) -> str:
    """A JSON-able value as the text that a column holds."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


def insert_once(c: sa.Connection, table: sa.Table, key: Mapping[str, Any], rest: Mapping[str, Any]) -> bool:
    """Insert a row unless its key is there; True if it was inserted."""
    if c.execute(sa.select(table).filter_by(**key)).first():
        return False
    c.execute(sa.insert(table).values(**key, **rest))
    return True


def pages(c: sa.Connection, statement: sa.Select[Any], key: sa.Column[Any], size: int = 5000) -> Iterator[sa.Row[Any]]:
    """The rows of a statement in the order of `key`, which no two share and which is its last column.

    Some at a time: PostgreSQL's driver lets no other thread run while it unpacks what it fetched, and a page of the
    studio would wait a second for a hundred thousand verdicts.
    """
    ordered, last = statement.order_by(key).limit(size), None
    while True:
        rows = c.execute(ordered if last is None else ordered.where(key > last)).all()
        yield from rows
        if len(rows) < size:
            return
        last = rows[-1][-1]


def alone(c: sa.Connection, what: str) -> None:
    """No other transaction that says the same name runs between here and the end of this one."""
    if c.dialect.name == "postgresql":
        c.execute(sa.select(sa.func.pg_advisory_xact_lock(zlib.crc32(f"tunesmith {what}".encode()))))


def database_url(url: str) -> str:
    """A PostgreSQL URL with the driver that we use.

    Raises:
        UserError: not a URL of a PostgreSQL database.
        MissingExtra: the driver is not installed.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as e:
        raise UserError(f'the database must be a URL such as "{_EXAMPLE}"') from e
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise UserError(f'the database must be PostgreSQL ("{_EXAMPLE}"), not "{parsed.get_backend_name()}"; '
                        "leave it out for SQLite in the workspace folder")
    if find_spec("psycopg") is None:
        raise MissingExtra("psycopg", "postgres")
    return parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


_EXAMPLE = "postgresql://user:password@host/name"


@dataclass
class _Job:
    work: Callable[[sa.Connection], Any]
    done: Future[Any]


class Database:
    """Engines for one URL. `where` is the folder that errors name."""

    def __init__(self, url: str, where: Path, busy_seconds: float = 10.0):
        self.url, self.where, self.busy_seconds = url, where, busy_seconds
        self.sqlite = url.startswith("sqlite")
        self._lock = threading.Lock()
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        if self.sqlite:
            self._reading = self._engine(isolation_level="AUTOCOMMIT", pool_size=8, max_overflow=24)
            self._writing = self._engine(pool_size=1, max_overflow=0)
        else:
            self._reading = self._engine(isolation_level="AUTOCOMMIT", pool_size=4, max_overflow=4)
            self._writing = self._engine(isolation_level="READ COMMITTED", pool_size=8, max_overflow=0)

    def _engine(self, foreign_keys: bool = True, **options: Any) -> sa.Engine:
        if self.sqlite:
            engine = sa.create_engine(self.url, **options)
            _prepare_sqlite(engine, self.busy_seconds, foreign_keys, begin="isolation_level" not in options)
            return engine
        waits = f"-c lock_timeout={int(self.busy_seconds * 1000)} -c idle_in_transaction_session_timeout=60000"
        return sa.create_engine(
            self.url, pool_pre_ping=True, pool_timeout=self.busy_seconds,
            connect_args={"connect_timeout": 10, "application_name": "tunesmith", "options": waits}, **options)

    def _in_this_process(self) -> None:
        """A forked child must not touch its parent's connections or wait for its parent's thread."""
        if self._process != os.getpid():
            self._lock = threading.Lock()
            self._reading.dispose(close=False)
            self._writing.dispose(close=False)
            self._start()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for queries.

        Raises:
            StorageError: the database is damaged, locked or gone.
        """
        self._in_this_process()
        with storing(self.where):
            with self._reading.connect() as connection:
                yield connection

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` inside a transaction; its result, once that is committed.

        `work` may run several times (when a neighbour breaks a shared transaction, or when two of them meet); only the
        last one counts, the effects of the others are undone.

        Raises:
            StorageError: no space, read-only, or another process holds the lock for too long.
            Exception: whatever `work` raises; then nothing of it is stored.
        """
        self._in_this_process()
        if not self.sqlite:
            with storing(self.where):
                return self._write_here(work)
        job = _Job(work, Future())
        with self._lock:
            if self._closed:
                raise StorageError(f"{self.where}: {_CLOSED}")
            self._jobs.put(job)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_loop, name="tunesmith-writer", daemon=True)
                self._writer.start()
        with storing(self.where):
            return job.done.result()

    def _write_here(self, work: Callable[[sa.Connection], T]) -> T:
        """A transaction in this thread, again if it meets another one."""
        for attempt in range(TRIES):
            if self._closed:
                break
            try:
                with self._writing.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                if sqlstate(error) not in MEETINGS or attempt == TRIES - 1:
                    raise
            time.sleep(random.uniform(0, 0.01 * 2 ** attempt))
        raise StorageError(f"{self.where}: {_CLOSED}")

    def close(self) -> None:
        """Finish what is queued and let go of the files."""
        with self._lock:
            self._closed = True
            writer = self._writer
            self._jobs.put(None)
        if writer is not None:
            writer.join()
        self._reading.dispose()
        self._writing.dispose()

    def _write_loop(self) -> None:
        while True:
            try:
                batch = [self._jobs.get(timeout=IDLE_SECONDS)]
            except queue.Empty:
                with self._lock:
                    if self._jobs.empty():
                        self._writer = None
                        return
                continue
            while batch[-1] is not None and len(batch) < GROUP and not self._jobs.empty():
                batch.append(self._jobs.get())
            if jobs := [job for job in batch if job is not None]:
                self._commit(jobs)
            if batch[-1] is None:
                return

    def _commit(self, batch: list[_Job]) -> None:
        results: list[tuple[_Job, Any, BaseException | None]] = []
        connection = None
        try:
            with self._writing.begin() as connection:
                for job in batch:
                    results.append((job, *_isolated(connection, job.work)))
        except BaseException as error:
            for job in batch:
                if connection is None or len(batch) == 1:
                    job.done.set_exception(error)
                else:  # someone broke the transaction: everyone again, alone
                    self._commit([job])
            return
        for job, result, failure in results:
            if failure is None:
                job.done.set_result(result)
            else:
                job.done.set_exception(failure)

    def check(self) -> None:
        """Let the database look for damage in itself.

        Raises:
            StorageError: there is some, or nobody answers there.
            UserError: a PostgreSQL database that cannot hold every text.
        """
        with self.read() as connection:
            if not self.sqlite:
                if (encoding := connection.exec_driver_sql("SHOW server_encoding").scalar()) != "UTF8":
                    raise UserError(f"the PostgreSQL database has the encoding {encoding}; make one with UTF8: "
                                    "createdb --encoding UTF8 --template template0 NAME")
                return
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if found != "ok":
            raise StorageError(f"{self.where}: the database is damaged ({found}); restore it from a backup")

    def revision(self) -> str:
        """The schema's revision, empty for a new database."""
        with self.read() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return ""
            return connection.scalar(sa.text("SELECT version_num FROM alembic_version")) or ""

    def migrate(self, to: str = "head") -> None:
        """Bring the schema up to date, in one transaction.

        Raises:
            UserError: a newer version of Tunesmith made this database.
            StorageError: locked, read-only, no space.
        """
        if (revision := self.revision()) == HEAD and to == "head":
            return
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        if revision and revision not in {s.revision for s in ScriptDirectory.from_config(config).walk_revisions()}:
            raise UserError(f"{self.where} was made by a newer version (its schema is {revision}, this one knows "
                            f"{HEAD}); upgrade: pip install --upgrade tunesmith")
        engine = self._engine(foreign_keys=False)
        with storing(self.where):
            with engine.begin() as connection:
                alone(connection, "migration")
                config.attributes["connection"] = connection
                command.upgrade(config, to)
                failpoint("migrated")
        engine.dispose()


_CLOSED = "the workspace was closed"


def _isolated(connection: sa.Connection, work: Callable[[sa.Connection], T]) -> tuple[T | None, BaseException | None]:
    """The result or the error of one write. Errors that may have ended the whole transaction are raised."""
    savepoint = connection.begin_nested()
    try:
        result = work(connection)
        savepoint.commit()
        return result, None
    except BaseException as error:
        try:
            savepoint.rollback()
        except DBAPIError:  # the database ended the whole transaction; what it said first is the reason
            raise error from None
        if isinstance(error, DBAPIError) and not isinstance(error, IntegrityError):
            raise
        return None, error


def _prepare_sqlite(engine: sa.Engine, busy_seconds: float, foreign_keys: bool, begin: bool) -> None:
    """Durable, concurrent SQLite: WAL, fsync at every commit, foreign keys, and write locks taken at the start."""

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins no transactions of its own
        for pragma in (f"busy_timeout={int(busy_seconds * 1000)}", "journal_mode=WAL", "synchronous=FULL",
                       f"foreign_keys={'ON' if foreign_keys else 'OFF'}"):
            connection.execute(f"PRAGMA {pragma}").fetchall()

    if begin:
        @sa.event.listens_for(engine, "begin")
        def begin_immediate(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
