"""DPO, IPO, KTO: values, closed forms and gradients against plain formulas, and what each label noise rule promises."""

import itertools
import math

import pytest
import torch
from torch import tensor

from tunesmith.ops import losses, preferences


def f64(x) -> torch.Tensor:
    return tensor(x, dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


ONE = f64([1.0])


def dpo_of(margin, p=1.0):
    return preferences.dpo(f64([margin]), f64([p]), ONE)[0].item()


def test_implicit_rewards_are_beta_times_the_log_ratio_and_per_token_if_lengths_are_given():
    logp, ref = f64([-6.0, -10.0]), f64([-8.0, -9.0])
    assert preferences.implicit_rewards(logp, ref, 0.5).tolist() == [1.0, -0.5]
    assert preferences.implicit_rewards(logp, ref, 0.5, f64([2.0, 5.0])).tolist() == [0.5, -0.1]


def test_at_the_start_the_loss_is_ln_2_and_a_tie_stays_there():
    """Checklist 41: whatever the label, margin 0 costs ln 2; a tied label pulls any margin back to 0."""
    for p in (1.0, 0.8, 0.5):
        assert dpo_of(0.0, p) == pytest.approx(math.log(2), abs=1e-12)
    margin = f64([0.7]).requires_grad_()
    preferences.dpo(margin, f64([0.5]), ONE)[0].backward()
    assert margin.grad.item() == pytest.approx(sigmoid(0.7) - 0.5)


def test_dpo_by_hand_and_its_gradient():
    """Equation 7, and the gradient under it: -beta sigma(-margin) for the better answer's log-prob, + for the worse."""
    logp = f64([-3.0, -4.5, -2.0]).requires_grad_()
    ref, beta = f64([-3.5, -4.0, -2.2]), 0.3
    rewards = preferences.implicit_rewards(logp, ref, beta)
    better, worse = tensor([0, 2]), tensor([1, 1])
    loss, _ = preferences.dpo(rewards[better] - rewards[worse], f64([1.0, 1.0]), f64([0.5, 0.5]))
    first, second = beta * (0.5 + 0.5), beta * (0.2 + 0.5)
    assert loss.item() == pytest.approx(-(math.log(sigmoid(first)) + math.log(sigmoid(second))) / 2, abs=1e-12)
    loss.backward()
    a, b = 0.5 * beta * sigmoid(-first), 0.5 * beta * sigmoid(-second)
    assert logp.grad.tolist() == pytest.approx([-a, a + b, -b], abs=1e-12)


def test_dpo_is_the_pair_loss_of_a_reward_model_on_implicit_rewards():
    """The route through `losses.ranking_pairs`, K = 4: all six pairs, each a sixth."""
    rewards = f64([0.3, -0.2, 1.1, 0.0])
    better, worse = (tensor(x) for x in zip(*itertools.combinations(range(4), 2)))
    p, share = f64([1.0, 0.5, 0.9, 1.0, 0.6, 1.0]), f64([1 / 6] * 6)
    want, _ = losses.ranking_pairs(rewards, better, worse, p, share)
    found, _ = preferences.dpo(rewards[better] - rewards[worse], p, share)
    assert found.item() == pytest.approx(want.item(), abs=1e-12)


@pytest.mark.parametrize("margin", [-1.3, 0.4])
def test_conservative_and_robust_dpo_have_their_closed_forms(margin):
    eps = 0.2
    won, lost = -math.log(sigmoid(margin)), -math.log(sigmoid(-margin))
    one = f64([1.0])
    assert dpo_of(margin, preferences.smoothed(one, eps).item()) == pytest.approx((1 - eps) * won + eps * lost)
    assert dpo_of(margin, preferences.unbiased(one, eps).item()) == pytest.approx(
        ((1 - eps) * won - eps * lost) / (1 - 2 * eps))
    for target in (preferences.smoothed, preferences.unbiased):
        assert target(f64([0.5]), eps).item() == pytest.approx(0.5)
        assert target(f64([0.7]), 0.0).item() == 0.7


def test_robust_dpo_is_unbiased_over_flipped_labels():
    """A label is flipped with probability 0.3: the mean of the robust losses is the loss of the right label."""
    eps, margin = 0.3, 0.9
    kept, flipped = (dpo_of(margin, preferences.unbiased(f64([p]), eps).item()) for p in (1.0, 0.0))
    assert (1 - eps) * kept + eps * flipped == pytest.approx(dpo_of(margin), abs=1e-12)
    assert preferences.smoothed(preferences.unbiased(f64([0.9]), eps), eps).item() == pytest.approx(0.9)


def test_ipo_pulls_the_log_ratios_to_a_fixed_gap():
    """Equation 17: (h - 1/(2 beta))^2 with h = margin / beta; its minimum is there, and not at infinity."""
    beta, h = 0.25, 0.8
    loss, _ = preferences.ipo(f64([beta * h]), ONE, ONE, beta)
    assert loss.item() == pytest.approx((h - 2.0) ** 2)
    reversed_, _ = preferences.ipo(f64([beta * h]), f64([0.0]), ONE, beta)
    assert reversed_.item() == pytest.approx((h + 2.0) ** 2)
    for gap, sign in ((1.9, -1), (2.1, 1)):
        margin = f64([beta * gap]).requires_grad_()
        preferences.ipo(margin, ONE, ONE, beta)[0].backward()
        assert math.copysign(1, margin.grad.item()) == sign
    tied = f64([beta * h]).requires_grad_()
    preferences.ipo(tied, f64([0.5]), ONE, beta)[0].backward()
    assert tied.grad.item() == pytest.approx(2 * h / beta)


def test_equal_rewards_are_half_right_and_tied_labels_are_left_out():
    """Checklist 41: accuracy of ties."""
    found = preferences.agreement(f64([0.0, 1.0, -1.0, -1.0, 3.0]), f64([1.0, 0.9, 1.0, 0.1, 0.5]))
    assert (float(found["right"]), int(found["strict"])) == (2.5, 4)
    start = preferences.agreement(torch.zeros(3), torch.ones(3))
    assert float(start["right"]) / float(start["strict"]) == 0.5


def test_shapes_must_agree():
    for loss in (lambda w: preferences.dpo(torch.zeros(2), torch.ones(2), w),
                 lambda w: preferences.ipo(torch.zeros(2), torch.ones(2), w, 0.1),
                 lambda w: preferences.kto(torch.zeros(2), torch.ones(2).bool(), w, 0.1, tensor(0.0))):
        with pytest.raises(AssertionError):
            loss(torch.ones(2, 1))


def test_kto_by_hand_and_its_signs():
    """lambda (1 - sigma(beta (r - z0))) of a good answer, r and z0 swapped for a bad one: up with one, down with the
    other; both cost half their lambda where r = z0."""
    beta, z0 = 0.5, tensor(0.4, dtype=torch.float64)
    ratio = f64([1.0, 1.0, 0.4]).requires_grad_()
    good, weight = tensor([True, False, False]), f64([0.5, 0.25, 2.0])
    loss, _ = preferences.kto(ratio, good, weight, beta, z0)
    up, down = 1 - sigmoid(beta * 0.6), 1 - sigmoid(-beta * 0.6)
    assert loss.item() == pytest.approx(0.5 * up + 0.25 * down + 2.0 * 0.5, abs=1e-12)
    loss.backward()
    slope = beta * up * (1 - up)
    assert ratio.grad.tolist() == pytest.approx([-0.5 * slope, 0.25 * slope, 2.0 * beta / 4], abs=1e-12)


def test_the_reference_point_is_clamped_at_zero_and_has_no_gradient():
    policy, reference = f64([-3.0, -5.0]).requires_grad_(), f64([-4.0, -5.5])
    z0 = preferences.kto_reference_point(policy, reference)
    assert z0.item() == pytest.approx(0.75) and not z0.requires_grad
    assert preferences.kto_reference_point(reference, policy.detach()).item() == 0.0


def test_micro_batches_of_pairs_add_up():
    """Checklist 32: weights are shares of the whole step."""
    generator = torch.Generator().manual_seed(0)
    margin = torch.randn(7, generator=generator, dtype=torch.float64)
    p, weight = torch.rand(7, generator=generator, dtype=torch.float64), torch.full((7,), 1 / 7, dtype=torch.float64)
    for loss in (preferences.dpo, lambda *x: preferences.ipo(*x, 0.1)):
        whole = loss(margin, p, weight)[0]
        parts = sum(loss(margin[s], p[s], weight[s])[0] for s in (slice(0, 3), slice(3, 7)))
        assert parts.item() == pytest.approx(whole.item(), abs=1e-12)
