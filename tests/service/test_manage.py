import json
import random
import time

import pytest
from service_fakes import group

from tunesmith.records import Ranking
from tunesmith.service.figures import Board
from tunesmith.store import audit, health, project, team, work


def judge(workspace, name, orders, purpose=""):
    """Verdicts of one labeler on the set's groups, in their order."""
    for n, (g, order) in enumerate(zip(workspace.groups("desk"), orders)):
        workspace.add_ranking(Ranking(f"{name}-{n}-{purpose}-{time.time_ns()}", g.id, name, tuple((i,) for i in order),
                                      tuple(range(len(order))), seconds=30, purpose=purpose))


@pytest.fixture
def panel(workspace):
    """Six who agree on 40 groups, and one who ranks upside down."""
    workspace.add_groups("desk", [group(f"More {i}?", *(f"Answer {i}.{k}" for k in range(4))) for i in range(37)])
    draw = random.Random(0)
    truth = [draw.sample(range(4), 4) for _ in range(40)]
    for name in ("ann", "bob", "cy", "dan", "eve", "fay"):
        judge(workspace, name, [t if draw.random() < 0.8 else [t[1], t[0], *t[2:]] for t in truth])
    judge(workspace, "upside", [t[::-1] for t in truth])
    return truth


def ready(client, path, without="data-pending", word=""):
    """The page once its figures are there, and new enough to hold a word: pages share a count for a while."""
    for _ in range(100):
        page = client.get(path)
        assert page.status_code == 200, page.text
        if without not in page.text and word in page.text:
            return page.text
        time.sleep(0.1)
    pytest.fail("the figures never came")


def test_the_overview_says_how_each_set_goes(client, workspace):
    page = ready(client, "/manage")
    assert "desk" in page and "being judged now" in page and "/manage/desk" in page
    work.claim(workspace, "desk", "ann")
    page = ready(client, "/manage/desk")
    assert "oldest for" in page and "Verdicts missing" in page and "nobody judged in the last week" in page
    judge(workspace, "ann", [range(4)] * 3)
    page = ready(client, "/manage/desk", word="at 3 verdicts a day")
    assert "Nothing to compare yet" in page
    assert client.get("/manage/dek").status_code == 404


def test_counts_add_what_came_since(workspace):
    judge(workspace, "ann", [range(4)] * 2)
    board = Board(workspace, moment=10)
    first = board.counts("desk").value
    assert sum(first.days.values()) == 2 and first.tally.left == 4 and dict(first.tally.by_verdicts) == {0: 1, 1: 2}
    assert board.counts("desk").value is first
    judge(workspace, "bob", [range(4)] * 3)
    board._kept = {key: (state, value, 0.0) for key, (state, value, _) in board._kept.items()}  # its rest is over
    again = board.counts("desk").value
    assert sum(again.days.values()) == 5 and again.tally.left == 1
    assert health.day_counts(workspace, "desk", 0, again.seq) == again.days


def test_figures_are_shown_old_while_new_ones_are_made(workspace, panel):
    board = Board(workspace, moment=30)
    first = board.figures("desk")
    assert first.value and not first.pending
    judge(workspace, "gil", panel[:5])
    at_once = board.figures("desk")  # it rests, so that figures never take more than a tenth of one core
    assert at_once.value is first.value
    workspace.add_groups("other", [group("Elsewhere?", "Yes.", "No.")])
    board._kept = {key: (state, value, 0.0) for key, (state, value, _) in board._kept.items()}
    assert {t.labeler for t in board.figures("desk").value.labelers} >= {"gil", "upside"}


def test_a_failure_is_said_and_not_tried_again_for_nothing(workspace, panel, monkeypatch):
    board, tries = Board(workspace, moment=10), []
    monkeypatch.setattr("tunesmith.service.figures._figures", lambda *a: tries.append(1) or 1 / 0)
    assert "it failed" in board.figures("desk").problem and board.figures("desk").value is None
    assert len(tries) == 1


def test_the_labeler_table_names_whom_to_look_at(client, panel):
    page = ready(client, "/manage/desk/labelers")
    assert page.index("upside") < page.index("ann") and "Ranks best what others rank worst" in page
    assert "quarantine?" in page and page.count(">fine<") == 6
    assert "1 should be looked at now" in ready(client, "/manage/desk")


