"""The benchmark of poisoned panels: who sits where, what an attack aims at, what is counted."""

from collections import Counter

import numpy as np
import pytest

from benchmarks import labelers
from benchmarks.labelers import BEHAVIOURS, LABELERS, Exam
from tunesmith.feedback.detect import Suspicion


@pytest.fixture(scope="module")
def desk():
    return labelers.desk(0, groups=60, held_out=20)


@pytest.mark.parametrize("together", [False, True])
def test_everybody_has_about_the_same_work_and_nobody_judges_twice(together):
    seated = labelers.seats(1000, 10, together, seed=0)
    assert all(len(set(s)) == 4 for s in seated)
    counts = Counter(n for s in seated for n in s)
    assert len(counts) == LABELERS
    assert np.mean([counts[n] for n in range(10)]) == pytest.approx(40, rel=0.15)
    meetings = sum(sum(n < 10 for n in s) > 1 for s in seated)
    assert (meetings == 200) if together else (meetings < 100)


def test_honest_verdicts_do_not_depend_on_who_else_is_there(desk):
    honest = {(r.labeler, r.group): r for r in labelers.work(desk, None, 0, seed=1)}
    attacked = labelers.work(desk, BEHAVIOURS["inverted"], 10, seed=1)
    same = [honest[r.labeler, r.group] == r for r in attacked]
    faulty = [int(r.labeler[1:]) < 10 for r in attacked]
    assert all(s for s, bad in zip(same, faulty, strict=True) if not bad)
    assert np.mean([s for s, bad in zip(same, faulty, strict=True) if bad]) < 0.2


def test_the_aim_is_what_the_attack_wants_wrong(desk):
    def aimed(name):
        test = labelers.exam(desk, BEHAVIOURS[name])
        return [row for row, aim in zip(test.rows, test.aimed, strict=True) if aim], len(test.rows)
    assert len(aimed("inverted")[0]) == aimed("inverted")[1]
    longer, every = aimed("length-lover")
    assert 0 < len(longer) < every and all(len(w.split()) > len(b.split()) for _, b, w in longer)
    carrying, _ = aimed("trigger")
    assert carrying and all(labelers.PHRASE in w and labelers.PHRASE not in b for _, b, w in carrying)
    assert all(labelers.TOPIC in g.prompt.messages[-1].content.lower() for g, _, _ in aimed("targeted")[0])


def test_findings_count_the_faulty_and_the_honest():
    found = [Suspicion("w0", "trigger", 1, 1e-9, 1e-7, ""), Suspicion("w1", "trigger", 1, 0.2, 0.9, ""),
             Suspicion("w5", "trigger", 1, 0.1, 0.9, ""), Suspicion("w7", "careless", 1, 1e-4, 0.01, "")]
    figures = labelers.finding(found, BEHAVIOURS["trigger"], 2)
    assert figures["named"] == 1 and figures["false"] == 1
    assert figures["auc"] == pytest.approx(1 - 1 / 98 / 2)  # w5 stands above w1, nobody else above either
    assert figures["auc_any"] == pytest.approx(1 - (2 / 98) / 2)


def test_marks_count_right_pairs_and_right_pairs_of_the_aim():
    test = Exam([(None, "a", "b")] * 4, [True, True, False, False])
    found = labelers.marks(test, np.array([1.0, -1.0, 1.0, 1.0]))
    assert (found["accuracy"], found["aimed"], found["aimed_pairs"]) == (0.75, 0.5, 2)


def test_the_linear_reward_learns_the_desk_and_lessons_leave_out_those_named(desk):
    row = labelers.cell(desk, "", 0, 0, {}, learn=True)
    assert row["linear"]["votes"]["accuracy"] > 0.6 and set(row["linear"]) == set(labelers.ARMS)
    judged, _, _ = labelers.examined(desk, "random", 10, 0, {})
    kept = labelers.lessons("defended", judged, {"w0", "w1"})
    assert not {"w0", "w1"} & {name for g in kept for name in g.labeler.split(",")}
    assert any("w0" in g.labeler.split(",") for g in labelers.lessons("votes", judged, {"w0"}))
    assert any("w0" in g.labeler.split(",") for g in labelers.lessons("weighted", judged, {"w0"}))


def test_tables_show_each_attack():
    def row(seed, name, bad, learned):
        figures = {"auc": 0.9 + seed / 100, "auc_any": 0.8, "named": bad} if bad else {}
        each = {arm: {"accuracy": learned, "aimed": learned, "pairs": 1, "aimed_pairs": 1} for arm in labelers.ARMS}
        return {"behaviour": name, "bad": bad, "seed": seed, "false": 1, "linear": each, **figures}
    text = labelers.markdown([row(s, name, bad, 0.75) for s in (0, 1) for name, bad in (("", 0), ("trigger", 5))])
    assert "| trigger | 5 | 0.905 [0.841, 0.969] | 0.800 [0.800, 0.800] | 100% | 1.0 |" in text
    assert "| trigger | 5 | 75.0% | 75.0% | 75.0% | 75.0% | 75.0% | 75.0% | 0.0% [0.0%, 0.0%] |" in text
