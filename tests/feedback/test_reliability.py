"""What a judge's labels are worth: known where judge and people are simulated with known rates."""

import numpy as np
import pytest

from tunesmith.feedback.reliability import PEOPLE_AGREE, reliability, weighed
from tunesmith.records import Answer, AnswerGroup, Message, Pair, Prompt

ITEMS = 400


def item(n):
    """The first answer is the longer one on two items of four."""
    long, short = "a b c d", "e"
    return AnswerGroup(Prompt((Message("user", f"q{n}"),)), tuple(map(Answer, (long, short) if n % 4 < 2 else
                                                                      (short, long))))


def person(n, first, name="ann"):
    group = item(n)
    return AnswerGroup(group.prompt, group.answers, tiers=((0,), (1,)) if first else ((1,), (0,)), labeler=name)


def label(n, p, name="judge"):
    group = item(n)
    pair = Pair(0, 1, p) if p >= 0.5 else Pair(1, 0, 1 - p)
    return AnswerGroup(group.prompt, group.answers, pairs=(pair,), labeler=name, source="judge")


def panel(rate, count=ITEMS, seed=0):
    """Two people who say what is true (the first answer is better on every other item) with this probability."""
    rng = np.random.default_rng(seed)
    return [person(n, (n % 2 == 0) == (rng.random() < rate), name) for n in range(count) for name in ("ann", "bob")]


def judge(rate, sure=0.9, count=ITEMS, seed=1, name="judge"):
    rng = np.random.default_rng(seed)
    return [label(n, sure if (n % 2 == 0) == (rng.random() < rate) else 1 - sure, name) for n in range(count)]


def test_a_judge_is_worth_what_it_agrees_beyond_chance_against_people():
    found = reliability(panel(0.85), judge(0.75))["judge"]
    agrees, people = 0.75 * 0.85 + 0.25 * 0.15, 0.85 ** 2 + 0.15 ** 2
    assert found.agreement.value == pytest.approx(agrees, abs=0.03)
    assert found.people == pytest.approx(people, abs=0.04)
    assert found.worth == pytest.approx((2 * agrees - 1) / (2 * people - 1), abs=0.15)
    assert found.worth == (2 * found.agreement.value - 1) / (2 * found.people - 1)
    assert found.votes == 2 * ITEMS


def test_a_label_says_what_a_person_would_say():
    """The calibrated probability is the share of people who prefer what the judge prefers, however sure it sounds."""
    agrees = 0.75 * 0.85 + 0.25 * 0.15
    for sure in (0.6, 0.9, 1.0):
        found = reliability(panel(0.85), judge(0.75, sure))["judge"]
        assert found.p(sure) == pytest.approx(agrees, abs=0.03)
        assert found.p(1 - sure) == pytest.approx(1 - found.p(sure)) and found.p(0.5) == 0.5


def test_a_judge_that_may_be_a_coin_counts_nothing_and_one_beyond_people_counts_as_one():
    assert reliability(panel(0.85), judge(0.5))["judge"].worth == 0
    assert reliability(panel(0.85), judge(0.1))["judge"].worth == 0  # upside down: nobody should guess that it is meant
    assert reliability(panel(0.75), judge(1.0))["judge"].worth == 1
    few = reliability(panel(1.0, 8), judge(1.0, count=8))["judge"]
    assert few.worth == 0 and few.agreement.value == 1 and few.people == PEOPLE_AGREE


def test_nobody_is_vouched_for_by_another_judge():
    """Two judges of one mind and no people: nothing is known of either."""
    found = reliability([], [*judge(0.9), *judge(0.9, name="twin")])
    assert {r.worth for r in found.values()} == {0.0} and {r.slope.value for r in found.values()} == {0.0}
    assert weighed(judge(0.9), found) == []


def test_labels_train_at_their_worth_and_stay_away_from_what_measures():
    labels = judge(0.75)
    found = reliability(panel(0.85), labels)
    out = weighed(labels, found, held_out=0.25)
    held = {g.id for g in labels if int(g.prompt.id[:8], 16) < 2**30}
    assert held and {g.id for g in out} == {g.id for g in labels} - held
    assert {round(g.weight, 9) for g in out} == {round(found["judge"].worth, 9)}
    lengths = {(1 if g.answers[p.better].text > "e" else -1) * p.p for g in out for p in g.pairs}
    assert len(lengths) >= 2 and all(0.5 < abs(p) < 0.9 for p in lengths)
    assert {g.source for g in out} == {"judge"}


def test_ties_calibrate_but_do_not_agree():
    people = [person(n, n % 2 == 0) for n in range(60)]
    found = reliability(people, [label(n, 0.5) for n in range(60)])["judge"]
    assert found.worth == 0 and found.votes == 60 and found.agreement.n == 0


def test_what_a_judge_gives_to_length_is_taken_off_again():
    """A judge that goes by length alone adds nothing; one that goes by what is true, and by length on top, is set
    right by people's votes: it says the same whichever answer is the longer one."""
    rng = np.random.default_rng(3)
    blind = [label(n, 0.9 if n % 4 < 2 else 0.1) for n in range(ITEMS)]
    assert reliability(panel(0.85), blind)["judge"].worth == 0
    swayed = []
    for n in range(ITEMS):
        z = (2 if (n % 2 == 0) == (rng.random() < 0.85) else -2) + (1.5 if n % 4 < 2 else -1.5)
        swayed.append(label(n, float(1 / (1 + np.exp(-z)))))
    found = reliability(panel(0.85), swayed)["judge"]
    assert found.agreement.value >= found.raw.value and found.worth > 0.5 and found.length.high < 0
    longer, shorter = found.p(1 / (1 + np.exp(-3.5)), np.log2(5 / 2)), found.p(1 / (1 + np.exp(-0.5)), -np.log2(5 / 2))
    assert longer == pytest.approx(shorter, abs=0.08)


def test_people_who_prefer_short_answers_do_not_make_a_coin_a_judge():
    """The correction alone agrees with people here; without the judge's own word it must count nothing."""
    people = [person(n, n % 4 >= 2, name) for n in range(ITEMS) for name in ("ann", "bob")]
    found = reliability(people, judge(0.5))["judge"]
    assert found.agreement.value > 0.9 and found.worth == 0
