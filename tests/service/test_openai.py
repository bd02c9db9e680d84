"""The API as the official client sees it, and the bytes on the wire where the client is too forgiving."""

import asyncio
import json
import time

import httpx
import openai
import pytest
from service_fakes import WORDS

from tunesmith.errors import ModelError, NotFound
from tunesmith.service.hub import Hub

ASK = [{"role": "user", "content": "What is the rate?"}]
TEXT = "".join(WORDS)


@pytest.fixture
def api(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=10) as api:
        yield api


def chat(client, **body):
    return client.post("/v1/chat/completions", json={"model": "tone", "messages": ASK, **body})


def test_models_are_the_base_and_every_policy_adapter(api):
    models = {m.id: m for m in api.models.list()}
    assert set(models) == {"tiny", "tone", "tone@1", "tone@2"}  # not the reward model
    assert models["tone"].created == models["tone@2"].created > 1.6e9 and models["tiny"].owned_by == "tunesmith"
    assert api.models.retrieve("tone@1").id == "tone@1"


def test_a_completion(api, engine):
    reply = api.chat.completions.create(model="tone", messages=ASK, temperature=0.5, top_p=0.9, seed=7)
    choice, = reply.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", TEXT, "stop")
    assert reply.model == "tone@2" and reply.object == "chat.completion" and reply.id.startswith("chatcmpl-")
    usage = reply.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4, 5, 9)
    prompt, sampling, n, model = engine.calls[-1]
    assert (prompt[0].content, n, model) == ("What is the rate?", 1, "tone@2")
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.9, 7)
    assert sampling.max_tokens == engine.context - 4


def test_the_base_has_its_own_name_and_adapters_load_once(api, engine):
    for model in ("tiny", "tone", "tone@2", "tone@1"):
        api.chat.completions.create(model=model, messages=ASK)
    assert [call[3] for call in engine.calls] == ["", "tone@2", "tone@2", "tone@1"]
    assert engine.loaded == ["tone@2", "tone@1"]


def test_n_answers_length_and_stop(api, engine):
    reply = api.chat.completions.create(model="tone", messages=ASK, n=2, max_tokens=2)
    assert [(c.index, c.message.content, c.finish_reason) for c in reply.choices] == [
        (0, "The rate ", "length"), (1, "The rate ", "length")]
    assert reply.usage.completion_tokens == 4
    reply = api.chat.completions.create(model="tone", messages=ASK, stop=["percent", "%"], max_completion_tokens=9)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("The rate is 7.5 ", "stop")
    assert engine.calls[-1][1].stop == ("percent", "%") and engine.calls[-1][1].max_tokens == 9
    api.chat.completions.create(model="tone", messages=ASK, stop="x")
    assert engine.calls[-1][1].stop == ("x",)


def test_logprobs_are_the_engines(api):
    reply = api.chat.completions.create(model="tone", messages=ASK, logprobs=True, top_logprobs=0)
    tokens = reply.choices[0].logprobs.content
    assert [(t.token, t.logprob) for t in tokens] == [(w, -0.5 - i) for i, w in enumerate(WORDS)]
    assert bytes(tokens[0].bytes) == b"The " and tokens[0].top_logprobs == []


def test_content_parts_developer_role_and_replies_sent_back(api, engine):
    first = api.chat.completions.create(model="tone", messages=ASK).choices[0].message
    api.chat.completions.create(model="tone", messages=[
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        first.model_dump(), {"role": "user", "content": "And?"}])
    assert [(m.role, m.content) for m in engine.calls[-1][0]] == [
        ("system", "Be kind."), ("user", "one\ntwo"), ("assistant", TEXT), ("user", "And?")]


