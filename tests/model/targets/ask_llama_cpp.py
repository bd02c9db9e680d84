"""Runs under a Python that has llama-cpp-python: logits, tokens and a chat prompt of GGUF files, as JSON.

stdin: {"model": path, "lora": path or null, "ids": [...], "texts": [...],
"greedy": how many tokens to write}. Weights and cache are float32; the
repacked kernels (AMX and the like) are off, because they round.
"""

import json
import sys

import llama_cpp
from llama_cpp import Llama, _internals

job = json.load(sys.stdin)
defaults = llama_cpp.llama_model_default_params


def plain_params():
    params = defaults()
    params.use_extra_bufts = False
    return params


_internals.llama_cpp.llama_model_default_params = llama_cpp.llama_model_default_params = plain_params
model = Llama(job["model"], lora_path=job["lora"], logits_all=True, n_ctx=256, n_threads=1, n_threads_batch=1,
              verbose=False, type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
model.eval(job["ids"])
logits = [[float(x) for x in row] for row in model.scores[:len(job["ids"])]]
tokens = [model.tokenize(text.encode(), add_bos=False, special=True) for text in job["texts"]]
written = []
while len(written) < job["greedy"] and (not written or written[-1] != model.token_eos()):
    written.append(int(model.scores[model.n_tokens - 1].argmax()))
    model.eval(written[-1:])
json.dump({"logits": logits, "tokens": tokens, "written": written, "metadata": model.metadata}, sys.stdout)
