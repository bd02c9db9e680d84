"""What every training run shares around its loop: begin or resume, log, checkpoint, finish, count the cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tunesmith.contracts import Progress
from tunesmith.errors import Interrupted, ModelError, TrainingStopped, UserError
from tunesmith.model import machine
from tunesmith.model.base import Base
from tunesmith.model.machine import Work
from tunesmith.settings import Optimization
from tunesmith.store.workspace import Adapter, Dataset, Kind, Run, Workspace
from tunesmith.train import cost
from tunesmith.train.learner import Learner

STOPPED = "stopped.txt"
"""In a checkpoint: why the run is to end there, before all of its steps."""


class Session:
    """One execution of a step, possibly continued after a crash."""

    def __init__(self, workspace: Workspace, run: Run, base: Base, total: int, every: int, progress: Progress | None,
                 resuming: bool = False):
        self.workspace, self.run, self.base, self.total, self.every = workspace, run, base, total, every
        self.progress, self.resuming = progress, resuming
        self.earlier = run.usage()
        self.execution = 1 + max((u["execution"] for u in self.earlier), default=0)
        self.weights = machine.products(base)
        self.tokens, self.flops, self.step_seconds = 0, 0.0, 0.0
        self.summary: dict[str, Any] = {}
        self.labels: dict[str, float] = {}
        self.sizes: dict[str, int] = {}
        self._between: Callable[[int], Adapter] | None = None
        self._every = 0
        self.meter = cost.Meter(gpus=int(base.device.type == "cuda"))
        cost.forget_peak()
        if self.meter.gpus:
            torch.cuda.reset_peak_memory_stats(base.device)

    def resume(self, load: Callable[[Path], None]) -> int:
        """The number of steps done already, after loading the newest checkpoint that verifies; 0 if there is none.

        All of them are done where a rule had stopped the run.
        """
        found = self.run.resume() if self.resuming else None
        if found is None:
            return 0
        step, folder = found
        load(folder)
        if (folder / STOPPED).is_file():
            self.summary["stopped_by"] = (folder / STOPPED).read_text(encoding="utf-8")
            return self.total
        return step

    def end_step(self, step: int, metrics: Mapping[str, float], save: Callable[[Path], None], work: Work,
                 stop: str = "") -> None:
        """Log step number `step` (from 1), checkpoint when it is due, and note what was used so far.

        `stop` says why no step follows; it is kept with the checkpoint, for a resumed run must not go past it.
        """
        def write(folder: Path) -> None:
            save(folder)
            if stop:
                (folder / STOPPED).write_text(stop, encoding="utf-8")

        self.tokens += work.tokens
        self.flops += machine.flops(self.weights, work)
        self.run.log(step, dict(metrics))
        if stop:
            self.summary["stopped_by"] = stop
        if self._between and self._every and step % self._every == 0 and step < self.total and not stop:
            self._between(step)  # before the checkpoint: what is made again after a crash is passed over
        if kept := bool(stop or step % self.every == 0 or step == self.total):
            self.run.checkpoint(step, write)
        self.step_seconds = self.meter.read()["seconds"]
        self.run.use(self.execution, self._used())
        try:
            if self.progress:
                self.progress(step, self.total, metrics)
        except Interrupted:
            if not kept:
                self.run.checkpoint(step, write)
            raise

    def publish(self, name: str, role: Literal["policy", "reward"], base: Base, write: Callable[[Path], None],
                data: Mapping[str, str], parents: Mapping[str, str], step: int = 0) -> Adapter:
        """Publish the run's adapter with its lineage; a resumed run that had published already does not again.

        `step` is the one that it is published after, 0 at the end.
        """
        ranked = self.run.settings.get("comparisons")  # prompts may bear a set's name, and are nobody's verdicts
        self.labels = cost.label_minutes(self.workspace, [ranked] if ranked else [],
                                         self.run.settings.get("without", ()))
        for adapter in self.workspace.adapters():
            if adapter.lineage.get("run") == self.run.id and adapter.lineage.get("step", 0) == step:
                self.summary |= {} if step else {"adapter": str(adapter)}
                return adapter
        lineage = {"run": self.run.id, "data": dict(data), "parents": dict(parents), "settings": self.run.settings,
                   "seed": self.run.seed, **self.summary, "cost": self.cost(), **({"step": step} if step else {})}
        adapter = self.workspace.publish_adapter(name, role, base.describe(), write, lineage)
        self.summary |= {} if step else {"adapter": str(adapter)}
        return adapter

    def publish_every(self, steps: int, publish: Callable[[int], Adapter]) -> None:
        """Let `publish` make a version of the adapter after every so many steps, besides the last; 0: never."""
        self._every, self._between = steps, publish

    def cost(self) -> dict[str, Any]:
        """What all executions of the run have used, how fast its steps were, and how near to the machine's limit.

        The limit is the time that the products of the steps alone would take at this machine's rate (see `machine`).
        """
        executions = [*self.earlier, self._used()]
        tokens = sum(u["tokens"] for u in executions)
        seconds = max(sum(u["step_seconds"] for u in executions), 1e-9)
        rate = machine.measure(self.base.device.type).gflops(self.base.dtype)
        return {**self.sizes, "tokens": tokens, "tokens_per_second": round(tokens / seconds, 1),
                "fraction_of_limit": round(sum(u["gflop"] for u in executions) / seconds / rate, 4),
                **{k: max(u[k] for u in executions) for k in executions[-1] if k.startswith("peak_")},
                "executions": len(executions), "threads": torch.get_num_threads(), **cost.total(executions),
                **self.labels}

    def _used(self) -> dict[str, Any]:
        """This execution alone."""
        gpu = {}
        if self.meter.gpus:
            gpu["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated(self.base.device) / 2**20, 1)
        return {**self.meter.read(), "step_seconds": self.step_seconds, "tokens": self.tokens,
                "gflop": round(self.flops / 1e9, 6), "peak_mb": cost.peak_mb(), **gpu}


@contextmanager
def session(workspace: Workspace, base: Base, command: str, settings: Optimization, inputs: Mapping[str, str],
            total: int, resume: Run | None, progress: Progress | None, *learners: Learner) -> Iterator[Session]:
    """Begin a run (or go on with `resume`), and record how it ended. `learners` hold all that it trains.

    Raises:
        UserError: the run to resume has finished, another process executes it, or its inputs have changed since.
    """
    if resume is not None and resume.status == "finished":
        raise UserError(f"run {resume.id} has finished; there is nothing to resume")
    if resume is None:
        threads = settings.threads or torch.get_num_threads()
        recorded = {**settings.model_dump(mode="json", by_alias=True), "threads": threads}
        run = workspace.start_run(command, recorded, settings.seed, dict(inputs))
    else:
        run, threads = resume, resume.settings.get("threads") or torch.get_num_threads()
        run.hold()  # before anything is recorded: the run of another process must not be marked failed
        changed = [k for k, v in inputs.items() if run.inputs.get(k) != v]
        if changed:
            run.release()
            raise UserError(f"run {run.id} cannot be resumed: its {changed[0]} has changed since it began")
    torch.set_num_threads(threads)  # sums are added up in another order on another number
    current = Session(workspace, run, base, total, settings.checkpoint_every, progress, resume is not None)
    current.sizes = sizes(base, {id(p): p for learner in learners for p in learner.parameters.values()})
    try:
        yield current
    except (TrainingStopped, Interrupted) as e:
        run.finish("stopped", {**current.summary, "error": str(e), **current.cost()})
        raise
    except Exception as e:
        run.finish("failed", {**current.summary, "error": f"{type(e).__name__}: {e}"})
        raise
    run.finish("finished", {**current.summary, **current.cost()})


def sizes(base: Base, trained: Mapping[int, nn.Parameter]) -> dict[str, int]:
    """How many numbers a run trains, and how many there are with them: the base's, and what was added to it.

    `trained` by identity: learners may share a weight.
    """
    own = {id(p) for name, p in base.model.named_parameters() if "lora_" not in name}
    added = sum(p.numel() for key, p in trained.items() if key not in own)
    return {"trained_parameters": sum(p.numel() for p in trained.values()), "parameters": base.parameters + added}


def on_base(workspace: Workspace, base: Base, *names: str) -> list[Adapter]:
    """The adapters of these names.

    Raises:
        ModelError: one belongs to another base.
    """
    found = [workspace.adapter(name) for name in names]
    for adapter in found:
        if other := base.differs(adapter.base):
            raise ModelError(f"{adapter} belongs to base {adapter.base['spec']} with another {other} than {base.spec}: "
                             "policy and reward model share one base")
    return found


def dataset(workspace: Workspace, name: str, kind: Kind) -> Dataset:
    """The dataset of that name.

    Raises:
        UserError: it holds another kind of rows.
    """
    found = workspace.dataset(name)
    if found.kind != kind:
        raise UserError(f"{name} holds {found.kind}, not {kind}")
    return found
