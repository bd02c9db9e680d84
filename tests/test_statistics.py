"""Known values are entered by hand (textbooks, tables, other packages); coverage is checked by simulation."""

from math import isnan

import numpy as np
import pytest

from tunesmith import statistics as st


def test_interval_prints_and_survives_json():
    i = st.Interval(0.7213, 0.698, 0.7444, 900)
    assert str(i) == "72.1% [69.8, 74.4]"
    assert f"{st.Interval(38.04, 36.2, 40, 9):.1f}" == "38.0 [36.2, 40.0]"
    assert st.Interval(float("nan"), 0, float("inf"), 0).to_dict() == {"value": None, "low": 0, "high": None, "n": 0}
    assert st.Interval(**i.to_dict()) == i


def test_wilson_against_known_values():
    # 10 of 20 and 0 of 10: Newcombe 1998 style values; R: prop.test(x, n, correct = FALSE)
    ten = st.wilson(10, 20)
    assert (ten.value, ten.low, ten.high) == pytest.approx((0.5, 0.29930, 0.70070), abs=1e-5)
    none = st.wilson(0, 10)
    assert (none.low, none.high) == pytest.approx((0, 0.27753), abs=1e-5)
    assert st.wilson(81, 263).low == pytest.approx(0.2553, abs=1e-4)   # Newcombe 1998, table I
    assert st.wilson(81, 263).high == pytest.approx(0.3662, abs=1e-4)
    assert isnan(st.wilson(0, 0).value)


def test_bootstrap_mean_matches_the_normal_interval_on_well_behaved_data():
    x = np.random.default_rng(1).normal(5, 2, 1000)
    i = st.bootstrap_mean(x, seed=3)
    half = 1.96 * x.std() / np.sqrt(1000)
    assert (i.value, i.low, i.high) == pytest.approx((x.mean(), x.mean() - half, x.mean() + half), abs=0.02)
    assert i == st.bootstrap_mean(x, seed=3)
    assert i != st.bootstrap_mean(x, seed=4)
    assert i.n == 1000


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_covers_the_truth_about_as_often_as_it_says(method):
    rng = np.random.default_rng(0)
    hits = sum((i := st.bootstrap_mean(rng.exponential(1, 60), resamples=500, seed=s, method=method)).low <= 1 <= i.high
               for s in range(400))
    assert 0.89 < hits / 400 < 0.98


def test_bca_moves_towards_the_long_tail():
    x = np.random.default_rng(2).exponential(1, 40)
    plain, bca = st.bootstrap_mean(x), st.bootstrap_mean(x, method="bca")
    assert bca.low > plain.low and bca.high > plain.high


def test_bootstrap_works_in_blocks(monkeypatch):
    x = np.arange(50.0)
    whole = st.bootstrap_mean(x)
    monkeypatch.setattr(st, "_CHUNK", 120)
    blocks = st.bootstrap_mean(x)
    assert (blocks.low, blocks.high) == pytest.approx((whole.low, whole.high), rel=1e-12)


def test_ratio_weighs_items_by_their_denominator():
    i = st.bootstrap_ratio([9, 0], [9, 1])
    assert i.value == pytest.approx(0.9)
    assert (i.low, i.high) == (0, 1)
    with pytest.raises(ValueError, match="2 numerators for 1"):
        st.bootstrap_ratio([1, 2], [1])
    assert isnan(st.bootstrap_ratio([0], [0]).value)


def test_paired_difference_cancels_what_is_common():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 400)
    a, b = hard + 1 + rng.normal(0, .5, 400), hard + rng.normal(0, .5, 400)
    d = st.paired_difference(a, b)
    assert d.value == pytest.approx(1, abs=0.15) and d.low > 0.8 and d.high < 1.2
    assert st.paired_difference(b, a).high < 0
    with pytest.raises(ValueError, match="400 values against 3"):
        st.paired_difference(a, [1, 2, 3])


def test_relative_change():
    i = st.relative_change([0, 1, 0, 0] * 50, [1, 1, 0, 0] * 50)
    assert i.value == pytest.approx(-0.5)
    assert -0.7 < i.low < -0.5 < i.high < -0.3


def test_preference_counts_ties_half_and_shows_them():
    o = st.outcomes([2, 1, 1, 5.0], [1, 1, 2, 4.95], tie_within=0.1)
    assert o.tolist() == [1, .5, 0, .5]
    p = st.preference_rate(o)
    assert (p.rate.value, p.tie_rate.value, p.wins, p.ties, p.losses) == (0.5, 0.5, 1, 2, 1)
    other = st.preference_rate(st.outcomes([1, 1, 1], [2, 1, 2]))
    assert other.rate.value == pytest.approx(1 / 6)