def test_quarantine_and_lift_are_in_the_log(client, workspace, panel):
    ready(client, "/manage/desk/labelers")
    bad = client.post("/manage/desk/quarantine", data={"labeler": "upside", "reason": " "})
    assert bad.status_code == 400 and "needs a reason" in bad.text
    page = client.post("/manage/desk/quarantine", data={"labeler": "upside", "reason": "scale <upside> down"}).text
    assert "scale &lt;upside&gt; down" in page and team.quarantined(workspace) == {"upside"}
    assert "upside" in client.get("/manage").text
    page = client.post("/manage/desk/lift", data={"labeler": "upside"}).text
    assert "The quarantine is lifted" in page and not team.quarantined(workspace)
    assert [(e.actor, e.action, e.object) for e in audit.entries(workspace) if e.object == "upside"] == [
        ("me", "lift", "upside"), ("me", "quarantine", "upside")]
    assert client.post("/manage/desk/quarantine", data={"labeler": "nobody", "reason": "x"}).status_code == 404
    assert client.post("/manage/desk/lift", data={"labeler": "upside"}).status_code == 404


def test_what_if_we_drop_them(client, workspace, panel):
    page = ready(client, "/manage/desk/without?labeler=upside")
    assert "tunesmith reward --model MODEL --comparisons desk --without upside --name desk-without" in page
    assert "40 verdicts would be left out" in page and "of 40 groups" in page
    assert client.get("/manage/desk/without?labeler=nobody").status_code == 404
    judge(workspace, "o'hara; rm", panel)
    assert "--without &#39;o&#39;&#34;&#39;&#34;&#39;hara; rm&#39;" in client.get(
        "/manage/desk/without", params={"labeler": "o'hara; rm"}).text


def test_contested_groups_go_to_a_reviewer(client, client_as, workspace):
    judge(workspace, "ann", [[0, 1, 2, 3]] * 3)
    judge(workspace, "bob", [[3, 2, 1, 0], [0, 1, 2, 3], [0, 1, 2, 3]])
    page = ready(client, "/manage/desk/contested")
    worst = workspace.groups("desk")[0]
    assert worst.id in page and "A &gt; B &gt; C &gt; D" in page and "D &gt; C &gt; B &gt; A" in page
    page = client.post("/manage/desk/contested", data={"group": worst.id}).text
    assert "1 group goes to a reviewer" in page and "waits for a reviewer" in page
    assert work.contested(workspace, "desk") == [worst.id]
    assert work.claim(workspace, "desk", "rev", "reviewer").group.id == worst.id
    client.post("/manage/desk/contested", data={"all": "yes"})
    assert worst.id in work.contested(workspace, "desk")
    assert client.post("/manage/desk/contested", data={"group": "0" * 16}).status_code == 404
    assert client_as("viewer").post("/manage/desk/contested", data={"all": "yes"}).status_code == 403


def settings(**changed):
    return {"open": "yes", "blind": "yes", "order": "informative", "overlap": "2", "lease_seconds": "30",
            "gold_share": "5", "repeat_share": "3", "contested_below": "70", "share_cap": "20",
            "critique_share": "0", **changed}


def test_settings_are_read_changed_and_logged(client, workspace):
    page = client.get("/manage/desk/settings").text
    assert 'value="30"' in page and 'value="5"' in page and 'value="70"' in page
    page = client.post("/manage/desk/settings", data=settings(overlap="3", gold_share="7,5", ratings="yes")).text
    assert "Saved" in page
    now = project.project(workspace, "desk")
    assert (now.overlap, now.gold_share, now.ratings, now.lease_seconds) == (3, 0.075, True, 1800)
    entry = audit.entries(workspace)[0]
    assert (entry.action, entry.detail) == ("settings", {"overlap": [2, 3], "gold_share": [0.05, 0.075],
                                                         "ratings": [False, True]})
    assert "overlap: 2 → 3" in client.get("/audit").text
    without = settings()
    without.pop("open")
    client.post("/manage/desk/settings", data=without)
    assert not project.project(workspace, "desk").open and work.claim(workspace, "desk", "ann") is None


@pytest.mark.parametrize("field,value", [("overlap", "0"), ("overlap", "1.5"), ("overlap", "many"),
                                         ("gold_share", "30"), ("lease_seconds", "0.1"), ("share_cap", "nan"),
                                         ("order", "mine"), ("contested_below", "-1")])
def test_a_wrong_setting_is_named_and_nothing_changes(client, workspace, field, value):
    before = project.project(workspace, "desk")
    page = client.post("/manage/desk/settings", data=settings(**{field: value}))
    assert page.status_code == 400 and 'role="alert"' in page.text
    assert project.project(workspace, "desk") == before


