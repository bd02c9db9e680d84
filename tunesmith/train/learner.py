"""Two verbs between an algorithm and the machinery: `backward` and `step`; and what it takes to go on after a crash.

There is no randomness inside a step (no dropout) and data order is a function of the seed and the position, so the
whole state is: weights, optimizer moments, and the step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.errors import TrainingStopped

BUDGET = 4096
"""Tokens per micro-batch in training."""

EXPLODED = 1e4
"""A gradient norm beyond this stops the run."""


class Learner:
    """AdamW over named parameters with linear warmup and decay, gradient clipping and a guard against NaN."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], steps: int, lr: float, warmup: float = 0.0,
                 max_grad_norm: float = 1.0, weight_decay: float = 0.0, decay: bool = True):
        self.parameters = dict(parameters)
        self.steps, self.lr, self.max_grad_norm = steps, lr, max_grad_norm
        self.warmup = math.ceil(warmup * steps)
        self.decay = decay
        self.done = 0
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=lr, weight_decay=weight_decay,
                                           betas=(0.9, 0.99), eps=1e-8, fused=True)

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradient to what the next `step` applies.

        Raises:
            TrainingStopped: the loss is not finite.
        """
        if not torch.isfinite(loss):
            raise TrainingStopped(f"the loss became {float(loss.detach())} at step {self.done + 1}; the last good "
                                  "checkpoint is kept: lower --lr and resume or start again")
        loss.backward()

    def step(self) -> dict[str, float]:
        """Clip and apply the gradient; returns the learning rate and the norm before clipping.

        Raises:
            TrainingStopped: the gradient is not finite or has exploded.
        """
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm))
        if not math.isfinite(norm) or norm > EXPLODED:
            raise TrainingStopped(f"the gradient's norm became {norm:.3g} at step {self.done + 1}; the last good "
                                  "checkpoint is kept: lower --lr and resume or start again")
        lr = self.lr * self._factor()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        return {"lr": lr, "grad_norm": norm}

    def _factor(self) -> float:
        if self.done < self.warmup:
            return (self.done + 1) / self.warmup
        if not self.decay:
            return 1.0
        return max(0.0, (self.steps - self.done) / max(1, self.steps - self.warmup))

    def save(self, folder: Path, name: str) -> None:
        """Weights, moments and the step, as `NAME.safetensors`."""
        tensors: dict[str, Tensor] = {}
        for key, p in self.parameters.items():
            tensors[f"weight/{key}"] = p.detach()
            for part, value in self.optimizer.state.get(p, {}).items():
                tensors[f"{part}/{key}"] = value
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors",
                  metadata={"done": json.dumps(self.done)})

    @torch.no_grad()
    def load(self, folder: Path, name: str) -> None:
        """Back to exactly where `save` was called.

        Raises:
            TrainingStopped: the checkpoint lacks a weight or an optimizer moment.
        """
        tensors = load_file(folder / f"{name}.safetensors")
        self.done = _done(folder / f"{name}.safetensors")
        for key, p in self.parameters.items():
            wanted = ["weight", *(("exp_avg", "exp_avg_sq", "step") if self.done else ())]
            if lacking := [part for part in wanted if f"{part}/{key}" not in tensors]:
                raise TrainingStopped(f"checkpoint {folder} lacks {lacking[0]} of {key}; it cannot be resumed")
            p.copy_(tensors[f"weight/{key}"])
            if self.done:
                self.optimizer.state[p] = {part: tensors[f"{part}/{key}"].to(p.device) for part in wanted[1:]}


def indices(n: int, seed: int, start: int, count: int) -> list[int]:
    """Items `start` .. `start + count` of an endless sequence of shuffled passes over n items; O(1) to resume."""
    passes: dict[int, np.ndarray] = {}
    out = []
    for position in range(start, start + count):
        turn = position // n
        if turn not in passes:
            passes[turn] = np.random.default_rng((seed, turn)).permutation(n)
        out.append(int(passes[turn][position % n]))
    return out


def mean(metrics: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Micro-batches' metrics as one; each was divided by the step's count already, so they add up.

    Names that end in `_max` take the maximum.
    """
    out: dict[str, float] = {}
    for key in metrics[0]:
        values = [float(m[key]) for m in metrics]
        out[key] = max(values) if key.endswith("_max") else sum(values)
    return out


def _done(file: Path) -> int:
    from safetensors import safe_open

    with safe_open(file, "pt") as f:
        return int(json.loads(f.metadata()["done"]))
