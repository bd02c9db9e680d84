"""The graders API as the official client sees it, and whom model graders may ask."""

import json

import httpx
import openai
import pytest
from endpoint_fake import endpoint, reply
from openai.types.fine_tuning.alpha import GraderRunResponse
from service_fakes import WORDS

from tunesmith.feedback.expressions import Ungraded
from tunesmith.feedback.grading import ERRORS, Question
from tunesmith.records import Message
from tunesmith.service import graders
from tunesmith.service.graders import RemoteModel
from tunesmith.service.outbound import LISTED, Policy
from tunesmith.store import keys
from tunesmith.store.endpoints import Endpoint, add_endpoint

EXACT = {"type": "string_check", "name": "exact", "operation": "eq", "input": "{{sample.output_text}}",
         "reference": "{{item.answer}}"}
JUDGE = {"type": "score_model", "name": "judge", "model": "gpt-judge", "range": [0, 5],
         "input": [{"role": "user", "content": "{{item.answer}} or {{sample.output_text}}?"}],
         "sampling_params": {"max_completions_tokens": 50, "temperature": 0}}
MULTI = {"type": "multi", "name": "both", "graders": {"exact": EXACT, "loose": {**EXACT, "operation": "ilike"}},
         "calculate_output": "0.75 * exact + 0.25 * loose"}


@pytest.fixture
def api(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=10) as api:
        yield api.fine_tuning.alpha.graders


@pytest.fixture
def judged(workspace, monkeypatch):
    """A running server that answers for `gpt-judge`, known to the workspace as `judges`."""
    with endpoint() as server:
        monkeypatch.setenv(LISTED, f"127.0.0.1:{server.port}")
        monkeypatch.setattr("tunesmith.service.graders.time.sleep", lambda seconds: None)
        add_endpoint(workspace, Endpoint("judges", f"http://127.0.0.1:{server.port}/v1", "gpt-judge"), "me")
        server.say = lambda handler: handler.json({**reply('{"steps": [], "result": 4}'), "model": "gpt-judge-2026",
                                                   "usage": {"total_tokens": 31}})
        yield server


def test_run_and_validate_with_the_official_client(api):
    for grader in (EXACT, MULTI, {**EXACT, "type": "text_similarity", "evaluation_metric": "fuzzy_match"}):
        grader = {k: v for k, v in grader.items() if not (grader["type"] == "text_similarity" and k == "operation")}
        validated = api.validate(grader=grader).grader
        assert (validated.type, validated.name) == (grader["type"], grader["name"])
    ran = api.run(grader=EXACT, item={"answer": "Paris"}, model_sample="Paris")
    assert (ran.reward, ran.sub_rewards, ran.api_model_grader_token_usage_per_model) == (1.0, {}, {})
    about = ran.metadata
    assert (about.name, about.type, about.scores) == ("exact", "string_check", {"exact": 1.0})
    assert about.token_usage is None and about.sampled_model_name is None and 0 <= about.execution_time < 5
    assert not any(about.errors.to_dict().values())
    ran = api.run(grader=MULTI, item={"answer": "Paris"}, model_sample="It is PARIS")
    assert ran.reward == 0.25 and ran.sub_rewards == ran.metadata.scores == {"exact": 0, "loose": 1}


def test_the_body_has_every_field_of_openais(client):
    body = {"grader": EXACT, "model_sample": "x", "item": {"answer": "y"}}
    found = client.post("/v1/fine_tuning/alpha/graders/run", json=body).json()
    GraderRunResponse.model_validate(found, strict=True)
    assert set(found) == {"reward", "metadata", "sub_rewards", "model_grader_token_usage_per_model"}
    assert set(found["metadata"]) == {"name", "type", "errors", "execution_time", "scores", "token_usage",
                                      "sampled_model_name"}
    details = {"python_grader_server_error_type", "python_grader_runtime_error_details",
               "model_grader_server_error_details"}
    assert set(found["metadata"]["errors"]) == {*ERRORS, *details} and len(ERRORS) + len(details) == 14
    assert client.post("/v1/fine_tuning/alpha/graders/validate", json={"grader": EXACT}).json() == {"grader": EXACT}


