"""Ladders and length-controlled rates against scipy's own optimisers, and sample sizes against brute force."""

import doctest
from math import sqrt

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from tunesmith.errors import NotFound, UserError
from tunesmith.evaluate import plan
from tunesmith.evaluate.compare import Comparison, Judged
from tunesmith.evaluate.ladder import RIDGE, controlled, ladder, length_controlled, worst_fit
from tunesmith.evaluate.outcomes import Outcomes, of_comparison, of_scores
from tunesmith.records import Answer, Message, Prompt

STRENGTHS = {"base": -1.0, "sft": 0.0, "dpo": 0.6, "ppo": 0.9}


def drawn(n=400, tie=0.0, strengths=STRENGTHS, seed=0):
    """Outcomes of models of known strengths; ties by Davidson's model."""
    rng, models, table = np.random.default_rng(seed), list(strengths), {}
    for i, a in enumerate(models):
        for b in models[i + 1:]:
            d = strengths[a] - strengths[b]
            weights = np.array([np.exp(d / 2), tie, np.exp(-d / 2)])
            table[a, b] = rng.choice([1.0, 0.5, 0.0], n, p=weights / weights.sum())
    return Outcomes(tuple(models), table)


def by_scipy(outcomes, prior, davidson=False):
    """The same likelihoods, written out pair by pair and maximised by a general method."""
    models = list(outcomes.models)

    def loss(theta):
        s, total = dict(zip(models, theta)), 0.0
        nu = np.exp(theta[-1]) if davidson else 0.0
        for (a, b), x in outcomes.table.items():
            x = x[~np.isnan(x)]
            d = s[a] - s[b]
            norm = np.exp(d / 2) + np.exp(-d / 2) + nu
            wins, ties, losses = (x == 1).sum(), (x == 0.5).sum(), (x == 0).sum()
            if not davidson:
                wins, losses = wins + ties / 2, losses + ties / 2
            total -= (wins + prior / 2) * (d / 2 - np.log(norm)) + (losses + prior / 2) * (-d / 2 - np.log(norm))
            if davidson:
                total -= ties * (theta[-1] - np.log(norm))
        return total + 1e-6 * np.sum(np.square(theta[:len(models)]))

    found = minimize(loss, np.zeros(len(models) + davidson), method="BFGS", options={"gtol": 1e-7}).x
    return dict(zip(models, found[:len(models)] - found[:len(models)].mean())), np.exp(found[-1]) if davidson else 0.0


@pytest.mark.parametrize("ties", ["half", "davidson"])
@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_strengths_equal_scipys(ties, prior):
    outcomes = drawn(150, tie=0.7)
    found = ladder(outcomes, ties=ties, prior=prior, resamples=10)
    expected, nu = by_scipy(outcomes, prior, ties == "davidson")
    for rung in found.rungs:
        assert rung.strength.value == pytest.approx(expected[rung.model], abs=1e-4)
    assert found.tie == pytest.approx(nu, abs=1e-3) and found.converged == 1.0


def test_the_order_is_found_and_the_intervals_hold_the_truth():
    hits = total = 0
    mean = np.mean(list(STRENGTHS.values()))
    for seed in range(20):
        found = ladder(drawn(120, seed=seed), resamples=150, seed=seed)
        assert found.rungs[-1].model == "base" and found.rungs[-1].place.value == 4
        for rung in found.rungs:
            hits += rung.strength.low <= STRENGTHS[rung.model] - mean <= rung.strength.high
            total += 1
    assert 0.88 <= hits / total <= 1.0  # 95% asked


def test_davidsons_tie_parameter_is_found():
    assert ladder(drawn(3000, tie=0.7), ties="davidson", resamples=1).tie == pytest.approx(0.7, abs=0.08)
    assert ladder(drawn(300), ties="davidson", resamples=1).tie < 0.01


