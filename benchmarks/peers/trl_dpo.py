"""TRL's DPOTrainer with LoRA; the reference is the base with its adapter off. Options: micro."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from benchmarks.peers import hf
from benchmarks.peers.trl_reward import pairs
from benchmarks.worker import LONGEST, Job


def count(inputs: Any) -> tuple[int, int, float]:
    ids = inputs["input_ids"]
    return int(inputs["attention_mask"].sum()), ids.numel(), ids.shape[0] / 2


def main() -> None:
    job = Job.from_environment()
    arguments = hf.arguments(job, **hf.batches(job), train_sampling_strategy="sequential", max_length=LONGEST)
    trainer = DPOTrainer(
        model=hf.model(job, AutoModelForCausalLM), args=DPOConfig(**arguments),
        train_dataset=Dataset.from_list(pairs(job, 2)), processing_class=hf.tokenizer(job), peft_config=hf.lora())
    hf.train(trainer, job, count)


if __name__ == "__main__":
    main()
