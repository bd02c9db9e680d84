"""KL estimators, reward shaping, whitening, GAE and the KL controller against cases worked out by hand."""

import math

import pytest
import torch
from torch import tensor

from tunesmith.ops import advantages


def f64(x) -> torch.Tensor:
    return tensor(x, dtype=torch.float64)


MASK = tensor([[True, True, True], [True, True, False]])


def test_estimators_have_their_defining_values():
    """Checklist 19. At r = ln 2 (pi twice as likely as the reference)."""
    logp, ref = tensor([math.log(0.5)]), tensor([math.log(0.25)])
    assert advantages.k1(logp, ref).item() == pytest.approx(math.log(2))
    assert advantages.k1(ref, logp).item() == pytest.approx(-math.log(2))
    assert advantages.k2(logp, ref).item() == pytest.approx(math.log(2) ** 2 / 2)
    assert advantages.k3(logp, ref).item() == pytest.approx(0.5 - 1 + math.log(2))


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative():
    """Checklist 19. Expectations under pi are sums over the vocabulary; the KL itself is computed from its formula."""
    p, q = f64([0.5, 0.3, 0.2]), f64([0.2, 0.2, 0.6])
    kl = sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist()))
    for estimator in (advantages.k1, advantages.k3):
        assert (p * estimator(p.log(), q.log())).sum().item() == pytest.approx(kl, abs=1e-12)
    assert (advantages.k3(p.log(), q.log()) >= 0).all()
    assert (advantages.k1(p.log(), q.log()) < 0).any()


def test_as_losses_k1_has_no_gradient_k2_the_right_one_and_k3_a_biased_one():
    """Checklist 19. On-policy expectation of d/d logits, against the gradient of the KL itself."""
    q = f64([0.2, 0.2, 0.6])
    start = f64([0.4, -0.1, 0.3])

    def gradient(loss) -> torch.Tensor:
        logits = start.clone().requires_grad_()
        loss(logits.log_softmax(-1)).backward()
        return logits.grad

    p = start.softmax(-1)
    truth = gradient(lambda logp: (logp.exp() * (logp - q.log())).sum())
    k1, k2, k3 = (gradient(lambda logp, e=e: (p * e(logp, q.log())).sum())
                  for e in (advantages.k1, advantages.k2, advantages.k3))
    assert k1.abs().max() < 1e-12
    assert torch.allclose(k2, truth, atol=1e-12)
    assert (k3 - truth).abs().max() > 0.02


def test_rewards_are_the_price_of_kl_and_the_score_at_the_last_token():
    """Checklist 17. The first row fills the whole width: its score is still added, at its last token."""
    kl = tensor([[1.0, 2.0, -1.0], [0.5, 1.0, 99.0]])
    out = advantages.shape(kl, tensor([10.0, -3.0]), MASK, 0.1)
    assert torch.allclose(out, tensor([[-0.1, -0.2, 10.1], [-0.05, -3.1, 0.0]]))


def test_padding_content_never_matters():
    """Checklists 15 and 33. Whatever stands behind the end, not-a-number included, nothing changes."""
    results = []
    for junk in (0.0, 1e30, math.nan, math.inf):
        kl, values = tensor([[1.0, 2.0, 3.0], [1.0, 2.0, junk]]), tensor([[0.1, 0.2, 0.3], [0.4, 0.5, junk]])
        rewards = advantages.shape(kl, tensor([1.0, 2.0]), MASK, 0.1)
        adv, ret = advantages.gae(rewards, values, MASK, 0.9, 0.8)
        results.append((rewards, adv, ret, advantages.normalize(adv, MASK, center=True)))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result))
    assert all(float(x[1, 2]) == 0 for x in results[0])


def test_longer_padding_gives_the_same_advantages():
    """Checklist 15. Generating to a fixed length and cutting is the same as stopping, once the mask is applied."""
    rewards, values = torch.randn(2, 3), torch.randn(2, 3)
    short = advantages.gae(rewards, values, MASK, 1.0, 0.95)
    wide = [torch.cat([x, torch.full((2, 4), 7.0)], 1) for x in (rewards, values)]
    long = advantages.gae(*wide, torch.cat([MASK, torch.zeros(2, 4, dtype=torch.bool)], 1), 1.0, 0.95)
    assert all(torch.equal(a, b[:, :3]) and not b[:, 3:].any() for a, b in zip(short, long))


def test_gae_equals_the_hand_computed_case():
    """Checklist 24. gamma 0.5, lambda 0.5, rewards (1, 2, 4), values (2, 4, 8).

    deltas: 4 + 0 - 8 = -4 (nothing beyond the end), 2 + 4 - 4 = 2, 1 + 2 - 2 = 1;
    advantages: -4, 2 - 0.25 * 4 = 1, 1 + 0.25 * 1 = 1.25. The second row ends after two tokens:
    2 - 4 = -2, then 1 + 2 - 2 - 0.25 * 2 = 0.5.
    """
    rewards = tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    values = tensor([[2.0, 4.0, 8.0], [2.0, 4.0, 8.0]])
    adv, _ = advantages.gae(rewards, values, MASK, 0.5, 0.5)
    assert torch.allclose(adv, tensor([[1.25, 1.0, -4.0], [0.5, -2.0, 0.0]]))


def test_returns_are_advantages_before_whitening_plus_values():
    """Checklist 26."""
    rewards = tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    values = tensor([[2.0, 4.0, 8.0], [2.0, 4.0, 8.0]])
    _, returns = advantages.gae(rewards, values, MASK, 0.5, 0.5)
    assert torch.allclose(returns, tensor([[3.25, 5.0, 4.0], [2.5, 2.0, 0.0]]))


