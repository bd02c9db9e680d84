"""The demonstration desk over HTTP: who sees and decides what, what is stored, what is refused."""

import json

import pytest

from tunesmith.records import Demonstration, Message, Ranking
from tunesmith.store import desk
from tunesmith.store.audit import entries

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def demo(question="What is the rate?", answer="7.5 percent."):
    return Demonstration((Message("user", question), Message("assistant", answer)))


def body(id="draft-0001", question="What is the rate?", answer="7.5 percent."):
    return {"id": id, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def decide(client, id="draft-0001", verdict="accepted", seen=0, name="loans", **rest):
    return client.post(f"/api/desk/{name}/drafts/{id}/reviews",
                       json={"id": f"review-{id}-{seen}", "verdict": verdict, "seen": seen, **rest})


@pytest.fixture
def draft(client_as, workspace):
    """A draft that the labeler "ann" wrote."""
    made = client_as("labeler", "ann").post("/api/desk/loans/drafts", json=body())
    assert made.status_code == 201 and made.json()["url"] == "/desk/loans/draft-0001"
    return desk.draft(workspace, "draft-0001")


def test_write_review_publish(client, client_as, draft, workspace):
    reviewer = client_as("reviewer")
    page = reviewer.get("/desk/loans/next")
    assert page.url.path == "/desk/loans/draft-0001" and "7.5 percent." in page.text and "by ann" in page.text
    stored = decide(reviewer, edits={"1": "7.9 percent."}, note="It rose.")
    assert (stored.status_code, stored.json()["next"]) == (201, None)
    found = desk.draft(workspace, draft.id)
    assert found.state == "accepted" and found.current.messages[1].content == "7.9 percent."
    page = client.get("/desk/loans/draft-0001").text
    assert "<del>7.5</del><ins>7.9</ins> percent." in page and "It rose." in page
    made = client.post("/desk/loans/publish", data={"dataset": "loans-1"})
    assert "loans-1 is ready" in made.text and "tunesmith sft" in made.text
    row = next(workspace.dataset("loans-1").rows())
    assert [m.content for m in row.messages] == ["What is the rate?", "7.9 percent."]
    last = next(entry for entry in entries(workspace) if entry.action == "desk.publish")
    assert (last.actor, last.object, last.detail) == ("me", "loans-1", {"desk": "loans", "rows": 1})


def test_the_same_post_twice_is_stored_once(client, draft, workspace):
    again = client.post("/api/desk/loans/drafts", json=body("draft-0002"))
    assert again.status_code == 201
    assert client.post("/api/desk/loans/drafts", json=body("draft-0002")).json()["new"] is False
    assert [decide(client).status_code, decide(client).status_code] == [201, 200]
    assert len(desk.draft(workspace, draft.id).reviews) == 1


def test_a_late_decision_hears_of_the_other(client, client_as, draft, workspace):
    decide(client_as("reviewer"), verdict="rejected", reasons=["toxic"])
    late = client.post("/api/desk/loans/drafts/draft-0001/reviews",
                       json={"id": "another-review", "verdict": "accepted", "seen": 0})
    assert late.status_code == 409
    assert "reviewer decided on this draft in the meantime" in late.json()["error"]["message"]
    assert desk.draft(workspace, draft.id).state == "rejected"


def test_a_decision_leads_to_the_next_that_waits(client, workspace):
    for n in range(3):
        client.post("/api/desk/loans/drafts", json=body(f"draft-000{n}"))
    assert decide(client, "draft-0001").json()["next"] == "/desk/loans/draft-0002"
    assert decide(client, "draft-0002").json()["next"] == "/desk/loans/draft-0000"
    assert decide(client, "draft-0000").json()["next"] is None
    assert client.get("/desk/loans/next").url.path == "/desk/loans"


def test_who_sees_what(client_as, draft):
    ben, ann, viewer = client_as("labeler", "ben"), client_as("labeler", "ann"), client_as("viewer")
    assert "7.5 percent" in ann.get("/desk/loans").text and "7.5 percent" in viewer.get("/desk/loans").text
    assert "7.5 percent" not in ben.get("/desk/loans").text and "<b>0</b> waiting" in ben.get("/desk").text
    assert ben.get("/desk/loans/draft-0001").status_code == 404
    assert decide(ben).status_code == 404
    assert ann.get("/desk/loans/draft-0001").status_code == viewer.get("/desk/loans/draft-0001").status_code == 200
    assert viewer.get("/desk/cards/draft-0001").status_code == 404  # another desk's


@pytest.mark.parametrize(("role", "writes", "decides", "publishes"), [
    ("viewer", 403, 403, 403), ("labeler", 201, 404, 403), ("reviewer", 201, 201, 403), ("manager", 201, 201, 200),
    ("admin", 201, 201, 200)])
def test_who_may_do_what(client, client_as, draft, role, writes, decides, publishes):
    client.post("/api/desk/loans/drafts", json=body("draft-0002"))
    decide(client, "draft-0002")
    who = client_as(role, "zoe")
    assert who.post("/api/desk/loans/drafts", json=body("draft-0003")).status_code == writes
    assert decide(who).status_code == decides
    assert who.post("/desk/loans/publish", data={"dataset": "loans-1"}).status_code == publishes


def test_nobody_unknown_gets_in(anonymous, draft):
    assert anonymous.get("/desk/loans/draft-0001").headers["location"].startswith("/signin")
    assert decide(anonymous).status_code == 401
    assert anonymous.post("/api/desk/loans/drafts", json=body("draft-0009")).status_code == 401


def test_an_author_revises_but_does_not_decide(client_as, draft, workspace):
    ann = client_as("labeler", "ann")
    assert "Save changes" in ann.get("/desk/loans/draft-0001").text
    assert decide(ann).status_code == 403
    assert decide(ann, verdict="pending", edits={"1": "Mended."}).status_code == 201
    assert desk.draft(workspace, draft.id).current.messages[1].content == "Mended."


@pytest.mark.parametrize(("change", "status", "why"), [
    ({"verdict": "deleted"}, 400, "verdict"), ({"verdict": "rejected"}, 400, "needs a reason"),
    ({"verdict": "rejected", "reasons": ["other"]}, 400, "needs a note"), ({"edits": {"7": "x"}}, 400, "turns 0 to 1"),
    ({"edits": {"1": "  "}}, 400, "is empty"), ({"edits": {"-1": "x"}}, 400, "edits"), ({"seen": "0"}, 400, "seen"),
    ({"id": "../../etc"}, 400, "id"), ({"note": "x" * 4001}, 400, "note"), ({"extra": 1}, 400, "extra"),
    ({"note": "\ud800"}, 400, "valid string"), ({"edits": {"1": "\ud800"}}, 400, "valid string")])
def test_malformed_decisions_are_refused_and_change_nothing(client, draft, workspace, change, status, why):
    sent = {"id": "review-0001", "verdict": "accepted", "seen": 0, **change}
    answer = client.post("/api/desk/loans/drafts/draft-0001/reviews", content=json.dumps(sent),
                         headers={"content-type": "application/json"})
    assert answer.status_code == status and why in answer.json()["error"]["message"]
    assert desk.draft(workspace, draft.id).reviews == ()


@pytest.mark.parametrize("messages", [
    [], [{"role": "user", "content": "Hi"}], [{"role": "user", "content": ""}, {"role": "assistant", "content": "x"}],
    [{"role": "tool", "content": "Hi"}, {"role": "assistant", "content": "x"}], "Hi",
    [{"role": "user", "content": "Hi", "weight": 0}, {"role": "assistant", "content": "x"}]])
def test_malformed_drafts_are_refused(client, workspace, messages):
    answer = client.post("/api/desk/loans/drafts", json={"id": "draft-0001", "messages": messages})
    assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert desk.desks(workspace) == []


@pytest.mark.parametrize("name", ["..%2Fx", ".hidden", "a b", "x" * 65, "%00"])
def test_names_that_cannot_be_a_desk_are_refused(client, name, workspace):
    assert client.get(f"/desk/{name}/write").status_code in (400, 404)
    assert client.post(f"/api/desk/{name}/drafts", json=body()).status_code in (400, 404)
    assert client.get("/desk", params={"new": name}).status_code == 400
    assert desk.desks(workspace) == []


def test_starting_a_desk_leads_to_writing(client):
    page = client.get("/desk", params={"new": " loans "})
    assert page.url.path == "/desk/loans/write" and "the answer you would want" in page.text


def test_every_text_is_shown_as_text(client, workspace):
    desk.add(workspace, "loans", [Demonstration((Message("system", EVIL), Message("user", EVIL),
                                                 Message("assistant", EVIL)), source=EVIL, licence=EVIL)],
             origin="imported", author="<b>ann</b>")
    id = desk.listed(workspace, "loans")[0].id
    decide(client, id, edits={"2": EVIL + "!"}, note=EVIL)
    pages = client.get("/desk/loans").text + client.get(f"/desk/loans/{id}").text
    assert "<script>alert" not in pages and "<img src=x" not in pages and "<b>ann" not in pages
    assert pages.count("&lt;script&gt;alert") >= 6


def test_an_unchanged_turn_keeps_what_no_text_field_can_hold(client, workspace):
    text = "line\r\nline \0 end\n"
    desk.add(workspace, "loans", [demo("\nHow?", text)], origin="imported")
    id = desk.listed(workspace, "loans")[0].id
    page = client.get(f"/desk/loans/{id}").text
    assert ">\n\nHow?</textarea>" in page  # a text field drops its first line break
    decide(client, id, edits={"0": "Why?"})
    assert [m.content for m in desk.draft(workspace, id).current.messages] == ["Why?", text]


def test_a_long_list_has_pages(client, workspace):
    desk.add(workspace, "loans", [demo(f"Question {n:03}?") for n in range(120)], origin="generated")
    first = client.get("/desk/loans").text
    assert first.count("<li>") == 50 and "Question 119?" in first and "Question 069?" not in first
    older = client.get("/desk/loans", params={"before": desk.listed(workspace, "loans")[49].seq}).text
    assert older.count("<li>") == 50 and "Question 069?" in older


def test_publishing_needs_a_free_name(client, draft, workspace):
    decide(client)
    assert 'value="loans-1"' in client.get("/desk/loans").text
    client.post("/desk/loans/publish", data={"dataset": "loans-1"})
    assert 'value="loans-2"' in client.get("/desk/loans").text
    assert client.post("/desk/loans/publish", data={"dataset": "../x"}).status_code == 400
    assert client.post("/desk/loans/publish", data={"dataset": ""}).status_code == 400


def test_bringing_the_best_answers_of_a_set(client, client_as, draft, workspace):
    group = workspace.groups("desk")[0]
    workspace.add_ranking(Ranking("r1", group.id, "ann", ((2,), (0, 1, 3))))
    assert client_as("reviewer").post("/desk/loans/bring", data={"set": "desk"}).status_code == 403
    page = client.post("/desk/loans/bring", data={"set": "desk"})
    assert str(page.url).endswith("/desk/loans?state=pending") and group.answers[2].text in page.text
    again = client.post("/desk/loans/bring", data={"set": "desk"})
    assert again.status_code == 400 and "no more answers" in again.text
    assert client.post("/desk/loans/bring", data={"set": "nothing"}).status_code == 404
