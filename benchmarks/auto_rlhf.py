"""Preferences from users' reactions against rankings by people: how much of the gain do they reach?

    python -m benchmarks.auto_rlhf --seeds 0 1 --split test --out docs/results
    python -m benchmarks.auto_rlhf --seeds 1 --contrary --workspaces workspace/contrary --out docs/results

Five arms start from one SFT model of the loan desk and end in a policy, by the same reward model and PPO settings:

    rankings     500 prompts, four answers each, one ranking by one of 20 simulated labelers (two agree on 73% of pairs)
    calibrated   5,000 simulated interactions, reactions weighed by rankings of a small overlap (`tunesmith mine`)
    fixed        the same interactions, reactions weighed by guesses (`signals.GUESSES`)
    overlap      the rankings of that overlap alone
    both         calibrated reactions, and the rankings that calibrated them (`tunesmith mine --with-ranked`)

In the arms "calibrated" and "fixed" no reward model sees the overlap's rankings. What people, users and labelers do is
simulated (`quickstart.users`, `feedback.simulated`); the judge is the gold rubric, which no training reads. With
`--contrary` users have habits that no guess fits (`reactions.CONTRARY`). Every step leaves its result in the workspace
and is passed over when it is there, so a killed run goes on; `--only` does some of the steps.
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
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.quickstart import machine
from benchmarks.reactions import CONTRARY
from tunesmith import evaluation, mining, rounds
from tunesmith.contracts import Sampling
from tunesmith.evaluate import compare
from tunesmith.feedback import simulated
from tunesmith.model.scorer import RewardModel
from tunesmith.quickstart import builtin, story, users
from tunesmith.quickstart.builtin import Gold
from tunesmith.records import Answer, Conversation, Prompt
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
from tunesmith.statistics import Floats, Interval, bootstrap_mean, bootstrap_ratio
from tunesmith.store import interactions as log
from tunesmith.store.sets import set_names
from tunesmith.store.workspace import Workspace

ARMS = ("rankings", "calibrated", "fixed", "overlap", "both")
MINED = ("calibrated", "fixed", "both")
RANKED, INTERACTIONS, OVERLAP, UPDATES, HELD_OUT = 500, 5000, 300, 25, 480
PLAN = story.Plan(ranked=RANKED, customers=UPDATES * 64, held_out=HELD_OUT, rankings=1)
BATCH, CHOSEN = 64, 300


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


def mine(arm: str, shop: Shop, seed: int, split: str) -> None:
    guessed = arm == "fixed"
    found = mining.mine(shop, MineSettings(
        name=arm, weights="fixed" if guessed else "calibrated", ranked=() if guessed else ("overlap",),
        with_ranked=arm == "both", seed=seed))
    (shop.workspace.root / f"mined-{arm}.json").write_text(json.dumps(found.figures, indent=1))


def reward(arm: str, shop: Shop, seed: int, split: str) -> None:
    ranked = arm in ("rankings", "overlap")
    rounds.reward(shop, RewardSettings(
        model="sft", comparisons="ranked" if arm == "rankings" else arm, name=f"reward-{arm}", seed=seed,
        epochs=3 if ranked else 1, consensus="ability" if ranked else "none", batch=16, lr=1e-3, threads=1))


def ppo(arm: str, shop: Shop, seed: int, split: str) -> None:
    rounds.ppo(shop, PpoSettings(
        policy="sft", reward=f"reward-{arm}", prompts="desk-customers", name=f"ppo-{arm}", seed=seed, updates=UPDATES,
        episodes=64, max_tokens=PLAN.answer_tokens, epochs=2, lr=6e-4, kl=0.15, checkpoint_every=5, threads=1))


def choose(shop: Shop, seed: int, split: str) -> None:
    """Each reward model chooses the best of four answers of the SFT model to held-out customers."""
    base = shop.base_of("sft")
    engine = engine_of(base, shop.workspace, ["sft"])
    prompts = [p for p in shop.workspace.dataset(f"desk-{split}").rows() if isinstance(p, Prompt)][:CHOSEN]
    answers = [[a.text for a in four] for four in write(engine, seed + 50, [p.messages for p in prompts], 4)]
    gold = [Gold().score(p, four) for p, four in zip(prompts, answers)]
    kept = [[float(builtin.checks(p, a)["adherence"] or 0) for a in four] for p, four in zip(prompts, answers)]
    folders = {arm: shop.workspace.adapter(f"reward-{arm}").path for arm in ARMS}
    rewards = {arm: RewardModel.load(base, folder, arm).score_all(prompts, answers) for arm, folder in folders.items()}
    (shop.workspace.root / "chosen.json").write_text(json.dumps({"gold": gold, "adherence": kept, "rewards": rewards}))


def judge(shop: Shop, seed: int, split: str) -> None:
    models = tuple(f"ppo-{arm}" for arm in ARMS if has(f"ppo-{arm}")(shop.workspace))
    evaluation.evaluate(shop, EvaluateSettings(
        models=models, against=("sft",), prompts=f"desk-{split}", judge="loan-desk", name="held-out",
        max_tokens=PLAN.answer_tokens, seed=seed))


Step = tuple[str, Callable[[Shop, int, str], None], Callable[[Workspace], bool]]


def has(name: str) -> Callable[[Workspace], bool]:
    return lambda workspace: workspace.find_adapter(name) is not None


def mined(arm: str, workspace: Workspace) -> bool:
    return (workspace.root / f"mined-{arm}.json").exists()


def chosen(workspace: Workspace) -> bool:
    """By all arms, also those that came later."""
    file = workspace.root / "chosen.json"
    return file.exists() and set(ARMS) <= set(json.loads(file.read_text())["rewards"])


def judged(workspace: Workspace) -> bool:
    file = workspace.root / "reports" / "held-out" / "comparison.jsonl"
    return file.exists() and {f"ppo-{arm}" for arm in ARMS} <= set(compare.load(file).models)


STEPS: list[Step] = [
    ("sft", sft, has("sft")),
    ("rank", rank, lambda w: "ranked" in set_names(w) and len(w.rankings("ranked")) >= 0.9 * RANKED),
    ("interact", interact, lambda w: "overlap" in set_names(w) and bool(w.rankings("overlap"))),
    *((f"mine-{arm}", partial(mine, arm), partial(mined, arm)) for arm in MINED),
    *(step for arm in ARMS for step in ((f"reward-{arm}", partial(reward, arm), has(f"reward-{arm}")),
                                        (f"ppo-{arm}", partial(ppo, arm), has(f"ppo-{arm}")))),
    ("choose", choose, chosen),
    ("judge", judge, judged),
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
    """All seeds' figures: of the best of four answers, and of policies where all arms have one."""
    result: dict[str, Any] = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "split": split,
                              "seeds": list(roots), "machine": machine(), "mined": {}, "rewards": {}}
    for seed, root in roots.items():
        result["mined"][seed] = {arm: json.loads((root / f"mined-{arm}.json").read_text()) for arm in MINED}
        with Workspace.open(root) as workspace:
            result["rewards"][seed] = {r.settings["name"]: {k: r.summary[k] for k in ("seconds", "groups", "held_out")}
                                       for r in workspace.runs() if r.command == "reward" and "held_out" in r.summary}
    drawn = {seed: json.loads((root / "chosen.json").read_text()) for seed, root in roots.items()}
    result["pairs"] = {arm: [ordered(d["rewards"][arm], d["gold"]) for d in drawn.values()] for arm in ARMS}
    result["best of four"] = {key: compared([best_of(d, key) for d in drawn.values()]) for key in ("adherence", "gold")}
    if all((root / "reports" / "held-out" / "comparison.jsonl").exists() for root in roots.values()):
        found = [compare.load(root / "reports" / "held-out" / "comparison.jsonl") for root in roots.values()]
        result["policies"] = {key: compared([policies(c, key) for c in found]) for key in ("adherence", "score")}
    return result