def test_a_sample_that_cannot_be_graded_says_so_and_earns_nothing(api):
    ran = api.run(grader={**EXACT, "input": "{{sample.output_json.a}}"}, item={"answer": "x"}, model_sample="no json")
    assert ran.reward == 0 and ran.metadata.errors.sample_parse_error and not ran.metadata.errors.other_error
    ran = api.run(grader=EXACT, model_sample="x")
    assert ran.reward == 0 and ran.metadata.errors.invalid_variable_error
    ran = api.run(grader={**MULTI, "calculate_output": "exact / 0"}, item={"answer": "x"}, model_sample="x")
    assert ran.reward == 0 and ran.metadata.errors.formula_parse_error and ran.sub_rewards["exact"] == 1


@pytest.mark.parametrize(("grader", "param", "said"), [
    ({**EXACT, "operation": "is"}, "grader.operation", "one of"), ({**EXACT, "type": "x"}, "grader.type", "unknown"),
    ({"type": "python", "name": "p", "source": "def grade(s, i): return 1"}, "grader.type", "sandbox"),
    ({**MULTI, "calculate_output": "__import__('os')"}, "grader.calculate_output", "no function"),
    ({**EXACT, "input": "{{ ''.__class__ }}"}, "grader.input", "begins neither"),
    ({**JUDGE, "model": "gpt-99"}, "grader.model", "nobody here answers")])
def test_a_bad_grader_is_a_400_that_names_the_field(api, grader, param, said):
    for ask in (lambda: api.validate(grader=grader), lambda: api.run(grader=grader, item={}, model_sample="x")):
        with pytest.raises(openai.BadRequestError) as caught:
            ask()
        assert caught.value.param == param and said in caught.value.message
        assert (caught.value.code, caught.value.type) == ("invalid_grader", "invalid_request_error")


@pytest.mark.parametrize("body", [{}, {"grader": EXACT}, {"grader": [], "model_sample": "x"}, [], "x",
                                  {"grader": EXACT, "model_sample": 3}, {"grader": EXACT, "model_sample": None},
                                  {"grader": EXACT, "model_sample": "x", "item": "y"},
                                  {"grader": EXACT, "model_sample": "x" * 1_000_001},
                                  {"grader": EXACT, "model_sample": "x", "image": "y"}])
def test_a_malformed_body_is_a_400(client, body):
    answer = client.post("/v1/fine_tuning/alpha/graders/run", json=body)
    assert answer.status_code == 400 and set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_key_needs_the_scope(workspace, url):
    def run(secret):
        with openai.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0) as api:
            return api.fine_tuning.alpha.graders.run(grader=EXACT, item={"answer": "x"}, model_sample="x").reward

    _, chat = keys.create_key(workspace, "me", "a", ["chat"], "me")
    _, tune = keys.create_key(workspace, "me", "b", ["fine_tuning"], "me")
    assert run(tune) == 1
    with pytest.raises(openai.PermissionDeniedError, match="fine_tuning"):
        run(chat)
    with pytest.raises(openai.AuthenticationError):
        run("sk-unknown")


# Model graders

def test_an_endpoint_grades_by_its_models_name_and_by_its_own(api, judged):
    for model in ("gpt-judge", "judges"):
        ran = api.run(grader={**JUDGE, "model": model}, item={"answer": "a"}, model_sample="b")
        assert (ran.reward, ran.metadata.sampled_model_name, ran.metadata.token_usage) == (4, "gpt-judge-2026", 31)
        assert ran.api_model_grader_token_usage_per_model == {"gpt-judge-2026": {"total_tokens": 31}}
        path, _, body = judged.asked[-1]
        assert path == "/v1/chat/completions" and body["model"] == "gpt-judge"
        assert body["messages"] == [{"role": "user", "content": "a or b?"}]
        assert body["max_completion_tokens"] == 50 and body["temperature"] == 0
        assert body["response_format"]["json_schema"]["schema"]["properties"]["result"]["maximum"] == 5


def test_an_own_model_grades(api, engine):
    """The fake engine always says the same, which is no number."""
    for longest in (20, 32768):  # more than the engine can write: as much as there is room for
        grader = {**JUDGE, "model": "tone", "sampling_params": {"max_completions_tokens": longest, "seed": 3}}
        ran = api.run(grader=grader, item={"answer": "a"}, model_sample="b")
        assert ran.reward == 0 and ran.metadata.errors.api_model_grader_parse_error
        assert ran.metadata.sampled_model_name == "tone@2" and ran.metadata.token_usage == 19 + len(WORDS)
    prompt, sampling, n, model = engine.calls[0]
    assert prompt[0].content.endswith('"result": a number from 0 to 5}') and prompt[1].content == "a or b?"
    assert (sampling.max_tokens, sampling.temperature, sampling.seed, n, model) == (20, 0, 3, 1, "tone@2")
    assert engine.calls[1][1].max_tokens == engine.context - 19


