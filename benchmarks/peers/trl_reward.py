"""TRL's RewardTrainer with LoRA, on pairs; a ranking of K answers becomes its K(K-1)/2 pairs. Options: micro."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from datasets import Dataset
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from benchmarks import data
from benchmarks.peers import hf
from benchmarks.worker import LONGEST, Job


def main() -> None:
    job = Job.from_environment()
    k = int(job.workload.rpartition("-")[2]) if job.workload.startswith("rankings") else 2
    pairs_per_group = k * (k - 1) // 2
    arguments = hf.arguments(job, **hf.batches(job, job.rows * pairs_per_group), train_sampling_strategy="sequential",
                             max_length=LONGEST)
    trainer = RewardTrainer(
        model=hf.model(job, AutoModelForSequenceClassification, num_labels=1), args=RewardConfig(**arguments),
        train_dataset=Dataset.from_list(pairs(job, k)), processing_class=hf.tokenizer(job),
        peft_config=hf.lora("SEQ_CLS", modules_to_save=["score"]))

    def count(inputs: Any) -> tuple[int, int, float]:
        ids = inputs["input_ids"]
        return int(inputs["attention_mask"].sum()), ids.numel(), ids.shape[0] / 2 / pairs_per_group

    hf.train(trainer, job, count)


def pairs(job: Job, k: int) -> list[dict[str, Any]]:
    """Every step's pairs, each better answer against each worse one."""
    def row(prompt: Any, better: str, worse: str) -> dict[str, Any]:
        return {"prompt": prompt, "chosen": [{"role": "assistant", "content": better}],
                "rejected": [{"role": "assistant", "content": worse}]}

    if k == 2:
        return [row(r["prompt"], r["chosen"], r["rejected"]) for r in data.many(data.pairs(job.data), job)]
    return [row(g["prompt"], a, b) for g in data.many(data.groups(job.data, k), job)
            for a, b in combinations(g["answers"], 2)]


if __name__ == "__main__":
    main()
