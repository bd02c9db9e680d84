import math
from dataclasses import replace

import pytest

from tunesmith.errors import DataError
from tunesmith.feedback.groups import apply, merge, pairs, ranked
from tunesmith.records import Answer, AnswerGroup, Message, Pair, Prompt, Ranking


def group(k=4, **kwargs):
    return AnswerGroup(Prompt((Message("user", f"question {k}"),)), tuple(Answer(f"answer {i}") for i in range(k)),
                       **kwargs)


def ranking(g, tiers, labeler="ann", id="r", **kwargs):
    return Ranking(id, g.id, labeler, tiers=tiers, **kwargs)


def loss(pair_list, rewards, weight=1.0):
    """The pairwise loss of a group: its weight times the mean over its pairs."""
    def nll(z):
        return math.log1p(math.exp(-z))
    return weight * sum(p.weight * (p.p * nll(rewards[p.better] - rewards[p.worse])
                                    + (1 - p.p) * nll(rewards[p.worse] - rewards[p.better]))
                        for p in pair_list) / sum(p.weight for p in pair_list)


def test_apply_keeps_what_the_labeler_said():
    g = group()
    got = apply(g, ranking(g, ((2,), (0, 3), (1,)), shown=(3, 1, 0, 2), ratings=(4, 1, 7, 4)))
    assert (got.tiers, got.labeler, got.shown, got.source, got.labels) == (
        ((2,), (0, 3), (1,)), "ann", (3, 1, 0, 2), "human", (4, 1, 7, 4))
    assert got.id == g.id
    assert apply(g, ranking(g, ((0,),), simulated=True)).source == "simulated"


def test_all_bad_keeps_the_order_and_is_a_thumb_down_for_each():
    g = group(2)
    got = apply(g, ranking(g, ((1,), (0,)), all_bad=True))
    assert pairs(got) == (Pair(1, 0),) and got.labels == (0, 0)


def test_a_skipped_ranking_is_no_judgement():
    g = group()
    assert apply(g, ranking(g, (), skipped="cannot tell")) is None


@pytest.mark.parametrize(("tiers", "message"), [
    (((0,), (4,)), "answer 4 is ranked, but there are answers 0 to 3"), (((0, 1), (1,)), "answer 1 is ranked twice"),
    (((0,), ()), "a tier is empty")])
def test_apply_refuses_tiers_that_do_not_fit(tiers, message):
    with pytest.raises(DataError, match=message):
        apply(group(), ranking(group(), tiers))


def test_apply_refuses_another_groups_ranking():
    with pytest.raises(DataError, match="is about group"):
        apply(group(4), ranking(group(3), ((0,),)))


def test_pairs_of_tiers():
    g = group(tiers=((2,), (0, 3), (1,)))
    assert set(pairs(g)) == {Pair(2, 0), Pair(2, 3), Pair(2, 1), Pair(0, 1), Pair(3, 1)}
    assert set(pairs(g, "half")) - set(pairs(g)) == {Pair(0, 3, p=0.5)}
    assert pairs(group()) == () == pairs(group(1, tiers=((0,),)))


def test_a_full_ranking_makes_all_pairs():
    assert len(pairs(group(9, tiers=tuple((i,) for i in range(9))))) == 36


def test_unranked_answers_lose_to_ranked_ones_and_say_nothing_about_each_other():
    assert set(pairs(group(tiers=((1,), (3,))), "half")) == {Pair(1, 3), Pair(1, 0), Pair(1, 2), Pair(3, 0), Pair(3, 2)}


def test_soft_pairs_take_precedence():
    soft = (Pair(1, 0, 0.7),)
    assert pairs(group(2, tiers=((0,), (1,)), pairs=soft)) == soft


def test_merge_shares_votes():
    judged = [group(3, tiers=t, labeler=n, source="human") for n, t in
              [("ann", ((0,), (1,), (2,))), ("bob", ((0, 1), (2,))), ("cy", ((2,), (1,), (0,)))]]
    m = merge(judged)
    assert m.pairs == (Pair(0, 1, 0.5), Pair(0, 2, pytest.approx(2 / 3)), Pair(1, 2, pytest.approx(2 / 3)))
    assert (m.tiers, m.labeler, m.weight, m.source) == (((0, 1), (2,)), "ann,bob,cy", 3, "human")
    assert merge(judged, without={"cy"}).pairs[0] == Pair(0, 1, 0.75)
    assert merge(judged, without={"ann", "bob", "cy"}) is None
    assert merge(judged, ties="drop").pairs[0] == Pair(0, 1, 0.5, weight=pytest.approx(2 / 3))


