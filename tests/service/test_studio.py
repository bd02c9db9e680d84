import dataclasses
import re
import subprocess
import sys

import pytest
from service_fakes import group

from tunesmith.records import Ranking
from tunesmith.service.studio import shuffled


def shown_on(page):
    """The answers' indices in the order of the page's cards."""
    return [int(i) for i in re.findall(r'class="card"[^>]* data-answer="(\d)"', page)]


def submission(to, **changes):
    return {"id": "3f1c2a4e-0000-4000-8000-000000000001", "group": to.id, "tiers": [[2], [0, 3], [1]],
            "shown": [3, 1, 0, 2], "all_bad": False, "skipped": "", "seconds": 12.5, **changes}


def test_home_lists_the_sets_with_progress(client, workspace):
    first = workspace.groups("desk")[0]
    workspace.add_ranking(Ranking("r-000001", first.id, "ana", ((0,), (1,), (2,), (3,))))
    page = client.get("/").text
    assert "desk" in page and "<b>1</b> of 3" in page and 'href="/rank/desk"' in page


def test_rank_page_shows_prompt_and_answers_but_no_model_names(client, workspace):
    page = client.get("/rank/desk").text
    group = workspace.next_group("desk", "me")
    assert group.prompt.messages[1].content in page and "Instructions to the model" in page
    assert all(a.text in page for a in group.answers)
    assert "desk@1" not in page
    assert shown_on(page) == shuffled(group, "me")
    assert client.get("/rank/desk").text == page  # the same order when it is reloaded


def test_orders_differ_between_groups_and_labelers():
    groups = [group(f"question {i}", *"abcd") for i in range(400)]
    first = [shuffled(g, "me")[0] for g in groups]
    assert all(70 <= first.count(i) <= 130 for i in range(4))  # 100 expected, sd 8.7
    assert any(shuffled(g, "me") != shuffled(g, "ana") for g in groups)


def test_a_ranking_is_stored_as_sent_and_a_replay_stores_nothing(client, workspace):
    group = workspace.next_group("desk", "me")
    body = submission(group)
    first = client.post("/api/rankings", json=body)
    assert first.status_code == 201
    assert workspace.rankings("desk") == [
        Ranking(body["id"], group.id, "me", ((2,), (0, 3), (1,)), (3, 1, 0, 2), seconds=12.5)]
    again = client.post("/api/rankings", json=body)
    assert (again.status_code, again.json()["new"]) == (200, False)
    assert len(workspace.rankings("desk")) == 1
    assert workspace.next_group("desk", "me").id != group.id


def test_all_bad_and_skip_are_stored(client, workspace):
    one, two, _ = workspace.groups("desk")
    client.post("/api/rankings", json=submission(one, all_bad=True)).raise_for_status()
    client.post("/api/rankings", json=submission(two, id="skip-00001", tiers=[], skipped="unclear")).raise_for_status()
    stored = {r.group: r for r in workspace.rankings("desk")}
    assert stored[one.id].all_bad and stored[one.id].tiers == ((2,), (0, 3), (1,))
    assert stored[two.id].skipped == "unclear" and stored[two.id].tiers == ()


@pytest.mark.parametrize("changes, status, param", [
    ({"tiers": [[2], [0, 3]]}, 400, "tiers"),  # answer 1 is missing
    ({"tiers": [[2], [0, 3], [1, 1]]}, 400, "tiers"),
    ({"tiers": [[2], [0, 3], [1], []]}, 400, "tiers[3]"),
    ({"tiers": [[2], [0, 3], [True]]}, 400, "tiers[2][0]"),
    ({"tiers": [[2], [0, 3], [1, 9]]}, 400, "tiers[2][1]"),
    ({"shown": [0, 1, 2, 2]}, 400, "shown"),
    ({"shown": [0, 1], "tiers": [[0], [1]]}, 400, None),  # the group has four answers: the store's verdict
    ({"skipped": "why not"}, 400, "tiers"),
    ({"seconds": -1}, 400, "seconds"),
    ({"id": "../../etc"}, 400, "id"),
    ({"labeler": "ana"}, 400, "labeler"),
    ({"group": "0000000000000000"}, 404, None),
])
def test_a_bad_ranking_is_refused_naming_the_field(client, workspace, changes, status, param):
    answer = client.post("/api/rankings", json=submission(workspace.groups("desk")[0], **changes))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert workspace.rankings("desk") == []