def test_a_question_that_does_not_fit_is_an_error_of_the_sample(api):
    ran = api.run(grader={**JUDGE, "model": "tone"}, item={"answer": "a " * 70}, model_sample="b")
    assert "context length" in ran.metadata.errors.api_model_grader_server_error_details


@pytest.mark.parametrize(("say", "flag"), [
    (lambda h: h.json({"error": {"message": "overloaded"}}, 503), "server"),
    (lambda h: h.json({"error": {"message": "no such key"}}, 401), "server"),
    (lambda h: h.send(b"<html>", 200), "server"), (lambda h: h.json({"choices": []}), "server"),
    (lambda h: h.json(reply(None)), "server"), (lambda h: h.json([1]), "server"),
    (lambda h: h.send(b"", 302, location="http://169.254.169.254/"), "server"),
    (lambda h: h.json({"choices": [{"message": {"content": None, "refusal": "I will not."}}]}), "refusal"),
    (lambda h: h.json(reply("excellent!")), "parse")])
def test_what_endpoints_do_wrong_is_an_error_of_the_sample(api, judged, say, flag):
    judged.say = say
    ran = api.run(grader=JUDGE, item={"answer": "a"}, model_sample="b")
    found = ran.metadata.errors.to_dict()
    assert ran.reward == 0 and [k for k, v in found.items() if v is True] == [f"model_grader_{flag}_error"]
    assert bool(ran.metadata.errors.api_model_grader_server_error_details) == (flag == "server")


def test_an_endpoint_that_knows_no_schemas_is_told_in_words(judged):
    def say(handler):
        if "response_format" in judged.asked[-1][2]:
            handler.json({"error": {"message": "Unknown parameter: response_format"}}, 400)
        else:
            handler.json(reply('{"steps": [], "result": 2}'))

    judged.say = say
    model = RemoteModel(Endpoint("judges", f"http://127.0.0.1:{judged.port}/v1", "gpt-judge"))
    question = Question("gpt-judge", (Message("user", "rate"),), {}, {"type": "number", "minimum": 0, "maximum": 5})
    for _ in range(2):
        assert model(question).text == '{"steps": [], "result": 2}'
    assert len(judged.asked) == 3  # it is not tried again
    assert "a number from 0 to 5" in judged.asked[-1][2]["messages"][0]["content"]


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/v1", "https://169.254.169.254/v1", "https://[::1]/v1",
                                     "https://10.0.0.1/v1", "https://0.0.0.0/v1"])
def test_endpoints_inside_are_never_asked_unless_listed(address):
    model = RemoteModel(Endpoint("x", address, "m"), Policy(private=frozenset()))
    with pytest.raises(Ungraded) as caught:
        model(Question("m", (), {}, {}))
    assert caught.value.flag == "model_grader_server_error"


def test_too_many_at_once_are_told_to_come_back(url, judged, monkeypatch):
    import threading

    go, asked = threading.Event(), threading.Semaphore(0)

    def say(handler):
        asked.release()
        go.wait(10)
        handler.json(reply('{"result": 1}'))

    judged.say = say
    body = {"grader": JUDGE, "model_sample": "x", "item": {"answer": "y"}}
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(httpx.post(
        f"{url}/v1/fine_tuning/alpha/graders/run", json=body, timeout=20).json())) for _ in range(graders.AT_ONCE)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert asked.acquire(timeout=10)
    refused = httpx.post(f"{url}/v1/fine_tuning/alpha/graders/run", json=body)
    assert refused.status_code == 429 and refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert httpx.get(f"{url}/v1/models").status_code == 200
    go.set()
    for thread in threads:
        thread.join()
    assert [a["reward"] for a in answers] == [1] * graders.AT_ONCE


def test_json_of_any_shape_never_fails_inside(client):
    for grader in (json.loads('{"type": "multi", "graders": {"a": {"type": {}}}}'), {"type": None}, {"type": "multi"},
                   {**MULTI, "graders": {"a": []}}, {**JUDGE, "input": {"role": "user"}}, {**JUDGE, "range": {}},
                   {**JUDGE, "range": [0, 10**400]}, {**EXACT, "input": {}}, {**EXACT, "name": 1}):
        answer = client.post("/v1/fine_tuning/alpha/graders/validate", json={"grader": grader})
        assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("grader")
