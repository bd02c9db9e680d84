"""From scores and log-probabilities to advantages: KL, reward shaping, whitening, GAE, and baselines of groups.

Padding is on the right: row b is valid for `mask_BT[b]`'s leading True values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """log pi - log pi_ref: unbiased under samples of pi, can be negative. For rewards."""
    return logprobs - reference


def k2(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Half the squared log-ratio: biased as a value, its gradient is the reverse KL's on-policy. For losses."""
    return 0.5 * (logprobs - reference).square()


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """exp(-r) - 1 + r with r = log pi - log pi_ref: unbiased and never negative. For reports.

    Source: Schulman, "Approximating KL divergence", joschu.net/blog/kl-approx.html
    """
    r = logprobs - reference
    return torch.expm1(-r) + r


def shape(kl_BT: Tensor, scores_B: Tensor, mask_BT: Tensor, coefficient: float) -> Tensor:
    """Per-token rewards [B, T]: -coefficient * KL everywhere, the score added at the last valid token, 0 after it."""
    rewards_BT = (-coefficient * kl_BT).masked_fill(~mask_BT, 0.0)
    last_B = mask_BT.sum(1) - 1
    return rewards_BT.scatter_add(1, last_B[:, None], scores_B[:, None].to(rewards_BT))


def normalize(x_BT: Tensor, mask_BT: Tensor, center: bool) -> Tensor:
    """Divide by the standard deviation over all valid entries (variance divided by N, eps 1e-8).

    With `center` the result has mean 0 (advantages); without it the mean stays where it was (rewards).
    """
    count = mask_BT.sum()
    mean = x_BT.masked_fill(~mask_BT, 0.0).sum() / count
    variance = (x_BT - mean).masked_fill(~mask_BT, 0.0).square().sum() / count
    white_BT = (x_BT - mean) * torch.rsqrt(variance + 1e-8)
    return (white_BT if center else white_BT + mean).masked_fill(~mask_BT, 0.0)


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, equation 16): (advantages, returns), both [B, T].

    The value after the last valid token is 0: an episode ends there. Returns are advantages + values, taken
    before any whitening. Positions after the end hold 0.
    """
    rewards_BT, values_BT = (x.masked_fill(~mask_BT, 0.0) for x in (rewards_BT, values_BT))
    advantages_BT = torch.zeros_like(rewards_BT)
    advantage_B = torch.zeros_like(rewards_BT[:, 0])
    for t in range(rewards_BT.shape[1] - 1, -1, -1):
        next_B = values_BT[:, t + 1] if t + 1 < rewards_BT.shape[1] else torch.zeros_like(advantage_B)
        delta_B = rewards_BT[:, t] + gamma * next_B - values_BT[:, t]
        advantage_B = (delta_B + gamma * lam * advantage_B).masked_fill(~mask_BT[:, t], 0.0)
        advantages_BT[:, t] = advantage_B
    return advantages_BT, (advantages_BT + values_BT).masked_fill(~mask_BT, 0.0)


def alike(rewards_GK: Tensor) -> Tensor:
    """Groups whose answers all earned the same, within 1e-5 (rounding of a reward model's scores), bool [G]."""
    return rewards_GK.amax(1) - rewards_GK.amin(1) <= 1e-5


def group(rewards_GK: Tensor, normalize_std: bool = True) -> Tensor:
    """GRPO (arXiv 2402.03300, section 4.1.2): rewards less their group's mean, over its standard deviation, [G, K].

    Without `normalize_std` as in Dr. GRPO (arXiv 2503.20783), where easy and hard prompts keep their weight. The
    variance is divided by K - 1; 1e-4 is added to the deviation. Groups that are `alike` get exactly 0.
    """
    centred_GK = rewards_GK - rewards_GK.mean(1, keepdim=True)
    if normalize_std:
        centred_GK = centred_GK / (rewards_GK.std(1, keepdim=True) + 1e-4)
    return centred_GK.masked_fill(alike(rewards_GK)[:, None], 0.0)


def rloo(rewards_GK: Tensor) -> Tensor:
    """RLOO (arXiv 2402.14740): each reward less the mean of the other answers' to its prompt, [G, K]."""
    others_GK = (rewards_GK.sum(1, keepdim=True) - rewards_GK) / (rewards_GK.shape[1] - 1)
    return (rewards_GK - others_GK).masked_fill(alike(rewards_GK)[:, None], 0.0)


@dataclass(slots=True)
class KlController:
    """The KL coefficient: fixed, or adaptive as in Ziegler et al. 2019 (arXiv 1909.08593, section 2.2).

    `target` is in nats per answer (the KL summed over its tokens); 0 keeps the coefficient fixed.
    """

    coefficient: float
    target: float = 0.0
    horizon: int = 10_000

    def update(self, kl_per_answer: float, answers: int) -> None:
        """beta <- beta (1 + clip(KL / target - 1, +-0.2) * n / horizon)"""
        if self.target:
            error = min(max(kl_per_answer / self.target - 1, -0.2), 0.2)
            self.coefficient *= 1 + error * answers / self.horizon
