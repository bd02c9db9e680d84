"""Forward passes of rows that are written token by token: prompts in, hidden states out.

Two ways, one interface. `SlotRows` reads prompts as one flat stream without padding and takes new rows at any time.
`PaddedRows` is the plain way with transformers' own cache, for bases whose attention cannot take the stream, and the
oracle that the tests hold the other against.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from tunesmith.model import adapters
from tunesmith.model.attention import Span, layout
from tunesmith.model.base import Base, said
from tunesmith.model.batch import TOLERANCE, Tree, build, hidden, words
from tunesmith.model.cache import Prefix, SlotCache, prefixes
from tunesmith.model.known import Known
from tunesmith.model.virtual import Stand, Virtual, inputs

Weights = Callable[[Sequence[str]], AbstractContextManager[None]]
"""Forward passes inside use these adapters, one name per token."""

Ahead = Callable[[str], Virtual | None]
"""The virtual tokens that an adapter puts before its prompts."""


def nothing(model: str) -> None:
    """`Ahead` where no adapter has virtual tokens."""


@dataclass(eq=False, slots=True)
class Prompt:
    """What `copies` new rows begin with, read with adapter `model`; with `keep` it will be wanted again."""

    tokens: Sequence[int]
    model: str = ""
    copies: int = 1
    keep: bool = False
    prefix: Prefix | None = field(default=None, repr=False)


class Rows(Protocol):
    """B rows in the order in which they came."""

    ahead: Ahead
    refills: bool
    """Whether prompts may come while rows are being written."""

    def read(self, prompts: Sequence[Prompt], weights: Weights) -> Tensor:
        """New rows behind the others: the last hidden state of each [new, D]."""
        ...

    def write(self, tokens: Sequence[int], models: Sequence[str], weights: Weights) -> Tensor:
        """One more token for every row: hidden states [B, D]."""
        ...

    def leave(self, rows: list[int]) -> list[int]:
        """Drop these rows. New row i was row `result[i]`."""
        ...


def windows(config: Any) -> dict[str, int | None]:
    """How far the layers look back, by their kind in transformers' words; one entry if all do alike."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}


class SlotRows:
    """`Rows` in a `SlotCache`. With `known`, what prompts have in common with earlier ones is not computed again."""

    refills = True

    def __init__(self, base: Base, ahead: Ahead = nothing, known: Known | None = None):
        self.base, self.ahead, self.known = base, ahead, known
        self.cache = SlotCache(base.context)
        self._windows = windows(base.model.config)

    def read(self, prompts: Sequence[Prompt], weights: Weights) -> Tensor:
        """Prompts that were kept from an earlier call are not computed again."""
        for prompt in prompts:
            if prompt.prefix is None and self.known and self.ahead(prompt.model) is None:
                prompt.prefix = self._read_on(prompt, weights)
        fresh = [p for p in prompts if p.prefix is None]
        if fresh:
            for prompt, prefix in zip(fresh, self._prefill(fresh, weights)):
                prompt.prefix = prefix
                if self.known and self.ahead(prompt.model) is None:
                    self.known.keep(prompt.model, prompt.tokens, prefix)
        found = [p.prefix for p in prompts if p.prefix is not None]
        copies = [p.copies for p in prompts]
        self.cache.add(found, copies)
        for prompt, prefix in zip(prompts, found):
            prompt.prefix = prefix.clone() if prompt.keep else None
        return torch.stack([prefix.state for prefix, n in zip(found, copies) for _ in range(n)])

    def write(self, tokens: Sequence[int], models: Sequence[str], weights: Weights) -> Tensor:
        """A step."""
        position_B1 = self.cache.step()
        ids = torch.tensor(tokens, device=position_B1.device)[:, None]
        masks = {kind: self.cache.mask(position_B1, window) for kind, window in self._windows.items()}
        with weights(models):
            out = self.base.trunk(input_ids=ids, position_ids=position_B1, past_key_values=self.cache, use_cache=True,
                                  attention_mask=masks if len(masks) > 1 else masks.popitem()[1])
        states: Tensor = out.last_hidden_state[:, 0]
        return states

    def leave(self, rows: list[int]) -> list[int]:
        """See `Rows`."""
        return self.cache.leave(rows)

    def _read_on(self, prompt: Prompt, weights: Weights) -> Prefix | None:
        """A prompt whose beginning is known, read from there on; None if it is not."""
        assert self.known is not None
        if (begun := self.known.find(prompt.model, prompt.tokens)) is None:
            return None
        device, cache, n = self.base.device, DynamicCache(), begun[0].shape[2]
        for layer, (keys, values) in enumerate(zip(*begun)):
            cache.update(keys[None], values[None], layer)
        rest = torch.tensor([prompt.tokens[n:]], device=device)
        with weights([prompt.model] * rest.shape[1]):
            out = self.base.trunk(input_ids=rest, past_key_values=cache, use_cache=True,
                                  position_ids=torch.arange(n, len(prompt.tokens), device=device)[None])
        layers: Any = cache.layers
        read = Prefix(torch.stack([x.keys[0] for x in layers]), torch.stack([x.values[0] for x in layers]),
                      out.last_hidden_state[0, -1])
        self.known.keep(prompt.model, prompt.tokens, read)
        return read

    def _prefill(self, prompts: Sequence[Prompt], weights: Weights) -> list[Prefix]:
        """One flat stream. Virtual tokens stand above the prompts of their adapter, and go with each into its slots."""
        tokens: list[int] = []
        positions: list[int] = []
        models: list[str] = []
        spans: list[Span] = []
        stands: list[Stand] = []

        def add(part: Sequence[int], model: str, begin: int = 0, above: tuple[int, int] | None = None) -> None:
            spans.append(Span(len(tokens), len(tokens) + len(part), above))
            tokens.extend(part)
            positions.extend(range(begin, begin + len(part)))
            models.extend([model] * len(part))

        for virtual, group in groupby(prompts, lambda p: self.ahead(p.model)):
            below = list(group)
            if virtual is None:
                for prompt in below:
                    add(prompt.tokens, prompt.model)
                continue
            above = len(tokens), len(tokens) + virtual.tokens
            stands.append((0, len(tokens), virtual))
            add([self.base.pad] * virtual.tokens, below[0].model)
            for prompt in below:
                add(prompt.tokens, prompt.model, virtual.tokens, above)
        device, cache = self.base.device, DynamicCache()
        ids, places = (torch.tensor([x], device=device) for x in (tokens, positions))
        kernel = self.base.kernel if len(spans) > 1 else "blocks"  # a single prompt is one SDPA call
        with weights(models), layout(spans, kernel):
            out = self.base.trunk(**inputs(self.base, ids, stands, cache), position_ids=places, use_cache=True)
        return prefixes(cache, spans, out.last_hidden_state[0])


