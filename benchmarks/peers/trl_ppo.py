"""TRL's PPOTrainer (trl.experimental.ppo, last shipped in TRL 1.12): LoRA policy, its reference is the adapter off.

The value model is trained in full, as in TRL's own example, or with LoRA. Options: value ("full" or "lora"), rollout
(rows per generation and scoring batch). Episodes and tokens are those of the job; answers never end early.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from peft import LoraConfig, inject_adapter_in_model
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks import data
from benchmarks.peers import hf
from benchmarks.worker import LORA, Job


def main() -> None:
    job = Job.from_environment()
    tokenizer = hf.tokenizer(job)
    tokenizer.padding_side = "left"
    rows = data.many(data.prompts(job.data), job)
    value, reward = (hf.model(job, AutoModelForSequenceClassification, num_labels=1) for _ in range(2))
    if job.options["value"] == "lora":
        inject_adapter_in_model(LoraConfig(**LORA), value)  # type: ignore[arg-type]
        value.score.requires_grad_(True)
    own = {} if job.options.get("default") else {"local_rollout_forward_batch_size": job.options.get("rollout", 32)}
    arguments = hf.arguments(
        job, per_device_train_batch_size=job.rows, gradient_accumulation_steps=1, max_steps=-1,
        num_mini_batches=job.options["minibatches"], num_ppo_epochs=job.options["epochs"],
        total_episodes=job.rows * job.steps, response_length=job.new, num_sample_generations=0, **own)
    trainer = PPOTrainer(args=PPOConfig(**arguments), processing_class=tokenizer,
                         model=hf.model(job, AutoModelForCausalLM), ref_model=None, reward_model=reward,
                         value_model=value, peft_config=hf.lora(),
                         train_dataset=Dataset.from_dict({"input_ids": [r["prompt_ids"] for r in rows]}))
    trainer.dataloader = trainer.accelerator.prepare(DataLoader(  # its own shuffles
        trainer.train_dataset, batch_size=job.rows, collate_fn=trainer.data_collator))

    def figures(step: int) -> Mapping[str, Any]:
        prompts = rows[step * job.rows:(step + 1) * job.rows]
        return {"units": job.rows, "tokens": sum(len(r["prompt_ids"]) + job.new for r in prompts)}

    trainer.add_callback(hf.AtGate(job, figures))
    trainer.train()


if __name__ == "__main__":
    main()
