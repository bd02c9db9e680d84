"""Judges against what is known and against people; help that is right and wrong; arms with and without a critique."""

from dataclasses import dataclass

import numpy as np
import pytest

from tunesmith.evaluate.judges import Look, Verdict
from tunesmith.evaluate.oversight import Known, accuracy, against_people, anchoring, kappa, reliance, right_of
from tunesmith.records import Answer, AnswerGroup, Message, Prompt, Ranking
from tunesmith.store.critiques import HIDDEN, SHOWN, Critique, arm, arm_of

PROMPT = Prompt((Message("user", "?"),))


@dataclass
class Fixed:
    """Says what it was told to say."""

    verdicts: list
    name: str = "fixed"

    def compare(self, prompts, first, second, progress=None):
        return self.verdicts[:len(prompts)]


def both(outcome, swapped_outcome=None, sure=None):
    again = outcome if swapped_outcome is None else swapped_outcome
    looks = (Look(False, outcome, "", sure), Look(True, again, "", sure))
    agreed = looks[0].outcome == looks[1].outcome
    return Verdict(outcome if agreed else 0.5, "", looks)


def test_accuracy_counts_ties_half_and_unread_verdicts_apart():
    known = [Known(PROMPT, "a", "b", better) for better in (0, 0, 1, 1, 0)]
    unread = Verdict(None, "", (Look(False, None, ""),))
    found = accuracy(Fixed([both(1.0), both(0.0), both(0.0), both(1.0, 0.0), unread]), known)
    assert found.rate.value == 2.5 / 4 and found.rate.n == 4
    assert found.decided.value == 2 / 5 and found.about.unreadable.value == 1 / 5
    assert right_of([both(0.0), both(1.0)], [0, 0]).tolist() == [1, 0]


@pytest.mark.parametrize(("table", "expected"), [([[20, 5], [10, 15]], 0.4), ([[45, 15], [25, 15]], 0.1304348),
                                                 ([[25, 35], [5, 35]], 0.2592593)])
