"""Weeks of a loop on the loan desk, with customers that change and simulated labelers (`docs/results/rounds.md`).

    python -m benchmarks.rounds --weeks 5 --seeds 0 1 --out docs/results/rounds.json

Every week brings customers whose wishes and moods have moved on, a round of the loop with at most 150 simulated
verdicts, and a look by the gold rubric at test customers that no round knows: what the loop serves after that week.
`--interactions N` has simulated users react to N answers a week of what the loop serves, and the rounds learn from that
too. The week after the last is poisoned: two of twenty
labelers rank upside down, and one user in five is a manipulator.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import machine
from tunesmith import loop, rounds
from tunesmith.contracts import Sampling
from tunesmith.feedback import simulated, trust
from tunesmith.quickstart import builtin, customers, story, users
from tunesmith.quickstart.builtin import Gold, checks, to_prompt
from tunesmith.records import Answer, Conversation, Prompt
from tunesmith.settings import RoundSettings, SftSettings
from tunesmith.shop import Judge, Shop, engine_of
from tunesmith.statistics import mean_interval, paired_difference, wilson
from tunesmith.store import interactions as log
from tunesmith.store import loops
from tunesmith.store.loops import Round
from tunesmith.store.workspace import Workspace

NAME = "desk"
CUSTOMERS, TESTS = 1000, 960
DRIFT = {"rate": -0.8, "compare": -0.8, "apply": -0.4, "approval": -0.4, "payoff": 0.4, "late": 0.8, "hardship": 0.8,
         "complaint": 0.8}
"""How the logarithm of an intent's weight moves in two weeks."""
PROVOCATIVE = (0.15, 0.22, 0.30, 0.37, 0.45)
"""The share of angry and insulting customers, week by week."""
LABELERS, POISONERS, LABELS, OVERLAP = 20, 2, 150, 3
MANIPULATORS = 0.2
"""The share of a poisoned week's users who manipulate."""


def intents(week: int) -> dict[str, float]:
    """What customers of a week want, 1 to 5; from then on they stay as they are."""
    moved = (min(week, 5) - 3) / 2
    return {k: w * math.exp(DRIFT.get(k, 0.0) * moved) for k, w in customers.INTENT_WEIGHTS.items()}


def settings(**values: Any) -> RoundSettings:
    return RoundSettings(**{
        "name": NAME, "start": f"{NAME}-sft", "prompts": ("week-*",), "held_out": 0.3, "tests": 300, "labels": LABELS,
        "overlap": OVERLAP, "judge": "loan-desk", "safety": ("rude",), "ask": False, "collect": {"max_tokens": 96},
        "reward": {"epochs": 3, "lr": 1e-3}, "evaluate": {"max_tokens": 96},
        "ppo": {"updates": 25, "max_tokens": 96, "epochs": 2, "lr": 6e-4, "kl": 0.15, "checkpoint_every": 10},
        **values})


def add_week(workspace: Workspace, week: int, seed: int) -> None:
    found = customers.sample("train", CUSTOMERS, 100 * seed + week, PROVOCATIVE[min(week, 5) - 1], intents(week))
    rows = list({p.id: p for p in map(to_prompt, found)}.values())
    workspace.add_dataset(f"week-{week}", "prompts", rows, source="loan-desk simulator", licence="Apache-2.0")


