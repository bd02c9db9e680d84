"""The API on the real engine with a tiny random base: the two parts fit."""

import asyncio

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


def test_text_completions_score_their_prompt(api):
    """What lm-eval asks for: echo with log-probs, with and without an answer."""
    made = api.completions.create(model="real", prompt="The rate", max_tokens=8, seed=3, logprobs=2, echo=True)
    scored = api.completions.create(model="real", prompt="The rate", max_tokens=0, echo=True, logprobs=2).choices[0]
    n = len(scored.logprobs.tokens)
    assert scored.text == "The rate" and scored.logprobs.tokens == ["", *"The rate"][-n:]
    whole = made.choices[0].logprobs
    assert n in (8, 9) and whole.token_logprobs[:n] == scored.logprobs.token_logprobs
    assert whole.token_logprobs[0] is None and all(p < 0 for p in whole.token_logprobs[1:])
    assert len(whole.tokens) == n + made.usage.completion_tokens and made.choices[0].text.startswith("The rate")
    greedy = [api.completions.create(model="real", prompt="The rate", max_tokens=5, temperature=0).choices[0].text
              for _ in range(2)]
    assert greedy[0] == greedy[1]


def test_many_at_once_get_what_each_gets_alone(api):
    async def both():
        async with openai.AsyncOpenAI(base_url=api.base_url, api_key="x", max_retries=0, timeout=60) as many:
            return await asyncio.gather(*(ask(many, i) for i in range(12)))

    async def ask(client, i):
        reply = await client.chat.completions.create(model=("tiny", "real")[i % 2], messages=ASK, seed=i, max_tokens=10)
        return reply.choices[0].message.content

    alone = [api.chat.completions.create(model=("tiny", "real")[i % 2], messages=ASK, seed=i,
                                         max_tokens=10).choices[0].message.content for i in range(12)]
    assert asyncio.run(both()) == alone and len(set(alone)) > 6
