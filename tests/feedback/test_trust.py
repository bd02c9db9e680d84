import numpy as np
import pytest
from test_ability import judged, rankings_by, strict

from tunesmith.feedback.agreement import Gold
from tunesmith.feedback.detect import Suspicion
from tunesmith.feedback.trust import capped, recommend, report
from tunesmith.records import Ranking
from tunesmith.statistics import wilson


def verdicts(votes):
    return [Ranking(str(n), v.id, v.labeler, v.tiers, v.shown, seconds=30 + n % 7) for n, v in enumerate(votes)]


def test_a_report_names_whom_to_act_on_first_and_why():
    groups, votes, _ = rankings_by(["random", "inverted", *["good"] * 8], k=4, seed=0, items=300)
    found = report(groups, verdicts(votes))
    by_name = {t.labeler: t for t in found.labelers}
    assert {t.labeler for t in found.labelers[:2]} == {"w00", "w01"}
    assert [by_name[n].action for n in ("w00", "w01")] == ["quarantine", "quarantine"]
    assert "upside down" in by_name["w01"].reasons[0]
    assert all(by_name[f"w{n:02}"].action != "quarantine" for n in range(2, 10))
    good = by_name["w05"]
    assert good.verdicts == sum(v.labeler == "w05" for v in votes) and 28 < good.seconds < 38
    assert sum(t.share for t in found.labelers) == pytest.approx(1)
    assert good.others.value > 0.65 > 0.4 > by_name["w01"].others.value


def test_a_quarantined_labeler_is_shown_and_has_no_say():
    groups, votes, _ = rankings_by(["inverted", *["good"] * 4], k=4, seed=1, items=80)
    free, held = report(groups, verdicts(votes)), report(groups, verdicts(votes), quarantined=["w00"])
    about = {t.labeler: t for t in held.labelers}["w00"]
    assert about.ability.high < 0 and about.verdicts > 0
    only = [g for g in groups if [v.labeler for v in votes if v.id == g.id] == ["w00"]]
    scores = [held.fit.scores(g) for g in only]
    assert all(abs(s).max() < 1e-9 for s in scores) and free.fit.reference < held.fit.reference


def test_second_looks_and_test_questions_are_shown_and_do_not_count():
    group = judged("one", "", ())
    rankings = [Ranking("1", group.id, "ann", strict([0, 1, 2])), Ranking("2", group.id, "bob", strict([0, 1, 2])),
                Ranking("3", group.id, "ann", strict([2, 1, 0]), purpose="repeat"),
                Ranking("4", group.id, "cy", strict([0, 1, 2]), purpose="gold")]
    found = {t.labeler: t for t in report([group], rankings, gold={group.id: strict([0, 1, 2])}).labelers}
    assert found["ann"].myself.value == 0 and found["ann"].others.value == 1 and found["bob"].myself.n == 0
    assert set(found) == {"ann", "bob"}   # cy has answered a test question only


def test_speed_and_taste_alone_lead_to_a_talk():
    def suspicion(kind, q=0.001):
        return Suspicion("ann", kind, 1.0, q / 10, q, "as it is")

    assert recommend("reliable", 50, None, []) == ("fine", ())
    assert recommend("reliable", 50, None, [suspicion("speeding"), suspicion("taste")])[0] == "talk"
    assert recommend("position-biased", 50, None, [suspicion("position")]) == (
        "talk", ("prefers what is shown first, or last",))
    assert recommend("reliable", 50, None, [suspicion("targeted"), suspicion("speeding")]) == (
        "quarantine", ("targeted: as it is", "speeding: as it is"))
    assert recommend("reliable", 50, None, [suspicion("collusion", 0.03)])[0] == "talk"
    failed = Gold(wilson(2, 6), "fail")
    assert recommend("reliable", 50, failed, [])[1] == ("failed the test questions: 33% of 6 right",)
    assert recommend("unknown", 3, None, [])[0] == "fine"


def test_nobody_has_more_than_the_cap():
    weights = {"a": 900.0, "b": 300.0, "c": 50.0, "d": 40.0, "e": 30.0, "f": 30.0, "g": 20.0}
    factors = capped(weights, 0.25)
    after = np.array([weights[n] * f for n, f in factors.items()])
    assert after.max() / after.sum() == pytest.approx(0.25)
    assert factors["c"] == factors["g"] == 1 > factors["b"] > factors["a"]
    assert capped({"a": 10.0, "b": 90.0}, 0.2) == {"a": 1, "b": 1}
    assert capped({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 1.0, "f": 1.0}, 0.2) == dict.fromkeys("abcdef", 1.0)
