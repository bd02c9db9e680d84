"""The API as the official client sees it, and the bytes on the wire where the client is too forgiving."""

import asyncio
import json
import time
from dataclasses import replace

import httpx
import openai
import pydantic
import pytest
from service_fakes import WORDS, running

from tunesmith.errors import ModelError, NotFound
from tunesmith.service import create_app
from tunesmith.service.hub import Hub, Limits
from tunesmith.store import keys, loops

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
    (_, sampling, n, _), = engine.calls  # one request: the prompt is read once
    assert (sampling.seed, n) == (5, 2)


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
    ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
    ({"logit_bias": {"five": 1}}, "logit_bias.five.[key]", "invalid_value"),
    ({"frequency_penalty": 2.5}, "frequency_penalty", "invalid_value"),
    ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "invalid_value"),
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


def test_too_many_waiting_requests_are_told_to_come_back(workspace, engine):
    """All places, and half of them for one model: a busy customer leaves some to the others."""
    engine.endless = True
    body = {"model": "tone", "messages": ASK}
    with running(create_app(workspace, lambda: engine, base="tiny", limits=Limits(requests=4))) as url:
        def held(model):
            return httpx.stream("POST", f"{url}/v1/chat/completions", timeout=10,
                                json={**body, "model": model, "stream": True})

        with held("tone"), held("tone@2"):
            refused = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=5)
            assert refused.status_code == 429 and refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert "for tone@2" in refused.text and float(refused.headers["retry-after"]) > 0
            with held("tiny"), held("tone@1"):
                full = httpx.post(f"{url}/v1/chat/completions", json={**body, "model": "tiny"}, timeout=5)
                assert full.status_code == 429 and "4 requests are waiting" in full.text
        engine.endless = None
        assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=5).status_code == 200


def test_an_answer_that_takes_too_long_is_given_up(workspace, engine):
    engine.endless = True
    with running(create_app(workspace, lambda: engine, base="tiny", limits=Limits(seconds=0.2))) as url:
        late = httpx.post(f"{url}/v1/chat/completions", json={"model": "tone", "messages": ASK}, timeout=5)
        assert (late.status_code, late.json()["error"]["type"]) == (503, "server_error") and not engine.jobs
        text = httpx.post(f"{url}/v1/chat/completions", json={"model": "tone", "messages": ASK, "stream": True},
                          timeout=5).text
        assert "longer than 0 s" in text and "[DONE]" not in text and not engine.jobs


def test_whoever_leaves_without_streaming_frees_the_place_too(url, engine):
    engine.endless = True
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/chat/completions", json={"model": "tone", "messages": ASK}, timeout=0.3)
    assert engine.stopped.wait(5) and not engine.jobs


def test_what_failed_for_one_hurts_nobody_else(url, engine, workspace):
    """An adapter whose files are damaged, beside one that works."""
    (workspace.adapter("tone@1").path / "adapter_config.json").write_text("changed")
    bad = httpx.post(f"{url}/v1/chat/completions", json={"model": "tone@1", "messages": ASK}, timeout=5)
    good = httpx.post(f"{url}/v1/chat/completions", json={"model": "tone@2", "messages": ASK}, timeout=5)
    assert (bad.status_code, good.status_code) == (400, 200) and "damaged" in bad.json()["error"]["message"]


