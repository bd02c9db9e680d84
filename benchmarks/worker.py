"""What every measured process shares: the job it was given and the gate it waits at before each step.

Standard library only, because this module runs inside every peer's environment. The process that measures
(`benchmarks.pair`) lets one worker through its gate at a time, so two workers that are alive together never compute
together.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

JOB, GATE = "BENCHMARK_JOB", "BENCHMARK_GATE"
SEED = 7
LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "bias": "none",
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}
LEARNING_RATE = 1e-4
LONGEST = 512
"""Tokens of the longest conversation; longer ones are left out when the data is prepared."""


@dataclass(frozen=True)
class Job:
    """What a worker does at each step. `rows` counts conversations, pairs, groups, episodes or prompts; `steps` is
    how many it must be ready for; `data` is a folder that `benchmarks.data.prepare` made; `options` are its own.
    """

    workload: str
    shape: str
    data: str
    rows: int
    new: int = 0
    steps: int = 6
    dtype: str = "fp32"
    device: str = "cpu"
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_environment(self) -> dict[str, str]:
        return {JOB: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> Job:
        return cls(**json.loads(os.environ[JOB]))


class Gate:
    """The worker's end: `open` once everything is loaded, `passed` after each step; both wait for the next turn.

    The worker ends (SystemExit) when it is told to, or when the process that measures is gone.
    """

    def __init__(self, device: str = "cpu"):
        read, write = map(int, os.environ[GATE].split(","))
        self._in, self._out = os.fdopen(read), os.fdopen(write, "w")
        self._device = device
        self._began = 0.0

    def open(self, **facts: Any) -> None:
        """Loaded: say so, forget the peak of memory so far, and wait for the first turn."""
        forget_peak()
        if self._device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
        self._send({"ready": facts})
        self._wait()

    def passed(self, *, units: float, tokens: int = 0, read: int = 0, positions: int = 0,
               loss: float | None = None) -> None:
        """One step is done: its units, real tokens, those whose output was read (0: all), positions with padding, and
        loss; then wait for the next turn.
        """
        figures: dict[str, Any] = {}
        if self._device == "cuda":
            import torch

            torch.cuda.synchronize()
            figures["gpu_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
        figures["seconds"] = time.perf_counter() - self._began
        self._send({**figures, "units": units, "tokens": int(tokens), "read": int(read or tokens),
                    "positions": int(positions or tokens), "loss": loss, "peak_mb": round(peak_mb())})
        self._wait()

    def _send(self, message: Mapping[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def _wait(self) -> None:
        if self._in.readline().strip() != "go":
            _leave()
        self._began = time.perf_counter()


def serve(job: Job, step: Callable[[int], Mapping[str, Any]], *packages: str) -> NoReturn:
    """Do `step(0)`, `step(1)`, ... one per turn; each returns what `Gate.passed` takes."""
    gate = Gate(job.device)
    gate.open(versions=versions(*packages))
    number = 0
    while True:
        gate.passed(**step(number))
        number += 1


def versions(*packages: str) -> dict[str, str]:
    """Python's and these packages' versions, those that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def forget_peak() -> None:
    """Start the high-water mark of resident memory anew (Linux; elsewhere it stays that of the whole process)."""
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        return


def peak_mb() -> float:
    """Highest resident size since `forget_peak`, in MiB."""
    try:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) / 2**10 for line in f if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _leave() -> NoReturn:
    """Trainers' own exits may save or wait for threads: the measurement needs neither."""
    sys.stdout.flush()
    os._exit(0)
