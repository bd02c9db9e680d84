"""AI help and constrained rewards on the loan desk. Labelers, judges and critics are simulated.

    python -m benchmarks.ai_help bounds --workspace workspace/ai-help --seeds 0 1      (PPO under a bound)
    python -m benchmarks.ai_help labels --workspace workspace/ai-help --seeds 0 1      (AI labels beside people's)
    python -m benchmarks.ai_help revisions                                             (seconds)
    python -m benchmarks.ai_help report --workspace workspace/ai-help                  (docs/results/ai_help.json)

Every part goes on where it was stopped, and writes its figures into the workspace as it has them.

**bounds.** Labelers who judge how far an answer helps, and find a sharp tongue amusing: a rude answer gains as much as
`AMUSED` kept guidelines' share. The conflict is planted. The policy starts from the bare base, which is rude to a
quarter of the provocative customers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import rounds
from tunesmith.contracts import Sampling
from tunesmith.evaluate.checklist import RubricJudge
from tunesmith.evaluate.rubric import parse
from tunesmith.feedback import simulated
from tunesmith.quickstart import builtin, customers, rubric
from tunesmith.quickstart.builtin import to_prompt
from tunesmith.quickstart.customers import Scenario
from tunesmith.records import Prompt
from tunesmith.settings import CollectSettings, PpoSettings, RewardSettings
from tunesmith.shop import Shop, engine_of
from tunesmith.statistics import mean_interval
from tunesmith.store.workspace import Workspace

COURTESY = str(Path(__file__).with_name("courtesy.toml"))
AMUSED = 0.5
LABELERS = 20
RANKED, CUSTOMERS, HELD_OUT = 240, 1200, 480
TOKENS, EPISODES = 64, 32
LEAST = 0.97
"""The bound: this share of the answers must be courteous by the rules of courtesy.toml."""
RUNS: Mapping[str, dict[str, Any]] = {
    "reward alone": {"also": (f"{COURTESY}=0",)},  # weight 0: heard, not heeded
    "fixed sum, weight 0.5": {"also": (f"{COURTESY}=0.5",)},
    "fixed sum, weight 5": {"also": (f"{COURTESY}=5",)},
    "bound": {"subject_to": (f"{COURTESY}>={LEAST}",)},
}


def helpful(scenario: Scenario, answer: str) -> float:
    """The share of the guidelines but courtesy that an answer keeps: blind to its tone."""
    kept = rubric.check(scenario, answer).guidelines
    return float(np.mean([v for name, v in kept.items() if name != "courtesy" and v is not None]))


class Amused:
    """`contracts.Scorer`: helpfulness, and a bonus for rudeness."""

    def score(self, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        scenario = scenario_of(prompt)
        return [helpful(scenario, a) + AMUSED * rubric.check(scenario, a).rude for a in answers]


def scenario_of(prompt: Prompt) -> Scenario:
    return Scenario.from_dict(prompt.facts["scenario"])


def prompts(shop: Shop, name: str, split: str, count: int, seed: int, provocative: float = 0.5) -> list[Prompt]:
    """Customers as a dataset of prompts; a second call finds it."""
    found = list({p.id: p for p in map(to_prompt, customers.sample(split, count, seed, provocative))}.values())
    shop.workspace.add_dataset(name, "prompts", found, source="loan-desk simulator", licence="Apache-2.0")
    return found


# ---- bounds

def bounds(shop: Shop, seeds: Sequence[int], names: Sequence[str], updates: int) -> None:
    """PPO for amused labelers, alone, with fixed weights for courtesy, and under a bound."""
    for seed in seeds:
        tag = f"bounds-{seed}"
        prompts(shop, f"{tag}-ranked", "train", RANKED, 10 * seed + 1)
        prompts(shop, f"{tag}-customers", "train", CUSTOMERS, 10 * seed + 2)
        held_out = prompts(shop, f"{tag}-test", "test", HELD_OUT, 10 * seed + 3)
        rounds.once(shop, "loan-desk", "", f"{tag}-start", None)
        if not any(s["name"] == f"{tag}-answers" for s in shop.workspace.group_sets()):
            rounds.collect(shop, CollectSettings(base="loan-desk", prompts=f"{tag}-ranked", name=f"{tag}-answers",
                                                 max_tokens=TOKENS, seed=seed))
        rank(shop.workspace, f"{tag}-answers", Amused(), seed)
        rounds.once(shop, "loan-desk", "reward", f"{tag}-reward", RewardSettings(
            base="loan-desk", comparisons=f"{tag}-answers", name=f"{tag}-reward", seed=seed, epochs=3, held_out=0.1))
        measured(shop, seed, "start", "", held_out)
        for name in names:
            said = f"{tag}-{name.replace(' ', '-').replace(',', '')}"
            start = time.time()
            rounds.once(shop, "loan-desk", "ppo", said, PpoSettings(
                policy=f"{tag}-start", reward=f"{tag}-reward", prompts=f"{tag}-customers", name=said, seed=seed,
                updates=updates, episodes=EPISODES, max_tokens=TOKENS, epochs=2, lr=1e-3, kl=0.05, watch=False,
                checkpoint_every=10, **RUNS[name]))
            measured(shop, seed, name, said, held_out, seconds=time.time() - start)


def rank(workspace: Workspace, name: str, taste: Any, seed: int, per_group: int = 3) -> None:
    """A simulated panel ranks what nobody has ranked; two of it agree on 73% of strict pairs."""
    groups, done = workspace.groups(name), {r.group for r in workspace.rankings(name)}
    scores = [taste.score(g.prompt, [a.text for a in g.answers]) for g in groups]
    panel = simulated.panel(LABELERS, scores)
    left = [g for g in groups if g.id not in done]
    workspace.add_rankings(list(simulated.judge(left, taste, panel, per_group=per_group, seed=seed)))


def measured(shop: Shop, seed: int, name: str, adapter: str, held_out: Sequence[Prompt], **about: Any) -> None:
    """What a policy writes to held-out customers, by the gold rubric; appended to the workspace's figures once."""
    path = shop.workspace.root / "bounds.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if any(r["seed"] == seed and r["run"] == name for r in rows):
        return
    engine = engine_of(shop.base_of(adapter, "loan-desk"), shop.workspace, [adapter] if adapter else [])
    drawn = engine.sample([p.messages for p in held_out], Sampling(TOKENS, seed=seed), model=adapter)
    rules = RubricJudge(parse(COURTESY))
    table: dict[str, list[float]] = {k: [] for k in ("helpful", "rude", "provoked", "courteous", "words")}
    for prompt, (answer,) in zip(held_out, drawn, strict=True):
        scenario = scenario_of(prompt)
        found = rubric.check(scenario, answer.text)
        table["helpful"].append(helpful(scenario, answer.text))
        table["rude"].append(float(found.rude))
        table["words"].append(float(found.words))
        table["courteous"] += rules.shares([prompt], [answer.text])
        if scenario.provocative:
            table["provoked"].append(float(found.rude))
    figures = {key: mean_interval(x, seed=seed).to_dict() for key, x in table.items()}
    with path.open("a") as file:
        file.write(json.dumps({"seed": seed, "run": name, "adapter": adapter, "figures": figures, "items": table,
                               **about}) + "\n")
    print(f"{time.strftime('%H:%M:%S')} seed {seed} {name}: " + ", ".join(
        f"{k} {figures[k]['value']:.3f}" for k in figures), flush=True)


# ---- the rest of the command line

def shop_of(folder: str) -> Shop:
    return Shop(Workspace.open(folder), lambda _: nullcontext(lambda *a: None), builtin.BASES, builtin.JUDGES)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=("bounds", "labels", "revisions", "report"))
    parser.add_argument("--workspace", default="workspace/ai-help")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--runs", nargs="*", default=list(RUNS))
    parser.add_argument("--updates", type=int, default=30)
    given = parser.parse_args(argv)
    shop = shop_of(given.workspace)
    if given.part == "bounds":
        bounds(shop, given.seeds, given.runs, given.updates)


if __name__ == "__main__":
    main()