def test_preference_that_is_always_won_still_has_width():
    assert st.preference_rate([1] * 20).rate.low == pytest.approx(st.wilson(20, 20).low)


def test_mean_interval_uses_wilson_for_shares():
    assert st.mean_interval([0] * 900).high == pytest.approx(0.00425, abs=1e-4)
    assert st.mean_interval([0, 1, 2.5]).value == pytest.approx(3.5 / 3)


def test_over_seeds_is_wider_than_one_seed_when_seeds_differ():
    rng = np.random.default_rng(0)
    same = [rng.random(300) < 0.7 for _ in range(3)]
    apart = [rng.random(300) < p for p in (0.5, 0.7, 0.9)]
    a, b = st.over_seeds(same), st.over_seeds(apart)
    assert b.high - b.low > 2 * (a.high - a.low)
    assert b.value == pytest.approx(np.mean([x.mean() for x in apart]))
    assert a.n == 900


def test_crossed_seeds_share_the_prompts_they_drew():
    difficulty = np.random.default_rng(0).random(300)          # all seeds answer the same prompts the same way
    crossed, nested = (st.over_seeds([difficulty] * 3, crossed=c) for c in (True, False))
    alone = st.bootstrap_mean(difficulty)
    assert crossed.high - crossed.low == pytest.approx(alone.high - alone.low, rel=0.08)
    assert nested.high - nested.low == pytest.approx((alone.high - alone.low) / np.sqrt(3), rel=0.08)


@pytest.mark.parametrize(("df", "expected"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (100, 1.98397)])
def test_t_quantile_against_the_table(df, expected):
    assert st.t_quantile(0.975, df) == pytest.approx(expected, rel=1e-4)


def test_t_interval():
    i = st.t_interval([1, 2, 3])
    assert (i.value, i.low, i.high) == pytest.approx((2, 2 - 4.30265 / np.sqrt(3), 2 + 4.30265 / np.sqrt(3)), rel=1e-4)
    assert st.t_interval([1]).high == float("inf")


def test_calibration_by_hand():
    c = st.calibration([0.1, 0.1, 0.9, 0.9, 1.0], [0, 1, 1, 1, 0], bins=2)
    assert [(b.predicted, b.observed.value, b.observed.n) for b in c.bins] == [
        (pytest.approx(0.1), 0.5, 2), (pytest.approx(2.8 / 3), pytest.approx(2 / 3), 3)]
    assert c.ece == pytest.approx((2 * 0.4 + 3 * (2.8 / 3 - 2 / 3)) / 5)
    assert c.brier == pytest.approx((.01 + .81 + .01 + .01 + 1) / 5)


def test_calibration_of_a_calibrated_forecaster():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    y = rng.random(20_000) < p
    assert st.calibration(p, y).ece < 0.015
    assert st.calibration(p, ~y).ece > 0.4


def test_rank_correlations_against_known_values():
    # scipy.stats on the same data: spearmanr 0.8207826816681233, kendalltau 0.6708203932499369 (with ties)
    x, y = [1, 2, 3, 4, 5], [5, 6, 7, 8, 7]
    assert st.spearman(x, y) == pytest.approx(0.8207826816681233)
    assert st.kendall_tau_b([1, 2, 2, 4], [1, 2, 3, 4]) == pytest.approx(5 / np.sqrt(30))
    assert st.kendall_tau_b([1, 2, 3], [3, 2, 1]) == -1
    assert isnan(st.kendall_tau_b([1, 1], [1, 2])) and isnan(st.spearman([1, 1], [1, 2]))
    assert st.ranks([10, 20, 20, 5]).tolist() == [2, 3.5, 3.5, 1]


def test_auc_by_hand():
    assert st.auc([.1, .4, .35, .8], [0, 0, 1, 1]) == 0.75
    assert st.auc([.1, .4, .35, .8], [1, 1, 0, 0]) == 0.25
    assert st.auc([1, 1], [0, 1]) == 0.5


def test_auc_of_kinds_that_do_not_mix_is_not_sure_from_two():
    two = st.auc_interval([0, 1], [0, 1], ["a", "b"], level=0.9)
    assert (two.value, two.n) == (1.0, 2) and two.low < 0.5
    many = st.auc_interval([0] * 30 + [1] * 30, [1] * 30 + [0] * 30, range(60))
    assert many.value == 0 and 0.05 < many.high < 0.2
