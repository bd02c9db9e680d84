"""Answers while one waits: who writes them, what is stored, what stops them."""

import json
import threading
import time

import httpx
import pytest
from endpoint_fake import endpoint, events, piece
from service_fakes import FakeEngine, ask_as, running
from starlette.testclient import TestClient

from tunesmith.records import Answer, Message, Prompt
from tunesmith.service import create_app, outbound
from tunesmith.store import team, work
from tunesmith.store.endpoints import Endpoint, add_endpoint


class Varied(FakeEngine):
    """Every seed writes another rate."""

    def answer(self, sampling, model):
        return Answer(f"It is {sampling.seed % 1000} percent.", model, (1, 2), sampling={"seed": sampling.seed})


@pytest.fixture
def engine():
    return Varied()


def body(text="Rate?", **rest):
    return {"messages": [{"role": "user", "content": text}], "answers": 3, **rest}


def frames(reply):
    return [json.loads(line[6:]) for line in reply.text.split("\n\n") if line.startswith("data: ")]


def ask(client, *args, **rest):
    reply = client.post("/api/live", json=body(*args, **rest))
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    return frames(reply)


def test_answers_become_a_group_that_is_asked_first(client, workspace, engine):
    found = ask(client)
    last = found[-1]
    assert last == {"group": last["group"], "set": "live", "answers": 3, "next": "/rank/live"}
    group, = workspace.groups("live")
    written = {n: "".join(e.get("text", "") for e in found if e.get("answer") == n) for n in range(3)}
    assert sorted(written.values()) == sorted(a.text for a in group.answers)
    assert group.prompt.messages == (Message("user", "Rate?"),)
    assert sum(e.get("end", False) for e in found) == 3
    ask(client, "When?")
    assert work.claim(workspace, "live", "ann").group.prompt.messages[0].content in ("Rate?", "When?")


def test_the_mix_is_of_the_workspaces_models_and_names_stay_hidden(client, workspace, engine):
    found = ask(client, answers=3)
    models = {call[3] for call in engine.calls}
    assert models == {"tone@1", "tone@2", ""}
    assert "tone" not in json.dumps(found)
    engine.calls.clear()
    ask(client, models=["tone@2"])
    assert {call[3] for call in engine.calls} == {"tone@2"}
    assert 'value="tone@2"' in client.get("/live").text


def test_labelers_choose_no_set_and_see_no_names(client_as, workspace, engine):
    add_endpoint(workspace, Endpoint("far", "https://far.example/v1", "m"), "me")
    labeler = client_as("labeler")
    page = labeler.get("/live").text
    assert "tone@2" not in page and "far" not in page and 'id="set"' not in page
    assert ask(labeler, set="desk")[-1]["set"] == "live"
    assert len(workspace.groups("desk")) == 3
    refused = labeler.post("/api/live", json=body(models=["far"]))
    assert refused.status_code == 403
    assert client_as("viewer").post("/api/live", json=body()).status_code == 403
    assert ask(client_as("manager"), set="asked")[-1]["next"] == "/rank/asked"


def test_answers_all_alike_are_not_stored(client, workspace, engine, monkeypatch):
    monkeypatch.setattr(engine, "answer", lambda sampling, model: Answer("Same.", model))
    assert "came out alike" in ask(client)[-1]["error"]["message"]
    assert "live" not in [s["name"] for s in workspace.group_sets()]


def test_an_error_in_the_middle_is_said_and_nothing_is_stored(client, workspace, engine):
    engine.fail_after = 2
    found = ask(client)
    assert "Something failed inside the server" in found[-1]["error"]["message"] and "fire" not in json.dumps(found)
    assert "live" not in [s["name"] for s in workspace.group_sets()]
    engine.fail_after = None
    assert ask(client)[-1]["set"] == "live"


@pytest.mark.parametrize(("change", "message"), [
    ({"messages": []}, "messages"), ({"answers": 1}, "answers"), ({"answers": 10}, "answers"),
    ({"messages": [{"role": "user", "content": " "}]}, '"content" is empty (messages[0])'),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "must end with a user turn"),
    ({"messages": [{"role": "user", "content": "x"}] * 2}, "in a row"),
    ({"messages": [{"role": "user", "content": "x" * 20_001}]}, "content"),
    ({"max_tokens": 5000}, "max_tokens"), ({"temperature": 0}, "temperature"), ({"set": "../x"}, "name of a set"),
    ({"models": ["tone@9"]}, "tone@"), ({"model": "x"}, "Unrecognized"), ({"models": ["judge"]}, "no model")])
