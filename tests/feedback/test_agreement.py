import json
from collections import Counter, defaultdict
from itertools import combinations, permutations
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from tunesmith.feedback.ability import fit
from tunesmith.feedback.agreement import (
    _mid_ranks,
    agreement,
    bootstrap_alpha,
    gold_accuracy,
    kendall_w,
    krippendorff_alpha,
    leave_one_out,
    self_consistency,
    sprt,
)
from tunesmith.records import Answer, AnswerGroup, Message, Prompt, Ranking

PUBLISHED = [   # Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, example C: 4 observers, 12 units
    [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
    [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan]]


def judged(item, labeler, tiers, k=3):
    return AnswerGroup(Prompt((Message("user", item),)), tuple(Answer(f"{i}") for i in range(k)), tiers=tiers,
                       labeler=labeler)


@pytest.mark.parametrize(("scale", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_on_the_published_example(scale, expected):
    assert krippendorff_alpha(PUBLISHED, scale) == pytest.approx(expected, abs=5e-4)


def test_alpha_of_two_observers_and_binary_values():
    # the same paper, example A: 2 observers, 10 units, nominal 0.095
    meg = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    owen = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert krippendorff_alpha([meg, owen]) == pytest.approx(0.095, abs=5e-4)


def test_alpha_at_its_ends():
    assert krippendorff_alpha([[1, 2, 3], [1, 2, 3]], "ordinal") == 1
    assert krippendorff_alpha([[1, 2, 1, 2], [2, 1, 2, 1]]) < -0.5
    assert isnan(krippendorff_alpha([[1, 2, nan], [nan, nan, 3]]))
    assert isnan(krippendorff_alpha([[nan]]))


def test_kendall_w():
    # Siegel & Castellan's textbook shape: 3 judges, 6 applicants, rank sums 8 14 11 11 11 8 -> W = 0.16 (s = 25.5)
    table = [[1, 6, 3, 2, 5, 4], [1, 5, 6, 4, 2, 3], [6, 3, 2, 5, 4, 1]]
    assert kendall_w(table) == pytest.approx(12 * 25.5 / (9 * 210))
    assert kendall_w([[1, 2, 3], [1, 2, 3]]) == 1
    assert kendall_w([[1, 2, 3], [3, 2, 1]]) == 0
    assert kendall_w([[1, 1, 2], [1, 1, 2]]) == pytest.approx(1)
    assert isnan(kendall_w([[1, 1], [1, 1]]))


def test_percent_agreement_by_hand():
    groups = [judged("one", "ann", ((0,), (1,), (2,))), judged("one", "bob", ((0,), (2,), (1,))),   # 2 of 3 pairs
              judged("two", "ann", ((0, 1), (2,))), judged("two", "bob", ((0,), (1,), (2,))),      # 2 of 2 strict
              judged("alone", "ann", ((0, 1, 2),))]
    a = agreement(groups)
    assert a.percent.value == pytest.approx(4 / 5)
    assert (a.percent.low, a.percent.high) == (pytest.approx(2 / 3), 1)
    assert a.items == 2 and a.percent.n == 2
    assert a.ties.value == pytest.approx(4 / 15)     # one tied pair by ann on "two", three on "alone", of 15
    assert list(a.by_labelers) == [("ann", "bob")] and a.by_labelers["ann", "bob"].value == pytest.approx(4 / 5)


def test_tied_answers_share_the_mean_of_their_ranks():
    assert _mid_ranks(judged("one", "ann", ((2,), (0, 3), (1,)), 4)) == {2: 1, 0: 2.5, 3: 2.5, 1: 4}
    assert _mid_ranks(judged("one", "ann", ((0, 1, 2),))) == {0: 2, 1: 2, 2: 2}


def test_opposite_rankings_do_not_agree():
    a = agreement([judged(str(n), who, tiers) for n in range(5)
                   for who, tiers in [("ann", ((0,), (1,), (2,))), ("bob", ((2,), (1,), (0,)))]])
    assert a.percent.value == 0 and a.alpha_ranks.high < 0 and a.alpha_pairs.high < 0


def test_random_rankings_agree_by_half_and_alpha_is_near_zero():
    rng = np.random.default_rng(0)
    a = agreement([judged(str(n), who, tuple((int(i),) for i in rng.permutation(4)), 4)
                   for n in range(500) for who in ("ann", "bob", "cy")])
    assert a.percent.value == pytest.approx(0.5, abs=0.02)
    assert abs(a.alpha_ranks.value) < 0.05 and abs(a.alpha_pairs.value) < 0.05
    assert a.alpha_ranks.low < 0 < a.alpha_ranks.high and a.alpha_pairs.low < 0 < a.alpha_pairs.high
    assert abs(a.tau.value) < 0.05 and a.w.value == pytest.approx(1 / 3, abs=0.05)   # W of m random rankings: 1/m
    assert a.percent.low < 0.5 < a.percent.high and a.percent.high - a.percent.low < 0.06


def test_nothing_judged_twice():
    a = agreement([judged("one", "ann", ((0,), (1,)))])
    assert isnan(a.percent.value) and isnan(a.alpha_ranks.value) and a.items == 0


# ---- real judgements by people, against independent implementations

def real():
    """ConvAbuse's ratings: what is in the file, and each item's {labeler: rating}."""
    found = json.loads((Path(__file__).parent / "convabuse.json").read_text())
    items = [dict(zip(who, (int(x) for x in what), strict=True))
             for who, what in (item.split(":") for item in found["items"].split())]
    return found, items


def real_groups():
    """Four items in a row that the same people rated, as one group that each of them ranked; ties are many."""
    _, items = real()
    by_people, groups = defaultdict(list), []
    for ratings in items:
        by_people[tuple(sorted(ratings))].append(ratings)
    for people, rated in by_people.items():
        for n in range(0, len(rated) - 3, 4):
            for who in people:
                given = [r[who] for r in rated[n:n + 4]]
                tiers = tuple(tuple(i for i in range(4) if given[i] == x) for x in sorted(set(given), reverse=True))
                groups.append(judged(f"{people} {n}", who, tiers, 4))
    return groups


@pytest.mark.parametrize("scale", ["nominal", "interval"])
def test_alpha_of_real_ratings_is_that_of_crowd_kit(scale):
    found, items = real()
    table = [[ratings.get(str(who), nan) for ratings in items] for who in range(1, 9)]
    assert krippendorff_alpha(table, scale) == pytest.approx(found[f"alpha_{scale}"], abs=1e-9)


def test_ordinal_alpha_of_real_ratings_is_that_of_the_definition():
    _, items = real()
    items = items[:300]
    counts = Counter(x for ratings in items if len(ratings) > 1 for x in ratings.values())

    def distance(x, y):
        low, high = min(x, y), max(x, y)
        return (sum(counts[g] for g in range(low, high + 1)) - (counts[low] + counts[high]) / 2) ** 2

    n = sum(counts.values())
    observed = sum(distance(x, y) / (len(r) - 1) for r in items if len(r) > 1 for x, y in permutations(r.values(), 2))
    expected = sum(counts[x] * counts[y] * distance(x, y) for x in counts for y in counts) / (n - 1)
    table = [[ratings.get(str(who), nan) for ratings in items] for who in range(1, 9)]
    assert krippendorff_alpha(table, "ordinal") == pytest.approx(1 - observed / expected, abs=1e-9)


def test_agreement_of_real_people_is_that_of_slow_loops_and_scipy():
    groups = real_groups()
    found = agreement(groups)
    items = defaultdict(list)
    for g in groups:
        level = {i: t for t, tier in enumerate(g.tiers) for i in tier}
        items[g.id].append([level[i] for i in range(4)])
    agree = strict = mixed = compared = 0
    taus, ws = [], []
    for judges in items.values():
        of_item = []
        for one, two in combinations(judges, 2):
            for i, j in combinations(range(4), 2):
                a, b = np.sign(one[i] - one[j]), np.sign(two[i] - two[j])
                agree, strict = agree + (a * b > 0), strict + (a * b != 0)
                mixed, compared = mixed + ((a == 0) != (b == 0)), compared + 1
            of_item.append(scipy.stats.kendalltau(one, two).statistic)
        if any(not isnan(t) for t in of_item):
            taus.append(np.nanmean(of_item))
        if any(len(set(one)) > 1 for one in judges):
            m = len(judges)
            ranks = np.array([scipy.stats.rankdata(one) for one in judges])
            ties = sum((c ** 3 - c) for one in judges for c in Counter(one).values())
            ws.append(12 * ((ranks.sum(0) - m * 2.5) ** 2).sum() / (m * m * 60 - m * ties))
    assert found.percent.value == pytest.approx(agree / strict) and strict > 500
    assert found.tie_against_strict.value == pytest.approx(mixed / compared)
    assert found.tau.value == pytest.approx(np.mean(taus)) and found.tau.n == len(taus)
    assert found.w.value == pytest.approx(np.mean(ws)) and found.w.low < found.w.value < found.w.high


def test_the_bootstrap_of_alpha_is_that_of_drawing_items_by_hand():
    _, items = real()
    units = [[list(r.values())] for r in items[:400]]
    got = bootstrap_alpha(units, "interval", resamples=400)
    rng, drawn = np.random.default_rng(1), []
    for _ in range(200):
        picks = rng.integers(0, len(units), len(units))
        drawn.append(bootstrap_alpha([units[i] for i in picks], "interval", resamples=0).value)
    assert got.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.03)
    assert got.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.03)
    assert got.low < got.value < got.high and got.n == sum(len(u[0]) > 1 for u in units)


# ---- one labeler at a time

def test_leave_one_out_does_not_count_a_labeler_among_the_others():
    groups = [judged(f"q{n}", who, tiers) for n in range(20)
              for who, tiers in [("ann", ((0,), (1,), (2,))), ("bob", ((0,), (1,), (2,))), ("eve", ((2,), (1,), (0,)))]]
    groups += [judged(f"alone {n}", "ann", ((0,), (1,), (2,))) for n in range(9)]
    found = leave_one_out(fit(groups))
    assert found["ann"].value == found["bob"].value == 1 and found["ann"].n == 20
    assert found["eve"].value == 0 and found["eve"].high < 0.2


def test_leave_one_out_leaves_out_what_nobody_else_judged():
    """In a panel of three, 20 prompts are shared and 40 more were judged by one person alone."""
    rng = np.random.default_rng(3)
    orders = {who: [tuple((int(i),) for i in rng.permutation(4)) for _ in range(60)] for who in ("ann", "bob", "cy")}
    groups = [judged(f"q{n}", who, orders[who][n], 4) for n in range(20) for who in orders]
    groups += [judged(f"{who} {n}", who, orders[who][n], 4) for n in range(20, 60) for who in orders]
    found = leave_one_out(fit(groups))
    assert [found[who].n for who in orders] == [20, 20, 20]


def test_leave_one_out_takes_a_tie_of_the_others_for_no_opinion():
    groups = [judged(f"q{n}", who, tiers) for n in range(20)
              for who, tiers in [("ann", ((0,), (1,), (2,))), ("bob", ((0, 1), (2,)))]]
    found = leave_one_out(fit(groups))
    assert (found["ann"].value, found["ann"].n) == (1, 20) and (found["bob"].value, found["bob"].n) == (1, 20)


def test_two_labelers_agreement_has_items_as_its_units():
    """Wilson by hand: of 3 items 2 hold strict pairs, 5 of 6 alike."""
    groups = [judged(f"q{n}", "ann", ((0,), (1,), (2,))) for n in range(3)]
    said = ((0,), (1,), (2,)), ((1,), (0,), (2,)), ((0, 1, 2),)
    groups += [judged(f"q{n}", "bob", tiers) for n, tiers in enumerate(said)]
    found, = agreement(groups).by_labelers.values()
    p, n, z = 5 / 6, 2, 1.959964
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (found.value, found.n) == (pytest.approx(p), n)
    assert (found.low, found.high) == (pytest.approx((centre - half) / (1 + z * z / n), abs=1e-4),
                                       pytest.approx((centre + half) / (1 + z * z / n), abs=1e-4))


def test_self_consistency_compares_a_second_look_with_the_look_before():
    group = judged("one", "", ())
    looks = [("ann", ((0,), (1,), (2,)), ""), ("bob", ((0,), (1,), (2,)), ""), ("ann", ((0,), (2,), (1,)), "repeat"),
             ("cy", ((0,), (1,), (2,)), "repeat"), ("bob", ((0, 1), (2,)), "repeat")]
    rankings = [Ranking(str(n), group.id, who, tiers, purpose=purpose) for n, (who, tiers, purpose) in enumerate(looks)]
    found = self_consistency({group.id: group}, rankings)
    assert found["ann"].value == pytest.approx(2 / 3) and found["bob"].value == 1 and set(found) == {"ann", "bob"}


def test_test_questions_are_right_at_three_quarters_of_the_known_order():
    group = judged("one", "", (), 4)
    known = {group.id: ((0,), (1,), (2, 3))}     # five strict pairs
    said = {"ann": ((0,), (1,), (2,), (3,)), "bob": ((1,), (0,), (2, 3)), "cy": ((0, 1, 2, 3),),
            "dan": ((3,), (2,), (1, 0))}
    found = gold_accuracy({group.id: group}, [Ranking(who, group.id, who, tiers, purpose="gold")
                                              for who, tiers in said.items()], known)
    assert {who: gold.accuracy.value for who, gold in found.items()} == {"ann": 1, "bob": 1, "cy": 0, "dan": 0}
    assert not gold_accuracy({group.id: group}, [Ranking("1", group.id, "ann", ((0,), (1,)))], known)


def test_a_test_question_is_answered_once():
    """Whoever submits the right order again and again through "change" has answered one question."""
    group = judged("one", "", (), 4)
    right, wrong = ((0,), (1,), (2,), (3,)), ((3,), (2,), (1,), (0,))

    def looks(who, orders):
        return [Ranking(f"{who}{n}", group.id, who, tiers, purpose="gold", revises=f"{who}{n - 1}" if n else "")
                for n, tiers in enumerate(orders)]
    rankings = looks("ann", [right] * 20) + looks("bob", [wrong, right]) + looks("cy", [(), right])
    found = gold_accuracy({group.id: group}, rankings, {group.id: right})
    assert {who: (g.accuracy.value, g.accuracy.n, g.decision) for who, g in found.items()} == {
        "ann": (1, 1, "undecided"), "bob": (0, 1, "undecided"), "cy": (1, 1, "undecided")}


def test_a_second_look_that_was_changed_counts_once():
    group = judged("one", "", ())
    looks = [(((0,), (1,), (2,)), ""), (((2,), (1,), (0,)), "repeat"), (((0,), (1,), (2,)), "repeat"),
             (((2,), (1,), (0,)), "")]
    rankings = [Ranking(str(n), group.id, "ann", tiers, purpose=purpose) for n, (tiers, purpose) in enumerate(looks)]
    assert [(x.value, x.n) for x in self_consistency({group.id: group}, rankings).values()] == [(1, 1)]


def test_walds_test_decides_early_and_begins_anew():
    # ln(19) = 2.944: eight right answers pass (8 ln 1.5 = 3.24), three wrong ones fail (3 ln 4 = 4.16)
    assert sprt([True] * 7) == "undecided" and sprt([True] * 8) == "pass"
    assert sprt([False] * 2) == "undecided" and sprt([False] * 3) == "fail"
    assert sprt([True] * 8 + [False] * 3) == "fail" and sprt([False] * 3 + [True] * 8) == "pass"
    rng = np.random.default_rng(0)
    wrong = sum(sprt(list(rng.random(12) < 0.9)) == "fail" for _ in range(1000))
    assert wrong < 60
