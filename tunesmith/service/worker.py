"""The loop that starts fine-tuning jobs: a child process for each, one that trains and one that validates at a time.

    with Worker(workspace): ...      beside a server
    Worker(workspace).run()          `tunesmith work`

The child is `python -m tunesmith work --once JOB`, in a session of its own: it lives on when the server or this loop
dies, and what it breaks breaks nobody else. Several loops may run on one workspace; a lease decides who takes a job.
A child that dies is started again by whoever notices; after `jobs.ATTEMPTS` deaths without a single new step between
them the job fails with the end of its log.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tunesmith.errors import TunesmithError
from tunesmith.service.refusals import log
from tunesmith.service.trainer import FOLDER
from tunesmith.store import blobs, jobs
from tunesmith.store.faults import storing

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

POLL = 0.5
"""Seconds between two looks at the table."""
SWEEP = 600.0
STARTING = 60.0
"""Seconds that a new child has until it renews its lease."""
PAUSE = 1.0
"""Seconds before a job whose child died is taken up again, twice as long after each death."""
TAIL = 2000
"""Characters of the log that a failed job shows."""


@dataclass
class Child:
    """A child process at work on a job."""

    job: str
    token: int
    process: subprocess.Popen[bytes]


@dataclass
class Worker:
    """The loop. `ended` is called with each job's id when its child has gone."""

    workspace: Workspace
    ended: Callable[[str], None] | None = None
    children: list[Child] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _swept: float = 0.0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.run, name="worker", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop looking for work; children go on."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def run(self, until_idle: bool = False) -> None:
        """Look for work until `stop`, or until no job is unfinished."""
        while not self._stop.is_set():
            try:
                self.look()
                if until_idle and not self.children and not jobs.unfinished(self.workspace):
                    return
            except TunesmithError as e:  # a full disk or a busy database pass
                log.error("the worker could not look for jobs: %s", e)
            self._stop.wait(POLL)

    def stop(self) -> None:
        """Let `run` return."""
        self._stop.set()

    def look(self) -> None:
        """One round: take note of children that ended, start new ones."""
        for child in [c for c in self.children if c.process.poll() is not None]:
            self.children.remove(child)
            self._note(child)
        waiting = jobs.waiting(self.workspace)
        for job in [*[j for j in waiting if j.status == jobs.OPEN[0]][:1],
                    *[j for j in waiting if j.status != jobs.OPEN[0]][:1]]:
            if claimed := jobs.claim(self.workspace, job.id, owner(), slots=1, seconds=STARTING):
                self._start(claimed)
        if time.monotonic() - self._swept > SWEEP or not self._swept:
            self._swept = time.monotonic()
            blobs.sweep(self.workspace)

    def _start(self, job: jobs.Job) -> None:
        if job.attempts > jobs.ATTEMPTS:
            self._give_up(job)
            return
        words = ["work", "--once", job.id, "--token", str(job.token), "--workspace", str(self.workspace.root)]
        path = log_of(self.workspace, job.id)
        with storing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as out:
                process = subprocess.Popen([sys.executable, "-m", "tunesmith", *words], stdin=subprocess.DEVNULL,
                                           stdout=out, stderr=out, start_new_session=True)
        self.children.append(Child(job.id, job.token, process))

    def _note(self, child: Child) -> None:
        """A child that died lets go of its job at once, not when its lease runs out."""
        code = child.process.returncode
        job = jobs.find(self.workspace, child.job)
        if code != 0 and job.token == child.token:
            how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
            log.warning("the child of job %s %s", job.id, how)
            jobs.release(self.workspace, job.id, child.token, wait=PAUSE * 2 ** max(0, job.attempts - 1))
        if self.ended:
            self.ended(child.job)

    def _give_up(self, job: jobs.Job) -> None:
        message = (f"The job's process died {jobs.ATTEMPTS} times without getting any further. The end of its log: "
                   f"{tail(log_of(self.workspace, job.id)) or '(empty)'}")
        jobs.move(self.workspace, job.id, job.token, job.status, "failed", message,
                  error={"code": "server_error", "message": message, "param": None})


def owner() -> str:
    """Who holds a lease, for people who look."""
    return f"{socket.gethostname()}:{os.getpid()}"


def log_of(workspace: Workspace, id: str) -> Path:
    """What the children of a job print."""
    return workspace.root / FOLDER / id / "log.txt"


def tail(path: Path) -> str:
    """The last lines of a log."""
    with suppress(OSError):
        with open(path, "rb") as f:
            f.seek(max(0, path.stat().st_size - TAIL))
            return f.read().decode(errors="replace").strip()
    return ""
