"""What a review of the web side found: each case failed before."""

import json
import re
import threading
import time
from functools import partial

import anyio
import httpx
import pytest
import sqlalchemy as sa
from service_fakes import account, group
from starlette.testclient import TestClient

from tunesmith.errors import DataError, StorageError
from tunesmith.records import Demonstration, Message, Ranking
from tunesmith.service import access, accounts, create_app, diff, figures, markdown
from tunesmith.service.assets import ADDRESS
from tunesmith.service.tails import Tails, last_line
from tunesmith.store import desk, health, keys, project, team, work
from tunesmith.store import tables as db

GOOD = "plum quartz lantern"


# ---- signing in

@pytest.fixture
def cheap(monkeypatch):
    """Passwords that cost nothing to check."""
    monkeypatch.setattr(team, "sign_in", lambda workspace, name, password: (
        team.account(workspace, team.spelled(name)) if password == GOOD else None))


def sign_in(client, name="me", password=GOOD):
    return client.post("/signin", data={"name": name, "password": password},
                       headers={"origin": "http://127.0.0.1:8400"})


def test_an_office_behind_one_address_signs_in(anonymous, cheap):
    for n in range(120):
        if n % 4 == 0:  # some mistype first
            assert sign_in(anonymous, password="wrong").status_code == 401
        assert sign_in(anonymous).status_code == 303, n


def test_slips_of_one_person_do_not_wash_the_guesses_at_others(anonymous, cheap):
    codes = []
    for n in range(60):
        codes.append(sign_in(anonymous, f"name-{n}", "guess").status_code)
        sign_in(anonymous)
    assert codes.count(429) >= 5


def test_spaces_do_not_make_another_name(anonymous, cheap):
    codes = [sign_in(anonymous, " " * n + "me" + " " * (n % 3), "wrong").status_code for n in range(9)]
    assert codes[:5] == [401] * 5 and set(codes[6:]) == {429}


def test_a_crowd_at_the_door_holds_no_thread_that_rankers_need(workspace, monkeypatch):
    through = threading.Event()
    monkeypatch.setattr(team, "sign_in", lambda *_: through.wait(20) and None)
    app = create_app(workspace)
    secret = team.start_session(workspace, "me", "test")
    headers = {"origin": "http://127.0.0.1:8400"}

    async def crowd():
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app, client=("127.0.0.1", 1)), headers=headers,
                                   base_url="http://127.0.0.1:8400")
        async with client, anyio.create_task_group() as tasks:
            for n in range(45):  # the pool has 40 threads
                tasks.start_soon(partial(client.post, "/signin", data={"name": f"n{n}", "password": "x"}))
            await anyio.sleep(0.5)
            with anyio.move_on_after(15) as ranking:
                page = await client.get("/rank/desk", cookies={"tunesmith-8400": secret})
            through.set()
        assert not ranking.cancelled_caught and page.status_code == 200

    anyio.run(crowd)


def test_beyond_a_short_queue_people_are_told_to_come_back(workspace, monkeypatch):
    monkeypatch.setattr(accounts, "QUEUE", 0)
    with TestClient(create_app(workspace), base_url="http://127.0.0.1:8400") as client:
        answer = sign_in(client, "nobody")
    assert answer.status_code == 429 and "try again" in answer.text


def test_keys_need_the_password_and_are_shown_after_a_reset(client, client_as, workspace):
    team.new_account(workspace, "lea", "labeler", "test", GOOD)
    lea = client_as("labeler", "lea")
    form = {"key_name": "tool", "scope_rank": "yes", "days": "90"}
    assert "another one" in lea.post("/account/keys", data=form).text and keys.keys(workspace, "lea") == []
    assert 'value="90"' in lea.get("/account").text
    assert "sk-" in lea.post("/account/keys", data={**form, "current": GOOD}).text
    assert lea.post("/account/keys", data={**form, "current": GOOD, "days": "9" * 5000}).status_code == 400
    page = client.post("/team/reset", data={"name": "lea"}).text
    assert "Keys that still work" in page and "tool" in page
    assert "1 key of lea revoked" in client.post("/team/revoke-all", data={"name": "lea"}).text
    assert not keys.keys(workspace, "lea")[0].works
    assert client_as("manager").post("/team/revoke-all", data={"name": "me"}).status_code == 403