def test_streaming(api):
    with api.chat.completions.create(model="tone", messages=ASK, stream=True, logprobs=True,
                                     stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == TEXT
    assert len(chunks) > 5  # pieces, not one lump
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert sum(len(c.choices[0].logprobs.content) for c in chunks[:-1] if c.choices[0].logprobs) == 5
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 9
    assert {c.id for c in chunks} == {chunks[0].id} and {c.model for c in chunks} == {"tone@2"}


def test_streaming_several_answers(api, engine):
    texts = ["", ""]
    for chunk in api.chat.completions.create(model="tone", messages=ASK, stream=True, n=2, seed=5):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [TEXT, TEXT]
    assert [call[1].seed for call in engine.calls] == [5, 6]


def test_the_async_client(url):
    async def talk():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as api:
            stream = await api.chat.completions.create(model="tone", messages=ASK, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(talk()) == TEXT


def test_server_sent_events_on_the_wire(client):
    answer = chat(client, stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = answer.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    first, *_, usage = [json.loads(f.removeprefix("data: ")) for f in frames[:-2]]
    assert first["object"] == "chat.completion.chunk" and first["usage"] is None
    assert set(first["choices"][0]) == {"index", "delta", "logprobs", "finish_reason"}
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 5


def test_an_error_after_the_headers_is_a_frame(api, engine, client):
    engine.fail_after = 2
    with pytest.raises(openai.APIError, match="inside the server"):
        list(api.chat.completions.create(model="tone", messages=ASK, stream=True))
    text = chat(client, stream=True).text
    assert '"type":"server_error"' in text and "[DONE]" not in text and "on fire" not in text


def test_a_client_that_leaves_stops_the_generation(url, engine):
    engine.endless = True
    with httpx.stream("POST", f"{url}/v1/chat/completions", timeout=10,
                      json={"model": "tone", "messages": ASK, "stream": True}) as answer:
        for line in answer.iter_lines():
            if "and on" in line:
                break
    assert engine.stopped.wait(5)
    written = engine.written
    time.sleep(0.1)
    assert engine.written == written
    engine.endless = False
    again = httpx.post(f"{url}/v1/chat/completions", json={"model": "tone", "messages": ASK}, timeout=5)
    assert again.status_code == 200


def test_pages_answer_while_the_engine_writes(url, engine):
    engine.endless = True
    with httpx.stream("POST", f"{url}/v1/chat/completions", timeout=10,
                      json={"model": "tone", "messages": ASK, "stream": True}) as answer:
        lines = answer.iter_lines()  # held: letting go of it would close the stream
        next(line for line in lines if "and on" in line)
        assert httpx.get(f"{url}/signin", timeout=2).status_code == 200
        assert httpx.get(f"{url}/v1/models", timeout=2).status_code == 200
    assert {name.startswith("engine") for name in engine.threads} == {True}  # one thread touches the engine
    assert len(engine.threads) == 1


def test_errors_as_the_client_raises_them(api):
    with pytest.raises(openai.NotFoundError) as e:
        api.chat.completions.create(model="tome", messages=ASK)
    assert e.value.code == "model_not_found" and e.value.param == "model" and 'did you mean "tone"' in e.value.message
    assert e.value.request_id.startswith("req_")
    with pytest.raises(openai.NotFoundError):
        api.models.retrieve("nope")
    with pytest.raises(openai.NotFoundError) as e:
        api.embeddings.create(model="tone", input="x")
    assert e.value.type == "invalid_request_error" and "/v1/embeddings" in e.value.message
    with pytest.raises(openai.BadRequestError) as e:
        api.chat.completions.create(model="tone", messages=[{"role": "user", "content": "word " * 64}])
    assert e.value.code == "context_length_exceeded" and "64 tokens" in e.value.message
    with pytest.raises(openai.BadRequestError) as e:
        api.chat.completions.create(model="tone", messages=ASK, max_tokens=61)
    assert e.value.code == "context_length_exceeded"
    api.chat.completions.create(model="tone", messages=ASK, max_tokens=60)


@pytest.mark.parametrize("body, param, code", [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
    ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
    ({"logit_bias": {"5": 10}}, "logit_bias", "unsupported_parameter"),
    ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
    ({"top_logprobs": 3}, "top_logprobs", "unsupported_parameter"),
    ({"store": True}, "store", "unsupported_parameter"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
    ({"top_k": 5}, "top_k", "unknown_parameter"),
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"temperature": "hot"}, "temperature", "invalid_value"),
    ({"temperature": True}, "temperature", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
    ({"stop": [""]}, "stop[0]", "invalid_value"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_value"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
     "messages[0].content[0].type", "invalid_value"),
    ({"messages": [{"role": "user", "content": "x", "name": "Bo"}]}, "messages[0].name", "unknown_parameter"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"model": None}, "model", "invalid_value"),
])
def test_what_cannot_be_honoured_is_a_400_that_names_it(client, engine, body, param, code):
    answer = chat(client, **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code), error
    assert error["type"] == "invalid_request_error" and set(error) == {"message", "type", "param", "code"}
    assert param.split("[")[0] in error["message"] and engine.calls == []


def test_what_changes_nothing_is_accepted(client):
    answer = chat(client, user="u", metadata={"a": "b"}, store=False, tools=None, tool_choice="none", logit_bias={},
                  response_format={"type": "text"}, frequency_penalty=0, presence_penalty=0.0, top_logprobs=None,
                  service_tier="auto", parallel_tool_calls=True, stop=None, seed=None, n=None, logprobs=False)
    assert answer.status_code == 200
    assert client.post("/v1/chat/completions", json={"model": "tone", "messages": ASK},
                       headers={"authorization": "Bearer sk-whatever"}).status_code == 200


def test_missing_parameter_unknown_route_and_wrong_method_have_openai_bodies(client):
    missing = client.post("/v1/chat/completions", json={"model": "tone"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (400, "missing_required_parameter")
    for method, path, status in [("GET", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405),
                                 ("DELETE", "/v1/models", 405)]:
        answer = client.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"} and path in answer.text


def test_without_a_seed_two_requests_differ(client, engine):
    chat(client)
    chat(client)
    assert engine.calls[0][1].seed != engine.calls[1][1].seed


def test_the_engine_is_built_on_the_first_request_that_needs_it(workspace):
    from starlette.testclient import TestClient

    from tunesmith.service import create_app

    built = []

    def make():
        built.append(1)
        raise ModelError("no base here")

    with TestClient(create_app(workspace, make, base="tiny"), base_url="http://127.0.0.1") as client:
        assert client.get("/v1/models").status_code == 200 and client.get("/").status_code == 200 and not built
        answer = chat(client)
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "no base here") and built


def test_without_an_engine_v1_says_how_to_get_it(workspace):
    from starlette.testclient import TestClient

    from tunesmith.service import create_app

    with TestClient(create_app(workspace), base_url="http://127.0.0.1") as client:
        answer = client.get("/v1/models")
        assert answer.status_code == 404 and "tunesmith serve" in answer.json()["error"]["message"]


def test_adapters_of_another_base_are_not_offered(workspace, engine):
    hub = Hub(workspace, lambda: engine, base="other")
    assert set(hub.cards()) == {"other"}
    with pytest.raises(NotFound):
        hub.card("tone")
    hub.close()


def test_too_many_waiting_requests_are_told_to_come_back(url, engine, monkeypatch):
    monkeypatch.setattr("tunesmith.service.hub.WAITING", 1)
    engine.endless = True
    body = {"model": "tone", "messages": ASK}
    with httpx.stream("POST", f"{url}/v1/chat/completions", timeout=10, json={**body, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if "and on" in line)
        refused = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=5)
    assert refused.status_code == 429 and refused.json()["error"]["code"] == "rate_limit_exceeded"
