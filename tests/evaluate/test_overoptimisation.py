"""Fits find the parameters that made the data; best-of-n from one pool equals drawing again and again."""

import math

import numpy as np
import pytest

from tunesmith.errors import DataError
from tunesmith.evaluate import overoptimisation as over
from tunesmith.evaluate.overoptimisation import Point


def made(kind, alpha, beta, noise, seed=0, most=5.0, count=25):
    rng = np.random.default_rng(seed)
    d = np.linspace(0.2, most, count)
    gold = d * (alpha - beta * (np.log(d) if kind == "rl" else d)) + noise * rng.normal(size=count)
    return [Point(float(x * x), float(y)) for x, y in zip(d, gold)]


@pytest.mark.parametrize(("kind", "alpha", "beta"), [("rl", 0.9, 0.5), ("bon", 0.8, 0.13)])
def test_the_fit_finds_what_made_the_points(kind, alpha, beta):
    exact = over.fit(made(kind, alpha, beta, 0.0), kind)
    assert exact.alpha.value == pytest.approx(alpha) and exact.beta.value == pytest.approx(beta)
    top = math.exp(alpha / beta - 1) if kind == "rl" else alpha / beta / 2
    grid = np.linspace(0.01, 10, 20_000)
    best = max(grid, key=exact.gold)
    assert exact.distance.value == pytest.approx(top) == pytest.approx(best, abs=1e-3)
    assert exact.peak.value == pytest.approx(exact.gold(best), abs=1e-6)


@pytest.mark.parametrize("kind", ["rl", "bon"])
def test_the_interval_of_the_peak_holds_it_as_often_as_it_says(kind):
    alpha, beta = (0.9, 0.5) if kind == "rl" else (0.8, 0.13)
    top = math.exp(alpha / beta - 1) if kind == "rl" else alpha / beta / 2
    hits = [f.distance.low <= top <= f.distance.high for seed in range(150)
            for f in [over.fit(made(kind, alpha, beta, 0.05, seed), kind)]]
    assert 0.88 <= np.mean(hits) <= 0.99


def test_points_that_do_not_bend_have_no_peak():
    rising = [Point(k / 2, 0.3 * math.sqrt(k / 2)) for k in range(1, 9)]
    found = over.fit(rising, "bon")
    assert found.distance.value == math.inf or found.distance.value > 100
    assert over.section(rising, "bon", title="t", gold="g")["fit"]["distance"]["high"] is None
    with pytest.raises(DataError, match="too few"):
        over.fit(rising[:3], "rl")


def test_errors_of_points_weigh_them():
    good = made("bon", 0.8, 0.13, 0.0)
    spoiled = [Point(p.kl, p.gold, error=0.01) for p in good] + [Point(4.0, 9.0, error=100.0)]
    assert over.fit(spoiled, "bon").beta.value == pytest.approx(0.13, abs=1e-4)


def test_best_of_n_is_what_drawing_gives():
    """Every subset of n of N answers, in full."""
    from itertools import combinations

    rng = np.random.default_rng(1)
    gold, proxy = rng.normal(size=7), np.array([0.1, 2.0, 2.0, -1.0, 0.5, 0.5, 3.0])
    for n in range(1, 8):
        drawn = []
        for some in combinations(range(7), n):
            top = max(proxy[list(some)])
            drawn.append(np.mean([gold[i] for i in some if proxy[i] == top]))
        tied = over.best_of(gold, proxy, n)
        assert tied[0] == pytest.approx(np.mean(drawn), abs=0.05)  # ties share places one by one, not per draw
        distinct = proxy + np.arange(7) * 1e-9
        drawn = [gold[max(some, key=lambda i: distinct[i])] for some in combinations(range(7), n)]
        assert over.best_of(gold, distinct, n)[0] == pytest.approx(np.mean(drawn), abs=1e-12)
    with pytest.raises(DataError, match="at least n"):
        over.best_of(gold, proxy, 8)


def test_the_kl_of_best_of_n_is_exact_for_a_continuous_score():
    """The density of the best of n at quantile u is n u^(n-1); its KL from the uniform one by a fine sum."""
    u = (np.arange(400_000) + 0.5) / 400_000
    for n in (1, 2, 8, 64):
        density = n * u ** (n - 1)
        assert over.bon_kl(n) == pytest.approx(float(np.mean(density * (math.log(n) + (n - 1) * np.log(u)))), abs=1e-3)


def test_a_pool_whose_proxy_is_hacked_turns_down():
    """Gold = quality - what the hack costs; the proxy loves the hack: best-of-n rises and then falls."""
    rng = np.random.default_rng(2)
    quality, hack = rng.normal(size=(200, 64)), rng.exponential(size=(200, 64)) ** 2
    points = over.best_of_n(quality - 0.5 * hack, quality + 0.6 * hack)
    assert [p.step for p in points] == [1, 2, 4, 8, 16, 32, 64] and points[0].gold == 0 == points[0].kl
    assert [p.proxy for p in points] == sorted(p.proxy for p in points)
    assert points[-1].gold < max(p.gold for p in points)
    assert 0 < over.fit(points, "bon").distance.value < math.sqrt(over.bon_kl(64))
    interval = over.interval_of(quality, quality + 0.0 * hack, 4)
    assert interval.low < 1.03 < interval.high  # the mean of the best of four normal draws


def test_a_run_gives_points_with_the_kl_of_the_version_that_gold_saw():
    lines = [{"step": 1, "kl": 0.0, "reward": 1.0}, {"step": 2, "kl": 0.5, "reward": 1.5, "gold": 0.6},
             {"step": 3, "kl": 0.9, "reward": 2.0}, {"step": 4, "kl": 1.4, "reward": 2.5, "gold": 0.5}]
    assert over.from_metrics(lines, 0.4) == [Point(0.9, pytest.approx(0.2), 1.0, 2),
                                             Point(1.4, pytest.approx(0.1), 1.5, 4)]
    told = over.section(over.from_metrics(lines, 0.4), "rl", title="PPO", gold="a rubric", stopped="gold fell",
                        best_step=2)
    assert "+0.200" in told["text"] and "update 2" in told["text"] and told["svg"].startswith("<svg")
    assert "fit" not in told and "nobody knows" in over.section([], "rl", title="t", gold="g")["text"]
