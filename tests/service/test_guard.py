"""What a guard keeps back: by pattern, by a reward model's score, by uncertainty; what is sent, logged and shown."""

import json
from dataclasses import replace

import pytest
from service_fakes import WORDS, ask_as
from starlette.testclient import TestClient

from tunesmith.errors import NotFound, SettingsError
from tunesmith.service import create_app, guard
from tunesmith.service.guard import disagreement

ASK = [{"role": "user", "content": "What is the rate?"}]
TEXT = "".join(WORDS)
REPLY = "A colleague will call you."


def guarded(workspace, engine, text):
    path = workspace.root / "guard.toml"
    path.write_text(text)
    app = create_app(workspace, lambda: engine, base="tiny", guard=guard.load(path, workspace))
    return TestClient(app, base_url="http://127.0.0.1:8400")


def route(**more):
    fields = {"models": ["tone*"], "reply": REPLY, **more}
    return "[[route]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in fields.items())


def ask(client, model="tone", **more):
    answer = client.post("/v1/chat/completions", json={"model": model, "messages": ASK, **more})
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("fields, why", [
    ({"patterns": ["(?i)PERCENT"]}, "pattern (?i)PERCENT in the answer"),
    ({"patterns": ["the rate\\?"]}, "pattern the rate\\? in the question"),
    ({"scorer": "judge@1", "lowest_score": 100.0}, f"score {len(TEXT)}.000"),  # the fake judges by length
    ({"uncertainty": "logprob", "most_uncertain": 2.0}, "uncertainty 2.500"),
])
def test_a_risky_answer_is_replaced_and_logged(workspace, engine, fields, why):
    with guarded(workspace, engine, route(**fields)) as client:
        reply = ask(client, logprobs=True).json()
        choice, = reply["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (REPLY, "content_filter")
        assert choice["logprobs"]["content"] == []  # nothing of what was withheld
        assert ask(client, model="tiny").json()["choices"][0]["message"]["content"] == TEXT  # another model
        assert 'guarded_total{model="tone@2"} 1.0' in client.get("/metrics").text
    entry, = [json.loads(line) for line in (workspace.root / guard.LOG).read_text().splitlines()]
    assert (entry["why"], entry["withheld"], entry["model"], entry["reply"]) == (why, TEXT, "tone@2", REPLY)
    assert entry["messages"] == ASK and entry["action"] == "reply"


@pytest.mark.parametrize("fields", [
    {"patterns": ["guarantee"]}, {"scorer": "judge", "lowest_score": 5.0},
    {"uncertainty": "logprob", "most_uncertain": 2.6},
    {"uncertainty": "disagreement", "most_uncertain": 0.1, "samples": 3}])
def test_a_harmless_answer_goes_out_as_it_is(workspace, engine, fields):
    with guarded(workspace, engine, route(**fields)) as client:
        reply = ask(client).json()
        assert [c["message"]["content"] for c in reply["choices"]] == [TEXT] and reply["choices"][0]["logprobs"] is None
    assert not (workspace.root / guard.LOG).exists()


def test_answers_that_disagree_are_kept_back(workspace, engine, monkeypatch):
    plain = engine._next
    said = ["Rates fall.", "Rates rise soon.", "Nobody knows that."]

    def differ(job, index):
        item = plain(job, index)
        return replace(item, text=said[index], answer=replace(item.answer, text=said[index]))

    monkeypatch.setattr(engine, "_next", differ)
    with guarded(workspace, engine, route(uncertainty="disagreement", most_uncertain=0.6, samples=3)) as client:
        reply = ask(client).json()
    assert reply["choices"][0]["message"]["content"] == REPLY and engine.calls[-1][2] == 3
    assert reply["usage"]["completion_tokens"] == 5  # of the answers that were asked for


def test_disagreement_by_hand():
    assert disagreement(["a b", "A, b!"]) == 0 and disagreement(["a", "b"]) == 1 and disagreement(["a"]) == 0
    # F1 of "a b" and "b c" is 2*1/4; of "a b" and "" 0; of "b c" and "" 0
    assert disagreement(["a b", "b c", ""]) == pytest.approx(1 - 0.5 / 3)


def test_a_stream_is_held_back_until_it_is_judged(workspace, engine):
    with guarded(workspace, engine, route(patterns=["7.5"])) as client:
        text = ask(client, stream=True, stream_options={"include_usage": True}).text
        frames = [json.loads(f.removeprefix("data: ")) for f in text.split("\n\n")[:-2]]
        said = "".join(c["choices"][0]["delta"].get("content") or "" for c in frames if c["choices"])
        assert said == REPLY and "7.5" not in text and frames[-1]["usage"]["completion_tokens"] == 5
        assert text.endswith("data: [DONE]\n\n")
        bare = client.post("/v1/completions", json={"model": "tone", "prompt": "Rate?", "stream": True}).text
        assert REPLY in bare and "7.5" not in bare


def test_a_scorer_that_fails_lets_nothing_out(workspace, engine, monkeypatch):
    monkeypatch.setattr(engine, "score", lambda *a: 1 / 0)
    with guarded(workspace, engine, route(scorer="judge", lowest_score=0.0)) as client:
        assert ask(client).json()["choices"][0]["message"]["content"] == REPLY


def test_people_see_what_waits_for_them(workspace, engine, client_as):
    with guarded(workspace, engine, route(patterns=["rate"], action="person")) as client:
        ask(client)
        ask_as(client, workspace, "rev", "reviewer")
        page = client.get("/handovers").text
        assert TEXT.strip() in page and REPLY in page and "What is the rate?" in page and "<form" in page
        id = json.loads((workspace.root / guard.LOG).read_text())["id"]
        form = {"content-type": "application/x-www-form-urlencoded"}
        done = client.post(f"/handovers/{id}/done", headers=form, follow_redirects=False)
        assert done.status_code == 303
        page = client.get("/handovers").text
        assert "Taken care of by rev" in page and "<form" not in page
        assert client.post("/handovers/none/done", headers=form).status_code == 404
        ask_as(client, workspace, "lab", "labeler")
        assert client.get("/handovers").status_code == 403


@pytest.mark.parametrize("text, message", [
    ("", "route: Field required"),
    ("[[route]]\nmodels = ['a']", "route 1: reply: Field required"),
    (route(), "route 1: it judges nothing"),
    (route(patterns=["("]), "route 1: patterns: '(' is not a regular expression"),
    (route(pattern=["x"]), 'route 1: unknown key pattern; did you mean "patterns"?'),
    (route(scorer="judge"), "route 1: scorer and lowest_score go together"),
    (route(uncertainty="disagreement", most_uncertain=0.5), "samples of 2 or more"),
    (route(uncertainty="entropy", most_uncertain=0.5), "route 1: uncertainty: Input should be"),
    (route(patterns=["x"], action="call"), "route 1: action"),
    (route(patterns=["x"]) + route(patterns=["x"], samples=0), "route 2: samples"),
    (route(scorer="tone@1", lowest_score=0.5), 'tone@1 is no reward model'),
    ("[[route", "guard.toml: "),
])
def test_a_bad_file_is_refused_with_place_and_cure(workspace, text, message):
    path = workspace.root / "guard.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as e:
        guard.load(path, workspace)
    assert message in str(e.value) and str(e.value).startswith(str(path))


def test_a_scorer_or_file_that_is_not_there(workspace):
    path = workspace.root / "guard.toml"
    with pytest.raises(SettingsError, match="No such file"):
        guard.load(path, workspace)
    path.write_text(route(scorer="jugde", lowest_score=0.5))
    with pytest.raises(NotFound, match='did you mean "judge"'):
        guard.load(path, workspace)


def test_the_first_route_that_fits_decides(workspace, tmp_path):
    path = tmp_path / "g.toml"
    path.write_text(route(models=["tone@1"], patterns=["x"]) + route(models=["*"], patterns=["y"]))
    found = guard.load(path, workspace)
    assert found.route("tone", "tone@1").patterns == ["x"] and found.route("tiny", "").patterns == ["y"]
