"""People as judges: blind groups, and rankings read back as outcomes of models."""

import numpy as np
import pytest

from tunesmith.errors import DataError, UserError
from tunesmith.evaluate.people import for_people, from_rankings
from tunesmith.records import Answer, Message, Prompt, Ranking
from tunesmith.store import work
from tunesmith.store.project import set_gold

PROMPTS = [Prompt((Message("user", f"question {n}"),)) for n in range(12)]
ANSWERS = {"base@1": [f"plain {n}" for n in range(12)],
           "sft@2": [Answer(f"better {n}" if n else "plain 0", "sft@2") for n in range(12)],
           "ppo@3": [f"best {n}" if n else "plain 0" for n in range(12)]}
WORTH = {"plain": 0, "better": 1, "best": 2}


def worth(text):
    return WORTH[text.split()[0]]


def verdict(group, labeler, order=None, **more):
    """Best first, or in an order of one's own."""
    order = order or sorted(range(len(group.answers)), key=lambda i: -worth(group.answers[i].text))
    tiers = tuple((i,) if isinstance(i, int) else tuple(i) for i in order)
    return Ranking(f"{labeler}-{group.id}", group.id, labeler, tiers, **more)


def test_groups_are_blind_shuffled_and_merged():
    blind = for_people(PROMPTS, ANSWERS)
    assert len(blind.groups) == 11 and blind.places[0][0] is None  # all wrote the same there
    assert blind == for_people(PROMPTS, ANSWERS) != for_people(PROMPTS, ANSWERS, seed=1)
    first = [g.answers[0].model for g in blind.groups]
    assert len(set(first)) == 3  # no model always stands at the top
    for n, (group, wrote) in enumerate(blind.places[1:], 1):
        assert {m: group.answers[i].text for m, i in wrote.items()} == {
            "base@1": f"plain {n}", "sft@2": f"better {n}", "ppo@3": f"best {n}"}
    two = for_people(PROMPTS[:1], {"a": ["same"], "b": ["same"], "c": ["other"]})
    assert sorted((a.text, a.model) for a in two.groups[0].answers) == [("other", "c"), ("same", "a, b")]


def test_the_studio_gives_the_outcomes_of_models(workspace):
    """The whole way: groups into the workspace, claims, verdicts, outcomes."""
    blind = for_people(PROMPTS, ANSWERS)
    workspace.add_groups("look", blind.groups)
    n = 0
    while claim := work.claim(workspace, "look", "ann"):
        assert "model" not in str(claim.shown)
        order = sorted(claim.shown, key=lambda i: -worth(claim.group.answers[i].text))
        work.submit(workspace, Ranking(f"v{n}", claim.group.id, "ann", tuple((i,) for i in order), claim.shown),
                    claim.token)
        n += 1
    judged = from_rankings(for_people(PROMPTS, ANSWERS), workspace.rankings("look"))
    assert judged.outcomes.of("ppo@3", "base@1").tolist() == [0.5] + [1.0] * 11
    assert judged.outcomes.of("base@1", "sft@2").tolist() == [0.5] + [0.0] * 11
    assert (judged.groups, judged.of, judged.alike) == (11, 11, 1) and judged.verdicts >= 11


def test_a_group_that_another_evaluation_stored_does_no_harm(workspace):
    """The stored body names other models; who wrote what is read from the answers."""
    old = for_people(PROMPTS[1:2], {"x": ["plain 1"], "y": ["better 1"]})
    new = for_people(PROMPTS[1:2], {"mine": ["better 1"], "theirs": ["plain 1"]})
    assert old.groups[0].id == new.groups[0].id
    workspace.add_groups("old", old.groups)
    workspace.add_groups("new", new.groups)
    assert {a.model for a in workspace.groups("new")[0].answers} == {"x", "y"}
    workspace.add_ranking(verdict(new.groups[0], "ann"))
    assert from_rankings(new, workspace.rankings("new")).outcomes.of("mine", "theirs").tolist() == [1.0]


