"""The demonstration desk: who may decide, what is kept, and that only accepted text leaves it."""

import threading

import pytest
import sqlalchemy as sa

from tunesmith.errors import Conflict, DataError, NotAllowed, NotFound, UserError
from tunesmith.records import Answer, AnswerGroup, Demonstration, Message, Prompt, Ranking
from tunesmith.store import desk, team
from tunesmith.store import tables as db
from tunesmith.store.desk import Review


def demo(question="What is the rate?", answer="7.5 percent.", **rest):
    return Demonstration((Message("user", question), Message("assistant", answer)), **rest)


def account(workspace, name, role="reviewer", active=True):
    row = {"name": name, "role": role, "password": "", "active": active, "created": ""}
    workspace.database.write(lambda c: c.execute(sa.insert(db.accounts).values(row)))


def decide(workspace, id, verdict="accepted", by="rev", role="reviewer", seen=None, review_id=None, **rest):
    seen = len(desk.draft(workspace, id).reviews) if seen is None else seen
    return desk.review(workspace, id, Review(review_id or f"{by}-{id}-{seen}", by, verdict, **rest), role=role,
                       seen=seen)


def written(workspace, id="draft-0001", author="ann", name="loans", **rest):
    desk.write(workspace, name, id, demo(**rest), author)
    return id


# ---- putting drafts on the desk

def test_a_draft_is_stored_as_it_was_written(workspace):
    original = demo(licence="CC-BY-4.0")
    assert desk.write(workspace, "loans", "draft-0001", original, "ann")
    found = desk.draft(workspace, "draft-0001")
    assert (found.desk, found.origin, found.author, found.state) == ("loans", "written", "ann", "pending")
    assert found.current.messages == original.messages and found.current.licence == "CC-BY-4.0"
    assert found.current.review == "pending" and found.reviews == ()


def test_the_same_id_again_is_a_retry_and_with_other_text_refused(workspace):
    written(workspace)
    assert desk.write(workspace, "loans", "draft-0001", demo(), "ann") is False
    with pytest.raises(DataError, match="taken"):
        desk.write(workspace, "loans", "draft-0001", demo(answer="9 percent."), "ann")
    with pytest.raises(DataError, match="taken"):
        desk.write(workspace, "loans", "draft-0001", demo(), "ben")
    assert desk.find(workspace, "loans").count == 1


def test_an_import_stores_each_text_once_per_desk(workspace):
    rows = [demo(f"Question {n}?") for n in range(2500)]
    assert desk.add(workspace, "loans", [*rows, rows[0]], origin="imported") == 2500
    assert desk.add(workspace, "loans", rows[:10], origin="imported") == 0
    assert desk.add(workspace, "cards", rows[:10], origin="generated") == 10
    assert desk.desks(workspace) == [desk.Desk("loans", 2500), desk.Desk("cards", 10)]


@pytest.mark.parametrize(("messages", "why"), [
    ((), "must end with the model's answer"),
    ((Message("user", "Hi"),), "must end with the model's answer"),
    ((Message("assistant", "Hi"),), "needs a question"),
    ((Message("system", "Be kind."), Message("assistant", "Hi")), "needs a question"),
    ((Message("user", " \n"), Message("assistant", "Hi")), r"turn 1 \(user\) is empty"),
    ((Message("user", "Hi"), Message("assistant", "x" * 200_001)), "200001 characters"),
    ((Message("user", "Hi"), Message("user", "Hi"), Message("assistant", "x")), 'two "user" turns in a row'),
    ((Message("user", "Hi"), Message("assistant", "x\ud800")), r"holds half a character \(\\ud800"),
    (tuple(Message(("user", "assistant")[n % 2], "x") for n in range(202)), "at most 200"),
])
def test_what_is_no_demonstration_is_refused(workspace, messages, why):
    with pytest.raises(DataError, match=why):
        desk.write(workspace, "loans", "draft-0001", Demonstration(messages), "ann")
    assert desk.desks(workspace) == []


def test_names_are_checked(workspace):
    with pytest.raises(UserError, match="cannot be a name of a desk"):
        desk.write(workspace, "../x", "draft-0001", demo(), "ann")
    with pytest.raises(NotFound, match='did you mean "loans"'):
        written(workspace)
        desk.find(workspace, "loan")
    with pytest.raises(NotFound, match='no draft "nothing"'):
        desk.draft(workspace, "nothing")


