"""Commands in children of one process that has imported everything already, each dying where it is told to.

A `python -m tunesmith` spends seconds on imports, and two hundred kills need some five hundred processes. Here the
standard library's fork server imports once and forks a child per command (0.1 s). It has one thread when it forks,
has trained nothing, and shares no file or database with its children, so a child is what a fresh process would be.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

POINTS = {
    "rollout": "tunesmith.model.engine:LocalEngine.generate",
    "backward": "tunesmith.train.learner:Learner.backward",
    "optimizer": "tunesmith.train.learner:Learner.step",
    "log": "tunesmith.store.runs:Run.log",
    "usage": "tunesmith.store.runs:Run.use",
    "checkpoint": "tunesmith.store.runs:Run.checkpoint",
    "moments": "tunesmith.train.learner:Learner.save",
    "manifest": "tunesmith.store.publish:seal",
    "fsync": "tunesmith.store.publish:sync",
    "rename": "tunesmith.store.publish:_rename_to_first_free",
    "old checkpoint": "tunesmith.store.runs:remove",
    "publish": "tunesmith.store.workspace:Workspace.publish_adapter",
    "row": "tunesmith.store.workspace:Workspace._record_adapter",
    "finish": "tunesmith.store.runs:Run.finish",
    "validate": "tunesmith.service.trainer:validate",
    "dataset": "tunesmith.store.workspace:Workspace.add_dataset",
    "fresh": "tunesmith.rounds:fresh",
    "job status": "tunesmith.store.jobs:move",
    "job events": "tunesmith.store.jobs:advance",
    "job checkpoint": "tunesmith.store.jobs:add_checkpoint",
    "job results": "tunesmith.store.blobs:add",
    "job end": "tunesmith.store.jobs:succeed",
    "answers": "tunesmith.store.workspace:Workspace.add_groups",
    "round": "tunesmith.store.loops:begin",
    "step": "tunesmith.store.loops:record",
    "report": "tunesmith.evaluate.report:write",
    "adoption": "tunesmith.store.loops:adopt",
}
"""Moments to die at: what is running then."""

PRELOAD = ["pytest", "warmed", "tunesmith.cli", "tunesmith.rounds", "tunesmith.loop", "tunesmith.service.trainer",
           "tunesmith.quickstart.builtin", "alembic.command",
           "tunesmith.train.sft", "tunesmith.train.reward", "tunesmith.train.ppo",
           "tunesmith.train.dpo", "tunesmith.train.kto", "tunesmith.train.grpo",
           "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto"]
"""`warmed` computes what a process computes once: transformers' renaming rules, this machine's rates."""


@dataclass(frozen=True)
class Death:
    """kill -9 at call number `number` (from 1) of a point: right before it, `later` seconds into it, or right after."""

    point: str
    number: int
    when: str
    later: float = 0.0


def start(words: list[str], out: Path, death: Death | None = None) -> ForkServerProcess:
    """A command in a child; its output goes to `out` and `out.err`, how often it passed each point to `out.calls`."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
                   "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=child, args=(words, out, death))
    process.start()
    return process


def child(words: list[str], out: Path, death: Death | None) -> None:
    for number, path in ((1, out), (2, out.with_suffix(".err"))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    calls: Counter[str] = Counter()
    for name, place in POINTS.items():
        watch(name, place, calls, death)
    from tunesmith.cli import main

    code = main(words)
    sys.stdout.flush()
    out.with_suffix(".calls").write_text(json.dumps(calls))
    os._exit(code)


def watch(name: str, place: str, calls: Counter[str], death: Death | None) -> None:
    """Count a function's calls, and die at the one that `death` names."""
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, last = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    real: Callable[..., Any] = getattr(owner, last)

    def watched(*args: Any, **known: Any) -> Any:
        calls[name] += 1
        if death is None or (name, calls[name]) != (death.point, death.number):
            return real(*args, **known)
        if death.when == "before":
            die()
        if death.when == "during":
            threading.Thread(target=lambda: (time.sleep(death.later), die()), daemon=True).start()
        result = real(*args, **known)
        if death.when == "after":
            die()
        return result

    setattr(owner, last, watched)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
