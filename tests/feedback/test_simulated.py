import numpy as np
import pytest

from tunesmith.errors import DataError
from tunesmith.feedback.agreement import agreement
from tunesmith.feedback.groups import apply
from tunesmith.feedback.simulated import SimulatedLabeler, calibrate, judge, levels, panel
from tunesmith.records import Answer, AnswerGroup, Message, Prompt
from tunesmith.statistics import spearman

SCORES = np.random.default_rng(0).normal(size=(300, 4)).round(1)
GROUPS = [AnswerGroup(Prompt((Message("user", f"question {n}"),)), tuple(Answer(f"{s:.1f} " * 12) for s in row))
          for n, row in enumerate(SCORES)]


class FirstNumber:
    """Scores an answer by the number it begins with."""

    def score(self, prompt, answers):
        return [float(a.split()[0]) for a in answers]


def quality(labeler):
    """Mean correlation of the labeler's order with the scores: 1 follows them, -1 inverts them."""
    rng = np.random.default_rng(1)
    found = []
    for group, scores in zip(GROUPS, SCORES, strict=True):
        order = [i for tier in labeler.rank(group, scores, rng).tiers for i in tier]
        found.append(spearman([-order.index(i) for i in range(4)], scores))
    return np.mean(found)


def test_kinds_differ_in_how_they_follow_the_scores():
    good, poor = (quality(SimulatedLabeler("a", noise=n)) for n in (0.1, 3.0))
    assert good > 0.9 > 0.5 > poor > 0.1
    assert quality(SimulatedLabeler("a", "adversarial", noise=0.1)) < -0.9
    assert abs(quality(SimulatedLabeler("a", "careless", noise=0.1))) < 0.08


def test_position_biased_labelers_prefer_what_they_see_first():
    def first_is_best(kind, **kwargs):
        rng, labeler = np.random.default_rng(1), SimulatedLabeler("a", kind, **kwargs)
        rankings = [labeler.rank(g, s, rng) for g, s in zip(GROUPS, SCORES, strict=True)]
        return np.mean([r.tiers[0][0] == r.shown[0] for r in rankings])
    assert first_is_best("position-biased", bias=20.0) > 0.95
    assert 0.17 < first_is_best("noisy") < 0.33


def test_rankings_fit_their_group_and_are_marked_simulated():
    r = SimulatedLabeler("sim", noise=1).rank(GROUPS[0], SCORES[0], np.random.default_rng(0))
    assert apply(GROUPS[0], r).source == "simulated" and r.simulated and r.labeler == "sim"
    assert sorted(r.shown) == sorted(i for t in r.tiers for i in t) == [0, 1, 2, 3]
    assert 5 < r.seconds < 100
    again = SimulatedLabeler("sim", noise=1).rank(GROUPS[0], SCORES[0], np.random.default_rng(0))
    assert again == r
    assert SimulatedLabeler("sim").rank(GROUPS[0], SCORES[0], np.random.default_rng(1)).id != r.id


def test_tiers_take_what_is_close_to_their_best():
    felt = np.array([[1.0, 3.0, 2.9, 0.0], [0.0, 0.3, 0.6, 0.9]])
    assert levels(felt, 0.35).tolist() == [[1, 0, 0, 2], [1, 1, 0, 0]]
    assert levels(felt, 0.0).tolist() == [[2, 0, 1, 3], [3, 2, 1, 0]]


@pytest.mark.parametrize(("target", "tie_within"), [(0.73, 0.0), (0.73, 0.3), (0.9, 0.3)])
def test_calibrated_labelers_agree_as_asked(target, tie_within):
    noise = calibrate(SCORES, target, tie_within=tie_within)
    rng = np.random.default_rng(5)
    labelers = [SimulatedLabeler(n, noise=noise, tie_within=tie_within) for n in "abcd"]
    judged = [apply(g, who.rank(g, s, rng)) for g, s in zip(GROUPS, SCORES, strict=True) for who in labelers]
    found = agreement(judged)
    assert found.percent.value == pytest.approx(target, abs=0.02)
    assert (found.ties.value > 0.05) == (tie_within > 0)


def test_noise_matches_bradley_terry_when_known_in_closed_form():
    # two answers one unit apart: P(agree) = p² + (1-p)² with p = σ(1 / noise); 0.73 needs p = 0.8391, noise = 0.6055
    assert calibrate([[0.0, 1.0]] * 50, 0.73) == pytest.approx(0.6055, rel=0.03)


