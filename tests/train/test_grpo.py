"""GRPO and RLOO against plain forward passes and formulas: what must be zero, what stays together, that they learn."""

import math

import pytest
import torch
from lab import weights

from tunesmith.contracts import Monitor, Word
from tunesmith.errors import ModelError, UserError
from tunesmith.model import adapters
from tunesmith.ops import advantages
from tunesmith.train import grpo


def prepare(lab, method="grpo", dtype=None, moved=False, **changes):
    """Roles, samples of the first prompts, and (if `moved`) a policy that has left them and the reference behind."""
    base = lab.base(dtype)
    settings = lab.prefer(method, **changes)
    start, judge = lab.workspace.adapter("sft"), lab.workspace.adapter("likes-a")
    roles = grpo.attach(base, start.path, judge.path, settings)
    prompts = [base.chat.prompt(p.messages) for p in lab.workspace.dataset("prompts").rows()][:settings.batch]
    samples = grpo.collect(base, roles, prompts, settings, 0)
    if moved:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(5)
            for p in roles.learner.parameters.values():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return base, roles, samples, settings


def rewarded(samples, rows):
    """The same samples with these scores, all finished."""
    scores = torch.tensor(rows)
    return grpo.Samples(samples.trees, samples.old, samples.reference, scores, torch.ones_like(scores).bool())


def plain(base, slot, prompt, answer, temperature=1.0):
    """Log-probs of the answer's tokens from one unpadded forward pass."""
    with adapters.active(base, slot):
        logits = base.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    logp = (logits / temperature).log_softmax(-1)
    return logp[range(len(prompt) - 1, len(prompt) + len(answer) - 1), list(answer)]


def gradient(learner):
    found = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
                       for p in learner.parameters.values()])
    learner.optimizer.zero_grad()
    return found


SPREAD = [[1.0, 0.0, -2.0, 3.0], [0.5, 0.5, 0.5, 2.0], [1.0, -1.0, 0.0, 0.3]]


# Samples

@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_samples_equal_plain_forward_passes(lab, temperature, layout):
    """Checklists 14 and 16: the sampler's log-probs, recomputed ones and the reference's, at one temperature."""
    for old, tolerance in (("sampler", 1e-4), ("recompute", 1e-5)):
        base, roles, samples, _ = prepare(lab, batch=3, temperature=temperature, layout=layout, old_logprobs=old)
        assert samples.scores_GK.shape == (3, 4) and len({a for t in samples.trees for a in t.answers}) > 6
        for g, tree in enumerate(samples.trees):
            with torch.no_grad():
                policy, reference = (torch.cat([plain(base, slot, tree.prompt, a, temperature) for a in tree.answers])
                                     for slot in ("policy", "reference"))
            assert samples.old[g].tolist() == pytest.approx(policy.tolist(), abs=tolerance)
            assert samples.reference[g].tolist() == pytest.approx(reference.tolist(), abs=1e-5)
            alone = [roles.reward.score_trees([type(tree)(tree.prompt, (a,))]).item() for a in tree.answers]
            assert samples.scores_GK[g].tolist() == pytest.approx(alone, abs=1e-5)
            assert samples.finished_GK[g].tolist() == [a[-1] == base.chat.end for a in tree.answers]


def test_the_reference_is_the_starting_adapter_and_left_out_where_kl_is_free(lab):
    """Checklist 18."""
    _, _, samples, settings = prepare(lab)
    _, reported = grpo.credit(samples, settings)
    assert abs(reported["kl"]) < 1e-4 and abs(reported["kl_k3"]) < 1e-5
    base, _, samples, settings = prepare(lab, kl=0.0)
    assert samples.reference == () and "kl" not in grpo.credit(samples, settings)[1]
    assert "reference" not in adapters.names(base)


def test_answers_do_not_depend_on_how_many_are_written_together(lab):
    base, roles, samples, settings = prepare(lab)
    roles.engine.rows = 3
    prompts = [t.prompt for t in samples.trees]
    assert grpo.collect(base, roles, prompts, settings, 0).trees == samples.trees
    assert grpo.collect(base, roles, prompts, settings, 1).trees != samples.trees


