"""The fitted law is the one that made the losses, and the advice follows from its interval."""

import numpy as np
import pytest

from tunesmith.data.growth import fit, growth
from tunesmith.errors import DataError

SIZES = (100, 300, 1000, 3000)


def losses(floor, scale, exponent, noise=0.0, seeds=3, sizes=SIZES, seed=0):
    rng = np.random.default_rng(seed)
    return {n: [(floor + scale * n**-exponent) * float(np.exp(noise * rng.normal())) for _ in range(seeds)]
            for n in sizes}


@pytest.mark.parametrize("law", [(1.0, 5.0, 0.5), (0.0, 3.0, 0.25), (2.0, 40.0, 1.0)])
def test_finds_the_law_that_made_the_losses(law):
    made = np.array([law[0] + law[1] * n**-law[2] for n in SIZES])
    found = fit(SIZES, made)
    assert float(found.exponent[0]) == pytest.approx(law[2], rel=0.02)
    assert [float(found.at(n)[0]) for n in SIZES] == pytest.approx(made, rel=3e-3)
    assert float(found.at(6000)[0]) == pytest.approx(law[0] + law[1] * 6000**-law[2], rel=0.01)


def test_a_law_never_rises_and_has_no_floor_below_zero():
    rising = fit(SIZES, [1.0, 1.1, 1.2, 1.3])
    assert float(rising.scale[0]) == 0 and float(rising.floor[0]) == pytest.approx(1.13, abs=0.03)
    falling = fit(SIZES, [8.0, 2.0, 0.4, 0.05])
    assert float(falling.floor[0]) >= 0


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """20 curves; of 95% intervals of the gain by doubling at least 16 hold it (binomial: 1 in 300 below)."""
    truth = 1 - (1 + 5 * 6000**-0.5) / (1 + 5 * 3000**-0.5)
    hits = sum(g.doubling.low <= truth <= g.doubling.high
               for g in (growth(losses(1, 5, 0.5, 0.01, seed=s)) for s in range(20)))
    assert hits >= 16


@pytest.mark.parametrize(("law", "advice"), [((0.5, 12.0, 0.4), "more"), ((2.0, 5.0, 1.0), "better")])
def test_advice(law, advice):
    found = growth(losses(*law, noise=0.003))
    assert found.advice == advice
    assert f"From 3,000 to 6,000 examples the loss would fall by {found.doubling}" in found.text


def test_noise_gives_no_advice():
    assert growth(losses(1.5, 5, 0.5, noise=0.08)).advice == "unclear"


def test_three_runs_give_no_advice():
    """Their law goes through all of them, so its interval has no width."""
    assert growth(losses(0.5, 12.0, 0.4, seeds=1, sizes=SIZES[:3])).advice == "unclear"


def test_the_same_losses_give_the_same_report():
    assert growth(losses(1, 5, 0.5, 0.01)).to_dict() == growth(losses(1, 5, 0.5, 0.01)).to_dict()


def test_too_little_is_said():
    with pytest.raises(DataError, match="at least 3 sizes, got 2"):
        growth({100: [1.0], 300: [0.9]})
    with pytest.raises(DataError, match="above zero"):
        growth({100: [1.0], 300: [0.0], 1000: [0.5]})
