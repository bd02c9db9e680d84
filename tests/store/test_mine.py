"""A labeler's own verdicts: newest first, what was replaced with them, nobody else's."""

import pytest

from tunesmith.errors import NotFound
from tunesmith.records import Answer, AnswerGroup, Message, Prompt, Ranking
from tunesmith.store import mine, work
from tunesmith.store.sets import set_names, sets_of, some_groups


def group(n):
    return AnswerGroup(Prompt((Message("user", f"question {n}"),)), tuple(Answer(f"answer {i}") for i in range(3)))


@pytest.fixture
def filled(workspace):
    groups = [group(n) for n in range(5)]
    workspace.add_groups("one", groups[:4])
    workspace.add_groups("two", groups[3:])
    for n, g in enumerate(groups):
        workspace.add_ranking(Ranking(f"r_{n}", g.id, "ann", ((0,), (1,), (2,))))
    workspace.add_ranking(Ranking("bob", groups[0].id, "bob", ((2,), (1,), (0,))))
    return workspace


def ids(verdicts):
    return [v.ranking.id for v in verdicts]


def test_newest_first_in_pages_and_by_set(filled):
    first = mine.verdicts(filled, "ann", limit=2)
    assert ids(first) == ["r_4", "r_3"]
    assert ids(mine.verdicts(filled, "ann", before=first[-1].seq, limit=9)) == ["r_2", "r_1", "r_0"]
    two = mine.verdicts(filled, "ann", "two")
    assert ids(two) == ["r_4", "r_3"] and {v.set_name for v in two} == {"two"}
    assert [v.set_name for v in first] == ["two", "one"]  # the oldest set that has the group
    assert two[0].group == group(4) and mine.verdicts(filled, "eve") == []
    with pytest.raises(NotFound, match="did you mean"):
        mine.verdicts(filled, "ann", "twoo")


def test_a_change_takes_the_place_of_what_it_replaces(filled):
    for n, old in ((6, "r_0"), (7, "r_6")):
        work.submit(filled, Ranking(f"r_{n}", group(0).id, "ann", ((2,), (n % 3,)), revises=old))
    newest, *rest = mine.verdicts(filled, "ann")
    assert newest.ranking.id == "r_7" and [r.id for r, _ in newest.earlier] == ["r_0", "r_6"]
    assert ids(rest) == ["r_4", "r_3", "r_2", "r_1"]
    for id in ("r_0", "r_6", "r_7"):
        assert mine.verdict(filled, id, "ann") == newest or mine.verdict(filled, id, "ann").ranking == newest.ranking


def test_nobody_elses(filled):
    assert ids(mine.verdicts(filled, "bob")) == ["bob"]
    for id in ("bob", "nothing"):
        with pytest.raises(NotFound, match="you have no such verdict"):
            mine.verdict(filled, id, "ann")


def test_a_note_that_looks_like_a_revision_hides_nothing(filled):
    note = '"revises":"r_1"'
    filled.add_ranking(Ranking("r_9", group(1).id, "ann", ((0,), (1,)), rationale=note))
    assert "r_1" in ids(mine.verdicts(filled, "ann"))


def test_sets_a_part_at_a_time(filled):
    assert set_names(filled) == ["one", "two"]
    assert sets_of(filled, group(3).id) == ["one", "two"] and sets_of(filled, "none") == []
    assert some_groups(filled, "one", 1, 2) == [group(1), group(2)]
    with pytest.raises(NotFound):
        some_groups(filled, "three")
