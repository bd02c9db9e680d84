"""TRL's GRPOTrainer and RLOOTrainer with LoRA: 8 answers a prompt, one pass, a reward model of the policy's size.

Options: micro.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from benchmarks import data
from benchmarks.peers import hf
from benchmarks.worker import Job

ANSWERS = 8
TRAINERS = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}


def main() -> None:
    job = Job.from_environment()
    settings, kind = TRAINERS[job.workload]
    per_step = job.rows // ANSWERS
    rows = data.many(data.prompts(job.data), job, per_step)
    arguments = hf.arguments(job, **hf.batches(job), num_generations=ANSWERS, max_completion_length=job.new,
                             shuffle_dataset=False, generation_kwargs={"min_new_tokens": job.new})
    tokenizer = hf.tokenizer(job)
    trainer = kind(
        model=hf.model(job, AutoModelForCausalLM), args=settings(**arguments), processing_class=tokenizer,
        reward_funcs=hf.model(job, AutoModelForSequenceClassification, num_labels=1),
        reward_processing_classes=tokenizer, train_dataset=Dataset.from_list([{"prompt": r["prompt"]} for r in rows]),
        peft_config=hf.lora())

    def figures(step: int) -> Mapping[str, Any]:
        prompts = rows[step * per_step:(step + 1) * per_step]
        return {"units": job.rows, "tokens": sum(ANSWERS * (len(r["prompt_ids"]) + job.new) for r in prompts)}

    trainer.add_callback(hf.AtGate(job, figures))
    trainer.train()


if __name__ == "__main__":
    main()