# Credit

def test_advantages_sum_to_zero_in_every_group_and_alike_answers_get_none(lab):
    """Checklist 42."""
    for method in ("grpo", "rloo"):
        _, _, samples, settings = prepare(lab, method, batch=3)
        found, reported = grpo.credit(rewarded(samples, [[1.0, 0.0, -2.0, 3.0], [0.5] * 4, [1.0, -1.0, 0.0, 0.3]]),
                                      settings)
        assert found.sum(1).abs().max() < 1e-6 and not found[1].any() and found[0].abs().max() > 1
        assert reported["zero_variance"] == pytest.approx(1 / 3)
    scores = torch.tensor([[1.0, 0.0, -2.0, 3.0]])
    assert torch.allclose(found[:1], advantages.rloo(scores), atol=1e-5)


def test_kl_is_charged_in_the_reward_or_in_the_loss_never_in_both(lab):
    """Checklist 20. Usual: loss for GRPO, reward for RLOO; in the reward as k1 summed over an answer's tokens."""
    charged = {}
    for method, where in (("grpo", "usual"), ("grpo", "reward"), ("rloo", "usual"), ("rloo", "loss")):
        _, _, samples, settings = prepare(lab, method, batch=3, kl=0.5, kl_in=where)
        shifted = grpo.Samples(samples.trees, tuple(x + 0.1 for x in samples.old), samples.reference,
                               torch.tensor(SPREAD), torch.ones(3, 4).bool())
        found, reported = grpo.credit(shifted, settings)
        lengths = torch.tensor([[len(a) for a in t.answers] for t in samples.trees])
        price = 0.5 * 0.1 * lengths
        in_reward = not grpo.kl_in_loss(settings)
        rewards = torch.tensor(SPREAD) - (price if in_reward else 0)
        expected = advantages.rloo(rewards) if method == "rloo" else advantages.group(rewards)
        assert torch.allclose(found, expected, atol=1e-3)
        assert reported["kl"] == pytest.approx(0.1 * float(lengths.float().mean()), abs=1e-3)
        charged[method, where] = in_reward
    assert charged == {("grpo", "usual"): False, ("grpo", "reward"): True, ("rloo", "usual"): True,
                       ("rloo", "loss"): False}


def test_unfinished_answers_follow_the_rule(lab):
    """Checklist 22."""
    _, _, samples, settings = prepare(lab, batch=3, normalize_std=False, no_eos_score=-4.0)
    finished = torch.ones(3, 4).bool()
    finished[0, 3] = False
    found, reported = grpo.credit(grpo.Samples(samples.trees, samples.old, samples.reference, torch.tensor(SPREAD),
                                               finished), settings)
    assert found[0].tolist() == pytest.approx([2.25, 1.25, -0.75, -2.75])  # 1, 0, -2 and -4 instead of 3
    assert reported["finished"] == pytest.approx(11 / 12)


# Losses

def expected_loss(base, samples, advantages_GK, settings, token_weight):
    """-sum_i sum_t w min(ratio A, clip(ratio) A) + kl k3, token by token from plain rows."""
    total = 0
    for g, tree in enumerate(samples.trees):
        old, reference = (x[g].split([len(a) for a in tree.answers]) for x in (samples.old, samples.reference))
        for k, answer in enumerate(tree.answers):
            new = plain(base, "policy", tree.prompt, answer)
            ratio = (new - old[k]).exp()
            a = advantages_GK[g, k]
            gain = torch.minimum(ratio * a, ratio.clamp(1 - settings.clip, 1 + settings.clip_high) * a)
            r = new - reference[k]
            price = settings.kl * ((-r).exp() - 1 + r)
            total = total - token_weight(len(answer)) * (gain - price).sum()
    return total


