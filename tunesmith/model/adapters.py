"""Adapters of any method on the resident base, saved as PEFT directories.

Roles are names: `policy`, `reference`, `reward`, `value`, or any served adapter. One is active at a time, or none
(the bare base), or each token of a batch has its own. What computes an adapter is decided here by its type (`SERVED`),
and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.model import bottleneck, ia3, lora, prefix, tuners
from tunesmith.model.base import Base, said
from tunesmith.model.methods import CONFIG, PEFT_TYPE, WEIGHTS, Family, Method, described

__all__ = ["WEIGHTS", "Method", "active", "attach", "copy", "described", "load", "merged", "mixed", "mixture", "names",
           "parameters", "remove", "room", "save", "shares", "trainable"]

SERVED: dict[str, Family] = {"LORA": tuners, "IA3": ia3, "BOTTLENECK": bottleneck, "PREFIX_TUNING": prefix,
                             "PROMPT_TUNING": prefix}
"""The code for each `peft_type`."""


def attach(base: Base, name: str, method: Method, seed: int) -> None:
    """A fresh adapter; where its method allows, it changes nothing yet.

    Raises:
        ModelError: the base has no place for it.
    """
    family = _family(method.peft_type)
    _vacate(base, name, family)
    family.attach(base, name, method, seed)


def load(base: Base, name: str, folder: Path) -> None:
    """Attach a saved PEFT directory under `name`.

    Raises:
        ModelError: the folder does not fit this base; then nothing is attached under `name`, unless the folder cannot
            even be read: then what was there stays.
    """
    try:
        family = _family(json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("peft_type"))
        family.load(base, name, folder)
        _vacate(base, name, family)
    except ModelError as e:
        raise ModelError(f"adapter {folder}: {e}") from e
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:
        raise ModelError(f"adapter {folder}: does not fit base {base.spec}: {said(e)}") from e


def copy(base: Base, source: str, target: str) -> None:
    """A second adapter `target` with the same weights; it shares no memory with `source`."""
    family = _holder(base, source)
    _vacate(base, target, family)
    family.copy(base, source, target)


def remove(base: Base, name: str) -> None:
    """Drop an adapter from memory."""
    _holder(base, name).remove(base, name)


def names(base: Base) -> list[str]:
    """The attached adapters."""
    return [name for family in _families() for name in family.names(base)]


def parameters(base: Base, name: str) -> dict[str, nn.Parameter]:
    """An adapter's weights by name, in a fixed order."""
    return _holder(base, name).parameters(base, name)


def trainable(base: Base, name: str) -> dict[str, nn.Parameter]:
    """`parameters`, with gradients on."""
    chosen = parameters(base, name)
    for p in chosen.values():
        p.requires_grad_(True)
    return chosen


def save(base: Base, name: str, folder: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` as PEFT reads them."""
    _holder(base, name).save(base, name, folder)


@contextmanager
def active(base: Base, name: str) -> Iterator[None]:
    """Forward passes inside use this adapter; "" is the bare base, exactly, and so is everything outside."""
    _attached(base, [name])
    with _role(base, name):
        yield


@contextmanager
def mixed(base: Base, mixture: lora.Mixture) -> Iterator[None]:
    """Forward passes inside hold the tokens that `mixture` (from `mixture`) was made for, each with its own adapter."""
    with _role(base, mixture):
        yield


def mixture(base: Base, names: Sequence[str], known: dict[tuple[str, ...], lora.Stacks] | None = None) -> lora.Mixture:
    """For `mixed`: the adapter of each token of the flat input, "" for the bare base. `known`: see `lora.mixture`.

    Raises:
        ModelError: an adapter is not attached, or cannot share a batch (`shares`).
    """
    _attached(base, set(names))
    try:
        return lora.mixture(base.model, names, known)
    except ValueError as e:
        raise ModelError(str(e)) from e


@contextmanager
def merged(base: Base, name: str) -> Iterator[None]:
    """`active` with the adapter folded into copies of the weights, for many small forward passes without gradients.

    The copies take as much memory as the adapted layers and are freed at the end; the base's own weights never change.
    What is not LoRA or DoRA stays unmerged: IA3 and bottleneck layers cost next to nothing beside the base's products.
    """
    _attached(base, [name])
    layers = [m for m in lora.layers(base.model) if name in m.lora_A]
    folds = layers and all(m.ours(name) for m in layers)
    with _role(base, lora.Merged({m: m.folded(name) for m in layers}) if folds else name):
        yield


def shares(base: Base, name: str) -> bool:
    """Whether an adapter can share a batch with others, each computing rows of its own; "" can."""
    return all(m.ours(name) for m in lora.layers(base.model) if name in m.lora_A)


def room(base: Base, *names: str) -> int:
    """Tokens that a sequence may hold whichever of these adapters reads it: the base's context, less virtual ones."""
    return base.context - max((base.virtual[n].tokens for n in names if n in base.virtual), default=0)


def _families() -> list[Family]:
    return list({id(f): f for f in SERVED.values()}.values())


def _family(peft_type: str) -> Family:
    if peft_type not in SERVED:
        raise ModelError(f"is a PEFT adapter of type {peft_type}; Tunesmith runs {', '.join(PEFT_TYPE)}")
    return SERVED[peft_type]


def _holder(base: Base, name: str) -> Family:
    """The family that holds an attached adapter."""
    for family in _families():
        if name in family.names(base):
            return family
    raise ModelError(f'adapter "{name}" is not attached')


def _vacate(base: Base, name: str, family: Family) -> None:
    """Take the name from an adapter of another family."""
    if "." in name:
        raise ModelError(f'adapter name "{name}" may not contain a dot')
    for other in _families():
        if other is not family and name in other.names(base):
            other.remove(base, name)


@contextmanager
def _role(base: Base, role: str | lora.Mixture | lora.Merged) -> Iterator[None]:
    outer, base.switch.role = base.switch.role, role
    try:
        yield
    finally:
        base.switch.role = outer


def _attached(base: Base, wanted: Collection[str]) -> None:
    if lacking := {n for n in wanted if n}.difference(names(base)):
        raise ModelError(f'adapter "{min(lacking)}" is not attached')