def test_lambda_one_gives_discounted_returns_and_lambda_zero_one_step_errors():
    """Checklist 24."""
    rewards, values = tensor([[1.0, 0.0, 2.0]]), tensor([[0.5, -1.0, 3.0]])
    full = torch.ones(1, 3, dtype=torch.bool)
    assert torch.allclose(advantages.gae(rewards, values, full, 0.9, 1.0)[1],
                          tensor([[1 + 0.81 * 2, 0.9 * 2, 2.0]]))
    assert torch.allclose(advantages.gae(rewards, values, full, 0.9, 0.0)[0],
                          tensor([[1 - 0.9 - 0.5, 2.7 + 1.0, 2.0 - 3.0]]))


def test_normalize_by_hand_with_and_without_the_mean():
    """Checklists 23 and 25. Valid entries 1, 2, 3, 4, 5: mean 3, variance 2 when divided by N."""
    x = tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 1000.0]])
    std = math.sqrt(2.0)
    centred = tensor([[-2.0, -1.0, 0.0], [1.0, 2.0, 0.0]]) / std
    assert torch.allclose(advantages.normalize(x, MASK, center=True), centred, atol=1e-6)
    assert torch.allclose(advantages.normalize(x, MASK, center=False), (centred + 3).masked_fill(~MASK, 0), atol=1e-6)


def test_normalize_survives_a_constant():
    """Checklist 23: eps 1e-8 keeps a constant finite."""
    x = torch.full((2, 3), 7.0)
    assert torch.allclose(advantages.normalize(x, MASK, center=True), torch.zeros(2, 3))


def test_adaptive_controller_moves_by_the_clipped_error_per_answer():
    """Checklist 21. KL at twice the target: clipped to 0.2, times 64 answers over a horizon of 10000."""
    controller = advantages.KlController(0.15, target=6.0, horizon=10_000)
    controller.update(12.0, 64)
    assert controller.coefficient == pytest.approx(0.15 * (1 + 0.2 * 64 / 10_000), rel=1e-12)
    controller = advantages.KlController(0.15, target=6.0, horizon=10_000)
    controller.update(5.4, 100)  # 10% under
    assert controller.coefficient == pytest.approx(0.15 * (1 - 0.1 * 100 / 10_000), rel=1e-12)
    controller = advantages.KlController(0.15, target=6.0, horizon=10_000)
    controller.update(0.0, 100)
    assert controller.coefficient == pytest.approx(0.15 * (1 - 0.2 * 100 / 10_000), rel=1e-12)


def test_without_a_target_the_coefficient_is_fixed():
    """Checklist 21."""
    controller = advantages.KlController(0.15)
    controller.update(1e6, 1000)
    assert controller.coefficient == 0.15


def test_group_advantages_by_hand_sum_to_zero():
    """Checklist 42. Rewards 1, 2, 6: mean 3, variance (4 + 1 + 9) / 2 = 7."""
    rewards = f64([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    plain = advantages.group(rewards, normalize_std=False)
    assert plain.tolist() == [[-2.0, -1.0, 3.0], [-1.0, -1.0, 2.0]]
    scaled = advantages.group(rewards)
    std = math.sqrt(7) + 1e-4
    assert scaled[0].tolist() == pytest.approx([-2 / std, -1 / std, 3 / std], abs=1e-12)
    for found in (plain, scaled, advantages.rloo(rewards)):
        assert found.sum(1).abs().max() < 1e-12


def test_groups_without_variance_get_exactly_nothing():
    """Checklist 42, scores that differ by rounding included: noise over a tiny deviation would be a full signal."""
    rewards = tensor([[0.1, 0.1, 0.1], [0.7, 0.7 + 3e-6, 0.7 - 3e-6], [0.7, 0.7, 0.8]])
    assert advantages.alike(rewards).tolist() == [True, True, False]
    for found in (advantages.group(rewards), advantages.group(rewards, False), advantages.rloo(rewards)):
        assert not found[:2].any() and found[2].abs().min() > 0.02


def test_the_leave_one_out_baseline_knows_nothing_of_its_own_answer():
    """Rewards 1, 2, 6: the others' means are 4, 3.5 and 1.5; raising one's own reward leaves one's baseline alone."""
    rewards = f64([[1.0, 2.0, 6.0]])
    assert advantages.rloo(rewards).tolist() == [[-3.0, -1.5, 4.5]]
    raised = rewards + f64([[0.0, 10.0, 0.0]])
    baseline = rewards - advantages.rloo(rewards), raised - advantages.rloo(raised)
    assert baseline[0][0, 1] == baseline[1][0, 1] and baseline[0][0, 0] != baseline[1][0, 0]


def test_rloo_is_unbiased_and_the_group_mean_is_not():
    """Two answers from a policy over two tokens: the expected REINFORCE gradient, summed over all four draws."""
    p, reward = f64([0.3, 0.7]), f64([1.0, 5.0])
    score = torch.eye(2, dtype=torch.float64) - p  # score[y] = d log pi(y) / d logits
    truth = sum(p[y] * reward[y] * score[y] for y in range(2))
    expected = {"rloo": torch.zeros(2).double(), "mean": torch.zeros(2).double()}
    for a in range(2):
        for b in range(2):
            rewards = reward[[a, b]][None]
            for name, found in (("rloo", advantages.rloo(rewards)), ("mean", advantages.group(rewards, False))):
                expected[name] += p[a] * p[b] * (found[0, 0] * score[a] + found[0, 1] * score[b]) / 2
    assert torch.allclose(expected["rloo"], truth, atol=1e-12)
    assert torch.allclose(expected["mean"], truth / 2, atol=1e-12)  # (K - 1) / K of it: its own answer is in the mean