def test_kappa_of_tables_worked_out_by_hand(table, expected):
    pairs = [(i, j) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    assert kappa([i for i, _ in pairs], [j for _, j in pairs]).value == pytest.approx(expected, abs=1e-6)


def test_kappa_of_three_kinds_of_verdict():
    rng = np.random.default_rng(0)
    a = rng.choice([0, 0.5, 1], 300)
    b = np.where(rng.random(300) < 0.6, a, rng.choice([0, 0.5, 1], 300))
    found = kappa(a, b)
    agree, chance = (a == b).mean(), sum((a == x).mean() * (b == x).mean() for x in (0, 0.5, 1))
    assert found.value == pytest.approx((agree - chance) / (1 - chance))
    assert found.low < found.value < found.high and 0.4 < found.value < 0.8
    assert kappa(a, a).value == 1 and abs(kappa(a, rng.choice([0, 0.5, 1], 300)).value) < 0.15
    assert np.isnan(kappa([1, 1], [1, 1]).value)


def texts(n):
    """Pairs of which the first is longer in the even places."""
    return [("long " * 9, "short") if i % 2 == 0 else ("short", "long " * 9) for i in range(n)]


def test_a_judge_that_loves_length_is_found_out():
    n = 400
    rng = np.random.default_rng(1)
    first, second = zip(*texts(n))
    people = rng.choice([0.0, 1.0], n)
    longer = np.arange(n) % 2 == 0
    judge = np.where(rng.random(n) < 0.5, longer.astype(float), people)
    found = against_people([both(float(x)) for x in judge], people, first, second)
    assert found.longer.low > 0.1 and found.agreement.value == pytest.approx((judge == people).mean())
    fair = against_people([both(float(x)) for x in people], people, first, second)
    assert fair.longer.value == 0 and fair.kappa.value == 1 and fair.agreement.value == 1
    assert found.behaviour.swayed.value == 0 and found.confidence is None and np.isnan(found.own.value)


def test_a_judge_that_prefers_its_own_answers_is_found_out():
    n = 300
    rng = np.random.default_rng(2)
    people, own = rng.choice([0.0, 1.0], n), rng.choice([0, 1, -1], n)
    judge = np.where((own >= 0) & (rng.random(n) < 0.4), 1.0 - own, people)
    mine = [None if o < 0 else int(o) for o in own]
    found = against_people([both(float(x)) for x in judge], people, ["a"] * n, ["b"] * n, own=mine)
    assert found.own.low > 0.1 and found.own.n == (own >= 0).sum() and np.isnan(found.longer.value)


def test_people_who_tie_or_share_votes_and_pairs_without_verdict():
    verdicts = [both(1.0), both(1.0), both(0.0), Verdict(None, "", (Look(False, None, ""),)), both(0.5)]
    found = against_people(verdicts, [0.75, 0.5, 1.0, 1.0, np.nan], list("abcde"), list("fghij"))
    assert found.agreement.n == 2 and found.agreement.value == 0.5 and found.kappa.n == 3


def test_overconfidence_shows_in_the_calibration():
    rng = np.random.default_rng(3)
    people = rng.choice([0.0, 1.0], 500)
    judge = np.where(rng.random(500) < 0.7, people, 1 - people)
    sure = against_people([both(float(x), sure=0.95) for x in judge], people, ["a"] * 500, ["b"] * 500).confidence
    honest = against_people([both(float(x), sure=0.7) for x in judge], people, ["a"] * 500, ["b"] * 500).confidence
    assert sure.ece > 0.2 > 0.06 > honest.ece and sure.n == 500


def test_reliance_tells_good_help_from_bad():
    found = reliance([1, 0, 1, 0.5], [1, 1, 1, 0, 0, np.nan], [1, 1, 0, 0, 0, 1])
    assert (found.alone.value, found.right.value, found.wrong.value) == (0.625, 1.0, pytest.approx(1 / 3))
    assert found.gain == pytest.approx(0.375) and found.harm == pytest.approx(0.625 - 1 / 3)
    empty = reliance([], [1], [1])
    assert np.isnan(empty.alone.value) and np.isnan(empty.gain)


# ---- anchoring

GROUPS = [AnswerGroup(Prompt((Message("user", f"q {n}"),)), (Answer(f"a {n}"), Answer(f"b {n}"), Answer(f"c {n}")))
          for n in range(120)]
CRITIQUES = {g.id: Critique(g.id, "[[1]]: the best", 1, "m") for g in GROUPS}


def labeled(pull, seed=0, seconds=1.3, groups=GROUPS, labelers=("ann", "bob")):
    """Labelers who rank at random, but put the critique's answer on top on a share `pull` of what they see it on."""
    rng, out = np.random.default_rng(seed), []
    for g in groups:
        for who in labelers:
            seen = arm(g.id, who, 0.5)
            order = [int(i) for i in rng.permutation(3)]
            if seen == SHOWN and rng.random() < pull:
                order = [1, *(i for i in order if i != 1)]
            pace = 20 * (seconds if seen == SHOWN else 1) * float(rng.lognormal(0, 0.2))
            out.append(Ranking(f"{who}-{g.id}", g.id, who, tuple((i,) for i in order), seconds=pace,
                               trace={"critique": seen}))
    return out


def test_labelers_who_follow_critiques_are_measured():
    found = anchoring(GROUPS, labeled(0.6), CRITIQUES)
    assert found.effect.low > 0.15 and found.effect.value == pytest.approx(0.3, abs=0.12) and found.p < 0.01
    assert found.hidden.value == pytest.approx(0.5, abs=0.1) and sum(found.verdicts) == 240
    assert found.time.low > 1.1 and found.time.value == pytest.approx(1.3, abs=0.1)
    assert found.reliance is None


def test_labelers_who_do_not_care_show_no_effect():
    low = [anchoring(GROUPS, labeled(0, seed, seconds=1), CRITIQUES, resamples=300) for seed in range(20)]
    assert sum(f.effect.low <= 0 <= f.effect.high for f in low) >= 17
    assert sum(f.p < 0.05 for f in low) <= 3 and sum(f.time.low <= 1 <= f.time.high for f in low) >= 17


def test_where_the_right_order_is_known_reliance_is_told():
    """The critique is right on even groups, where answer 1 is best, and wrong on odd ones, where it is worst."""
    known = {g.id: ((1,), (0, 2)) if n % 2 == 0 else ((0, 2), (1,)) for n, g in enumerate(GROUPS)}
    found = anchoring(GROUPS, labeled(1.0), CRITIQUES, known=known).reliance
    assert found.right.value == 1 and found.wrong.value == 0 and found.alone.value == pytest.approx(0.5, abs=0.1)
    assert found.gain > 0.3 and found.harm > 0.3


def test_only_verdicts_that_belong_to_an_arm_count():
    plain = Ranking("p", GROUPS[0].id, "cy", ((1,), (0, 2)))
    skipped = Ranking("s", GROUPS[1].id, "cy", skipped="no", trace={"critique": SHOWN})
    again = Ranking("r", GROUPS[2].id, "cy", ((1,), (0, 2)), purpose="repeat", trace={"critique": SHOWN})
    without = anchoring(GROUPS, labeled(0.6), CRITIQUES)
    assert anchoring(GROUPS, [*labeled(0.6), plain, skipped, again], CRITIQUES) == without
    few = anchoring(GROUPS, labeled(0.6)[:3], CRITIQUES)
    assert np.isnan(few.effect.value) and np.isnan(few.p)
    empty = anchoring(GROUPS, [], CRITIQUES)
    assert np.isnan(empty.effect.value) and empty.verdicts == (0, 0)
    assert arm_of(plain) == "" and arm_of(skipped) == SHOWN


def test_arms_depend_on_group_and_labeler_alone_and_keep_their_share():
    drawn = [arm(g.id, who, 0.3) for g in GROUPS for who in map(str, range(20))]
    assert drawn.count(SHOWN) / len(drawn) == pytest.approx(0.3, abs=0.03)
    assert drawn == [arm(g.id, who, 0.3) for g in GROUPS for who in map(str, range(20))]
    assert {arm(g.id, "ann", 0.0) for g in GROUPS} == {HIDDEN} and {arm(g.id, "ann", 1.0) for g in GROUPS} == {SHOWN}
    assert {arm(g.id, "ann", 0.5) for g in GROUPS} == {SHOWN, HIDDEN}
