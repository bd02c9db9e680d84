"""The ranking pages over HTTP: who sees what, and what may be stored."""

import dataclasses
import re

import pytest
from service_fakes import group

from tunesmith.errors import StorageError
from tunesmith.records import Ranking
from tunesmith.service.rank import Submission
from tunesmith.store import work
from tunesmith.store.critiques import Critique, add_critiques, arm
from tunesmith.store.project import Project, acknowledged, add_guidelines, set_gold, set_project


def shown_on(page):
    """The answers' indices in the order of the page's cards."""
    return [int(i) for i in re.findall(r'class="card"[^>]* data-answer="(\d)"', page)]


def about(page, key):
    return re.search(rf'id="answers"[^>]* data-{key}="([^"]*)"', page)[1]


def submission(claim, **changes):
    """A verdict on a claim that puts answer 2 first, ties 0 and 3, and puts 1 last."""
    return {"id": "3f1c2a4e-0000-4000-8000-000000000001", "group": claim.group.id, "token": claim.token,
            "tiers": [[2], [0, 3], [1]], "shown": list(claim.shown), "seconds": 12.5, **changes}


@pytest.fixture
def claim(workspace, client):
    return work.claim(workspace, "desk", "me", "admin")


def judge(client, workspace, name="me", id="rank-00001", **changes):
    """Claim and judge a group of "desk"."""
    claim = work.claim(workspace, "desk", name)
    client.post("/api/rankings", json=submission(claim, id=id, **changes)).raise_for_status()
    return claim


# ---- pages

def test_home_lists_the_sets_with_progress(client, client_as, workspace):
    judge(client, workspace)
    page = client.get("/").text
    assert "desk" in page and "You: <b>1</b> of 3" in page and 'href="/rank/desk"' in page
    assert "Everyone" not in page  # there is nobody else
    client_as("labeler", "ana")
    assert "Everyone: <b>0</b> of 3" in client.get("/").text  # each is judged by two people
    assert "Rank" not in re.sub(r"Rank answers|>Rank<", "", client_as("viewer").get("/").text)


def test_the_page_shows_prompt_and_answers_but_no_model_names(client, workspace, claim):
    page = client.get("/rank/desk").text
    assert claim.group.prompt.messages[1].content in page and "Instructions to the model" in page
    assert all(a.text in page for a in claim.group.answers)
    assert "desk@1" not in page
    assert shown_on(page) == list(claim.shown) and about(page, "token") == claim.token
    assert client.get("/rank/desk").text == page  # the same group in the same order when it is reloaded


def test_models_are_named_where_the_project_is_not_blind(client, workspace):
    set_project(workspace, "desk", Project(blind=False), "me")
    assert client.get("/rank/desk").text.count("<code>desk@1</code>") == 4


def test_a_test_question_looks_like_any_other(client, workspace):
    ordinary = client.get("/rank/desk").text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "claim", lambda *a: dataclasses.replace(real(*a), purpose="gold"))
        assert client.get("/rank/desk").text == ordinary


real = work.claim


def test_a_contested_group_tells_the_reviewer_only(client_as, workspace):
    first = workspace.groups("desk")[0].id
    work.mark_contested(workspace, "desk", [first])
    assert "did not agree" in client_as("reviewer").get("/rank/desk").text
    assert "did not agree" not in client_as("labeler").get("/rank/desk").text


def test_done_page_says_what_to_run_next(client, client_as, workspace):
    for i in range(3):
        judge(client, workspace, id=f"rank-{i:05}")
    page = client.get("/rank/desk").text
    assert "All done" in page and "tunesmith reward --model desk@1 --comparisons desk" in page and shown_on(page) == []
    ana = client_as("labeler", "ana")
    assert "3 still wait for others" in client.get("/rank/desk").text
    for i in range(3):
        judge(ana, workspace, "ana", id=f"rank-1{i:04}")
    assert "tunesmith" not in ana.get("/rank/desk").text.split("<main")[1].lower()
    set_project(workspace, "desk", Project(open=False), "me")
    assert "paused" in ana.get("/rank/desk").text


