"""Every error a person can meet.

    TunesmithError
    ├── UserError                 a person can mend it: one clear line, exit code 2, HTTP 400
    │   ├── SettingsError         an unknown key, a value out of range
    │   ├── DataError             a bad file or row; carries path, line and field
    │   │   └── TooLong           a text of more tokens than the model reads
    │   ├── NotFound              a name that the workspace or the machine does not have; HTTP 404
    │   ├── NotAllowed            this person may not do it; HTTP 403
    │   ├── Conflict              somebody else was faster; HTTP 409
    │   ├── Unjudged              people have to look first; then the same command goes on
    │   ├── ModelError            a base or adapter that cannot be loaded or does not fit
    │   ├── GraderError           a grader that cannot be used; carries the field
    │   └── MissingExtra          an optional dependency; carries the install line
    ├── GateClosed                a model broke a rule of the gate; exit code 1
    ├── StorageError              no space, read-only, another writer; HTTP 507
    ├── TrainingStopped           NaN or exploding loss; the last good checkpoint is kept
    └── Interrupted               somebody paused or cancelled it between two steps; a checkpoint is kept

`cli.main` turns them into exit codes, `service.app` into HTTP statuses; nobody else catches the root.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.records import Ranking


class TunesmithError(Exception):
    """The root of the tree."""

    exit_code = 1
    status = 500


class UserError(TunesmithError):
    """Something the person can mend: say what, where, and the cure."""

    exit_code = 2
    status = 400


class Unjudged(UserError):
    """People have to judge something first; then the same command goes on."""


class SettingsError(UserError):
    """An unknown key or a value out of range."""


class DataError(UserError):
    """A bad file or row. Prints as `demos.jsonl:41: "content" is empty`."""

    def __init__(self, what: str, path: str | Path | None = None, line: int | None = None):
        where = "" if path is None else f"{path}:" if line is None else f"{path}:{line}:"
        super().__init__(f"{where} {what}".strip())
        self.path, self.line = path, line


class TooLong(DataError):
    """A text of more tokens than the model reads."""


class NotFound(UserError):
    """A name that nothing has."""

    status = 404


class NotAllowed(UserError):
    """This person may not do it; says who may."""

    status = 403


class Conflict(UserError):
    """Somebody else was faster; nothing of this was stored. Carries what is stored and what was given, if there are."""

    status = 409

    def __init__(self, message: str, stored: Ranking | None = None, given: Ranking | None = None):
        super().__init__(message)
        self.stored, self.given = stored, given


class ModelError(UserError):
    """A base or adapter that cannot be loaded, or does not fit what is asked of it."""


class GraderError(UserError):
    """A grader that cannot be used. `param` names the field: `grader.graders.name.operation`."""

    def __init__(self, message: str, param: str):
        super().__init__(f"{param}: {message}")
        self.param = param


class MissingExtra(UserError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str):
        super().__init__(f'{package} is not installed; install it with: pip install "tunesmith[{extra}]"')


class GateClosed(TunesmithError):
    """A model broke a rule that was written down before it was measured. Exit code 1: nobody made a mistake."""

    exit_code = 1


class StorageError(TunesmithError):
    """The disk is full or read-only, or another process holds the workspace."""

    exit_code = 2
    status = 507


class TrainingStopped(TunesmithError):
    """Training met NaN or exploded; the last good checkpoint is kept."""

    exit_code = 3


class Interrupted(TunesmithError):
    """Somebody asked a run to stop between two steps; a `Progress` raises it, and the run keeps a checkpoint."""

    exit_code = 4


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint `; did you mean "rank"?` for a mistyped name, or the list of what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; there is: {', '.join(known)}" if known else "; there is none yet"
