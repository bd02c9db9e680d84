"""Critiques in the workspace: kept once, found by set, refused where they do not fit."""

import pytest

from tunesmith.errors import DataError, NotFound
from tunesmith.records import Answer, AnswerGroup, Message, Prompt
from tunesmith.store.critiques import Critique, add_critiques, critique, critiques

GROUPS = [AnswerGroup(Prompt((Message("user", f"q{n}"),)), (Answer("a"), Answer("b"))) for n in range(3)]


def test_critiques_are_kept_once(workspace):
    workspace.add_groups("s", GROUPS)
    workspace.add_groups("other", GROUPS[2:])
    first = Critique(GROUPS[0].id, "[[0]]: vague", 1, "critic")
    assert add_critiques(workspace, [first, Critique(GROUPS[2].id, "[[1]]: wrong")]) == 2
    assert add_critiques(workspace, [Critique(GROUPS[0].id, "another one", 0, "critic")]) == 0
    assert critique(workspace, GROUPS[0].id) == first and critique(workspace, GROUPS[1].id) is None
    assert set(critiques(workspace, "s")) == {GROUPS[0].id, GROUPS[2].id}
    assert critiques(workspace, "other") == {GROUPS[2].id: Critique(GROUPS[2].id, "[[1]]: wrong")}
    with pytest.raises(NotFound, match="other"):
        critiques(workspace, "othr")


@pytest.mark.parametrize("wrong,error,what", [
    (Critique("0" * 16, "x"), NotFound, "no answer group"), (Critique(GROUPS[0].id, " "), DataError, "1 to 10000"),
    (Critique(GROUPS[0].id, "x" * 10_001), DataError, "10001"), (Critique(GROUPS[0].id, "x", 2), DataError, "0 to 1")])
def test_what_does_not_fit_is_refused_and_nothing_is_kept(workspace, wrong, error, what):
    workspace.add_groups("s", GROUPS)
    with pytest.raises(error, match=what):
        add_critiques(workspace, [Critique(GROUPS[1].id, "fine"), wrong])
    assert critiques(workspace, "s") == {}