@pytest.mark.parametrize("average", ["tokens", "answers", "constant"])
@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_grpo_loss_and_gradient_are_those_of_the_formula(lab, average, layout):
    """Checklist 42: tokens alike (DAPO), answers alike (equation 3 of GRPO), or over a constant (dr_grpo: an answer's
    own length never divides)."""
    base, roles, samples, settings = prepare(lab, batch=3, moved=True, average=average, layout=layout, kl=0.3,
                                             clip_high=0.3)
    samples = rewarded(samples, SPREAD)
    advantages_GK, _ = grpo.credit(samples, settings)
    metrics = grpo.forward_backward(base, roles.learner, samples, advantages_GK, [0, 1, 2], settings)
    found = gradient(roles.learner)
    tokens = sum(len(a) for t in samples.trees for a in t.answers)
    weight = {"tokens": lambda n: 1 / tokens, "answers": lambda n: 1 / (12 * n), "constant": lambda n: 1 / (12 * 8)}
    want = expected_loss(base, samples, advantages_GK, settings, weight[average])
    want.backward()
    assert metrics["policy_loss"] + 0.3 * metrics["kl_loss"] == pytest.approx(float(want.detach()), abs=1e-4)
    expected = gradient(roles.learner)
    assert (found - expected).abs().max() < 2e-3 * expected.abs().max() and expected.abs().max() > 1e-3
    assert metrics["clip_fraction"] > 0 and metrics["ratio_max"] > 1.3


def test_dr_grpo_divides_by_neither_deviation_nor_length(lab):
    """Checklist 42: rewards ten times as large give a gradient ten times as large; the original's stays."""
    def grown(**changes):
        base, roles, samples, settings = prepare(lab, batch=3, kl=0.0, **changes)
        out = []
        for scale in (1.0, 10.0):
            scaled = rewarded(samples, [[scale * x for x in row] for row in SPREAD])
            grpo.forward_backward(base, roles.learner, scaled, grpo.credit(scaled, settings)[0], [0, 1, 2], settings)
            out.append(gradient(roles.learner))
        return out

    one, ten = grown(average="constant", normalize_std=False)
    assert torch.allclose(ten, 10 * one, rtol=1e-3, atol=1e-5 * float(ten.abs().max()))
    one, ten = grown(average="answers")
    assert (ten - one).abs().max() < 1e-3 * one.abs().max()


def test_rloo_gradient_is_reinforce_with_the_leave_one_out_baseline(lab):
    """At the policy that sampled: -mean over answers of A sum_t grad log pi, A worked out here from the others."""
    base, roles, samples, settings = prepare(lab, "rloo", batch=3, kl=0.0, old_logprobs="recompute")
    samples = rewarded(samples, SPREAD)
    advantages_GK, _ = grpo.credit(samples, settings)
    metrics = grpo.forward_backward(base, roles.learner, samples, advantages_GK, [0, 1, 2], settings)
    found = gradient(roles.learner)
    total = 0
    for g, tree in enumerate(samples.trees):
        for k, answer in enumerate(tree.answers):
            baseline = (sum(SPREAD[g]) - SPREAD[g][k]) / 3
            total = total - (SPREAD[g][k] - baseline) * plain(base, "policy", tree.prompt, answer).sum() / 12
    total.backward()
    expected = gradient(roles.learner)
    assert (found - expected).abs().max() < 2e-3 * expected.abs().max() and expected.abs().max() > 1e-3
    assert metrics["ratio_max"] == pytest.approx(1, abs=1e-5)


