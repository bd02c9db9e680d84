"""One execution of a step: settings, seed and inputs at its start; metrics, checkpoints and events as it goes.

    runs/ID/settings.json   metrics.jsonl   events.jsonl   usage.jsonl   checkpoints/step-N/ (with manifest.json)

Only one process may execute a run at a time: starting or resuming it takes `runs/ID/lock` until the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

import sqlalchemy as sa

from tunesmith.errors import UserError
from tunesmith.store import tables as db
from tunesmith.store.database import Database, pack
from tunesmith.store.faults import storing
from tunesmith.store.publish import MANIFEST, Damaged, publish, remove, verify, write_atomically

Status = Literal["running", "finished", "failed", "stopped"]
_HELD: dict[Path, IO[str]] = {}
"""The runs that this process executes, with their open lock files."""


@dataclass
class Run:
    """A run and its folder. `status` and `summary` are as of reading, and kept current by `finish`."""

    id: str
    command: str
    settings: dict[str, Any]
    seed: int
    inputs: dict[str, str]
    status: Status
    summary: dict[str, Any]
    created: str
    code: str
    folder: Path
    database: Database = field(repr=False, compare=False)

    def hold(self) -> None:
        """Make this process the one that executes the run, until it ends or calls `release`.

        Raises:
            UserError: another process is executing it.
        """
        if self.folder in _HELD:
            return
        with storing(self.folder):
            lock = open(self.folder / "lock", "w")  # noqa: SIM115  (held open on purpose)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            lock.close()
            raise UserError(f"run {self.id} is being executed by another process; stop that one first") from e
        _HELD[self.folder] = lock

    def release(self) -> None:
        """Let another process execute the run."""
        if self.folder in _HELD:
            _HELD.pop(self.folder).close()

    @property
    def alive(self) -> bool:
        """Whether some process is executing it: a run may be marked running although its process was killed."""
        if self.folder in _HELD:
            return True
        try:
            with open(self.folder / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def resume(self) -> tuple[int, Path] | None:
        """Take the run up again: the newest good checkpoint (None: from the start), everything after it dropped.

        Raises:
            UserError: another process is executing it.
        """
        self.hold()
        found = self.latest()
        self.rewind(found[0] if found else 0)
        self._store("running", self.summary)
        self.event("resumed", step=found[0] if found else 0)
        return found

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl; numbers that are not finite become null."""
        line = {"step": step, **{key: finite(value) for key, value in metrics.items()}}
        self._append("metrics.jsonl", line)

    def metrics(self) -> list[dict[str, Any]]:
        """What was logged, in order."""
        return self._lines("metrics.jsonl")

    def event(self, kind: str, **facts: Any) -> None:
        """Append one line to events.jsonl: what happened besides the metrics."""
        self._append("events.jsonl", {"time": now(), "event": kind, **facts})

    def events(self) -> list[dict[str, Any]]:
        """What happened, in order."""
        return self._lines("events.jsonl")

    def use(self, execution: int, used: Mapping[str, Any]) -> None:
        """Append what an execution (numbered from 1) has used so far; a resumed run has several."""
        self._append("usage.jsonl", {"execution": execution, **used})

    def usage(self) -> list[dict[str, Any]]:
        """What each execution had used when it last said so."""
        return list({line["execution"]: line for line in self._lines("usage.jsonl")}.values())

    def checkpoint(self, step: int, write: Callable[[Path], None], keep: int = 2) -> Path:
        """Publish `checkpoints/step-N`, then delete all but the newest `keep`.

        `write` fills the folder it is given. A checkpoint of the same step is replaced; later ones, which a resumed
        run has not reached yet, are dropped.

        Raises:
            StorageError: no space, read-only; the previous checkpoints are untouched.
        """
        def fill(folder: Path) -> None:
            write(folder)
            for old, stale in self._checkpoints():
                if old >= step:
                    remove(stale)

        target = publish(self.folder / "checkpoints", iter([f"step-{step}"]), fill,
                         {"run": self.id, "step": step, "created": now()}, "checkpoint")
        for _, folder in self._checkpoints()[:-max(keep, 1)]:
            remove(folder)
        return target

    def latest(self) -> tuple[int, Path] | None:
        """The newest checkpoint that is whole and of this run; damaged ones are passed over, with a warning."""
        for step, folder in reversed(self._checkpoints()):
            try:
                self._check(step, folder)
            except Damaged as e:
                print(f"warning: checkpoint step-{step} of {self.id} is damaged ({e}); going back to the one before",
                      file=sys.stderr)
                self.event("damaged checkpoint passed over", step=step, reason=str(e))
            else:
                return step, folder
        return None

    def _check(self, step: int, folder: Path) -> None:
        manifest = verify(folder)
        about, files = manifest["about"], manifest["files"]
        if (about.get("run"), about.get("step")) != (self.id, step):
            raise Damaged(f"it is step {about.get('step')} of run {about.get('run')}")
        there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
        if strange := sorted(there - {MANIFEST, *files}):
            raise Damaged(f"{strange[0]} does not belong to it")

    def rewind(self, step: int) -> None:
        """Drop metrics and checkpoints after `step`: they belong to steps that will be made again."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            kept = [line for line in self.metrics() if line["step"] <= step]
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        for later, folder in self._checkpoints():
            if later > step:
                remove(folder)

    def finish(self, status: Status, summary: Mapping[str, Any]) -> None:
        """Record how it ended, and let go of it."""
        self._store(status, {key: finite(value) for key, value in summary.items()})
        self.event(status)
        self.release()

    def _store(self, status: Status, summary: dict[str, Any]) -> None:
        packed = pack(summary)
        self.database.write(lambda c: c.execute(
            sa.update(db.runs).where(db.runs.c.id == self.id).values(status=status, summary=packed)))
        self.status, self.summary = status, json.loads(packed)

    def _checkpoints(self) -> list[tuple[int, Path]]:
        folders = (self.folder / "checkpoints").glob("step-*")
        return sorted((int(f.name[5:]), f) for f in folders if f.name[5:].isdecimal())

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        with storing(self.folder), open(self.folder / name, "a", encoding="utf-8") as f:
            f.write(json.dumps(line, default=finite) + "\n")

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        found = []
        with contextlib.suppress(FileNotFoundError):
            for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):  # a line that a crash cut short
                    found.append(json.loads(text))
        return found


def from_row(row: Any, root: Path, database: Database) -> Run:
    """A run from its row in the database."""
    about = json.loads(row.about)
    return Run(row.id, row.command, about["settings"], about["seed"], about["inputs"], row.status,
               json.loads(row.summary), row.created, about["code"], root / "runs" / row.id, database)


def now() -> str:
    """This moment, as the store writes it: `2026-11-21T07:42:13.000123Z`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def finite(value: Any) -> Any:
    """A JSON-able copy in which numbers that are not finite are null; anything that is no JSON becomes a number."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
