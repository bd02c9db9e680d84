"""LoRA and its variants, held by PEFT: fresh ones, loading with checks, saving. `lora` computes them."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ModelError
from tunesmith.model import lora
from tunesmith.model.base import Base
from tunesmith.model.methods import WEIGHTS, Method

FOR_EVERY_ROLE = ("modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication",
                  "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config")
"""PEFT's options that change the base outside of its LoRA layers, which no role could switch off."""


def attach(base: Base, name: str, method: Method, seed: int) -> None:
    """A fresh LoRA or DoRA adapter; B starts at 0, so nothing changes yet.

    Raises:
        ModelError: the base has no layer of a name that `method.targets` gives.
    """
    lora.check_targets(base.model, base.spec, method.targets)
    targets = list(method.targets) or "all-linear"
    transposed = any(isinstance(m, Conv1D) for m in base.model.modules())  # GPT-2
    config = LoraConfig(r=method.rank, lora_alpha=method.alpha, target_modules=targets,  # type: ignore[arg-type]
                        use_rslora=method.rslora, use_dora=method.kind == "dora", task_type="CAUSAL_LM",
                        fan_in_fan_out=transposed, base_model_name_or_path=base.spec)
    torch.manual_seed(seed)
    _add(base, name, config)


def load(base: Base, name: str, folder: Path) -> None:
    """Attach a saved PEFT directory; one that does not fit leaves nothing under the name."""
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False
    state = load_file(folder / WEIGHTS)
    if not _place(base, name, config, state):
        _add(base, name, config)
        _fill(base, name, state)


def _place(base: Base, name: str, config: Any, state: dict[str, Tensor]) -> bool:
    """Put plain LoRA into layers that hold adapters already, in milliseconds; False if there is more to it.

    PEFT's way walks over everything attached many times: with a hundred adapters a load takes it a second.
    """
    variants = [f.name for f in fields(config) if f.metadata.get("is_lora_variant")]
    special = (*variants, "lora_bias", "rank_pattern", "alpha_pattern", "use_dora")
    if base.peft is None or config.target_modules == "all-linear" or any(getattr(config, o, None) for o in special):
        return False
    _refuse_options(config)
    layers: dict[str, Any] = {key: m for key, m in lora.walk(base.model) if check_target_module_exists(config, key)}
    factors: dict[str, tuple[Tensor, ...]] = {}
    for key, layer in layers.items():
        if not isinstance(layer, lora.LoraLinear):
            return False
        weight: Any = layer.base_layer.weight
        if not weight.is_floating_point():
            return False
        pair = [state.get(f"base_model.model.{key}.lora_{x}.weight") for x in "AB"]
        shapes = [(config.r, layer.in_features), (layer.out_features, config.r)]
        if [None if t is None else tuple(t.shape) for t in pair] != shapes:
            return False
        dtype = torch.float32 if weight.dtype in (torch.float16, torch.bfloat16) else weight.dtype  # as PEFT has it
        factors[key] = tuple(t.to(weight.device, dtype) for t in pair if t is not None)
    if len(state) != 2 * len(layers):
        return False
    if name in names(base):
        remove(base, name)
    for key, (first, second) in factors.items():
        layer = layers[key]
        for held, tensor in ((layer.lora_A, first), (layer.lora_B, second)):
            held[name] = nn.Linear(tensor.shape[1], tensor.shape[0], bias=False, device="meta").eval()
            held[name].weight = nn.Parameter(tensor, requires_grad=False)
        layer.lora_dropout[name] = nn.Dropout(config.lora_dropout).eval()
        layer.r[name], layer.lora_alpha[name] = config.r, config.lora_alpha
        layer.scaling[name] = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
        layer.use_rslora[name], layer.use_dora[name], layer.lora_bias[name] = config.use_rslora, False, False
    base.peft.peft_config[name] = config
    return True


