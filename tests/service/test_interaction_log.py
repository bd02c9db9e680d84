"""The log as clients see it: nothing without consent, nothing raw, events late and twice, and no request the slower."""

import asyncio
import json
import threading
import time
from concurrent.futures import Future
from dataclasses import replace

import httpx
import pytest
from service_fakes import WORDS, running
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from tunesmith.errors import StorageError
from tunesmith.records import Answer, Interaction, Message
from tunesmith.service import create_app
from tunesmith.service import interactions as service
from tunesmith.service.assets import FOLDER
from tunesmith.service.gateway import Gateway
from tunesmith.service.hub import Limits
from tunesmith.service.interactions import Log, consent
from tunesmith.store import interactions, privacy
from tunesmith.store.interactions import Policy

ASK = [{"role": "user", "content": "What is the rate? I am jo@example.com"}]
TEXT = "".join(WORDS)
SITE = "https://app.example.com"


@pytest.fixture
def keeper(workspace):
    return Log(workspace, "all", Policy(days=30))


@pytest.fixture
def app(workspace, engine, keeper):
    return create_app(workspace, lambda: engine, base="tiny", keeper=keeper, feedback_origins=[SITE])


def chat(client, headers=None, **body):
    return client.post("/v1/chat/completions", json={"model": "tone", "messages": ASK, **body}, headers=headers or {})


def feedback(client, completion, *events, **headers):
    rows = [{"completion": completion, "type": type, "value": value, "id": f"{type}-{n}"}
            for n, (type, value) in enumerate(events)]
    return client.post("/v1/feedback", json={"events": rows}, headers=headers)


def logged(workspace, count):
    """The log, once it holds so many."""
    for _ in range(200):
        if len(found := list(interactions.interactions(workspace))) >= count:
            break
        time.sleep(0.02)
    assert len(found) == count
    return found


def test_a_chat_is_kept_scrubbed_and_with_what_is_known_of_it(client, workspace):
    reply = chat(client, user="jo@example.com", metadata={"conversation": "ticket 7"}, temperature=0.5, seed=3)
    found, = logged(workspace, 1)
    assert found.id == reply.json()["id"] and found.answer.text == TEXT and found.answer.model == "tone@2"
    assert found.messages[0].content.startswith("What is the rate? I am [EMAIL_")
    secret = privacy.secret_of(workspace.root)
    assert found.user == privacy.pseudonym(secret, "user", "jo@example.com")
    assert found.conversation == privacy.pseudonym(secret, "talk", "jo@example.com", "ticket 7")
    assert (found.source, found.consent, found.answer.finished) == ("serve", "notice", True)
    assert found.answer.sampling == {"temperature": 0.5, "seed": 3}


@pytest.mark.parametrize(("mode", "store", "header", "expected"), [
    ("off", True, {}, ""), ("asked", None, {}, ""), ("asked", True, {}, "asked"), ("all", None, {}, "notice"),
    ("all", True, {}, "asked"), ("all", False, {}, ""), ("all", None, {"tunesmith-log": "Off"}, ""),
    ("asked", True, {"Sec-GPC": "1"}, ""), ("all", None, {"DNT": "1"}, ""), ("all", None, {"DNT": "0"}, "notice"),
    ("asked", "yes", {}, "")])
def test_consent(mode, store, header, expected):
    assert consent(mode, Headers(header), store) == expected


def test_who_declines_leaves_nothing(client, workspace, keeper):
    declined = chat(client, headers={"tunesmith-log": "off"}).json()["id"]
    assert chat(client, store=False).status_code == 200
    done = feedback(client, declined, ("thumb", 1)).json()
    assert done == {"object": "feedback", "stored": 0, "known": 0, "unknown": 1, "too_many": 0}
    chat(client, store=True)
    found, = logged(workspace, 1)
    assert found.consent == "asked"


def test_without_a_log_nothing_changes(workspace, engine):
    with TestClient(create_app(workspace, lambda: engine, base="tiny"), base_url="http://127.0.0.1:8400") as client:
        assert chat(client).status_code == 200
        assert chat(client, store=True).json()["error"]["param"] == "store"
        assert feedback(client, "x", ("thumb", 1)).status_code == 404
    assert not (workspace.root / privacy.KEY).exists()


