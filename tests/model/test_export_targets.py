"""Exports in the programs that they are for: llama.cpp and vLLM, each in a Python of its own.

TUNESMITH_LLAMA_CPP_PYTHON and TUNESMITH_VLLM_PYTHON name these Pythons.
"""

import json
import os
import subprocess
from pathlib import Path

import exported
import pytest
import torch

from tunesmith.model import adapters, export
from tunesmith.quickstart import builtin

pytest.importorskip("gguf")
pytestmark = pytest.mark.slow
TARGETS = Path(__file__).parent / "targets"
IDS = list(range(3, 43))


def ask(script, variable, job, **environment):
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python")
    known = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    done = subprocess.run([python, str(TARGETS / script)], input=json.dumps(job), capture_output=True, text=True,
                          env=known)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def llama_cpp(model, ids=IDS, lora=None, texts=()):
    job = {"model": str(model), "lora": lora and str(lora), "ids": ids, "texts": list(texts)}
    return ask("ask_llama_cpp.py", "TUNESMITH_LLAMA_CPP_PYTHON", job)


def made(workspace, folder, tmp_path, format, adapter, precision="fp32"):
    job = export.Job(adapter, str(folder), format, precision)
    return export.export(job, tmp_path / f"{format}-{precision}.gguf")


@pytest.mark.parametrize("name", exported.CONFIGS)
def test_llama_cpp_computes_the_same_logits(workspace, tmp_path, name):
    """1e-5 of the largest logit (float32, float32 cache), merged and as LoRA on the base's own file."""
    folder = exported.save(tmp_path / "base", name)
    adapter, base = exported.publish(workspace, folder)
    ids = torch.tensor([IDS])
    bare, want = exported.logits(base, ids, ""), exported.logits(base, ids)
    assert exported.far(bare, want) > 0.05
    whole = llama_cpp(made(workspace, folder, tmp_path, "gguf", adapter), texts=exported.TEXTS)
    assert whole["tokens"] == [base.tokenizer(t, add_special_tokens=False)["input_ids"] for t in exported.TEXTS]
    root = made(workspace, folder, tmp_path, "gguf-base", adapter)
    lora = llama_cpp(root, lora=made(workspace, folder, tmp_path, "gguf-lora", adapter))
    alone = llama_cpp(root)
    found = {k: exported.far(torch.tensor(x["logits"]), y) for k, x, y in (
        ("base", alone, bare), ("whole", whole, want), ("lora", lora, want))}
    print(name, {k: f"{v:.1e}" for k, v in found.items()})
    gelu = name in ("gemma", "gemma2", "gpt2")  # llama.cpp looks it up in a table of half precision
    assert max(found.values()) < (1e-3 if gelu else 1e-5)