def test_rloo_clips_the_ratio_of_whole_answers(lab):
    base, roles, samples, settings = prepare(lab, "rloo", batch=3, kl=0.0, moved=True)
    samples = rewarded(samples, SPREAD)
    advantages_GK, _ = grpo.credit(samples, settings)
    metrics = grpo.forward_backward(base, roles.learner, samples, advantages_GK, [0, 1, 2], settings)
    loss = 0.0
    for g, tree in enumerate(samples.trees):
        for k, answer in enumerate(tree.answers):
            with torch.no_grad():
                new = float(plain(base, "policy", tree.prompt, answer).sum())
            ratio = math.exp(new - float(samples.old[g].split([len(a) for a in tree.answers])[k].sum()))
            a = float(advantages_GK[g, k])
            loss -= min(ratio * a, min(max(ratio, 0.8), 1.2) * a) / 12
    assert metrics["policy_loss"] == pytest.approx(loss, abs=1e-4) and metrics["clip_fraction"] > 0


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_groups_without_variance_give_no_gradient_and_are_not_computed(lab, monkeypatch, method):
    """Checklist 42: the gradient is that of the other groups, at the same share of the step."""
    base, roles, samples, settings = prepare(lab, method, batch=3, kl=0.0)
    flat = rewarded(samples, [SPREAD[0], [0.7] * 4, [0.2, 0.2, 0.2 + 1e-6, 0.2]])
    advantages_GK, reported = grpo.credit(flat, settings)
    assert reported["zero_variance"] == pytest.approx(2 / 3)
    seen = []
    build = grpo.build
    monkeypatch.setattr(grpo, "build", lambda trees, device: seen.extend(trees) or build(trees, device))
    metrics = grpo.forward_backward(base, roles.learner, flat, advantages_GK, [0, 1, 2], settings)
    skipping = gradient(roles.learner)
    assert seen == [samples.trees[0]] and metrics["ratio_max"] == pytest.approx(1, abs=1e-3)
    grpo.forward_backward(base, roles.learner, flat, advantages_GK, [1, 2], settings)
    assert not gradient(roles.learner).any()
    monkeypatch.setattr(grpo, "kl_in_loss", lambda settings: True)  # computes all of them; the price is 0
    grpo.forward_backward(base, roles.learner, grpo.Samples(flat.trees, flat.old, flat.old, flat.scores_GK,
                                                            flat.finished_GK), advantages_GK, [0, 1, 2], settings)
    assert len(seen) == 5 and (gradient(roles.learner) - skipping).abs().max() < 1e-6
    assert skipping.abs().max() > 1e-3


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_micro_batches_and_layouts_give_the_gradient_of_the_minibatch(lab, method):
    """Checklists 32 and 37. Log-probs are float32 whatever the base."""
    base, roles, samples, settings = prepare(lab, method, torch.float64, batch=3, moved=True, kl_in="loss")
    samples = rewarded(samples, SPREAD)
    advantages_GK, _ = grpo.credit(samples, settings)
    found = []
    for budget, layout in ((10_000, "tree"), (1, "tree"), (120, "tree"), (10_000, "padded")):
        roles.learner.budget = budget
        metrics = grpo.forward_backward(base, roles.learner, samples, advantages_GK, [2, 0, 1],
                                        settings.model_copy(update={"layout": layout}))
        found.append((gradient(roles.learner), metrics))
    for other, metrics in found[1:]:
        assert torch.allclose(other, found[0][0], atol=2e-6)
        assert metrics == pytest.approx(found[0][1], abs=1e-5)
    assert found[0][0].abs().max() > 1e-3


# Updates

