"""What IA3 and bottleneck layers share: weights held beside the model, and hooks on its modules that obey the role.

The model's own modules and weights stay what they are; where no adapter of ours is active, a hook gives back the very
tensor that it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.errors import ModelError
from tunesmith.model.base import Base
from tunesmith.model.lora import Mixture, Switch
from tunesmith.model.methods import WEIGHTS


@dataclass(eq=False, slots=True)
class Held:
    """An adapter: what its `adapter_config.json` says, and its weights by their names in the file."""

    config: Any
    weights: dict[str, nn.Parameter]


def frozen(weights: Mapping[str, Tensor], base: Base) -> dict[str, nn.Parameter]:
    """Copies as an adapter's weights, in a fixed order: float32, on the base's device, without gradients."""
    return {key: nn.Parameter(value.detach().to(base.device, torch.float32, copy=True), requires_grad=False)
            for key, value in sorted(weights.items())}


def read(base: Base, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, nn.Parameter]:
    """The weights in a folder.

    Raises:
        ModelError: they are not those that the base expects.
    """
    state = load_file(folder / WEIGHTS)
    if unknown := sorted(state.keys() - shapes.keys()):
        raise ModelError(f"has weights that base {base.spec} has no place for, {unknown[0]} first")
    if lacking := sorted(shapes.keys() - state.keys()):
        raise ModelError(f"lacks weights that base {base.spec} expects, {lacking[0]} first")
    if wrong := next((k for k, v in sorted(state.items()) if tuple(v.shape) != shapes[k]), ""):
        raise ModelError(f"does not fit base {base.spec}: {wrong} has shape {list(state[wrong].shape)}, the base takes "
                         f"{list(shapes[wrong])}")
    return frozen(state, base)


def write(held: Held, folder: Path) -> None:
    """The weights as PEFT names its file."""
    save_file({key: p.detach().cpu().contiguous() for key, p in held.weights.items()}, folder / WEIGHTS)


def changed(switch: Switch, adapters: Mapping[str, Held], change: Callable[..., Tensor], x: Tensor,
            *others: Tensor) -> Tensor:
    """x [..., D] as the role wants it: `change(adapter, x, *others)` where one of these adapters is active, and in a
    mixed batch on that adapter's rows alone.
    """
    role = switch.role
    if isinstance(role, str):
        return change(adapters[role], x, *others) if role in adapters else x
    if not isinstance(role, Mixture):
        return x
    for name in role.rows.keys() & adapters.keys():
        rows, flat = role.rows[name], [t.reshape(-1, t.shape[-1]) for t in (x, *others)]
        x = flat[0].index_copy(0, rows, change(adapters[name], *(t[rows] for t in flat))).view_as(x)
    return x
