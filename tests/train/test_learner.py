"""The learner's two verbs and its checkpoint, on weights small enough to compute by hand."""

import importlib.util
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunesmith.errors import MissingExtra, TrainingStopped
from tunesmith.train.learner import Learner, indices, mean


def make(values=(1.0, 2.0), steps=10, **settings):
    w = torch.nn.Parameter(torch.tensor(values))
    return w, Learner({"w": w}, steps, **{"lr": 0.1, **settings})


def pull(learner, w, gradient):
    learner.backward((w * torch.tensor(gradient)).sum())
    return learner.step()


@pytest.mark.parametrize(("gradient", "applied"), [((3.0, 4.0), (0.6, 0.8)), ((0.3, 0.4), (0.3, 0.4))])
def test_the_gradient_is_clipped_to_the_limit_and_only_beyond_it(gradient, applied):
    """Checklist 31: what the optimizer sees has norm <= max_grad_norm; what is reported is the norm before."""
    w, learner = make()
    seen = []
    learner.optimizer.register_step_pre_hook(lambda *_: seen.append(w.grad.clone()))
    assert pull(learner, w, gradient)["grad_norm"] == pytest.approx(math.hypot(*gradient))
    assert torch.allclose(seen[0], torch.tensor(applied), atol=1e-5)
    assert w.grad is None


def test_two_adam_steps_by_hand():
    """betas 0.9 and 0.99: m = .1 g, v = .01 g^2, both divided by 1 - beta^t; constant learning rate."""
    w, learner = make((1.0,), decay=False, max_grad_norm=100.0)
    m = v = 0.0
    expected = 1.0
    for t, g in enumerate((2.0, -1.0), 1):
        pull(learner, w, (g,))
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        expected -= 0.1 * (m / (1 - 0.9 ** t)) / (math.sqrt(v / (1 - 0.99 ** t)) + 1e-8)
        assert float(w.detach()) == pytest.approx(expected, abs=1e-6)


def test_warmup_rises_and_decay_falls_linearly():
    w, learner = make(steps=10, warmup=0.2)
    rates = [pull(learner, w, (0.1, 0.1))["lr"] for _ in range(10)]
    assert rates == pytest.approx([0.05, 0.1, *(0.1 * (8 - i) / 8 for i in range(8))])
    assert learner.done == 10


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops(value):
    w, learner = make()
    with pytest.raises(TrainingStopped, match=r"loss became (nan|inf) at step 1"):
        pull(learner, w, (value, 1.0))
    assert w.tolist() == [1.0, 2.0] and learner.done == 0


@pytest.mark.parametrize("size", [math.nan, 1e5])
def test_a_gradient_that_explodes_stops_before_it_is_applied(size):
    w, learner = make()
    learner.backward((w * 1.0).sum())
    w.grad.fill_(size)
    with pytest.raises(TrainingStopped, match="gradient's norm"):
        learner.step()
    assert w.tolist() == [1.0, 2.0]


def test_a_loss_that_is_not_finite_in_one_micro_batch_stops_though_a_later_one_is():
    w, learner = make()
    learner.backward((w * 0.0).sum() + math.inf)
    learner.backward((w * 1.0).sum())
    with pytest.raises(TrainingStopped, match="loss became inf at step 1"):
        learner.step()
    assert w.tolist() == [1.0, 2.0] and learner.done == 0


def test_weight_decay_pulls_matrices_and_spares_norms_and_biases():
    """Decoupled: each step takes lr x decay of the weight itself, here with a gradient of zero."""
    weights = {"norm": torch.nn.Parameter(torch.ones(3)), "matrix": torch.nn.Parameter(torch.ones(2, 2))}
    learner = Learner(weights, 10, 0.1, weight_decay=0.5, decay=False)
    learner.backward(sum((0.0 * w).sum() for w in weights.values()))
    learner.step()
    assert weights["norm"].tolist() == [1.0] * 3
    assert torch.allclose(weights["matrix"], torch.full((2, 2), 0.95))


