"""The batch layout: trees of one prompt and its answers, in one flat stream of tokens.

The same layout serves SFT (one answer), rankings (K), DPO (2) and PPO (1..n). Two ways through the model, one
interface: `tree` computes a prompt once for its K answers and pads nothing; `padded` is the plain way, one row per
answer with its prompt, and the oracle that the tests hold the tree against. Where the active adapter has virtual
tokens, they come first: once in a stream, once in every padded row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor

from tunesmith.model import narrow
from tunesmith.model.attention import NAME, Kernel, Span, layout, lineages
from tunesmith.model.base import Base, said
from tunesmith.model.virtual import Virtual, active, inputs

Layout = Literal["tree", "padded"]
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference between the layouts, as a share of the largest hidden state or logit; gradients get four times."""
REACH = 32
"""The self-check goes beyond sliding windows up to this many tokens."""


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
    [A, T] table. `virtual` is what the first tokens of the stream are, above all prompts, if an adapter wants it so.
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
    virtual: Virtual | None = None

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
        _choose(base)
    if (virtual := active(base)) is not None:
        at = torch.arange(len(batch.tokens_T), device=batch.tokens_T.device) if at is None else at
        batch, at = _below(batch, virtual), at + virtual.tokens
    return _tree(base, batch, at) if way == "tree" and base.takes_trees else _padded(base, batch, at)


def _below(batch: Batch, virtual: Virtual) -> Batch:
    """The batch with virtual tokens above all its prompts. Its other indices are still those of the batch without."""
    more, tokens = virtual.tokens, batch.tokens_T
    spans = [Span(0, more)]
    for s in batch.spans:
        above = (0, more) if s.context is None else (s.context[0] + more, s.context[1] + more)
        spans.append(Span(s.start + more, s.end + more, above))
    return replace(batch, tokens_T=torch.cat([tokens.new_zeros(more), tokens]), spans=tuple(spans), virtual=virtual,
                   positions_T=torch.cat([torch.arange(more, device=tokens.device), batch.positions_T + more]))


def _choose(base: Base) -> None:
    """Take the first kernel that gives what the plain layout gives."""
    kernels = _kernels(base)
    for kernel, instead in zip(kernels, [*kernels[1:], "padded rows"]):
        try:
            reason = _self_check(base, kernel)
        except Exception as e:  # whatever a compiler or an unknown architecture throws, the plain way is there
            reason = f"{type(e).__name__}: {said(e)}"
        base.kernel, base.takes_trees = kernel, not reason
        if not reason:
            return
        print(f"warning: base {base.spec}: {reason}; falling back from {kernel} to {instead}, which is slower",
              file=sys.stderr)


def _kernels(base: Base) -> list[Kernel]:
    return ["flex", "blocks"] if base.device.type == "cuda" else ["blocks"]


def _self_check(base: Base, kernel: Kernel) -> str:
    """Why this base cannot take trees, or nothing: on a small batch, hidden states, logits and gradients are held
    against the plain layout, with whatever adapter is active.

    A sliding window that is too wide to be reached here is checked by name: the layers must be called with it.
    """
    config = base.model.config
    if config._attn_implementation != NAME:
        return f"its attention needs transformers' {config._attn_implementation} implementation"
    window = getattr(config, "sliding_window", None) or 0
    with torch.inference_mode(False), torch.enable_grad():
        batch = build(_probe(base, 6 + (window if window <= REACH else 0)), base.device)
        plain = _traced(base, batch, lambda: _padded(base, batch), _rows(batch)[0])
        with layout(batch.spans, kernel) as plan:
            tree = _traced(base, batch, lambda: _stream(base, batch), [torch.arange(len(batch.tokens_T))])
    if plan.windows != plan.masks:
        return f"its masks slide over {sorted(plan.masks)} tokens and its layers over {sorted(plan.windows)}"
    for what, a, b, slack in zip(("hidden states", "logits", "gradients"), plain, tree, (1, 1, 4)):
        error = float((a - b).abs().max() / a.abs().max().clamp_min(1e-6))
        if not error <= slack * TOLERANCE[base.dtype]:
            return f"its {what} differ between the tree and the plain layout by {error:.1e}"
    return ""


