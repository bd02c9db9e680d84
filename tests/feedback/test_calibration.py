import numpy as np
import pytest

from tunesmith.feedback import calibration
from tunesmith.feedback.calibration import calibrate, cases
from tunesmith.feedback.signals import Evidence
from tunesmith.records import Answer, AnswerGroup, Message, Pair, Prompt


def prompt(n):
    return Prompt((Message("user", f"question {n}"),))


def single(n, **found):
    return Evidence(prompt(n), (Answer("a"),), {k.replace("_", " "): v for k, v in found.items()}, f"u{n}", (f"i{n}",))


def ranked(n, tiers=((0,), (1,), (2,))):
    return AnswerGroup(prompt(n), (Answer("a"), Answer("b"), Answer("c")), tiers)


def world(n=400, seed=0):
    """Users of answers whose worth is q: resolved and complained tell of it, dwells do not, thumbs are inverted."""
    rng = np.random.default_rng(seed)
    found, judged = [], []
    for k in range(n):
        q = rng.normal()
        yes = rng.random(3) < 1 / (1 + np.exp([-1.5 * q, 1.5 * q + 1, 1.5 * q]))
        heard = {"resolved": 2.0 * yes[0] - 1, "complained": -1.0 * yes[1], "looked long": float(rng.normal())}
        thumb = {"thumb": 2.0 * yes[2] - 1} if rng.random() < 0.4 else {}
        found.append(Evidence(prompt(k), (Answer("a"),), {n: v for n, v in {**heard, **thumb}.items() if v}, f"u{k}",
                              (f"i{k}",)))
        others = rng.normal(size=2) + rng.gumbel(size=2) * 0.5
        order = np.argsort([-q - rng.gumbel() * 0.5, *-others])
        judged.append(ranked(k, tuple((int(i),) for i in order)))
    return found, judged


def test_a_case_is_a_comparison_that_a_person_made_of_the_answer():
    found = cases([single(0, resolved=1.0), single(1, resolved=1.0)], [ranked(0, ((1,), (0, 2)))])
    assert [(c.preferred, c.weight) for c in found] == [(False, 1.0)]  # the tie with c says nothing; nobody judged 1
    both = cases([single(0, resolved=1.0)], [ranked(0, ((1,), (0,), (2,)))])
    assert sorted(c.preferred for c in both) == [False, True] and [c.weight for c in both] == [0.5, 0.5]
    soft = AnswerGroup(prompt(0), (Answer("a"), Answer("b")), pairs=(Pair(1, 0, 0.2),))
    assert [c.preferred for c in cases([single(0, resolved=1.0)], [soft])] == [True]


def test_two_answers_come_in_an_order_that_does_not_know_which_was_chosen():
    def choice(n, first, second):
        return Evidence(prompt(n), (Answer(first), Answer(second)), {"chosen": 1.0}, "u", (f"i{n}",))

    found = cases([choice(n, f"x{n}", f"y{n}") for n in range(60)],
                  [AnswerGroup(prompt(n), (Answer(f"x{n}"), Answer(f"y{n}")), ((0,), (1,))) for n in range(60)])
    assert all((c.signals["chosen"] > 0) == c.preferred for c in found)  # the person agreed each time
    assert 15 < sum(c.preferred for c in found) < 45
    other = AnswerGroup(prompt(0), (Answer("x0"), Answer("z")), ((0,), (1,)))
    assert not cases([choice(0, "x0", "y0")], [other])


def test_signals_that_tell_are_heeded_and_others_are_not():
    worth, _ = calibrate(*world())
    by_name = {s.name: s for s in worth.signals}
    assert by_name["resolved"].weight > 0.3 and by_name["complained"].weight > 0.3
    assert by_name["looked long"].weight == by_name["thumb"].weight == by_name["copied"].weight == 0
    assert by_name["thumb"].auc.high < 0.5 and "opposite" in by_name["thumb"].why
    assert "50%" in by_name["looked long"].why and by_name["copied"].why == "nobody showed it"
    good, bad = worth.probability({"resolved": 1.0}), worth.probability({"resolved": -1.0, "complained": -1.0})
    assert bad < 0.4 < 0.55 < good and worth.heeds({"resolved": 1.0, "thumb": 1.0}) == ["resolved"]


def test_the_whole_is_measured_on_prompts_that_it_did_not_see():
    worth, _ = calibrate(*world(600))
    assert 0.6 < worth.auc.low < worth.auc.value < 0.75 and worth.error < 0.06
    found, judged = world(600)
    mixed = [AnswerGroup(a.prompt, a.answers, b.tiers) for a, b in zip(judged, judged[1:] + judged[:1], strict=True)]
    held, _ = calibration._fit(cases(found, mixed), ("resolved", "complained"), {"resolved": 9, "complained": 9}, {},
                               symmetric=False), None
    assert held.auc.low < 0.5 < held.auc.high or not any(s.weight for s in held.signals)


def test_probabilities_rise_and_turn_with_the_answers():
    rng = np.random.default_rng(1)
    found, judged = [], []
    for n in range(200):
        found.append(Evidence(prompt(n), (Answer("x"), Answer("y")), {"chosen": 1.0}, f"u{n}", (f"i{n}",)))
        agrees = rng.random() < 0.8
        judged.append(AnswerGroup(prompt(n), (Answer("x"), Answer("y")), ((0,), (1,)) if agrees else ((1,), (0,))))
    _, worth = calibrate(found, judged)
    p = worth.probability({"chosen": 1.0})
    assert p == pytest.approx(0.8, abs=0.07) and worth.probability({"chosen": -1.0}) == pytest.approx(1 - p)
    assert list(worth.levels) == sorted(worth.levels)
    assert worth.probability({"chosen": 0.3}) == pytest.approx(0.5 + 0.3 * (p - 0.5), abs=0.02)  # a fainter voice


def test_too_few_users_are_not_heeded():
    found, judged = world()
    few = [Evidence(e.prompt, e.answers, e.signals, f"u{n % 7}", e.interactions) for n, e in enumerate(found)]
    worth, _ = calibrate(few, judged, min_users=20)
    resolved = next(s for s in worth.signals if s.name == "resolved")
    assert not any(s.weight for s in worth.signals) and "7" in resolved.why
    assert worth.probability({"resolved": 1.0}) == 0.5


def test_guesses_are_plain_logistic_curves():
    single_worth, double = calibration.guessed([single(0, thumb=1.0)])
    assert single_worth.probability({"thumb": 1.0, "left": -1.0}) == pytest.approx(1 / (1 + np.exp(-1.2)), abs=1e-3)
    assert double.probability({"edit": 1.0}) == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-3)
