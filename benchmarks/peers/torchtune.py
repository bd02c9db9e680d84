"""torchtune's single-device recipes, LoRA or full, in this process. Options: micro; default: its example's precision.

The recipe's metric logger is ours: it is called once after each optimizer step, which is where the gate stands.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch.utils.data import Dataset

from benchmarks import data
from benchmarks.worker import LEARNING_RATE, LORA, SEED, Gate, Job, versions

RECIPES = {"sft": ("lora_finetune_single_device", "LoRAFinetuneRecipeSingleDevice"),
           "sft-full": ("full_finetune_single_device", "FullFinetuneRecipeSingleDevice")}
HERE = "benchmarks.peers.torchtune"


class Tokens:
    """What the recipe asks of a tokenizer: the rows are tokens already."""

    pad_id = 0


class Rows(Dataset):
    """The steps' conversations as tokens, with labels on the last turn."""

    def __init__(self, tokenizer: Tokens, packed: bool = False):
        job = Job.from_environment()
        self.rows = [{"tokens": r["prompt_ids"] + r["chosen_ids"],
                      "labels": [-100] * len(r["prompt_ids"]) + r["chosen_ids"]}
                     for r in data.many(data.pairs(job.data), job)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Mapping[str, Any]:
        return self.rows[i]


class Logger:
    """A metric logger that passes the gate at each step."""

    def __init__(self, **_: Any):
        self.job = Job.from_environment()
        self.gate = Gate()
        self.rows = Rows(Tokens()).rows
        self.done = 0

    def log_config(self, config: Any) -> None:
        """The configuration is written by hand below."""

    def log_dict(self, figures: Mapping[str, Any], step: int) -> None:
        rows = self.rows[self.done * self.job.rows:(self.done + 1) * self.job.rows]
        real = sum(len(r["tokens"]) for r in rows)
        micro = config(self.job, Path())["batch_size"]
        parts = [rows[i:i + micro] for i in range(0, len(rows), micro)]
        positions = sum(len(p) * max(len(r["tokens"]) for r in p) for p in parts)
        self.done += 1
        self.gate.passed(units=real, tokens=real, positions=positions, loss=float(figures["loss"]))

    def close(self) -> None:
        """Nothing is open."""


def main() -> None:
    job = Job.from_environment()
    with tempfile.TemporaryDirectory() as folder:
        made = OmegaConf.create(config(job, Path(folder)))
        recipe = _recipe(*RECIPES[job.workload])(cfg=made)
        recipe.setup(cfg=made)
        recipe._metric_logger.gate.open(versions=versions("torch", "torchtune", "torchao"))
        recipe.train()


def _recipe(file: str, name: str) -> Any:
    """torchtune's recipes are scripts that refuse to be imported as a package."""
    folder = Path(importlib.metadata.distribution("torchtune").locate_file("recipes"))  # type: ignore[arg-type]
    spec = importlib.util.spec_from_file_location(file, folder / f"{file}.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return getattr(module, name)


def config(job: Job, out: Path) -> dict[str, Any]:
    """The example configuration of Llama 3.2 with the benchmark's shape."""
    s = data.SHAPES[job.shape]
    micro = min(job.rows, int(job.options.get("micro", 4)))
    shape = {"vocab_size": s["vocab_size"], "num_layers": s["num_hidden_layers"],
             "num_heads": s["num_attention_heads"], "num_kv_heads": s["num_key_value_heads"],
             "embed_dim": s["hidden_size"], "intermediate_dim": s["intermediate_size"], "max_seq_len": 2048,
             "norm_eps": data.COMMON["rms_norm_eps"], "rope_base": int(data.COMMON["rope_theta"]), "scale_factor": 1}
    lora = {"lora_attn_modules": ["q_proj", "k_proj", "v_proj", "output_proj"], "apply_lora_to_mlp": True,
            "lora_rank": LORA["r"], "lora_alpha": LORA["lora_alpha"]}
    kind = "lora_llama3_2" if job.workload == "sft" else "llama3_2"
    folder = data.model_folder(job)
    found = {
        "output_dir": str(out), "seed": SEED, "shuffle": False, "batch_size": micro, "epochs": 1, "device": "cpu",
        "gradient_accumulation_steps": job.rows // micro, "max_steps_per_epoch": job.steps, "compile": False,
        "dtype": "bf16" if job.options.get("default") else job.dtype, "log_every_n_steps": 1,
        "log_peak_memory_stats": False, "resume_from_checkpoint": False, "clip_grad_norm": 1.0,
        "enable_activation_checkpointing": False, "enable_activation_offloading": False,
        "model": {"_component_": f"torchtune.models.llama3_2.{kind}", **shape,
                  **(lora if job.workload == "sft" else {})},
        "tokenizer": {"_component_": f"{HERE}.Tokens"}, "dataset": {"_component_": f"{HERE}.Rows", "packed": False},
        "metric_logger": {"_component_": f"{HERE}.Logger"},
        "checkpointer": {"_component_": "torchtune.training.FullModelHFCheckpointer", "checkpoint_dir": folder,
                         "checkpoint_files": ["model.safetensors"], "recipe_checkpoint": None, "output_dir": str(out),
                         "model_type": "LLAMA3_2"},
        "optimizer": {"_component_": "torch.optim.AdamW", "fused": True, "lr": LEARNING_RATE},
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"}}
    if job.workload == "sft":
        return found | {"save_adapter_weights_only": True, "lr_scheduler": {
            "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup", "num_warmup_steps": 1}}
    return found | {"optimizer_in_bwd": False}


if __name__ == "__main__":
    main()