def test_what_one_judged_is_not_stored_under_anothers_name(client_as, workspace):
    ann = client_as("labeler", "ann")
    claim = work.claim(workspace, "desk", "ann")
    body = {"id": "verdict-0001", "group": claim.group.id, "token": claim.token, "shown": list(claim.shown),
            "tiers": [[i] for i in claim.shown], "guidelines": 0}
    answer = ann.post("/api/rankings", json=body, headers={"x-labeler": "b%C3%B6b"})
    assert answer.status_code == 401 and answer.json()["error"]["code"] == "other_account"
    assert "böb" in answer.json()["error"]["message"] and workspace.rankings("desk") == []
    assert ann.post("/api/rankings", json=body, headers={"x-labeler": "ann"}).status_code == 201


# ---- numbers, NUL, places

HUGE = "9" * 25


@pytest.mark.parametrize("path", [
    "/mine?before={}", "/audit?before={}", "/desk/loans?before={}", "/manage/desk/gold?start={}",
    "/sets/desk/names?start={}", "/manage/desk/guidelines?version={}", "/desk/loans/next?after={}",
    "/manage/desk/guidelines?saved={}"])
def test_huge_numbers_in_addresses_are_refused(client, workspace, path):
    desk.add(workspace, "loans", [Demonstration((Message("user", "Rate?"), Message("assistant", "7.5")))],
             origin="imported")
    assert client.get(path.format(HUGE)).status_code == 400
    assert client.get(path.format(2**31 - 1)).status_code in (200, 404)


def test_huge_numbers_in_bodies_are_refused(client):
    assert client.post("/api/sets/desk/guidelines", json={"version": int(HUGE)}).status_code == 400


def test_nothing_is_called_by_a_name_with_nul(client, anonymous):
    for path, code in {"/rank/%00": 404, "/mine?set=%00": 400, "/manage/a%00b": 404, "/enter?once=%00": 400}.items():
        assert client.get(path).status_code == code, path
    assert sign_in(anonymous, "a\0b").status_code == 400
    for name in ("\0", "\ud800"):
        text = json.dumps({"id": "verdict-0001", "group": name, "token": "x", "shown": [0], "guidelines": 0})
        answer = client.post("/api/rankings", content=text, headers={"content-type": "application/json"})
        assert answer.status_code == 400, answer.text


def test_strangers_learn_no_paths(anonymous, workspace, monkeypatch):
    def broken(*_):
        raise StorageError(f"{workspace.root}: the database server is short of something (host 10.0.0.7 (port 1))")

    monkeypatch.setattr(team, "sign_in", broken)
    answer = sign_in(anonymous)
    assert answer.status_code == 507 and "short of something" in answer.text
    assert str(workspace.root) not in answer.text and "10.0.0.7" not in answer.text


def test_figures_that_fail_do_not_show_how(workspace, monkeypatch):
    monkeypatch.setattr(health, "tally", lambda *_: {}["secret"])
    assert figures.Board(workspace, 5).counts("desk").problem == "it failed; the server's log says more"


# ---- the desk

def test_seen_beyond_the_reviews_is_refused(client, workspace):
    turns = Demonstration((Message("user", "Rate?"), Message("assistant", "7.5")))
    desk.write(workspace, "loans", "draft-0001", turns, "ann")
    body = {"id": "review-0001", "verdict": "accepted", "seen": 1}
    answer = client.post("/api/desk/loans/drafts/draft-0001/reviews", json=body)
    assert answer.status_code == 400 and "seen is 1" in answer.json()["error"]["message"]
    with pytest.raises(DataError):
        desk.review(workspace, "draft-0001", desk.Review("review-0002", "me", "accepted"), role="admin", seen=3)


