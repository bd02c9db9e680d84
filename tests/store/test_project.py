"""Projects, test questions, guidelines."""

import pytest
from pydantic import ValidationError

from tunesmith.errors import DataError, NotFound
from tunesmith.records import Answer, AnswerGroup, Message, Prompt
from tunesmith.store.audit import entries
from tunesmith.store.project import (
    Project,
    acknowledge,
    acknowledged,
    add_guidelines,
    gold,
    guidelines,
    project,
    set_gold,
    set_project,
)


def group(n):
    return AnswerGroup(Prompt((Message("user", f"question {n}"),)), (Answer("a"), Answer("b")))


@pytest.fixture
def s(workspace):
    workspace.add_groups("s", [group(0), group(1)])
    return workspace


def test_a_project_has_defaults_until_somebody_sets_it(s):
    assert project(s, "s") == Project() and Project().overlap == 2
    changed = Project(overlap=3, ratings=True, order="random", open=False)
    set_project(s, "s", changed, "boss")
    assert project(s, "s") == changed
    set_project(s, "s", Project(overlap=1), "boss")
    assert project(s, "s") == Project(overlap=1)
    assert [(e.actor, e.action, e.object, e.detail["overlap"]) for e in entries(s)][:2] == [
        ("boss", "settings", "s", [3, 1]), ("boss", "settings", "s", [2, 3])]
    with pytest.raises(NotFound, match="there is: s"):
        project(s, "nothing")


@pytest.mark.parametrize("wrong", [{"overlap": 0}, {"gold_share": 0.5}, {"order": "best"}, {"lease_seconds": 1}])
def test_a_project_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        Project(**wrong)


def test_test_questions_are_kept_with_their_tiers(s):
    set_gold(s, "s", group(1).id, ((1,), (0,)), "boss")
    set_gold(s, "s", group(0).id, ((0,), (1,)), "boss")
    assert list(gold(s, "s").items()) == [(group(0).id, ((0,), (1,))), (group(1).id, ((1,), (0,)))]
    set_gold(s, "s", group(0).id, None, "boss")
    assert list(gold(s, "s")) == [group(1).id]
    with pytest.raises(DataError, match="answer 2 is ranked"):
        set_gold(s, "s", group(0).id, ((0,), (2,)), "boss")
    assert entries(s)[0].detail == {"group": group(0).id, "tiers": None}


def test_guidelines_have_versions_that_are_acknowledged_one_by_one(s):
    assert guidelines(s, "s") is None and acknowledged(s, "s", "ann") == 0
    assert add_guidelines(s, "s", "Be kind.", "boss") == 1
    assert add_guidelines(s, "s", "Be kind.", "boss") == 1
    assert add_guidelines(s, "s", "Be kind, be brief.", "boss") == 2
    assert guidelines(s, "s") == (2, "Be kind, be brief.") and guidelines(s, "s", 1) == (1, "Be kind.")
    acknowledge(s, "s", 1, "ann")
    acknowledge(s, "s", 1, "ann")
    assert acknowledged(s, "s", "ann") == 1 and acknowledged(s, "s", "bob") == 0
    acknowledge(s, "s", 2, "ann")
    assert acknowledged(s, "s", "ann") == 2
    with pytest.raises(NotFound, match="no version 3"):
        acknowledge(s, "s", 3, "ann")
    for text in ("", " \n", "x" * 100_001, "a\0b"):
        with pytest.raises(DataError, match="guidelines have"):
            add_guidelines(s, "s", text, "boss")
