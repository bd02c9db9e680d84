"""What adapters are worth on data they were not trained on: the transfer matrix, where to start, how to mix them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from tunesmith.model import adapters, merging
from tunesmith.model.base import Base
from tunesmith.model.batch import Tree, build, hidden, split
from tunesmith.model.scorer import BUDGET, token_logprobs
from tunesmith.ops import logprobs, losses
from tunesmith.statistics import Interval, bootstrap_ratio
from tunesmith.store.workspace import Adapter, Workspace
from tunesmith.train import sft, stages

BARE, OWN = "base", "(text that the base writes)"
"""The column of the bare base, and the row of its own text."""

SPARSITY, REACH = 0.05, 1.5
"""LoraHub's penalty on the mean absolute weight, and the largest weight it allows (arXiv 2307.13269)."""


@torch.no_grad()
def nats(base: Base, slot: str, trees: Sequence[Tree]) -> np.ndarray:
    """Each demonstration's negative log-likelihood under adapter `slot`, summed over its learned tokens, [N], and the
    number of these, [N]: both as one array [2, N]."""
    found: list[np.ndarray] = []
    for part in split(trees, BUDGET):
        batch = build([trees[i] for i in part], base.device)
        weight = batch.table(batch.weight_N)
        sums = (batch.table(token_logprobs(base, slot, batch)) * weight).sum(1)
        found.append(torch.stack([-sums, weight.sum(1)]).double().cpu().numpy())
    return np.concatenate(found, 1)


@dataclass(frozen=True, slots=True)
class Row:
    """One dataset: nats per token under the bare base and each adapter, and each adapter's gain over the base."""

    data: str
    loss: Mapping[str, Interval]
    gain: Mapping[str, Interval]

    @property
    def best(self) -> str:
        """The adapter that a new one for this data should start from; "base" where none surely helps."""
        sure = {name: i.value for name, i in self.gain.items() if i.low > 0}
        return max(sure, key=lambda name: sure[name]) if sure else BARE

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"data": self.data, "best": self.best, "loss": {k: v.to_dict() for k, v in self.loss.items()},
                "gain": {k: v.to_dict() for k, v in self.gain.items()}}


def row(base: Base, data: str, trees: Sequence[Tree], slots: Mapping[str, str], seed: int = 0) -> Row:
    """What each adapter (`slots`: its name and where it is attached) makes of one dataset.

    Every token counts alike; intervals draw demonstrations anew, for the gain the same ones on both sides.
    """
    each = {name: nats(base, slot, trees) for name, slot in {BARE: "", **slots}.items()}
    bare, tokens = each[BARE]
    return Row(data, {name: bootstrap_ratio(sums, tokens, seed=seed) for name, (sums, _) in each.items()},
               {name: bootstrap_ratio(bare - each[name][0], tokens, seed=seed) for name in slots})


def retention(workspace: Workspace, base: Base, model: Adapter, limit: int = 50, seed: int = 0) -> list[Row]:
    """What a model kept of the stages that led to it: each stage, and the model, on each stage's data.

    A stage's data is what it was validated on, or else what it learned from, `limit` conversations of it. The last row
    is text that the bare base writes by itself: what its loss rose by is forgotten. Stages of another base (before a
    full fine-tuning) are left out.
    """
    found = [a for a in stages.lineage(workspace, model) if a.base["hash"] == base.hash]
    slots = {}
    for i, adapter in enumerate(dict.fromkeys([*map(str, found), str(model)])):
        adapters.load(base, slot := f"stage{i}", workspace.adapter(adapter).path)
        slots[adapter] = slot
    data = dict.fromkeys(a.lineage["settings"].get("valid") or a.lineage["settings"]["data"] for a in found)
    rows = []
    for name in data:
        demonstrations = list(islice(workspace.dataset(name).rows(), limit))
        rows.append(row(base, name, sft.encode(base, demonstrations, base.context)[0], slots, seed))
    return [*rows, row(base, OWN, stages.own_text(base, seed=seed), slots, seed)]


def weigh(base: Base, parts: Sequence[merging.Change], trees: Sequence[Tree]) -> list[float]:
    """The weights of a sum of adapters that suits a few demonstrations best, each within -1.5 .. 1.5.

    LoraHub's aim, the mean loss plus 0.05 x the mean absolute weight, with exact gradients instead of its
    gradient-free search: with B = [w_i B_i] side by side, dL/dw_i is the inner product of dL/dB's columns with B_i.
    """
    slot = "weighed"
    whole = merging.total(parts, [1.0] * len(parts))
    merging.attach(base, slot, whole)
    learned = {key: p for key, p in adapters.trainable(base, slot).items() if ".lora_B." in key}
    start = {key: p.detach().clone() for key, p in learned.items()}
    owner = _owners(base, slot, parts)
    tokens = sum(w for t in trees for ws in t.weights for w in ws)

    def loss(signed: np.ndarray) -> tuple[float, np.ndarray]:
        """The aim and its gradient at weights p - n, both at least 0, so that the penalty is linear."""
        w = torch.tensor(signed[:len(parts)] - signed[len(parts):], dtype=torch.float32)
        with torch.no_grad():
            for key, p in learned.items():
                p.copy_(start[key] * w[owner[key]])
                p.grad = None
        value = _backward(base, slot, trees, tokens)
        slope = torch.zeros(len(parts))
        for key, p in learned.items():
            if p.grad is not None:
                slope.index_add_(0, owner[key], (p.grad * start[key]).sum(0))
        penalty = SPARSITY / len(parts)
        return value + penalty * float(signed.sum()), np.concatenate([slope.numpy() + penalty,
                                                                      penalty - slope.numpy()]).astype(float)

    try:
        found = minimize(loss, np.zeros(2 * len(parts)), jac=True, method="L-BFGS-B",
                         bounds=[(0.0, REACH)] * (2 * len(parts)), options={"maxiter": 40})
    finally:
        adapters.remove(base, slot)
    return [round(float(x), 6) for x in found.x[:len(parts)] - found.x[len(parts):]]


def _owners(base: Base, slot: str, parts: Sequence[merging.Change]) -> dict[str, torch.Tensor]:
    """For each B of `slot`, which part each of its columns comes from; columns of zeros count for the first."""
    owners = {}
    for key, p in adapters.parameters(base, slot).items():
        if ".lora_B." not in key:
            continue
        layer = key.split(".lora_B.")[0]
        columns = [i for i, part in enumerate(parts) if layer in part for _ in part[layer].a]
        owners[key] = torch.tensor(columns + [0] * (p.shape[1] - len(columns)))
    return owners


def _backward(base: Base, slot: str, trees: Sequence[Tree], tokens: float) -> float:
    total = 0.0
    for part in split(trees, BUDGET):
        batch = build([trees[i] for i in part], base.device)
        with adapters.active(base, slot):
            learned = batch.weight_N > 0
            states = hidden(base, batch, "tree", batch.source_N[learned])
            logp_N = logprobs.from_hidden(states, base.head, batch.target_N[learned])
            value, _ = losses.sft(logp_N, batch.weight_N[learned], tokens)
            value.backward()
        total += float(value.detach())
    return total
