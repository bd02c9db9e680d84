"""Two processes measured against each other: both stay alive, one steps at a time, and who begins alternates.

A machine's speed drifts over minutes (other guests, heat, page cache). Steps that follow each other within seconds see
the same machine, so the ratio of each pair is steadier than either rate, and the spread over pairs says how steady.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.worker import GATE, Job

REPOSITORY = Path(__file__).parent.parent
SETTLE = 0.25
"""Seconds between two turns: OpenMP's threads spin on for a while after their last work."""
OFFLINE = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
           "HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONWARNINGS": "ignore"}


def cores() -> int:
    """That this process may use, which on a share of a host are fewer than the host's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerFailed(Exception):
    """A worker ended, or took longer than the patience allows; the message is one line."""


@dataclass(frozen=True)
class Command:
    """A worker: which interpreter runs which module on which job, with what added to the environment."""

    name: str
    module: str
    job: Job
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()


class Worker:
    """A running worker. Use as a context manager: leaving it ends the process."""

    def __init__(self, command: Command, log: Path, patience: float):
        self.name, self.log, self.patience = command.name, log, patience
        to_read, self._out_fd = os.pipe()
        self._in_fd, to_write = os.pipe()
        # All cores for both: while the other still loads, a program that measures threads would settle for one.
        environment = {"OMP_NUM_THREADS": str(cores()), **os.environ, **OFFLINE,
                       **command.environment, **command.job.to_environment(),
                       GATE: f"{to_read},{to_write}",
                       "PYTHONPATH": os.pathsep.join([*command.path, str(REPOSITORY)])}
        if command.job.device == "cpu":
            environment |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
        with log.open("w") as f:
            self._process = subprocess.Popen([command.python, "-m", command.module], env=environment, stdout=f,
                                             stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=log.parent,
                                             pass_fds=(to_read, to_write))
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        os.close(self._out_fd)  # the worker waits at its gate for a line, and leaves when there is none
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in_fd)

    def ready(self) -> dict[str, Any]:
        """What the worker says of itself once it has loaded.

        Raises:
            WorkerFailed: it ended before.
        """
        facts: dict[str, Any] = self._receive("load")["ready"]
        return facts

    def step(self) -> dict[str, Any]:
        """Let it do one step; its figures, and `other_cpu`: the cores that other processes used meanwhile.

        Raises:
            WorkerFailed: it ended, or its step took too long.
        """
        time.sleep(SETTLE)
        busy, own, began = _busy_seconds(), self._cpu_seconds(), time.perf_counter()
        try:
            os.write(self._out_fd, b"go\n")
        except BrokenPipeError:
            raise WorkerFailed(self._last_words()) from None
        figures = self._receive("step")
        elapsed = time.perf_counter() - began
        others = (_busy_seconds() - busy) - (self._cpu_seconds() - own)
        return {**figures, "other_cpu": round(max(0.0, others) / elapsed, 2)}

    def _receive(self, what: str) -> dict[str, Any]:
        deadline = time.monotonic() + self.patience
        while b"\n" not in self._buffer:
            if not select.select([self._in_fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise WorkerFailed(f"one {what} took more than {self.patience:.0f} s; given up (--patience)")
            got = os.read(self._in_fd, 65536)
            if not got:
                raise WorkerFailed(self._last_words())
            self._buffer += got
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _last_words(self) -> str:
        """The last line that the worker wrote, which for a traceback is the error."""
        self._process.wait()
        lines = [s for s in self.log.read_text(errors="replace").splitlines() if s.strip()]
        words = lines[-1].strip()[:300] if lines else "no output"
        return f"{words} (exit {self._process.returncode}; {self.log})"

    def _cpu_seconds(self) -> float:
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # user, system, and those of its children


@dataclass(frozen=True)
class Rounds:
    """What the pairs of one peer gave: figures of each step of ours and theirs, in order, and both sides' facts."""

    ours: list[dict[str, Any]]
    theirs: list[dict[str, Any]]
    facts: dict[str, Any]

    @property
    def ratios(self) -> list[float]:
        """Our rate over theirs, per pair."""
        return [rate(a) / rate(b) for a, b in zip(self.ours, self.theirs)]


def rate(step: Mapping[str, Any]) -> float:
    """Units per second of one step."""
    return float(step["units"]) / float(step["seconds"])


def alternate(ours: Command, theirs: Command, pairs: int, logs: Path, *, warm_up: int = 1, patience: float = 900.0,
              tell: Callable[[str], None] = lambda _: None) -> Rounds:
    """Measure `pairs` pairs of steps after `warm_up` steps of each.

    Raises:
        WorkerFailed: either worker failed; the message says which.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with Worker(ours, logs / "ours.log", patience) as a, Worker(theirs, logs / "peer.log", patience) as b:
        workers = {"ours": a, "theirs": b}
        facts = {side: _named(w, w.ready) for side, w in workers.items()}
        facts["first_loss"] = {side: [_named(w, w.step)["loss"] for _ in range(warm_up)][:1]
                               for side, w in workers.items()}
        steps: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
        for number in range(pairs):
            order = ["ours", "theirs"] if number % 2 == 0 else ["theirs", "ours"]
            for side in order:
                steps[side].append(_named(workers[side], workers[side].step))
            x, y = steps["ours"][-1], steps["theirs"][-1]
            tell(f"pair {number + 1}/{pairs}: ours {rate(x):.4g}, {theirs.name} {rate(y):.4g}, "
                 f"ratio {rate(x) / rate(y):.2f}")
    return Rounds(steps["ours"], steps["theirs"], facts)


def alone(command: Command, steps: int, log: Path, *, warm_up: int = 1,
          patience: float = 900.0) -> list[dict[str, Any]]:
    """The figures of `steps` steps of one worker, after `warm_up` that do not count.

    Raises:
        WorkerFailed: it failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with Worker(command, log, patience) as worker:
        worker.ready()
        return [worker.step() for _ in range(warm_up + steps)][warm_up:]


def _named(worker: Worker, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return ask()
    except WorkerFailed as e:
        raise WorkerFailed(f"{worker.name}: {e}") from None


def _busy_seconds() -> float:
    """CPU seconds that the whole machine has worked since it started; 0 where the system does not tell."""
    try:
        with open("/proc/stat") as f:
            v = [int(x) for x in f.readline().split()[1:9]]
    except OSError:
        return 0.0
    return (sum(v) - v[3] - v[4]) / os.sysconf("SC_CLK_TCK")
