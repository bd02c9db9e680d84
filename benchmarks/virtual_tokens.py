"""What virtual tokens should start from, real text or random numbers, on a task that the bundled base does not know.

    python -m benchmarks.virtual_tokens [--seeds N] [--only KIND START LR]

A loan-desk customer is to be named by intent and mood ("complaint, worried"): 800 customers, two passes in batches of
8, judged on 300 others. Prints one line of JSON per run: the loss per token before and after, and the share of
customers both of whose names are the likeliest ones.
"""

from __future__ import annotations

import argparse
import json
import math
import time

import torch

from tunesmith.model import adapters
from tunesmith.model import base as bases
from tunesmith.model.base import Base
from tunesmith.model.batch import Tree, build, hidden, split
from tunesmith.ops import logprobs
from tunesmith.quickstart import customers
from tunesmith.quickstart.builtin import BASES, to_prompt
from tunesmith.records import Demonstration, Message
from tunesmith.train import sft
from tunesmith.train.learner import Learner, indices

CUSTOMERS, UNSEEN, BATCH, PASSES, TOKENS = 800, 300, 8, 2, 20
PLAN = (("prefix", "text", 0.1), ("prefix", "random", 0.1), ("prefix", "text", 0.3), ("prefix", "random", 0.3),
        ("prompt", "text", 0.1), ("prompt", "random", 0.1), ("lora", "", 2e-3))
"""Kind, start, learning rate. Random is PEFT's: normal numbers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs=3, metavar=("KIND", "START", "LR"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for kind, start, lr in [chosen.only] if chosen.only else PLAN:
        for seed in range(chosen.seeds):
            print(json.dumps(run(kind, start, float(lr), seed)), flush=True)


def run(kind: str, start: str, lr: float, seed: int) -> dict[str, object]:
    """Train an adapter and judge it."""
    base = bases.load(BASES["loan-desk"])
    trees, unseen = (sft.encode(base, demonstrations(n, s), base.context - TOKENS)[0]
                     for n, s in ((CUSTOMERS, seed), (UNSEEN, 1000 + seed)))
    adapters.attach(base, "policy", adapters.Method(kind, virtual_tokens=TOKENS), seed)  # type: ignore[arg-type]
    weights = adapters.trainable(base, "policy")
    if start == "random":
        generator = torch.Generator().manual_seed(seed)
        for p in weights.values():
            p.data = torch.randn(p.shape, generator=generator)
    steps = math.ceil(len(trees) * PASSES / BATCH)
    learner = Learner(weights, steps, lr, warmup=0.05)
    before, _ = judge(base, unseen)
    began = time.process_time()
    for step in range(steps):
        sft.forward_backward(base, learner, [trees[i] for i in indices(len(trees), seed, step * BATCH, BATCH)])
        learner.step()
    seconds = time.process_time() - began
    loss, accuracy = judge(base, unseen)
    return {"kind": kind, "start": start, "lr": lr, "seed": seed, "steps": steps, "before": round(before, 4),
            "loss": round(loss, 4), "accuracy": round(accuracy, 4), "core_seconds": round(seconds, 1),
            "trained": sum(p.numel() for p in weights.values())}


def demonstrations(count: int, seed: int) -> list[Demonstration]:
    """Customers and what they want."""
    return [Demonstration((*to_prompt(s).messages, Message("assistant", f"{s.intent}, {s.mood}")))
            for s in customers.sample("train", count, seed)]


@torch.no_grad()
def judge(base: Base, trees: list[Tree]) -> tuple[float, float]:
    """Loss per token, and the share of answers whose every token is the likeliest."""
    total, count, right = 0.0, 0, 0
    with adapters.active(base, "policy"):
        for part in split(trees, 4096):
            batch = build([trees[i] for i in part])
            states = hidden(base, batch, at=batch.source_N)
            total -= float(logprobs.from_hidden(states, base.head, batch.target_N).sum())
            wrong = (base.logits(states).argmax(-1) != batch.target_N).float()
            right += int((batch.table(wrong).sum(1) == 0).sum())
            count += len(batch.target_N)
    return total / count, right / len(trees)


if __name__ == "__main__":
    main()
