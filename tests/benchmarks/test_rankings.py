"""The rankings benchmark: rows to groups, groups to shuffled pairs, and what it calls agreement."""

import numpy as np
import pytest
import tiny
import torch

from benchmarks import rankings, rankings_figures
from tunesmith.model import adapters, heads
from tunesmith.settings import RewardSettings
from tunesmith.train import reward
from tunesmith.train.learner import Learner

TEXTS = ["one", "two words", "three words here", "four", "five"]


def page(ratings, annotator="w1", criterion="quality", text="name[Inn]", split="train"):
    return {"criterion": criterion, "input": text, "completions": TEXTS[:len(ratings)], "ratings": ratings,
            "annotator": annotator, "split": split}


def question(preference, text="Who?", split="dev"):
    return {"question": text, "completions": TEXTS[:4], "split": split, "preference": preference,
            "pairs": [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.load(tmp_path_factory.mktemp("base") / "llama")


def items(base, groups):
    return reward.encode(base, groups, base.context)[0]


def test_ratings_become_tiers_and_only_one_criterion_is_read():
    kept, = rankings.e2e([page([70, 100, 70, 5, 90]), page([1, 2, 3, 4, 5], criterion="naturalness")])
    assert kept.tiers == ((1,), (4,), (0, 2), (3,))
    assert (kept.labeler, kept.prompt.split, kept.source) == ("w1", "train", "human")


def test_six_judgements_become_an_order_or_are_left_out():
    ordered = question([2, 0, 1, 1, 1, 1])           # 1 over 0 and 2, which are equal, over 3
    circle = question([1, 1, 1, 1, 2, 1])            # 1 over 2, 2 over 3, 3 over 1
    not_transitive = question([0, 0, 1, 1, 1, 1])    # 0 = 1, 0 = 2, but 1 over 2
    kept, = rankings.qa([ordered, circle, not_transitive])
    assert kept.tiers == ((1,), (0, 2), (3,))
    assert kept.prompt.split == "dev"


@pytest.mark.parametrize("scores, expected", [
    ([3, 1, 2, 2], 2 / 5),            # 3 pairs agree, 1 does not; one tie on each side: 2 / sqrt(5 * 5)
    ([-3, -1, -2, -2], -2 / 5),
    ([4, 3, 3, 1], 1.0),
    ([7, 7, 7, 7], 0.0),
])
def test_tau_by_hand(scores, expected):
    assert rankings.tau(np.array(scores, dtype=float), ((0,), (1, 2), (3,))) == pytest.approx(expected)


def test_a_page_of_three_labelers_becomes_one_soft_group():
    one, = rankings.merged(rankings.e2e([page([3, 2, 1], "a"), page([3, 1, 2], "b"), page([2, 2, 1], "c")]))
    assert {(p.better, p.worse): (p.p, p.weight) for p in one.pairs} == {
        (0, 1): (1.0, pytest.approx(2 / 3)), (0, 2): (1.0, 1.0), (1, 2): (pytest.approx(2 / 3), 1.0)}
    assert one.weight == 3


def test_shuffled_pairs_weigh_as_much_as_their_group(base):
    grouped = items(base, rankings.merged(rankings.e2e([page([3, 2, 1], "a"), page([3, 1, 2], "b")])))
    rows = rankings.apart(grouped[0])
    assert sum(r.weight for r in rows) == pytest.approx(grouped[0].weight)
    for row, pair in zip(rows, grouped[0].pairs, strict=True):
        assert row.tree.answers == (grouped[0].tree.answers[pair.better], grouped[0].tree.answers[pair.worse])
        assert row.weight / rows[0].weight == pytest.approx(pair.weight / grouped[0].pairs[0].weight)


def test_all_shuffled_pairs_in_one_step_have_the_gradient_of_the_groups(base):
    groups = rankings.merged(rankings.e2e([
        page([3, 2, 1, 1], "a"), page([3, 1, 2, 3], "b"), page([1, 2, 3], text="name[Bar]")]))
    grouped = items(base, groups)
    settings = RewardSettings(base="x", comparisons="x", name="x", center=0)
    adapters.attach(base, "reward", adapters.Method(rank=4, alpha=8), 0)
    tiny.shake(base, "reward", size=0.1)
    head = heads.ScalarHead(base.width, torch.Generator().manual_seed(0))
    learner = Learner({**adapters.trainable(base, "reward"), **dict(head.linear.named_parameters("head"))}, 1, 1e-3)
    found = []
    for batch in (grouped, [row for item in grouped for row in rankings.apart(item)]):
        reward.forward_backward(base, head, learner, batch, settings)
        found.append(torch.cat([p.grad.flatten() for p in learner.parameters.values()]))
        learner.optimizer.zero_grad()
    assert found[0].norm() > 0.01
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_every_arm_sees_every_pair_once_an_epoch(base, monkeypatch):
    pages = [page([3, 2, 1, 1], text=f"name[{i}]") for i in range(6)] + [page([1, 2], text="name[z]")]
    parts = rankings.Parts(items(base, rankings.merged(rankings.e2e(pages))), [], [])
    seen = []
    monkeypatch.setattr(reward, "forward_backward", lambda b, h, learner, chosen, s: seen.append(chosen))
    monkeypatch.setattr(rankings, "assess", lambda model, rankings, shared: {})
    monkeypatch.setattr(Learner, "step", lambda self: {})
    settings = RewardSettings(base="x", comparisons="x", name="x", epochs=1, batch=2, rank=4)
    for arm in rankings.ARMS:
        seen.clear()
        *_, last = rankings.train(base, parts, arm, settings)
        assert last["epoch"] == 1 and len(seen) == 4
        drawn = sorted((i.tree.prompt, i.tree.answers[p.better], i.tree.answers[p.worse])
                       for chosen in seen for i in chosen for p in i.pairs)
        assert drawn == sorted((i.tree.prompt, i.tree.answers[p.better], i.tree.answers[p.worse])
                               for i in parts.train for p in i.pairs)


def test_figures_are_means_over_prompts(base):
    judged = items(base, rankings.e2e([page([2, 1], "a"), page([1, 2], "b"), page([3, 2, 1], text="name[Bar]")]))
    found = rankings.measure(judged, [np.array([1.0, 0.0]), np.array([1.0, 0.0]), np.array([2.0, 2.0, 0.0])])
    inn, bar = (judged[i].group.prompt.id for i in (0, 2))
    assert found["accuracy"] == {inn: 0.5, bar: pytest.approx(2.5 / 3)}
    assert found["tau"] == {inn: 0.0, bar: pytest.approx(2 / np.sqrt(3 * 2))}
    assert found["log_loss"][inn] == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(1))) / 2)


