import json

import pytest

from tunesmith.quickstart import desk, phrases
from tunesmith.quickstart.customers import PROVOCATIVE, SPLITS, Scenario, sample, variety


def test_same_seed_same_customers_and_other_seed_others():
    assert sample("train", 30, seed=4) == sample("train", 30, seed=4)
    assert [s.messages for s in sample("train", 30, seed=4)] != [s.messages for s in sample("train", 30, seed=5)]


def test_the_first_customers_do_not_depend_on_how_many_are_asked_for():
    assert sample("dev", 5, seed=1) == sample("dev", 50, seed=1)[:5]


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"'validation'.*train, dev, test"):
        sample("validation", 1, seed=0)


@pytest.mark.parametrize("table", [phrases.OPENERS, phrases.CLOSERS, *phrases.CORES.values()])
def test_phrasings_of_the_splits_are_disjoint(table):
    for a, b in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not set(table[a]) & set(table[b])


def test_no_held_out_message_occurs_in_training():
    seen = {s.messages[-1]["content"].lower() for s in sample("train", 6000, seed=0)}
    held_out = {s.messages[-1]["content"].lower() for s in sample("test", 1500, seed=0)}
    assert not seen & held_out


def test_messages_end_with_the_user_and_some_have_an_earlier_exchange():
    scenarios = sample("train", 1000, seed=2)
    assert all(s.messages[-1]["role"] == "user" and s.messages[-1]["content"] for s in scenarios)
    earlier = sum(len(s.messages) > 1 for s in scenarios) / len(scenarios)
    assert 0.10 < earlier < 0.22


def test_only_customers_who_gave_their_data_are_verified():
    for s in sample("dev", 1000, seed=3):
        if s.facts["verified"]:
            assert s.intent in desk.IDENTITY_INTENTS and len(s.messages) == 3


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_provocative_share(share):
    scenarios = sample("dev", 600, seed=0, provocative=share)
    assert sum(s.mood in PROVOCATIVE for s in scenarios) / 600 == pytest.approx(share, abs=0.06)
    assert all(s.provocative == (s.mood in PROVOCATIVE) for s in scenarios)


def test_a_scenario_survives_json():
    for s in sample("test", 20, seed=0):
        assert Scenario.from_dict(json.loads(json.dumps(s.to_dict()))) == s


@pytest.mark.parametrize("split", SPLITS)
def test_every_intent_is_asked_in_varied_words(split):
    scenarios = sample(split, 1500, seed=0)
    assert {s.intent for s in scenarios} == set(phrases.CORES)
    figures = variety(s.messages[-1]["content"] for s in scenarios)
    assert figures["duplicates"] < 0.04
    assert figures["distinct_2"] > 0.08


def test_variety_by_hand():
    figures = variety(["a b a", "a b a", "c"])
    assert figures["distinct_1"] == pytest.approx(3 / 7)
    assert figures["distinct_2"] == pytest.approx(2 / 4)
    assert figures["distinct_3"] == pytest.approx(1 / 2)
    assert figures["duplicates"] == pytest.approx(1 / 3)
