"""PEFT's LoRA layer with a forward pass of our own: fewer passes over memory, and roles that cost nothing to switch.

PEFT keeps the format, the loading and the variants (DoRA and others go through its code). Every layer reads the role
it computes from one shared `Switch`: an adapter by name, `Mixture` (each token its own adapter) or `Merged`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners import lora as peft_lora
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.ops.products import linear, transposed

SETS = 4
"""Sets of adapters whose stacked factors are kept: of n adapters in a batch there may come 2^n."""


class Dense(nn.Linear):
    """A linear layer that multiplies few rows the faster way round while decoding. Takes over existing modules."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def take_over(model: nn.Module) -> None:
    """Plain linear layers become `Dense`; quantised ones and others stay what they are."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Dense


@dataclass(eq=False, slots=True)
class Switch:
    """What all layers of a base compute now: "" is the bare base; `read` belongs to `narrow`."""

    role: str | Mixture | Merged = ""
    read: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Merged:
    """One adapter folded into copies of the weights, by layer."""

    weights: dict[nn.Module, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Mixture:
    """Which adapter each of T tokens uses, prepared for batched products.

    The tokens of adapter a stand at `member[a, :]`, padded to the largest group; token t's result is row `place[t]`
    of the flattened groups. `stacks` holds per layer the adapters' factors [n, in, R] and [n, R, out], zero beyond
    an adapter's own rank, the scaling in the second one.
    """

    member: Tensor
    place: Tensor
    stacks: Stacks
    even: bool = False
    """The tokens come in equal groups, adapter by adapter: no gathering, about a tenth of a decoding step."""

    def update(self, layer: nn.Module, x: Tensor) -> Tensor | None:
        """What the tokens' adapters add to this layer's output, [T, out]; nothing if none of them adapts it."""
        if layer not in self.stacks:
            return None
        first, second = self.stacks[layer]
        flat = x.reshape(-1, x.shape[-1])
        own = flat.unflatten(0, (len(first), -1)) if self.even else flat[self.member]
        grouped = torch.bmm(torch.bmm(own.to(first.dtype), first), second).flatten(0, 1)
        return (grouped if self.even else grouped[self.place]).to(x.dtype).reshape(*x.shape[:-1], -1)


class LoraLinear(peft_lora.Linear):
    """PEFT's layer; `switch` belongs to the base."""

    switch: Switch
    lora_A: Any  # by adapter name
    lora_B: Any

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        role = self.switch.role
        if isinstance(role, Merged):
            weight = role.weights.get(self)
            return self.base_layer(x) if weight is None else linear(x, weight, self.base_layer.bias)  # type: ignore
        out: Tensor = self.base_layer(x)
        if isinstance(role, Mixture):
            more = role.update(self, x)
            return out if more is None else out + more
        if role not in self.lora_A:
            return out
        if not self.plain(role):
            return self._peft(role, x, out)
        first, second = (f[role].weight.to(x.dtype) for f in (self.lora_A, self.lora_B))
        flat, sums = x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1])
        if transposed(flat):
            total = torch.addmm(sums.t(), second, first @ flat.t(), alpha=self.scaling[role]).t()
        else:
            total = torch.addmm(sums, F.linear(flat, first), second.t(), alpha=self.scaling[role])
        return total.reshape(out.shape)

    def plain(self, name: str) -> bool:
        """Whether the adapter is W x + s B A x and nothing more."""
        return name not in self.lora_variant and not self.lora_bias[name]

    def _peft(self, name: str, x: Tensor, out: Tensor) -> Tensor:
        """PEFT's own computation, dropout left out as everywhere."""
        if name in self.lora_variant:
            result: Tensor = self.lora_variant[name].forward(self, active_adapter=name, x=x, result=out)
            return result
        return out + self.lora_B[name](self.lora_A[name](x.to(self.lora_A[name].weight.dtype))) * self.scaling[name]

    @torch.no_grad()
    def folded(self, name: str) -> Tensor:
        """A copy of the weight with the adapter in it, [out, in]."""
        delta = self.scaling[name] * (self.lora_B[name].weight @ self.lora_A[name].weight)
        weight: Any = self.base_layer.weight
        return (weight.t() if isinstance(self.base_layer, Conv1D) else weight) + delta.to(weight.dtype)


def layers(model: nn.Module) -> list[LoraLinear]:
    """Every layer that holds adapters."""
    return [m for m in model.modules() if isinstance(m, LoraLinear)]


Stacks = dict[nn.Module, tuple[Tensor, Tensor]]


def mixture(model: nn.Module, names: Sequence[str], known: dict[tuple[str, ...], Stacks] | None = None) -> Mixture:
    """`Mixture` for tokens with these adapters ("" is the bare base).

    `known` keeps the factors of the last sets of adapters met, for a caller that knows when they change.

    Raises:
        ValueError: an adapter is more than plain LoRA, so it cannot share a batch.
    """
    kinds = sorted(set(names))
    counts = Counter(names)
    device = next(model.parameters()).device
    member = torch.zeros(len(kinds), max(counts.values()), dtype=torch.long)
    place = torch.empty(len(names), dtype=torch.long)
    filled: Counter[str] = Counter()
    for token, name in enumerate(names):
        group, column = kinds.index(name), filled[name]
        member[group, column], place[token] = token, group * member.shape[1] + column
        filled[name] += 1
    known = {} if known is None else known
    if (stacks := known.get(tuple(kinds))) is None:
        if len(known) >= SETS:
            known.clear()
        stacks = {layer: _stack(layer, kinds) for layer in layers(model) if any(k in layer.lora_A for k in kinds)}
        known[tuple(kinds)] = stacks
    even = member.flatten().tolist() == list(range(len(names)))
    return Mixture(member.to(device), place.to(device), stacks, even)


@torch.no_grad()
def _stack(layer: LoraLinear, kinds: Sequence[str]) -> tuple[Tensor, Tensor]:
    weight = next(layer.lora_A[k].weight for k in kinds if k in layer.lora_A)
    rank = max(len(layer.lora_A[k].weight) for k in kinds if k in layer.lora_A)
    first = weight.new_zeros(len(kinds), layer.in_features, rank)
    second = weight.new_zeros(len(kinds), rank, layer.out_features)
    for i, kind in enumerate(kinds):
        if kind in layer.lora_A:
            if not layer.plain(kind):
                raise ValueError(f'adapter "{kind}" is more than plain LoRA and cannot share a batch with others')
            r = len(layer.lora_A[kind].weight)
            first[i, :, :r] = layer.lora_A[kind].weight.t()
            second[i, :r] = layer.lora_B[kind].weight.t() * layer.scaling[kind]
    return first, second
