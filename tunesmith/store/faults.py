"""The errors of disks and databases in words a person can act on."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DataError as OutOfRange
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tunesmith.errors import DataError, StorageError, TunesmithError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_SAYINGS = {  # what SQLite says -> what we say
    "disk is full": "no space left; free some and try again, nothing half-written was kept",
    "readonly": "is read-only; make it writable or choose another folder with --workspace",
    "locked": "is busy: another process keeps writing to it; wait for it to finish or stop it",
    "busy": "is busy: another process keeps writing to it; wait for it to finish or stop it",
    "disk i/o": "the disk reported an error while writing; check that it is healthy and has space",
    "malformed": "the database tunesmith.db is damaged; restore it from a backup",
    "not a database": "the database tunesmith.db is damaged; restore it from a backup",
    "unable to open": "the database tunesmith.db cannot be opened; check the folder's permissions",
}
_CODES = {  # PostgreSQL's codes, or how they begin
    "53100": "no space left on the database server; free some and try again, nothing half-written was kept",
    "25006": "the database server is read-only",
    "53300": "the database server has no connection left; try again, or allow more (max_connections)",
    "53": "the database server is short of something ({said})",
    "55P03": "is busy: another process keeps writing to it; wait for it to finish or stop it",
    "57P": "the database server is going down or coming up; try again in a moment",
    "08": "the connection to the database server broke ({said}); try again",
    "42501": "the database server does not let this user do that ({said})",
    "58": "the database server's disk reported an error ({said})",
    "XX": "the database server found damage in itself ({said}); restore it from a backup",
}


def sqlstate(error: BaseException) -> str:
    """PostgreSQL's code of an error, empty if it has none."""
    return str(getattr(error.orig, "sqlstate", None) or "") if isinstance(error, DBAPIError) else ""


def explain(error: BaseException, where: Path) -> TunesmithError | None:
    """The storage error behind an exception, or that no column holds such a text or number; None if it is something
    else (a bug, a user's mistake)."""
    if isinstance(error, OSError):
        return StorageError(f"{where}: {_of_os(error)}")
    if isinstance(error, PoolTimeout):
        return StorageError(f"{where}: {_CODES['55P03']}")
    if isinstance(error, DBAPIError) and type(error.orig).__module__.startswith("psycopg"):
        return _of_postgres(error, where)
    text = str(error.orig if isinstance(error, DBAPIError) else error).lower()
    if isinstance(error, DBAPIError | sqlite3.Error):
        return next((StorageError(f"{where}: {said}") for sign, said in _SAYINGS.items() if sign in text), None)
    if "no space left" in text or "os error 28" in text:  # safetensors wraps the system's error in its own
        return StorageError(f"{where}: {_SAYINGS['disk is full']}")
    return None


@contextmanager
def storing(where: Path) -> Iterator[None]:
    """Turn a full or read-only disk, a lock or a damaged database into a `StorageError` that names the folder."""
    try:
        yield
    except Exception as error:
        clear = None if isinstance(error, StorageError) else explain(error, where)
        if clear is None:
            raise
        raise clear from error


def _of_postgres(error: DBAPIError, where: Path) -> TunesmithError | None:
    if isinstance(error, OutOfRange):  # a NUL in a name, a number beyond 32 bits
        return DataError(f"the database cannot look for that: {str(error.orig).strip()}")
    code, said = sqlstate(error), str(error.orig).strip().partition("\n")[0]
    known = next((text for sign, text in _CODES.items() if code and code.startswith(sign)), None)
    if known is None and not code and isinstance(error, OperationalError):  # it never came to a conversation
        known = "no connection to the database server ({said}); is it running, is TUNESMITH_DATABASE right?"
    return None if known is None else StorageError(f"{where}: {known.format(said=said)}")


def _of_os(error: OSError) -> str:
    if error.errno in _FULL:
        return _SAYINGS["disk is full"]
    if error.errno in _FORBIDDEN:
        return f"cannot write here ({error.strerror}); make it writable or choose another folder with --workspace"
    return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