class Desk:
    """The gold rubric, also for what users asked, whose prompts come out of the log without their scenario."""

    def __init__(self, file: Path):
        self.file = file
        self.known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def learn(self, prompts: Mapping[str, Prompt]) -> None:
        """Which scenario is behind each prompt."""
        self.known |= {id: dict(p.facts) for id, p in prompts.items()}
        self.file.write_text(json.dumps(self.known))

    def _with_scenario(self, prompt: Prompt) -> Prompt:
        return prompt if "scenario" in prompt.facts else replace(prompt, facts=self.known[prompt.id])

    def score(self, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        return Gold().score(self._with_scenario(prompt), answers)

    def judge(self) -> Judge:
        return replace(builtin.judge(), scorer=self, checks=lambda p, a: checks(self._with_scenario(p), a))


def react(shop: Shop, gold: Desk, count: int, seed: int, poisoned: bool) -> None:
    """A week of users with what the loop serves."""
    name = loops.names(shop.workspace).get(NAME, f"{NAME}-sft")
    engine = engine_of(shop.base_of(name), shop.workspace, [name])

    def write(conversations: Sequence[Conversation], n: int) -> list[list[Answer]]:
        return [answers for start in range(0, len(conversations), 64) for answers in engine.sample(
            conversations[start:start + 64], Sampling(96, seed=seed + start), n=n, model=name)]

    with patch.object(users, "MANIPULATORS", MANIPULATORS if poisoned else users.MANIPULATORS):
        made = users.simulate(count, write, seed)
    log.add(shop.workspace, made.interactions)
    ids = {i.id for i in made.interactions}
    gold.learn({Prompt(i.messages).id: made.prompts[i.id] for i in log.interactions(shop.workspace) if i.id in ids})


def rank(workspace: Workspace, name: str, gold: Desk, seed: int, poisoned: bool) -> None:
    """The panel judges what the round asks; in a poisoned week some turn everything upside down."""
    groups = workspace.groups(name)
    scores = [gold.score(g.prompt, [a.text for a in g.answers]) for g in groups]
    honest = simulated.panel(LABELERS, scores)
    panel = panel_of(honest) if poisoned else honest
    found = list(simulated.judge(groups, gold, panel, per_group=OVERLAP, overlap=0, seed=seed))
    workspace.add_rankings(found[:LABELS])


def adherence(shop: Shop, model: str, prompts: Sequence[Prompt], seed: int) -> list[float]:
    """Guidelines kept by what a model says to each test customer."""
    engine = engine_of(shop.base_of(model), shop.workspace, [model])
    answers = engine.sample([p.messages for p in prompts], Sampling(96, seed=seed), model=model)
    return [float(checks(p, a[0].text)["adherence"] or 0.0) for p, a in zip(prompts, answers)]


def week(shop: Shop, gold: Desk, number: int, seed: int, interactions: int, poisoned: bool) -> Round:
    """One round, with everybody at work at once; what an earlier try left is taken as it is."""
    for done in loops.rounds(shop.workspace, NAME):
        if done.number == number and (not done.open or "evaluate" in done.steps):
            return done
    add_week(shop.workspace, number, seed)
    draw = 1000 * seed + number
    if interactions and len(loops.rounds(shop.workspace, NAME)) < number:
        react(shop, gold, interactions, draw, poisoned)
    while True:
        found = loop.run(shop, settings(seed=seed, interactions=interactions > 0))
        if found.steps.get("check", {}).get("holds") and "evaluate" in found.steps and found.open:
            return loops.refuse(shop.workspace, found, "the data were doubted", "owner")  # whoever looks plays safe
        if "tunesmith studio" not in found.waits:
            return found
        rank(shop.workspace, f"{NAME}-{found.number}-answers", gold, draw, poisoned)


def run(root: Path, weeks: int, seed: int, interactions: int) -> dict[str, Any]:
    """Weeks of one seed, then a poisoned one."""
    workspace = Workspace.open(root)
    gold = Desk(root / "scenarios.json")
    shop = Shop(workspace, lambda _: nullcontext(lambda *_: None), builtin.BASES, {"loan-desk": gold.judge})
    story.prepare(workspace, story.PLAN, "plan", seed, "test")
    rounds.once(shop, "", "sft", f"{NAME}-sft", SftSettings(
        base="loan-desk", data="plan-demonstrations", name=f"{NAME}-sft", seed=seed, lr=2e-3))
    tests = [p for w in range(1, 6) for p in map(to_prompt, customers.sample(
        "test", TESTS // 5, 7000 + 100 * seed + w, PROVOCATIVE[w - 1], intents(w)))]
    tests = list({p.id: p for p in tests}.values())
    kept = {"start": adherence(shop, f"{NAME}-sft", tests, seed)}
    rows: list[dict[str, Any]] = []
    for number in [*range(1, weeks + 1), weeks + 1]:
        began, poisoned = time.monotonic(), number > weeks
        found = week(shop, gold, number, seed, interactions, poisoned)
        serves = [a for a in loops.adoptions(workspace, NAME) if a.number <= number][-1]
        kept[str(number)] = adherence(shop, serves.adapter, tests, seed)
        rows.append({"week": number, "poisoned": poisoned, "status": found.status, "waits": found.waits,
                     "why": found.steps.get("adopt", {}).get("why", ""), "serves": serves.adapter,
                     "labels": found.steps["rank"]["verdicts"], "seconds": round(time.monotonic() - began),
                     "suspects": {**found.steps["check"]["suspects"], **found.steps["check"]["suspects now"]},
                     "holds": found.steps["check"]["holds"], "notes": found.steps["check"]["notes"],
                     "drift": found.steps["check"]["drift"],
                     "mined": {k: v for k, v in found.steps["mine"].items() if k != "at"},
                     "held_out": found.steps["reward"]["held_out"].get("accuracy"),
                     "preference": found.steps["evaluate"]["figures"]["preference"],
                     "gold": mean_interval(kept[str(number)], seed=seed).to_dict()})
        print(json.dumps(rows[-1]), flush=True)
    return {"seed": seed, "start": mean_interval(kept["start"], seed=seed).to_dict(), "weeks": rows,
            "tests": len(tests), "each": {k: [round(x, 4) for x in v] for k, v in kept.items()}}


def power(workspace: Workspace, week: int, draws: int) -> list[dict[str, Any]]:
    """How often the verdicts of one poisoned week give a poisoner away, and those of an honest one name anybody, by how
    many people judge the same answers; the number of verdicts stays. Panels are drawn anew, nothing is trained."""
    gold, every = Gold(), workspace.groups(f"{NAME}-{week}-answers")
    honest = simulated.panel(LABELERS, [gold.score(g.prompt, [a.text for a in g.answers]) for g in every])
    poisoned = panel_of(honest)
    rows = []
    for overlap in (2, 3, 5):
        groups = every[:LABELS // overlap]
        named: dict[str, list[set[str]]] = {"poisoned": [], "honest": []}
        for draw in range(draws):
            for kind, panel in (("poisoned", poisoned), ("honest", honest)):
                found = list(simulated.judge(groups, gold, panel, per_group=overlap, overlap=0, seed=7000 + draw))
                seen = trust.report(groups, found).labelers
                named[kind].append({t.labeler for t in seen if t.action == "quarantine"})
        bad = {who.name for who in poisoned if who.kind == "adversarial"}
        rows.append({"overlap": overlap, "groups": len(groups), "draws": draws,
                     "caught": wilson(sum(bool(n & bad) for n in named["poisoned"]), draws).to_dict(),
                     "false alarm": wilson(sum(bool(n) for n in named["honest"]), draws).to_dict()})
    return rows


def panel_of(honest: Sequence[simulated.SimulatedLabeler]) -> tuple[simulated.SimulatedLabeler, ...]:
    """The panel of a poisoned week."""
    return (*(replace(who, kind="adversarial") for who in honest[:POISONERS]), *honest[POISONERS:])


def last_over_first(run: Mapping[str, Any], weeks: int) -> dict[str, Any]:
    """The paired difference of adherence between the last honest week and the first, over a seed's customers."""
    return paired_difference(run["each"][str(weeks)], run["each"]["1"]).to_dict()


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--weeks", type=int, default=5)
    asked.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked.add_argument("--interactions", type=int, default=0, help="of users in a week")
    asked.add_argument("--root", type=Path, required=True, help="where the workspaces lie; a stopped run goes on")
    asked.add_argument("--power", type=int, default=0, metavar="DRAWS", help="only: how often a poisoned week shows")
    asked.add_argument("--out", type=Path)
    given = asked.parse_args()
    if given.power:
        return print(json.dumps(power(Workspace.open(given.root / f"seed-{given.seeds[0]}"), given.weeks, given.power)))
    found = [run(given.root / f"seed-{seed}", given.weeks, seed, given.interactions) for seed in given.seeds]
    result = {"machine": machine.describe(), "runs": [{k: v for k, v in one.items() if k != "each"} for one in found],
              "last over first": [last_over_first(one, given.weeks) for one in found]}
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["last over first"]))


if __name__ == "__main__":
    main()
