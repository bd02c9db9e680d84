"""The same API in front of another server: names, adapters handed over, refusals, streams, guard. The servers are fakes
that speak as vLLM and llama.cpp do; `test_gateway_real.py` has the real ones."""

import json

import httpx
import openai
import pytest
from service_fakes import running
from starlette.testclient import TestClient

from tunesmith.errors import UserError
from tunesmith.service import create_app, guard
from tunesmith.service.gateway import Gateway, gateway

ASK = [{"role": "user", "content": "What is the rate?"}]


class Behind:
    """A server of one kind; notes what it is sent."""

    def __init__(self, kind):
        self.kind, self.got, self.loras, self.fail = kind, [], {}, None
        self.gguf = [{"id": 0, "path": "/models/tone@1.gguf", "scale": 0.0},
                     {"id": 1, "path": "/models/tone@2.gguf", "scale": 0.0}]

    def __call__(self, request):
        path = request.url.path
        body = json.loads(request.content) if request.content else {}
        self.got.append((path, body))
        if path == "/v1/models":
            names = [{"id": "base-7b", "parent": None}, *({"id": n, "parent": "base-7b"} for n in self.loras)]
            return httpx.Response(200, json={"object": "list", "data": names})
        if path == "/lora-adapters":
            return httpx.Response(200, json=self.gguf) if self.kind == "llamacpp" else httpx.Response(404)
        if path == "/v1/load_lora_adapter":
            if body["lora_name"] in self.loras:
                return httpx.Response(400, json={"error": {"message": "it has already been loaded.", "type":
                                                           "InvalidUserInput", "param": None, "code": 400}})
            self.loras[body["lora_name"]] = body["lora_path"]
            return httpx.Response(200, text="Success")
        if self.fail:
            return self.fail
        if self.kind == "vllm" and body["model"] not in ("base-7b", *self.loras):
            return httpx.Response(404, json={"error": {"message": "The model does not exist.", "type": "NotFoundError",
                                                       "param": "model", "code": 404}})
        return self.answer(body)

    def answer(self, body):
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body.get("model", "m.gguf")}
        usage = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
        if body.get("stream"):
            frames = [{**head, "choices": [{"index": 0, "delta": {"content": t}, "finish_reason": None}]}
                      for t in ("7.5 ", "percent")] + [{**head, "choices": [], "usage": usage}]
            text = ": ping\n\n" + "".join(f"data: {json.dumps(f)}\n\n" for f in frames) + "data: [DONE]\n\n"
            return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})
        content = [{"token": t, "bytes": None, "logprob": -1.0, "top_logprobs": []} for t in ("7.5 ", "percent")]
        choice = {"message": {"role": "assistant", "content": "7.5 percent"}, "finish_reason": "stop",
                  "logprobs": {"content": content} if body.get("logprobs") else None}
        choices = [{"index": i, **choice} for i in range(body.get("n", 1))]
        return httpx.Response(200, json={**head, "choices": choices, "usage": usage})


@pytest.fixture(params=["vllm", "llamacpp"])
def behind(request):
    return Behind(request.param)


def app_of(workspace, engine, behind, **more):
    made = Gateway(behind.kind, "http://127.0.0.1:9", transport=httpx.MockTransport(behind))
    return create_app(workspace, lambda: engine, base="tiny", gateway=made, **more)


@pytest.fixture
def api(workspace, engine, behind):
    with running(app_of(workspace, engine, behind)) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=10) as api:
            yield api


def test_requests_go_on_under_the_names_of_the_other_server(api, behind, workspace, engine):
    reply = api.chat.completions.create(model="tone", messages=ASK, temperature=0.5, extra_body={"top_k": 5})
    assert (reply.choices[0].message.content, reply.model) == ("7.5 percent", "tone@2")
    path, sent = behind.got[-1]
    assert (path, sent["messages"], sent["temperature"], sent["top_k"]) == ("/v1/chat/completions", ASK, 0.5, 5)
    if behind.kind == "vllm":
        assert sent["model"] == "tone@2"
        assert behind.loras == {"tone@2": str((workspace.root / "adapters/tone/2").resolve())}
    else:
        assert sent["lora"] == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]
    assert api.chat.completions.create(model="tiny", messages=ASK).model == "tiny"
    sent = behind.got[-1][1]
    assert sent["model"] == "base-7b" if behind.kind == "vllm" else {s["scale"] for s in sent["lora"]} == {0.0}
    assert {m.id for m in api.models.list()} == {"tiny", "tone", "tone@1", "tone@2"}
    assert api.completions.create(model="tone@1", prompt="The rate").model == "tone@1"
    assert behind.got[-1][0] == "/v1/completions"
    loads = [p for p, _ in behind.got if p == "/v1/load_lora_adapter"]
    assert len(loads) == (2 if behind.kind == "vllm" else 0) and engine.calls == []


def test_streams_are_passed_on(api, behind):
    chunks = list(api.chat.completions.create(model="tone", messages=ASK, stream=True))
    assert "".join(c.choices[0].delta.content for c in chunks if c.choices) == "7.5 percent"
    assert {c.model for c in chunks} == {"tone@2"} and chunks[-1].usage.completion_tokens == 2