def test_a_new_version_is_used_at_once_and_a_deleted_one_finishes(url, engine, workspace):
    engine.endless = True
    body = {"model": "tone", "messages": ASK, "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=10) as old:
        lines = old.iter_lines()
        first = next(line for line in lines if "and on" in line)
        workspace.publish_adapter("tone", "policy", {"spec": "tiny", "hash": "0"},
                                  lambda folder: (folder / "adapter_config.json").write_text("{}") and None, {})
        engine.endless = None
        new = httpx.post(f"{url}/v1/chat/completions", json={"model": "tone", "messages": ASK}, timeout=5).json()
        rest = list(lines)
    assert '"model":"tone@2"' in first and new["model"] == "tone@3"
    assert rest[-2] == "data: [DONE]" and '"model":"tone@2"' in rest[-4]


def strictly(kind, value):
    """The client's own type, in pydantic's strict mode, and no field that it does not have."""
    made = kind.model_validate_json(json.dumps(value), strict=True)

    def extra(model, path):
        assert not model.model_extra, (path, model.model_extra)
        for name in type(model).model_fields:
            found = getattr(model, name)
            for part in found if isinstance(found, list) else [found]:
                if isinstance(part, pydantic.BaseModel):
                    extra(part, f"{path}.{name}")

    extra(made, kind.__name__)
    return made


def test_every_body_is_what_the_clients_types_say(client):
    types = openai.types
    plain = {"model": "tone", "messages": ASK, "logprobs": True, "top_logprobs": 2, "n": 2}
    made = strictly(types.chat.ChatCompletion, chat(client, **plain).json())
    assert [len(t.top_logprobs) for t in made.choices[1].logprobs.content] == [2] * 5
    strictly(types.chat.ChatCompletion, chat(client).json())
    for more in ({}, {"logprobs": True, "top_logprobs": 2, "n": 2, "stream_options": {"include_usage": True}}):
        frames = chat(client, stream=True, **more).text.split("\n\n")[:-2]
        chunks = [strictly(types.chat.ChatCompletionChunk, json.loads(f.removeprefix("data: "))) for f in frames]
        assert chunks[0].system_fingerprint == made.system_fingerprint and bool(chunks[-1].usage) == bool(more)
    listed = client.get("/v1/models").json()
    assert set(listed) == {"object", "data"} and [strictly(types.Model, m) for m in listed["data"]]
    strictly(types.Completion, complete(client, prompt="a b", logprobs=2, max_tokens=3, n=2).json())
    streamed = complete(client, prompt="a b", stream=True).text
    *chunks, last = [json.loads(f.removeprefix("data: ")) for f in streamed.split("\n\n")[:-2]]
    strictly(types.Completion, last)
    for chunk in chunks:  # the type knows no null here; OpenAI sends one until the end
        assert chunk["choices"][0].pop("finish_reason") is None
        chunk["choices"][0]["finish_reason"] = "stop"
        strictly(types.Completion, chunk)


def test_logprobs_come_with_their_pieces(api):
    stream = api.chat.completions.create(model="tone", messages=ASK, stream=True, logprobs=True, top_logprobs=2)
    chunks = [c.choices[0] for c in stream if c.choices[0].logprobs]
    assert len(chunks) > 2
    tokens = [t for c in chunks for t in c.logprobs.content]
    assert [t.token for t in tokens] == WORDS and [a.token for a in tokens[0].top_logprobs] == WORDS[:2]


def test_penalties_and_biases_reach_the_engine(client, engine):
    chat(client, presence_penalty=0.5, frequency_penalty=-1, logit_bias={"5": 10, "77": -100.0})
    sampling = engine.calls[-1][1]
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -1)
    assert sampling.logit_bias == ((5, 10), (77, -100.0)) and sampling.alternatives == 0


def test_a_quiet_stream_is_kept_open(client, engine, monkeypatch):
    monkeypatch.setattr("tunesmith.service.wire.PULSE", 0.02)
    plain, engine.step = engine.step, lambda: (time.sleep(0.1), plain())[1]
    assert ": still at it" in chat(client, stream=True).text


def test_metrics_count_what_was_done(client, engine):
    chat(client)
    chat(client, model="tiny", stream=True)
    lines = client.get("/metrics").text.splitlines()
    for line in ('requests_total{model="tone@2"} 1.0', 'tokens_total{kind="completion",model="tone@2"} 5.0',
                 'tokens_total{kind="prompt",model="tiny"} 4.0', "time_to_first_token_seconds_count 1.0",
                 "adapter_load_seconds_count 1.0", "request_seconds_count 2.0"):
        line = f"tunesmith_{line}"
        assert line in lines, line


def test_metrics_need_a_key_once_there_are_any(client, workspace):
    _, secret = keys.create_key(workspace, "me", "scraper", ["read"], "me")
    _, talker = keys.create_key(workspace, "me", "talker", ["chat"], "me")
    got = [client.get("/metrics", headers={"authorization": f"Bearer {key}"} if key else {}).status_code
           for key in ("", talker, secret)]
    assert got == [401, 403, 200]


# ---- text completions

def complete(client, **body):
    return client.post("/v1/completions", json={"model": "tone", **body})


def test_text_completions(api, engine):
    made = api.completions.create(model="tone", prompt="The rate", max_tokens=2, seed=3, stop=["x"], temperature=0)
    choice = made.choices[0]
    assert (made.object, choice.text, choice.finish_reason) == ("text_completion", "The rate ", "length")
    assert made.id.startswith("cmpl-") and made.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
    assert engine.calls[-1][0] == "The rate" and engine.calls[-1][1].temperature == 0
    assert api.completions.create(model="tone", prompt="x").choices[0].finish_reason == "stop"
    assert engine.calls[-1][1].max_tokens == 16  # OpenAI's default
    assert api.completions.create(model="tone", prompt=[5, 6, 7]).usage.prompt_tokens == 3
    assert engine.calls[-1][0] == (5, 6, 7)


