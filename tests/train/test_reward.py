"""Reward modelling: the loss by hand, what a batch may hold, and what noisy labelers allow."""

import math
import random

import numpy as np
import pytest
import tiny
import torch
from lab import ask, letters, ranked_groups, weights

from tunesmith.contracts import Monitor, Word
from tunesmith.errors import DataError, SettingsError, UserError
from tunesmith.feedback.groups import pairs
from tunesmith.model import adapters, heads
from tunesmith.model.scorer import RewardModel
from tunesmith.records import Answer, AnswerGroup, Pair, Prompt
from tunesmith.settings import RewardSettings
from tunesmith.train import reward
from tunesmith.train.learner import Learner


def group(texts, tiers=(), i=0, **kw):
    return AnswerGroup(Prompt(ask(i)), tuple(Answer(t) for t in texts), tiers=tiers, **kw)


def prepare(lab, dtype=None):
    base = lab.base(dtype)
    adapters.attach(base, "reward", adapters.Method(rank=4, alpha=8), 0)
    tiny.shake(base, "reward", size=0.1)
    head = heads.ScalarHead(base.width, torch.Generator().manual_seed(0))
    if dtype:
        head.double()
        head.each = lambda h: head.linear(h)  # a module would not hide the method
    weights = {**adapters.trainable(base, "reward"), **dict(head.linear.named_parameters("head"))}
    return base, head, Learner(weights, 10, 1e-3)


def gradient(learner):
    found = torch.cat([p.grad.flatten() for p in learner.parameters.values()])
    learner.optimizer.zero_grad()
    return found


def plain_scores(base, head, g):
    """Each answer's score from a forward pass of its own."""
    out = []
    for a in g.answers:
        tokens = [*base.chat.prompt(g.prompt.messages), *base.chat.answer(a.text)]
        with adapters.active(base, "reward"), torch.no_grad():
            states = base.model(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1]
            out.append(float(head(states[0, -1])))
    return out


def softplus(x):
    return math.log1p(math.exp(x))


FOUR = group(("a", "bb", "ccc", "dddd"), ((1,), (0, 3), (2,)), 1)
TWO = group(("ab", "cd"), ((0,), (1,)), 2)
NINE = group(tuple("abcdabcda"[:k + 1] for k in range(9)), tuple((k,) for k in range(9)), 3)
THUMB = group(("abc",), (), 4, labels=(1.0,))
DOWN = group(("ddd",), (), 5, labels=(0.0,))


def by_hand(base, head, groups):
    """Mean over prompts of: the mean over strict pairs of -log sigma (ties are dropped), or a thumb's cross-entropy."""
    total = 0.0
    for g in groups:
        r = plain_scores(base, head, g)
        if g.labels:
            total += sum(softplus(-x if label else x) for x, label in zip(r, g.labels)) / len(r)
            continue
        level = {i: t for t, tier in enumerate(g.tiers) for i in tier}
        terms = [softplus(r[j] - r[i]) for i in range(len(r)) for j in range(len(r)) if level[i] < level[j]]
        total += sum(terms) / len(terms)
    return total / len(groups)


@pytest.mark.parametrize("groups", [[TWO], [FOUR], [NINE, FOUR, TWO], [THUMB, DOWN], [THUMB, FOUR, DOWN, TWO],
                                    [FOUR, THUMB]])
@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_the_loss_is_the_mean_over_prompts_of_the_mean_over_pairs(lab, groups, layout):
    """Checklist 9: nine answers outweigh neither four nor two; thumbs and rankings may share a batch."""
    base, head, learner = prepare(lab)
    items, _ = reward.encode(base, groups, 256)
    assert len(items) == len(groups)
    metrics = reward.forward_backward(base, head, learner, items, lab.reward(center=0.0, layout=layout))
    assert metrics["loss"] == pytest.approx(by_hand(base, head, groups), abs=1e-5)


