"""DPO against plain forward passes: its loss, what it reads, that nothing depends on layout or micro-batch, and that it
learns."""

import itertools
import math

import pytest
import tiny
import torch
from lab import ask, ranked_groups, weights

from tunesmith.errors import SettingsError, UserError
from tunesmith.model import adapters
from tunesmith.records import Answer, AnswerGroup, Message, Pair, Prompt
from tunesmith.settings import PreferSettings
from tunesmith.train import dpo
from tunesmith.train.learner import Learner


def group(texts, tiers=(), i=0, **kw):
    return AnswerGroup(Prompt(ask(i)), tuple(Answer(t) for t in texts), tiers=tiers, **kw)


FOUR = group(("a", "bb", "ccc", "dddd"), ((1,), (3,), (0,), (2,)), 1)
TWO = group(("ab", "cdab"), ((0,), (1,)), 2)
SOFT = group(("ab", "cd", "d"), i=3, pairs=(Pair(0, 1, 0.8, 3.0), Pair(2, 0, 0.6, 1.0)), weight=2.0)
TIED = group(("ab", "cd"), i=4, pairs=(Pair(0, 1, 0.5),))


def prepare(lab, groups, dtype=None, moved=True, **changes):
    """Items with their reference, and a policy that has `moved` away from it."""
    base = lab.base(dtype)
    settings = lab.prefer("dpo", **changes)
    adapters.load(base, "policy", lab.workspace.adapter("sft").path)
    items = dpo.reference(base, dpo.encode(base, groups, 256)[0], settings)
    adapters.copy(base, "policy", "reference")
    if moved:
        tiny.shake(base, "policy", size=0.1)
    return base, Learner(adapters.trainable(base, "policy"), 10, 1e-3), items, settings


def plain_logprob(base, slot, g, k):
    """log pi(answer k | prompt), one unpadded forward pass, no gradient turned off."""
    prompt, answer = base.chat.prompt(g.prompt.messages), base.chat.answer(g.answers[k].text)
    with adapters.active(base, slot):
        logp = base.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    return logp[range(len(prompt) - 1, len(prompt) + len(answer) - 1), answer].sum()


def plain_ratio(base, g, k):
    with torch.no_grad():
        reference = plain_logprob(base, "reference", g, k)
    return plain_logprob(base, "policy", g, k) - reference


def by_hand(base, groups, pair_loss):
    """Mean over groups (by weight) of the weighted mean of `pair_loss(log-ratio gap, p)` over the group's pairs."""
    total = 0
    for g in groups:
        ratio = [plain_ratio(base, g, k) for k in range(len(g.answers))]
        level = {i: t for t, tier in enumerate(g.tiers) for i in tier}
        found = g.pairs or [Pair(i, j) for i, j in itertools.permutations(range(len(ratio)), 2) if level[i] < level[j]]
        terms = [q.weight * pair_loss(ratio[q.better] - ratio[q.worse], q.p) for q in found]
        total = total + g.weight * sum(terms) / sum(q.weight for q in found)
    return total / sum(g.weight for g in groups)


def gradient(learner):
    found = torch.cat([p.grad.flatten() for p in learner.parameters.values()])
    learner.optimizer.zero_grad()
    return found


def log_sigmoid(x):
    return -torch.log1p(torch.exp(-x))


VARIANTS = {
    "sigmoid": ({}, lambda h, p: -(p * log_sigmoid(0.1 * h) + (1 - p) * log_sigmoid(-0.1 * h))),
    "conservative": ({"label_smoothing": 0.2}, lambda h, p: -((0.2 + 0.6 * p) * log_sigmoid(0.1 * h) +
                                                             (0.8 - 0.6 * p) * log_sigmoid(-0.1 * h))),
    "robust": ({"label_smoothing": 0.2, "loss": "robust"},
               lambda h, p: -((p - 0.2) * log_sigmoid(0.1 * h) - (p - 0.8) * log_sigmoid(-0.1 * h)) / 0.6),
    "ipo": ({"loss": "ipo"}, lambda h, p: p * (h - 5) ** 2 + (1 - p) * (h + 5) ** 2),
}


