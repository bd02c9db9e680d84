import random
from collections import Counter

import pytest

from tunesmith.quickstart import replies, rubric, users
from tunesmith.quickstart.customers import Scenario
from tunesmith.records import Answer


def write(conversations, n):
    """Agents of all walks, who do not know what was asked."""
    out = []
    for c in conversations:
        rng = random.Random(c[-1].content)
        facts = {**replies.sample("train", 1, rng.randrange(10**6))[0].to_dict(), "messages": [{"role": "user",
                 "content": c[-1].content}]}
        out.append([Answer(replies.write(Scenario.from_dict(facts), replies.population(rng), rng), "m")
                    for _ in range(n)])
    return out


@pytest.fixture(scope="module")
def log():
    return users.simulate(500, write, seed=1)


def events(log, kind):
    return [(i, e["value"]) for i in log.interactions for e in i.events if e["type"] == kind]


def test_the_same_seed_gives_the_same_log_and_says_that_it_is_simulated(log):
    assert users.simulate(60, write, seed=2) == users.simulate(60, write, seed=2)
    assert len(log.interactions) == len({i.id for i in log.interactions}) == 500
    assert {(i.consent, i.source) for i in log.interactions} == {("simulated", "simulated")}


def test_rates_are_those_of_a_real_log(log):
    one = len(log.interactions) / 100
    crowd = {u.name: u for u in users.crowd(125, 1)}
    honest = [i for i in log.interactions if not crowd[i.user].manipulates]
    thumbs = sum(e["type"] == "thumb" for i in honest for e in i.events)
    assert 1.5 < thumbs / one < 5 and sum(u.manipulates for u in crowd.values()) == round(0.02 * 125)
    assert 4 < len(events(log, "select_variant")) / one < 12 and 45 < len(events(log, "ticket_resolved")) / one < 75
    assert 0 < len(events(log, "edit")) / one < 10 and 0 < len(events(log, "regenerate")) / one < 10


def test_better_answers_are_treated_better(log):
    gold = log.gold()

    def mean(kind, value):
        found = [gold.score(users.Prompt(i.messages), [i.answer.text])[0] for i, v in events(log, kind) if v == value]
        return sum(found) / len(found)

    assert mean("ticket_resolved", 1) > mean("ticket_resolved", 0) + 0.05


def test_links_point_at_interactions_with_the_right_prompt(log):
    by_id = {i.id: i for i in log.interactions}
    for i, other in events(log, "regenerate"):
        assert by_id[other].messages == i.messages and by_id[other].conversation == i.conversation
    for i, other in events(log, "follow_up"):
        assert by_id[other].messages[:-2] == i.messages and by_id[other].messages[-2].content == i.answer.text
        assert by_id[other].turn == i.turn + 1
    assert events(log, "follow_up") and events(log, "regenerate")


def test_of_two_the_upper_is_chosen_more_often_than_its_worth():
    def same(conversations, n):
        return [[Answer("Happy to help.", "m")] * n for _ in conversations]

    places = Counter(shown.index(i.id) for i, shown in events(users.simulate(600, same, 3), "select_variant"))
    assert places[0] / places.total() > 0.6


def test_edits_mend_and_manipulators_push_handovers(log):
    for i, text in events(log, "edit"):
        scenario = Scenario.from_dict(log.prompts[i.id].facts["scenario"])
        assert rubric.gold(scenario, text) > rubric.gold(scenario, i.answer.text)
    bad = {u.name for u in users.crowd(125, 1) if u.manipulates}
    theirs = [(i, v) for i, v in events(log, "thumb") if i.user in bad]
    assert theirs
    for i, up in theirs:
        assert up == rubric.check(Scenario.from_dict(log.prompts[i.id].facts["scenario"]), i.answer.text).handover
