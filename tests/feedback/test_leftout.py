import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from tunesmith.feedback.ability import SCORE_VARIANCE, fit
from tunesmith.feedback.leftout import abilities, judgements, predicted, sway, without_both, without_each
from tunesmith.records import Answer, AnswerGroup, Message, Prompt

ORDERS = {"ann": ((0, 1, 2), (1, 0)), "bob": ((0, 2, 1), (0, 1)), "cyd": ((2, 1, 0), (1, 0)),
          "dee": ((1, 0, 2), (0, 1))}


def judged(labeler, n, order):
    return AnswerGroup(Prompt((Message("user", f"question {n}"),)), tuple(Answer(f"answer {i}") for i in sorted(order)),
                       tuple((i,) for i in order), labeler=labeler, shown=tuple(order[::-1]))


FIT = fit([judged(name, n, order) for name, both in ORDERS.items() for n, order in enumerate(both)])
FOUND = judgements(FIT)


def by_hand(block, left_out):
    """The mode of one prompt's scores by a general optimizer, without the labelers named."""
    rows, (a, b) = FIT.rows, abilities(FIT)
    start, k = FIT.rows.blocks[block].start, len(FIT.rows.blocks[block].answers)
    number = FIT.rows.blocks[block].number
    use = [r for r in range(len(rows.y_R))
           if rows.block_R[r] == number and rows.names[rows.labeler_R[r]] not in left_out]

    def loss(s):
        total = s @ s / SCORE_VARIANCE / 2
        for r in use:
            w = rows.labeler_R[r]
            z = a[w] * (s[rows.first_R[r] - start] - s[rows.second_R[r] - start]) + b[w] * rows.position_R[r]
            total += rows.weight_R[r] * (np.logaddexp(0, z) - rows.y_R[r] * z)
        return total
    return minimize(loss, np.zeros(k), tol=1e-12).x


def test_scores_without_one_labeler_are_those_of_a_fit_without_the_judgement():
    blocks = list(FIT.rows.blocks)
    (units, mean, covariance), = without_each(FIT, FOUND)
    assert len(units) == 8 and FOUND.shared_J.all()
    for j in units:
        block, name = blocks[FOUND.block_J[j]], FIT.rows.names[FOUND.labeler_J[j]]
        expected = by_hand(block, {name})
        assert mean[j, :len(expected)] == pytest.approx(expected, abs=1e-4)
    short = [j for j in units if blocks[FOUND.block_J[j]] == blocks[1]]
    assert np.all(mean[short, 2] == 0) and covariance[short[0], 2, 2] == pytest.approx(SCORE_VARIANCE)


def test_scores_without_two_labelers():
    one, two = np.array([0, 1]), np.array([3, 2])
    (units, mean, _), = without_both(FIT, FOUND, one, two)
    for u in units:
        names = {FIT.rows.names[FOUND.labeler_J[j]] for j in (one[u], two[u])}
        assert mean[u] == pytest.approx(by_hand(next(iter(FIT.rows.blocks)), names), abs=1e-4)


def test_judgements_say_who_preferred_what_and_what_was_shown_first():
    j = next(j for j in range(8) if FIT.rows.names[FOUND.labeler_J[j]] == "bob" and FOUND.block_J[j] == 0)
    answers = next(iter(FIT.rows.blocks.values())).answers
    place = [answers[f"answer {i}"] for i in range(3)]
    said, first = FOUND.preference_JKK[j], FOUND.first_JKK[j]
    assert said[place[0], place[2]] == 1 and said[place[1], place[2]] == 0 and np.isnan(said[0, 0])
    assert first[place[1], place[2]] == 1 and first[place[0], place[1]] == -1


def test_predictions_allow_for_uncertainty_and_position():
    mean, none, wide = np.array([[1.0, 0.0]]), np.zeros((1, 2, 2)), np.eye(2)[None]
    sure = predicted(np.array([2.0]), mean, none)
    assert sure[0, 0, 1] == pytest.approx(expit(2.0)) and sure[0, 1, 0] == pytest.approx(expit(-2.0))
    assert predicted(np.array([2.0]), mean, wide)[0, 0, 1] == pytest.approx(expit(2 / np.sqrt(1 + np.pi)))
    pull = np.array([[[0, -3.0], [3.0, 0]]])
    assert predicted(np.array([2.0]), mean, none, pull)[0, 0, 1] == pytest.approx(expit(-1.0))


def test_sway_is_the_spread_of_the_probability():
    mean, covariance = np.array([[0.4, 0.0]]), np.diag([0.7, 0.3])[None]
    draws = expit(-1.5 * (0.4 + np.random.default_rng(0).normal(size=200_000)) + 0.2)
    pull = np.array([[[0, 0.2], [-0.2, 0]]])
    found = sway(np.array([-1.5]), mean, covariance, pull)
    assert found[0, 0, 1] == pytest.approx(-draws.std(), rel=0.02) and found[0, 1, 0] == pytest.approx(found[0, 0, 1])
    assert sway(np.array([2.0]), mean, 0 * covariance)[0, 0, 1] == pytest.approx(0.0, abs=1e-3)
