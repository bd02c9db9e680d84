from dataclasses import replace

import pytest

from tunesmith.feedback import signals
from tunesmith.feedback.signals import evidence
from tunesmith.records import Answer, Interaction, Message, Prompt

ASKED = (Message("user", "what is the rate of a car loan"),)
TEXT = "The rate is 6.25 percent, subject to a credit check."


def logged(id="i1", *events, messages=ASKED, text=TEXT, user="u1", **known):
    found = tuple({"type": kind, "value": value, "at": f"2026-11-02T10:00:{n:02d}", "id": f"{id}/{n}"}
                  for n, (kind, value) in enumerate(events))
    return Interaction(id, messages, Answer(text, "m"), found, user=user, **known)


def only(*interactions):
    found = evidence(interactions)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("event", "expected"), [
    (("thumb", 1), {"thumb": 1.0}), (("thumb", 0), {"thumb": -1.0}), (("rating", 0.25), {"rating": -0.5}),
    (("ticket_resolved", 0), {"resolved": -1.0}), (("code_run_ok", 1), {"code ran": 1.0}),
    (("copy", 0.4), {"copied": 0.4}), (("complaint", ""), {"complained": -1.0}),
    (("report", "x"), {"complained": -1.0}), (("abandon", ""), {"left": -1.0})])
def test_every_reaction_has_its_rule(event, expected):
    found = only(logged("i1", event))
    assert found.signals == expected and found.interactions == ("i1",) and found.prompt == Prompt(ASKED)


def test_the_newest_event_of_a_type_stands_whatever_order_they_came_in():
    late = logged("i1", ("thumb", 1), ("thumb", 0))
    assert only(replace(late, events=late.events[::-1])).signals == {"thumb": -1.0}


def test_a_look_as_long_as_reading_takes_says_nothing():
    assert only(logged("i1", ("dwell_ms", 10_000 / 4), ("thumb", 1))).signals == {"thumb": 1.0}  # ten words
    assert only(logged("i1", ("dwell_ms", 20_000 / 4 * 1.1))).signals["looked long"] == pytest.approx(0.788, abs=1e-3)


@pytest.mark.parametrize(("said", "rule"), [
    ("That is not what I asked: what is the rate of a car loan?", "complained"), ("And when do I pay?", "went on")])
def test_asking_the_same_again_is_a_complaint_and_another_question_is_not(said, rule):
    first = logged("i1", ("follow_up", "i2"))
    second = logged("i2", messages=(*ASKED, Message("assistant", TEXT), Message("user", said)))
    assert set(only(first, second).signals) == {rule}
    assert only(logged("i1", ("follow_up", "gone"))).signals == {}


def test_a_choice_is_a_pair_with_its_place_on_the_page():
    shown = ["a", "b", "c"]
    found = evidence([logged("a", text="one"), logged("b", ("select_variant", shown), text="two"),
                      logged("c", text="three", messages=(Message("user", "something else"),))])
    pairs = [e for e in found if len(e.answers) == 2]
    assert [[a.text for a in e.answers] for e in pairs] == [["two", "one"]]  # c answers another question
    assert (pairs[0].position, pairs[0].shown, pairs[0].signals) == (1, 3, {"chosen": 1.0})
    assert pairs[0].interactions == ("b", "a")


def test_the_answer_that_stayed_beats_the_one_sent_away():
    first, second = logged("i1", ("regenerate", "i2")), logged("i2", ("ticket_resolved", 1), text="Better.")
    kept, single = sorted(evidence([first, second]), key=lambda e: -len(e.answers))
    assert [a.text for a in kept.answers] == ["Better.", TEXT] and kept.signals == {"kept": 1.0}
    assert single.interactions == ("i2",) and single.signals == {"resolved": 1.0}  # nothing more is read into i1
    for event in ("regenerate", "complaint", "abandon"):
        again = logged("i2", (event, ""), text="Better.")
        assert not [e for e in evidence([first, again]) if len(e.answers) == 2]
    unread = replace(first, answer=replace(first.answer, finished=False))
    assert not [e for e in evidence([unread, second]) if len(e.answers) == 2]


def test_an_edit_is_a_pair_if_it_is_neither_a_typo_nor_another_answer():
    better = TEXT + " Shall I start one?"
    found = only(logged("i1", ("edit", better)))
    assert [a.text for a in found.answers] == [better, TEXT] and found.answers[0].model == "m"
    for text in (TEXT + "!", "Bye"):
        assert not evidence([logged("i1", ("edit", text))])


@pytest.mark.parametrize(("a", "b", "steps"), [("kitten", "sitting", 3), ("flaw", "lawn", 2), ("", "abc", 3),
                                              ("abc", "abc", 0), ("intention", "execution", 5)])
def test_distance_is_levenshteins(a, b, steps):
    assert signals.distance(a, b) == signals.distance(b, a) == pytest.approx(steps / max(len(a), len(b), 1))


def test_silence_says_nothing_and_simulated_users_stay_simulated():
    assert not evidence([logged("i1")])
    assert only(logged("i1", ("thumb", 1), consent="simulated")).simulated
