"""Scores from an adapter with a scalar head: reward models and value functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.model import adapters, heads
from tunesmith.model.base import Base
from tunesmith.model.batch import Batch, Layout, Tree, build, hidden, split
from tunesmith.ops import logprobs
from tunesmith.records import Answer, Prompt

BUDGET = 8192
"""Tokens per forward pass where no gradient is kept."""


class RewardModel:
    """`contracts.Scorer`: the adapter `slot` on the resident base and its head.

    Of several heads the mean counts, less `pessimism` times their standard deviation: what they disagree on is worth
    less (Coste et al., arXiv 2310.02743, "uncertainty-weighted optimisation").
    """

    def __init__(self, base: Base, slot: str, head: heads.ScalarHead, layout: Layout = "tree", pessimism: float = 0.0):
        self.base, self.slot, self.head, self.layout, self.pessimism = base, slot, head, layout, pessimism

    @classmethod
    def load(cls, base: Base, folder: Path, slot: str = "reward") -> RewardModel:
        """The reward model published in `folder`."""
        head = heads.load(folder, base.device)
        adapters.load(base, slot, folder)
        return cls(base, slot, head)

    def score(self, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        """One score per answer, higher is better; 0 is an average answer of the training data."""
        return self.score_all([prompt], [answers])[0]

    def score_all(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]) -> list[list[float]]:
        """`score` for many prompts at once."""
        chat = self.base.chat
        trees = [Tree(tuple(chat.prompt(p.messages)), tuple(tuple(chat.answer(a)) for a in texts))
                 for p, texts in zip(prompts, answers)]
        flat = iter(self.score_trees(trees).tolist())
        return [[next(flat) for _ in texts] for texts in answers]

    def score_trees(self, trees: Sequence[Tree]) -> Tensor:
        """Scores read at each answer's last token, flat over trees, [A]."""
        return self.one(self.score_each(trees))

    def one(self, scores_AH: Tensor) -> Tensor:
        """One score of every head's."""
        mean_A = scores_AH.mean(1)
        return mean_A - self.pessimism * scores_AH.std(1) if self.pessimism and self.head.heads > 1 else mean_A

    @torch.no_grad()
    def score_each(self, trees: Sequence[Tree]) -> Tensor:
        """Every head's own score of each answer, flat over trees, [A, H]."""
        scores = []
        for part in split(trees, BUDGET):
            batch = build([trees[i] for i in part], self.base.device)
            with adapters.active(self.base, self.slot):
                scores.append(self.head.each(hidden(self.base, batch, self.layout, batch.last_A)))
        return torch.cat(scores) if scores else torch.zeros(0, self.head.heads)


@torch.no_grad()
def token_logprobs(base: Base, slot: str, batch: Batch, temperature: float = 1.0, layout: Layout = "tree") -> Tensor:
    """log pi(token) of every answer token under adapter `slot`, [N]."""
    with adapters.active(base, slot):
        states = hidden(base, batch, layout, batch.source_N)
        return logprobs.from_hidden(states, base.head, batch.target_N, temperature)


def answer_logprobs(base: Base, slot: str, prompts: Sequence[Prompt], answers: Sequence[Answer],
                    temperature: float = 1.0) -> list[float]:
    """log pi(answer | prompt) under adapter `slot`, summed over the answer's tokens as they were sampled."""
    trees = [Tree(tuple(base.chat.prompt(p.messages)), (a.tokens,)) for p, a in zip(prompts, answers)]
    out: list[float] = []
    for part in split(trees, BUDGET):
        batch = build([trees[i] for i in part], base.device)
        out += batch.table(token_logprobs(base, slot, batch, temperature)).sum(1).tolist()
    return out