def test_the_ceiling_is_what_the_other_labelers_say(base):
    groups = rankings.e2e([page([2, 1, 0], "a"), page([2, 1, 0], "b"), page([0, 2, 2], "c"),
                           page([1, 2], "d", text="name[Bar]")])
    kept, scores = rankings.others(groups, items(base, groups))
    assert [i.group.labeler for i in kept] == ["a", "b", "c"]  # nobody else saw d's page
    np.testing.assert_allclose(scores, [[-1, -0.75, -1.25], [-1, -0.75, -1.25], [0, -1, -2]])


def test_the_difference_is_the_other_arm_minus_grouped():
    def line(arm, accuracy):
        by_prompt = {m: {"p": accuracy, "q": accuracy} for m in rankings_figures.METRICS}
        return {"arm": arm, "epoch": 1.0, "seed": 0, "tokens": 10, "cpu_seconds": 1.0, "seen": None,
                "held_out": {"by_prompt": by_prompt, "shared": by_prompt, "pairs": 2, "wilson": {}, "ece": 0.0,
                             "brier": 0.0}}

    found = rankings_figures.summarize([line("grouped", 0.7), line("shuffled", 0.6)], {}, rankings.ARMS)["arms"]
    assert found["shuffled"]["1"]["minus grouped"]["accuracy"]["each"] == [pytest.approx(-0.1)]
    assert "minus grouped" not in found["grouped"]["1"]


def test_tables_of_a_single_arm_and_epoch():
    by_prompt = {m: {"p": 0.75, "q": 0.25} for m in rankings_figures.METRICS}
    line = {"arm": "shuffled", "epoch": 1.0, "seed": 0, "tokens": 1200, "cpu_seconds": 3.0, "seen": None,
            "held_out": {"by_prompt": by_prompt, "shared": {"tau": {}}, "pairs": 2, "wilson": {}, "ece": 0.1,
                         "brier": 0}}
    tables = rankings_figures.markdown(rankings_figures.summarize([line], {}, rankings.ARMS))
    assert "| shuffled | 1 | 1 | 50.0% [25.0%, 75.0%] |" in tables
    assert "| shuffled | 1,200 | 3.0 |" in tables
    assert "grouped" not in tables


def test_held_out_prompts_are_never_trained_on(base):
    groups = rankings.e2e([page([2, 1], who, text=f"name[{i}]") for i in range(60) for who in "ab"]
                          + [page([1, 2], text=f"name[dev {i}]", split="dev") for i in range(3)])
    for tune, held_out in ((False, 0.0), (False, 0.2), (True, 0.0), (True, 0.2)):
        parts = rankings.divide(base, groups, 20, held_out, tune, seen=5)
        train, held = ({i.group.prompt.id for i in p} for p in (parts.train, parts.held_out))
        assert len(train) == 20 and held and not train & held
        assert {i.group.prompt.id for i in parts.seen} <= train and len(parts.seen) == 10
        assert any(i.group.prompt.split == "dev" for i in parts.held_out) is not tune


def test_a_log_of_several_learning_rates_gives_the_runs_that_were_asked_for(base, monkeypatch, tmp_path):
    """A run that the log holds is not repeated, and another learning rate's lines do not stand in for its own."""
    ran = []

    def train(base, parts, arm, settings, points):
        ran.append(settings.lr)
        yield {"arm": arm, "seed": settings.seed, "lr": settings.lr, "epoch": 1.0}

    monkeypatch.setattr(rankings, "train", train)
    monkeypatch.setattr(rankings, "_brief", lambda line: [])
    settings = RewardSettings(base="x", comparisons="x", name="x", epochs=1)
    for lr in (1e-3, 5e-4, 1e-3):
        lines = rankings.learn(base, None, [("grouped", settings.model_copy(update={"lr": lr}))], [1.0],
                               tmp_path / "log.jsonl")
        assert [x["lr"] for x in lines] == [lr]
    assert ran == [1e-3, 5e-4]


def test_a_log_is_named_after_all_that_its_runs_share():
    settings, parts = RewardSettings(base="x", comparisons="x", name="x"), rankings.Parts([], [], [])
    names = {rankings.same(settings.model_copy(update=u), p, parts) for u, p in (
        ({}, [1.0]), ({"rank": 4}, [1.0]), ({"alpha": 8}, [1.0]), ({"epochs": 2.0}, [1.0]), ({}, [0.5, 1.0]))}
    assert len(names) == 5
    assert rankings.same(settings.model_copy(update={"lr": 9.0, "seed": 3}), [1.0], parts) in names