@pytest.mark.parametrize("method", ["grpo", "rloo"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_without_learning_the_ratio_is_one_in_every_epoch(lab, method, temperature):
    """Checklists 14 and 29: with recomputed old log-probs up to rounding, with the sampler's within 1e-4 per token."""
    for old, tolerance in (("recompute", 2e-6), ("sampler", 1e-4 * (8 if method == "rloo" else 1))):
        base, roles, samples, settings = prepare(lab, method, temperature=temperature, old_logprobs=old, epochs=3)
        roles.learner.lr = 0.0
        before = {k: p.detach().clone() for k, p in roles.learner.parameters.items()}
        metrics, work = grpo.step(base, roles, [t.prompt for t in samples.trees], settings, 0)
        assert abs(metrics["ratio_max"] - 1) <= tolerance and metrics["approx_kl"] <= tolerance ** 2
        assert metrics["clip_fraction"] == 0 and work.tokens == sum(t.size for t in samples.trees) * (
            6 + (old == "recompute"))
        assert all(torch.equal(before[k], p) for k, p in roles.learner.parameters.items())


@pytest.mark.parametrize(("prompts", "parts", "steps"), [(6, 2, 2), (7, 4, 4), (3, 8, 3)])
def test_optimizer_steps_are_counted_and_groups_stay_whole(lab, prompts, parts, steps):
    """Checklist 30."""
    adapter = grpo.train(lab.workspace, lab.base(), settings := lab.prefer(
        "grpo", batch=prompts, minibatches=parts, updates=2, epochs=3, max_tokens=4, warmup=0.0))
    lines = lab.workspace.run(adapter.lineage["run"]).metrics()
    total = 2 * 3 * steps
    rates = [settings.lr * (total - i) / total for i in range(total)]
    assert [m["lr"] for m in lines] == pytest.approx([sum(rates[:total // 2]) / (total // 2),
                                                      sum(rates[total // 2:]) / (total // 2)])
    rows = list(grpo.minibatches(prompts, parts, 3, 0))
    for epoch in range(3):
        mine = rows[epoch * steps:(epoch + 1) * steps]
        assert sorted(g for part in mine for g in part) == list(range(prompts))
        assert max(map(len, mine)) - min(map(len, mine)) <= 1
    assert len(rows) == 3 * steps and rows != list(grpo.minibatches(prompts, parts, 3, 1))


# Runs

@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_the_same_seed_gives_the_same_policy_bit_for_bit(lab, method):
    """Checklist 35."""
    found = [weights(grpo.train(lab.workspace, lab.base(), lab.prefer(method, seed=s, updates=2))) for s in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_bad_input_is_refused(lab):
    base = lab.base()
    base.hash = "another"
    with pytest.raises(ModelError, match="share one base"):
        grpo.train(lab.workspace, base, lab.prefer("grpo"))
    with pytest.raises(UserError, match="demos holds demonstrations, not prompts"):
        grpo.train(lab.workspace, lab.base(), lab.prefer("rloo", prompts="demos"))
    with pytest.raises(ModelError, match="no scalar head"):
        grpo.train(lab.workspace, lab.base(), lab.prefer("grpo", reward="sft"))
    with pytest.raises(UserError, match="no prompt leaves room"):
        grpo.train(lab.workspace, lab.base(), lab.prefer("grpo", max_tokens=256))


def test_a_monitor_stops_it_and_what_was_learned_is_published(lab):
    class Watch(Monitor):
        def observe(self, step, metrics, view):
            return Word(stop="that will do") if step == 2 else Word()

    adapter = grpo.train(lab.workspace, lab.base(), lab.prefer("grpo"), monitor=Watch())
    run = lab.workspace.run(adapter.lineage["run"])
    assert len(run.metrics()) == 2 and run.summary["stopped_by"] == "that will do" and run.status == "finished"


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_the_learned_reward_rises_and_kl_holds_it_back(lab, method):
    """Checklist 40: rankings made the reward model that is climbed here."""
    last = {}
    for kl in (0.02, 2.0):
        adapter = grpo.train(lab.workspace, lab.base(), lab.prefer(
            method, updates=8, batch=12, samples=6, lr=1e-2, kl=kl, warmup=0.0, checkpoint_every=100))
        lines = lab.workspace.run(adapter.lineage["run"]).metrics()
        last[kl] = lines[-1]
        if kl == 0.02:
            assert lines[-1]["reward"] > lines[0]["reward"] + 0.6
            assert adapter.lineage["parents"] == {"policy": "sft@1", "reward": "likes-a@1"}
    assert last[2.0]["kl"] < 0.6 * last[0.02]["kl"]


def test_groups_that_teach_nothing_are_no_work(lab, monkeypatch):
    """Two of three groups are alike, and KL costs nothing: one is learned from, in each of two passes."""
    base, roles, samples, settings = prepare(lab, batch=3, kl=0.0, epochs=2, minibatches=1)
    flat = rewarded(samples, [SPREAD[0], [0.7] * 4, [0.2] * 4])
    monkeypatch.setattr(grpo, "collect", lambda *a: flat)
    _, work = grpo.step(base, roles, [], settings, 0)
    assert work.trained == 2 * flat.trees[0].size
    assert work.trained_logits == 2 * sum(map(len, flat.trees[0].answers))
    assert work.forward == 2 * sum(t.size for t in flat.trees)