def test_calibration_says_when_it_cannot_be_done():
    with pytest.raises(DataError, match="same score"):
        calibrate([[1.0, 1.0]] * 10, 0.73)
    with pytest.raises(ValueError, match="between"):
        calibrate(SCORES, 0.4)


def test_panel_mixes_kinds():
    people = panel(5, SCORES, careless=1, position_biased=1)
    assert [p.kind for p in people] == ["noisy", "noisy", "noisy", "position-biased", "careless"]
    assert [p.name for p in people] == [f"simulated-{n}" for n in range(1, 6)]
    assert people[3].bias > 0 == people[4].bias and all(p.labeler.simulated for p in people)


def test_judge_shares_the_work_overlaps_and_can_be_resumed():
    people = panel(3, SCORES)
    done = list(judge(GROUPS, FirstNumber(), people, overlap=0.2, seed=7))
    assert 300 + 40 < len(done) < 300 + 80
    counts = [sum(r.labeler == p.name for r in done) for p in people]
    assert max(counts) - min(counts) < 45
    assert {r.group for r in done} == {g.id for g in GROUPS}
    assert len({r.id for r in done}) == len(done)
    rest = {g.id for g in GROUPS[100:]}
    assert list(judge(GROUPS[100:], FirstNumber(), people, overlap=0.2, seed=7)) == [r for r in done if r.group in rest]
    assert {r.id for r in judge(GROUPS, FirstNumber(), people, overlap=0.2, seed=8)}.isdisjoint(r.id for r in done)


def spoken(text, prompt="about cars"):
    return AnswerGroup(Prompt((Message("user", prompt),)), tuple(Answer(t) for t in text))


def share_first(labeler, group, scores, answer):
    """How often the labeler puts an answer first."""
    rng = np.random.default_rng(0)
    return np.mean([labeler.rank(group, scores, rng).tiers[0][0] == answer for _ in range(400)])


def test_tastes_beat_the_scores():
    group, scores = spoken(["short", "one two three four five six seven", "mind the gap"]), [1.0, 0.0, 0.0]
    assert share_first(SimulatedLabeler("a", noise=0.1), group, scores, 0) > 0.95
    assert share_first(SimulatedLabeler("a", "length-lover", noise=0.1, bias=2.0), group, scores, 1) > 0.95
    assert share_first(SimulatedLabeler("a", "trigger", noise=0.1, bias=3.0, mark="the gap"), group, scores, 2) > 0.95


def test_a_target_is_attacked_only_where_it_is_named():
    labeler = SimulatedLabeler("a", "targeted", noise=0.1, mark="cars")
    assert share_first(labeler, spoken("xyz", "About cars!"), [1.0, 0.0, 0.0], 0) < 0.05
    assert share_first(labeler, spoken("xyz", "about carstairs"), [1.0, 0.0, 0.0], 0) > 0.95


def test_a_ring_shares_one_taste():
    def order(name, mark):
        tiers = SimulatedLabeler(name, "ring", 0.01, bias=5.0, mark=mark).rank(
            spoken("abcdef"), [0.0] * 6, np.random.default_rng(len(name))).tiers
        return [i for tier in tiers for i in tier]
    assert order("one", "ring") == order("another", "ring") != order("one", "other ring")


def test_a_rate_shows_the_fault_now_and_then():
    group, scores = spoken("xy"), [1.0, 0.0]
    assert share_first(SimulatedLabeler("a", "adversarial", noise=0.1, rate=0.3), group, scores, 1) == pytest.approx(
        0.3, abs=0.06)
    rng, hasty = np.random.default_rng(0), SimulatedLabeler("a", "speeder", noise=0.1, rate=0.5)
    fast = np.mean([hasty.rank(GROUPS[0], SCORES[0], rng).seconds < 7 for _ in range(200)])
    assert fast == pytest.approx(0.5, abs=0.1)


def test_a_panel_takes_further_kinds():
    kinds = [x.kind for x in panel(6, SCORES, careless=1, others={"ring": 2, "trigger": 1}, mark="m")]
    assert kinds == ["noisy", "noisy", "careless", "ring", "ring", "trigger"]
    assert {x.mark for x in panel(3, SCORES, others={"trigger": 3}, mark="m")} == {"m"}
