"""Keys and values of sequences that are written token by token, one slot each, in one block of memory.

transformers' own cache is concatenated anew for every token; here a token's keys go to their place, a row that ends
gives its slot to the last one, and the block's length grows by doubling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from tunesmith.model.attention import Span

SPARE = 64
"""Places for answer tokens that a slot has from the start."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a prompt of T tokens leaves behind: keys and values [layers, KV heads, T, D/H], last hidden state [D]."""

    keys: Tensor
    values: Tensor
    state: Tensor

    def clone(self) -> Prefix:
        """A copy that does not keep alive the batch in which it was computed."""
        return Prefix(self.keys.clone(), self.values.clone(), self.state.clone())

    def below(self, other: Prefix) -> Prefix:
        """Itself behind what stands above it in the stream."""
        return Prefix(torch.cat([other.keys, self.keys], 2), torch.cat([other.values, self.values], 2), self.state)


def prefixes(cache: DynamicCache, spans: Sequence[Span], states_TD: Tensor) -> list[Prefix]:
    """Cut a flat stream of prompts into its prompts, each with the virtual tokens above it."""
    layers: Any = cache.layers
    keys, values = (torch.stack(parts) for parts in zip(*((x.keys[0], x.values[0]) for x in layers)))
    lengths = [s.end - s.start for s in spans]
    cuts = zip(keys.split(lengths, 2), values.split(lengths, 2), states_TD.split(lengths))
    found = {(s.start, s.end): Prefix(k, v, x[-1]) for s, (k, v, x) in zip(spans, cuts)}
    above = {s.context for s in spans}
    return [part if s.context is None else part.below(found[s.context])
            for s, part in zip(spans, found.values()) if (s.start, s.end) not in above]


class SlotCache(Cache):
    """Rows 0 to B-1, row i holding `lengths[i]` tokens; each forward pass gives every row one token more."""

    def __init__(self, context: int):
        super().__init__(layers=[])
        self.context = context
        self.lengths: list[int] = []
        self._keys: Any = None  # this and the next: [layers, slots, KV heads, places, D/H]
        self._values: Any = None
        self._places: Tensor | None = None  # of the tokens of this pass, in the flattened block

    def add(self, prompts: Sequence[Prefix], copies: Sequence[int]) -> None:
        """New rows behind the others: `copies[i]` that begin with prompt i."""
        row = len(self.lengths)
        self.lengths += [p.keys.shape[2] for p, n in zip(prompts, copies) for _ in range(n)]
        if self._keys is None:
            self._keys, self._values = (x.new_zeros(x.shape[0], 0, x.shape[1], 0, x.shape[3])
                                        for x in (prompts[0].keys, prompts[0].values))
        self._grow(len(self.lengths), max(self.lengths) + 1)
        for prompt, n in zip(prompts, copies):
            for block, part in ((self._keys, prompt.keys), (self._values, prompt.values)):
                block[:, row:row + n, :, :part.shape[2]] = part[:, None]
                block[:, row:row + n, :, part.shape[2]:] = 0
            row += n

    def leave(self, rows: list[int]) -> list[int]:
        """Drop these rows; the last ones move into their slots. New row i was row `result[i]`."""
        order = list(range(len(self.lengths)))
        for row in sorted(rows, reverse=True):
            last, length = order.pop(), self.lengths.pop()
            if row < len(order):
                order[row], self.lengths[row] = last, length
                for block in (self._keys, self._values):
                    block[:, row, :, :length] = block[:, len(order), :, :length]
                    block[:, row, :, length:] = 0
        return order

    def step(self) -> Tensor:
        """Make room for one token per row: its position [B, 1]."""
        device = self._keys.device
        self._grow(self._keys.shape[1], max(self.lengths) + 1)
        position_B1 = torch.tensor(self.lengths, device=device)[:, None]
        heads, room = self._keys.shape[2:4]
        rows_B1 = torch.arange(len(self.lengths), device=device)[:, None]
        self._places = ((rows_B1 * heads + torch.arange(heads, device=device)) * room + position_B1).flatten()
        self.lengths = [n + 1 for n in self.lengths]
        return position_B1

    def mask(self, position_B1: Tensor, window: int | None = None) -> Tensor:
        """What this step's tokens add to their scores, [B, 1, 1, longest row]: 0, or -inf where they do not look."""
        far_BL = position_B1 - torch.arange(max(self.lengths), device=position_B1.device)
        seen_BL = far_BL >= 0 if window is None else (far_BL >= 0) & (far_BL < window)
        mask_BL = torch.zeros(seen_BL.shape, dtype=self._keys.dtype, device=seen_BL.device)
        return mask_BL.masked_fill_(~seen_BL, -torch.inf)[:, None, None]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any,
               **kwargs: Any) -> tuple[Tensor, Tensor]:
        """transformers' layers hand in one token per row, [B, KV heads, 1, D/H], and get all there are."""
        rows, longest = len(self.lengths), max(self.lengths)
        found = []
        for block, new in ((self._keys, key_states), (self._values, value_states)):
            layer, width = block[layer_idx], block.shape[-1]  # autocast may hand in another dtype than a prompt's
            layer.view(-1, width).index_copy_(0, self._places, new.to(layer.dtype).reshape(-1, width))
            found.append(layer[:rows, :, :longest])
        return found[0], found[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    def _grow(self, rows: int, length: int) -> None:
        """Zeros, not raw memory: what a mask hides is still multiplied, and by 0 a NaN stays NaN. More rows give up
        the length that only a row which is gone has needed."""
        layers, had_rows, heads, had_length, _ = self._keys.shape
        if rows <= had_rows and length <= had_length:
            return
        if length > had_length:
            length = min(self.context, max(2 * had_length, length + SPARE))
        else:
            length = min(had_length, 2 * length + SPARE)
        kept = min(length, had_length)
        for name in ("_keys", "_values"):
            old = getattr(self, name)
            new = old.new_zeros(layers, max(rows, had_rows), heads, length, old.shape[-1])
            new[:, :had_rows, :, :kept] = old[:, :, :, :kept]
            setattr(self, name, new)
