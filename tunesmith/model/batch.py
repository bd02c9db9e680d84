"""The batch layout: trees of one prompt and its answers, in one flat stream of tokens.

The same layout serves SFT (one answer), rankings (K), DPO (2) and PPO (1..n). Two ways through the model, one
interface: `tree` computes a prompt once for its K answers and pads nothing; `padded` is the plain way, one row per
answer with its prompt, and the oracle that the tests hold the tree against.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tunesmith.model import narrow
from tunesmith.model.attention import NAME, Span, layout
from tunesmith.model.base import Base

Layout = Literal["tree", "padded"]
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of hidden states between the layouts, as a share of the largest hidden state."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One prompt and its K answers as tokens. `weights[k]` are the answers' tokens' weights in the loss (default 1)."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...] = ()

    @property
    def size(self) -> int:
        """Tokens that the model computes."""
        return len(self.prompt) + sum(map(len, self.answers))


@dataclass(frozen=True, slots=True)
class Batch:
    """A flat stream of T tokens with A answers that hold N answer tokens in all.

    Hidden states that a loss reads: `source_N[i]` is the position whose hidden state predicts `target_N[i]`;
    `last_A[a]` is the position of answer a's last token. `row_N` and `column_N` place token i in a padded
    [A, T] table.
    """

    tokens_T: Tensor
    positions_T: Tensor
    spans: tuple[Span, ...]
    source_N: Tensor
    target_N: Tensor
    weight_N: Tensor
    row_N: Tensor
    column_N: Tensor
    last_A: Tensor
    group_A: Tensor

    @property
    def answers(self) -> int:
        return len(self.last_A)

    def table(self, x_N: Tensor) -> Tensor:
        """Flat answer tokens [N] to a right-padded table [A, T] with zeros behind each answer's end."""
        table_AT = x_N.new_zeros(self.answers, int(self.column_N.max()) + 1)
        return table_AT.index_put((self.row_N, self.column_N), x_N)

    def mask(self) -> Tensor:
        """Where `table` holds a token, bool [A, T]."""
        return self.table(torch.ones_like(self.target_N)).bool()


def build(trees: Sequence[Tree], device: torch.device | str = "cpu") -> Batch:
    """Lay trees out one after another. Every prompt and every answer holds at least one token."""
    tokens: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    source: list[int] = []
    target: list[int] = []
    weight: list[float] = []
    row: list[int] = []
    column: list[int] = []
    last: list[int] = []
    group: list[int] = []
    for g, tree in enumerate(trees):
        start, length = len(tokens), len(tree.prompt)
        tokens += tree.prompt
        positions += range(length)
        merged = len(tree.answers) == 1  # a single answer simply continues its prompt: one causal span
        if not merged:
            spans.append(Span(start, start + length))
        for k, answer in enumerate(tree.answers):
            begin = len(tokens)
            tokens += answer
            positions += range(length, length + len(answer))
            spans.append(Span(start, len(tokens)) if merged else Span(begin, len(tokens), (start, start + length)))
            source += [start + length - 1, *range(begin, len(tokens) - 1)]
            target += answer
            weight += tree.weights[k] if tree.weights else [1.0] * len(answer)
            row += [len(last)] * len(answer)
            column += range(len(answer))
            last.append(len(tokens) - 1)
            group.append(g)
    integers = [torch.tensor(x, dtype=torch.long, device=device)
                for x in (tokens, positions, source, target, row, column, last, group)]
    tokens_T, positions_T, source_N, target_N, row_N, column_N, last_A, group_A = integers
    return Batch(tokens_T, positions_T, tuple(spans), source_N, target_N,
                 torch.tensor(weight, dtype=torch.float32, device=device), row_N, column_N, last_A, group_A)


