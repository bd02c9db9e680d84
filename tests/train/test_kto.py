"""KTO against plain forward passes: who is good or bad, the reference point, the loss, and that it learns."""

import pytest
import tiny
import torch
from lab import ask, ranked_groups, weights

from tunesmith.errors import DataError, UserError
from tunesmith.model import adapters
from tunesmith.records import Answer, AnswerGroup, Pair, Prompt
from tunesmith.train import kto, reward
from tunesmith.train.learner import Learner


def group(texts, tiers=(), i=0, **kw):
    return AnswerGroup(Prompt(ask(i)), tuple(Answer(t) for t in texts), tiers=tiers, **kw)


UP = group(("abab",), i=1, labels=(1.0,))
DOWN = group(("dd",), i=2, labels=(0.0,))
BOTH = group(("ab", "cdab", "c"), i=3, labels=(1.0, 0.0, 0.0))
THREE = group(("a", "bb", "ccc"), ((1,), (0,), (2,)), 4)


def prepare(lab, groups, dtype=None, moved=True, **changes):
    base = lab.base(dtype)
    settings = lab.prefer("kto", **changes)
    adapters.load(base, "policy", lab.workspace.adapter("sft").path)
    items = kto.reference(base, kto.encode(base, groups, 256)[0], settings)
    adapters.copy(base, "policy", "reference")
    if moved:
        tiny.shake(base, "policy", size=0.1)
    return base, Learner(adapters.trainable(base, "policy"), 10, 1e-3), items, settings


def plain_ratio(base, prompt, answer):
    """log pi - log pi_ref of an answer's tokens, one unpadded forward pass each; a gradient for the policy only."""
    found = []
    for slot in ("policy", "reference"):
        with adapters.active(base, slot), torch.set_grad_enabled(slot == "policy"):
            logp = base.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
            found.append(logp[range(len(prompt) - 1, len(prompt) + len(answer) - 1), list(answer)].sum())
    return found[0] - found[1]


def by_hand(base, items, beta=0.1, good=1.0, bad=1.0):
    """(loss, z0): mean over answers of lambda (1 - sigma(+-beta (ratio - z0)))."""
    with torch.no_grad():
        z0 = max(0.0, float(sum(plain_ratio(base, i.tree.prompt, i.other) for i in items) / len(items)))
    terms = []
    for i in items:
        for answer, mark in zip(i.tree.answers, i.good):
            gain = plain_ratio(base, i.tree.prompt, answer) - z0
            terms.append(good * torch.sigmoid(-beta * gain) if mark else bad * torch.sigmoid(beta * gain))
    return sum(terms) / len(terms), z0


def gradient(learner):
    found = torch.cat([p.grad.flatten() for p in learner.parameters.values()])
    learner.optimizer.zero_grad()
    return found


@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_loss_and_gradient_are_those_of_the_formula(lab, layout):
    """Equation 8 with weights 1.5 and 0.5; the reference point has no part in the gradient."""
    base, learner, items, settings = prepare(lab, [UP, DOWN, BOTH, THREE], layout=layout, desirable_weight=1.5,
                                             undesirable_weight=0.5)
    metrics = kto.forward_backward(base, learner, items, settings)
    found = gradient(learner)
    want, z0 = by_hand(base, items, good=1.5, bad=0.5)
    want.backward()
    assert metrics["loss"] == pytest.approx(float(want.detach()), abs=1e-5)
    assert metrics["reference_point"] == pytest.approx(z0, abs=1e-4)
    expected = gradient(learner)
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max() and expected.abs().max() > 1e-3


def test_the_reference_point_is_positive_or_clamped(lab):
    """A policy to which the mismatched answers are less likely than to the reference gives 0, not less."""
    base, _, items, settings = prepare(lab, [UP, DOWN, BOTH])
    raw = float(sum(plain_ratio(base, i.tree.prompt, i.other).detach() for i in items)) / 3
    assert float(kto.reference_point(base, items, settings)) == pytest.approx(max(raw, 0.0), abs=1e-4)
    lowered = [kto.replace(i, reference=(*i.reference[:-1], i.reference[-1] - 2 * abs(raw) - 1)) for i in items]
    assert float(kto.reference_point(base, lowered, settings)) > 1
    raised = [kto.replace(i, reference=(*i.reference[:-1], i.reference[-1] + 2 * abs(raw) + 1)) for i in items]
    assert float(kto.reference_point(base, raised, settings)) == 0.0


def test_at_the_start_every_answer_costs_half_and_half_of_them_are_right(lab):
    base, learner, items, settings = prepare(lab, [UP, DOWN, BOTH], moved=False)
    metrics = kto.forward_backward(base, learner, items, settings)
    assert metrics["loss"] == pytest.approx(0.5, abs=1e-6) and metrics["reference_point"] == pytest.approx(0, abs=1e-5)


def test_a_step_moves_good_answers_up_and_bad_ones_down(lab):
    base, learner, items, settings = prepare(lab, [UP, DOWN], moved=False)
    learner.warmup = 0
    kto.forward_backward(base, learner, items, settings)
    learner.step()
    up, down = (float(plain_ratio(base, i.tree.prompt, i.tree.answers[0]).detach()) for i in items)
    assert up > 0.005 and down < -0.005