def test_weights_of_groups_and_of_soft_pairs_count(lab):
    """Checklist 9: a group's weight is its share of the step, a pair's its share of the group."""
    base, head, learner = prepare(lab)
    soft = group(("a", "bb", "c"), i=6, pairs=(Pair(0, 1, 0.8, 3.0), Pair(2, 0, 0.6, 1.0)), weight=2.0)
    r, (x, y) = plain_scores(base, head, soft), plain_scores(base, head, TWO)
    first = 0.8 * softplus(r[1] - r[0]) + 0.2 * softplus(r[0] - r[1])
    second = 0.6 * softplus(r[0] - r[2]) + 0.4 * softplus(r[2] - r[0])
    want = (2 * (0.75 * first + 0.25 * second) + softplus(y - x)) / 3
    items, _ = reward.encode(base, [soft, TWO], 256)
    assert reward.forward_backward(base, head, learner, items, lab.reward(center=0.0))["loss"] == pytest.approx(
        want, abs=1e-5)


@pytest.mark.parametrize(("options", "target", "apart"), [
    ({"label_smoothing": 0.1}, 0.9, 0), ({"label_smoothing": 0.1, "loss": "robust"}, 1.125, 0),
    ({"margin": 0.5}, 1, 0.5)])
def test_the_loss_allows_for_wrong_labels_and_margins(lab, options, target, apart):
    base, head, learner = prepare(lab)
    items, _ = reward.encode(base, [TWO], 512)
    settings = RewardSettings(comparisons="c", name="r", center=0, **options)
    better, worse = plain_scores(base, head, TWO)
    got = reward.forward_backward(base, head, learner, items, settings)["loss"]
    d = better - worse - apart
    assert got == pytest.approx(target * softplus(-d) + (1 - target) * softplus(d), abs=1e-5)


def test_label_smoothing_is_a_share_or_auto():
    def load(**flags):
        return RewardSettings.load({"comparisons": "c", "name": "r", **flags})

    assert load(label_smoothing="auto").label_smoothing == "auto" and load(label_smoothing="0.1").label_smoothing == 0.1
    for wrong in ({"label_smoothing": "0.5"}, {"label_smoothing": "some"},
                  {"label_smoothing": "0.1", "loss": "plackett-luce"}):
        with pytest.raises(SettingsError, match=r"label.smoothing"):
            load(**wrong)


def test_plackett_luce_by_hand_and_only_with_tiers(lab):
    base, head, learner = prepare(lab)
    ranked = group(("a", "bb", "ccc"), ((2,), (0,), (1,)), 7)
    r = plain_scores(base, head, ranked)
    want = -(r[2] - math.log(sum(map(math.exp, r)))) - (r[0] - math.log(math.exp(r[0]) + math.exp(r[1])))
    settings = lab.reward(center=0.0, loss="plackett-luce")
    items, _ = reward.encode(base, [ranked], 256)
    assert reward.forward_backward(base, head, learner, items, settings)["loss"] == pytest.approx(want, abs=1e-5)
    items, _ = reward.encode(base, [group(("a", "b"), i=8, pairs=(Pair(0, 1, 0.7),))], 256)
    with pytest.raises(DataError, match="needs tiers"):
        reward.forward_backward(base, head, learner, items, settings)


@pytest.mark.parametrize("loss", ["pairs", "plackett-luce"])
def test_centring_pulls_scores_to_zero(lab, loss):
    """The penalty's gradient is what it adds: center x the mean square of the batch's scores."""
    base, head, learner = prepare(lab, torch.float64)
    items, _ = reward.encode(base, [FOUR, TWO], 256)
    found = []
    for center in (0.0, 0.5):
        reward.forward_backward(base, head, learner, items, lab.reward(center=center, loss=loss))
        found.append(gradient(learner))
    scores = []
    with adapters.active(base, "reward"):
        for g in (FOUR, TWO):
            for a in g.answers:
                tokens = [*base.chat.prompt(g.prompt.messages), *base.chat.answer(a.text)]
                scores.append(head(base.trunk(input_ids=torch.tensor([tokens])).last_hidden_state[0, -1]))
        (0.5 * torch.stack(scores).square().mean()).backward()
    assert torch.allclose(found[1] - found[0], gradient(learner), atol=1e-6)


