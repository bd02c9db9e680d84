"""Bottleneck adapter layers: a small network of two projections in every block, f(x) = scaling up(activation(down(x))).

Where it stands is the method's difference. a and m are what attention and MLP add to the residual stream h:

    houlsby   h + a + f(a), then h + m + g(m)   Houlsby et al. 2019, arXiv 1902.00751: two networks per block
    pfeiffer  h + m + f(h + m)                  Pfeiffer et al. 2020, arXiv 2005.00247: one, behind the whole block
    parallel  h + m + 4 f(h)                    He et al. 2022, arXiv 2110.04366: one, beside the MLP and its norm

These are the placements, activations and scalings of the `adapters` library 1.3 (its DoubleSeqBnConfig, SeqBnConfig
and ParBnConfig) on blocks with norms in front, number for number (tests/model/test_bottleneck.py). A norm behind
attention or MLP (Gemma 2 and 3, OLMo 2) counts as part of it. Other than there, the second projection starts at zero,
so that a fresh adapter changes nothing. PEFT has no such layers: the saved format is ours.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from tunesmith.errors import ModelError
from tunesmith.model import spots
from tunesmith.model.base import Base
from tunesmith.model.methods import CONFIG, Method

ACTIVATIONS = {"relu": F.relu, "silu": F.silu}


@dataclass(frozen=True, slots=True)
class Config:
    """What `adapter_config.json` says."""

    kind: str
    width: int
    activation: str
    scaling: float
    base_model_name_or_path: str
    peft_type: str = "BOTTLENECK"
    task_type: str = "CAUSAL_LM"
    inference_mode: bool = True


KINDS: dict[str, tuple[tuple[str, ...], str, float]] = {
    "houlsby": (("attention", "mlp"), "silu", 1.0),
    "pfeiffer": (("block",), "relu", 1.0),
    "parallel": (("mlp",), "relu", 4.0),
}
"""Places in a block, activation and scaling."""


def attach(base: Base, name: str, method: Method, seed: int) -> None:
    """A fresh adapter that changes nothing yet.

    Raises:
        ModelError: the base's blocks are built in a way that has no such places.
    """
    _, activation, scaling = KINDS[method.kind]
    config = Config(method.kind, method.bottleneck, activation, scaling, base.spec)
    _install(base)
    generator = torch.Generator().manual_seed(seed)
    fresh = {}
    for key, shape in _shapes(base, config).items():
        fresh[key] = torch.zeros(shape)
        if key.endswith("down.weight"):
            nn.init.kaiming_uniform_(fresh[key], a=math.sqrt(5), generator=generator)
    base.bottlenecks[name] = spots.Held(config, spots.frozen(fresh, base))


def load(base: Base, name: str, folder: Path) -> None:
    """The adapter saved in `folder`.

    Raises:
        ModelError: it does not fit the base.
    """
    said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    try:
        config = Config(**said)
        if not (config.kind in KINDS and config.activation in ACTIVATIONS and config.width > 0):
            raise ValueError
    except (TypeError, ValueError) as e:
        raise ModelError(f"has a {CONFIG} that is not of Tunesmith's bottleneck layers: {said}") from e
    _install(base)
    base.bottlenecks[name] = spots.Held(config, spots.read(base, folder, _shapes(base, config)))


def copy(base: Base, source: str, target: str) -> None:
    """The same weights under another name, sharing no memory."""
    held = base.bottlenecks[source]
    base.bottlenecks[target] = spots.Held(held.config, spots.frozen(held.weights, base))


def remove(base: Base, name: str) -> None:
    """Drop it from memory."""
    del base.bottlenecks[name]


def names(base: Base) -> list[str]:
    """The attached adapters of these methods."""
    return list(base.bottlenecks)


def parameters(base: Base, name: str) -> dict[str, nn.Parameter]:
    """An adapter's weights by name."""
    return dict(base.bottlenecks[name].weights)


