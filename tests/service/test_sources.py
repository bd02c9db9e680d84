"""Bringing files and endpoints through the browser: what is stored, what is refused and in which words."""

import gzip
import json
import os
import time

import pytest
import sqlalchemy as sa
from endpoint_fake import endpoint, events, piece

from tunesmith.records import Message, Ranking
from tunesmith.service import outbound, sources
from tunesmith.store import desk
from tunesmith.store import tables as db
from tunesmith.store.audit import entries
from tunesmith.store.endpoints import Endpoint, add_endpoint, endpoints

ANSWERS = b'{"prompt": "Rate?", "answers": ["7.5", "8"]}\n{"prompt": "When?", "answers": ["now", "later"]}\n'


def put(client, content=ANSWERS, kind="answers", name="brought", file="a.jsonl", **headers):
    return client.post("/api/uploads", params={"kind": kind, "name": name, "file": file}, content=content,
                       headers={"content-type": "application/octet-stream", **headers})


def left(workspace):
    """Files that an upload left behind."""
    folder = workspace.root / sources.FOLDER
    return list(folder.iterdir()) if folder.exists() else []


def test_answers_become_a_set_to_rank(client, workspace):
    made = put(client)
    assert made.status_code == 201
    assert made.json() == {"name": "brought", "kind": "answers", "rows": 2, "new": 2, "format": "unranked answers",
                           "skipped": {}, "notes": {}, "next": "/rank/brought"}
    assert [g.prompt.messages for g in workspace.groups("brought")] == [(Message("user", "Rate?"),),
                                                                        (Message("user", "When?"),)]
    assert put(client).json()["new"] == 0
    assert "Rate?" in client.get("/rank/brought").text or "When?" in client.get("/rank/brought").text
    entry = next(e for e in entries(workspace) if e.action == "upload")
    assert (entry.actor, entry.object) == ("me", "brought") and entry.detail["file"] == "a.jsonl"
    assert left(workspace) == []


@pytest.mark.parametrize(("kind", "row", "following"), [
    ("prompts", {"prompt": "Rate?"}, "/live?prompts=brought"), ("rankings", {"prompt": "Rate?", "answers": ["a", "b"],
                                                                             "ranking": [1, 0]}, ""),
    ("comparisons", {"prompt": "Rate?", "chosen": "a", "rejected": "b"}, "")])
def test_datasets(client, workspace, kind, row, following):
    made = put(client, gzip.compress(json.dumps(row).encode()), kind, file="C:\\data\\x.jsonl.gz")
    assert (made.status_code, made.json()["next"]) == (201, following)
    found = workspace.dataset("brought")
    assert (found.kind, found.count, found.source) == (kind, 1, "x.jsonl.gz")


def test_demonstrations_wait_for_a_reviewer(client, workspace):
    row = {"messages": [{"role": "user", "content": "Rate?"}, {"role": "assistant", "content": "7.5"}]}
    assert put(client, json.dumps(row).encode(), "demonstrations").json()["next"] == "/desk/brought"
    draft, = desk.listed(workspace, "brought")
    assert (draft.state, draft.origin) == ("pending", "imported")
    assert workspace.datasets() == []


def test_a_bad_row_is_named_and_nothing_is_stored(client, workspace):
    refused = put(client, ANSWERS + b'{"prompt": "", "answers": ["a", "b"]}\n', file="../../etc/<b>x.jsonl")
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == '<b>x.jsonl:3: "prompt" is empty'
    assert "brought" not in [s["name"] for s in workspace.group_sets()] and left(workspace) == []


@pytest.mark.parametrize("file", ["a.zip", "a.pkl", "model.pt", "a.npy", "a.html", "a.svg", "a.jsonl.zst", "a", "",
                                  "a.jsonl/", "x.jsonl\0.exe", "a.gz", "a.xlsx"])
def test_other_files_are_not_taken(client, workspace, file):
    refused = put(client, file=file)
    said = "U+0000" if "\0" in file else "unknown kind of file"
    assert refused.status_code == 400 and said in refused.json()["error"]["message"]
    assert left(workspace) == []


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "a\0", "..", "%2e%2e", "a\\b", "C:", "x" * 65, "é"])
def test_names_are_names(client, workspace, name):
    assert put(client, name=name).status_code == 400
    assert {p.name for p in workspace.root.parent.iterdir()} == {"ws"}


def test_too_large(client, workspace, monkeypatch):
    monkeypatch.setattr(sources, "LARGEST", 1000)
    assert put(client, b" " * 2000).status_code == 413
    assert put(client, iter([b" " * 600] * 3)).status_code == 413  # no length announced
    assert left(workspace) == []


def test_only_managers_bring_files(client_as, anonymous):
    assert put(client_as("manager"), name="a").status_code == 201
    for role in ("labeler", "reviewer", "viewer"):
        assert put(client_as(role), name="b").status_code == 403
        assert client_as(role).get("/sources").status_code == 403
    assert put(anonymous).status_code == 401


def test_a_form_of_another_site_is_no_upload(client):
    assert put(client, **{"content-type": "text/plain"}).status_code == 415
    assert put(client, **{"content-type": "multipart/form-data; boundary=x"}).status_code == 415
    assert put(client, origin="https://evil.example").status_code == 403
    assert put(client, **{"sec-fetch-site": "cross-site"}).status_code == 403