def ordered(rewards: Sequence[Sequence[float]], gold: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The share of pairs of answers to one prompt that a reward model orders as the rubric does; bootstrap over
    prompts."""
    right, strict = [], []
    for r, g in zip(np.array(rewards), np.array(gold), strict=True):
        i, j = np.triu_indices(len(r), 1)
        apart = g[i] != g[j]
        right.append(float(((r[i] > r[j]) == (g[i] > g[j]))[apart].sum()))
        strict.append(float(apart.sum()))
    return bootstrap_ratio(right, strict).to_dict()


def best_of(drawn: dict[str, Any], key: str) -> dict[str, Floats]:
    """By arm: what the answer that its reward model likes best is worth; "sft": the mean of the four."""
    value = np.array(drawn[key])
    rows = np.arange(len(value))
    return {"sft": value.mean(1), **{arm: value[rows, np.argmax(r, axis=1)] for arm, r in drawn["rewards"].items()}}


def policies(found: compare.Comparison, key: str) -> dict[str, Floats]:
    """By arm: one number per prompt, a check's or the rubric's score."""
    return {m.removeprefix("ppo-"): np.array([j.score if key == "score" else float(j.checks[key] or 0) for j in judged])
            for m, judged in found.judged.items()}


def compared(seeds: Sequence[dict[str, Floats]]) -> dict[str, Any]:
    """Means of each arm, its gain as a share of the gain of rankings, and what the calibrated one has more."""
    there = [arm for arm in ARMS if all(arm in s for s in seeds)]
    return {"mean": {arm: [float(s[arm].mean()) for s in seeds] for arm in ("sft", *there)},
            "share": {arm: share(seeds, arm) for arm in there[1:]},
            **{f"{one} over": {arm: bootstrap_mean(np.concatenate([s[one] - s[arm] for s in seeds])).to_dict()
                               for arm in there if arm != one} for one in ("calibrated", "both") if one in there}}


def share(seeds: Sequence[dict[str, Floats]], arm: str, resamples: int = 2000) -> dict[str, Any]:
    """Gain of an arm as a share of the gain of rankings; prompts (and seeds, if there are several) drawn anew."""
    def of(picks: Sequence[tuple[dict[str, Floats], NDArray[np.int64]]]) -> float:
        gain, whole = (np.mean([(s[name] - s["sft"])[rows].mean() for s, rows in picks]) for name in (arm, "rankings"))
        return float(gain / whole)

    rng = np.random.default_rng(0)
    every = [(s, np.arange(len(s["sft"]))) for s in seeds]
    drawn = [of([(s, rng.integers(0, len(rows), len(rows))) for s, rows in
                 (every[k] for k in rng.integers(0, len(every), len(every)))]) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {**Interval(of(every), float(low), float(high), sum(len(rows) for _, rows in every)).to_dict(),
            "each": [of([one]) for one in every]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--split", choices=["dev", "test"], default="test")
    parser.add_argument("--workspaces", type=Path, default=Path("workspace/auto-rlhf"))
    parser.add_argument("--contrary", action="store_true", help="users whose habits no guess fits")
    parser.add_argument("--only", nargs="*", default=[], help=f"of {', '.join(name for name, _, _ in STEPS)}")
    parser.add_argument("--out", type=Path, help="write the figures of all seeds there")
    arguments = parser.parse_args()
    roots = {seed: arguments.workspaces / f"seed-{seed}" for seed in arguments.seeds}
    with patch.object(users, "HABITS", {**users.HABITS, **(CONTRARY if arguments.contrary else {})}):
        for seed, root in roots.items():
            run(root, seed, arguments.split, arguments.only)
    if arguments.out:
        result = collect(roots, arguments.split)
        arguments.out.mkdir(parents=True, exist_ok=True)
        name = "auto_rlhf_contrary.json" if arguments.contrary else "auto_rlhf.json"
        (arguments.out / name).write_text(json.dumps(result, indent=1))
        print(json.dumps({k: result[k] for k in ("pairs", "best of four", "policies") if k in result}, indent=1))


if __name__ == "__main__":
    main()
