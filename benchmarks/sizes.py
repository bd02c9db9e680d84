"""The worker behind `benchmarks.scaling`: one of our steps at a size that the job's options name."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks import data, ours
from benchmarks.worker import LEARNING_RATE, SEED, Job, serve
from tunesmith.model import adapters
from tunesmith.model import base as bases
from tunesmith.model.batch import Tree
from tunesmith.records import Demonstration, conversation
from tunesmith.settings import SftSettings
from tunesmith.store.workspace import Workspace
from tunesmith.train import sft
from tunesmith.train.learner import Learner

PROMPT, ANSWER = 96, 40
"""Tokens of each prompt and answer where K varies."""


def main() -> None:
    job = Job.from_environment()
    bases.keep_memory()
    serve(job, WORKLOADS[job.workload](job), "torch", "tunesmith")


def trees(job: Job) -> ours.Step:
    """Learn `rows` trees. Options: prompt, answer (tokens), answers (K), layout."""
    o = job.options
    base = ours.load(job)
    adapters.attach(base, "policy", adapters.Method(rank=ours.RANK, alpha=ours.ALPHA), SEED)
    learner = Learner(adapters.trainable(base, "policy"), job.steps, LEARNING_RATE)
    words = cycle(token for row in data.pairs(job.data) for token in row["prompt_ids"])

    def step(number: int) -> Mapping[str, Any]:
        made = [Tree(tuple(islice(words, o["prompt"])),
                     tuple(tuple(islice(words, o["answer"])) for _ in range(o["answers"])),
                     ((1.0,) * o["answer"],) * o["answers"]) for _ in range(job.rows)]
        sft.forward_backward(base, learner, made, o["layout"])
        learner.step()
        return {"units": job.rows, "tokens": sum(t.size for t in made)}

    return step


def dataset(job: Job) -> ours.Step:
    """A whole `sft` of 4 steps on `rows` demonstrations: what a larger dataset costs beside the steps themselves.

    Options: folder, for the workspace.
    """
    base = ours.load(job)
    base.chat.end = base.chat.eos  # learned here, and not only never written
    workspace = Workspace.open(Path(job.options["folder"]) / "workspace")
    workspace.add_dataset("rows", "demonstrations", (
        Demonstration(conversation(data.conversation(r, f"{r['chosen']} {i}")))
        for i, r in enumerate(islice(cycle(data.pairs(job.data)), job.rows))))

    def step(number: int) -> Mapping[str, Any]:
        settings = SftSettings(data="rows", name=f"m{number}", batch=16, epochs=4 * 16 / job.rows, lr=LEARNING_RATE)
        sft.train(workspace, base, settings)
        return {"units": job.rows}

    return step


WORKLOADS = {"trees": trees, "dataset": dataset, "served": ours.answers}


if __name__ == "__main__":
    main()