def save(base: Base, name: str, folder: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`."""
    held = base.bottlenecks[name]
    spots.write(held, folder)
    (folder / CONFIG).write_text(json.dumps(asdict(held.config), indent=2), encoding="utf-8")


def _shapes(base: Base, config: Config) -> dict[str, tuple[int, ...]]:
    """Every weight's shape by its name."""
    width, hidden = config.width, base.model.config.hidden_size
    parts = {"down.weight": (width, hidden), "down.bias": (width,), "up.weight": (hidden, width), "up.bias": (hidden,)}
    return {f"{_key(i, place)}.{part}": shape for i in range(len(_blocks(base))) for place in KINDS[config.kind][0]
            for part, shape in parts.items()}


def _key(block: int, place: str) -> str:
    return f"blocks.{block}.{place}"


def _network(held: spots.Held, key: str, x: Tensor) -> Tensor:
    """f(x)."""
    down, down_bias, up, up_bias = (held.weights[f"{key}.{part}"].to(x.dtype) for part in (
        "down.weight", "down.bias", "up.weight", "up.bias"))
    inner = ACTIVATIONS[held.config.activation](F.linear(x, down, down_bias))
    return F.linear(inner, up, up_bias) * held.config.scaling


@dataclass(frozen=True, slots=True)
class Block:
    """The modules of a block that matter here: what gives a and m, and what takes in h in front of the MLP."""

    whole: nn.Module
    attention: nn.Module
    mlp: nn.Module
    entry: nn.Module


def _blocks(base: Base) -> list[nn.Module]:
    found: list[nn.Module] = [m for m in base.model.modules() if isinstance(m, GradientCheckpointingLayer)]
    return found


def _parts(base: Base, block: nn.Module) -> Block:
    """Read off the names that transformers gives to the modules of decoder blocks."""
    has = dict(block.named_children())
    attention = next((has[n] for n in ("self_attn", "attn", "attention") if n in has), None)
    mlp = next((has[n] for n in ("mlp", "fc2") if n in has), None)
    norms = ("post_attention_layernorm", "ln_2", "final_layer_norm", "input_layernorm")  # Phi has one for both
    entry = next((has[n] for n in norms if n in has), None)
    if "post_feedforward_layernorm" in has:  # norms behind both; Gemma 2 and 3 have them in front too
        attention, mlp = has.get("post_attention_layernorm"), has["post_feedforward_layernorm"]
        entry = has.get("pre_feedforward_layernorm", has.get("mlp"))
    behind = getattr(block, "do_layer_norm_before", True) is False  # OPT 350M
    if attention is None or mlp is None or entry is None or behind:
        raise ModelError(f"base {base.spec}: its blocks ({type(block).__name__}: {', '.join(has)}) are built in a way "
                         "that bottleneck layers are not made for; take another --adapter")
    return Block(block, attention, mlp, entry)


def _install(base: Base) -> None:
    """Hooks at all places of all blocks, once."""
    if "blocks" in base.hooked:
        return
    parts = [_parts(base, block) for block in _blocks(base)]
    if not parts:
        raise ModelError(f"base {base.spec} has no blocks that transformers marks as such, so no place for bottleneck "
                         "layers; take another --adapter")
    for i, block in enumerate(parts):
        _hook(base, i, block)
    base.hooked.add("blocks")


def _hook(base: Base, number: int, block: Block) -> None:
    """Behind attention, MLP and the whole; in front of the MLP what goes in is kept until the MLP is done."""
    entered: list[Tensor] = []

    def behind(place: str) -> Any:
        key = _key(number, place)

        def change(held: spots.Held, x: Tensor, h: Tensor | None = None) -> Tensor:
            if place not in KINDS[held.config.kind][0]:
                return x
            return x + _network(held, key, h if held.config.kind == "parallel" and h is not None else x)

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            x, *more = output if isinstance(output, tuple) else (output,)
            others = [entered.pop()] if place == "mlp" and entered else []
            x = spots.changed(base.switch, base.bottlenecks, change, x, *others)
            return (x, *more) if isinstance(output, tuple) else x

        return hook

    def enter(module: nn.Module, args: Any) -> None:
        entered.clear()
        role = base.switch.role
        active = [role] if isinstance(role, str) else getattr(role, "rows", ())
        if any(n in base.bottlenecks and base.bottlenecks[n].config.kind == "parallel" for n in active):
            entered.append(args[0])

    block.entry.register_forward_pre_hook(enter)
    block.attention.register_forward_hook(behind("attention"))
    block.mlp.register_forward_hook(behind("mlp"))
    block.whole.register_forward_hook(behind("block"))