@pytest.mark.skipif(bool(importlib.util.find_spec("bitsandbytes")), reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_install_line_is_named():
    with pytest.raises(MissingExtra, match=r"bitsandbytes is not installed.*tunesmith\[quantised\]"):
        make(optimizer="adamw8bit")


def large(**settings):
    """A matrix large enough for 8 bits, a vector that is not."""
    generator = torch.Generator().manual_seed(0)
    weights = {"w": torch.nn.Parameter(torch.randn(80, 64, generator=generator)),
               "b": torch.nn.Parameter(torch.ones(64))}
    return weights, Learner(weights, 20, 1e-2, optimizer="adamw8bit", max_grad_norm=1e3, **settings)


def descend(weights, learner, steps):
    """Towards weights of a half, under noise; the mean square distance."""
    for _ in range(steps):
        noise = torch.randn(80, 64, generator=torch.Generator().manual_seed(learner.done))
        learner.backward(((weights["w"] - 0.5 + 0.1 * noise).square()).sum() + (weights["b"] - 0.5).square().sum())
        learner.step()
    return float((weights["w"].detach() - 0.5).square().mean())


def test_moments_in_8_bits_come_close_to_those_in_32_and_resume_bit_for_bit(tmp_path):
    """Checklist 38: codes, scales of blocks and code books are all part of the checkpoint."""
    pytest.importorskip("bitsandbytes")
    weights, learner = large()
    descend(weights, learner, 5)
    learner.save(tmp_path, "x")
    state = learner.optimizer.state[weights["w"]]
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8
    again, other = large()
    with torch.no_grad():
        again["w"].zero_()
    other.load(tmp_path, "x")
    assert descend(weights, learner, 5) == descend(again, other, 5)
    assert all(torch.equal(weights[k], again[k]) for k in weights)
    exact = {k: torch.nn.Parameter(p.detach().clone()) for k, p in large()[0].items()}
    plain = descend(exact, Learner(exact, 20, 1e-2, max_grad_norm=1e3), 10)
    assert descend(*large(), 10) == pytest.approx(plain, rel=0.02) and not torch.equal(exact["w"], weights["w"])


@pytest.mark.parametrize("part", ["state1", "absmax2", "qmap1"])
def test_a_checkpoint_that_lacks_a_part_of_8_bit_moments_is_an_error(tmp_path, part):
    pytest.importorskip("bitsandbytes")
    weights, learner = large()
    descend(weights, learner, 1)
    learner.save(tmp_path, "x")
    kept = {k: v for k, v in load_file(tmp_path / "x.safetensors").items() if k != f"{part}/w"}
    save_file(kept, tmp_path / "x.safetensors", metadata={"about": json.dumps({"done": 1, "still": []})})
    with pytest.raises(TrainingStopped, match=f"lacks {part} of w"):
        large()[1].load(tmp_path, "x")


def test_saved_and_loaded_goes_on_bit_for_bit(tmp_path):
    """Checklist 38: weights, both moments, their step counter, and the place in the schedule."""
    gradients = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).tolist()
    w, learner = make(steps=8, warmup=0.3, weight_decay=0.01)
    for i, g in enumerate(gradients):
        if i == 4:
            learner.save(tmp_path, "x")
        pull(learner, w, g)
    again, other = make((7.0, 7.0), steps=8, warmup=0.3, weight_decay=0.01)
    other.load(tmp_path, "x")
    assert other.done == 4
    for g in gradients[4:]:
        pull(other, again, g)
    assert torch.equal(w, again)


