"""TRL's SFTTrainer, LoRA or full. Options: micro, padding_free, full; default (as its quick start has it)."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from benchmarks import data
from benchmarks.peers import hf
from benchmarks.worker import LONGEST, Job


def count(inputs: Any) -> tuple[int, int, float]:
    """A padding-free batch is one row without a mask."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    real = int(ids.numel() if mask is None else mask.sum())
    return real, ids.numel(), real


def main() -> None:
    job = Job.from_environment()
    rows = [{"prompt": r["prompt"], "completion": data.conversation({"prompt": []}, r["chosen"])}
            for r in data.many(data.pairs(job.data), job)]
    padding_free = bool(job.options.get("padding_free"))
    arguments = hf.arguments(job, **hf.batches(job), train_sampling_strategy="sequential", completion_only_loss=True,
                             max_length=None if padding_free else LONGEST,
                             **({"padding_free": True} if padding_free else {}))
    trainer = SFTTrainer(
        model=hf.model(job, AutoModelForCausalLM), args=SFTConfig(**arguments), train_dataset=Dataset.from_list(rows),
        processing_class=hf.tokenizer(job), peft_config=None if job.workload == "sft-full" else hf.lora())
    hf.train(trainer, job, count)


if __name__ == "__main__":
    main()