def test_several_people_become_shares_of_votes():
    blind = for_people(PROMPTS, ANSWERS)
    said = [verdict(g, who) for g in blind.groups for who in ("ann", "bob")]
    said += [verdict(g, "cy", order=[[0, 1, 2]]) for g in blind.groups]
    judged = from_rankings(blind, said, method="votes")
    assert judged.outcomes.of("ppo@3", "base@1")[1:] == pytest.approx([2.5 / 3] * 11)
    assert judged.agreement.percent.value == 1 and judged.agreement.items == 11
    assert judged.about["consensus"] == "votes"


def test_somebody_who_ranks_upside_down_is_weighed_for_what_it_is_worth():
    prompts = [Prompt((Message("user", f"q {n}"),)) for n in range(60)]
    answers = {m: [f"{word} {n}" for n in range(60)] for m, word in (("a", "plain"), ("b", "better"), ("c", "best"))}
    blind = for_people(prompts, answers)
    said = [verdict(g, who) for g in blind.groups for who in ("ann", "bob", "dan")]
    said += [verdict(g, "eve", order=sorted(range(3), key=lambda i: worth(g.answers[i].text))) for g in blind.groups]
    plain = from_rankings(blind, said, method="votes").outcomes.preference("c", "a").rate.value
    weighed = from_rankings(blind, said)
    assert plain == pytest.approx(0.75) and weighed.outcomes.preference("c", "a").rate.value > 0.95
    assert weighed.about["abilities"]["eve"][0] < 0
    without = from_rankings(blind, said, method="votes", without=["eve"])
    assert without.outcomes.preference("c", "a").rate.value == 1 and without.verdicts == 180


def test_what_nobody_said_stays_unsaid():
    blind = for_people(PROMPTS, ANSWERS)
    group, wrote = blind.places[1]
    top = wrote["ppo@3"]
    judged = from_rankings(blind, [verdict(group, "ann", order=[top]),
                                   verdict(blind.groups[1], "ann", order=(), skipped="unclear")])
    x, y = judged.outcomes.of("ppo@3", "base@1"), judged.outcomes.of("sft@2", "base@1")
    assert x[1] == 1 and np.isnan(y[1]) and np.isnan(x[2:]).all()  # the rest of a partial ranking is no tie
    assert judged.groups == 1


def test_test_questions_second_looks_and_changed_minds():
    blind = for_people(PROMPTS, ANSWERS)
    g, h = blind.groups[0], blind.groups[1]
    up, down = verdict(g, "ann"), verdict(g, "ann", order=sorted(range(3), key=lambda i: worth(g.answers[i].text)))
    changed = from_rankings(blind, [down, Ranking("later", g.id, "ann", up.tiers, revises=down.id)])
    assert changed.outcomes.of("ppo@3", "base@1")[1] == 1
    again = from_rankings(blind, [up, Ranking("again", g.id, "ann", down.tiers, purpose="repeat")])
    assert again.outcomes.of("ppo@3", "base@1")[1] == 1
    judged = from_rankings(blind, [up, verdict(h, "ann")], known=[h.id])
    assert judged.of == 10 and np.isnan(judged.outcomes.of("ppo@3", "base@1")[2])


def test_test_questions_come_from_the_project(workspace):
    from tunesmith.store.project import gold

    blind = for_people(PROMPTS, ANSWERS)
    workspace.add_groups("look", blind.groups)
    set_gold(workspace, "look", blind.groups[0].id, ((0,), (1, 2)), "boss")
    workspace.add_ranking(verdict(blind.groups[1], "ann"))
    assert from_rankings(blind, workspace.rankings("look"), known=gold(workspace, "look")).of == 10


def test_errors_say_what_to_do():
    with pytest.raises(UserError, match="nobody has judged"):
        from_rankings(for_people(PROMPTS, ANSWERS), [])
    with pytest.raises(UserError, match="2 to 9 models at a time, got 10"):
        for_people(PROMPTS, {str(n): ["x"] * 12 for n in range(10)})
    with pytest.raises(DataError, match='"b" gave 1 answers to 12 prompts'):
        for_people(PROMPTS, {"a": ["x"] * 12, "b": ["x"]})
