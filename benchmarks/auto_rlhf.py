"""Preferences from users' reactions against rankings by people: how much of the gain do they reach?

    python -m benchmarks.auto_rlhf --seeds 0 1 --split test --out docs/results

Three arms start from one SFT model of the loan desk and end in a policy, by the same reward model and PPO settings:

    rankings     500 prompts, four answers each, one ranking by one of 20 simulated labelers (two agree on 73% of pairs)
    calibrated   5,000 simulated interactions, reactions weighed by rankings of a small overlap (`tunesmith mine`)
    fixed        the same interactions, reactions weighed by guesses (`signals.GUESSES`)

The overlap's rankings only calibrate; no reward model sees them. What people, users and labelers do is simulated
(`quickstart.users`, `feedback.simulated`); the judge is the gold rubric, which no training reads. Every step leaves its
result in the workspace and is passed over when it is there, so a killed run goes on; `--only` does some of the steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quickstart import machine
from tunesmith import evaluation, mining, rounds
from tunesmith.contracts import Sampling
from tunesmith.evaluate import compare
from tunesmith.feedback import simulated
from tunesmith.quickstart import builtin, story, users
from tunesmith.quickstart.builtin import Gold
from tunesmith.records import Answer, Conversation
from tunesmith.settings import (
    CollectSettings,
    EvaluateSettings,
    MineSettings,
    OverlapSettings,
    PpoSettings,
    RewardSettings,
    SftSettings,
)
from tunesmith.shop import Shop, engine_of
from tunesmith.statistics import Interval, bootstrap_mean, t_interval
from tunesmith.store import interactions as log
from tunesmith.store.sets import set_names
from tunesmith.store.workspace import Workspace

ARMS = ("rankings", "calibrated", "fixed")
RANKED, INTERACTIONS, OVERLAP, UPDATES, HELD_OUT = 500, 5000, 300, 25, 480
PLAN = story.Plan(ranked=RANKED, customers=UPDATES * 64, held_out=HELD_OUT, rankings=1)
BATCH = 64


def sft(shop: Shop, seed: int, split: str) -> None:
    story.prepare(shop.workspace, PLAN, "desk", seed, split)
    rounds.sft(shop, SftSettings(base="loan-desk", data="desk-demonstrations", name="sft", seed=seed, epochs=2,
                                 batch=16, lr=2e-3, threads=1))


def rank(shop: Shop, seed: int, split: str) -> None:
    """500 prompts with four answers, each ranked once."""
    rounds.collect(shop, CollectSettings(model="sft", prompts="desk-prompts", name="ranked", seed=seed,
                                         max_tokens=PLAN.answer_tokens))
    groups, gold = shop.workspace.groups("ranked"), Gold()
    panel = simulated.panel(PLAN.labelers, [gold.score(g.prompt, [a.text for a in g.answers]) for g in groups])
    shop.workspace.add_rankings(list(simulated.judge(groups, gold, panel, overlap=0, seed=seed)))


def interact(shop: Shop, seed: int, split: str) -> None:
    """5,000 interactions into the log, and an overlap of logged answers that labelers rank."""
    engine = engine_of(shop.base_of("sft"), shop.workspace, ["sft"])
    made = users.simulate(INTERACTIONS, partial(write, engine, seed), seed + 10)
    log.add(shop.workspace, made.interactions)
    gold = made.gold(log.interactions(shop.workspace))
    mining.overlap(shop, OverlapSettings(name="overlap", model="sft", count=OVERLAP, seed=seed,
                                         max_tokens=PLAN.answer_tokens))
    groups = shop.workspace.groups("overlap")
    panel = simulated.panel(PLAN.labelers, [gold.score(g.prompt, [a.text for a in g.answers]) for g in groups])
    shop.workspace.add_rankings(list(simulated.judge(groups, gold, panel, overlap=0, seed=seed)))


def write(engine: Any, seed: int, conversations: Sequence[Conversation], n: int) -> list[list[Answer]]:
    """The served model."""
    out: list[list[Answer]] = []
    for start in range(0, len(conversations), BATCH):
        sampling = Sampling(PLAN.answer_tokens, seed=1_000_000 * (seed + 1) + start)
        out += engine.sample(conversations[start:start + BATCH], sampling, n=n, model="sft")
    return out


def mine(shop: Shop, seed: int, split: str) -> None:
    for arm, ranked in (("calibrated", ("overlap",)), ("fixed", ())):
        found = mining.mine(shop, MineSettings(name=arm, weights=arm, ranked=ranked, seed=seed))  # type: ignore[arg-type]
        (shop.workspace.root / f"mined-{arm}.json").write_text(json.dumps(found.figures, indent=1))


def reward(arm: str, shop: Shop, seed: int, split: str) -> None:
    ranked = arm == "rankings"
    rounds.reward(shop, RewardSettings(
        model="sft", comparisons="ranked" if ranked else arm, name=f"reward-{arm}", seed=seed,
        epochs=3 if ranked else 1, consensus="ability" if ranked else "none", batch=16, lr=1e-3, threads=1))


def ppo(arm: str, shop: Shop, seed: int, split: str) -> None:
    rounds.ppo(shop, PpoSettings(
        policy="sft", reward=f"reward-{arm}", prompts="desk-customers", name=f"ppo-{arm}", seed=seed, updates=UPDATES,
        episodes=64, max_tokens=PLAN.answer_tokens, epochs=2, lr=6e-4, kl=0.15, checkpoint_every=5, threads=1))


def judge(shop: Shop, seed: int, split: str) -> None:
    evaluation.evaluate(shop, EvaluateSettings(
        models=tuple(f"ppo-{arm}" for arm in ARMS), against=("sft",), prompts=f"desk-{split}", judge="loan-desk",
        name="held-out", max_tokens=PLAN.answer_tokens, seed=seed))


Step = tuple[str, Callable[[Shop, int, str], None], Callable[[Workspace], bool]]


def has(name: str) -> Callable[[Workspace], bool]:
    return lambda workspace: workspace.find_adapter(name) is not None


STEPS: list[Step] = [
    ("sft", sft, has("sft")),
    ("rank", rank, lambda w: "ranked" in set_names(w) and len(w.rankings("ranked")) >= 0.9 * RANKED),
    ("interact", interact, lambda w: "overlap" in set_names(w) and bool(w.rankings("overlap"))),
    ("mine", mine, lambda w: (w.root / "mined-fixed.json").exists()),
    *(step for arm in ARMS for step in ((f"reward-{arm}", partial(reward, arm), has(f"reward-{arm}")),
                                        (f"ppo-{arm}", partial(ppo, arm), has(f"ppo-{arm}")))),
    ("judge", judge, lambda w: (w.root / "reports" / "held-out" / "report.json").exists()),
]


def run(root: Path, seed: int, split: str, only: Sequence[str]) -> None:
    """The steps of a seed that are not done yet."""
    with Workspace.open(root) as workspace:
        shop = Shop(workspace, lambda _: nullcontext(lambda done, total, metrics: None), builtin.BASES, builtin.JUDGES)
        for name, step, done in STEPS:
            if (not only or name in only) and not done(workspace):
                began = time.monotonic()
                step(shop, seed, split)
                print(f"seed {seed}: {name} in {time.monotonic() - began:.0f} s", flush=True)


def collect(roots: dict[int, Path], split: str) -> dict[str, Any]:
    """All seeds' figures."""
    found = {seed: compare.load(root / "reports" / "held-out" / "comparison.jsonl") for seed, root in roots.items()}
    result: dict[str, Any] = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "split": split,
                              "seeds": list(roots), "machine": machine(), "arms": {}, "share": {}, "mined": {},
                              "rewards": {}}
    for key in ("adherence", "score"):
        values = {seed: {m: _values(c, m, key) for m in c.models} for seed, c in found.items()}
        result["arms"][key] = {m: [float(np.mean(v[m])) for v in values.values()] for m in next(iter(values.values()))}
        result["share"][key] = {arm: share(list(values.values()), arm) for arm in ARMS[1:]}
        result["share"][key]["calibrated over fixed"] = difference(list(values.values()), "calibrated", "fixed")
    for seed, root in roots.items():
        result["mined"][seed] = {arm: json.loads((root / f"mined-{arm}.json").read_text()) for arm in ARMS[1:]}
        with Workspace.open(root) as workspace:
            result["rewards"][seed] = {r.settings["name"]: {k: r.summary[k] for k in ("seconds", "groups", "held_out")}
                                       for r in workspace.runs() if r.command == "reward"}
    return result