def test_guidelines_are_previewed_published_and_kept(client, workspace):
    text = "# Be kind\n\n- **true** first\n<script>alert(1)</script>"
    page = client.post("/manage/desk/guidelines", data={"text": text, "do": "preview"}).text
    assert "<strong>true</strong>" in page and "<script>alert" not in page
    assert project.guidelines(workspace, "desk") is None
    page = client.post("/manage/desk/guidelines", data={"text": text, "do": "publish"}).text
    assert "Version 1 is out" in page and project.guidelines(workspace, "desk") == (1, text)
    assert "is version 1 already" in client.post("/manage/desk/guidelines", data={"text": text, "do": "publish"}).text
    client.post("/manage/desk/guidelines", data={"text": "Shorter.", "do": "publish"})
    project.acknowledge(workspace, "desk", 2, "ann")
    page = client.get("/manage/desk/guidelines?version=1").text
    assert "Be kind" in page and "read by 1" in page and "Publish version 3" in page
    assert client.get("/manage/desk/guidelines?version=9").status_code == 404
    assert client.post("/manage/desk/guidelines", data={"text": " ", "do": "publish"}).status_code == 400


def test_test_questions_are_made_and_unmade(client, workspace):
    one = workspace.groups("desk")[0]
    assert one.id in client.get("/manage/desk/gold").text
    path = f"/manage/desk/gold/{one.id}"
    assert client.get(f"/manage/desk/gold?find={one.id}").url.path == path
    bad = client.post(path, data={"place_0": "1", "place_1": "2", "place_2": "", "place_3": "2"})
    assert bad.status_code == 400 and "there is none for C" in bad.text
    places = {f"place_{n}": p for n, p in enumerate("2133")}
    assert "B &gt; A &gt; C = D" in client.post(path, data=places).text
    assert project.gold(workspace, "desk") == {one.id: ((1,), (0,), (2, 3))}
    assert "No test question any more" in client.get(path).text
    flat = client.post(path, data={f"place_{n}": "1" for n in range(4)})
    assert flat.status_code == 400 and "at least two tiers" in flat.text
    client.post(path, data={"do": "remove"})
    assert project.gold(workspace, "desk") == {}
    assert client.get("/manage/desk/gold/0000000000000000").status_code == 404
    assert [e.action for e in audit.entries(workspace)][:2] == ["gold", "gold"]


def test_the_log_is_paged_and_checked(client, workspace):
    for n in range(60):
        audit.audit(workspace, "me", "test", f"thing {n}", {"n": n, "on": True})
    page = client.get("/audit").text
    assert "thing 59" in page and "thing 3<" not in page and "on: yes" in page and "Older" in page
    older = json.loads(page.split("?before=")[1].split('"')[0])
    assert "thing 3<" in client.get(f"/audit?before={older}").text
    assert "The chain holds" in client.get("/audit?check=1").text


SEEN = {"/manage": "viewer", "/manage/desk": "viewer", "/manage/desk/labelers": "viewer",
        "/manage/desk/contested": "viewer", "/manage/desk/without?labeler=ann": "viewer",
        "/manage/desk/settings": "manager", "/manage/desk/guidelines": "manager", "/manage/desk/gold": "manager",
        "/audit": "admin"}


@pytest.mark.parametrize("role", ["labeler", "viewer", "reviewer", "manager", "admin"])
def test_each_role_sees_what_it_may(client_as, workspace, role):
    judge(workspace, "ann", [range(4)] * 3)
    may = {"labeler": (), "viewer": ("viewer",), "reviewer": ("viewer",), "manager": ("viewer", "manager"),
           "admin": ("viewer", "manager", "admin")}[role]
    client = client_as(role)
    for path, right in SEEN.items():
        assert (client.get(path).status_code == 200) == (right in may), path
    for path in ("quarantine", "lift", "contested", "settings", "guidelines", "gold/0000000000000000"):
        status = client.post(f"/manage/desk/{path}", data={"labeler": "ann"}).status_code
        assert (status != 403) == ("manager" in may), path
    assert client.get("/", follow_redirects=False).text.count('href="/manage"') == ("viewer" in may)


def test_a_stranger_is_sent_to_the_door(anonymous):
    for path in SEEN:
        assert anonymous.get(path).headers["location"].startswith("/signin")
