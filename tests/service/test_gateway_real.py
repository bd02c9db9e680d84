"""The gateway in front of a real vLLM and a real llama.cpp, each in an environment of its own, on the bundled base.

TUNESMITH_VLLM_PYTHON and TUNESMITH_LLAMA_CPP_PYTHON name their Pythons (llama.cpp: `llama-cpp-python[server]`).
"""

import contextlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import httpx
import openai
import pytest
import torch
from service_fakes import running

import tunesmith.quickstart
from tunesmith.model import adapters, export
from tunesmith.model import base as bases
from tunesmith.model.engine import LocalEngine
from tunesmith.model.serving import Serving
from tunesmith.service import create_app
from tunesmith.service.gateway import gateway

pytestmark = pytest.mark.slow
BASE = str(Path(tunesmith.quickstart.__file__).parent / "base")
PROMPT = "The customer asks about the rate of the loan."


@pytest.fixture
def published(workspace):
    """desk@1 and desk@2: two strong adapters of the bundled base."""
    base = bases.load(BASE, "loan-desk")
    for seed in (1, 2):
        adapters.attach(base, "x", adapters.Method(rank=8, alpha=16), seed)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            for p in adapters.parameters(base, "x").values():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
        workspace.publish_adapter("desk", "policy", base.describe(), lambda to: adapters.save(base, "x", to), {})
    return workspace


def python(variable):
    found = os.environ.get(variable, "")
    if not Path(found).is_file():
        pytest.skip(f"{variable} names no Python with that server")
    return found


def answers(url):
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/v1/models").status_code == 200


@contextlib.contextmanager
def started(command, log, **environment):
    """The server process of `command(port)`, once it answers; its address."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with open(log, "w") as out:
        process = subprocess.Popen(command(port), stdout=out, stderr=out, env={**os.environ, **environment})
    try:
        end = time.monotonic() + 900
        while not answers(url):
            assert process.poll() is None and time.monotonic() < end, Path(log).read_text()[-3000:]
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def texts(workspace, engine, behind=""):
    """What each model says to one prompt, as text and as chat, greedily; and streamed."""
    app = create_app(workspace, engine, base="loan-desk", gateway=gateway(behind, 300) if behind else None)
    found = {}
    own_way = {"repeat_penalty": 1.0} if behind.startswith("llamacpp") else {}  # its Python server has 1.1
    with running(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=300) as api:
        for model in ("loan-desk", "desk@1", "desk@2", "desk@1"):
            text = api.completions.create(model=model, prompt="Our APR is", max_tokens=12, temperature=0,
                                          extra_body=own_way)
            chat = api.chat.completions.create(model=model, messages=[{"role": "user", "content": PROMPT}],
                                               max_tokens=12, temperature=0, stream=True, extra_body=own_way)
            said = "".join(c.choices[0].delta.content or "" for c in chat if c.choices)
            found[model] = text.choices[0].text, said
            assert text.model == model
        with pytest.raises(openai.NotFoundError):
            api.completions.create(model="desk@9", prompt=PROMPT)
        if behind.startswith("llamacpp"):  # its Python server cuts what is too long
            return found
        with pytest.raises(openai.BadRequestError) as e:
            api.chat.completions.create(model="desk", messages=[{"role": "user", "content": PROMPT}],
                                        max_tokens=100_000)
        assert e.value.message
    return found


def own(workspace):
    return texts(workspace, lambda: Serving(LocalEngine(bases.load(BASE, "loan-desk"))))


def alike(found, want):
    """The same words, but where two tokens are as likely to the last bits: half of
    the answers whole, and how each begins."""
    for model, (text, chat) in want.items():
        for a, b in ((found[model][0], text), (found[model][1], chat)):
            assert a[:3] == b[:3], (model, a, b)
    same = sum(found[m][i] == want[m][i] for m in want for i in (0, 1))
    assert same >= len(want), (found, want)
    assert len(set(found.values())) == 3  # each adapter is its own


def test_vllm_answers_with_adapters_that_it_was_handed(published, tmp_path):
    command = [python("TUNESMITH_VLLM_PYTHON"), "-m", "vllm.entrypoints.openai.api_server", "--model", BASE,
               "--dtype", "float32", "--enforce-eager", "--enable-lora", "--max-lora-rank", "8", "--max-loras", "2",
               "--max-model-len", "256", "--max-num-seqs", "4", "--served-model-name", "a-base", "--host", "127.0.0.1"]
    with started(lambda port: [*command, "--port", str(port)], tmp_path / "log", VLLM_CPU_KVCACHE_SPACE="1",
                 VLLM_ALLOW_RUNTIME_LORA_UPDATING="True", VLLM_LOGGING_LEVEL="WARNING",
                 VLLM_CPU_OMP_THREADS_BIND="nobind") as url:
        found = texts(published, lambda: None, f"vllm={url}")
        print(json.dumps(found, indent=1))
        alike(found, own(published))


def test_llama_cpp_answers_by_the_names_that_it_serves(published, tmp_path):
    llama = python("TUNESMITH_LLAMA_CPP_PYTHON")
    job = [export.Job(published.adapter(f"desk@{v}"), BASE, "gguf-lora", "fp32") for v in (1, 2)]
    files = [export.export(j, tmp_path / f"{j.adapter}.gguf") for j in job]
    base = export.export(export.Job(published.adapter("desk"), BASE, "gguf-base", "fp32"), tmp_path / "base.gguf")
    loras = {"loan-desk": {}, **{f.stem: {"lora_path": str(f)} for f in files}}
    models = [{"model": str(base), "model_alias": alias, "n_ctx": 256, "type_k": 0, "type_v": 0, **lora}
              for alias, lora in loras.items()]

    def command(port):
        file = tmp_path / "llama.json"
        file.write_text(json.dumps({"host": "127.0.0.1", "port": port, "models": models}))
        return [llama, "-m", "llama_cpp.server", "--config_file", str(file)]

    with started(command, tmp_path / "log") as url:
        found = texts(published, lambda: None, f"llamacpp={url}")
        print(json.dumps(found, indent=1))
        alike(found, own(published))
