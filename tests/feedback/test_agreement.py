from math import isnan, nan

import numpy as np
import pytest

from tunesmith.feedback.agreement import _mid_ranks, agreement, kendall_w, krippendorff_alpha
from tunesmith.records import Answer, AnswerGroup, Message, Prompt

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
    assert a.percent.value == 0 and a.alpha_ranks < 0 and a.alpha_pairs < 0


def test_random_rankings_agree_by_half_and_alpha_is_near_zero():
    rng = np.random.default_rng(0)
    a = agreement([judged(str(n), who, tuple((int(i),) for i in rng.permutation(4)), 4)
                   for n in range(500) for who in ("ann", "bob", "cy")])
    assert a.percent.value == pytest.approx(0.5, abs=0.02)
    assert abs(a.alpha_ranks) < 0.05 and abs(a.alpha_pairs) < 0.05
    assert a.percent.low < 0.5 < a.percent.high and a.percent.high - a.percent.low < 0.06


def test_nothing_judged_twice():
    a = agreement([judged("one", "ann", ((0,), (1,)))])
    assert isnan(a.percent.value) and isnan(a.alpha_ranks) and a.items == 0
