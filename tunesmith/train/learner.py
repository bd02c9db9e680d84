"""Two verbs between an algorithm and the machinery: `backward` and `step`; and what it takes to go on after a crash.

There is no randomness inside a step (no dropout) and data order is a function of the seed and the position, so the
whole state is: weights, optimizer moments, and the step.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.errors import MissingExtra, TrainingStopped
from tunesmith.settings import Optimization

BUDGET = 768
"""Tokens per micro-batch where nothing else is said: a CPU gets no faster beyond (caches), and memory grows with it."""

EXPLODED = 1e4
"""A gradient norm beyond this stops the run."""

MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq", "step"), "adamw8bit": ("state1", "state2", "step")}
QUANTISED = ("absmax1", "absmax2", "qmap1", "qmap2")
"""What belongs to moments in 8 bits: the scale of each block of 256 numbers and the code book."""


class Learner:
    """AdamW over named parameters with linear warmup and decay, gradient clipping and a guard against NaN.

    `budget` is the number of tokens per micro-batch; an optimizer step adds up as many micro-batches as it takes.
    Weight decay spares vectors (norms and biases). "adamw8bit" keeps the moments in 8 bits (arXiv 2110.02861).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], steps: int, lr: float, warmup: float = 0.0,
                 max_grad_norm: float = 1.0, weight_decay: float = 0.0, decay: bool = True, *,
                 optimizer: str = "adamw", budget: int = BUDGET):
        self.parameters = dict(parameters)
        self.steps, self.lr, self.max_grad_norm, self.budget = steps, lr, max_grad_norm, budget
        self.warmup = math.ceil(warmup * steps)
        self.decay = decay
        self.done = 0
        self.moments = MOMENTS[optimizer]
        self.optimizer = _optimizer(optimizer, self.parameters.values(), lr, weight_decay)
        self._loss: Tensor | None = None  # of this step so far

    @classmethod
    def of(cls, parameters: Mapping[str, nn.Parameter], steps: int, settings: Optimization, lr: float = 0.0) -> Self:
        """The learner that a trainer's settings describe; `lr` overrides theirs."""
        return cls(parameters, steps, lr or settings.lr, settings.warmup, settings.max_grad_norm,
                   settings.weight_decay, optimizer=settings.optimizer, budget=settings.micro_tokens or BUDGET)

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradient to what the next `step` applies."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()
        loss.backward()

    def step(self) -> dict[str, float]:
        """Clip and apply the gradient; returns the learning rate and the norm before clipping.

        Raises:
            TrainingStopped: the loss or the gradient is not finite, or the gradient has exploded.
        """
        size = nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm)
        seen = size.new_zeros(()) if self._loss is None else self._loss.to(size.dtype)
        norm, loss = torch.stack([size, seen]).tolist()  # a GPU is waited for here, and only here
        self._loss = None
        if not math.isfinite(loss):
            self._stop(f"the loss became {loss}")
        if not math.isfinite(norm) or norm > EXPLODED:
            self._stop(f"the gradient's norm became {norm:.3g}")
        lr = self.lr * self._factor()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        return {"lr": lr, "grad_norm": norm}

    def discard(self) -> None:
        """Forget what was added since the last step."""
        self._loss = None
        self.optimizer.zero_grad(set_to_none=True)

    def _stop(self, why: str) -> None:
        raise TrainingStopped(f"{why} at step {self.done + 1}; the last good checkpoint is kept: lower --lr and "
                              "resume or start again")

    def _factor(self) -> float:
        if self.done < self.warmup:
            return (self.done + 1) / self.warmup
        if not self.decay:
            return 1.0
        return max(0.0, (self.steps - self.done) / max(1, self.steps - self.warmup))

    def save(self, folder: Path, name: str) -> None:
        """Weights, moments and the step, as `NAME.safetensors`; and which weights never had a gradient (`still`)."""
        tensors: dict[str, Tensor] = {}
        for key, p in self.parameters.items():
            tensors[f"weight/{key}"] = p.detach()
            for part, value in self.optimizer.state.get(p, {}).items():
                tensors[f"{part}/{key}"] = torch.as_tensor(value)
                if part in QUANTISED:  # all weights share their code books, and files share nothing
                    tensors[f"{part}/{key}"] = tensors[f"{part}/{key}"].clone()
        still = [key for key, p in self.parameters.items() if not self.optimizer.state.get(p)]
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors",
                  metadata={"about": json.dumps({"done": self.done, "still": still})})  # one key: several have no order

    @torch.no_grad()
    def load(self, folder: Path, name: str) -> None:
        """Back to exactly where `save` was called.

        Raises:
            TrainingStopped: the checkpoint lacks a weight or an optimizer moment.
        """
        tensors = load_file(folder / f"{name}.safetensors")
        about = _about(folder / f"{name}.safetensors")
        self.done, still = about["done"], set(about["still"])
        for key, p in self.parameters.items():
            moments = self._wanted(tensors, key) if self.done and key not in still else ()
            if lacking := [part for part in ("weight", *moments) if f"{part}/{key}" not in tensors]:
                raise TrainingStopped(f"checkpoint {folder} lacks {lacking[0]} of {key}; it cannot be resumed")
            p.copy_(tensors[f"weight/{key}"])
            if moments:
                self.optimizer.state[p] = {part: self._moment(part, tensors[f"{part}/{key}"], p) for part in moments}

    def _wanted(self, tensors: Mapping[str, Tensor], key: str) -> tuple[str, ...]:
        """Small tensors keep their moments in 32 bits, also with an 8-bit optimizer."""
        first = tensors.get(f"{self.moments[0]}/{key}")
        return (*self.moments, *(QUANTISED if first is not None and first.dtype == torch.uint8 else ()))

    def _moment(self, part: str, value: Tensor, p: nn.Parameter) -> Tensor | int:
        return int(value) if part == "step" and self.moments == MOMENTS["adamw8bit"] else value.to(p.device)


def _optimizer(kind: str, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    known = list(parameters)
    groups = [{"params": [p for p in known if p.ndim > 1], "weight_decay": weight_decay},
              {"params": [p for p in known if p.ndim <= 1], "weight_decay": 0.0}]
    shared: dict[str, Any] = {"lr": lr, "betas": (0.9, 0.99), "eps": 1e-8}
    if kind == "adamw":
        return torch.optim.AdamW(groups, fused=True, **shared)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # kernels that we do not use may be missing
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as e:
        raise MissingExtra("bitsandbytes", "quantised") from e
    chosen: torch.optim.Optimizer = AdamW8bit(groups, **shared)
    return chosen


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
    keys = list(metrics[0])
    rows = torch.stack([torch.stack([m[key].detach().double() for key in keys]) for m in metrics]).T.tolist()
    return {key: max(row) if key.endswith("_max") else sum(row) for key, row in zip(keys, rows)}


def _about(file: Path) -> dict[str, Any]:
    with safe_open(file, "pt") as f:
        about: dict[str, Any] = json.loads(f.metadata()["about"])
        return about
