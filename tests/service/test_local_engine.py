"""The API on the real engine with a tiny random base: the two parts fit."""

import openai
import pytest
from service_fakes import running

from tunesmith.model import adapters, base
from tunesmith.model.engine import LocalEngine
from tunesmith.model.serving import Serving
from tunesmith.service import create_app

tiny = pytest.importorskip("tiny")
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the rate?"}]


@pytest.fixture
def api(tmp_path, workspace):
    folder = tiny.save(tmp_path / "base")

    def publish(write_to):
        one = base.load(str(folder), spec="tiny")
        adapters.attach(one, "policy", adapters.Method(rank=4, alpha=8), seed=3)
        adapters.save(one, "policy", write_to)

    workspace.publish_adapter("real", "policy", {"spec": "tiny", "hash": "0"}, publish, {})
    app = create_app(workspace, lambda: Serving(LocalEngine(base.load(str(folder), spec="tiny"))), base="tiny")
    with running(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=60) as api:
        yield api


def test_streamed_and_whole_answers_agree(api):
    for model in ("tiny", "real"):
        how = dict(model=model, messages=ASK, seed=11, max_tokens=12)
        whole = api.chat.completions.create(**how, logprobs=True)
        streamed = list(api.chat.completions.create(**how, stream=True, stream_options={"include_usage": True}))
        choice = whole.choices[0]
        text = "".join(c.choices[0].delta.content or "" for c in streamed[:-1])
        assert text == choice.message.content != ""
        assert streamed[-1].usage == whole.usage
        assert len(choice.logprobs.content) == whole.usage.completion_tokens <= 12
        assert all(t.logprob <= 0 for t in choice.logprobs.content)
    other = api.chat.completions.create(**{**how, "seed": 12}).choices[0].message.content
    assert other != choice.message.content


def test_a_prompt_beyond_the_context_is_refused(api):
    with pytest.raises(openai.BadRequestError) as e:
        api.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x" * 300}])
    assert e.value.code == "context_length_exceeded" and "256 tokens" in e.value.message