def test_a_new_labeler_finds_the_desks(client_as, workspace):
    desk.write(workspace, "loans", "draft-0001", Demonstration((Message("user", "Secret?"), Message("assistant", "7"))),
               "ann")
    page = client_as("labeler", "bob").get("/desk").text
    assert 'href="/desk/loans/write"' in page and "<b>0</b> waiting" in page and "Secret" not in page


def test_only_those_who_may_follow_it_see_the_link_to_the_queue(client, client_as):
    assert "/sources/queue/desk" in client.get("/manage/desk").text
    assert "/sources/queue/desk" not in client_as("viewer").get("/manage/desk").text


def test_waiting_drafts_are_counted_up_to_a_limit(workspace, monkeypatch):
    monkeypatch.setattr(desk, "MOST_COUNTED", 3)
    desk.add(workspace, "loans", [Demonstration((Message("user", f"{n}?"), Message("assistant", "7")))
                                  for n in range(5)], origin="imported")
    account(workspace, "me")
    assert desk.waiting(workspace, "loans", "me", "admin") == 3
    assert desk.following(workspace, "loans", "me", "admin") is not None


# ---- diffs, Markdown

def test_a_rewritten_answer_is_compared_at_once():
    old = " ".join(f"word{n * 7 % 450}" for n in range(450))
    new = " ".join(f"other{n * 11 % 450}" for n in range(450))
    start = time.process_time()
    found = diff.changes(old, new)
    assert time.process_time() - start < 0.5
    assert "".join(t for kind, t in found if kind != "new") == old


@pytest.mark.parametrize("text", ["|" + "a|" * 1000 + "\n|" + "-|" * 1000 + "\n" + "|\n" * 1000, "[" * 99_000,
                                  "> |" + "a|" * 500 + "\n> |" + "-|" * 500 + "\n" + "> |\n" * 500, "- a\n" * 20_000])
def test_markdown_bombs_are_shown_as_they_were_written(text):
    start = time.process_time()
    shown = markdown.render(text)
    assert time.process_time() - start < 0.5 and shown == markdown.plain(text)


def test_tables_of_people_are_tables():
    text = "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 200
    assert markdown.render(text).count("<td>") == 400


def test_what_is_kept_of_markdown_is_bounded(monkeypatch):
    monkeypatch.setattr(markdown, "CACHED", 5000)
    kept = markdown._Kept()
    for n in range(50):
        kept.get(f"{n} " * 100)
    assert 0 < kept.size <= 5000 and len(kept.pages) < 20
    assert kept.get("49 " * 100) is kept.pages["49 " * 100]


# ---- guidelines

def verdict(claim, id="verdict-0001", **rest):
    return {"id": id, "group": claim.group.id, "token": claim.token, "shown": list(claim.shown),
            "tiers": [[i] for i in claim.shown], "guidelines": 0, **rest}


def test_a_verdict_counts_only_from_those_who_read_the_guidelines(client_as, workspace):
    ann = client_as("labeler", "ann")
    early = work.claim(workspace, "desk", "ann")
    project.add_guidelines(workspace, "desk", "Be true.", "me")
    assert ann.post("/api/rankings", json=verdict(early)).status_code == 201  # claimed before they were out
    refused = ann.post("/api/sets/desk/claims", json={})
    assert refused.status_code == 403 and refused.json()["error"]["code"] == "guidelines"
    claim = work.claim(workspace, "desk", "ann")
    assert ann.post("/api/rankings", json=verdict(claim, "verdict-0002")).status_code == 403
    assert ann.get("/api/sets/desk/guidelines").json() == {"version": 1, "text": "Be true.", "read": 0}
    assert ann.post("/api/sets/desk/guidelines", json={"version": 1}).status_code == 200
    assert ann.post("/api/sets/desk/claims", json={}).status_code == 201
    assert ann.post("/api/rankings", json=verdict(claim, "verdict-0002")).status_code == 201
    assert workspace.rankings("desk")[-1].guidelines == 1
    project.add_guidelines(workspace, "desk", "Be brief.", "me")
    change = verdict(claim, "verdict-0003", token="", revises="verdict-0002", guidelines=2)
    assert ann.post("/api/rankings", json=change).status_code == 201
    assert workspace.rankings("desk")[-1].guidelines == 1  # version 2 was never read