def test_a_missing_field_and_broken_json_are_named(client, workspace):
    body = submission(workspace.groups("desk")[0])
    del body["shown"]
    error = client.post("/api/rankings", json=body).json()["error"]
    assert (error["param"], error["code"]) == ("shown", "missing_required_parameter")
    broken = client.post("/api/rankings", content="{", headers={"content-type": "application/json"})
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")


def test_a_full_disk_is_a_507_with_its_reason(client, workspace, monkeypatch):
    from tunesmith.errors import StorageError

    def full(_):
        raise StorageError("no space left")

    monkeypatch.setattr(workspace, "add_ranking", full)
    answer = client.post("/api/rankings", json=submission(workspace.groups("desk")[0]))
    assert (answer.status_code, answer.json()["error"]["message"]) == (507, "no space left")
    assert answer.json()["error"]["type"] == "server_error"


def test_done_page_says_what_to_run_next(client, workspace):
    for i, g in enumerate(workspace.groups("desk")):
        client.post("/api/rankings", json=submission(g, id=f"rank-{i:05}")).raise_for_status()
    page = client.get("/rank/desk").text
    assert "tunesmith reward --model desk@1 --comparisons desk" in page and shown_on(page) == []


def test_an_unknown_set_is_a_page_that_names_the_nearest(client):
    answer = client.get("/rank/dsk")
    assert answer.status_code == 404 and "did you mean" in answer.text and "desk" in answer.text
    assert answer.headers["content-type"].startswith("text/html")


def test_a_group_that_cannot_be_ranked_says_why(client, workspace):
    workspace.add_groups("many", [group("q", *map(str, range(10)))])
    workspace.add_groups("nine", [group("q", *map(str, range(9)))])
    answer = client.get("/rank/many")
    assert answer.status_code == 400 and "10 answers" in answer.text
    assert len(shown_on(client.get("/rank/nine").text)) == 9


def test_text_of_models_is_escaped(client, workspace):
    workspace.add_groups("evil", [group("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "{{ 7*7 }}")])
    page = client.get("/rank/evil").text
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert "<img src=x" not in page and "{{ 7*7 }}" in page


def test_runs_and_models(client, workspace):
    run = workspace.start_run("sft", {"lr": 0.1}, 0, {})
    run.log(1, {"loss": 3.0})
    run.log(2, {"loss": 2.25})
    page = client.get("/runs").text
    assert run.id in page and "running" in page and "2.25" in page and "3.0" not in page
    page = client.get("/adapters").text
    assert "tone@2" in page and "judge@1" in page and "tiny" in page


def test_reports_are_shown_in_a_sandbox(client, workspace):
    folder = workspace.root / "reports" / "week-1"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<h1>Better</h1>")
    answer = client.get("/reports/week-1")
    assert answer.text == "<h1>Better</h1>"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox;") and "script-src" not in policy and "default-src 'none'" in policy
    assert "week-1" in client.get("/").text


@pytest.mark.parametrize("name", ["%2e%2e", "..%2f..%2fsecret", "%252e%252e", "week-1%00", "..%5csecret", "linked",
                                  "/etc", "C:", ".hidden", "a/b"])
def test_reports_never_leave_their_folder(client, workspace, tmp_path, name):
    (workspace.root / "reports").mkdir()
    outside = tmp_path / "outside"
    for folder in (outside, workspace.root, workspace.root / "reports" / ".hidden"):
        folder.mkdir(exist_ok=True)
        (folder / "report.html").write_text("secret")
    (workspace.root / "reports" / "linked").symlink_to(outside)
    answer = client.get(f"/reports/{name}")
    assert answer.status_code == 404 and "secret" not in answer.text.replace("..\\secret", "").replace("../secret", "")


def test_an_empty_workspace_says_how_to_begin(client, workspace, monkeypatch):
    monkeypatch.setattr(workspace, "group_sets", lambda: [])
    assert "tunesmith collect" in client.get("/").text


def test_a_ranking_record_is_all_the_page_can_set():
    """Nothing a client sends can claim to be simulated, flagged or another labeler's."""
    from tunesmith.service.studio import Submission

    theirs = set(Submission.model_fields)
    ours = {f.name for f in dataclasses.fields(Ranking)} - theirs
    assert ours == {"labeler", "flags", "ratings", "simulated"}


def test_the_studio_starts_without_torch():
    code = ("import sys; from tunesmith.service import create_app; create_app(None); "
            "sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