def test_streams_and_several_answers(client, workspace):
    with client.stream("POST", "/v1/chat/completions", json={
            "model": "tone", "messages": ASK, "stream": True, "n": 2, "max_tokens": 2, "user": "a"}) as reply:
        lines = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {")]
    id = lines[0]["id"]
    first, second = logged(workspace, 2)
    assert [first.id, second.id] == [id, f"{id}.1"]
    assert first.answer.text == second.answer.text == "The rate " and not first.answer.finished
    assert first.events == () == second.events
    shown = [second.id, id]
    assert feedback(client, second.id, ("select_variant", shown)).json()["stored"] == 1
    event, = interactions.interaction(workspace, second.id).events
    assert (event["type"], event["value"]) == ("select_variant", shown)


def test_a_reader_who_leaves_abandons(url, workspace, engine):
    engine.endless = True
    with httpx.stream("POST", f"{url}/v1/chat/completions", json={
            "model": "tone", "messages": ASK, "stream": True}, timeout=10) as reply:
        for line in reply.iter_lines():
            if "and on" in line:
                break
    found, = logged(workspace, 1)
    assert found.answer.text.startswith("and on") and not found.answer.finished
    assert [(e["type"], e["value"]) for e in found.events] == [("abandon", "disconnected")]


def test_an_error_or_the_time_limit_is_not_the_readers_doing(workspace, engine, keeper):
    engine.fail_after = 3
    app = create_app(workspace, lambda: engine, base="tiny", keeper=keeper, limits=Limits(seconds=0.3))
    with running(app) as url:
        for endless in (False, True):
            engine.endless = endless
            reply = httpx.post(f"{url}/v1/chat/completions", json={"model": "tone", "messages": ASK, "stream": True})
            assert '{"error":' in reply.text
    found = logged(workspace, 2)
    assert [i.answer.text[:6] for i in found] == ["The ra", "and on"] and [i.events for i in found] == [(), ()]
    assert not any(i.answer.finished for i in found)


def test_turns_and_new_answers_are_linked(client, workspace):
    first = chat(client, user="jo").json()["id"]
    second = chat(client, user="jo").json()["id"]
    third = chat(client, user="jo", messages=[*ASK, {"role": "assistant", "content": TEXT},
                                              {"role": "user", "content": "Why?"}]).json()["id"]
    logged(workspace, 3)
    events = {id: [(e["type"], e["value"]) for e in interactions.interaction(workspace, id).events]
              for id in (first, second, third)}
    assert events[first][0] == ("regenerate", second) and ("follow_up", third) in events[second]
    assert events[third] == []


def test_events_over_http(client, workspace):
    id = chat(client).json()["id"]
    done = feedback(client, id, ("thumb", 1), ("edit", "Write to jo@example.com"), ("copy", 0.4)).json()
    assert done["stored"] == 3  # at once, although the exchange waits to be stored
    assert feedback(client, id, ("thumb", 0)).json()["known"] == 1
    events = interactions.interaction(workspace, id).events
    assert [e["type"] for e in events] == ["thumb", "edit", "copy"] and "@" not in events[1]["value"]
    bad = feedback(client, id, ("thumb", 7))
    assert bad.status_code == 400 and "1 (up) or 0 (down)" in bad.json()["error"]["message"]
    for body in ("{}", '{"events": []}', '{"events": [{"completion": "x", "type": "thumb"}]}', '{"events": "x"}',
                 '{"events": [{"completion": "\\ud800", "type": "thumb", "value": 1, "id": "1"}]}'):
        reply = client.post("/v1/feedback", content=body, headers={"content-type": "application/json"})
        assert reply.status_code == 400, body


def test_feedback_needs_no_key_but_the_completion(workspace, engine, keeper):
    """A key would have to lie in the page for everybody to read."""
    from tunesmith.store import keys, team

    team.owner(workspace, "me")
    _, secret = keys.create_key(workspace, "me", "app", ("chat",), team.SHELL, 0)
    app = create_app(workspace, lambda: engine, base="tiny", keeper=keeper)
    with TestClient(app, base_url="http://127.0.0.1:8400") as client:
        assert chat(client).status_code == 401
        id = chat(client, headers={"authorization": f"Bearer {secret}"}).json()["id"]
        assert feedback(client, id, ("thumb", 1)).json()["stored"] == 1
    interactions.add(workspace, [Interaction("guess-1", (Message("user", "q"),), Answer("a"), source="langfuse")])
    with TestClient(app, base_url="http://127.0.0.1:8400") as client:
        assert feedback(client, "guess-1", ("thumb", 1)).json()["unknown"] == 1


def test_feedback_is_limited(workspace, engine, keeper, monkeypatch):
    monkeypatch.setattr(service, "PER_MINUTE", 3)
    app = create_app(workspace, lambda: engine, base="tiny", keeper=keeper)
    with TestClient(app, base_url="http://127.0.0.1:8400") as client:
        assert [feedback(client, "x", ("thumb", 1)).status_code for _ in range(4)] == [200, 200, 200, 429]


def test_pages_of_named_sites_may_send_feedback_and_nothing_else(anonymous):
    asked = {"origin": SITE, "access-control-request-method": "POST"}
    reply = anonymous.options("/v1/feedback", headers=asked)
    assert reply.status_code == 204 and reply.headers["access-control-allow-origin"] == SITE
    assert reply.headers["access-control-allow-headers"] == "content-type"
    sent = feedback(anonymous, "x", ("thumb", 1), origin=SITE, **{"sec-fetch-site": "cross-site"})
    assert sent.status_code == 200 and sent.headers["access-control-allow-origin"] == SITE
    for other in ("https://evil.example", "null", f"{SITE}.evil.example"):
        reply = feedback(anonymous, "x", ("thumb", 1), origin=other)
        assert reply.status_code == 403 and "access-control-allow-origin" not in reply.headers
    elsewhere = chat(anonymous, headers={"origin": SITE})
    assert elsewhere.status_code == 403 and "access-control-allow-origin" not in elsewhere.headers
    assert "access-control-allow-origin" not in anonymous.options("/v1/models", headers=asked).headers
    script = anonymous.get("/static/feedback.js")
    assert script.headers["cross-origin-resource-policy"] == "cross-origin"
    assert anonymous.get("/static/rank.js").headers["cross-origin-resource-policy"] == "same-origin"


def test_a_disk_that_is_full_stops_nobody_and_says_no_words(client, workspace, keeper, monkeypatch, caplog):
    def full(*_):
        raise StorageError("no space for 'What is the rate? I am jo@example.com'")

    monkeypatch.setattr(interactions, "add", full)
    assert chat(client).json()["choices"][0]["message"]["content"] == TEXT
    asyncio.run(keeper.stored())
    assert "1 exchanges could not be logged: StorageError" in caplog.text and "jo@" not in caplog.text
    assert 'tunesmith_interactions_total{outcome="dropped"} 1.0' in client.get("/metrics").text


def test_one_exchange_that_cannot_be_stored_does_not_take_others_along(client, workspace):
    replies = [chat(client), chat(client, messages=[*ASK, {"role": "assistant", "content": "Prefill"}]), chat(client)]
    assert [r.status_code for r in replies] == [200] * 3
    assert len(logged(workspace, 2)) == 2


def test_too_much_at_once_is_dropped_and_counted(workspace, monkeypatch):
    going = threading.Event()
    monkeypatch.setattr(interactions, "add", lambda *_: going.wait(10) and 0)
    monkeypatch.setattr(service, "BATCH", 1)
    keeper, counted = Log(workspace, waiting=2), []
    monkeypatch.setattr(keeper, "_count", lambda outcome, n: counted.append((outcome, n)))
    one = Interaction("c", (Message("user", "q"),), Answer("a"))
    begun = time.monotonic()
    for _ in range(20):
        keeper.put([one])
    assert time.monotonic() - begun < 1
    going.set()
    keeper.close()
    assert 16 <= counted.count(("dropped", 1)) <= 18


def test_what_is_over_goes_from_a_server_that_nobody_asks(workspace, app, monkeypatch):
    monkeypatch.setattr(service, "PURGE_EVERY", 0.1)
    with TestClient(app):
        for id in ("there when it starts", "over while it idles"):
            interactions.add(workspace, [Interaction(id, (Message("user", "q"),), Answer("a"), created="2020-01-01")],
                             Policy(days=1))
            for _ in range(200):
                if not list(interactions.interactions(workspace)):
                    break
                time.sleep(0.02)
            else:
                raise AssertionError(f"it is still there: {id}")


def test_a_request_that_is_given_up_does_not_end_the_log(workspace, keeper, monkeypatch):
    one, slow, add = Interaction("c1", (Message("user", "q"),), Answer("a")), threading.Event(), interactions.add
    monkeypatch.setattr(interactions, "add", lambda *given: slow.wait(10) and add(*given))

    async def given_up():
        keeper.put([one])
        waiting = asyncio.create_task(keeper.stored())
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(given_up())
    slow.set()
    assert len(logged(workspace, 1)) == 1
    keeper.put([replace(one, id="c2")])
    assert len(logged(workspace, 2)) == 2
    keeper.close()


def test_the_end_of_the_log_stores_all_that_came_before_and_counts_the_rest(workspace, keeper, monkeypatch):
    one, counted = Interaction("c1", (Message("user", "q"),), Answer("a")), []
    monkeypatch.setattr(keeper, "_count", lambda outcome, n: counted.append((outcome, n)))
    waiter = Future()
    for item in (None, [one], waiter):  # put by others while it was ending
        keeper._queue.put(item)
    keeper.start()
    keeper.close()
    keeper.put([replace(one, id="c2")])
    assert waiter.done() and counted == [("stored", 1), ("dropped", 1)]
    assert [i.id for i in interactions.interactions(workspace)] == ["c1"]


def test_what_waits_is_stored_at_the_end(workspace, engine, keeper):
    app = create_app(workspace, lambda: engine, base="tiny", keeper=keeper)
    with TestClient(app, base_url="http://127.0.0.1:8400") as client:
        ids = [chat(client).json()["id"] for _ in range(3)]
    assert [i.id for i in interactions.interactions(workspace)] == ids


def test_the_script_is_small():
    assert len((FOLDER / "feedback.js").read_bytes()) <= 2048


# ---- another server writes

def upstream(request):
    body = json.loads(request.content)
    head = {"id": "theirs", "model": "x", "created": 1}
    if request.url.path == "/v1/load_lora_adapter":
        return httpx.Response(200)
    if body.get("stream"):
        parts = [{"index": 0, "delta": {"content": w}, "finish_reason": None} for w in WORDS]
        parts.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        text = "".join(f"data: {json.dumps({**head, 'choices': [p]})}\n\n" for p in parts)
        return httpx.Response(200, text=text + "data: [DONE]\n\n")
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    used = {"prompt_tokens": 1, "completion_tokens": 5}
    return httpx.Response(200, json={**head, "choices": [choice], "usage": used})


@pytest.mark.parametrize("stream", [False, True])
def test_behind_a_gateway(workspace, keeper, stream):
    gateway = Gateway("vllm", "http://upstream", transport=httpx.MockTransport(upstream))
    app = create_app(workspace, lambda: None, base="tiny", keeper=keeper, gateway=gateway)
    with running(app) as url:
        reply = httpx.post(f"{url}/v1/chat/completions", json={"model": "tone", "messages": ASK, "stream": stream,
                                                               "user": "jo"}, timeout=10)
    found, = logged(workspace, 1)
    assert reply.status_code == 200 and f'"{found.id}"' in reply.text and "theirs" not in reply.text
    assert found.answer.text == TEXT and found.answer.model == "tone@2" and found.answer.finished
    assert "[EMAIL_" in found.messages[0].content
