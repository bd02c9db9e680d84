"""PEFT's LoRA layer with a forward pass of our own: fewer passes over memory, and roles that cost nothing to switch.

PEFT keeps the format, the loading and the rarer variants (they go through its code). Every layer reads the role it
computes from one shared `Switch`: an adapter by name, `Mixture` (each token its own adapter) or `Merged`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners import lora as peft_lora
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ModelError
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

    The tokens of adapter a are `rows[a]`; they stand at `member[a, :]`, padded to the largest group, and token t's
    result is row `place[t]` of the flattened groups. `stacks` holds per layer the adapters' factors [n, in, R] and
    [n, R, out], zero beyond an adapter's own rank, the scaling in the second one; and where there is DoRA among them,
    its factors, [n, out].
    """

    rows: dict[str, Tensor]
    member: Tensor
    place: Tensor
    stacks: Stacks
    even: bool = False
    """The tokens come in equal groups, adapter by adapter: no gathering, about a tenth of a decoding step."""

    def adapted(self, layer: LoraLinear, x: Tensor, out: Tensor) -> Tensor:
        """A layer's output [T, out] for these inputs [T, in], `out` being the base's."""
        if layer not in self.stacks:
            return out
        first, second, factor = self.stacks[layer]
        flat = x.reshape(-1, x.shape[-1])
        own = flat.unflatten(0, (len(first), -1)) if self.even else flat[self.member]
        grouped = torch.bmm(torch.bmm(own.to(first.dtype), first), second).flatten(0, 1)
        out = out + (grouped if self.even else grouped[self.place]).to(x.dtype).reshape(*x.shape[:-1], -1)
        if factor is None:
            return out
        return layer.stretched(out, factor[self.place // self.member.shape[1]].reshape(out.shape))


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
            return role.adapted(self, x, out)
        if role not in self.lora_A:
            return out
        if not self.ours(role):
            return self._peft(role, x, out)
        first, second = (f[role].weight.to(x.dtype) for f in (self.lora_A, self.lora_B))
        flat, sums = x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1])
        if transposed(flat):
            total = torch.addmm(sums.t(), second, first @ flat.t(), alpha=self.scaling[role]).t()
        else:
            total = torch.addmm(sums, F.linear(flat, first), second.t(), alpha=self.scaling[role])
        total = total.reshape(out.shape)
        return self.stretched(total, self.factor(role)) if self.dora(role) else total

    def plain(self, name: str) -> bool:
        """Whether the adapter is W x + s B A x and nothing more."""
        return name not in self.lora_variant and not self.lora_bias[name]

    def dora(self, name: str) -> bool:
        """Whether the adapter is that, and sets the length of every row of the weight."""
        return isinstance(self.lora_variant.get(name), DoraLinearVariant) and not self.lora_bias[name]

    def ours(self, name: str) -> bool:
        """Whether this class computes the adapter, or PEFT does."""
        return self.plain(name) or self.dora(name)

    def factor(self, name: str) -> Tensor:
        """DoRA: each row's trained length over the one it has with the adapter, [out]; the latter counts as a constant
        (arXiv 2402.09353, section 4.3).
        """
        with torch.no_grad():
            length = torch.linalg.norm(self._sum(name), dim=1)
        factor: Tensor = self.lora_magnitude_vector[name].weight / length
        return factor

    def stretched(self, out: Tensor, factor: Tensor) -> Tensor:
        """DoRA: what LoRA's output [..., out] becomes with its rows' factors; the bias is not theirs.

        Where a factor is 1 nothing changes by a bit.
        """
        bias: Any = self.base_layer.bias
        return out + (factor.to(out.dtype) - 1) * (out if bias is None else out - bias)

    def _peft(self, name: str, x: Tensor, out: Tensor) -> Tensor:
        """PEFT's own computation, dropout left out as everywhere."""
        if name in self.lora_variant:
            result: Tensor = self.lora_variant[name].forward(self, active_adapter=name, x=x, result=out)
            return result
        return out + self.lora_B[name](self.lora_A[name](x.to(self.lora_A[name].weight.dtype))) * self.scaling[name]

    @torch.no_grad()
    def folded(self, name: str) -> Tensor:
        """A copy of the weight with the adapter in it, [out, in]."""
        weight: Any = self.base_layer.weight
        whole = self._sum(name)
        return (self.factor(name)[:, None] * whole if self.dora(name) else whole).to(weight.dtype)

    def _sum(self, name: str) -> Tensor:
        """W + s B A, [out, in], in the finer precision of the two."""
        weight: Any = self.base_layer.weight
        delta = self.scaling[name] * (self.lora_B[name].weight @ self.lora_A[name].weight)
        total: Tensor = (weight.t() if isinstance(self.base_layer, Conv1D) else weight) + delta
        return total


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """The linear layers that can be adapted, by the names that they have in the model, the output layer left out."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            found[name] = module.base_layer
        elif isinstance(module, Dense | Conv1D) and not name.endswith(".base_layer"):
            found[name] = module
    return {name: m for name, m in found.items() if m is not model.get_output_embeddings()}


def walk(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Its modules by name, those that hold adapters as leaves: as quick for a thousand adapters as for one."""
    yield name, module
    if not isinstance(module, LoraLinear):
        for key, child in module.named_children():
            yield from walk(child, f"{name}.{key}" if name else key)


def layers(model: nn.Module) -> list[LoraLinear]:
    """Every layer that holds adapters."""
    return [m for _, m in walk(model) if isinstance(m, LoraLinear)]


