"""Fine-tuning in stages, general -> domain -> sub-domain: what a later stage leaves of the earlier ones.

A stage goes on with the adapter of the one before, or is stacked upon it: the earlier factors are frozen and new ones
learn beside them, so that what is published is one plain LoRA adapter whose first ranks are the old one's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunesmith.contracts import Sampling
from tunesmith.errors import ModelError, UserError
from tunesmith.model import adapters, merging
from tunesmith.model.base import Base
from tunesmith.model.batch import Tree
from tunesmith.model.engine import LocalEngine
from tunesmith.settings import SftSettings
from tunesmith.store.workspace import Adapter, Workspace
from tunesmith.train import full
from tunesmith.train.material import Material

START = "start"
"""The slot of what the stage started from."""


@dataclass(frozen=True, slots=True)
class Stay:
    """What keeps a stage near what it started from, the adapter in slot `before` ("" is the bare base).

    `kl` weighs KL(before | now) per learned token, `orthogonal` the `overlap` with the first `frozen` ranks.
    """

    before: str = ""
    kl: float = 0.0
    orthogonal: float = 0.0
    frozen: int = 0


FREE = Stay()


def start(base: Base, slot: str, settings: SftSettings, parent: Adapter | None,
          ) -> tuple[str, dict[str, nn.Parameter], Stay]:
    """`full.start` for a stage: goes on with the parent's adapter, or stacks a new one upon it.

    Raises:
        ModelError: see `full.start`; or the parent is more than plain LoRA, or no adapter, and is to be stacked upon.
    """
    whole = parent is None or parent.base.get("kind") == "full"
    if whole and settings.stack:
        raise ModelError(f"{parent} is a base that was trained as a whole; --stack needs an adapter to stack upon")
    if whole or not (settings.stack or settings.kl_to_start):
        return *full.start(base, slot, settings, parent), Stay(kl=settings.kl_to_start)
    adapters.load(base, START, parent.path)  # type: ignore[union-attr]
    if not settings.stack:
        return *full.start(base, slot, settings, parent), Stay(START, settings.kl_to_start)
    below = merging.change(base, START)
    return (slot, stack(base, slot, below, full.method(settings), settings.seed),
            Stay(START, settings.kl_to_start, settings.orthogonal, depth(below)))


def stack(base: Base, slot: str, below: merging.Change, method: adapters.Method, seed: int) -> dict[str, nn.Parameter]:
    """A LoRA adapter whose first ranks are `below`, held by masked gradients, and whose others are fresh.

    Adam leaves a weight that never has a gradient exactly where it is, as long as nothing decays it.
    """
    frozen = depth(below)
    scale = method.alpha / (method.rank**0.5 if method.rslora else method.rank)
    rank = frozen + method.rank
    targets = (*method.targets, *below) if method.targets else ()
    adapters.attach(base, slot, adapters.Method(rank=rank, alpha=scale * rank, targets=targets), seed)
    with torch.no_grad():
        for key, layer in merging.layers(base, slot).items():
            a, b = layer.lora_A[slot].weight, layer.lora_B[slot].weight
            a[:frozen] = 0
            if key in below:
                own = len(below[key].a)
                a[:own], b[:, :own] = below[key].a, below[key].b / scale
    weights = adapters.trainable(base, slot)
    learns = (torch.arange(rank, device=base.device) >= frozen).float()
    for layer in merging.layers(base, slot).values():
        layer.lora_A[slot].weight.register_hook(lambda g: g * learns[:, None].to(g.dtype))
        layer.lora_B[slot].weight.register_hook(lambda g: g * learns.to(g.dtype))
    return weights


def depth(below: merging.Change) -> int:
    """How many ranks the frozen part takes."""
    return max(len(f.a) for f in below.values())


def overlap(base: Base, slot: str, frozen: int) -> Tensor:
    """O-LoRA's penalty (arXiv 2310.14152, eq. 6 and 8): the squared inner products of the new A's rows with the
    frozen ones', summed over the layers."""
    parts = []
    for layer in merging.layers(base, slot).values():
        a = layer.lora_A[slot].weight
        parts.append((a[frozen:] @ a[:frozen].detach().T).square().sum())
    return torch.stack(parts).sum()


def mixed(new: Material[Tree], old: Material[Tree], step: int, settings: SftSettings) -> list[Tree]:
    """The conversations of one step: new ones, and from the earlier stages the share that is replayed."""
    again = replayed(settings)
    fresh = settings.batch - again
    return [*new.take(step * fresh, fresh), *old.take(step * again, again)]


def replayed(settings: SftSettings) -> int:
    """How many conversations of a step are of earlier stages: at least one, and at least one is new."""
    if not settings.replay:
        return 0
    return min(settings.batch - 1, max(1, round(settings.batch * settings.replay_share)))


def lineage(workspace: Workspace, adapter: Adapter) -> list[Adapter]:
    """The stages of supervised fine-tuning that led to an adapter, oldest first, itself among them if it is one."""
    stages: list[Adapter] = []
    current: Adapter | None = adapter
    while current is not None:
        if "data" in (current.lineage.get("settings") or {}):
            stages.insert(0, current)
        parents = current.lineage.get("parents") or {}
        name = next((parents[key] for key in ("after", "policy") if key in parents), None)
        current = workspace.find_adapter(name) if name else None
    return stages


def own_text(base: Base, count: int = 32, tokens: int = 64, seed: int = 0) -> list[Tree]:
    """What the bare base writes from nothing: text whose loss can only rise, by KL(base | adapter) on average.

    Raises:
        UserError: the tokenizer has no token that a text could begin with.
    """
    first = base.tokenizer.bos_token_id if base.tokenizer.bos_token_id is not None else base.tokenizer.eos_token_id
    if first is None:
        raise UserError(f"base {base.spec}: its tokenizer has no beginning and no end of text")
    sampling = Sampling(max_tokens=tokens, seed=seed)
    rows = LocalEngine(base).generate([[first]], sampling, [(seed, 0, k) for k in range(count)], n=count)
    return [Tree((first,), (tuple(written),)) for written, _ in rows if written]
