"""Adapters on the resident base: LoRA through PEFT, saved as PEFT directories.

Roles are names: `policy`, `reference`, `reward`, `value`, or any served adapter. Exactly one is active at a time,
or none (the bare base).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ModelError
from tunesmith.model.base import Base

WEIGHTS = "adapter_model.safetensors"


def attach(base: Base, name: str, rank: int, alpha: float, seed: int) -> None:
    """A fresh LoRA adapter on all linear layers of the blocks; B starts at 0, so nothing changes yet."""
    transposed = any(isinstance(m, Conv1D) for m in base.model.modules())  # GPT-2
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM",  # type: ignore[arg-type]
                        fan_in_fan_out=transposed, base_model_name_or_path=base.spec)
    torch.manual_seed(seed)
    _add(base, name, config)


def load(base: Base, name: str, folder: Path) -> None:
    """Attach a saved PEFT directory under `name`.

    Raises:
        ModelError: the folder does not fit this base.
    """
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False
        _add(base, name, config)
        state = load_file(folder / WEIGHTS)
        result: Any = set_peft_model_state_dict(base.peft, state, adapter_name=name)
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:
        raise ModelError(f"adapter {folder}: does not fit base {base.spec}: {str(e).splitlines()[0]}") from e
    if result.unexpected_keys:
        raise ModelError(f"adapter {folder}: has weights that base {base.spec} has no place for, "
                         f"{result.unexpected_keys[0]} first")
    if lacking := sorted(_state(base, name).keys() - state.keys()):
        raise ModelError(f"adapter {folder}: lacks weights that base {base.spec} expects, {lacking[0]} first")


def copy(base: Base, source: str, target: str) -> None:
    """A second adapter `target` with the same weights; it shares no memory with `source`."""
    _add(base, target, base.peft.peft_config[source])
    state = _state(base, source)
    set_peft_model_state_dict(base.peft, {k: v.clone() for k, v in state.items()}, adapter_name=target)


def remove(base: Base, name: str) -> None:
    """Drop an adapter from memory."""
    base.peft.delete_adapter(name)
    base.role = None


def names(base: Base) -> list[str]:
    """The attached adapters."""
    return list(base.peft.peft_config) if base.peft is not None else []


def parameters(base: Base, name: str) -> dict[str, nn.Parameter]:
    """An adapter's weights by their PEFT names, in a fixed order."""
    return {key: p for key, p in sorted(base.model.named_parameters()) if f".{name}." in key}


def save(base: Base, name: str, folder: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` as PEFT reads them."""
    state = _state(base, name)
    save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, folder / WEIGHTS)
    config = base.peft.peft_config[name]
    was, config.inference_mode = config.inference_mode, True
    config.save_pretrained(str(folder))
    config.inference_mode = was


@contextmanager
def active(base: Base, name: str) -> Iterator[None]:
    """Forward passes inside use this adapter; "" is the bare base, exactly. Outside of it, which one is undefined.

    Switching walks over every layer (10 ms for six blocks, half a decoding step), so the last role stays until
    another one is wanted.
    """
    if name and name not in names(base):
        raise ModelError(f'adapter "{name}" is not attached')
    outer, base.inside = base.inside, name
    _switch(base, name)
    try:
        yield
    finally:
        base.inside = outer
        if outer is not None:
            _switch(base, outer)


def trainable(base: Base, name: str) -> dict[str, nn.Parameter]:
    """`parameters`, with gradients on."""
    chosen = parameters(base, name)
    for p in chosen.values():
        p.requires_grad_(True)
    return chosen


def _state(base: Base, name: str) -> dict[str, Tensor]:
    """An adapter's tensors by their PEFT names; told not to ask a hub whether the vocabulary has changed."""
    state: dict[str, Tensor] = get_peft_model_state_dict(base.peft, adapter_name=name, save_embedding_layers=False)
    return state


def _switch(base: Base, name: str) -> None:
    """Make `name` the role that the layers compute, if it is not."""
    if base.role == name or base.peft is None:
        return
    tuner = base.peft.base_model
    if not name:
        tuner.disable_adapter_layers()
    else:
        if not base.role:
            tuner.enable_adapter_layers()
        base.peft.set_adapter(name)
    base.role = name


def _add(base: Base, name: str, config: Any) -> None:
    if "." in name:
        raise ModelError(f'adapter name "{name}" may not contain a dot')
    if name in names(base):
        remove(base, name)  # the same role in a second run on this base
    if base.peft is None:
        peft: PeftModel = get_peft_model(base.model, config, adapter_name=name)
        base.peft = peft
    else:
        base.peft.add_adapter(name, config)
    base.role = None  # PEFT may have touched switches and gradients
    base.model.eval()
