"""What the peers built on transformers share: loading, a trainer's arguments, and the gate around its steps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoTokenizer, TrainerCallback

from benchmarks.data import model_folder
from benchmarks.worker import LEARNING_RATE, LORA, SEED, Gate, Job, versions

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Count = Callable[[Any], tuple[int, int, float]]
"""What a batch holds: (real tokens, positions with padding, units)."""


def tokenizer(job: Job) -> Any:
    return AutoTokenizer.from_pretrained(model_folder(job))


def model(job: Job, kind: Any, **config: Any) -> Any:
    """The benchmark's model as `kind`, in the job's precision; large shapes have no stored weights and are drawn."""
    folder = model_folder(job)
    shared = {"dtype": DTYPES[job.dtype], "attn_implementation": "sdpa"}
    if (Path(folder) / "model.safetensors").is_file():
        return kind.from_pretrained(folder, **shared, **config).to(job.device)
    torch.manual_seed(SEED)
    with torch.device(job.device):
        return kind.from_config(AutoConfig.from_pretrained(folder, **config), **shared)


def lora(task: str = "CAUSAL_LM", **more: Any) -> LoraConfig:
    return LoraConfig(task_type=task, **LORA, **more)  # type: ignore[arg-type]


def arguments(job: Job, **own: Any) -> dict[str, Any]:
    """A trainer's arguments: the rows in their order, nothing logged or saved; then precision and batch, unless the
    job asks for the trainer's documented default; then `own`.
    """
    shared: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(prefix="benchmark-"), "max_steps": job.steps, "learning_rate": LEARNING_RATE,
        "report_to": "none", "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True, "seed": SEED,
        "use_cpu": job.device == "cpu", "dataloader_pin_memory": job.device != "cpu"}
    if not job.options.get("default"):
        shared |= {"bf16": job.dtype == "bf16", "gradient_checkpointing": False}
    return shared | own


def batches(job: Job, rows: int | None = None, default: int = 8) -> dict[str, int]:
    """Micro-batch and accumulation whose product is the step's rows; `default` is the trainer's own micro-batch."""
    rows = rows or job.rows
    micro = min(rows, default if job.options.get("default") else int(job.options.get("micro", default)))
    while rows % micro:
        micro -= 1
    return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": rows // micro}


def train(trainer: Any, job: Job, count: Count) -> None:
    """Run a Trainer that waits at the gate before each optimizer step, data loading included in the step."""
    inner, seen = trainer.training_step, Seen()

    def training_step(model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        seen.add(*count(inputs))
        loss = inner(model, inputs, *rest, **named)
        seen.loss += float(loss)
        return loss

    trainer.training_step = training_step
    trainer.add_callback(AtGate(job, seen.figures))
    trainer.train()


class Seen:
    """What the batches of one step held."""

    def __init__(self) -> None:
        self.tokens, self.positions, self.units, self.loss = 0, 0, 0.0, 0.0

    def add(self, tokens: int, positions: int, units: float) -> None:
        self.tokens += int(tokens)
        self.positions += int(positions)
        self.units += units

    def figures(self, step: int) -> Mapping[str, Any]:
        """This step's figures; starts anew."""
        found = dict(vars(self))
        self.__init__()  # type: ignore[misc]
        return found


class AtGate(TrainerCallback):
    """Opens the gate when training begins and passes it after each step, with what `figures(step)` says."""

    def __init__(self, job: Job, figures: Callable[[int], Mapping[str, Any]], packages: tuple[str, ...] = PACKAGES):
        self.gate, self.figures, self.packages = Gate(job.device), figures, packages
        self.done = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.gate.open(versions=versions(*self.packages))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.done += 1
        self.gate.passed(**self.figures(self.done - 1))