def test_consensus_tiers_follow_the_votes():
    judged = [group(3, tiers=t, labeler=n) for n, t in
              [("a", ((2,), (0,), (1,))), ("b", ((2,), (0,), (1,))), ("c", ((2,), (1,), (0,)))]]
    assert merge(judged).tiers == ((2,), (0,), (1,))


def test_merge_puts_the_winner_first():
    judged = [group(2, tiers=((1,), (0,)), labeler=n) for n in "ab"] + [group(2, tiers=((0,), (1,)), labeler="c")]
    assert merge(judged).pairs == (Pair(1, 0, pytest.approx(2 / 3)),)


@pytest.mark.parametrize("said", [
    [(((2,), (0, 3), (1,)), 1.0), (((3,), (0,), (2,), (1,)), 2.0), (((1,), (0,), (2, 3)), 0.5)],
    [(((2,), (0, 3), (1,)), 1.0), (((3,), (2,)), 2.0), (((1,),), 0.5)],  # partial ones say as much as whole ones
    [(((0,), (1,), (2,), (3,)), 1.0), (((2,),), 1.0)]])
def test_the_loss_of_merged_rankings_is_the_sum_of_their_losses(said):
    judged = [group(tiers=t, labeler=str(n), weight=w) for n, (t, w) in enumerate(said)]
    rewards = [0.3, -1.2, 2.0, 0.7]
    m = merge(judged)
    assert loss(m.pairs, rewards, m.weight) == pytest.approx(
        sum(loss(pairs(g, "half"), rewards, g.weight) for g in judged), rel=1e-12)


def test_a_vote_of_no_weight_is_no_vote():
    judged = [group(2, tiers=((0,), (1,)), labeler="a", weight=0.0), group(2, tiers=((1,), (0,)), labeler="b")]
    assert merge(judged).pairs == (Pair(1, 0),) and merge(judged).labeler == "b"
    assert merge([judged[0], replace(judged[0], labeler="c")]) is None


def test_answers_that_are_alike_make_no_pair():
    same = replace(group(3), answers=(Answer("x"), Answer("x"), Answer("y")))
    assert merge([replace(same, tiers=((0,), (1,), (2,))), replace(same, tiers=((1, 0), (2,)))]).pairs == (
        Pair(0, 2), Pair(1, 2))


def test_merge_refuses_different_groups():
    with pytest.raises(DataError, match="different groups"):
        merge([group(2, tiers=((0,),), labeler="a"), group(3, tiers=((0,),), labeler="b")])


def test_a_merged_judgement_stays_marked_simulated():
    g = group(2, tiers=((0,), (1,)))
    assert merge([replace(g, labeler="a", source="human"), replace(g, labeler="b", source="simulated")]
                 ).source == "simulated"


def test_ranked_joins_groups_and_rankings():
    g, h, untouched = group(2), group(3), group(4)
    rankings = [ranking(g, ((0,), (1,)), "ann", "1"), ranking(g, ((0,), (1,)), "bob", "2"),
                ranking(g, ((1,), (0,)), "ann", "3"),                       # ann thinks again
                ranking(h, ((2,), (1,), (0,)), "ann", "4"), ranking(h, (), "bob", "5", skipped="hard")]
    merged = ranked([g, h, untouched], rankings)
    assert [m.id for m in merged] == [g.id, h.id]
    assert merged[0].pairs == (Pair(0, 1, 0.5),) and merged[1].tiers == ((2,), (1,), (0,))
    apart = ranked([g, h], rankings, merged=False)
    assert [(a.labeler, a.tiers) for a in apart[:2]] == [("ann", ((1,), (0,))), ("bob", ((0,), (1,)))]
    assert [a.tiers for a in ranked([g, h], rankings, without={"ann"})] == [((0,), (1,))]
