"""Topics are the groups that are there, and what people ask that is not there is noticed."""

import random

import pytest

from tunesmith.data.topics import topics

THEMES = {"loans": "mortgage interest repayment lender overpayment", "cards": "debit pin contactless blocked stolen",
          "travel": "abroad currency exchange airport insurance", "garden": "tulips compost watering seedlings roses"}


def asked(themes, count=60, seed=0):
    draw = random.Random(seed)
    return [" ".join(["how", "do", "i", *draw.sample(THEMES[t].split(), 3), draw.choice(["today", "please", "now"])])
            for t in themes for _ in range(count)]


def test_groups_are_named_by_their_own_words():
    found = topics(asked(["loans", "cards", "travel"]), count=3)
    assert [t.share for t in found.topics] == pytest.approx([1 / 3] * 3, abs=0.1)
    for topic in found.topics:
        home = [name for name, words in THEMES.items() if topic.words[0] in words.split()]
        assert len(home) == 1 and set(topic.words) <= set(THEMES[home[0]].split())
    assert found.uncovered is None


def test_what_people_ask_that_is_not_there():
    data, reference = asked(["loans", "cards"], 100), asked(["loans", "garden"], 50, seed=1)
    found = topics(data, reference, count=2)
    assert found.uncovered.value == pytest.approx(0.5, abs=0.08)
    assert {reference[n] for n in found.examples[:50]} == set(reference[50:])
    assert sum(t.reference for t in found.topics) == pytest.approx(1)


def test_the_same_people_leave_about_a_twentieth():
    draw = random.Random(5)
    words = [f"word{n}" for n in range(400)]
    both = [" ".join(draw.choices(words, weights=[1 / (n + 3) for n in range(400)], k=8)) for _ in range(1600)]
    found = topics(both[:800], both[800:])
    assert 0.02 < found.uncovered.value < 0.1


def test_the_same_seed_gives_the_same_topics():
    data = asked(["loans", "cards", "travel"])
    assert topics(data, seed=1) == topics(data, seed=1)


def test_too_few_questions_have_no_topics():
    assert topics(asked(["loans"], 20)) is None
    assert topics(["word for word the same"] * 80) is None


def test_questions_that_come_twice_do_not_make_all_others_strange():
    draw = random.Random(5)
    words = [f"word{n}" for n in range(400)]
    both = [" ".join(draw.choices(words, weights=[1 / (n + 3) for n in range(400)], k=8)) for _ in range(800)]
    assert topics(both[:400] * 2, both[400:]).uncovered.value < 0.15