def test_an_adapter_that_the_other_server_has_forgotten_is_handed_over_again(workspace, engine):
    behind = Behind("vllm")
    with TestClient(app_of(workspace, engine, behind), base_url="http://127.0.0.1") as client:
        for _ in range(2):
            assert client.post("/v1/chat/completions", json={"model": "tone", "messages": ASK}).status_code == 200
            behind.loras.clear()  # it was started anew
        assert len([p for p, _ in behind.got if p == "/v1/load_lora_adapter"]) == 2
        behind.loras["tone@1"] = "elsewhere"
        assert client.post("/v1/chat/completions", json={"model": "tone@1", "messages": ASK}).status_code == 200
        metrics = client.get("/metrics").text
        assert 'tunesmith_tokens_total{kind="completion",model="tone@2"} 4.0' in metrics


def test_what_llama_cpp_was_not_started_with_is_named(workspace, engine):
    behind = Behind("llamacpp")
    behind.gguf = []
    with TestClient(app_of(workspace, engine, behind), base_url="http://127.0.0.1") as client:
        answer = client.post("/v1/chat/completions", json={"model": "tone", "messages": ASK})
        error = answer.json()["error"]
        assert answer.status_code == 404 and error["code"] == "model_not_found"
        assert "adapters export tone@2 --format gguf-lora" in error["message"]


def test_a_llama_cpp_that_goes_by_names_is_asked_for_them(workspace, engine):
    behind = Behind("named")
    behind.loras["tone@2"] = "x"
    made = Gateway("llamacpp", "http://127.0.0.1:9", transport=httpx.MockTransport(behind))
    with TestClient(create_app(workspace, lambda: engine, base="tiny", gateway=made),
                    base_url="http://127.0.0.1") as client:
        for model, sent, status in (("tone", "tone@2", 200), ("tiny", "base-7b", 200), ("tone@1", "", 404)):
            answer = client.post("/v1/chat/completions", json={"model": model, "messages": ASK})
            assert answer.status_code == status and (status != 200 or behind.got[-1][1]["model"] == sent)


@pytest.mark.parametrize("reply, status, kind, message", [
    (httpx.Response(400, json={"error": {"message": "too long", "type": "BadRequestError", "param": "messages",
                                         "code": 400}}), 400, "invalid_request_error", "too long"),
    (httpx.Response(422, json={"detail": "no such field"}), 422, "invalid_request_error", "no such field"),
    (httpx.Response(429, json={"error": "slow down"}, headers={"retry-after": "7"}), 429, "invalid_request_error",
     "slow down"),
    (httpx.Response(500, text="<html>"), 502, "server_error", "it answered 500"),
    (httpx.Response(200, text="not JSON"), 502, "server_error", "did not answer with JSON"),
    (httpx.Response(200, json=[1]), 502, "server_error", "OpenAI-compatible"),
])
def test_its_refusals_and_failures_have_openais_bodies(workspace, engine, reply, status, kind, message):
    behind = Behind("vllm")
    behind.fail = reply
    with TestClient(app_of(workspace, engine, behind), base_url="http://127.0.0.1") as client:
        answer = client.post("/v1/chat/completions", json={"model": "tiny", "messages": ASK})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (status, kind) and message in error["message"]
        assert set(error) == {"message", "type", "param", "code"}
        assert answer.headers.get("retry-after") == ("7" if status == 429 else None)


def test_a_server_that_is_not_there_is_a_bad_gateway(workspace, engine):
    made = gateway("vllm=http://127.0.0.1:9/v1")  # nothing listens on port 9
    assert made.url == "http://127.0.0.1:9"
    with TestClient(create_app(workspace, lambda: engine, base="tiny", gateway=made),
                    base_url="http://127.0.0.1") as client:
        answer = client.post("/v1/chat/completions", json={"model": "tone", "messages": ASK})
        assert answer.status_code == 502 and "does not answer" in answer.json()["error"]["message"]
        for body, param in (({"messages": ASK}, "model"), ({"model": "tome", "messages": ASK}, "model")):
            assert client.post("/v1/chat/completions", json=body).json()["error"]["param"] == param


def test_the_guard_stands_in_front_of_it(workspace, engine, tmp_path, behind):
    path = tmp_path / "guard.toml"
    path.write_text('[[route]]\nmodels = ["tone@2"]\nreply = "No."\nuncertainty = "logprob"\nmost_uncertain = 0.5\n'
                    '[[route]]\nmodels = ["tone@1"]\nreply = "No."\nuncertainty = "disagreement"\n'
                    "most_uncertain = 0.5\nsamples = 3\n")
    app = app_of(workspace, engine, behind, guard=guard.load(path, workspace))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        def ask(model, **more):
            return client.post("/v1/chat/completions", json={"model": model, "messages": ASK, **more})

        assert ask("tone@2").json()["choices"][0]["message"]["content"] == "No."
        assert behind.got[-1][1]["logprobs"] is True
        streamed = ask("tone@2", stream=True).text
        assert '"content":"No."' in streamed and "7.5" not in streamed and "stream" not in behind.got[-1][1]
        alike = ask("tone@1").json()
        assert [c["message"]["content"] for c in alike["choices"]] == ["7.5 percent"] and behind.got[-1][1]["n"] == 3
        assert alike["choices"][0]["logprobs"] is None
        refused = client.post("/v1/completions", json={"model": "tone@2", "prompt": "x"})
        assert refused.status_code == 400 and "guarded" in refused.json()["error"]["message"]


@pytest.mark.parametrize("engine", ["sglang=http://x", "vllm", "vllm=", "vllm=x", "llamacpp=http://u:p@h/"])
def test_an_engine_that_is_none_is_refused(engine):
    with pytest.raises(UserError, match=r"vllm=URL|address|plain"):
        gateway(engine)
