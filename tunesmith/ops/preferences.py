"""Losses that learn a policy from preferences directly: DPO and its relatives, and KTO.

The policy is its own reward model: r(x, y) = beta (log pi(y|x) - log pi_ref(y|x)) (arXiv 2305.18290, equation 5, up
to a term of the prompt alone, which cancels between answers to one prompt). `margin_P` is the difference of two
such rewards, better minus worse. `weight_P` and `weight_A` add up to 1 over the whole optimizer step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.ops.losses import Metrics


def implicit_rewards(logprobs_A: Tensor, reference_A: Tensor, beta: float, length_A: Tensor | None = None) -> Tensor:
    """beta (log pi - log pi_ref) of whole answers, [A]; with `length_A` per token, after SimPO (arXiv 2405.14734),
    which has no reference."""
    ratio_A = logprobs_A - reference_A
    return beta * (ratio_A if length_A is None else ratio_A / length_A)


def smoothed(p_P: Tensor, flipped: float) -> Tensor:
    """P(better is labelled better) if a share `flipped` of the labels is wrong: the target of conservative DPO.

    Source: Mitchell, "A note on DPO with noisy preferences", ericmitchell.ai/cdpo.pdf, equation 3.
    """
    return p_P * (1 - flipped) + (1 - p_P) * flipped


def unbiased(p_P: Tensor, flipped: float) -> Tensor:
    """The target of robust DPO: over labels of which `flipped` are wrong, the loss is on average that of right ones.

    The inverse of `smoothed`; it leaves 0..1, which is the point. Source: arXiv 2403.00409, section 3.
    """
    return (p_P - flipped) / (1 - 2 * flipped)


def dpo(margin_P: Tensor, target_P: Tensor, weight_P: Tensor) -> tuple[Tensor, Metrics]:
    """Direct preference optimisation (arXiv 2305.18290, equation 7): cross-entropy of sigma(margin) and `target_P`.

    The target is P(better beats worse): 1 for a strict order, 0.5 for a tie, or `smoothed`, or `unbiased`.
    """
    assert margin_P.shape == target_P.shape == weight_P.shape, "one target and weight per pair"
    loss = -(weight_P * (target_P * F.logsigmoid(margin_P) + (1 - target_P) * F.logsigmoid(-margin_P))).sum()
    return loss, {"loss": loss.detach()}


def ipo(margin_P: Tensor, p_P: Tensor, weight_P: Tensor, beta: float) -> tuple[Tensor, Metrics]:
    """Identity preference optimisation (arXiv 2310.12036, equation 17): log-ratios differ by 1 / (2 beta), no more.

    Theirs is tau = beta, and margin / beta the difference of log-ratios. A soft label counts both ways, p and 1 - p.
    """
    assert margin_P.shape == p_P.shape == weight_P.shape, "one probability and weight per pair"
    gap_P, goal = margin_P / beta, 1 / (2 * beta)
    loss = (weight_P * (p_P * (gap_P - goal).square() + (1 - p_P) * (gap_P + goal).square())).sum()
    return loss, {"loss": loss.detach()}


@torch.no_grad()
def agreement(margin_P: Tensor, p_P: Tensor) -> Metrics:
    """Pairs ordered as the labels order them: `right` of `strict`. Equal rewards are half right; tied labels are out.

    An untrained policy, all of whose rewards are 0, so scores one half.
    """
    strict = p_P != 0.5
    right = torch.where(margin_P == 0, 0.5, ((margin_P > 0) == (p_P > 0.5)).to(margin_P))
    return {"right": right[strict].sum(), "strict": strict.sum()}


@torch.no_grad()
def kto_reference_point(logprobs_G: Tensor, reference_G: Tensor) -> Tensor:
    """z0, KTO's estimate of KL(pi || pi_ref): the mean log-ratio of answers under prompts that are not theirs, >= 0.

    No gradient flows through it. Source: arXiv 2402.01306, section 4.
    """
    return (logprobs_G - reference_G).mean().clamp_min(0)


def kto(ratio_A: Tensor, desirable_A: Tensor, weight_A: Tensor, beta: float, z0: Tensor) -> tuple[Tensor, Metrics]:
    """Kahneman-Tversky optimisation (arXiv 2402.01306, section 4), each answer by itself; no pairs are needed.

    `ratio_A` is log pi - log pi_ref of an answer, `desirable_A` its thumb, `weight_A` its lambda over the step's
    number of answers: loss = lambda (1 - sigma(+-beta (ratio - z0))).
    """
    assert ratio_A.shape == desirable_A.shape == weight_A.shape, "one thumb and weight per answer"
    gain_A = torch.where(desirable_A, ratio_A - z0, z0 - ratio_A)
    loss = (weight_A * torch.sigmoid(-beta * gain_A)).sum()
    return loss, {"loss": loss.detach()}
