"""A fine-tuning job -> the training steps that make its model: what "auto" becomes, and which settings each step gets.

    supervised      sft
    dpo             [fresh] -> prefer --method dpo
    reinforcement   [fresh] -> prefer --method grpo, scored by the grader
    rlhf            [fresh] -> reward -> ppo

`fresh` is an adapter that changes nothing, for jobs that begin on a bare base. What a step makes is named after the
job, so that a step that a crash interrupted is found again by its name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.settings import PpoSettings, PreferSettings, RewardSettings, Settings, SftSettings
from tunesmith.store.jobs import Job

STEPS = 100
"""Optimizer steps that "auto" aims at for a small file."""
UPDATES = 40
"""Rollout batches of a method that samples, for "auto"."""
KINDS = {"supervised": "demonstrations", "dpo": "comparisons", "reinforcement": "prompts", "rlhf": "rankings"}
"""What the training file of each method holds."""
MAX_TOKENS = 128
"""Of an answer that a method samples."""
DEFAULT_BATCH = 16
MOST_EPOCHS = 10
CHECKPOINTS = 3
"""Models that a job keeps besides its last one, at most."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One training step. `main` is the one whose steps and metrics are the job's."""

    command: str
    name: str
    settings: Settings | None
    main: bool = False


def resolved(kind: str, asked: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Every hyperparameter of the method, with a number for each "auto".

    The batch grows with the file, up to 16 rows; the epochs are as many as make about 100 steps, 10 at most.
    """
    auto: dict[str, Any] = {"learning_rate_multiplier": 1.0}
    batch = _number(asked.get("batch_size")) or max(1, min(DEFAULT_BATCH, 2 ** round(math.log2(max(rows, 32) / 32))))
    auto["batch_size"] = batch
    if kind == "rlhf":
        auto |= {"n_epochs": 1, "n_updates": UPDATES, "kl": 0.05, "max_tokens": MAX_TOKENS}
    elif kind == "reinforcement":
        auto |= {"n_epochs": max(1, math.ceil(UPDATES * batch / rows)), "reasoning_effort": "default",
                 "compute_multiplier": 1.0}
    else:
        auto["n_epochs"] = max(1, min(MOST_EPOCHS, round(STEPS * batch / rows)))
    if kind == "dpo":
        auto["beta"] = 0.1
    return {name: value if (given := asked.get(name)) in (None, "auto") else given for name, value in auto.items()}


def stages(job: Job, rows: int) -> list[Stage]:
    """The steps of a job whose files have been imported and whose hyperparameters are resolved."""
    body, method = job.body, job.body["method"]
    kind = method["type"]
    how: dict[str, Any] = method[kind]["hyperparameters"]
    if kind == "supervised":
        steps = max(1, math.ceil(rows * how["n_epochs"] / how["batch_size"]))
        return [Stage("sft", job.id, SftSettings(
            base=body["base"], after=body["start"], data=train_set(job), name=job.id, epochs=how["n_epochs"],
            batch=how["batch_size"], lr=1e-3 * how["learning_rate_multiplier"], seed=body["seed"],
            valid=valid_set(job) if body["validation_file"] else "", **_keeping(steps, rows, how)), main=True)]
    fresh = [] if body["start"] else [Stage("fresh", f"{job.id}-start", None)]
    start = body["start"] or f"{job.id}-start"
    if kind == "dpo":
        steps = max(1, math.ceil(rows * how["n_epochs"] / how["batch_size"]))
        settings: Settings = PreferSettings(
            method="dpo", policy=start, comparisons=train_set(job), name=job.id, epochs=how["n_epochs"],
            batch=how["batch_size"], lr=1e-4 * how["learning_rate_multiplier"], beta=how["beta"], held_out=0,
            seed=body["seed"], valid=valid_set(job) if body["validation_file"] else "", **_keeping(steps, rows, how))
        return [*fresh, Stage("prefer", job.id, settings, main=True)]
    if kind == "rlhf":
        ranked = body["training_file"].removeprefix("set:") if is_set(job) else train_set(job)
        reward = RewardSettings(model=start, comparisons=ranked, name=f"{job.id}-reward", epochs=how["n_epochs"],
                                batch=how["batch_size"], seed=body["seed"])
        updates = how["n_updates"]
        ppo = PpoSettings(policy=start, reward=f"{job.id}-reward", prompts=prompt_set(job), name=job.id,
                          updates=updates, episodes=4 * how["batch_size"], kl=how["kl"], seed=body["seed"],
                          lr=2e-4 * how["learning_rate_multiplier"], max_tokens=how["max_tokens"],
                          checkpoint_every=min(10, updates), snapshots=_apart(updates))
        return [*fresh, Stage("reward", f"{job.id}-reward", reward), Stage("ppo", job.id, ppo, main=True)]
    updates = max(1, math.ceil(rows * how["n_epochs"] / how["batch_size"]))
    samples = max(2, round(8 * how["compute_multiplier"]))
    grpo = PreferSettings(method="grpo", policy=start, grader=json.dumps(method[kind]["grader"]),
                          prompts=train_set(job), name=job.id, updates=updates, batch=how["batch_size"],
                          samples=samples, seed=body["seed"], lr=1e-4 * how["learning_rate_multiplier"],
                          max_tokens=MAX_TOKENS, checkpoint_every=min(10, updates), snapshots=_apart(updates))
    return [*fresh, Stage("prefer", job.id, grpo, main=True)]


def train_set(job: Job) -> str:
    """The dataset that the training file becomes."""
    return f"{job.id}-train"


def valid_set(job: Job) -> str:
    """The dataset that the validation file becomes."""
    return f"{job.id}-valid"


def prompt_set(job: Job) -> str:
    """The prompts that an rlhf job answers: those of its rankings."""
    return f"{job.id}-prompts"


def is_set(job: Job) -> bool:
    """Whether an rlhf job learns from a set of the workspace instead of a file."""
    return str(job.body["training_file"]).startswith("set:")


def _keeping(steps: int, rows: int, how: Mapping[str, Any]) -> dict[str, int]:
    """A model per epoch, as at OpenAI, but no more than `CHECKPOINTS`; and when to be ready for a crash."""
    epoch = math.ceil(rows / how["batch_size"])
    return {"snapshots": max(epoch, _apart(steps)) if how["n_epochs"] > 1 else 0,
            "checkpoint_every": max(1, min(50, steps // 4))}


def _apart(steps: int) -> int:
    return math.ceil(steps / (CHECKPOINTS + 1))


def _number(value: Any) -> int:
    return 0 if value in (None, "auto") else int(value)
