"""Attention over one flat stream of tokens, plugged into transformers.

The stream holds trees: a prompt followed by its K answers. A prompt attends to itself causally; an answer attends
to its prompt and, causally, to itself; nothing else sees anything else. Virtual tokens (`model.prefix`) stand above
prompts as prompts stand above answers. A layer with a sliding window sees, of that, the last `window` positions.
Without an active layout the plug is plain SDPA.

Two kernels compute the same: "blocks", one SDPA call per block of the stream, and "flex", one compiled FlexAttention
call for the whole stream on a GPU, where many small calls would cost more to launch than to compute (FlexAttention has
no backward pass on a CPU). `Plan.sees` is what both mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

NAME = "tunesmith"
Kernel = Literal["blocks", "flex"]
SHORT = 128
"""Trees of at most so many tokens are one masked block: 1.4 to 2.4 times faster on a CPU than a call per span, and
slower above."""

TILE = 128
"""FlexAttention skips tiles of so many queries and keys."""
PAIRS = 2**22
"""Pairs of tokens that are looked at together for its mask, about 11 bytes each."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens [start, end) of the stream; `context` is the span above them, a prompt's say: they see it too, and
    whatever it sees."""

    start: int
    end: int
    context: tuple[int, int] | None = None


Range = tuple[int, int]


def lineages(spans: Sequence[Span]) -> dict[Range, tuple[Range, ...]]:
    """What stands above each span, the topmost first. Each span is followed by all that stands below it."""
    found: dict[Range, tuple[Range, ...]] = {}
    for s in spans:
        found[s.start, s.end] = () if s.context is None else (*found[s.context], s.context)
    return found


class Plan:
    """How the spans of one stream attend: what every layer shares is worked out once.

    `windows` collects the windows that layers were called with, `masks` those that the model's masks would have had:
    where they differ the model slides in a way that this module does not see.
    """

    def __init__(self, spans: Sequence[Span], kernel: Kernel = "blocks"):
        self.spans = tuple(spans)
        self.kernel = kernel
        self._lineages = lineages(self.spans)
        self.blocks = _blocks(self.spans, self._lineages)
        self.windows: set[int] = set()
        self.masks: set[int] = set()
        self._plain = {s for s in self.spans if s.context is None}
        self._made: dict[Any, Any] = {}

    def above(self, block: Span) -> tuple[Range, ...]:
        """What a block sees besides itself, in the order of positions."""
        return () if block.context is None else (*self._lineages[block.context], block.context)

    @cached_property
    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Per token: the number of its span [T], those of the spans above (or it again) [levels, T], its position."""
        number = {(s.start, s.end): i for i, s in enumerate(self.spans)}
        lengths = torch.tensor([s.end - s.start for s in self.spans])
        lines = [self.above(s) for s in self.spans]
        levels = max(1, *map(len, lines))  # never none, so that a GPU compiles one kernel for all usual streams
        above = torch.tensor([[number[line[n]] if n < len(line) else i for i, line in enumerate(lines)]
                              for n in range(levels)])
        begin = torch.tensor([sum(end - start for start, end in line) for line in lines])
        own_T = torch.arange(len(self.spans)).repeat_interleave(lengths)
        starts = lengths.cumsum(0) - lengths
        return own_T, above[:, own_T], torch.arange(len(own_T)) - starts[own_T] + begin[own_T]

    def sees(self, window: int | None, device: torch.device | str = "cpu") -> Callable[..., Tensor]:
        """FlexAttention's mask function: whether token q of the stream attends to token k."""
        own_T, above_LT, position_T = (x.to(device) for x in self.tables)
        above = above_LT.unbind()

        def sees(b: Any, h: Any, q: Tensor, k: Tensor) -> Tensor:
            far = position_T[q] - position_T[k]
            line = own_T[q] == own_T[k]
            for above_T in above:
                line = line | (above_T[q] == own_T[k])
            seen = line & (far >= 0)
            return seen if window is None else seen & (far < window)

        return sees

    def mask(self, block: Span, window: int | None, like: Tensor) -> Tensor | None:
        """What a block adds to its scores [own, above + own]: 0 or -inf; None for a plain causal triangle."""
        length = block.end - block.start
        if block in self._plain and (window is None or length <= window):
            return None
        key = (block, window, like.dtype)
        if key not in self._made:
            own = torch.arange(block.start, block.end)
            keys = torch.cat([*(torch.arange(*above) for above in self.above(block)), own])
            seen = self.sees(window)(0, 0, own[:, None], keys[None, :])
            self._made[key] = torch.zeros(seen.shape, dtype=like.dtype).masked_fill_(~seen, -torch.inf).to(like.device)
        found: Tensor = self._made[key]
        return found

    def block_mask(self, window: int | None, device: torch.device) -> Any:
        """FlexAttention's sparse mask of the whole stream."""
        if window not in self._made:
            self._made[window] = _block_mask(self.sees(window, device), self.spans[-1].end, device)
        return self._made[window]