@pytest.mark.parametrize("layout", ["tree", "padded"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradient_are_those_of_the_formula(lab, variant, layout):
    """Autograd through plain rows of the transformers model; a ranking of four is the mean over its six pairs."""
    changes, pair_loss = VARIANTS[variant]
    groups = [FOUR, TWO, SOFT]
    base, learner, items, settings = prepare(lab, groups, layout=layout, **changes)
    metrics = dpo.forward_backward(base, learner, items, settings)
    found = gradient(learner)
    want = by_hand(base, groups, pair_loss)
    want.backward()
    assert metrics["loss"] == pytest.approx(float(want.detach()), abs=2e-4 if variant == "ipo" else 2e-5)
    expected = gradient(learner)
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max() and expected.abs().max() > 1e-3


@pytest.mark.parametrize("groups", [[FOUR, TWO], [TIED, TWO]])
def test_at_the_start_the_loss_is_ln_2_and_every_margin_0(lab, groups):
    """Checklist 41: with pairs tied by their labels too; half of the equal rewards are right."""
    base, learner, items, settings = prepare(lab, groups, moved=False)
    metrics = dpo.forward_backward(base, learner, items, settings)
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert abs(metrics["margin"]) < 1e-6 and abs(metrics["chosen_reward"]) < 1e-6
    whole = dpo.assess(base, items, settings)
    assert whole["pairs"] == sum(1 for i in items for p in i.pairs if p.p != 0.5)
    assert whole["accuracy"]["value"] == 0.5


def test_a_tied_pair_teaches_nothing_at_the_start_and_pulls_together_later(lab):
    """Checklist 41."""
    base, learner, items, settings = prepare(lab, [TIED], moved=False)
    assert "accuracy" not in dpo.forward_backward(base, learner, items, settings)
    assert gradient(learner).abs().max() < 1e-6
    tiny.shake(base, "policy", size=0.1)
    gaps = []
    for _ in range(2):
        with torch.no_grad():
            gaps.append(abs(float(plain_ratio(base, TIED, 0) - plain_ratio(base, TIED, 1))))
        dpo.forward_backward(base, learner, items, settings)
        learner.step()
    assert gaps[1] < gaps[0]


def test_implicit_rewards_read_answer_tokens_only(lab, monkeypatch):
    """Checklist 41: implicit rewards are unaffected by how likely the prompt's own tokens are."""
    base, learner, items, settings = prepare(lab, [TWO])
    read = []
    original = dpo.logprobs.from_hidden
    monkeypatch.setattr(dpo.logprobs, "from_hidden", lambda states, head, target, *rest: read.append(
        target.tolist()) or original(states, head, target, *rest))
    metrics = dpo.forward_backward(base, learner, items, settings)
    assert read == [[t for a in items[0].tree.answers for t in a]]
    better, worse = (0.1 * float(plain_ratio(base, TWO, k).detach()) for k in range(2))
    assert metrics["chosen_reward"] == pytest.approx(better, abs=1e-5)
    assert metrics["margin"] == pytest.approx(better - worse, abs=1e-5)


def test_per_token_rewards_divide_by_the_answers_lengths(lab):
    base, learner, items, settings = prepare(lab, [TWO], per_token=True, beta=2.0)
    metrics = dpo.forward_backward(base, learner, items, settings)
    better, worse = (float(plain_ratio(base, TWO, k).detach()) / len(items[0].tree.answers[k]) for k in range(2))
    assert metrics["margin"] == pytest.approx(2 * (better - worse), abs=1e-4)
    assert metrics["loss"] == pytest.approx(math.log1p(math.exp(-2 * (better - worse))), abs=1e-5)


def test_without_a_reference_rewards_are_the_policys_own(lab):
    base, learner, items, settings = prepare(lab, [TWO], reference_free=True)
    assert items[0].reference == (0.0, 0.0)
    with torch.no_grad():
        better, worse = (float(plain_logprob(base, "policy", TWO, k)) for k in range(2))
    assert dpo.forward_backward(base, learner, items, settings)["margin"] == pytest.approx(
        0.1 * (better - worse), abs=1e-4)


def test_the_sft_term_is_the_nll_per_token_of_the_best_answer(lab):
    """RPO: alpha x NLL / length of the chosen answer; of a ranking the first, of a tie nobody."""
    groups = [FOUR, TWO, TIED]
    base, learner, items, settings = prepare(lab, groups, sft_coef=0.7)
    plainly = settings.model_copy(update={"sft_coef": 0.0})
    metrics = dpo.forward_backward(base, learner, items, settings)
    found = gradient(learner)
    dpo.forward_backward(base, learner, items, plainly)
    found = found - gradient(learner)
    nll = sum(-plain_logprob(base, "policy", g, k) / (len(g.answers[k].text) + 1) for g, k in ((FOUR, 1), (TWO, 0))) / 3
    (0.7 * nll).backward()
    assert metrics["nll"] == pytest.approx(float(nll.detach()), abs=1e-4)
    expected = gradient(learner)
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
    assert dpo.best(items[2]) == set()


def test_micro_batches_and_layouts_give_the_gradient_of_one_big_batch(lab):
    """Checklists 32 and 37. Log-probs are float32 whatever the base."""
    base, learner, items, settings = prepare(lab, [FOUR, TWO, SOFT, TWO], torch.float64, sft_coef=0.1)
    found = []
    for budget, layout in ((10_000, "tree"), (1, "tree"), (60, "tree"), (10_000, "padded")):
        learner.budget = budget
        metrics = dpo.forward_backward(base, learner, items, settings.model_copy(update={"layout": layout}))
        found.append((gradient(learner), metrics))
    for other, metrics in found[1:]:
        assert (other - found[0][0]).abs().max() < 1e-6
        assert metrics == pytest.approx(found[0][1], abs=1e-5)
    assert found[0][0].abs().max() > 1e-3


def test_encode_counts_what_it_leaves_out(lab):
    """Checklist 5."""
    base = lab.base()
    thumb = group(("abc",), i=5, labels=(1.0,))
    long = group(("x" * 300, "y"), ((0,), (1,)))
    items, skipped = dpo.encode(base, [TWO, thumb, long, group(("a", "b"))], 256)
    assert len(items) == 1 and skipped == {"too long": 1, "no preference in it": 1, "a thumb, no comparison": 1}
    with pytest.raises(UserError, match="--method kto"):
        dpo.encode(base, [thumb], 256)
    with pytest.raises(UserError, match="no comparison is left"):
        dpo.encode(base, [long], 256)


@pytest.mark.parametrize(("changes", "says"), [
    ({"clip": 0.3}, "--clip is for grpo and rloo, not for --method dpo"),
    ({"desirable_weight": 2.0}, "--desirable-weight is for kto"),
    ({"comparisons": ""}, "--method dpo needs --comparisons"),
    ({"loss": "ipo", "label_smoothing": 0.1}, "not for ipo"),
    ({"method": "grpo"}, "is for dpo and kto, not for --method grpo"),
    ({"method": "rloo", "comparisons": "", "reward": "r", "prompts": "q", "average": "answers"}, "for grpo, not"),
    ({"method": "grpo", "comparisons": "", "reward": "r"}, "needs --prompts"),
    ({"method": "grpo", "comparisons": "", "reward": "r", "prompts": "q", "epochs": 1.5}, "whole passes"),
    ({"method": "kto", "loss": "ipo"}, "--loss is for dpo, not for --method kto"),
])
def test_options_of_another_method_are_refused(changes, says):
    with pytest.raises(SettingsError, match=says):
        PreferSettings(**{**dict(method="dpo", policy="p", name="n", comparisons="c"), **changes})


def test_the_same_seed_gives_the_same_policy_bit_for_bit(lab):
    """Checklist 35."""
    found = [weights(dpo.train(lab.workspace, lab.base(), lab.prefer("dpo", seed=s), lab.groups)) for s in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_rankings_teach_it_which_answers_are_better(lab):
    """Checklist 40: more of the letter "a" was ranked higher; held-out pairs go from a coin's toss to most of them."""
    base = lab.base()
    adapter = dpo.train(lab.workspace, base, lab.prefer("dpo", batch=16, epochs=6, lr=1e-2, held_out=0.2),
                        ranked_groups(160, seed=11))
    run = lab.workspace.run(adapter.lineage["run"])
    held = run.summary["held_out"]
    assert held["pairs"] > 40 and held["accuracy"]["low"] > 0.7 and held["margin"] > 0
    assert run.metrics()[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert adapter.lineage["parents"] == {"policy": "sft@1"} and adapter.role == "policy"
    a_prompt = Prompt((Message("user", "write 999"),))
    adapters.load(base, "reference", lab.workspace.adapter("sft").path)
    good, bad = AnswerGroup(a_prompt, (Answer("aaaa"),)), AnswerGroup(a_prompt, (Answer("dbcd"),))
    with torch.no_grad():
        assert float(plain_ratio(base, good, 0)) > float(plain_ratio(base, bad, 0)) + 1


def test_figures_of_a_soft_pair_are_those_of_the_answer_that_it_prefers(lab):
    """P(0 over 1) = 0.2 says the same as P(1 over 0) = 0.8."""
    found = []
    for pair in (Pair(0, 1, 0.2), Pair(1, 0, 0.8)):
        base, learner, items, settings = prepare(lab, [group(("ab", "cd"), i=3, pairs=(pair,))])
        found.append({**dpo.forward_backward(base, learner, items, settings),
                      "held-out": dpo.assess(base, items, settings)["margin"]})
    assert found[0] == pytest.approx(found[1], abs=1e-6) and abs(found[0]["margin"]) > 1e-3
    assert found[0]["margin"] == pytest.approx(found[0]["held-out"], abs=1e-5)
