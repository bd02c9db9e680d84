"""Rollouts: the policy answers, and everything PPO needs to know about those answers is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.contracts import Sampling
from tunesmith.errors import SettingsError
from tunesmith.model import adapters
from tunesmith.model.base import Base
from tunesmith.model.batch import Layout, Tree, build, hidden, split
from tunesmith.model.engine import LocalEngine
from tunesmith.model.heads import ScalarHead
from tunesmith.model.scorer import BUDGET, RewardModel, token_logprobs


@dataclass(frozen=True, slots=True)
class Value:
    """Where values come from: an adapter of its own, or a head on the policy's trunk (`slot` is then the policy's)."""

    slot: str
    head: ScalarHead


@dataclass(frozen=True, slots=True)
class Rollouts:
    """B answers of one version of the policy. Tables are right-padded [B, T], valid where `mask_BT`.

    Trajectory: `trees`, `finished_B` (the end of turn came), `version`. Policy: `logprobs_BT` of the policy that
    sampled, `reference_BT`. Outcome: `scores_B` from the reward model, how far its heads disagree on them (`spread_B`,
    None if it has one), `values_BT` before each token.
    """

    trees: tuple[Tree, ...]
    finished_B: Tensor
    version: int
    mask_BT: Tensor
    logprobs_BT: Tensor
    reference_BT: Tensor
    values_BT: Tensor
    scores_B: Tensor
    spread_B: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Prompt and answer tokens."""
        return sum(t.size for t in self.trees)


@torch.no_grad()
def collect(engine: LocalEngine, prompts: Sequence[Sequence[int]], reward: RewardModel, value: Value,
            sampling: Sampling, *, version: int, recompute: bool = False, layout: Layout = "tree") -> Rollouts:
    """One answer per prompt from adapter `policy`, scored by reward model, reference and value.

    With `recompute` the old log-probs come from a fresh pass instead of the sampler (then the first ratio is
    exactly 1; the sampler's are within 1e-4 of it).
    """
    base = engine.base
    rows = engine.generate(prompts, sampling, [(sampling.seed, version, i) for i in range(len(prompts))],
                           model="policy")
    trees = tuple(Tree(tuple(p), (tuple(tokens),)) for p, (tokens, _) in zip(prompts, rows))
    width = max(len(tokens) for tokens, _ in rows)
    scored = [score_tokens(base, [trees[i] for i in part], value, sampling.temperature, layout, recompute)
              for part in split(trees, BUDGET)]
    mask_BT, reference_BT, values_BT, fresh_BT = (
        torch.cat([torch.nn.functional.pad(t[j], (0, width - t[j].shape[1])) for t in scored]) for j in range(4))
    sampled_BT = torch.stack([torch.tensor(lp + [0.0] * (width - len(lp))) for _, lp in rows]).to(mask_BT.device)
    scores_B, spread_B = rated(reward, trees)
    finished = torch.tensor([tokens[-1] == base.chat.end for tokens, _ in rows], device=mask_BT.device)
    return Rollouts(trees, finished, version, mask_BT, fresh_BT if recompute else sampled_BT, reference_BT, values_BT,
                    scores_B, spread_B)


def rated(reward: RewardModel, trees: Sequence[Tree]) -> tuple[Tensor, Tensor | None]:
    """Scores of all answers, and how far the heads of a reward model that has several disagree on each."""
    if isinstance(reward, RewardModel) and reward.head.heads > 1:
        scores_AH = reward.score_each(trees)
        return reward.one(scores_AH), scores_AH.std(1)
    return reward.score_trees(trees), None


def score_tokens(base: Base, trees: Sequence[Tree], value: Value, temperature: float, layout: Layout,
                 recompute: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(mask, reference log-probs, values, policy log-probs or zeros), each a table [B, T]."""
    batch = build(trees, base.device)
    reference = token_logprobs(base, "reference", batch, temperature, layout)
    with adapters.active(base, value.slot):
        values = value.head(hidden(base, batch, layout, batch.source_N))
    policy = token_logprobs(base, "policy", batch, temperature, layout) if recompute else torch.zeros_like(reference)
    return batch.mask(), batch.table(reference), batch.table(values), batch.table(policy)


def check_heads(reward: RewardModel, pessimism: float) -> None:
    """
    Raises:
        SettingsError: pessimism about what one head says of itself.
    """
    if pessimism and reward.head.heads == 1:
        raise SettingsError("--pessimism counts standard deviations between heads, and the reward model has one head: "
                            "train it with tunesmith reward --heads 4")
