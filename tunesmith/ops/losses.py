"""Losses: pure functions of named tensors that return `(loss, metrics)`; metrics are detached tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Metrics = dict[str, Tensor]


def sft(logprobs_N: Tensor, weight_N: Tensor, count: float) -> tuple[Tensor, Metrics]:
    """Negative log-likelihood of the learned tokens, weighted, over `count` = the step's sum of weights."""
    loss = -(weight_N * logprobs_N).sum() / count
    return loss, {"loss": loss.detach()}


def ranking_pairs(rewards_A: Tensor, better_P: Tensor, worse_P: Tensor, p_P: Tensor, weight_P: Tensor,
                  apart_P: Tensor | float = 0.0) -> tuple[Tensor, Metrics]:
    """Bradley-Terry loss over all pairs of the groups in a batch (InstructGPT, arXiv 2203.02155, equation 1).

    `better_P`, `worse_P` index `rewards_A`; `p_P` is P(better beats worse), 1 for a strict human order, 0.5 for a
    tie. `weight_P` holds 1/C(K,2) of the pair's group over the number of groups of the step, so a prompt with nine
    answers counts as much as one with two. `apart_P` is how much further apart the rewards must be for the same loss
    (Llama 2's margin, arXiv 2307.09288, equation 2); a negative one is for pairs whose worse answer is likelier better.
    """
    assert better_P.shape == worse_P.shape == p_P.shape == weight_P.shape, "one probability and weight per pair"
    margin_P = rewards_A[better_P] - rewards_A[worse_P]
    short_P = margin_P - apart_P
    nll_P = -(p_P * F.logsigmoid(short_P) + (1 - p_P) * F.logsigmoid(-short_P))
    loss = (weight_P * nll_P).sum()
    with torch.no_grad():
        strict = p_P != 0.5
        right = ((margin_P > 0) == (p_P > 0.5)) & (margin_P != 0)
        metrics = {"loss": loss.detach().clone(), "right": right[strict].sum(), "strict": strict.sum()}
    return loss, metrics


def with_noise(p_P: Tensor, noise: float, unbiased: bool = False) -> Tensor:
    """The targets for `ranking_pairs` if a share `noise` of the labels is wrong.

    Label smoothing, p (1 - ε) + (1 - p) ε (Mitchell's note on conservative DPO, 2023), or `unbiased` its inverse,
    (p - ε) / (1 - 2ε): the loss is then in expectation that on the right labels (Chowdhury et al., arXiv 2403.00409,
    equation 6). Targets outside 0..1 are meant; the loss is linear in them.
    """
    return (p_P - noise) / (1 - 2 * noise) if unbiased else p_P * (1 - noise) + (1 - p_P) * noise


def plackett_luce(rewards_A: Tensor, order: list[list[list[int]]], weight_G: Tensor) -> tuple[Tensor, Metrics]:
    """Plackett-Luce negative log-likelihood of rankings: -sum_k [r_(k) - logsumexp_{j >= k} r_(j)].

    `order[g]` lists group g's tiers best to worst as indices into `rewards_A`; a last tier holds the unranked rest.
    A tie of m answers counts as the mean over the answers of the tier choosing from the same remaining set, and the
    last tier chooses nothing (partial rankings stop there). `weight_G` sums to the group's share of the step.
    """
    loss = rewards_A.new_zeros(())
    for g, tiers in enumerate(order):
        nll = rewards_A.new_zeros(())
        for k, tier in enumerate(tiers[:-1]):
            rest = rewards_A[[i for t in tiers[k:] for i in t]]
            nll = nll - (rewards_A[tier] - rest.logsumexp(0)).mean()
        loss = loss + weight_G[g] * nll
    return loss, {"loss": loss.detach()}


def ppo_policy(logprobs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, clip: float,
               count: float) -> tuple[Tensor, Metrics]:
    """Clipped surrogate (PPO, arXiv 1707.06347, equation 7), summed over valid tokens and divided by `count`."""
    delta_BT = (logprobs_BT - old_BT).masked_fill(~mask_BT, 0.0)
    ratio_BT = delta_BT.exp()
    unclipped_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * ratio_BT.clamp(1 - clip, 1 + clip)
    loss = torch.max(unclipped_BT, clipped_BT).masked_fill(~mask_BT, 0.0).sum() / count
    with torch.no_grad():
        metrics = {
            "policy_loss": loss.detach(),
            "approx_kl": 0.5 * delta_BT.square().sum() / count,
            "clip_fraction": ((clipped_BT > unclipped_BT) & mask_BT).sum() / count,
            "ratio_max": ratio_BT.max(),
        }
    return loss, metrics


def ppo_value(values_BT: Tensor, old_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, clip: float,
              count: float) -> tuple[Tensor, Metrics]:
    """Clipped value loss, 0.5 max((v - R)^2, (clip(v) - R)^2), as in OpenAI's lm-human-preferences."""
    near_BT = old_BT + (values_BT - old_BT).clamp(-clip, clip)
    error_BT = (values_BT - returns_BT).square()
    clipped_BT = (near_BT - returns_BT).square()
    loss = 0.5 * torch.max(error_BT, clipped_BT).masked_fill(~mask_BT, 0.0).sum() / count
    with torch.no_grad():
        clipped = ((clipped_BT > error_BT) & mask_BT).sum() / count
    return loss, {"value_loss": loss.detach(), "value_clip_fraction": clipped}


def group_policy(logprobs_N: Tensor, old_N: Tensor, advantages_N: Tensor, weight_N: Tensor, clip_low: float,
                 clip_high: float, count: float) -> tuple[Tensor, Metrics]:
    """Clipped surrogate of the group methods: -min(ratio A, clip(ratio, 1 - low, 1 + high) A), weighted and summed.

    An item is a token (GRPO, arXiv 2402.03300, equation 3) or a whole answer with its log-prob summed (RLOO, arXiv
    2402.14740, where the answer is one action). A larger `clip_high` leaves unlikely tokens room to rise (DAPO's
    clip-higher, arXiv 2503.14476, section 3.1). `weight_N` holds how items are averaged over the step;
    `count` is the step's number of items, for the metrics.
    """
    delta_N = logprobs_N - old_N
    ratio_N = delta_N.exp()
    unclipped_N = -advantages_N * ratio_N
    clipped_N = -advantages_N * ratio_N.clamp(1 - clip_low, 1 + clip_high)
    loss = (weight_N * torch.max(unclipped_N, clipped_N)).sum()
    with torch.no_grad():
        metrics = {
            "policy_loss": loss.detach(),
            "approx_kl": 0.5 * delta_N.square().sum() / count,
            "clip_fraction": (clipped_N > unclipped_N).sum() / count,
            "ratio_max": ratio_N.max(),
        }
    return loss, metrics


def labels(rewards_A: Tensor, label_A: Tensor, weight_A: Tensor) -> tuple[Tensor, Metrics]:
    """Cross-entropy of sigmoid(reward) against per-answer labels in 0..1 (thumbs); `weight_A` adds up to the step's."""
    nll_A = -(label_A * F.logsigmoid(rewards_A) + (1 - label_A) * F.logsigmoid(-rewards_A))
    loss = (weight_A * nll_A).sum()
    return loss, {"loss": loss.detach().clone()}