def test_leftovers_of_a_killed_server_go(workspace):
    folder = workspace.root / sources.FOLDER
    folder.mkdir()
    for name, age in (("old", 7200), ("new", 60)):
        (folder / name).write_text("x")
        os.utime(folder / name, (os.path.getmtime(folder / name) - age,) * 2)
    sources.router(workspace)
    assert [p.name for p in folder.iterdir()] == ["new"]


# ---- endpoints

FORM = {"name": "near", "url": "https://models.example/v1", "model": "tiny", "key_variable": "NEAR_API_KEY"}


@pytest.fixture
def resolves(monkeypatch):
    """Every name is at one public address."""
    monkeypatch.setattr(outbound, "_resolve", lambda host, port: ["93.184.216.34"])


def test_an_endpoint_is_added_and_removed(client, workspace, resolves, monkeypatch):
    page = client.post("/sources/endpoints", data=FORM)
    assert page.status_code == 200 and "near may write answers now" in page.text
    assert "not set where this server was started" in page.text
    assert [(e.name, e.url, e.model, e.key_variable, e.by) for e in endpoints(workspace)] == [
        ("near", "https://models.example/v1", "tiny", "NEAR_API_KEY", "me")]
    monkeypatch.setenv("NEAR_API_KEY", "sk-very-secret")
    page = client.get("/sources").text
    assert "not set where" not in page and "sk-very-secret" not in page
    assert "is forgotten" in client.post("/sources/endpoints/remove", data={"name": "near"}).text
    assert endpoints(workspace) == []
    assert {e.action for e in entries(workspace)} >= {"endpoint.add", "endpoint.remove"}


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "https://localhost/v1", "http://169.254.169.254/latest",
                                 "https://[::1]/v1", "http://2130706433/", "file:///etc/passwd", "https://a@b/v1",
                                 "https://[::ffff:10.0.0.1]/v1", "javascript:alert(1)", "https://h\\@e/v1", ""])
def test_endpoints_inside_are_refused(client, workspace, url):
    refused = client.post("/sources/endpoints", data={**FORM, "url": url})
    assert refused.status_code == 400 and 'role="alert"' in refused.text
    assert endpoints(workspace) == []


@pytest.mark.parametrize(("field", "value"), [("name", "../x"), ("name", ""), ("model", ""), ("model", "a\nb"),
                                              ("key_variable", "PATH"), ("key_variable", "sk-abc")])
def test_bad_endpoints(client, workspace, resolves, field, value):
    assert client.post("/sources/endpoints", data={**FORM, field: value}).status_code == 400
    assert endpoints(workspace) == []


def test_only_admins_change_endpoints(client_as, workspace, resolves):
    add_endpoint(workspace, Endpoint("near", "https://models.example/v1", "tiny"), "me")
    manager = client_as("manager")
    page = manager.get("/sources").text
    assert "models.example" in page and "Add a server" not in page and "/sources/endpoints/remove" not in page
    for path in ("", "/try", "/remove"):
        assert manager.post(f"/sources/endpoints{path}", data={**FORM, "name": "near"}).status_code == 403
    assert len(endpoints(workspace)) == 1


def test_trying_an_endpoint(client, workspace, monkeypatch):
    with endpoint() as server:
        add_endpoint(workspace, Endpoint("near", f"http://localhost:{server.port}/v1", "tiny"), "me")
        assert "inside this machine" in client.post("/sources/endpoints/try", data={"name": "near"}).text
        monkeypatch.setenv(outbound.LISTED, f"localhost:{server.port}")
        server.say = lambda h: h.send(events(piece("<b>Hello</b>", "stop"), "[DONE]").encode())
        page = client.post("/sources/endpoints/try", data={"name": "near"}).text
        assert "near answers:" in page and "&lt;b&gt;Hello&lt;/b&gt;" in page
        server.say = lambda h: h.json({"error": {"message": "<i>no</i>"}}, 401)
        refused = client.post("/sources/endpoints/try", data={"name": "near"})
        assert refused.status_code == 400 and "answered 401: &lt;i&gt;no&lt;/i&gt;" in refused.text


# ---- the queue

def test_what_people_disagree_on_is_asked_first(client, client_as, workspace):
    groups = workspace.groups("desk")
    for who, tiers in (("ann", ((0,), (1,), (2,), (3,))), ("bob", ((3,), (2,), (1,), (0,)))):
        workspace.add_ranking(Ranking(f"{who}-0", groups[1].id, who, tiers, shown=(0, 1, 2, 3)))
        workspace.add_ranking(Ranking(f"{who}-1", groups[0].id, who, ((0,), (1,), (2,), (3,)), shown=(0, 1, 2, 3)))
    while "being computed" in (page := client.get("/sources/queue/desk").text):
        time.sleep(0.1)
    assert "<b>2</b> of 2 judged groups: labelers disagree" in page
    said = client.post("/sources/queue/desk", data={"by": "verdicts"}).text
    assert "From now on" in said or "are being put" in said
    found, end = {}, time.monotonic() + 20
    while not any(found.values()) and time.monotonic() < end:
        with workspace.database.read() as c:
            found = dict(c.execute(sa.select(db.members.c.group_id, db.members.c.priority)).all())
    assert found[groups[1].id] > found[groups[0].id] > found[groups[2].id] >= 0
    assert client.get("/sources/queue/nothing").status_code == 404
    assert client_as("reviewer").post("/sources/queue/desk", data={"by": "verdicts"}).status_code == 403