def test_micro_batches_give_the_gradient_of_one_big_batch(lab, monkeypatch):
    """Checklist 32, fp64 1e-10, with every kind of group in the batch."""
    base, head, learner = prepare(lab, torch.float64)
    items, _ = reward.encode(base, [FOUR, THUMB, TWO, NINE, DOWN], 256)
    whole = reward.forward_backward(base, head, learner, items, lab.reward())
    want = gradient(learner)
    for budget in (1, 150):
        learner.budget = budget
        parts = reward.forward_backward(base, head, learner, items, lab.reward())
        assert (gradient(learner) - want).abs().max() < 1e-10
        assert parts == pytest.approx(whole, abs=1e-6)
    assert want.abs().max() > 1e-3


def test_every_completion_is_computed_once(lab, monkeypatch):
    """Checklist 9: one forward per completion, and the prompt once for all of them."""
    base, head, learner = prepare(lab)
    items, _ = reward.encode(base, [NINE], 256)
    reward.forward_backward(base, head, learner, items, lab.reward())  # the first batch also tries the base's layouts
    computed = []
    plain = base.trunk
    monkeypatch.setattr(base, "trunk", lambda **kw: computed.append(kw["input_ids"].numel()) or plain(**kw))
    reward.forward_backward(base, head, learner, items, lab.reward())
    assert sum(computed) == len(base.chat.prompt(NINE.prompt.messages)) + sum(
        len(base.chat.answer(a.text)) for a in NINE.answers)


def test_encode_counts_what_it_leaves_out(lab):
    """Checklist 5."""
    base = lab.base()
    groups = [TWO, group(("x" * 300, "y"), ((0,), (1,))), group(("a", "b")), group(("a",), labels=(1.0,), weight=0.0)]
    items, skipped = reward.encode(base, groups, 256)
    assert len(items) == 1 and skipped == {"no preference in it": 2, "too long": 1}
    with pytest.raises(UserError, match="no comparison is left"):
        reward.encode(base, groups[1:], 256)
    with pytest.raises(DataError, match="between 0"):
        reward.encode(base, [group(("a",), labels=(4.0,))], 256)


def test_scores_are_normalised_over_the_training_answers_and_stored(lab):
    """Checklist 8: mean 0, standard deviation 1 after loading, too."""
    adapter = reward.train(lab.workspace, lab.base(), lab.reward(held_out=0.0), lab.groups)
    model = RewardModel.load(lab.base(), adapter.path)
    items, _ = reward.encode(model.base, lab.groups, 256)
    scores = model.score_trees([i.tree for i in items]).numpy()
    assert abs(scores.mean()) < 1e-4 and scores.std() == pytest.approx(1, abs=1e-3)
    assert float(model.head.gain) != 1


def test_the_head_is_trained_and_one_epoch_is_the_default(lab):
    """Checklists 11 and 12: more than one pass overfits."""
    assert RewardSettings(comparisons="x", name="y").epochs == 1.0
    base, head, learner = prepare(lab)
    items, _ = reward.encode(base, [FOUR, TWO], 256)
    before = {k: p.detach().clone() for k, p in learner.parameters.items()}
    reward.forward_backward(base, head, learner, items, lab.reward())
    learner.step()
    assert "head.weight" in before and all(not torch.equal(before[k], p) for k, p in learner.parameters.items()
                                           if k != "head.bias")


