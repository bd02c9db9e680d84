"""What every training run shares around its loop: begin or resume, log, checkpoint, finish, count the cost."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tunesmith.contracts import Progress
from tunesmith.errors import TrainingStopped, UserError
from tunesmith.model.base import Base
from tunesmith.settings import Optimization
from tunesmith.store.workspace import Adapter, Run, Workspace


class Session:
    """One execution of a step, possibly continued after a crash."""

    def __init__(self, workspace: Workspace, run: Run, total: int, every: int, progress: Progress | None,
                 resuming: bool = False):
        self.workspace, self.run, self.total, self.every, self.progress = workspace, run, total, every, progress
        self.resuming = resuming
        self.tokens = 0
        self.summary: dict[str, Any] = {}
        self.started = time.monotonic()

    def resume(self, load: Callable[[Path], None]) -> int:
        """The number of steps done already, after loading the newest checkpoint that verifies; 0 if there is none."""
        found = self.run.resume() if self.resuming else None
        if found is None:
            return 0
        step, folder = found
        load(folder)
        return step

    def end_step(self, step: int, metrics: Mapping[str, float], save: Callable[[Path], None], tokens: int) -> None:
        """Log step number `step` (from 1) and checkpoint when it is due."""
        self.tokens += tokens
        self.run.log(step, dict(metrics))
        if step % self.every == 0 or step == self.total:
            self.run.checkpoint(step, save)
        if self.progress:
            self.progress(step, self.total, metrics)

    def publish(self, name: str, role: Literal["policy", "reward"], base: Base, write: Callable[[Path], None],
                data: Mapping[str, str], parents: Mapping[str, str]) -> Adapter:
        """Publish the run's adapter with its lineage; a resumed run that had published already does not again."""
        for adapter in self.workspace.adapters():
            if adapter.lineage.get("run") == self.run.id:
                return adapter
        lineage = {"run": self.run.id, "data": dict(data), "parents": dict(parents), "settings": self.run.settings,
                   "seed": self.run.seed, **self.summary}
        adapter = self.workspace.publish_adapter(name, role, base.describe(), write, lineage)
        self.summary["adapter"] = str(adapter)
        return adapter

    def cost(self) -> dict[str, float]:
        """Seconds, tokens per second and peak memory of this process so far."""
        seconds = time.monotonic() - self.started
        return {"seconds": round(seconds, 2), "tokens": self.tokens,
                "tokens_per_second": round(self.tokens / max(seconds, 1e-9), 1), "peak_mb": peak_mb()}


@contextmanager
def session(workspace: Workspace, command: str, settings: Optimization, inputs: Mapping[str, str], total: int,
            resume: Run | None, progress: Progress | None) -> Iterator[Session]:
    """Begin a run (or go on with `resume`), and record how it ended.

    Raises:
        UserError: the run to resume has finished, or its inputs have changed since.
    """
    if resume is not None and resume.status == "finished":
        raise UserError(f"run {resume.id} has finished; there is nothing to resume")
    if resume is None:
        run = workspace.start_run(command, settings.model_dump(mode="json", by_alias=True), settings.seed, dict(inputs))
    else:
        run = resume
        changed = [k for k, v in inputs.items() if run.inputs.get(k) != v]
        if changed:
            raise UserError(f"run {run.id} cannot be resumed: its {changed[0]} has changed since it began")
    current = Session(workspace, run, total, settings.checkpoint_every, progress, resume is not None)
    try:
        yield current
    except TrainingStopped as e:
        run.finish("stopped", {**current.summary, "error": str(e), **current.cost()})
        raise
    except Exception as e:
        run.finish("failed", {**current.summary, "error": f"{type(e).__name__}: {e}"})
        raise
    run.finish("finished", {**current.summary, **current.cost()})


def peak_mb() -> float:
    """Peak resident memory of this process in MB (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