def check_targets(model: Any, spec: str, targets: Sequence[str]) -> None:
    """Names of linear layers, whole or their ends, as PEFT matches them.

    Raises:
        ModelError: the model has none of such a name.
    """
    known = linear_layers(model)
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in known):
            ends = sorted({name.rpartition(".")[2] for name in known})
            raise ModelError(f'base {spec} has no linear layer "{target}" to adapt; it has {", ".join(ends)}')


Stacks = dict[nn.Module, tuple[Tensor, Tensor, Tensor | None]]


def mixture(model: nn.Module, names: Sequence[str], known: dict[tuple[str, ...], Stacks] | None = None) -> Mixture:
    """`Mixture` for tokens with these adapters ("" is the bare base).

    `known` keeps the factors of the last sets of adapters met, for a caller that knows when they change. Of a set that
    holds these and few more they are used as they are; an adapter that is new takes the place of one that is gone.

    Raises:
        ValueError: an adapter is a variant of LoRA that only PEFT computes, so it cannot share a batch.
    """
    counts = Counter(names)
    known = {} if known is None else known
    kinds = _stacked(model, sorted(counts), known)
    stacks = known[tuple(kinds)]
    device = next(model.parameters()).device
    member = torch.zeros(len(kinds), max(counts.values()), dtype=torch.long)
    place = torch.empty(len(names), dtype=torch.long)
    filled: Counter[str] = Counter()
    for token, name in enumerate(names):
        group, column = kinds.index(name), filled[name]
        member[group, column], place[token] = token, group * member.shape[1] + column
        filled[name] += 1
    even = member.flatten().tolist() == list(range(len(names)))
    rows = {kind: member[i, :counts[kind]].to(device) for i, kind in enumerate(kinds) if counts[kind]}
    return Mixture(rows, member.to(device), place.to(device), stacks, even)


def _stacked(model: nn.Module, kinds: Sequence[str], known: dict[tuple[str, ...], Stacks]) -> list[str]:
    """The adapters of a set in `known` that holds all of `kinds`, made if there is none."""
    for had in known:
        if set(kinds) <= set(had) and len(had) <= 2 * len(kinds):
            return list(had)
    for had in known:
        places = _exchanged(model, had, kinds)
        if places and all(_fits(layer, places, stack) for layer, stack in known[had].items()):
            stacks = known.pop(had)
            for layer, stack in stacks.items():
                for place, kind in places.items():
                    _put(layer, kind, place, stack)  # type: ignore[arg-type]
            known[tuple(places.get(i, kind) for i, kind in enumerate(had))] = stacks
            return list(next(reversed(known)))
    if len(known) >= SETS:
        known.clear()
    known[tuple(kinds)] = {layer: _stack(layer, kinds) for layer in layers(model)
                           if any(k in layer.lora_A for k in kinds)}
    return list(kinds)


def _exchanged(model: nn.Module, had: Sequence[str], kinds: Sequence[str]) -> dict[int, str]:
    """Which places of a set the adapters take that it lacks; none if there are too few, or they adapt other layers."""
    new = [kind for kind in kinds if kind not in had]
    free = [i for i, kind in enumerate(had) if kind not in kinds]
    if len(new) > len(free) or len(had) > 2 * len(kinds) or not any(had):
        return {}
    sample = next(kind for kind in had if kind)
    alike = all((kind in layer.lora_A) == (sample in layer.lora_A) for layer in layers(model) for kind in new if kind)
    return dict(zip(free, new)) if alike else {}


def _fits(layer: Any, places: Mapping[int, str], stack: tuple[Tensor, Tensor, Tensor | None]) -> bool:
    """Whether the adapters' ranks and kinds have room in a layer's stack."""
    mine = [kind for kind in places.values() if kind in layer.lora_A]
    return all(layer.ours(kind) and len(layer.lora_A[kind].weight) <= stack[0].shape[2]
               and (stack[2] is not None or not layer.dora(kind)) for kind in mine)


@torch.no_grad()
def _put(layer: LoraLinear, kind: str, place: int, stack: tuple[Tensor, Tensor, Tensor | None]) -> None:
    """An adapter's factors into its place, whatever was there before."""
    first, second, factor = stack
    first[place], second[place] = 0, 0
    if factor is not None:
        factor[place] = 1
    if kind in layer.lora_A:
        if not layer.ours(kind):
            raise ValueError(f'adapter "{kind}" is a variant of LoRA that cannot share a batch with others')
        r = len(layer.lora_A[kind].weight)
        first[place, :, :r] = layer.lora_A[kind].weight.t()
        second[place, :r] = layer.lora_B[kind].weight.t() * layer.scaling[kind]
        if factor is not None and layer.dora(kind):
            factor[place] = layer.factor(kind)


@torch.no_grad()
def _stack(layer: LoraLinear, kinds: Sequence[str]) -> tuple[Tensor, Tensor, Tensor | None]:
    weight = next(layer.lora_A[k].weight for k in kinds if k in layer.lora_A)
    rank = max(len(layer.lora_A[k].weight) for k in kinds if k in layer.lora_A)
    first = weight.new_zeros(len(kinds), layer.in_features, rank)
    second = weight.new_zeros(len(kinds), rank, layer.out_features)
    factor = weight.new_ones(len(kinds), layer.out_features) if any(map(layer.dora, kinds)) else None
    for i, kind in enumerate(kinds):
        _put(layer, kind, i, (first, second, factor))
    return first, second, factor