class PaddedRows:
    """`Rows` that are left-padded to the longest prompt and start together."""

    refills = False

    def __init__(self, base: Base, ahead: Ahead = nothing):
        self.base, self.ahead = base, ahead
        self._cache = DynamicCache()
        self._mask = self._position = torch.empty(0)

    def read(self, prompts: Sequence[Prompt], weights: Weights) -> Tensor:
        """Only when no row is left."""
        base, device, virtual = self.base, self.base.device, [self.ahead(p.model) for p in prompts]
        lengths = [len(p.tokens) + (v.tokens if v else 0) for p, v in zip(prompts, virtual)]
        width = max(lengths)
        ids = torch.tensor([[base.pad] * (width - len(p.tokens)) + list(p.tokens) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths], device=device)
        stands = [(i, width - n, v) for i, (n, v) in enumerate(zip(lengths, virtual)) if v]
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        self._cache = DynamicCache(config=base.model.config)
        with weights([p.model for p in prompts for _ in range(width)]):
            out = base.trunk(**inputs(base, ids, stands, self._cache), attention_mask=mask, position_ids=positions,
                             use_cache=True)
        rows = torch.tensor([i for i, p in enumerate(prompts) for _ in range(p.copies)], device=device)
        self._cache.batch_select_indices(rows)
        self._mask, self._position = mask[rows], positions[rows, -1:]
        states: Tensor = out.last_hidden_state[rows, -1]
        return states

    def write(self, tokens: Sequence[int], models: Sequence[str], weights: Weights) -> Tensor:
        """A step."""
        self._position = self._position + 1
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], 1)
        with weights(models):
            out = self.base.trunk(input_ids=torch.tensor(tokens, device=self._mask.device)[:, None],
                                  attention_mask=self._mask, position_ids=self._position,
                                  past_key_values=self._cache, use_cache=True)
        states: Tensor = out.last_hidden_state[:, 0]
        return states

    def leave(self, rows: list[int]) -> list[int]:
        """See `Rows`."""
        gone = set(rows)
        order = [i for i in range(len(self._mask)) if i not in gone]
        index = torch.tensor(order, dtype=torch.long, device=self._mask.device)
        self._cache.batch_select_indices(index)
        self._mask, self._position = self._mask[index], self._position[index]
        return order


def takes_slots(base: Base) -> bool:
    """Whether `SlotRows` gives what `PaddedRows` gives on this base: a few tokens are tried. Says on stderr if not."""
    with torch.inference_mode(False):
        hidden(base, build([Tree((1,), ((1,), (1,)))], base.device))  # finds out about trees, and says so if not
    if not base.takes_trees:
        return False
    try:
        reason = _difference(base)
    except Exception as e:  # whatever an unknown architecture throws, the plain way is there
        reason = f"{type(e).__name__}: {said(e)}"
    if reason:
        print(f"warning: base {base.spec}: {reason}; answers are written in padded rows, which is slower",
              file=sys.stderr)
    return not reason


@torch.inference_mode()
def _difference(base: Base) -> str:
    """Why this base cannot write in slots, or nothing."""
    if unknown := sorted(windows(base.model.config).keys() - {"full_attention", "sliding_attention"}):
        return f"it has layers of a kind that slots do not know, {unknown[0]}"

    def bare(names: Sequence[str]) -> AbstractContextManager[None]:
        return adapters.active(base, "")

    tokens, found = words(base, 20), []
    for rows in (SlotRows(base), PaddedRows(base)):
        states = [rows.read([Prompt(tokens[:7], copies=2), Prompt(tokens[7:9]), Prompt(tokens[9:12])], bare)]
        states.append(rows.write(tokens[12:16], [""] * 4, bare))
        order = rows.leave([1])
        states.append(rows.write([tokens[16 + i] for i in order], [""] * 3, bare)[torch.tensor(order).argsort()])
        found.append(torch.cat(states).float())
    error = float((found[0] - found[1]).abs().max() / found[1].abs().max().clamp_min(1e-6))
    return "" if error <= TOLERANCE[base.dtype] else f"its slots differ from padded rows by {error:.1e}"