def test_every_text_survives(workspace):
    text = "0\0 ﷽ 👩‍👩‍👧 \u202e \u2028 <b>"
    written(workspace, answer=text)
    decide(workspace, "draft-0001", note=text)
    found = desk.draft(workspace, "draft-0001")
    assert found.current.messages[-1].content == found.reviews[0].note == text


def test_the_answers_that_everybody_placed_first_are_brought(workspace):
    groups = [AnswerGroup(Prompt((Message("user", f"Q{n}"),)), (Answer(f"A{n}", "m@1"), Answer(f"B{n}", "m@1")))
              for n in range(7)]
    workspace.add_groups("set", groups)
    a, b, tie = ((0,), (1,)), ((1,), (0,)), ((0, 1),)
    said = [(0, "ann", b), (0, "ben", tie), (1, "ann", a), (1, "ben", b), (2, "ann", a), (2, "ann", b), (4, "dot", a),
            (5, "ann", b)]
    workspace.add_rankings([Ranking(f"r{n}", groups[g].id, who, tiers) for n, (g, who, tiers) in enumerate(said)])
    workspace.add_rankings([Ranking("bad", groups[3].id, "ann", a, all_bad=True),
                            Ranking("gold", groups[6].id, "ann", a, purpose="gold"),
                            Ranking("skip", groups[5].id, "ben", skipped="long")])
    team.quarantine(workspace, "dot", "inverted", "me")
    assert desk.bring(workspace, "loans", "set", "me") == 3  # agreed, last word, one skipped
    found = desk.listed(workspace, "loans")[::-1]
    assert [d.current.messages[-1].content for d in found] == ["B0", "B2", "B5"]
    assert {(d.origin, d.author, d.state, d.current.source) for d in found} == {
        ("generated", "me", "pending", "m@1, placed first in set")}
    assert desk.bring(workspace, "loans", "set", "me") == 0
    with pytest.raises(NotFound):
        desk.bring(workspace, "loans", "nothing", "me")


# ---- deciding

def test_accept_edit_and_reject_keep_every_version(workspace):
    account(workspace, "rev")
    id = written(workspace)
    assert decide(workspace, id, "rejected", reasons=("inaccurate", "other"), note="It is 7.9 percent.")
    assert desk.draft(workspace, id).state == "rejected"
    assert decide(workspace, id, edited=demo(answer="7.9 percent."))
    found = desk.draft(workspace, id)
    assert found.state == "accepted"
    assert [v.messages[-1].content for v in found.versions] == ["7.5 percent.", "7.9 percent."]
    first, second = found.reviews
    assert (first.reasons, first.note, first.edited) == (("inaccurate", "other"), "It is 7.9 percent.", None)
    assert (second.verdict, second.reviewer) == ("accepted", "rev") and second.edited is not None


def test_an_edit_that_changes_nothing_is_none(workspace):
    id = written(workspace)
    decide(workspace, id, edited=desk.draft(workspace, id).current)
    assert desk.draft(workspace, id).reviews[0].edited is None


def test_a_retried_decision_is_stored_once(workspace):
    id = written(workspace)
    assert decide(workspace, id, review_id="review-01")
    assert decide(workspace, id, review_id="review-01", seen=0) is False
    assert len(desk.draft(workspace, id).reviews) == 1
    with pytest.raises(DataError, match="taken by a review of another draft"):
        decide(workspace, written(workspace, "draft-0002"), review_id="review-01")


