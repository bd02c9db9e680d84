"""LLaMA-Factory's SFT through its own entry point, LoRA or full, loss on the last turn only.

Options: packed (its neat packing into blocks of 512, one block at a time), micro; default: batch and precision of its
LoRA example.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

os.environ.update({"DISABLE_VERSION_CHECK": "1"})
try:
    import torchaudio  # noqa: F401  LLaMA-Factory imports it; its CUDA build does not load beside a CPU torch
except Exception:
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)

import transformers
from llamafactory.train.tuner import run_exp

from benchmarks import data
from benchmarks.peers import hf
from benchmarks.worker import LEARNING_RATE, LONGEST, LORA, SEED, Job

PACKAGES = ("torch", "transformers", "llamafactory", "peft", "accelerate", "trl")


def main() -> None:
    job = Job.from_environment()
    seen = hf.Seen()
    inner = transformers.Trainer.training_step

    def training_step(self: Any, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        real = int((inputs["input_ids"] != 0).sum())  # 0 is the padding
        seen.add(real, inputs["input_ids"].numel(), real)
        loss = inner(self, model, inputs, *rest, **named)
        seen.loss += float(loss)
        return loss

    transformers.Trainer.training_step = training_step  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        run_exp(arguments(job, write(job, Path(folder))), [hf.AtGate(job, seen.figures, PACKAGES)])


def write(job: Job, folder: Path) -> Path:
    """The steps' conversations as LLaMA-Factory reads them; packing needs spare ones, since blocks are never cut."""
    rows = data.many(data.pairs(job.data), job, job.rows * (2 if job.options.get("packed") else 1))
    (folder / "sft.json").write_text(json.dumps([{"messages": data.conversation(r, r["chosen"])} for r in rows]))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    (folder / "dataset_info.json").write_text(json.dumps({"bench": {
        "file_name": "sft.json", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}}))
    return folder


def arguments(job: Job, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        "stage": "sft", "do_train": True, "model_name_or_path": data.model_folder(job), "dataset": "bench",
        "dataset_dir": str(folder), "output_dir": str(folder / "out"), "cutoff_len": LONGEST, "mask_history": True,
        "disable_shuffling": True, "max_steps": job.steps, "learning_rate": LEARNING_RATE, "save_strategy": "no",
        "logging_steps": 10**6, "report_to": "none", "overwrite_cache": True, "preprocessing_num_workers": 1,
        "seed": SEED, "use_cpu": True, "dataloader_pin_memory": False}
    if job.workload == "sft":
        found |= {"finetuning_type": "lora", "lora_rank": LORA["r"], "lora_alpha": LORA["lora_alpha"],
                  "lora_target": "all"}
    else:
        found |= {"finetuning_type": "full"}
    if job.options.get("default"):
        return found | {"bf16": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": job.rows}
    found |= {"disable_gradient_checkpointing": True, "bf16": job.dtype == "bf16", "fp16": False, "flash_attn": "sdpa"}
    if job.options.get("packed"):
        blocks = max(1, round(job.rows * 160 / LONGEST))  # a step of about as many conversations
        return found | {"packing": True, "neat_packing": True, "per_device_train_batch_size": 1,
                        "gradient_accumulation_steps": blocks}
    return found | hf.batches(job)


if __name__ == "__main__":
    main()