def test_the_same_seed_gives_the_same_reward_model_bit_for_bit(lab):
    """Checklist 35, head included."""
    found = [weights(reward.train(lab.workspace, lab.base(), lab.reward(seed=s), lab.groups)) for s in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_a_prompt_is_wholly_held_out_or_not_at_all(lab):
    base = lab.base()
    rng = random.Random(0)
    groups = [group((letters(rng), letters(rng) + "x"), ((0,), (1,)), i) for i in range(80) for _ in range(2)]
    items, _ = reward.encode(base, groups, 256)
    train, held = reward.divide(items, 0.25)
    assert not {i.group.prompt.id for i in train} & {i.group.prompt.id for i in held}
    assert len(train) + len(held) == 160 and 0.1 < len(held) / 160 < 0.4
    fewer, _ = reward.divide(items[:40], 0.25)
    assert [i for i in train if i in items[:40]] == fewer


@pytest.mark.parametrize("flip", [0.0, 0.25])
def test_noisy_labelers_bound_the_accuracy_and_it_is_reached(lab, flip):
    """Checklist 40: held-out pairs judged with the same flip rate allow 1 - flip; without flips nearly 1.

    The model never sees the rule (the larger share of "a" wins), only verdicts, of which `flip` are wrong.
    """
    rng = random.Random(5)
    truths = [g for g in ranked_groups(800, seed=9, k=2) if len(g.tiers) == 2]
    judged = [group([a.text for a in g.answers], g.tiers[::-1] if rng.random() < flip else g.tiers, 1000 + i)
              for i, g in enumerate(truths)]
    adapter = reward.train(lab.workspace, lab.base(),
                           lab.reward(epochs=1, batch=16, lr=2e-2, held_out=0.3, checkpoint_every=100), judged)
    held = lab.workspace.run(adapter.lineage["run"]).summary["held_out"]
    spread = math.sqrt((1 - flip) * max(flip, 0.02) / held["pairs"])
    assert held["pairs"] > 80
    assert 1 - flip - 3 * spread - 0.03 < held["accuracy"]["value"] <= 1 - flip + 3 * spread
    model = RewardModel.load(lab.base(), adapter.path)
    right = [model.score(g.prompt, [a.text for a in g.answers]) for g in truths]
    winners = np.mean([(s[0] > s[1]) == (pairs(g)[0].better == 0) for s, g in zip(right, truths)])
    assert winners > (0.96 if flip == 0 else 0.85)


def test_calibration_and_accuracy_are_reported_for_both_sides(lab):
    adapter = reward.train(lab.workspace, lab.base(), lab.reward(), lab.groups)
    summary = lab.workspace.run(adapter.lineage["run"]).summary
    for side in ("train", "held_out"):
        assert {"pairs", "accuracy", "calibration", "calibration_error", "brier"} <= summary[side].keys()


def marked(marks):
    """A thumb for each of some one-answer groups, on prompts of their own."""
    return [group((f"a{'b' * i}",), i=100 + i, labels=(m,)) for i, m in enumerate(marks)]


def test_thumbs_of_one_kind_have_no_auc_and_the_model_is_published(lab):
    """A NaN in the lineage once made the workspace impossible to open."""
    adapter = reward.train(lab.workspace, lab.base(), lab.reward(held_out=0.0, epochs=1), marked([1.0] * 8))
    assert adapter.lineage["train"] == {"labels": 8} and adapter.lineage["held_out"] == {}
    lab.workspace.close()
    lab.workspace = type(lab.workspace).open(lab.root)
    assert lab.workspace.adapter("rm").lineage == adapter.lineage


def test_a_part_of_ties_only_is_not_taken_for_thumbs(lab):
    """Two labelers who disagree leave pairs with p = 0.5; thumbs beside them are measured by their own scores."""
    base, head, _ = prepare(lab)
    model = RewardModel(base, "reward", head)
    tied = group(("ab", "cd"), i=1, pairs=(Pair(0, 1, 0.5),))
    assert reward.assess(model, reward.encode(base, [tied], 256)[0]) == {"labels": 0}
    thumbs = marked([1.0, 0.0, 1.0])
    mixed, alone = (reward.assess(model, reward.encode(base, groups, 256)[0]) for groups in
                    ([thumbs[0], tied, *thumbs[1:]], thumbs))
    assert mixed == alone and mixed["labels"] == 3 and 0 <= mixed["auc"] <= 1


def test_ratings_of_a_tie_are_no_thumbs(lab):
    """A labeler ties both answers but rates them 6 and 5: no preference, and the rest of the set is learned from."""
    base = lab.base()
    rated = [group(("ab", "cd"), tiers, n, labels=labels) for n, (tiers, labels) in enumerate(
        [(((1,), (0,)), (2.0, 5.0)), (((0, 1),), (6.0, 5.0)), (((0, 1),), (0.0, 0.0))])]
    items, skipped = reward.encode(base, rated, 256)
    assert [(i.group.labels, bool(i.pairs)) for i in items] == [((2.0, 5.0), True), ((0.0, 0.0), False)]
    assert skipped == {"no preference in it": 1}


def test_each_head_learns_its_own_bootstrap_sample(lab):
    """The gradient of head h is that of its own loss over items weighed by its draws; the adapter's is their mean."""
    base, _, _ = prepare(lab)
    head = heads.ScalarHead(base.width, torch.Generator().manual_seed(0), heads=2)
    learner = Learner(dict(head.linear.named_parameters("head")), 10, 1e-3)
    items, _ = reward.encode(base, [FOUR, TWO, NINE, THUMB], 256)
    drawn = reward.bootstrapped(items, 2, seed=5)
    assert all(len(i.draws) == 2 and min(i.draws) > 0 for i in drawn)
    assert len({i.draws for i in drawn}) == 4 and reward.bootstrapped(items, 2, seed=5) == drawn
    assert reward.bootstrapped(items, 1, seed=5) == items
    reward.forward_backward(base, head, learner, drawn, lab.reward(center=0.0, heads=2))
    both = learner.parameters["head.weight"].grad.clone()
    for h in range(2):
        one = heads.ScalarHead(base.width, heads=1)
        one.load_state_dict({**head.state_dict(), "linear.weight": head.linear.weight[h:h + 1],
                             "linear.bias": head.linear.bias[h:h + 1], "gain": torch.ones(()), "bias": torch.zeros(())})
        alone = Learner(dict(one.linear.named_parameters("head")), 10, 1e-3)
        mine = [reward.Item(i.tree, i.group, i.pairs, draws=(i.draws[h],)) for i in drawn]
        reward.forward_backward(base, one, alone, mine, lab.reward(center=0.0))
        assert torch.allclose(alone.parameters["head.weight"].grad[0] / 2, both[h], atol=1e-6)


def test_an_ensemble_is_published_scores_and_goes_through_ppo(lab):
    from tunesmith.train import grpo, ppo

    made = reward.train(lab.workspace, lab.base(), lab.reward(heads=3, epochs=2, name="many"), lab.groups)
    base = lab.base()
    model = RewardModel.load(base, made.path)
    assert model.head.heads == 3 and made.lineage["held_out"]["disagreement"] > 0
    prompt, texts = Prompt(ask(1)), ["aaaa", "abcd", "dddd"]
    assert model.score(prompt, texts) == sorted(model.score(prompt, texts), reverse=True)
    lines = {}
    for pessimism in (0.0, 3.0):
        adapter = ppo.train(lab.workspace, lab.base(), lab.ppo(reward="many", updates=2, pessimism=pessimism))
        lines[pessimism] = lab.workspace.run(adapter.lineage["run"]).metrics()[0]
    assert lines[0.0]["disagreement"] == lines[3.0]["disagreement"] > 0
    seen = []

    class Watch(Monitor):
        def observe(self, step, metrics, view):
            seen.append((metrics.get("disagreement"), view.spreads))
            return Word()

    for trainer, settings in ((ppo, lab.ppo(reward="many", updates=1)), (grpo, lab.prefer("grpo", reward="many",
                                                                                          updates=1))):
        trainer.train(lab.workspace, lab.base(), settings, monitor=Watch())
    for mean, spreads in seen[1::2]:
        assert sum(map(sum, spreads)) / sum(map(len, spreads)) == pytest.approx(mean, abs=1e-6)
    assert lines[3.0]["reward"] == pytest.approx(lines[0.0]["reward"] - 3 * lines[0.0]["disagreement"], abs=1e-5)
    adapter = grpo.train(lab.workspace, lab.base(), lab.prefer("grpo", reward="many", updates=1, pessimism=1.0))
    assert lab.workspace.run(adapter.lineage["run"]).metrics()[0]["disagreement"] > 0
    with pytest.raises(SettingsError, match="one head"):
        ppo.train(lab.workspace, lab.base(), lab.ppo(pessimism=1.0))
