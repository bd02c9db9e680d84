"""Runs under a Python that has vLLM: the log-probability of each prompt token, as JSON on the last line.

stdin: {"model": folder, "lora": PEFT folder or null, "rank": its rank, "ids": [...]}
"""

import json
import sys

if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    job = json.load(sys.stdin)
    lora = {"enable_lora": True, "max_lora_rank": max(8, job["rank"])} if job["lora"] else {}
    model = LLM(job["model"], dtype="float32", enforce_eager=True, max_model_len=256, max_num_seqs=2,
                **lora)
    out = model.generate({"prompt_token_ids": job["ids"]}, SamplingParams(max_tokens=8, temperature=0,
                                                                        prompt_logprobs=0),
                         lora_request=LoRARequest("one", 1, job["lora"]) if job["lora"] else None)
    rows = out[0].prompt_logprobs[1:]
    print(json.dumps({"logprobs": [row[i].logprob for row, i in zip(rows, job["ids"][1:])],
                      "written": list(out[0].outputs[0].token_ids)}))