# ---- live

def test_who_ranks_does_not_choose_who_writes(client_as, workspace):
    body = {"messages": [{"role": "user", "content": "Rate?"}], "answers": 2, "models": ["tone@1"]}
    answer = client_as("labeler").post("/api/live", json=body)
    assert answer.status_code == 403 and answer.json()["error"]["param"] == "models"
    assert client_as("reviewer").post("/api/live", json=body).status_code == 200


# ---- what grows with the data

def test_the_queue_page_reads_the_head_of_the_queue(client, workspace, monkeypatch):
    monkeypatch.setattr(type(workspace), "groups", lambda *_: pytest.fail("read every group"))
    workspace.add_groups("long", [group(f"Question {n}?", "a", "b") for n in range(60)])
    while "being computed" in (page := client.get("/sources/queue/long").text):
        time.sleep(0.1)
    assert page.count("Question ") == 30 and "Nobody has judged" in page


def test_settings_touch_the_groups_only_if_the_overlap_changes(workspace, monkeypatch):
    monkeypatch.setattr(project, "MANY", 2)
    written = []
    plain = project._reopen
    monkeypatch.setattr(project, "_reopen", lambda c, seq, start: (written.append(start), plain(c, seq, start))[1])
    project.set_project(workspace, "desk", project.Project(ratings=True), "me")
    assert written == []
    claim = work.claim(workspace, "desk", "ann")
    work.submit(workspace, Ranking("v-1", claim.group.id, "ann", ((0,), (1,), (2,), (3,)), claim.shown), claim.token)
    m = db.members.c

    def open_groups():
        with workspace.database.read() as c:
            return sorted(c.scalars(sa.select(m.group_id).where(m.open)))

    before = open_groups()
    project.set_project(workspace, "desk", project.Project(overlap=1), "me")
    assert written == [0, 2] and set(before) - set(open_groups()) == {claim.group.id}
    project.set_project(workspace, "desk", project.Project(overlap=3), "me")
    assert open_groups() == before
    with pytest.MonkeyPatch.context() as patch:  # a server that dies between two writes
        patch.setattr(project, "_reopen", lambda c, seq, start: None)
        project.set_project(workspace, "desk", project.Project(overlap=1), "me")
    project.set_project(workspace, "desk", project.Project(overlap=1), "me")
    assert claim.group.id not in open_groups()


def test_verdicts_that_are_committed_late_are_counted(workspace):
    """PostgreSQL may commit verdict 6 after verdict 7."""
    claim = work.claim(workspace, "desk", "ann")
    work.submit(workspace, Ranking("v-1", claim.group.id, "ann", ((0,), (1,), (2,), (3,)), claim.shown), claim.token)
    with workspace.database.read() as c:
        row = dict(c.execute(sa.select(db.rankings)).one()._mapping)

    def commit(seq):
        workspace.database.write(lambda c: c.execute(sa.insert(db.rankings).values(
            {**row, "seq": seq, "id": f"late-{seq}"})))

    commit(41)
    before = figures._counts(workspace, "desk", 41, None)
    commit(40)
    commit(42)
    assert sum(before.days.values()) == 2
    assert sum(figures._counts(workspace, "desk", 42, before).days.values()) == 4


def test_verdicts_of_groups_that_join_are_counted(workspace, monkeypatch):
    monkeypatch.setattr(figures, "UNSETTLED", 0)
    claim = work.claim(workspace, "desk", "ann")
    work.submit(workspace, Ranking("v-1", claim.group.id, "ann", ((0,), (1,), (2,), (3,)), claim.shown), claim.token)
    workspace.add_groups("other", [group("New?", "a", "b")])
    before = figures._counts(workspace, "other", 1, None)
    workspace.add_groups("other", [claim.group])
    assert sum(before.days.values()) == 0
    assert sum(figures._counts(workspace, "other", 1, before).days.values()) == 1


