"""Exports in the programs that they are for: llama.cpp and vLLM, each in a Python of its own.

TUNESMITH_LLAMA_CPP_PYTHON and TUNESMITH_VLLM_PYTHON name these Pythons. `pytest -m slow -s` on this file prints the
figures of docs/results/export.md.
"""

import json
import os
import subprocess
from pathlib import Path

import exported
import pytest
import torch
from tokenizers import pre_tokenizers

from tunesmith.model import adapters, export, gguf
from tunesmith.quickstart import builtin
from tunesmith.records import Message

pytest.importorskip("gguf")
pytestmark = pytest.mark.slow
TARGETS = Path(__file__).parent / "targets"
IDS = list(range(3, 43))
LOOKED_UP = ("gemma", "gemma2", "gpt2")
"""llama.cpp looks GELU up in a table of half precision."""
CUTS = {
    "gpt-2": None,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                       pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "qwen2": exported.split(gguf.LLAMA3.replace("{1,3}", "")),
    "smaug-bpe": exported.split(gguf.LLAMA3),
}
TEXTS = (*exported.TEXTS, "Ⅷ ١٢٣ x² don't 1,234,567.89 naïve  \r\n\r\n  ok'S",
         "def f(x):\n    return x  # 中文，日本語\n")


def ask(script, variable, job, **environment):
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python")
    known = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    done = subprocess.run([python, str(TARGETS / script)], input=json.dumps(job), capture_output=True, text=True,
                          env=known)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def llama_cpp(model, ids=IDS, lora=None, texts=(), greedy=0):
    job = {"model": str(model), "lora": lora and str(lora), "ids": ids, "texts": list(texts), "greedy": greedy}
    return ask("ask_llama_cpp.py", "TUNESMITH_LLAMA_CPP_PYTHON", job)


def vllm(model, lora=None, rank=0):
    job = {"model": str(model), "lora": lora and str(lora), "ids": IDS, "rank": rank}
    return ask("ask_vllm.py", "TUNESMITH_VLLM_PYTHON", job, VLLM_CPU_KVCACHE_SPACE="1",
               VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_LOGGING_LEVEL="ERROR")


def made(adapter, folder, tmp_path, format, precision="fp32"):
    return export.export(export.Job(adapter, str(folder), format, precision), tmp_path / f"{format}-{precision}.gguf")


def tokens(base, texts=TEXTS):
    return [base.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]


@pytest.mark.parametrize("name", exported.CONFIGS)
def test_llama_cpp_computes_the_same_logits(workspace, tmp_path, name):
    """1e-5 of the largest logit (float32, float32 cache), merged and as LoRA on the base's own file."""
    folder = exported.save(tmp_path / "base", name)
    adapter, base = exported.publish(workspace, folder)
    ids = torch.tensor([IDS])
    bare, want = exported.logits(base, ids, ""), exported.logits(base, ids)
    assert exported.far(bare, want) > 0.05
    whole = llama_cpp(made(adapter, folder, tmp_path, "gguf"))
    root = made(adapter, folder, tmp_path, "gguf-base")
    lora = llama_cpp(root, lora=made(adapter, folder, tmp_path, "gguf-lora"))
    found = {k: exported.far(torch.tensor(x["logits"]), y) for k, x, y in (
        ("base", llama_cpp(root), bare), ("whole", whole, want), ("lora", lora, want))}
    print(f"\nllama.cpp {name}", {k: f"{v:.1e}" for k, v in found.items()})
    assert max(found.values()) < (1e-3 if name in LOOKED_UP else 1e-5)


@pytest.mark.parametrize("method", ["rslora", "dora"])
def test_llama_cpp_computes_other_kinds_of_lora(workspace, tmp_path, method):
    kinds = {"rslora": adapters.Method(rank=4, alpha=8, rslora=True), "dora": adapters.Method("dora", rank=4, alpha=8)}
    folder = exported.save(tmp_path / "base", "qwen3")
    adapter, base = exported.publish(workspace, folder, kinds[method])
    want = exported.logits(base, torch.tensor([IDS]))
    if method == "rslora":
        lora = made(adapter, folder, tmp_path, "gguf-lora")
        found = llama_cpp(made(adapter, folder, tmp_path, "gguf-base"), lora=lora)
    else:
        found = llama_cpp(made(adapter, folder, tmp_path, "gguf"))
    assert exported.far(torch.tensor(found["logits"]), want) < 1e-5


@pytest.mark.parametrize("name", [*CUTS, "llama-bpe", "pieces", "pieces, no space first"])
def test_llama_cpp_reads_the_same_tokens(workspace, tmp_path, name):
    tokenizer = (exported.pieces(name == "pieces") if name.startswith("pieces") else
                 exported.byte_level(CUTS[name]) if name in CUTS else exported.whole_words_first())
    folder = exported.save(tmp_path / "base", "llama", tokenizer)
    adapter, base = exported.publish(workspace, folder)
    found = llama_cpp(made(adapter, folder, tmp_path, "gguf"), texts=TEXTS)
    assert found["tokens"] == tokens(base)
    if not name.startswith("pieces"):
        assert found["metadata"]["tokenizer.ggml.pre"] == name


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "q8_0"])
def test_llama_cpp_writes_the_loan_desks_answers(workspace, tmp_path, precision):
    """The bundled base with an adapter: tokens and greedy text equal, logits as near as the precision allows."""
    folder = Path(builtin.BASES["loan-desk"])
    adapter, base = exported.publish(workspace, folder, size=0.02)
    ids = base.chat.prompt((Message("user", "Can I pay my loan back early?"),))
    with torch.no_grad(), adapters.active(base, "one"):
        want = exported.logits(base, torch.tensor([ids]))
        written = base.model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids):].tolist()
    found = llama_cpp(made(adapter, folder, tmp_path, "gguf", precision), ids, texts=TEXTS, greedy=24)
    far = exported.far(torch.tensor(found["logits"]), want)
    print(f"\nllama.cpp loan-desk {precision} {far:.1e}, same greedy tokens: {found['written'] == written}")
    assert found["tokens"] == tokens(base)
    assert far < {"fp32": 1e-5, "fp16": 1e-2, "bf16": 2e-2, "q8_0": 5e-2}[precision]
    if precision == "fp32":
        assert found["written"] == written


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_vllm_computes_the_same_logprobs(workspace, tmp_path, name):
    """The base with the PEFT folder as a LoRA request, and the merged model: 1e-3 nats on every prompt token."""
    folder = exported.save(tmp_path / "base", name)
    adapter, base = exported.publish(workspace, folder, adapters.Method(rank=8, alpha=16))
    every = exported.logits(base, torch.tensor([IDS])).log_softmax(-1)
    want = every[range(len(IDS) - 1), IDS[1:]]
    lora = export.export(export.Job(adapter, str(folder), "vllm"), tmp_path / "lora")
    merged = export.export(export.Job(adapter, str(folder), "merged", "fp32"), tmp_path / "merged")
    found = {"lora": vllm(folder, lora, 8), "merged": vllm(merged)}
    errors = {k: float((torch.tensor(x["logprobs"]) - want).abs().max()) for k, x in found.items()}
    print(f"\nvLLM {name}", {k: f"{v:.1e}" for k, v in errors.items()})
    assert max(errors.values()) < 1e-3
    assert found["lora"]["written"] == found["merged"]["written"]
