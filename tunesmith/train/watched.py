"""A training run under the eyes of a monitor: its figures go into the log, its alarms into the run, and the version of
the policy that it wants kept is what the run publishes. All of that is part of every checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.contracts import Monitor, Sampling, View
from tunesmith.model.batch import Tree
from tunesmith.model.engine import LocalEngine
from tunesmith.records import Prompt
from tunesmith.train.session import Session

STATE = "monitor.json"
BEST = "best.safetensors"
POLICY = "policy"


class Watched:
    """What a run needs around its monitor; without one every verb does nothing."""

    def __init__(self, monitor: Monitor | None, run: Session, weights: Mapping[str, nn.Parameter]):
        self.monitor, self.run, self.weights = monitor, run, weights
        self.alarms: list[dict[str, Any]] = []
        self.start: dict[str, float] = {}
        self.best: dict[str, Tensor] = {}
        self.best_step = 0
        self._state: Mapping[str, Any] = {}

    def begin(self, view: Callable[[], View]) -> None:
        """Before the first update: the policy is what it starts from."""
        if self.monitor:
            self.start = self._hear(0, {}, view())[0]
            self._tell()

    def observe(self, step: int, metrics: Mapping[str, float], view: Callable[[], View]
                ) -> tuple[dict[str, float], str]:
        """The metrics with the monitor's figures, and why to stop, if it says so."""
        if not self.monitor:
            return dict(metrics), ""
        figures, stop = self._hear(step, metrics, view())
        self._tell()
        return {**metrics, **figures, "alarms": len(self.alarms)}, stop

    def ring(self, step: int, text: str) -> None:
        """Record an alarm where people see it: in the run's events at once, in its summary at the end."""
        self.alarms.append({"step": step, "text": text})
        self.run.run.event("alarm", step=step, text=text)
        self._tell()

    def save(self, folder: Path) -> None:
        """Into a checkpoint."""
        if not (self.monitor or self.alarms or self._state):
            return
        known = {"state": self.monitor.state() if self.monitor else self._state, "alarms": self.alarms,
                 "start": self.start, "best_step": self.best_step}
        (folder / STATE).write_text(json.dumps(known), encoding="utf-8")
        if self.best:
            save_file(self.best, folder / BEST)

    def load(self, folder: Path) -> None:
        """Back to where `save` was called. A run that began without a monitor goes on without one: it would take the
        policy as it is by now for the one that it began from."""
        if not (folder / STATE).is_file():
            self.monitor = None
            return
        known = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self._state, self.alarms, self.start = known["state"], known["alarms"], known["start"]
        self.best_step = known["best_step"]
        self.best = load_file(folder / BEST) if (folder / BEST).is_file() else {}
        if self.monitor:
            self.monitor.restore(self._state)
        self._tell()

    @torch.no_grad()
    def keep_best(self) -> None:
        """Put the version that the monitor wanted kept, if there is one, in the place of the last."""
        for key, value in self.best.items():
            self.weights[key].copy_(value)

    def _hear(self, step: int, metrics: Mapping[str, float], view: View) -> tuple[dict[str, float], str]:
        assert self.monitor
        word = self.monitor.observe(step, metrics, view)
        for text in word.alarms:
            self.ring(step, text)
        if word.best:
            self.best_step = step
            self.best = {k: p.detach().cpu().clone().contiguous() for k, p in self.weights.items()}
        return dict(word.figures), word.stop

    def _tell(self) -> None:
        """What people are told of it, so far."""
        self.run.summary |= {**({"alarms": list(self.alarms)} if self.monitor or self.alarms else {}),
                             **({"best_step": self.best_step} if self.best else {}),
                             **({"start": self.start} if self.start else {})}


def shown(engine: LocalEngine, sampling: Sampling, prompts: Sequence[Prompt], trees: Sequence[Tree],
          logprobs: Sequence[Sequence[float]], scores: Sequence[Sequence[float]],
          spreads: Sequence[Sequence[float]] = ()) -> View:
    """An update as a monitor sees it; `logprobs` hold those of a tree's answers one after the other."""
    answers = []
    for tree, flat in zip(trees, logprobs, strict=True):
        left = list(flat)
        row = []
        for tokens in tree.answers:
            row.append(engine.answer(list(tokens), left[:len(tokens)], sampling, POLICY))
            left = left[len(tokens):]
        answers.append(row)
    return View(prompts, answers, scores, engine, POLICY, sampling, spreads)


def beginning(engine: LocalEngine, sampling: Sampling, prompts: Sequence[Prompt]) -> View:
    """What a monitor sees before the first update."""
    return View(prompts, (), (), engine, POLICY, sampling)
