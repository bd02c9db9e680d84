"""Several LoRA adapters of one base as one: an exact sum, or TIES or DARE; and back to a smaller rank by SVD.

An adapter is here a change of each layer's weight, kept as two factors: W' = W + B A, the scaling in B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from peft.utils import merge_utils
from torch import Tensor

from tunesmith.errors import ModelError
from tunesmith.model import adapters, lora
from tunesmith.model.base import Base

How = Literal["sum", "ties", "dare", "dare-ties"]
SKETCHED = 1024
"""Weights larger than this on both sides are decomposed by a randomised SVD."""


@dataclass(frozen=True, eq=False, slots=True)
class Factors:
    """One layer's change B A: `a` [r, in] and `b` [out, r]."""

    a: Tensor
    b: Tensor

    def dense(self) -> Tensor:
        """B A, [out, in]."""
        return self.b @ self.a


Change = dict[str, Factors]
"""By the layer's name."""


@torch.no_grad()
def change(base: Base, name: str) -> Change:
    """What an attached adapter changes, in float32 copies.

    Raises:
        ModelError: it is more than plain LoRA, so that its change is no product of two factors.
    """
    found = {}
    for key, layer in layers(base, name).items():
        if not layer.plain(name):
            raise ModelError(f'adapter "{name}" is more than plain LoRA; only plain LoRA adapters can be merged')
        found[key] = Factors(layer.lora_A[name].weight.float().clone(),
                             layer.lora_B[name].weight.float() * layer.scaling[name])
    if not found:
        raise ModelError(f'adapter "{name}" has no LoRA layers; only LoRA adapters can be merged')
    return found


def total(parts: Sequence[Change], weights: Sequence[float]) -> Change:
    """sum_i w_i B_i A_i, exactly: the factors side by side, so that the ranks add up."""
    keys = sorted({key for part in parts for key in part})
    return {key: Factors(torch.cat([p[key].a for p in parts if key in p]),
                         torch.cat([w * p[key].b for p, w in zip(parts, weights) if key in p], 1)) for key in keys}


def sparse(parts: Sequence[Change], weights: Sequence[float], how: How, density: float, rank: int, seed: int = 0,
           ) -> Change:
    """Keep a `density` of each change and add them up, at the best `rank` factors for the result.

    "ties" (arXiv 2306.01708) keeps the largest and averages those that agree with the elected sign; "dare"
    (arXiv 2311.03099) keeps random ones and scales them up; "dare-ties" elects signs among these.
    """
    rule = {"ties": merge_utils.ties, "dare": merge_utils.dare_linear, "dare-ties": merge_utils.dare_ties}[how]
    merged = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for key in sorted({key for part in parts for key in part}):
            shape = next(p[key] for p in parts if key in p).dense()
            dense = [p[key].dense() if key in p else torch.zeros_like(shape) for p in parts]
            merged[key] = _best(rule(dense, torch.tensor(list(weights)), density), rank)
    return merged


def shrunk(parts: Mapping[str, Factors], rank: int) -> Change:
    """The nearest change of at most this rank (Eckart and Young): the SVD of B A, without ever forming B A."""
    small = {}
    for key, factors in parts.items():
        q_b, r_b = torch.linalg.qr(factors.b)
        q_a, r_a = torch.linalg.qr(factors.a.T)
        u, s, v = torch.linalg.svd(r_b @ r_a.T)
        small[key] = _halves(q_b @ u[:, :rank], s[:rank], v[:rank] @ q_a.T)
    return small


def lost(before: Mapping[str, Factors], after: Mapping[str, Factors]) -> float:
    """|before - after| / |before| over all layers, Frobenius: 0 is exact."""
    gap = torch.stack([(f.dense() - after[key].dense()).square().sum() for key, f in before.items()]).sum()
    size = torch.stack([f.dense().square().sum() for f in before.values()]).sum()
    return float((gap / size.clamp_min(1e-30)).sqrt())


@torch.no_grad()
def attach(base: Base, name: str, parts: Mapping[str, Factors]) -> None:
    """A plain LoRA adapter that makes exactly this change; layers of a smaller rank are filled up with zeros."""
    rank = max(len(f.a) for f in parts.values())
    adapters.attach(base, name, adapters.Method(rank=rank, alpha=rank, targets=tuple(sorted(parts))), seed=0)
    for key, layer in layers(base, name).items():
        a, b = layer.lora_A[name].weight.zero_(), layer.lora_B[name].weight.zero_()
        a[:len(parts[key].a)], b[:, :len(parts[key].a)] = parts[key].a, parts[key].b


def _best(dense: Tensor, rank: int) -> Factors:
    if min(dense.shape) > SKETCHED:
        u, s, v = torch.svd_lowrank(dense, q=min(rank + 16, *dense.shape), niter=6)
        return _halves(u[:, :rank], s[:rank], v[:, :rank].T)
    u, s, v = torch.linalg.svd(dense, full_matrices=False)
    return _halves(u[:, :rank], s[:rank], v[:rank])


def _halves(u: Tensor, s: Tensor, v: Tensor) -> Factors:
    """Half of the singular values to each side, so that neither factor is tiny."""
    root = s.sqrt()
    return Factors(root[:, None] * v, u * root)


def layers(base: Base, name: str) -> dict[str, lora.LoraLinear]:
    """The layers that a LoRA adapter changes, by their names in the base's own model."""
    return {key: m for key, m in base.model.named_modules() if isinstance(m, lora.LoraLinear) and name in m.lora_A}