def test_the_anchor_has_strength_zero_and_rates_follow():
    found = ladder(drawn(3000), anchor="base", resamples=20)
    at = {r.model: r.strength for r in found.rungs}
    assert (at["base"].value, at["base"].low, at["base"].high) == (0, 0, 0)
    assert at["sft"].value == pytest.approx(1.0, abs=0.1)
    assert found.rate("ppo", "base") == pytest.approx(expit(1.9), abs=0.02)
    assert found.rate("ppo", "base") + found.rate("base", "ppo") == pytest.approx(1)


def test_a_pair_that_does_not_fit_the_order_is_named():
    """Rock, paper, scissors: all strengths equal, every pair far from one half."""
    ring = Outcomes(("a", "b", "c"), {("a", "b"): np.r_[np.ones(40), 0], ("b", "c"): np.r_[np.ones(40), 0],
                                      ("a", "c"): np.r_[np.zeros(40), 1]})
    found = ladder(ring, resamples=5)
    assert all(abs(r.strength.value) < 1e-6 for r in found.rungs)
    assert abs(worst_fit(found)[1]) > 0.4


def test_a_model_that_won_everything_stays_finite_or_is_refused():
    sweep = Outcomes(("a", "b"), {("a", "b"): np.ones(30)})
    found = ladder(sweep, resamples=20)
    assert found.rungs[0].model == "a" and 0 < found.rungs[0].strength.value < 10
    with pytest.raises(UserError, match=r'"a" never lost to b'):
        ladder(sweep, prior=0)


def test_models_that_nobody_compared_are_named():
    apart = Outcomes(("a", "b", "c", "d"), {("a", "b"): np.array([1.0, 0]), ("c", "d"): np.array([1.0, 0])})
    with pytest.raises(UserError, match='nobody compared "c", "d" with "a", "b"'):
        ladder(apart)
    unread = Outcomes(("a", "b"), {("a", "b"): np.array([np.nan, np.nan])})
    with pytest.raises(UserError, match="nobody compared"):
        ladder(unread)
    with pytest.raises(UserError, match="at least two"):
        ladder(Outcomes(("a",), {}))


def test_missing_verdicts_are_left_out():
    full = drawn(100)
    holes = {p: np.where(np.arange(100) % 3 == 0, np.nan, x) for p, x in full.table.items()}
    kept = {p: x[np.arange(100) % 3 != 0] for p, x in full.table.items()}
    a = ladder(Outcomes(full.models, holes), resamples=1)
    b = ladder(Outcomes(full.models, kept), resamples=1)
    assert [r.strength.value for r in a.rungs] == pytest.approx([r.strength.value for r in b.rungs])
    assert a.prompts == 66


def test_outcomes_can_be_read_in_either_direction():
    outcomes = of_scores({"a": [1, 2, 3.0], "b": [1, 3, 1.0]})
    assert outcomes.of("a", "b").tolist() == [0.5, 0, 1] and outcomes.of("b", "a").tolist() == [0.5, 1, 0]
    assert outcomes.preference("a", "b").rate.value == 0.5
    with pytest.raises(NotFound, match='nobody judged "c"'):
        outcomes.of("a", "c")


# ---- length

def longwinded(n=600, quality=0.0, taste=1.5, verbosity=1.0, seed=0):
    """A judge that likes length, a model that writes more: outcomes and lengths."""
    rng = np.random.default_rng(seed)
    base, mine = rng.normal(60, 15, n), rng.normal(60 + 15 * verbosity, 15, n)
    difference = mine - base
    p = expit(quality + taste * np.tanh(difference / difference.std()))
    return (rng.random(n) < p).astype(float), mine, base


def test_the_length_controlled_fit_equals_scipys():
    y, mine, base = longwinded(quality=0.4)
    x = np.tanh((mine - base) / (mine - base).std())

    def loss(theta):
        z = theta[0] + theta[1] * x
        return -(y * z - np.logaddexp(0, z)).sum() + RIDGE * theta[1] ** 2 / 2 + 1e-3 * theta[0] ** 2 / 2

    expected = minimize(loss, [0, 0], method="BFGS", options={"gtol": 1e-8}).x
    found = length_controlled(y, mine, base, resamples=50)
    assert found.rate.value == pytest.approx(expit(expected[0]), abs=1e-5)
    assert found.slope.value == pytest.approx(expected[1], abs=1e-4)


