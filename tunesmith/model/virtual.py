"""Virtual tokens: what prefix tuning and prompt tuning put before every prompt.

In a stream, or in a row, they have places like other tokens. Prompt tuning gives them trained embeddings; prefix tuning
lets them be computed like any token, but gives them trained keys and values in every layer, which is all that others
see of them. A stream holds them once, above all its prompts. Their life (attach, load, save) is in `model.prefix`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from tunesmith.model.base import Base


@dataclass(eq=False, slots=True)
class Virtual:
    """An adapter's P virtual tokens.

    `weight` is PEFT's `prompt_embeddings`: embeddings [P, D], or, where `heads` is not 0, keys and values of the
    layers in turn, [P, layers x 2 x KV heads x D/H].
    """

    config: Any
    weight: nn.Parameter
    heads: int = 0

    @property
    def tokens(self) -> int:
        """P."""
        return len(self.weight)

    @property
    def pairs(self) -> Tensor:
        """Keys (2 l) and values (2 l + 1) of every layer l: [P, 2 x layers, KV heads, D/H]."""
        shape = self.config.num_layers * 2, self.heads, self.config.token_dim // self.heads
        return self.weight.view(self.tokens, *shape)


Stand = tuple[int, int, Virtual]
"""Virtual tokens in an input: their row, and the column of the first."""


class Given(Cache):
    """Keys and values of some places are given; the others are as computed. Holds nothing, but may fill a cache."""

    def __init__(self, stands: Sequence[Stand], cache: Cache | None):
        super().__init__(layers=[])
        self._cache = cache
        self._places = _places(stands)
        self._pairs = torch.cat([v.pairs for _, _, v in stands]).unbind(1)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any,
               **kwargs: Any) -> tuple[Tensor, Tensor]:
        """transformers' layers hand in [rows, KV heads, T, D/H], and attend to what comes back."""
        keys, values = (x.transpose(1, 2).index_put(self._places, given.to(x.dtype)).transpose(1, 2) for x, given in
                        ((key_states, self._pairs[2 * layer_idx]), (value_states, self._pairs[2 * layer_idx + 1])))
        if self._cache is None:
            return keys, values
        return self._cache.update(keys, values, layer_idx, *args, **kwargs)


def active(base: Base) -> Virtual | None:
    """The virtual tokens of the active adapter, if it has any."""
    role = base.switch.role
    found: Virtual | None = base.virtual.get(role) if isinstance(role, str) else None
    return found


def inputs(base: Base, tokens: Tensor, stands: Sequence[Stand], cache: Cache | None = None) -> dict[str, Any]:
    """What the trunk takes for tokens [rows, T] among which virtual ones stand, whose own numbers mean nothing."""
    found: dict[str, Any] = {"input_ids": tokens}
    if shallow := [s for s in stands if not s[2].heads]:
        embedded = base.model.get_input_embeddings()(tokens)
        trained = torch.cat([v.weight for _, _, v in shallow]).to(embedded.dtype)
        found = {"inputs_embeds": embedded.index_put(_places(shallow), trained)}
    if deep := [s for s in stands if s[2].heads]:
        found["past_key_values"] = Given(deep, cache)
    elif cache is not None:
        found["past_key_values"] = cache
    return found


def _places(stands: Sequence[Stand]) -> tuple[Tensor, Tensor]:
    """Row and column of each virtual token."""
    device = stands[0][2].weight.device
    rows = torch.tensor([row for row, _, v in stands for _ in range(v.tokens)], device=device)
    return rows, torch.cat([torch.arange(start, start + v.tokens, device=device) for _, start, v in stands])