@pytest.mark.parametrize("part", ["weight", "exp_avg", "exp_avg_sq", "step"])
def test_a_checkpoint_without_a_weight_or_moment_is_an_error(tmp_path, part):
    """Checklist 39: never a silent start with fresh moments."""
    w, learner = make()
    pull(learner, w, (1.0, 1.0))
    learner.save(tmp_path, "x")
    kept = {k: v for k, v in load_file(tmp_path / "x.safetensors").items() if k != f"{part}/w"}
    save_file(kept, tmp_path / "x.safetensors", metadata={"about": json.dumps({"done": 1, "still": []})})
    with pytest.raises(TrainingStopped, match=f"lacks {part} of w"):
        make()[1].load(tmp_path, "x")


def test_a_checkpoint_of_step_0_needs_no_moments(tmp_path):
    make((3.0, 4.0))[1].save(tmp_path, "x")
    w, learner = make()
    learner.load(tmp_path, "x")
    assert w.tolist() == [3.0, 4.0] and learner.done == 0


def test_every_pass_sees_every_item_once_in_an_order_of_its_own():
    passes = [indices(7, 3, 7 * i, 7) for i in range(4)]
    assert all(sorted(p) == list(range(7)) for p in passes)
    assert len({tuple(p) for p in passes}) == 4
    assert indices(7, 4, 0, 7) != passes[0]


def test_data_order_is_a_function_of_the_position():
    """Checklist 38: a resumed run reads on where it stopped, across the ends of passes."""
    whole = indices(7, 3, 0, 28)
    assert [indices(7, 3, start, 5) for start in range(0, 20, 5)] == [whole[s:s + 5] for s in range(0, 20, 5)]


def test_metrics_of_micro_batches_add_up_and_maxima_stay_maxima():
    parts = [{"loss": torch.tensor(0.25), "ratio_max": torch.tensor(1.5)},
             {"loss": torch.tensor(0.5), "ratio_max": torch.tensor(1.2)}]
    assert mean(parts) == {"loss": 0.75, "ratio_max": 1.5}


def test_a_discarded_loss_has_no_part_in_the_next_step():
    """PPO throws away a minibatch whose ratio exploded; the loss is infinite by then."""
    w, learner = make()
    learner.backward((w * 3.0).sum() + math.inf)
    learner.discard()
    assert w.grad is None
    assert pull(learner, w, (0.3, 0.4))["grad_norm"] == pytest.approx(0.5) and learner.done == 1


def test_a_weight_that_never_had_a_gradient_is_no_gap_in_a_checkpoint(tmp_path):
    """As in full fine-tuning of a model with a part that its forward pass does not use."""
    def both():
        used, unused = (torch.nn.Parameter(torch.tensor([x])) for x in (1.0, 5.0))
        return used, unused, Learner({"used": used, "unused": unused}, 10, 0.1)

    used, _, learner = both()
    pull(learner, used, (1.0,))
    learner.save(tmp_path, "x")
    again, idle, other = both()
    with torch.no_grad():
        idle.zero_()
    other.load(tmp_path, "x")
    assert idle.item() == 5.0 and not other.optimizer.state.get(idle)
    pull(learner, used, (0.5,))
    pull(other, again, (0.5,))
    assert torch.equal(used, again)


def test_code_books_that_weights_share_can_be_saved(tmp_path):
    """Eight-bit moments point all at one table, which safetensors refuses to write twice from one memory."""
    weights = {k: torch.nn.Parameter(torch.ones(2)) for k in "ab"}
    learner = Learner(weights, 10, 0.1)
    learner.backward(sum(w.sum() for w in weights.values()))
    learner.step()
    table = torch.arange(4.0)
    for w in weights.values():
        learner.optimizer.state[w]["qmap1"] = table
    learner.save(tmp_path, "x")
    saved = load_file(tmp_path / "x.safetensors")
    assert saved["qmap1/a"].tolist() == saved["qmap1/b"].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_the_same_state_is_saved_as_the_same_bytes(tmp_path):
    """safetensors keeps several keys of metadata in any order."""
    w, learner = make()
    pull(learner, w, (1.0, 1.0))
    for i in range(8):
        learner.save(tmp_path, f"{i}")
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(8)}) == 1