def _values(found: compare.Comparison, model: str, key: str) -> np.ndarray:
    """One number per prompt: a check's, or the rubric's score."""
    judged = found.judged[model]
    return np.array([j.score if key == "score" else float(j.checks[key] or 0) for j in judged])


def share(seeds: Sequence[dict[str, np.ndarray]], arm: str, resamples: int = 2000) -> dict[str, Any]:
    """Gain of an arm over SFT as a share of the gain of rankings, prompts and seeds drawn anew."""
    def of(picks: Sequence[tuple[dict[str, np.ndarray], np.ndarray]]) -> float:
        gain, whole = (np.mean([(s[f"ppo-{name}"] - s["sft"])[rows].mean() for s, rows in picks])
                       for name in (arm, "rankings"))
        return float(gain / whole)

    rng = np.random.default_rng(0)
    every = [(s, np.arange(len(s["sft"]))) for s in seeds]
    drawn = [of([(s, rng.integers(0, len(rows), len(rows))) for s, rows in
                 (every[k] for k in rng.integers(0, len(every), len(every)))]) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {**Interval(of(every), float(low), float(high), sum(len(rows) for _, rows in every)).to_dict(),
            "each": [of([one]) for one in every]}


def difference(seeds: Sequence[dict[str, np.ndarray]], one: str, other: str) -> dict[str, Any]:
    """Mean over prompts of one arm less another, the seeds apart and together."""
    each = [float((s[f"ppo-{one}"] - s[f"ppo-{other}"]).mean()) for s in seeds]
    pooled = np.concatenate([s[f"ppo-{one}"] - s[f"ppo-{other}"] for s in seeds])
    return {**bootstrap_mean(pooled).to_dict(), "each": each, "t": t_interval(each).to_dict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--split", choices=["dev", "test"], default="test")
    parser.add_argument("--workspaces", type=Path, default=Path("workspace/auto-rlhf"))
    parser.add_argument("--only", nargs="*", default=[], help=f"of {', '.join(name for name, _, _ in STEPS)}")
    parser.add_argument("--out", type=Path, help="write the figures of all seeds there")
    arguments = parser.parse_args()
    roots = {seed: arguments.workspaces / f"seed-{seed}" for seed in arguments.seeds}
    for seed, root in roots.items():
        run(root, seed, arguments.split, arguments.only)
    if arguments.out:
        result = collect(roots, arguments.split)
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "auto_rlhf.json").write_text(json.dumps(result, indent=1))
        print(json.dumps(result["share"], indent=1))


if __name__ == "__main__":
    main()
