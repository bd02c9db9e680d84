"""transformers' generate(), with PEFT's adapters when asked. Options: what.

sample: temperature 1, the scores of every step kept and log-probs taken from them, as reinforcement learning needs.
greedy: no sampling, tokens only. mixed: greedy, 8 adapters in one batch by `adapter_names`, rows in turn; sorted: the
same with the rows of one adapter together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from benchmarks import data
from benchmarks.peers import hf
from benchmarks.worker import Job, serve


def main() -> None:
    job = Job.from_environment()
    what = job.options["what"]
    model = hf.model(job, AutoModelForCausalLM).eval()
    named = {"min_new_tokens": job.new, "max_new_tokens": job.new, "pad_token_id": 0, "do_sample": what == "sample"}
    if what == "sample":
        named |= {"top_k": 0, "temperature": 1.0, "output_scores": True, "return_dict_in_generate": True}
    if what in ("mixed", "sorted"):
        model = PeftModel.from_pretrained(model, data.adapter_folder(job, 0), adapter_name="a0")
        for i in range(1, data.ADAPTERS):
            model.load_adapter(data.adapter_folder(job, i), adapter_name=f"a{i}")
        names = [f"a{i % data.ADAPTERS}" for i in range(job.rows)]
        named["adapter_names"] = sorted(names) if what == "sorted" else names
    rows = data.windows(job.data)

    @torch.inference_mode()
    def step(number: int) -> Mapping[str, Any]:
        ids = torch.tensor(data.take(rows, number, job.rows), device=job.device)
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **named)
        if what == "sample":
            logprobs = torch.stack(out.scores, 1).float().log_softmax(-1)
            logprobs.gather(-1, out.sequences[:, ids.shape[1]:, None])
        return {"units": job.rows * job.new, "tokens": job.rows * (ids.shape[1] + job.new)}

    serve(job, step, *hf.PACKAGES)


if __name__ == "__main__":
    main()
