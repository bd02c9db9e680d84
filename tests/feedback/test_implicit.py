from dataclasses import replace

import numpy as np
import pytest

from tunesmith.feedback import calibration, implicit
from tunesmith.feedback.implicit import Worth
from tunesmith.feedback.signals import Evidence
from tunesmith.records import Answer, AnswerGroup, Message, Prompt

PLAIN = Worth(*calibration.guessed([]))


def prompt(n):
    return Prompt((Message("user", f"question {n}"),))


def said(n, user="", **signals):
    return Evidence(prompt(n), (Answer(f"answer {n}"),), signals, user or f"u{n}", (f"i{n}",))


def choice(n, at, user="", shown=2):
    return Evidence(prompt(n), (Answer(f"x{n}"), Answer(f"y{n}")), {"chosen": 1.0}, user or f"u{n}", (f"i{n}", f"j{n}"),
                    position=at, shown=shown)


def test_places_count_alike_whatever_their_share():
    """6 of 8 choose what is shown first: both places weigh as much together, 4 of 8 each."""
    found = implicit.corrected([choice(n, 0) for n in range(6)] + [choice(n, 1) for n in range(6, 8)])
    first, second = ([e.weight for e in found if e.position == at] for at in (0, 1))
    assert sum(first) == pytest.approx(sum(second)) and second[0] == pytest.approx(3 * first[0])
    assert np.mean([e.weight for e in found]) == pytest.approx(1)


def test_rare_arms_count_more_up_to_a_limit():
    every = [replace(said(0, thumb=1.0), propensity=0.5), replace(said(1, thumb=1.0), propensity=0.001)]
    one, other = implicit.corrected(every)
    assert other.weight / one.weight == pytest.approx(implicit.CLIP / 2)


def test_users_who_say_much_say_it_fainter():
    found = [said(n, "loud", thumb=1.0) for n in range(100)] + [said(n, thumb=-1.0) for n in range(100, 300)]
    loud, others = ([e.signals["thumb"] for e in implicit.corrected(found, 0.05) if (e.user == "loud") == is_loud]
                    for is_loud in (True, False))
    assert set(others) == {-1.0} and sum(loud) == pytest.approx(0.05 * (sum(loud) + 200))
    few = [said(n, f"u{n % 3}", thumb=1.0) for n in range(9)]  # three users cannot have 5% each
    assert {e.signals["thumb"] for e in implicit.corrected(few, 0.05)} == {1.0}


def test_groups_say_which_is_better_and_how_sure_and_where_it_comes_from():
    pair, label = implicit.groups([replace(choice(0, 0), weight=2.0), said(1, complained=-1.0), said(2, unheard=1.0)],
                                  PLAIN)
    assert (pair.pairs[0].better, pair.pairs[0].p, pair.labels, label.labels) == (0, 1.0, (), (0.0,))
    assert pair.weight == pytest.approx(2 * np.tanh(3 / 2), abs=1e-3)
    assert label.weight == pytest.approx(np.tanh(1.5 / 2), abs=1e-3)
    assert pair.prompt.facts["mined"] == {"signals": {"chosen": 1.0}, "p": 0.9526, "interactions": ["i0", "j0"]}
    assert {g.source for g in (pair, label)} == {"implicit"} and pair.labeler == implicit.LABELER
    simulated = implicit.groups([replace(said(1, thumb=1.0), simulated=True)], PLAIN)
    assert simulated[0].source == "simulated"


def test_a_choice_that_people_contradict_turns():
    turned = replace(PLAIN, double=replace(PLAIN.double, levels=tuple(reversed(PLAIN.double.levels))))
    pair = implicit.groups([choice(0, 0)], turned)[0].pairs[0]
    assert (pair.better, pair.worse) == (1, 0)