def test_what_length_bought_is_taken_away():
    y, mine, base = longwinded(2000)
    found = length_controlled(y, mine, base, resamples=200)
    assert found.raw.rate.low > 0.6  # the judge prefers the model
    assert found.rate.low < 0.5 < found.rate.high and found.slope.low > 1 and found.longer.low > 0.7
    fair = length_controlled(*longwinded(2000, quality=0.8, taste=0), resamples=200)
    assert abs(fair.rate.value - fair.raw.rate.value) < 0.05 and fair.rate.low > 0.6
    assert fair.slope.low < 0 < fair.slope.high


def test_turning_the_models_around_turns_the_rate_around():
    y, mine, base = longwinded(quality=0.4)
    one, two = length_controlled(y, mine, base, resamples=5), length_controlled(1 - y, base, mine, resamples=5)
    assert one.rate.value + two.rate.value == pytest.approx(1, abs=1e-9)


def test_without_a_difference_in_length_nothing_changes():
    y = np.array([1, 1, 0, 1.0])
    same = length_controlled(y, [5] * 4, [3] * 4)
    assert same.rate == same.raw.rate and same.slope.value == 0
    sweep = length_controlled(np.ones(9), np.arange(9), np.zeros(9))
    assert sweep.rate == sweep.raw.rate


def test_unjudged_prompts_are_left_out():
    y, mine, base = longwinded(100)
    holes = np.where(np.arange(100) < 30, np.nan, y)
    assert length_controlled(holes, mine, base, resamples=3) == length_controlled(y[30:], mine[30:], base[30:],
                                                                                  resamples=3)


def test_a_comparisons_own_lengths_are_used():
    prompts = tuple(Prompt((Message("user", str(n)),)) for n in range(40))
    long = tuple(Judged(Answer("word " * (20 + n % 7)), 1.0 if n % 4 else 0.0) for n in range(40))
    short = tuple(Judged(Answer("word " * (10 + n % 5)), 0.5) for n in range(40))
    comparison = Comparison(prompts, {"short": short, "long": long})
    found = controlled(comparison, "long", "short")
    assert found.raw.rate.value == 0.75 == of_comparison(comparison).preference("long", "short").rate.value
    assert found.longer.value == 1.0


# ---- sample size

def width(n, p, z=1.959963984540054):
    return z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)


@pytest.mark.parametrize("rate", [0.5, 0.71, 0.85, 0.99])
@pytest.mark.parametrize("half", [0.03, 0.1])
def test_no_smaller_number_would_do(rate, half):
    smallest = next(n for n in range(1, 5000) if width(n, rate) <= half)
    assert plan.needed(half, rate) == smallest
    assert all(width(n, rate) <= half for n in range(smallest, smallest + 500))


def test_instructgpts_rates_need_what_the_claims_say():
    """±3% at 85% and 71%: 550 and 880, to the next ten."""
    assert -(-plan.needed(0.03, 0.85) // 10) * 10 == 550 and -(-plan.needed(0.03, 0.71) // 10) * 10 == 880


def test_reach_is_the_interval_that_comes():
    found = plan.reach(550, 0.85)
    assert (found.high - found.low) / 2 <= 0.03 and found.value == pytest.approx(0.85)
    assert plan.half_width(545, 0.85) > 0.03 or plan.needed(0.03, 0.85) <= 545
    assert "±3.0 needs" in plan.sentence(100, 0.85) and "needs" not in plan.sentence(5000, 0.85)


@pytest.mark.parametrize("rate", [0.55, 0.6, 0.8, 0.3])
def test_telling_a_rate_from_one_half(rate):
    n = plan.telling(rate)
    low = [plan.reach(m, max(rate, 1 - rate)).low for m in (n - 1, n)]
    assert low[0] <= 0.5 < low[1]


@pytest.mark.parametrize("wrong", [(0.0, 0.5), (0.6, 0.5), (0.03, 1.5)])
def test_a_precision_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="no precision"):
        plan.needed(*wrong)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(plan) == (0, 2)
