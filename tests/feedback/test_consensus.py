import numpy as np
import pytest
from test_ability import judged, rankings_by

from tunesmith.feedback.consensus import agree, flip_rate, is_held_out
from tunesmith.feedback.groups import pairs
from tunesmith.records import Pair


def test_a_single_labelers_data_stays_as_it_is():
    groups = [judged(f"q{n}", "ann", ((0,), (1,), (2,))) for n in range(9)]
    found = agree(groups, cap=0.2)
    assert found.groups == groups and found.about == {"consensus": "votes", "labelers": 1}


def test_ability_turns_soft_and_held_out_prompts_keep_the_votes():
    _, votes, _ = rankings_by(["random", "inverted", *["good"] * 6], k=3, seed=0, items=200)
    found = agree(votes, held_out=0.25)
    assert found.about["consensus"] == "ability" and found.about["abilities"]["w01"][2] < 0
    by_votes = {g.id: g for g in agree(votes, "votes").groups}
    held = [g for g in found.groups if is_held_out(g, 0.25)]
    assert 20 < len(held) < 80 and all(by_votes[g.id] == g for g in held)
    learned = [g for g in found.groups if not is_held_out(g, 0.25)]
    assert len(found.groups) >= 190 and any(0.5 < p.p < 1 for g in learned for p in g.pairs)


@pytest.mark.parametrize(("spoiled", "gain"), [([], -0.01), (["random", "random", "inverted"], 0.02)])
def test_a_reward_learned_from_weighed_votes_orders_better(spoiled, gain):
    """A linear reward on features of the answers, learned from either, on new prompts (labels of 12 labelers)."""
    kinds = [*spoiled, *["good"] * (12 - len(spoiled))]
    accuracy = {"ability": [], "votes": []}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        taste = rng.normal(size=24) / np.sqrt(24)
        features_GKD, new_GKD = rng.normal(size=(120, 4, 24)), rng.normal(size=(300, 4, 24))
        groups, votes, _ = rankings_by(kinds, k=4, seed=seed, items=120, worth_GK=features_GKD @ taste)
        features = {g.id: f for g, f in zip(groups, features_GKD, strict=True)}
        for method, found in accuracy.items():
            found.append(ordered_alike(new_GKD @ taste, new_GKD @ learned(agree(votes, method).groups, features)))
    assert np.mean(accuracy["ability"]) - np.mean(accuracy["votes"]) > gain


def learned(groups, features):
    """Logistic regression on the pairs, as the reward model's loss weighs them, by Newton's method."""
    rows = [(features[g.id][p.better] - features[g.id][p.worse], p.p,
             g.weight * p.weight / sum(q.weight for q in found))
            for g in groups for found in [pairs(g)] for p in found]
    x, y, w = (np.array(column) for column in zip(*rows, strict=True))
    theta = np.zeros(x.shape[1])
    for _ in range(12):
        p = 1 / (1 + np.exp(-x @ theta))
        theta -= np.linalg.solve(x.T @ (x * (w * p * (1 - p))[:, None]) + 0.3 * np.eye(len(theta)),
                                 x.T @ (w * (p - y)) + 0.3 * theta)
    return theta


def ordered_alike(a_GK, b_GK):
    i, j = np.triu_indices(a_GK.shape[1], 1)
    return np.mean(np.sign(a_GK[:, i] - a_GK[:, j]) == np.sign(b_GK[:, i] - b_GK[:, j]))


def test_an_inverted_labelers_votes_are_turned_around_and_a_careless_ones_left_out():
    _, votes, _ = rankings_by(["random", "inverted", *["good"] * 8], k=3, seed=0, items=400)
    found = agree(votes)
    assert found.about["votes"]["w01"] < -0.6 and abs(found.about["votes"]["w00"]) < 0.25
    alone = [g for g in found.groups if g.labeler == "w01"]
    for g in alone:
        said = next(v for v in votes if v.id == g.id and v.labeler == "w01")
        assert {(p.worse, p.better) for p in g.pairs} == {(p.better, p.worse) for p in pairs(said)}
        assert g.tiers == said.tiers[::-1] and g.weight <= 1


def test_none_keeps_every_ranking_and_thumbs_pass_through():
    groups = [judged("one", "ann", ((0,), (1,), (2,))), judged("one", "bob", ((1,), (0,), (2,)))]
    thumb = judged("one", "cy", (), labels=(1.0, 0.0, 0.0))
    assert agree([*groups, thumb], "none").groups == [*groups, thumb]
    merged = agree([*groups, thumb], "votes").groups
    assert thumb in merged and len(merged) == 2


def test_a_cap_cuts_the_busiest_and_says_so():
    groups = [judged(f"q{n}", "busy", ((0,), (1,), (2,))) for n in range(50)]
    groups += [judged(f"r{n}", f"w{n % 6}", ((0,), (1,), (2,))) for n in range(30)]
    found = agree(groups, "votes", cap=0.2)
    weight = {True: 0.0, False: 0.0}
    for g in found.groups:
        weight[g.labeler == "busy"] += g.weight
    assert weight[True] / sum(weight.values()) == pytest.approx(0.2) and found.about["capped"] == {"busy": 0.15}


def test_flip_rate_explains_the_agreement():
    for e in (0.0, 0.1, 0.3):
        assert flip_rate((1 - e) ** 2 + e ** 2) == pytest.approx(e)
    assert flip_rate(0.4) == 0.45


def test_a_tie_is_half_a_win_whether_one_or_two_judged_it():
    tied = ((0, 1), (2,))
    alone, = agree([judged("one", "ann", tied)]).groups
    both, = agree([judged("one", who, tied) for who in ("ann", "bob")], "votes").groups
    assert alone.pairs == both.pairs == (Pair(0, 1, 0.5), Pair(0, 2), Pair(1, 2))
    assert (alone.weight, both.weight) == (1, 2)


def test_all_bad_without_an_order_stays_a_thumb_down_for_each_whoever_else_says_so():
    bad = [judged("one", who, ((0, 1, 2),), labels=(0.0, 0.0, 0.0)) for who in ("ann", "bob")]
    assert agree(bad[:1]).groups == bad[:1] and agree(bad, "votes").groups == bad
    order, more = (judged("one", who, ((0,), (1,), (2,))) for who in ("cy", "dan"))
    merged, *rest = agree([*bad, order, more], "votes").groups
    assert merged.pairs == (Pair(0, 1), Pair(0, 2), Pair(1, 2)) and merged.weight == 2 and rest == bad


def test_the_cap_holds_after_the_votes_are_weighed():
    """Four of ten are random and end with no vote: what is left must not give anybody more than a fifth."""
    kinds, cap = ["random"] * 4 + ["good"] * 6, 0.2
    _, votes, _ = rankings_by(kinds, k=3, seed=1, items=400)
    busy = [g for n, g in enumerate(votes) if g.labeler in ("w04", "w05") or n % 2]
    found = agree(busy, cap=cap)
    kept = {name: 0.0 for name in found.about["votes"]}
    for g in busy:  # what is left of every labeler, from the summary alone
        name = g.labeler
        kept[name] += abs(found.about["votes"][name]) * found.about.get("capped", {}).get(name, 1.0)
    assert len([w for w in kept.values() if w > 1]) >= 6
    assert max(kept.values()) <= cap * sum(kept.values()) * 1.02 and found.about["capped"]
    assert sum(g.weight for g in found.groups) == pytest.approx(sum(kept.values()), rel=0.02)