def _block_mask(sees: Callable[..., Tensor], size: int, device: torch.device) -> Any:
    """What torch's `create_block_mask` makes, a few rows of tiles at a time: that holds 11 bytes per pair of tokens,
    gigabytes for a long stream, while FlexAttention is here so that nothing of [T, T] is held."""
    from torch.nn.attention.flex_attention import BlockMask

    every = torch.arange(size, device=device)
    rows = TILE * max(1, PAIRS // (TILE * size))
    seen = torch.cat([_tiles(sees(0, 0, q[:, None], every[None, :])) for q in every.split(rows)])[None, None]
    whole = seen == TILE * TILE
    return BlockMask.from_kv_blocks(*_ordered((seen > 0) & ~whole), *_ordered(whole), BLOCK_SIZE=TILE, mask_mod=sees,
                                    seq_lengths=(size, size))


def _tiles(seen: Tensor) -> Tensor:
    """How many pairs of each tile see each other, [rows / TILE, columns / TILE]; beyond the end nothing does."""
    seen = F.pad(seen, (0, -seen.shape[1] % TILE, 0, -seen.shape[0] % TILE))
    return seen.view(seen.shape[0] // TILE, TILE, -1, TILE).sum((1, 3))


def _ordered(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """How many tiles of each row are meant, and the numbers of these first."""
    return tiles.sum(-1, dtype=torch.int32), tiles.int().argsort(dim=-1, descending=True, stable=True).int()


def _blocks(spans: Sequence[Span], above: dict[Range, tuple[Range, ...]]) -> tuple[Span, ...]:
    """Each span is a block, except that one with little below it is one block with all of that."""
    blocks: list[Span] = []
    i = 0
    while i < len(spans):
        top, j = spans[i], i + 1
        while j < len(spans) and (top.start, top.end) in above[spans[j].start, spans[j].end]:
            j += 1
        whole = Span(top.start, spans[j - 1].end, top.context)
        short = whole.end - whole.start <= SHORT
        blocks.append(whole if short else top)
        i = j if short else i + 1
    return tuple(blocks)


_plan: ContextVar[Plan | None] = ContextVar("plan", default=None)


@contextmanager
def layout(spans: Sequence[Span], kernel: Kernel = "blocks") -> Iterator[Plan]:
    """Forward passes inside read their single row as these spans, which follow one another without gaps."""
    token = _plan.set(plan := Plan(spans, kernel))
    try:
        yield plan
    finally:
        _plan.reset(token)


def attend(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
           dropout: float = 0.0, scaling: float | None = None, sliding_window: int | None = None,
           softcap: float | None = None, **kwargs: Any) -> tuple[Tensor, None]:
    """transformers' attention function; query [rows, H, T, D/H] after the rotary embedding."""
    plan = _plan.get()
    if query.shape[2] == 1:  # products of few rows come transposed, and SDPA's fast kernels want dense heads
        query = query.contiguous()
    if plan is None and softcap is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
                                      **kwargs)
    if plan is None:
        return _attention(query, key, value, attention_mask, dropout, scaling, softcap), None
    if sliding_window is not None:
        plan.windows.add(sliding_window)
    if plan.kernel == "flex":
        return _flex(plan, query, key, value, scaling, sliding_window, softcap), None
    # One split, whose backward is one concatenation: slices would fill a whole stream with zeros per block.
    lengths = [b.end - b.start for b in plan.blocks]
    queries, keys, values = (x.split(lengths, 2) for x in (query, key, value))
    whole = {(b.start, b.end): (k, v) for b, k, v in zip(plan.blocks, keys, values)}
    out = []
    for block, q, k, v in zip(plan.blocks, queries, keys, values):
        if block.context is not None:
            k, v = (torch.cat(parts, 2) for parts in zip(*(whole[above] for above in plan.above(block)), (k, v)))
        out.append(_attention(q, k, v, plan.mask(block, sliding_window, q), dropout, scaling, softcap))
    return torch.cat(out, 1), None


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float | None,
               softcap: float | None) -> Tensor:
    """[rows, T, H, D/H]. No mask means causal, except for a single query; a cap keeps scores within (-cap, cap)."""
    causal = mask is None and query.shape[2] > 1
    if softcap is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal,
                                              scale=scaling, enable_gqa=query.shape[1] != key.shape[1]).transpose(1, 2)
    if causal:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min)
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    scores = torch.tanh(query @ key.transpose(2, 3) * (scale / softcap)) * softcap
    weights = (scores if mask is None else scores + mask).softmax(-1, dtype=torch.float32).to(query.dtype)
    return (F.dropout(weights, dropout) @ value).transpose(1, 2)


def _flex(plan: Plan, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None,
          softcap: float | None) -> Tensor:
    out: Tensor = compiled_flex()(query, key, value, score_mod=softcap and _capped(softcap), scale=scaling,
                                  block_mask=plan.block_mask(window, query.device),
                                  enable_gqa=query.shape[1] != key.shape[1])
    return out.transpose(1, 2)


def _capped(cap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return torch.tanh(score / cap) * cap

    return capped


@lru_cache(maxsize=1)
def compiled_flex() -> Callable[..., Any]:
    """Compiled once for streams of any length: uncompiled it would hold all scores."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=True)
    return compiled


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """No dense mask while a layout is active."""
    plan = _plan.get()
    if plan is None:
        return ALL_MASK_ATTENTION_FUNCTIONS["sdpa"](*args, **kwargs)
    if (window := kwargs.get("local_size")) is not None:
        plan.masks.add(window)
    return None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _mask)