def test_several_prompts_and_several_answers(api):
    for prompt in (["a", "b c"], [[1], [2, 3]]):
        made = api.completions.create(model="tone", prompt=prompt, n=2)
        assert [c.index for c in made.choices] == [0, 1, 2, 3] and made.usage.prompt_tokens == 3
        assert made.usage.completion_tokens == 20


def test_echo_and_logprobs(api):
    made = api.completions.create(model="tone", prompt=[5, 6], logprobs=2, echo=True, max_tokens=2).choices[0]
    assert made.text == "t5 t6 The rate "
    found = made.logprobs
    assert found.tokens == ["t5 ", "t6 ", "The ", "rate "] and found.token_logprobs == [None, -2.0, -0.5, -1.5]
    assert found.text_offset == [0, 3, 6, 10] and found.top_logprobs[0] is None and len(found.top_logprobs[3]) == 2
    scored = api.completions.create(model="tone", prompt="a b", logprobs=1, echo=True, max_tokens=0)
    assert scored.choices[0].text == "a b" and scored.usage.completion_tokens == 0
    assert len(scored.choices[0].logprobs.tokens) == 2 and scored.choices[0].finish_reason == "length"


def test_the_best_of_several_is_the_likeliest(client, engine, monkeypatch):
    plain = engine._next

    def unlike(job, index):
        item = plain(job, index)
        return replace(item, text=f"{index}", tokens=tuple(replace(t, logprob=-abs(2.0 - index)) for t in item.tokens))

    monkeypatch.setattr(engine, "_next", unlike)
    made = complete(client, prompt="a", n=2, best_of=4).json()
    assert [c["text"] for c in made["choices"]] == ["2", "1"] and made["usage"]["completion_tokens"] == 20


def test_streamed_text(client):
    frames = complete(client, prompt="a b", stream=True, echo=True, logprobs=0,
                      stream_options={"include_usage": True}).text.split("\n\n")
    assert frames[-2] == "data: [DONE]"
    *chunks, last = [json.loads(f.removeprefix("data: ")) for f in frames[:-2]]
    assert "".join(c["choices"][0]["text"] for c in chunks) == f"a b{TEXT}" and len(chunks) > 4
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 5 and chunks[0]["usage"] is None
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    offsets = [o for c in chunks for o in c["choices"][0]["logprobs"]["text_offset"]]
    assert offsets == sorted(offsets) and len(offsets) == 7


@pytest.mark.parametrize("body, param, code", [
    ({"suffix": "end"}, "suffix", "unsupported_parameter"),
    ({"best_of": 1, "n": 2}, "best_of", "invalid_value"),
    ({"best_of": 3, "stream": True}, "best_of", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"logprobs": 6}, "logprobs", "invalid_value"),
    ({"prompt": ["a", "b"], "stream": True}, "prompt", "unsupported_parameter"),
    ({"prompt": []}, "prompt", "invalid_value"),
    ({"prompt": ""}, "prompt", "invalid_value"),
    ({"prompt": [5000]}, "prompt", "invalid_value"),
    ({"prompt": None}, "prompt", "invalid_value"),
    ({"tools": [1]}, "tools", "unknown_parameter"),
])
def test_text_completions_refuse_what_they_cannot(client, engine, body, param, code):
    answer = complete(client, **{"prompt": "a", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code), error
    assert set(error) == {"message", "type", "param", "code"} and engine.calls == []


def test_the_name_of_a_loop_is_what_it_has_adopted(client, workspace):
    found = loops.begin(workspace, "front-desk", "tone@1", {"challenger": 0.5})
    ask = {"model": "front-desk", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    assert client.post("/v1/chat/completions", json=ask).json()["model"] == "tone@1"
    assert "front-desk" in {m["id"] for m in client.get("/v1/models").json()["data"]}
    for step, made in (("ppo", {"adapter": "tone@2"}), ("evaluate", {"passed": True})):
        found = loops.record(workspace, found, step, made)
    loops.wait(workspace, found, "a yes")
    met = [client.post("/v1/chat/completions", json={**ask, "user": f"user {n}"}).json()["model"]
           for n in (*range(16), *range(16))]
    assert set(met) == {"tone@1", "tone@2"} and met[:16] == met[16:]