def _fill(base: Base, name: str, state: dict[str, Tensor]) -> None:
    """Give the fresh adapter its weights, or take it away again: left at B = 0 it would pass for the bare base."""
    try:
        result: Any = set_peft_model_state_dict(base.peft, state, adapter_name=name)
        if result.unexpected_keys:
            raise ModelError(f"has weights that base {base.spec} has no place for, {result.unexpected_keys[0]} first")
        if lacking := sorted(_state(base, name).keys() - state.keys()):
            raise ModelError(f"lacks weights that base {base.spec} expects, {lacking[0]} first")
    except BaseException:
        remove(base, name)
        raise


def copy(base: Base, source: str, target: str) -> None:
    """A second adapter with the same weights."""
    _add(base, target, base.peft.peft_config[source])
    state = _state(base, source)
    set_peft_model_state_dict(base.peft, {k: v.clone() for k, v in state.items()}, adapter_name=target)


def remove(base: Base, name: str) -> None:
    """Drop an adapter from memory."""
    if name in base.peft.active_adapters:  # PEFT chooses another
        base.peft.delete_adapter(name)
        return
    for layer in lora.layers(base.model):
        layer.delete_adapter(name)
    del base.peft.peft_config[name]


def names(base: Base) -> list[str]:
    """The attached adapters."""
    return list(base.peft.peft_config) if base.peft is not None else []


def parameters(base: Base, name: str) -> dict[str, nn.Parameter]:
    """An adapter's weights by their PEFT names, in a fixed order."""
    mine = re.compile(rf"\.lora_\w+\.{re.escape(name)}(\.|$)")
    return {key: p for key, p in sorted(base.model.named_parameters()) if mine.search(key)}


def save(base: Base, name: str, folder: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` as PEFT reads them."""
    state = _state(base, name)
    save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, folder / WEIGHTS)
    config = base.peft.peft_config[name]
    was, config.inference_mode = config.inference_mode, True
    config.save_pretrained(str(folder))
    config.inference_mode = was


def _state(base: Base, name: str) -> dict[str, Tensor]:
    """An adapter's tensors by their PEFT names; told not to ask a hub whether the vocabulary has changed."""
    state: dict[str, Tensor] = get_peft_model_state_dict(base.peft, adapter_name=name, save_embedding_layers=False)
    return state


def _add(base: Base, name: str, config: Any) -> None:
    _refuse(base, config)
    if name in names(base):
        remove(base, name)  # the same role in a second run on this base
    config._register_custom_module({lora.Dense: lora.LoraLinear, Conv1D: lora.LoraLinear})
    learning = {id(p) for p in base.model.parameters() if p.requires_grad}  # PEFT renames them
    if base.peft is None:
        peft: PeftModel = get_peft_model(base.model, config, adapter_name=name)
        base.peft = peft
    else:
        base.peft.add_adapter(name, config)
    for layer in lora.layers(base.model):
        layer.switch = base.switch
    for p in base.model.parameters():
        p.requires_grad_(id(p) in learning)  # PEFT turns gradients on and off with its own idea of what is active
    base.model.eval()


def _refuse(base: Base, config: Any) -> None:
    """Only what `LoraLinear` computes can be switched by role: anything else would stay on for the bare base too."""
    _refuse_options(config)
    if config.target_modules == "all-linear":
        return
    for key, module in lora.walk(base.model):
        if check_target_module_exists(config, key) and not isinstance(module, lora.Dense | lora.LoraLinear | Conv1D):
            raise ModelError(f"adapts {key}, a {type(module).__name__}; only linear layers can be switched by role")


def _refuse_options(config: Any) -> None:
    if option := next((o for o in FOR_EVERY_ROLE if getattr(config, o, None)), ""):
        raise ModelError(f"was trained with {option}, which changes the base for every role; train it without")
    if config.bias != "none":
        raise ModelError(f'was trained with bias="{config.bias}", which changes the base for every role; use "none"')
    if config.init_lora_weights not in (True, False, "gaussian"):
        raise ModelError(f'was trained with init_lora_weights="{config.init_lora_weights}", which may rewrite the '
                         "base's weights; convert it to plain LoRA with PEFT or use another start")
