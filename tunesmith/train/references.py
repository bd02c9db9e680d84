"""What the reference thinks of given answers: computed once before training, kept with each checkpoint.

The reference is the policy as it stood at the start, so no second adapter is held while training runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunesmith.model.base import Base
from tunesmith.model.batch import Layout, Tree, build, split
from tunesmith.model.machine import Work, passes
from tunesmith.model.scorer import BUDGET, token_logprobs

Sums = tuple[float, ...]
"""log pi_ref of each answer of one tree, summed over the answer's tokens."""


@torch.no_grad()
def answer_sums(base: Base, slot: str, trees: Sequence[Tree], layout: Layout = "tree") -> Tensor:
    """log pi(answer | prompt) under adapter `slot`, flat over the trees' answers, [A]."""
    sums = []
    for part in split(trees, BUDGET):
        batch = build([trees[i] for i in part], base.device)
        sums.append(batch.table(token_logprobs(base, slot, batch, layout=layout)).sum(1))
    return torch.cat(sums) if sums else torch.zeros(0)


def compute(base: Base, slot: str, trees: Sequence[Tree], layout: Layout = "tree") -> list[Sums]:
    """`answer_sums`, tree by tree."""
    flat = iter(answer_sums(base, slot, trees, layout).tolist())
    return [tuple(next(flat) for _ in tree.answers) for tree in trees]


def save(known: Sequence[Sums], folder: Path) -> None:
    """Keep them with a checkpoint, so that a resumed run sees the same bits without computing them again."""
    save_file({"sums": torch.tensor([x for sums in known for x in sums], dtype=torch.float64),
               "answers": torch.tensor([len(sums) for sums in known])}, folder / "reference.safetensors")


def load(folder: Path) -> list[Sums]:
    """Back from `save`."""
    tensors = load_file(folder / "reference.safetensors")
    flat = iter(tensors["sums"].tolist())
    return [tuple(next(flat) for _ in range(n)) for n in tensors["answers"].tolist()]


def work(trained: Sequence[Tree], forward: Sequence[Tree] = ()) -> Work:
    """What a step took: some trees learned from, others only looked at."""
    seen, learned = passes(forward, forward=1, forward_logits=1), passes(trained, trained=1, trained_logits=1)
    return Work(seen.forward, seen.forward_logits, learned.trained, learned.trained_logits)