def test_of_two_decisions_at_once_the_second_is_told(workspace):
    id = written(workspace)
    outcomes = []

    def run(name):
        try:
            outcomes.append(decide(workspace, id, by=name, seen=0))
        except Conflict as e:
            outcomes.append(str(e))

    threads = [threading.Thread(target=run, args=(f"rev{n}",)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert outcomes.count(True) == 1 and len(desk.draft(workspace, id).reviews) == 1
    assert all("decided on this draft in the meantime (accepted)" in o for o in outcomes if o is not True)


@pytest.mark.parametrize(("verdict", "rest", "why"), [
    ("rejected", {}, "needs a reason"),
    ("rejected", {"reasons": ("boring",)}, "a reason is one of"),
    ("rejected", {"reasons": ("other",)}, "needs a note"),
    ("accepted", {"reasons": ("toxic",)}, "only a rejection"),
    ("accepted", {"note": "\udfff"}, "the note holds half a character"),
    ("deleted", {}, "a verdict is one of"),
    ("accepted", {"note": "x" * 4001}, "at most 4000"),
    ("accepted", {"edited": demo(answer=" ")}, r"turn 2 \(assistant\) is empty"),
])
def test_malformed_decisions_change_nothing(workspace, verdict, rest, why):
    id = written(workspace)
    with pytest.raises(DataError, match=why):
        decide(workspace, id, verdict, **rest)
    assert desk.draft(workspace, id).state == "pending"


@pytest.mark.parametrize("role", ["labeler", "viewer", "api", ""])
def test_only_reviewers_decide(workspace, role):
    id = written(workspace)
    with pytest.raises(NotAllowed, match="reviewer, manager or admin"):
        decide(workspace, id, by="ann", role=role)
    assert desk.following(workspace, "loans", "zoe", role) is None


def test_the_author_does_not_decide_unless_alone_or_admin(workspace):
    account(workspace, "ann")
    decide(workspace, written(workspace, "draft-alone"), by="ann")
    account(workspace, "ben")
    with pytest.raises(NotAllowed, match="somebody else must review"):
        decide(workspace, written(workspace, "draft-0001"), by="ann")
    with pytest.raises(NotAllowed, match="somebody else"):
        decide(workspace, "draft-0001", by="ann", role="manager")
    decide(workspace, "draft-0001", by="ann", role="admin")
    desk.add(workspace, "loans", [demo("Another?")], origin="imported", author="ann")
    brought = desk.following(workspace, "loans", "ann", "reviewer")
    decide(workspace, brought, by="ann")  # bringing a file is not writing it


def test_somebody_who_left_or_only_labels_is_no_other_reviewer(workspace):
    account(workspace, "ann")
    account(workspace, "ben", active=False)
    account(workspace, "cid", role="labeler")
    assert not desk.other_reviewers(workspace, "ann")
    assert desk.other_reviewers(workspace, "ben")


def test_an_author_revises_while_it_waits(workspace):
    account(workspace, "rev")
    id = written(workspace)
    decide(workspace, id, "pending", by="ann", role="labeler", edited=demo(answer="7.9 percent."))
    assert desk.draft(workspace, id).current.messages[-1].content == "7.9 percent."
    with pytest.raises(NotAllowed):
        decide(workspace, id, "pending", by="ben", role="labeler", edited=demo(answer="0 percent."))
    decide(workspace, id)
    with pytest.raises(NotAllowed):
        decide(workspace, id, "pending", by="ann", role="labeler", edited=demo(answer="9.9 percent."))


def test_a_decision_can_be_taken_back(workspace):
    id = written(workspace)
    decide(workspace, id)
    decide(workspace, id, "pending")
    assert desk.draft(workspace, id).state == "pending" and len(desk.draft(workspace, id).reviews) == 2


def test_the_database_refuses_to_change_a_review(workspace):
    decide(workspace, written(workspace))
    for statement in (sa.update(db.reviews).values(note="never said"), sa.delete(db.reviews)):
        with pytest.raises(Exception, match="append-only"):
            workspace.database.write(lambda c, s=statement: c.execute(s))


# ---- going through them

def test_next_and_previous_go_round(workspace):
    ids = [written(workspace, f"draft-000{n}") for n in range(3)]
    seqs = [desk.draft(workspace, id).seq for id in ids]
    go = lambda at, back=False: desk.following(workspace, "loans", "rev", "reviewer", at, back)  # noqa: E731
    assert [go(s) for s in seqs] == [ids[1], ids[2], ids[0]]
    assert [go(s, back=True) for s in seqs] == [ids[2], ids[0], ids[1]]
    decide(workspace, ids[1])
    assert go(seqs[0]) == ids[2] and go(seqs[1]) == ids[2] and go(seqs[1], back=True) == ids[0]
    decide(workspace, ids[2])
    assert go(seqs[0]) is None
    assert desk.waiting(workspace, "loans", "rev", "reviewer") == 1


def test_two_reviewers_start_apart_and_alone_one_starts_at_the_oldest(workspace):
    desk.add(workspace, "loans", [demo(f"{n}?") for n in range(50)], origin="imported")
    account(workspace, "ann")
    oldest = desk.listed(workspace, "loans")[-1].id
    assert desk.following(workspace, "loans", "ann", "reviewer") == oldest
    account(workspace, "ben")
    starts = {desk.following(workspace, "loans", name, "reviewer") for name in ("ann", "ben", "cid", "dot", "eve")}
    assert len(starts) >= 4


def test_a_list_shows_the_newest_first_as_last_edited(workspace):
    for n in range(5):
        written(workspace, f"draft-000{n}", author="ann" if n % 2 else "ben")
    decide(workspace, "draft-0003", edited=demo(answer="Edited."))
    page = desk.listed(workspace, "loans", limit=3)
    assert [d.id for d in page] == ["draft-0004", "draft-0003", "draft-0002"]
    assert page[1].current.messages[-1].content == "Edited."
    assert [d.id for d in desk.listed(workspace, "loans", before=page[-1].seq)] == ["draft-0001", "draft-0000"]
    assert [d.id for d in desk.listed(workspace, "loans", "accepted")] == ["draft-0003"]
    assert [d.id for d in desk.listed(workspace, "loans", author="ann")] == ["draft-0003", "draft-0001"]


# ---- leaving the desk

def test_only_accepted_text_is_published_as_last_edited(workspace):
    for n, verdict in enumerate(["accepted", "rejected", None, "accepted"]):
        id = written(workspace, f"draft-000{n}", question=f"Question {n}?", answer=f"Answer {n}.")
        if verdict:
            decide(workspace, id, verdict, reasons=("toxic",) if verdict == "rejected" else ())
    decide(workspace, "draft-0003", edited=demo("Question 3?", "Edited."))
    written(workspace, "draft-0004", question="Question 0?", answer="Answer 0.")
    decide(workspace, "draft-0004")
    made = desk.publish(workspace, "loans", "loans-1")
    rows = list(made.rows())
    assert [[m.content for m in r.messages] for r in rows] == [["Question 0?", "Answer 0."], ["Question 3?", "Edited."]]
    assert {r.review for r in rows} == {"accepted"} and {r.source for r in rows} == {"written at the desk"}
    assert made.skipped == {"waiting for a review": 1, "rejected": 1, "exact duplicate": 1}


def test_publishing_twice_gives_one_dataset_and_a_change_needs_another_name(workspace):
    decide(workspace, written(workspace))
    first = desk.publish(workspace, "loans", "loans-1")
    assert desk.publish(workspace, "loans", "loans-1") == first
    decide(workspace, written(workspace, "draft-0002", question="More?"))
    with pytest.raises(UserError, match="choose another name"):
        desk.publish(workspace, "loans", "loans-1")
    assert desk.publish(workspace, "loans", "loans-2").count == 2


def test_an_empty_or_unknown_desk_publishes_nothing(workspace):
    written(workspace)
    with pytest.raises(UserError, match="nothing on loans is accepted yet; 1 wait"):
        desk.publish(workspace, "loans", "loans-1")
    with pytest.raises(NotFound):
        desk.publish(workspace, "lone", "loans-1")
    assert workspace.datasets() == []


def test_more_than_one_chunk_is_published_in_order(workspace, monkeypatch):
    monkeypatch.setattr(desk, "CHUNK", 3)
    desk.add(workspace, "loans", [demo(f"{n}?", licence="MIT") for n in range(8)], origin="imported")
    for d in desk.listed(workspace, "loans"):
        decide(workspace, d.id)
    made = desk.publish(workspace, "loans", "loans-1")
    assert [r.messages[0].content for r in made.rows()] == [f"{n}?" for n in range(8)] and made.licence == "MIT"


def test_an_edit_keeps_roles_and_weights():
    old = Demonstration((Message("user", "a"), Message("assistant", "b", 0), Message("user", "c"),
                         Message("assistant", "d")))
    new = desk.edited_messages(old, {1: "B", 3: "D"})
    assert [(m.role, m.content, m.weight) for m in new] == [("user", "a", 1), ("assistant", "B", 0), ("user", "c", 1),
                                                            ("assistant", "D", 1)]
    for beyond in (-1, 4):
        with pytest.raises(DataError, match="there are turns 0 to 3"):
            desk.edited_messages(old, {beyond: "x"})