def test_faint_reactions_do_not_flatten_clear_verdicts():
    """A reward of four answers in a row, each better than the next: 30 clear verdicts between neighbours, and 3,000
    reactions that are right 53 times in 100. Learned together they order as well as the verdicts alone, and as steeply.
    """
    rng = np.random.default_rng(0)

    def slope(verdicts):
        x, w = (np.array(c) for c in zip(*verdicts, strict=True))
        theta = 0.0
        for _ in range(50):
            p = 1 / (1 + np.exp(-theta * x))
            theta -= (w * (p - 1) * x).sum() / ((w * p * (1 - p) * x * x).sum() + 1e-9)
        return theta

    clear = [(1.0 if rng.random() < 0.8 else -1.0, 1.0) for _ in range(30)]
    faint = [(1.0 if rng.random() < 0.53 else -1.0) for _ in range(3000)]
    as_verdicts = slope(clear + [(x, 0.06) for x in faint])
    soft = slope(clear + [(1.0, p) if p > 0 else (-1.0, -p) for x in faint for p in (0.53, -0.47)])
    assert soft < 0.2 * slope(clear) < as_verdicts


def test_a_thumb_of_somebody_who_always_gives_one_counts_less():
    quiet = [said(n, f"q{n % 50}", **({"thumb": 1.0} if n < 50 else {"left": -1.0})) for n in range(1000)]
    loud = [said(n, f"l{n % 2}", thumb=-1.0) for n in range(1000, 1040)]
    found = implicit.thumbs([*quiet, *loud], PLAIN)
    up, down = ([g.weight for g in found if g.labels == (x,)] for x in (1.0, 0.0))
    assert len(up) == 50 and len(down) == 40 and np.mean(up) > 3 * np.mean(down)
    chances = implicit.feedback_propensity([*quiet, *loud])
    assert chances["i1000"] > 0.6 > 0.15 > chances["i0"]
    assert np.mean(list(chances.values())) == pytest.approx(90 / 1040, abs=0.01)


def test_a_person_is_right_where_they_judged():
    found = [said(0, thumb=1.0), choice(1, 0), said(2, thumb=1.0)]
    judged = [AnswerGroup(prompt(0), (Answer("answer 0"), Answer("b")), ((1,), (0,))),
              AnswerGroup(prompt(1), (Answer("x1"), Answer("z")), ((0,), (1,)))]
    assert [e.interactions[0] for e in implicit.unjudged(found, judged)] == ["i1", "i2"]


def test_nothing_unsafe_is_preferred():
    made = implicit.groups([choice(0, 0), said(1, thumb=1.0), said(2, thumb=-1.0)], PLAIN)
    assert implicit.preferred(made[0]) == ["x0"]
    left = implicit.without(made, {"x0", "answer 1", "answer 2"})
    assert [g.prompt.id for g in left] == [prompt(2).id]  # disliked is no preference


def test_checks_do_not_show_what_was_mined_and_count_ties_half():
    made = implicit.groups([choice(n, 0) for n in range(40)], PLAIN)
    checks = implicit.spots(made, 30, seed=1)
    assert len({g.id for g in checks}) == 30 and not any(g.pairs or g.tiers for g in checks)
    sides = [g.prompt.facts["mined"]["better"] for g in checks]
    assert 5 < sum(sides) < 25
    assert all(g.answers[side].text.startswith("x") for g, side in zip(checks, sides, strict=True))
    verdicts = [*(((s,), (1 - s,)) for s in sides[:20]), *(((1 - s,), (s,)) for s in sides[20:28]), *[((0, 1),)] * 2]
    assert implicit.agreement([replace(g, tiers=t) for g, t in zip(checks, verdicts, strict=True)]) == (21.0, 30)


def test_a_loud_user_among_few_is_held_back_too_also_in_thumbs():
    found = [said(n, "loud", thumb=1.0) for n in range(600)] + [
        said(n, f"u{n % 60}", thumb=-1.0) for n in range(600, 720)]
    corrected = implicit.corrected(found)
    loud = sum(abs(e.signals["thumb"]) for e in corrected if e.user == "loud")
    assert loud == pytest.approx(3 / 61 * (loud + 120))
    thumbs = implicit.thumbs(corrected, PLAIN)
    up, down = (sum(g.weight for g in thumbs if g.labels == (label,)) for label in (1, 0))
    assert up < down / 5


def test_a_checked_pair_of_which_one_was_left_unranked():
    spot = implicit.spots(implicit.groups([choice(0, 0)], PLAIN), 1)[0]
    better = spot.prompt.facts["mined"]["better"]
    assert implicit.agreement([replace(spot, tiers=((better,),)), replace(spot, tiers=((1 - better,),))]) == (1.0, 2)