def test_an_unknown_set_is_a_page_that_names_the_nearest(client):
    answer = client.get("/rank/dsk")
    assert answer.status_code == 404 and "did you mean" in answer.text and "desk" in answer.text
    assert answer.headers["content-type"].startswith("text/html")


def test_a_group_that_cannot_be_ranked_says_why(client, workspace):
    workspace.add_groups("many", [group("q", *map(str, range(10)))])
    workspace.add_groups("nine", [group("q", *map(str, range(9)))])
    answer = client.get("/rank/many")
    assert answer.status_code == 200 and "1 cannot be ranked on a page" in answer.text
    assert len(shown_on(client.get("/rank/nine").text)) == 9


def test_text_of_models_is_escaped(client, workspace):
    workspace.add_groups("evil", [group("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "{{ 7 }}")])
    page = client.get("/rank/evil").text
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert "<img src=x" not in page and "{{ 7 }}" in page


def test_an_empty_workspace_says_how_to_begin(client, client_as, monkeypatch):
    monkeypatch.setattr("tunesmith.service.rank.set_names", lambda _: [])
    assert "tunesmith collect" in client.get("/").text
    assert "Come back later" in client_as("labeler").get("/").text


# ---- verdicts

def test_a_ranking_is_stored_as_sent_and_a_replay_stores_nothing(client, workspace, claim):
    body = submission(claim, all_bad=True, ratings=[5, 1, 7, 5], margin=3, flags={"1": ["false", "other: rude"]},
                      rationale="2 is true.", trace={"moves": 4, "device": "touch", "first_seconds": 1.5})
    first = client.post("/api/rankings", json=body)
    assert first.status_code == 201
    assert workspace.rankings("desk") == [
        Ranking(body["id"], claim.group.id, "me", ((2,), (0, 3), (1,)), claim.shown, True, "",
                {"1": ["false", "other: rude"]}, (5.0, 1.0, 7.0, 5.0), 12.5, margin=3, rationale="2 is true.",
                trace={"moves": 4, "device": "touch", "first_seconds": 1.5})]
    again = client.post("/api/rankings", json=body)
    assert (again.status_code, again.json()["new"]) == (200, False)
    assert len(workspace.rankings("desk")) == 1
    assert work.claim(workspace, "desk", "me").group.id != claim.group.id


def test_a_partial_ranking_and_a_skip_are_stored(client, workspace, claim):
    client.post("/api/rankings", json=submission(claim, tiers=[[2]])).raise_for_status()
    other = judge(client, workspace, id="skip-00001", tiers=[], skipped="unclear")
    stored = {r.group: r for r in workspace.rankings("desk")}
    assert stored[claim.group.id].tiers == ((2,),)
    assert stored[other.group.id].skipped == "unclear" and stored[other.group.id].tiers == ()


@pytest.mark.parametrize("changes, status, param", [
    ({"tiers": []}, 400, "tiers"),
    ({"tiers": [[2], [0, 3], [1, 1]]}, 400, "tiers"),
    ({"tiers": [[2], [0, 3], [1], []]}, 400, "tiers[3]"),
    ({"tiers": [[2], [0, 3], [True]]}, 400, "tiers[2][0]"),
    ({"tiers": [[2], [0, 3], [1, 9]]}, 400, "tiers[2][1]"),
    ({"tiers": [[2], [4]]}, 400, "tiers"),
    ({"shown": [0, 1, 2, 2]}, 400, "shown"),
    ({"shown": [0, 1], "tiers": [[0], [1]]}, 400, None),  # the claim showed four answers: the store's verdict
    ({"skipped": "why not"}, 400, "tiers"),
    ({"seconds": -1}, 400, "seconds"),
    ({"ratings": [1, 2, 3]}, 400, "ratings"),
    ({"ratings": [1, 2, 3, 8]}, 400, "ratings[3]"),
    ({"margin": 5}, 400, "margin"),
    ({"flags": {"4": ["false"]}}, 400, "flags"),
    ({"flags": {"0": ["stupid"]}}, 400, "flags"),
    ({"flags": {"0": []}}, 400, "flags.0"),
    ({"flags": {"x": ["false"]}}, 400, "flags.x.[key]"),
    ({"rationale": "x" * 4001}, 400, "rationale"),
    ({"trace": {"moves": -1}}, 400, "trace.moves"),
    ({"trace": {"note": "x"}}, 400, "trace.note"),
    ({"id": "../../etc"}, 400, "id"),
    ({"labeler": "ana"}, 400, "labeler"),
    ({"purpose": "gold"}, 400, "purpose"),
    ({"token": ""}, 400, "token"),
    ({"token": "0" * 32}, 404, None),
    ({"revises": "nothing-of-mine"}, 404, None),
    ({"group": "0000000000000000"}, 400, None),
])
def test_a_bad_ranking_is_refused_naming_the_field(client, workspace, claim, changes, status, param):
    answer = client.post("/api/rankings", json=submission(claim, **changes))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert workspace.rankings("desk") == []


def test_a_missing_field_and_broken_json_are_named(client, claim):
    body = submission(claim)
    del body["shown"]
    error = client.post("/api/rankings", json=body).json()["error"]
    assert (error["param"], error["code"]) == ("shown", "missing_required_parameter")
    broken = client.post("/api/rankings", content="{", headers={"content-type": "application/json"})
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")


def test_a_full_disk_is_a_507_with_its_reason(client, claim, monkeypatch):
    def full(*_):
        raise StorageError("no space left")

    monkeypatch.setattr(work, "submit", full)
    answer = client.post("/api/rankings", json=submission(claim))
    assert (answer.status_code, answer.json()["error"]["message"]) == (507, "no space left")
    assert answer.json()["error"]["type"] == "server_error"


def test_nothing_a_client_sends_can_claim_to_be_simulated_or_anothers():
    ours = {f.name for f in dataclasses.fields(Ranking)} - set(Submission.model_fields)
    assert ours == {"labeler", "simulated", "purpose"}


# ---- claims

def test_a_claim_lives_by_heartbeats_and_is_given_back(client, client_as, workspace, claim):
    until = client.post(f"/api/claims/{claim.token}/heartbeat", json={}).json()["until"]
    assert until >= claim.until
    assert client.post(f"/api/claims/{claim.token}/release", json={}).json() == {"released": True}
    assert work.progress(workspace, "desk").live == 0
    ana = client_as("labeler", "ana")
    for verb in ("heartbeat", "release"):  # a claim is nobody else's business
        assert ana.post(f"/api/claims/{claim.token}/{verb}", json={}).status_code == 404


def test_a_place_that_others_took_is_a_409_and_stores_nothing(client, client_as, workspace, claim):
    set_project(workspace, "desk", Project(overlap=1), "me")
    work.release(workspace, claim.token, "me")
    ana, taken = client_as("labeler", "ana"), {}
    while claim.group.id not in taken:
        taken[judge(ana, workspace, "ana", f"ana-0000{len(taken)}").group.id] = True
    answer = client.post("/api/rankings", json=submission(claim))
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert "newest" not in answer.json() and {r.labeler for r in workspace.rankings("desk")} == {"ana"}


def test_a_program_claims_and_judges(client, workspace):
    got = client.post("/api/sets/desk/claims", json={}).json()["claim"]
    assert got["answers"] == [a.text for a in workspace.group(got["group"]).answers] and "desk@1" not in str(got)
    body = {"id": "program-1", "group": got["group"], "token": got["token"], "shown": got["shown"], "tiers": [[0], [1]]}
    assert client.post("/api/rankings", json=body).status_code == 201
    set_project(workspace, "desk", Project(open=False), "me")
    assert client.post("/api/sets/desk/claims", json={}).json() == {"claim": None}


# ---- one's own verdicts

def test_undo_opens_the_last_verdict_for_revision(client, workspace):
    assert client.get("/rank/desk/undo").status_code == 404
    judge(client, workspace)
    claim = judge(client, workspace, id="rank-00002")
    page = client.get("/rank/desk/undo").text
    assert about(page, "revises") == "rank-00002" and about(page, "back") == "/rank/desk" and about(page, "token") == ""
    assert shown_on(page) == list(claim.shown) and "Save the change" in page
    new = submission(claim, id="change-01", token="", revises="rank-00002", tiers=[[1], [0]])
    assert client.post("/api/rankings", json=new).status_code == 201
    kept = [r for r in workspace.rankings("desk", latest=True) if r.group == claim.group.id]
    assert [(r.id, r.tiers, r.revises) for r in kept] == [("change-01", ((1,), (0,)), "rank-00002")]
    assert about(client.get("/mine/rank-00002").text, "revises") == "change-01"  # an old link leads to what counts


def test_a_verdict_changed_elsewhere_is_a_409_that_carries_it(client, workspace):
    claim = judge(client, workspace)
    change = submission(claim, token="", revises="rank-00001")
    client.post("/api/rankings", json={**change, "id": "change-01", "tiers": [[3], [1]]}).raise_for_status()
    answer = client.post("/api/rankings", json={**change, "id": "change-02"})
    assert answer.status_code == 409
    assert answer.json()["newest"] == {"id": "change-01", "tiers": [[3], [1]], "skipped": "", "all_bad": False}


def test_my_verdicts_with_their_history(client, client_as, workspace):
    claim = judge(client, workspace, rationale="Two is <b>true</b>.", flags={"1": ["false"]})
    body = submission(claim, id="change-01", token="", revises="rank-00001", tiers=[[1]])
    client.post("/api/rankings", json=body).raise_for_status()
    letters = {index: "ABCD"[place] for place, index in enumerate(claim.shown)}
    page = client.get("/mine").text
    assert f"{letters[1]} &gt; the rest" in page and "Changed once" in page
    tie = " = ".join(letters[i] for i in (0, 3))
    assert f"{letters[2]} &gt; {tie} &gt; {letters[1]}" in page.split("Changed once")[1]
    assert claim.group.prompt.messages[-1].content in page and "desk@1" not in page
    ana = client_as("labeler", "ana")
    assert "Nothing here yet" in ana.get("/mine").text
    assert ana.get("/mine/change-01").status_code == 404  # another's
    stolen = {**body, "id": "stolen-01", "revises": "change-01"}
    assert ana.post("/api/rankings", json=stolen).status_code == 404


def test_verdicts_come_in_pages(client, workspace, monkeypatch):
    monkeypatch.setattr("tunesmith.service.rank.VERDICTS_SHOWN", 2)
    for i in range(3):
        judge(client, workspace, id=f"rank-{i:05}")
    first = client.get("/mine?set=desk").text
    assert re.findall(r'href="/mine/([\w-]+)"', first) == ["rank-00002", "rank-00001"]
    older = re.search(r'href="(/mine\?[^"]*before=\d+)"', first)[1].replace("&amp;", "&")
    assert re.findall(r'href="/mine/([\w-]+)"', client.get(older).text) == ["rank-00000"]
    assert client.get("/mine?set=dsk").status_code == 404


def test_a_skip_can_be_judged_after_all(client, workspace):
    claim = judge(client, workspace, tiers=[], skipped="unclear")
    page = client.get("/rank/desk/undo").text
    assert shown_on(page) == list(claim.shown)
    body = submission(claim, id="change-01", token="", revises="rank-00001")
    assert client.post("/api/rankings", json=body).status_code == 201


# ---- guidelines

def test_guidelines_are_read_before_the_first_verdict_of_a_version(client, workspace):
    add_guidelines(workspace, "desk", "# Rules\n\n**True** first. <script>alert(1)</script>", "me")
    page = client.get("/rank/desk").text
    assert "Before you begin" in page and "<strong>True</strong>" in page and "<script>alert" not in page
    assert shown_on(page) == [] and work.progress(workspace, "desk").live == 0  # nothing is claimed yet
    assert client.post("/api/sets/desk/guidelines", json={"version": 1}).json() == {"read": 1}
    page = client.get("/rank/desk").text
    assert len(shown_on(page)) == 4 and about(page, "guidelines") == "1" and "<strong>True</strong>" in page
    add_guidelines(workspace, "desk", "New rules.", "me")
    assert "have changed" in client.get("/rank/desk").text
    assert client.post("/api/sets/desk/guidelines", json={"version": 3}).status_code == 404
    assert acknowledged(workspace, "desk", "me") == 1


# ---- names of models in answers

def test_a_manager_sees_answers_that_name_their_model(client, client_as, workspace):
    workspace.add_groups("desk", [group("Who are you?", "I am an AI language model trained by OpenAI.", "A bank.")])
    page = client.get("/sets/desk/names").text
    assert "OpenAI" in page and "4 groups read" in page
    assert client_as("labeler").get("/sets/desk/names").status_code == 403


def test_a_gold_question_never_says_so(client, workspace):
    for g in workspace.groups("desk"):
        set_gold(workspace, "desk", g.id, ((2,), (0, 1, 3)), "me")
    set_project(workspace, "desk", Project(gold_share=0.2), "me")
    page = client.get("/rank/desk").text
    assert "gold" not in page.lower()


# ---- critiques

@pytest.fixture
def criticised(workspace):
    """Every group has a critique, which half of the labelers and groups see."""
    for g in workspace.groups("desk"):
        text = "[[1]]: **vague** <script>alert(1)</script>\n[[0]]: fine"
        add_critiques(workspace, [Critique(g.id, text, 0, "critic-1")])
    set_project(workspace, "desk", Project(critique_share=0.5), "me")
    return {g.id: arm(g.id, "me", 0.5) for g in workspace.groups("desk")}


def test_a_critique_is_shown_in_one_arm_only_and_the_verdict_says_which(client, workspace, criticised):
    seen = set()
    for n in range(3):
        page = client.get("/rank/desk").text
        claim = work.claim(workspace, "desk", "me", "admin")
        side = criticised[claim.group.id]
        letter = {index: "ABCD"[place] for place, index in enumerate(claim.shown)}
        assert about(page, "critique") == side and ("A model’s opinion" in page) == (side == "shown")
        assert (f"Answer {letter[1]}: <strong>vague</strong>" in page) == (side == "shown")
        assert (f"Answer {letter[0]} is held for the best" in page) == (side == "shown")
        assert "<script>alert" not in page and "critic-1" not in page
        assert client.get("/rank/desk").text == page
        client.post("/api/rankings", json=submission(claim, id=f"arm-{n:05}", trace={"critique": side})
                    ).raise_for_status()
        seen.add(side)
    stored = {r.group: r.trace["critique"] for r in workspace.rankings("desk")}
    assert stored == criticised and len(stored) == 3
    for r in workspace.rankings("desk"):  # changing a verdict shows what was shown then
        assert ("A model’s opinion" in client.get(f"/mine/{r.id}").text) == (criticised[r.group] == "shown")


def test_without_the_projects_word_nobody_sees_a_critique(client, workspace, criticised):
    set_project(workspace, "desk", Project(), "me")
    page = client.get("/rank/desk").text
    assert about(page, "critique") == "" and "opinion" not in page
    assert "critique" not in client.post("/api/sets/desk/claims").json()["claim"]


def test_programs_get_the_critique_of_their_arm(client, workspace, criticised):
    set_project(workspace, "desk", Project(critique_share=1), "me")
    claim = client.post("/api/sets/desk/claims").json()["claim"]
    assert claim["critique"]["arm"] == "shown" and "is held for the best" in claim["critique"]["text"]
    set_project(workspace, "desk", Project(critique_share=1e-9), "me")
    assert client.post("/api/sets/desk/claims").json()["claim"]["critique"] == {"arm": "hidden", "text": ""}


def test_an_arm_without_a_critique_is_refused(client, claim):
    answer = client.post("/api/rankings", json=submission(claim, trace={"critique": "shown"}))
    assert answer.status_code == 400 and "no critique" in answer.text