def test_bad_questions(client, change, message):
    refused = client.post("/api/live", json={**body(), **change})
    assert 400 <= refused.status_code < 500 and message in refused.json()["error"]["message"]


def test_a_question_that_is_too_long_for_the_model(client):
    assert "maximum context length is 64 tokens" in ask(client, "word " * 100)[-1]["error"]["message"]


def test_nobody_can_answer(workspace):
    with TestClient(create_app(workspace), base_url="http://127.0.0.1:8400") as client:
        ask_as(client, workspace, "me")
        assert "No model can answer here yet" in client.get("/live").text
        refused = client.post("/api/live", json=body())
        assert refused.status_code == 409 and "tunesmith serve" in refused.json()["error"]["message"]


def test_endpoints_write_at_the_same_time(workspace, monkeypatch):
    with endpoint() as server, TestClient(create_app(workspace), base_url="http://127.0.0.1:8400") as client:
        ask_as(client, workspace, "me")
        monkeypatch.setenv(outbound.LISTED, f"localhost:{server.port}")
        add_endpoint(workspace, Endpoint("near", f"http://localhost:{server.port}/v1", "tiny"), "me")
        together = threading.Barrier(3)

        def say(handler):
            together.wait(5)
            seed = server.asked[-1][2]["seed"]
            handler.send(events(piece(f"Rate {seed}, {id(handler)}"), piece(".", "stop"), "[DONE]").encode())

        server.say = say
        assert ask(client)[-1]["answers"] == 3
        group, = workspace.groups("live")
        assert {a.model for a in group.answers} == {f"localhost:{server.port}/tiny"}
        server.say = lambda h: h.json({"error": {"message": "no credit"}}, 402)
        assert "402: no credit" in ask(client)[-1]["error"]["message"]


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_leaving_stops_the_writing_and_frees_the_person(app, engine, workspace):
    engine.endless = True
    with running(app) as url:
        cookie = {f"tunesmith-{url.rpartition(':')[2]}": team.start_session(workspace, "me", "test")}
        with httpx.Client(base_url=url, cookies=cookie, headers={"origin": url}) as client:
            with client.stream("POST", "/api/live", json=body()) as reply:
                lines = reply.iter_lines()  # held: letting go of it would close the stream
                next(lines)
                assert client.post("/api/live", json=body()).status_code == 429
            until(engine.stopped.is_set)
            engine.endless = None
            until(lambda: client.post("/api/live", json=body()).status_code == 200)
    assert len(workspace.groups("live")) == 1


def test_leaving_closes_the_connection_to_an_endpoint(workspace, monkeypatch):
    gone = threading.Event()
    with endpoint() as server, running(create_app(workspace)) as url:
        monkeypatch.setenv(outbound.LISTED, f"localhost:{server.port}")
        add_endpoint(workspace, Endpoint("near", f"http://localhost:{server.port}/v1", "tiny"), "me")

        def say(handler):
            handler.send(events(piece("on ")).encode())
            try:
                while True:
                    handler.wfile.write(events(piece("and on ")).encode())
                    time.sleep(0.01)
            except OSError:
                gone.set()

        server.say = say
        cookie = {f"tunesmith-{url.rpartition(':')[2]}": team.start_session(workspace, "me", "test")}
        with httpx.Client(base_url=url, cookies=cookie, headers={"origin": url}) as client, \
                client.stream("POST", "/api/live", json=body()) as reply:
            next(reply.iter_lines())
        assert gone.wait(5)


def test_a_question_is_taken_from_a_dataset(client, workspace):
    turns = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"),
             Message("user", "</textarea><script>alert(1)</script>"))
    workspace.add_dataset("asked", "prompts", [Prompt(turns), Prompt((Message("user", "Secret test"),), split="test")])
    for _ in range(5):
        page = client.get("/live?prompts=asked").text
        assert "Be brief." in page and "&lt;/textarea&gt;&lt;script&gt;" in page and "Secret test" not in page
    assert client.get("/live?prompts=nothing").status_code == 404
