"""Activation checkpointing: a block keeps its input only, and computes the rest again in the backward pass.

Backward runs outside of the contexts that the forward pass stood in (layout, active adapter), so each block takes them
along. Left out: choosing which blocks (all do, which gives the least memory for one more forward pass).
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from tunesmith.errors import ModelError
from tunesmith.model.base import Base
from tunesmith.model.lora import Switch


def use(base: Base, on: bool) -> None:
    """Turn it on or off for all blocks of the base; without gradients it does nothing.

    Raises:
        ModelError: no blocks that transformers knows how to compute again.
    """
    found = blocks(base)
    if on and not found:
        raise ModelError(f"base {base.spec}: its blocks cannot be computed again; leave --checkpoint-activations out")
    for block in found:
        block.__dict__.pop("forward", None)
        if on:
            block.forward = partial(_checkpointed, block.forward, base.switch)


def blocks(base: Base) -> list[nn.Module]:
    """The layers whose activations can be computed again."""
    return [m for m in base.model.modules() if isinstance(m, GradientCheckpointingLayer)]


def _checkpointed(forward: Callable[..., Any], switch: Switch, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    inside = partial(copy_context().run, _with, switch, replace(switch), forward)
    return checkpoint(inside, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def _with(switch: Switch, state: Switch, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`forward` with the switch as it was."""
    outer = replace(switch)
    _set(switch, state)
    try:
        return forward(*args, **kwargs)
    finally:
        _set(switch, outer)


def _set(switch: Switch, state: Switch) -> None:
    for f in fields(Switch):
        setattr(switch, f.name, getattr(state, f.name))