def test_micro_batches_and_layouts_give_the_gradient_of_one_big_batch(lab):
    """Checklists 32 and 37: the reference point is that of the whole step, too."""
    base, learner, items, settings = prepare(lab, [UP, DOWN, BOTH, THREE], torch.float64)
    found = []
    for budget, layout in ((10_000, "tree"), (1, "tree"), (60, "tree"), (10_000, "padded")):
        learner.budget = budget
        metrics = kto.forward_backward(base, learner, items, settings.model_copy(update={"layout": layout}))
        found.append((gradient(learner), metrics))
    for other, metrics in found[1:]:
        assert (other - found[0][0]).abs().max() < 1e-6
        assert metrics == pytest.approx(found[0][1], abs=1e-5)
    assert found[0][0].abs().max() > 1e-3


@pytest.mark.parametrize(("made", "marks"), [
    (BOTH, {0: True, 1: False, 2: False}),
    (group(("a", "b", "c"), labels=(0.9, 0.5, 0.1)), {0: True, 2: False}),          # undecided: left out
    (THREE, {1: True, 2: False}),                                                      # the middle one too
    (group(tuple("abcd"), ((3,), (0, 1), (2,))), {3: True, 2: False}),
    (group(tuple("ab"), ((0,), (1,)), labels=(0.0, 0.0)), {0: False, 1: False}),      # ranked, but "all bad"
    (group(tuple("ab"), ((1,), (0,)), labels=(5.0, 3.0)), {0: False, 1: True}),       # ratings are no thumbs
    (group(tuple("ab"), pairs=(Pair(0, 1, 0.3),)), {0: False, 1: True}),
    (group(tuple("ab"), pairs=(Pair(0, 1, 0.5),)), {}),
])
def test_thumbs_come_from_labels_or_from_wins_and_losses(made, marks):
    assert kto.thumbs(made, reward.rated([made])) == marks


def test_one_star_is_no_thumb_up(lab):
    """Whether labels are thumbs or ratings is decided over all of them; a group of equal ratings tells nothing."""
    base = lab.base()
    tiers, best = ((0,), (1,)), group(tuple("ab"), ((1,), (0,)), i=1, labels=(2.0, 5.0))
    poor, worse = group(tuple("cd"), ((0, 1),), i=2, labels=(1.0, 1.0)), group(tuple("cd"), tiers, 3, labels=(1.0, 0.0))
    items, skipped = kto.encode(base, [best, poor, worse], 256)
    assert [(i.group, i.good) for i in items] == [(best, (False, True)), (worse, (True, False))]
    assert skipped == {"no preference in it": 1}
    bad = group(tuple("cd"), ((1,), (0,)), 4, labels=(0.0, 0.0))
    assert kto.encode(base, [best, bad], 256)[0][1].good == (False, False)
    items, skipped = reward.encode(base, [best, poor, worse], 256)
    assert [i.group for i in items] == [best, worse] and skipped == {"no preference in it": 1}
    assert [i.good for i in kto.encode(base, [poor, worse], 256)[0]] == [(True, True), (True, False)]


def test_the_mismatched_answer_belongs_to_another_prompt(lab):
    """The next item's, past those with the same prompt, round the end; cut to what the context takes."""
    base = lab.base()
    again = group(("bb",), i=1, labels=(0.0,))
    items, _ = kto.encode(base, [UP, again, DOWN, BOTH], 256)
    assert [i.other for i in items] == [tuple(base.chat.answer(t)) for t in ("dd", "dd", "ab", "abab")]
    longest = len(items[0].tree.prompt) + 5
    four, nine = (group((text,), i=k, labels=(0.0,)) for k, text in ((2, "a" * 4), (7, "x" * 9)))
    short, skipped = kto.encode(base, [UP, four, nine], longest)
    assert skipped == {"too long": 1} and all(len(i.tree.prompt) + len(i.other) <= longest for i in short)


def test_encode_counts_what_it_leaves_out(lab):
    """Checklist 5."""
    base = lab.base()
    tied = group(("ab", "cd"), i=4, pairs=(Pair(0, 1, 0.5),))
    items, skipped = kto.encode(base, [UP, DOWN, tied, group(("a",))], 256)
    assert len(items) == 2 and skipped == {"no preference in it": 1, "neither good nor bad": 1}
    with pytest.raises(UserError, match="two prompts or more; there are 1"):
        kto.encode(base, [UP, tied], 256)
    with pytest.raises(DataError, match="between 0"):
        kto.encode(base, [UP, group(("a",), labels=(4.0,))], 256)


def test_the_same_seed_gives_the_same_policy_bit_for_bit(lab):
    """Checklist 35."""
    found = [weights(kto.train(lab.workspace, lab.base(), lab.prefer("kto", seed=s), lab.groups)) for s in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_thumbs_teach_it_which_answers_are_good(lab):
    """Checklist 40: a thumb up for a fair share of the letter "a"; no two answers share a prompt."""
    single = [group((a.text,), i=3 * n + k, labels=(float(a.text.count("a") / len(a.text) > 0.24),))
              for n, g in enumerate(ranked_groups(120, seed=12)) for k, a in enumerate(g.answers)]
    settings = lab.prefer("kto", batch=32, epochs=6, lr=1e-2, beta=0.5, held_out=0.2)
    run = lab.workspace.run(kto.train(lab.workspace, lab.base(), settings, single).lineage["run"])
    held = run.summary["held_out"]
    assert run.summary["good"] > 100 and run.summary["bad"] > 100
    assert held["answers"] > 40 and held["accuracy"]["low"] > 0.7 and held["reference_point"] >= 0