def _probe(base: Base, prompt: int) -> list[Tree]:
    """Two trees, one of them branching."""
    tokens = iter(words(base, prompt + 20))
    parts = [tuple(islice(tokens, n)) for n in (prompt, 3, 6, 3, 5)]
    return [Tree(parts[0], (parts[1], parts[2])), Tree(parts[3], (parts[4],))]


def words(base: Base, count: int) -> list[int]:
    """Some tokens to try a base with."""
    size = base.model.get_input_embeddings().num_embeddings
    return [(7 * i + 3) % size for i in range(count)]


def _traced(base: Base, batch: Batch, run: Callable[[], Tensor],
            rows: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [T, D], the answers' last logits [A, V], and the gradient of both at the tokens' embeddings [T, D].

    `rows` names the tokens of each row of embeddings; copies of one token share its gradient.
    """
    held: list[Tensor] = []

    def hold(module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
        held.append(output.detach().requires_grad_())
        return held[-1].clone()

    hook = base.model.get_input_embeddings().register_forward_hook(hold)
    try:
        states = run()
    finally:
        hook.remove()
    logits = base.logits(states[batch.last_A])
    weights = torch.linspace(-1, 1, states.numel(), device=states.device).view_as(states)
    (copies,) = torch.autograd.grad((states.float() * weights).sum() + logits.float().logsumexp(-1).sum(), held)
    gradient = copies.new_zeros(len(states), copies.shape[-1], dtype=torch.float32)
    for row, copy in zip(rows, copies):
        gradient.index_add_(0, row.to(copy.device), copy[:len(row)].float())
    return states.detach().float(), logits.detach().float(), gradient


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
    with layout(batch.spans, base.kernel), narrow.reading(base.switch, None if at is None else at.unique()):
        states = _stream(base, batch)
    return states if at is None else states[at]


def _stream(base: Base, batch: Batch) -> Tensor:
    stands = [] if batch.virtual is None else [(0, 0, batch.virtual)]
    out = base.trunk(**inputs(base, batch.tokens_T[None], stands), position_ids=batch.positions_T[None],
                     use_cache=False)
    states: Tensor = out.last_hidden_state[0]
    return states


def _padded(base: Base, batch: Batch, at: Tensor | None = None) -> Tensor:
    """One right-padded row per answer with its prompt; the prompt's states are taken from its first answer."""
    ids, place = _rows(batch)
    pad = base.pad
    width = max(len(r) for r in ids)
    tokens = torch.stack([torch.nn.functional.pad(batch.tokens_T[r], (0, width - len(r)), value=pad) for r in ids])
    mask = torch.stack([torch.arange(width, device=tokens.device) < len(r) for r in ids])
    stands = [] if batch.virtual is None else [(i, 0, batch.virtual) for i in range(len(ids))]
    out = base.trunk(**inputs(base, tokens, stands), attention_mask=mask.long(), use_cache=False)
    rows, columns = place if at is None else (p[at] for p in place)
    states: Tensor = out.last_hidden_state[rows, columns]
    return states


def _rows(batch: Batch) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """Stream positions of each padded row, and for each stream position its (row, column)."""
    device = batch.tokens_T.device
    ids: list[Tensor] = []
    rows = torch.full_like(batch.tokens_T, -1)
    columns = torch.zeros_like(batch.tokens_T)
    above, carried = lineages(batch.spans), {s.context for s in batch.spans}
    for span in batch.spans:
        own = (span.start, span.end)
        if own in carried:
            continue  # a prompt on its own: its answers' rows carry it
        whole = torch.cat([torch.arange(*part, device=device) for part in (*above[own], own)])
        new = rows[whole] < 0
        rows[whole[new]] = len(ids)
        columns[whole[new]] = torch.arange(len(whole), device=device)[new]
        ids.append(whole)
    return ids, (rows, columns)