def test_files_that_grow_are_read_once(tmp_path):
    path, tails = tmp_path / "metrics.jsonl", Tails()
    assert tails.curves(path).series == {} and last_line(path) == {}
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    found = tails.curves(path)
    assert [list(a) for a in found.series["loss"]] == [[1, 2], [2.0, 1.5]] and found.read == 50
    assert last_line(path) == {"step": 2, "loss": 1.5}
    with open(path, "r+") as f:
        f.write("#" * 25)  # what was read before is not looked at again
        f.seek(0, 2)
        f.write('ss": 1.0, "ok": true}\nnonsense\n')
    found = tails.curves(path)
    assert [list(a) for a in found.series["loss"]] == [[1, 2, 3], [2.0, 1.5, 1.0]] and found.last["step"] == 3
    (tmp_path / "new").write_text('{"step": 1, "loss": 9}\n')  # a run that went back
    (tmp_path / "new").replace(path)
    assert list(tails.curves(path).series["loss"][1]) == [9.0]


def test_scripts_and_styles_are_sent_once(client):
    page = client.get("/rank/desk").text
    addresses = set(re.findall(r'(?:src|href)="(/static/[^"]*)"', page))
    assert addresses and all(a.startswith(f"{ADDRESS}/") for a in addresses)
    for address in addresses:
        answer = client.get(address)
        assert answer.status_code == 200 and "immutable" in answer.headers["cache-control"]
    plain = client.get("/static/rank.js")
    assert plain.headers["cache-control"] == "no-cache"
    assert client.get("/static/rank.js", headers={"if-none-match": plain.headers["etag"]}).status_code == 304
    assert client.get("/").headers["cache-control"] == "no-store"


# ---- forms

def test_long_guidelines_in_any_script_are_taken(client, workspace):
    for letter in ("ж", "字"):
        text = letter * 100_000
        answer = client.post("/manage/desk/guidelines", data={"text": text, "do": "publish"})
        assert answer.status_code == 200 and project.guidelines(workspace, "desk")[1] == text
    assert len("text=" + "%E5%AD%97" * 100_000) < access.MAX_FORM


def test_a_refused_server_keeps_what_was_typed(client):
    page = client.post("/sources/endpoints", data={"name": "far", "url": "ftp://x", "model": "m-7",
                                                   "key_variable": "K"}).text
    assert 'value="ftp://x"' in page and 'value="m-7"' in page and 'value="far"' in page


def test_more_test_questions_than_are_listed(client, workspace, monkeypatch):
    monkeypatch.setattr("tunesmith.service.manage.GOLD_SHOWN", 1)
    for g in workspace.groups("desk")[:2]:
        project.set_gold(workspace, "desk", g.id, ((0,), (1,), (2,), (3,)), "me")
    assert "The first 1 of them" in client.get("/manage/desk/gold").text


# ---- groups that no page can show

def test_groups_with_too_many_answers_stop_nobody(client, client_as, workspace):
    workspace.add_groups("wide", [group(f"Which {n}?", *(f"answer {k}" for k in range(12))) for n in range(3)])
    workspace.add_groups("wide", [group("Which one?", "this", "that")])
    work.priorities(workspace, "wide", {g.id: 9.0 for g in workspace.groups("wide")[:3]})
    ann = client_as("labeler", "ann")
    assert "Which one?" in ann.get("/rank/wide").text
    claim = work.claim(workspace, "wide", "ann")
    work.submit(workspace, Ranking("v-1", claim.group.id, "ann", ((0,), (1,)), claim.shown), claim.token)
    page = ann.get("/rank/wide")
    assert page.status_code == 200 and "3 cannot be ranked on a page" in page.text and "1 still wait" in page.text
    while "being computed" in (page := client.get("/manage/wide").text):
        time.sleep(0.1)
    assert "3 groups have one answer or more than nine" in page
