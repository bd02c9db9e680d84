"""Attention over one flat stream of tokens, plugged into transformers.

The stream holds trees: a prompt followed by its K answers. A prompt attends to itself causally; an answer attends
to its prompt and, causally, to itself; nothing else sees anything else. Without an active layout the plug is plain
SDPA. FlexAttention has no CPU backward, hence one SDPA call per span.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

NAME = "tunesmith"


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens [start, end) of the stream; `context` is the prompt's span that they also see, if any."""

    start: int
    end: int
    context: tuple[int, int] | None = None


_layout: ContextVar[tuple[Span, ...] | None] = ContextVar("layout", default=None)


@contextmanager
def layout(spans: tuple[Span, ...]) -> Iterator[None]:
    """Forward passes inside read their single row as these spans."""
    token = _layout.set(spans)
    try:
        yield
    finally:
        _layout.reset(token)


def attend(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
           dropout: float = 0.0, scaling: float | None = None, **kwargs: Any) -> tuple[Tensor, None]:
    """transformers' attention function; query [1, H, T, D/H] after the rotary embedding."""
    spans = _layout.get()
    if spans is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
                                      **kwargs)
    # One split, whose backward is one concatenation: slices would fill a whole stream with zeros per span.
    queries, keys, values = (x.split([s.end - s.start for s in spans], 2) for x in (query, key, value))
    whole = {(s.start, s.end): (k, v) for s, k, v in zip(spans, keys, values)}
    out = []
    for span, q, k, v in zip(spans, queries, keys, values):
        mask = None
        if span.context is not None:
            above = whole[span.context]
            mask = _shifted(q.shape[2], above[0].shape[2], q.device)
            k, v = torch.cat([above[0], k], 2), torch.cat([above[1], v], 2)
        out.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling,
                                                  enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2))
    return torch.cat(out, 1), None


@lru_cache(maxsize=64)
def _shifted(own: int, context: int, device: torch.device) -> Tensor:
    """[own, context + own]: everything of the context, and the triangle of one's own."""
    return torch.ones(own, context + own, dtype=torch.bool, device=device).tril(context)


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """No dense mask while a layout is active."""
    return None if _layout.get() is not None else ALL_MASK_ATTENTION_FUNCTIONS["sdpa"](*args, **kwargs)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _mask)
