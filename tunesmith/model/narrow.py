"""The last block computes its MLP only where a loss reads.

Nothing attends to the last block's output, so its MLP (two thirds of a block) is needed at the read positions alone:
answers' tokens, or one token per answer for a score. With few blocks that is a large part of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.model.lora import Switch


def install(trunk: nn.Module, switch: Switch) -> None:
    """Teach the last block's MLP to obey `reading`; a trunk without such a module computes everywhere."""
    blocks = [m for m in trunk.children() if isinstance(m, nn.ModuleList)]
    mlp = getattr(blocks[-1][-1], "mlp", None) if blocks and len(blocks[-1]) else None
    if isinstance(mlp, nn.Module):
        mlp.forward = _narrowed(mlp.forward, switch)


@contextmanager
def reading(switch: Switch, positions: Tensor | None) -> Iterator[None]:
    """Forward passes of one row inside are right at these positions, each named once, and undefined elsewhere.

    None: everywhere.
    """
    switch.read, before = positions, switch.read
    try:
        yield
    finally:
        switch.read = before


def _narrowed(whole: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    def forward(x: Tensor, *more: Any, **named: Any) -> Any:
        if more or named or switch.read is None or len(switch.read) == x.shape[1]:
            return whole(x, *more, **named)
        part = whole(x.index_select(1, switch.read))
        if not isinstance(part, Tensor):  # a router's scores beside it
            return whole(x)
        return torch.zeros_like(x, dtype=part.dtype).index_copy(1, switch.read, part)

    return forward