def hidden(base: Base, batch: Batch, way: Layout = "tree", at: Tensor | None = None) -> Tensor:
    """Hidden states of the stream after the final norm, with the adapter that is active: [T, D], or those `at` some
    positions (which may repeat), [len(at), D], computing no more of the last block than they need.

    A base whose attention cannot take the tree goes the padded way, after saying so once on stderr.
    """
    if way == "tree" and base.takes_trees is None:
        reason = _self_check(base)
        base.takes_trees = not reason
        if reason:
            print(f"warning: base {base.spec}: {reason}; falling back to padded rows, which is slower", file=sys.stderr)
    return _tree(base, batch, at) if way == "tree" and base.takes_trees else _padded(base, batch, at)


@torch.no_grad()
def _self_check(base: Base) -> str:
    """Why this base cannot take trees, or nothing: the tree layout is held against the plain one on a small batch."""
    config = base.model.config
    window = getattr(config, "sliding_window", None) or 0
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    if slides and 0 < window < base.context:
        return f"its attention slides over a window of {window} tokens"
    if config._attn_implementation != NAME:
        return f"its attention needs transformers' {config._attn_implementation} implementation"
    words = [(7 * i + 3) % base.model.get_input_embeddings().num_embeddings for i in range(23)]
    parts = [tuple(words[a:b]) for a, b in ((0, 5), (5, 8), (8, 14), (14, 17), (17, 23))]
    trees = [Tree(parts[0], (parts[1], parts[2])), Tree(parts[3], (parts[4],))]
    batch = build(trees, base.device)
    plain, tree = _padded(base, batch).float(), _tree(base, batch).float()
    error = float((plain - tree).abs().max() / plain.abs().max().clamp_min(1e-6))
    limit = TOLERANCE[base.dtype]
    return "" if error <= limit else f"its hidden states differ between the tree and the plain layout by {error:.1e}"


def split(trees: Sequence[Tree], budget: int) -> Iterator[list[int]]:
    """Indices of trees in micro-batches of at most `budget` tokens each, in order (one tree may exceed it alone)."""
    part: list[int] = []
    size = 0
    for i, tree in enumerate(trees):
        if part and size + tree.size > budget:
            yield part
            part, size = [], 0
        part.append(i)
        size += tree.size
    if part:
        yield part


def _tree(base: Base, batch: Batch, at: Tensor | None = None) -> Tensor:
    with layout(batch.spans), narrow.reading(base.switch, None if at is None else at.unique()):
        out = base.trunk(input_ids=batch.tokens_T[None], position_ids=batch.positions_T[None], use_cache=False)
    states: Tensor = out.last_hidden_state[0]
    return states if at is None else states[at]


def _padded(base: Base, batch: Batch, at: Tensor | None = None) -> Tensor:
    """One right-padded row per answer with its prompt; the prompt's states are taken from its first answer."""
    ids, place = _rows(batch)
    pad = base.pad
    width = max(len(r) for r in ids)
    tokens = torch.stack([torch.nn.functional.pad(batch.tokens_T[r], (0, width - len(r)), value=pad) for r in ids])
    mask = torch.stack([torch.arange(width, device=tokens.device) < len(r) for r in ids])
    out = base.trunk(input_ids=tokens, attention_mask=mask.long(), use_cache=False)
    rows, columns = place if at is None else (p[at] for p in place)
    states: Tensor = out.last_hidden_state[rows, columns]
    return states


def _rows(batch: Batch) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """Stream positions of each padded row, and for each stream position its (row, column)."""
    device = batch.tokens_T.device
    ids: list[Tensor] = []
    rows = torch.full_like(batch.tokens_T, -1)
    columns = torch.zeros_like(batch.tokens_T)
    for span in batch.spans:
        own = torch.arange(span.start, span.end, device=device)
        if span.context is None and any(s.context == (span.start, span.end) for s in batch.spans):
            continue  # a prompt on its own: its answers' rows carry it
        whole = own if span.context is None else torch.cat([torch.arange(*span.context, device=device), own])
        new = rows[whole] < 0
        rows[whole[new]] = len(ids)
        columns[whole[new]] = torch.arange(len(whole), device=device)[new]
        ids.append(whole)
    return ids, (rows, columns)
