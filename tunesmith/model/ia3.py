"""IA3 (arXiv 2205.05638): one trained vector per layer multiplies what comes out of keys and values, and what goes into
the MLP's last layer.

In PEFT's format: what is saved here loads there and the other way round. The vectors start at one, which changes
nothing.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ModelError
from tunesmith.model import lora, spots
from tunesmith.model.base import Base
from tunesmith.model.methods import Method

OUTPUTS = ("k_proj", "v_proj", "qkv_proj", "query_key_value", "attn.c_attn")
"""Keys and values, by the names that decoders give them; some compute queries in the same product."""

INPUTS = ("down_proj", "fc2", "dense_4h_to_h", "mlp.c_proj")
"""The last layer of the MLP."""


def attach(base: Base, name: str, method: Method, seed: int) -> None:
    """A fresh adapter that changes nothing yet; no seed is used.

    Raises:
        ModelError: the base has no layer of a name that `method.targets` gives, or none of the usual names.
    """
    layers = [f".{layer}" for layer in lora.linear_layers(base.model)]
    usual = [n for n in (*OUTPUTS, *INPUTS) if any(layer.endswith(f".{n}") for layer in layers)]
    targets = list(method.targets) or usual
    lora.check_targets(base.model, base.spec, targets or ["k_proj"])
    into = {layer[1:] for layer in layers if any(layer.endswith(f".{n}") for n in INPUTS)}
    forward = [t for t in targets if t in into or any(layer.endswith(f".{t}") for layer in into)]
    config = IA3Config(target_modules=targets, feedforward_modules=forward, task_type="CAUSAL_LM",  # type: ignore[arg-type]
                       fan_in_fan_out=any(isinstance(m, Conv1D) for m in base.model.modules()),
                       base_model_name_or_path=base.spec)
    ones = {key: torch.ones(shape) for key, shape in _install(base, config).items()}
    base.vectors[name] = spots.Held(config, spots.frozen(ones, base))


def load(base: Base, name: str, folder: Path) -> None:
    """The adapter saved in a PEFT directory.

    Raises:
        ModelError: it does not fit the base, or changes more than linear layers.
    """
    config: Any = PeftConfig.from_pretrained(str(folder))
    if config.modules_to_save:
        raise ModelError("was trained with modules_to_save, which changes the base for every role; train it without")
    base.vectors[name] = spots.Held(config, spots.read(base, folder, _install(base, config)))


def copy(base: Base, source: str, target: str) -> None:
    """The same weights under another name, sharing no memory."""
    held = base.vectors[source]
    base.vectors[target] = spots.Held(held.config, spots.frozen(held.weights, base))


def remove(base: Base, name: str) -> None:
    """Drop it from memory."""
    del base.vectors[name]


def names(base: Base) -> list[str]:
    """The attached adapters of this method."""
    return list(base.vectors)


def parameters(base: Base, name: str) -> dict[str, nn.Parameter]:
    """An adapter's vectors by their PEFT names."""
    return dict(base.vectors[name].weights)


def save(base: Base, name: str, folder: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` as PEFT reads them."""
    held = base.vectors[name]
    spots.write(held, folder)
    was, held.config.inference_mode = held.config.inference_mode, True
    held.config.save_pretrained(str(folder))
    held.config.inference_mode = was


def _install(base: Base, config: Any) -> dict[str, tuple[int, ...]]:
    """Hooks on the layers that a config names, where there are none yet; the vectors' shapes by their PEFT names."""
    layers = lora.linear_layers(base.model)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in _matching(base, config):
        module: Any = layers[layer]
        size_in, size_out = module.weight.shape if isinstance(module, Conv1D) else module.weight.shape[::-1]
        into = _forward(config, layer)
        key = f"base_model.model.{layer}.ia3_l"
        shapes[key] = (1, size_in) if into else (size_out, 1)
        if key not in base.hooked:
            _hook(base, key, module)
            base.hooked.add(key)
    return shapes


def _matching(base: Base, config: Any) -> list[str]:
    layers = lora.linear_layers(base.model)
    if config.target_modules == "all-linear":
        return list(layers)
    names = {name.removesuffix(".base_layer") for name, _ in base.model.named_modules() if ".lora_" not in name}
    found = [name for name in sorted(names) if check_target_module_exists(config, name)]
    if not found:
        raise ModelError(f"adapts {config.target_modules}, and base {base.spec} has no such layer")
    if strange := [name for name in found if name not in layers]:
        raise ModelError(f"adapts {strange[0]}; only linear layers below the output can be switched by role")
    return found


def _forward(config: Any, layer: str) -> bool:
    """Whether a layer's input is multiplied; as PEFT decides it."""
    named = config.feedforward_modules or ()
    return re.fullmatch(named, layer) is not None if isinstance(named, str) else layer.endswith(tuple(named))


def _hook(base: Base, key: str, module: nn.Module) -> None:
    """Adapters may differ in whether they multiply the input or the output: the vector's shape tells."""
    def change(held: spots.Held, x: Tensor, into: bool) -> Tensor:
        vector = held.weights.get(key)
        if vector is None or (len(vector) == 1) != into:
            return x
        return (x * vector.flatten()).to(x.dtype)

    module.register_forward_pre_hook(
        lambda _, args: (spots.changed(base.switch, base.vectors, partial(change, into=True), args[0]), *args[1:]))
    module.register_forward_hook(
        lambda _, args, out: spots.changed(base.switch, base.vectors, partial(change, into=False), out))
