"""Losses: values and gradients worked out by hand, and that micro-batches add up."""

import itertools
import math

import pytest
import torch
from torch import tensor

from tunesmith.ops import losses


def f64(x) -> torch.Tensor:
    return tensor(x, dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_sft_is_the_weighted_mean_of_negative_log_likelihood():
    loss, metrics = losses.sft(tensor([-1.0, -2.0, -4.0]), tensor([1.0, 0.5, 0.0]), 1.5)
    assert loss.item() == pytest.approx((1.0 + 1.0) / 1.5)
    assert metrics["loss"].item() == pytest.approx(loss.item())


def test_pair_loss_by_hand_with_strict_tied_and_soft_pairs():
    """Checklist 9: K = 2 is plain pairwise cross-entropy."""
    rewards = f64([1.0, -0.5])
    for p in (1.0, 0.5, 0.73, 0.0):
        by_hand = -(p * math.log(sigmoid(1.5)) + (1 - p) * math.log(sigmoid(-1.5)))
        loss, _ = losses.ranking_pairs(rewards, tensor([0]), tensor([1]), tensor([p]), tensor([1.0]))
        assert loss.item() == pytest.approx(by_hand, abs=1e-7)


def test_pair_loss_pushes_the_better_answer_up():
    rewards = f64([0.3, 0.1]).requires_grad_()
    losses.ranking_pairs(rewards, tensor([0]), tensor([1]), tensor([1.0]), tensor([1.0]))[0].backward()
    assert torch.allclose(rewards.grad, f64([-1.0, 1.0]) * sigmoid(-0.2), atol=1e-7)


def test_kway_loss_is_the_mean_over_its_pairs():
    """Checklist 9."""
    rewards = f64([0.2, -1.0, 0.7, 0.1])
    pairs = list(itertools.combinations(range(4), 2))
    by_hand = sum(-math.log(sigmoid(float(rewards[i] - rewards[j]))) for i, j in pairs) / math.comb(4, 2)
    better, worse = (tensor(x) for x in zip(*pairs))
    loss, metrics = losses.ranking_pairs(rewards, better, worse, torch.ones(6), f64([1 / 6] * 6))
    assert loss.item() == pytest.approx(by_hand, abs=1e-8)
    assert int(metrics["strict"]) == 6
    assert int(metrics["right"]) == sum(float(rewards[i]) > float(rewards[j]) for i, j in pairs)


def test_accuracy_leaves_ties_out_and_counts_equal_scores_as_wrong():
    _, m = losses.ranking_pairs(tensor([1.0, 0.0, 0.0]), tensor([0, 1, 2]), tensor([1, 2, 0]), tensor([1.0, 1.0, 0.5]),
                                torch.ones(3))
    assert (int(m["right"]), int(m["strict"])) == (1, 2)
    _, m = losses.ranking_pairs(tensor([0.0, 1.0]), tensor([0]), tensor([1]), tensor([0.2]), torch.ones(1))
    assert int(m["right"]) == 1  # "better" wins with 0.2 only, so the other one is preferred


def test_shapes_of_margins_probabilities_and_weights_must_agree():
    """Checklist 10: a [P, 1] weight would broadcast to [P, P] unnoticed."""
    index = tensor([0, 1]), tensor([1, 0])
    with pytest.raises(AssertionError):
        losses.ranking_pairs(tensor([0.0, 1.0]), *index, torch.ones(2), torch.ones(2, 1))
    with pytest.raises(AssertionError):
        losses.ranking_pairs(tensor([0.0, 1.0]), *index, torch.ones(2, 1), torch.ones(2))


def test_plackett_luce_by_hand():
    """Full ranking of three, and the same with the last two unranked: then only the first choice counts."""
    r = [0.5, -0.2, 1.0]
    first = -(r[2] - math.log(sum(map(math.exp, r))))
    second = -(r[0] - math.log(math.exp(r[0]) + math.exp(r[1])))
    rewards = f64(r)
    full, _ = losses.plackett_luce(rewards, [[[2], [0], [1]]], f64([1.0]))
    partial, _ = losses.plackett_luce(rewards, [[[2], [0, 1]]], f64([1.0]))
    assert full.item() == pytest.approx(first + second, abs=1e-8)
    assert partial.item() == pytest.approx(first, abs=1e-8)


def test_plackett_luce_of_two_is_the_pair_loss():
    """Checklist 9, the other route to the same number."""
    rewards = f64([0.4, 1.3])
    loss, _ = losses.plackett_luce(rewards, [[[1], [0]]], f64([1.0]))
    assert loss.item() == pytest.approx(-math.log(sigmoid(0.9)), abs=1e-8)


def test_labels_by_hand():
    loss, _ = losses.labels(f64([2.0, -1.0]), f64([1.0, 0.25]), f64([0.5, 0.5]))
    by_hand = 0.5 * -math.log(sigmoid(2)) + 0.5 * -(0.25 * math.log(sigmoid(-1)) + 0.75 * math.log(sigmoid(1)))
    assert loss.item() == pytest.approx(by_hand, abs=1e-7)


ONE = torch.ones(1, 1, dtype=torch.bool)


@pytest.mark.parametrize(("ratio", "advantage", "loss", "gradient"), [
    (1.0, 2.0, -2.0, -2.0),     # at the start: plain policy gradient
    (1.5, 2.0, -2.4, 0.0),      # clipped above: nothing to gain any more
    (0.5, 2.0, -1.0, -1.0),     # too unlikely a good token: pulled back, not clipped
    (0.5, -2.0, 1.6, 0.0),      # clipped below
    (1.5, -2.0, 3.0, 3.0),      # too likely a bad token: pushed down, not clipped
])
def test_policy_loss_by_hand(ratio, advantage, loss, gradient):
    """PPO equation 7 at clip 0.2; d loss / d logp = -A ratio where it is not clipped."""
    logp = f64([[math.log(ratio)]]).requires_grad_()
    out, metrics = losses.ppo_policy(logp, torch.zeros(1, 1).double(), f64([[advantage]]), ONE, 0.2, 1.0)
    out.backward()
    assert out.item() == pytest.approx(loss)
    assert logp.grad.item() == pytest.approx(gradient)
    assert float(metrics["clip_fraction"]) == float(gradient == 0)
    assert float(metrics["approx_kl"]) == pytest.approx(0.5 * math.log(ratio) ** 2)


def test_policy_metrics_average_over_valid_tokens_only():
    """Checklist 34."""
    mask = tensor([[True, True, False]])
    logp = tensor([[0.3, -0.1, 50.0]])
    _, metrics = losses.ppo_policy(logp, torch.zeros(1, 3), torch.ones(1, 3), mask, 0.2, 2.0)
    assert float(metrics["approx_kl"]) == pytest.approx(0.5 * (0.09 + 0.01) / 2)
    assert float(metrics["clip_fraction"]) == 0.5
    assert float(metrics["ratio_max"]) == pytest.approx(math.exp(0.3))


def test_same_policy_gives_ratio_one_and_no_kl():
    """Checklist 29, at the level of the loss."""
    logp = torch.randn(3, 4)
    _, metrics = losses.ppo_policy(logp, logp.clone(), torch.randn(3, 4), torch.ones(3, 4).bool(), 0.2, 12.0)
    assert (float(metrics["approx_kl"]), float(metrics["clip_fraction"]), float(metrics["ratio_max"])) == (0, 0, 1)


@pytest.mark.parametrize(("new", "loss", "gradient"), [
    (1.1, 0.5 * 0.9 ** 2, -0.9),    # inside the clip: half the squared error
    (1.5, 0.5 * 0.8 ** 2, 0.0),     # moved towards the return beyond the clip: the clipped error is larger
    (0.5, 0.5 * 1.5 ** 2, -1.5),    # moved away from the return: the unclipped error is larger
])
def test_value_loss_by_hand(new, loss, gradient):
    """Checklist 28. Old value 1, return 2, clip 0.2."""
    value = f64([[new]]).requires_grad_()
    out, metrics = losses.ppo_value(value, f64([[1.0]]), f64([[2.0]]), ONE, 0.2, 1.0)
    out.backward()
    assert out.item() == pytest.approx(loss)
    assert value.grad.item() == pytest.approx(gradient)
    assert float(metrics["value_clip_fraction"]) == float(gradient == 0)


def test_values_behind_the_end_are_masked():
    """Checklist 28. `values_BT[:, t]` is the value before token t, so the mask of tokens is the mask of values."""
    mask = tensor([[True, False]])
    value = tensor([[1.0, 5.0]]).requires_grad_()
    out, _ = losses.ppo_value(value, torch.zeros(1, 2), tensor([[2.0, 9.0]]), mask, 10.0, 1.0)
    out.backward()
    assert out.item() == pytest.approx(0.5) and value.grad.tolist() == [[-1.0, 0.0]]


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
def test_masked_positions_cannot_poison_value_or_gradient(junk):
    """Checklist 33. An invalid log-prob behind the end, in either policy, gives no NaN x 0."""
    mask = tensor([[True, False]])
    logp = tensor([[0.1, junk]]).requires_grad_()
    loss, metrics = losses.ppo_policy(logp, tensor([[0.0, junk]]), tensor([[1.0, junk]]), mask, 0.2, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(-math.exp(0.1)) and logp.grad[0, 1] == 0 and logp.grad.isfinite().all()
    assert all(m.isfinite() for m in metrics.values())


def test_micro_batches_add_up_to_the_gradient_of_the_whole():
    """Checklist 32, fp64 1e-10: `count` is the step's, so parts of any size add up."""
    torch.manual_seed(0)
    B, T = 6, 5
    mask = torch.arange(T) < torch.randint(1, T + 1, (B, 1))
    new, old, adv, ret = (torch.randn(B, T).double() for _ in range(4))
    count = float(mask.sum())

    def gradient(parts) -> tuple[torch.Tensor, dict]:
        x = new.clone().requires_grad_()
        sums: dict = {}
        for rows in parts:
            for loss, m in (losses.ppo_policy(x[rows], old[rows], adv[rows], mask[rows], 0.2, count),
                            losses.ppo_value(x[rows], old[rows], ret[rows], mask[rows], 0.2, count)):
                loss.backward()
                sums |= {k: sums.get(k, 0) + v for k, v in m.items() if k != "ratio_max"}
        return x.grad, sums

    whole, metrics = gradient([[0, 1, 2, 3, 4, 5]])
    parts, added = gradient([[0], [3, 1, 5], [4, 2]])
    assert (whole - parts).abs().max() < 1e-10
    assert all(float(added[k]) == pytest.approx(float(v), abs=1e-6) for k, v in metrics.items())


@pytest.mark.parametrize(("ratio", "advantage", "loss", "gradient"), [
    (1.0, 2.0, -2.0, -2.0),
    (1.25, 2.0, -2.5, -2.5),    # beyond 1 + low, but there is more room above
    (1.5, 2.0, -2.6, 0.0),      # clipped at 1 + high
    (0.5, -2.0, 1.6, 0.0),      # clipped at 1 - low
    (1.5, -2.0, 3.0, 3.0),      # a bad item that became likelier is never clipped
])
def test_group_policy_loss_clips_higher_above_than_below(ratio, advantage, loss, gradient):
    """Checklist 42: clip-low 0.2, clip-high 0.3."""
    logp = f64([math.log(ratio)]).requires_grad_()
    out, metrics = losses.group_policy(logp, f64([0.0]), f64([advantage]), f64([1.0]), 0.2, 0.3, 1)
    out.backward()
    assert out.item() == pytest.approx(loss) and logp.grad.item() == pytest.approx(gradient)
    assert float(metrics["clip_fraction"]) == float(gradient == 0)
    assert float(metrics["approx_kl"]) == pytest.approx(0.5 * math.log(ratio) ** 2)
    assert float(metrics["ratio_max"]) == pytest.approx(ratio)


def test_group_policy_weights_say_how_items_are_averaged():
    logp, old = f64([0.1, 0.0, -0.05]), torch.zeros(3, dtype=torch.float64)
    out, metrics = losses.group_policy(logp, old, f64([1.0, -2.0, 3.0]), f64([0.5, 0.25, 0.1]), 0.2, 0.2, 3)
    by_hand = -(0.5 * math.exp(0.1) - 0.25 * 2 + 0.1 * 3 * math.exp(-0.05))
    assert out.item() == pytest.approx(by_hand, abs=1e-12)
    assert float(metrics["approx_kl"]) == pytest.approx(0.5 * (0.01 + 0.0025) / 3)


def test_the_unbiased_loss_is_on_average_that_of_the_right_labels():
    rewards, index = tensor([0.7, -0.4]).double(), (tensor([0]), tensor([1]))
    one = f64([1.0])

    def loss(label, **noise):
        return float(losses.ranking_pairs(rewards, *index, losses.with_noise(f64([label]), **noise), one)[0])

    flipped = 0.2
    mean = (1 - flipped) * loss(1.0, noise=flipped, unbiased=True) + flipped * loss(0.0, noise=flipped, unbiased=True)
    assert mean == pytest.approx(loss(1.0, noise=0.0))
    assert loss(1.0, noise=flipped) == pytest.approx(0.8 * loss(1.0, noise=0.0) + 0.2 * loss(0.0, noise=0.0))
    assert losses.with_noise(losses.with_noise(f64([0.3]), 0.1), 0.1, unbiased=True) == pytest.approx(0.3)


def test_a_margin_asks_for_rewards_further_apart():
    rewards, index, one = tensor([0.7, -0.4]).double(), (tensor([0]), tensor([1])), f64([1.0])
    got, metrics = losses.ranking_pairs(rewards, *index, one, one, 0.5)
    assert float(got) == pytest.approx(math.log1p(math.exp(-(1.1 - 0.5)))) and metrics["right"] == 1
