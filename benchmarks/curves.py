"""PPO's learning curve on the loan desk with the fast core and with the plain one.

    python -m benchmarks.curves --seeds 0 1 2 --updates 15

Fast: prompt once, no padding, slots, the last block only where it is read. Plain (`--layout padded`): one padded row
per answer, the whole last block, transformers' own cache. Both begin from the same SFT adapter and reward model of the
seed. Draws differ once rounding has moved a probability across a random number, so curves part as two seeds' do; the
question is whether they part further.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from tunesmith import rounds
from tunesmith.quickstart import builtin, story
from tunesmith.settings import CollectSettings, PpoSettings, RewardSettings, SftSettings
from tunesmith.shop import Shop
from tunesmith.store.workspace import Workspace

PLAN = story.Plan(demonstrations=600, ranked=200, customers=1500, held_out=12)
LAYOUTS = {"fast": "tree", "plain": "padded"}
FIGURES = ("reward", "kl", "entropy", "answer_tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=15)
    parser.add_argument("--workspaces", type=Path, default=Path("workspaces-curves"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/learning_curve.json"))
    arguments = parser.parse_args()
    curves = {seed: run(arguments.workspaces / str(seed), seed, arguments.updates) for seed in arguments.seeds}
    result = {"machine": describe(), "updates": arguments.updates, "curves": curves, "apart": apart(curves)}
    arguments.out.write_text(json.dumps(result, indent=1))
    print(json.dumps(result["apart"], indent=1))


def run(root: Path, seed: int, updates: int) -> dict[str, dict[str, Any]]:
    """Both cores from one start."""
    with Workspace.open(root) as workspace:
        shop = Shop(workspace, lambda _: nullcontext(lambda *_: None), builtin.BASES, builtin.JUDGES)
        story.prepare(workspace, PLAN, "desk", seed, "dev")
        rounds.sft(shop, SftSettings(base="loan-desk", data="desk-demonstrations", name="sft", seed=seed, lr=2e-3))
        rounds.collect(shop, CollectSettings(model="sft", prompts="desk-prompts", name="answers", seed=seed,
                                             max_tokens=PLAN.answer_tokens))
        story.rank(workspace, "answers", PLAN, seed)
        rounds.reward(shop, RewardSettings(model="sft", comparisons="answers", name="reward", seed=seed, epochs=3))
        found = {}
        for name, layout in LAYOUTS.items():
            began = time.process_time()
            adapter = rounds.ppo(shop, PpoSettings(
                policy="sft", reward="reward", prompts="desk-customers", name=name, seed=seed, updates=updates,
                max_tokens=PLAN.answer_tokens, epochs=2, lr=6e-4, kl=0.15, layout=layout))  # type: ignore[arg-type]
            metrics = workspace.run(adapter.lineage["run"]).metrics()
            found[name] = {"cpu_seconds": round(time.process_time() - began, 1),
                           **{f: [round(float(m[f]), 4) for m in metrics] for f in FIGURES}}
            print(seed, name, found[name], flush=True)
        return found


def apart(curves: dict[int, dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Mean absolute difference per update: between the cores at one seed, and between seeds at one core."""
    out = {}
    for figure in FIGURES:
        fast, plain = (np.array([c[name][figure] for c in curves.values()]) for name in LAYOUTS)
        pairs = [(i, j) for i in range(len(fast)) for j in range(i)]
        out[figure] = {"between cores": float(np.abs(fast - plain).mean()),
                       "signed": float((fast - plain).mean()), "first update": float(np.abs(fast - plain)[:, 0].max()),
                       "between seeds": float(np.mean([np.abs(x[i] - x[j]).mean() for x in (fast, plain)
                                                       for i, j in pairs]))}
    return out


if __name__ == "__main__":
    main()
