"""llama.cpp in fp32 through llama-cpp-python: greedy answers to all prompts of a step together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp as L
import numpy as np

from benchmarks import data
from benchmarks.peers import gguf_model
from benchmarks.worker import Job, serve

BATCH = 2048
"""Tokens of one call."""


def main() -> None:
    job = Job.from_environment()
    L.llama_backend_init()
    parameters = L.llama_model_default_params()
    parameters.n_gpu_layers = 0
    file = gguf_model.written(Path(job.data), job.shape)
    model = L.llama_model_load_from_file(str(file).encode(), parameters)
    rows = data.windows(job.data)

    def step(number: int) -> Mapping[str, Any]:
        prompts = data.take(rows, number, job.rows)
        answer(model, data.SHAPES[job.shape]["vocab_size"], prompts, job.new)
        return {"units": job.rows * job.new, "tokens": sum(map(len, prompts)) + job.rows * job.new}

    serve(job, step, "llama-cpp-python", "gguf")


def answer(model: Any, vocabulary: int, prompts: Sequence[Sequence[int]], new: int) -> list[list[int]]:
    """The likeliest `new` tokens behind each prompt; all prompts have one length."""
    rows, length = len(prompts), len(prompts[0])
    settings = L.llama_context_default_params()
    settings.n_ctx = rows * (length + new + 64)
    settings.n_batch, settings.n_ubatch, settings.n_seq_max = BATCH, 512, rows
    settings.n_threads = settings.n_threads_batch = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    context = L.llama_init_from_model(model, settings)
    batch = L.llama_batch_init(BATCH, 0, 1)

    def decode(items: Sequence[tuple[int, int, int, bool]]) -> None:
        """Compute (token, position, row, whether its logits are wanted)."""
        batch.n_tokens = len(items)
        for i, (token, position, row, wanted) in enumerate(items):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
        if L.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")

    likeliest = []
    together = BATCH // length
    for first in range(0, rows, together):
        part = range(first, min(rows, first + together))
        decode([(t, p, r, p == length - 1) for r in part for p, t in enumerate(prompts[r])])
        for i in range(len(part)):
            logits = L.llama_get_logits_ith(context, (i + 1) * length - 1)
            likeliest.append(int(np.ctypeslib.as_array(logits, shape=(vocabulary,)).argmax()))
    answers = [[token] for token in likeliest]
    for written in range(new - 1):
        decode([(a[-1], length + written, r, True) for r, a in enumerate(answers)])
        logits = np.ctypeslib.as_array(L.llama_get_logits(context), shape=(rows, vocabulary))
        for a, token in zip(answers, logits.argmax(1).tolist()):
            a.append(token)
    L.llama_batch_free(batch)
    L.llama_free(context)
    return answers


if __name__ == "__main__":
    main()
