"""The quickstart: the whole loop on the loan desk, one call per step.

demonstrations -> SFT -> four answers per prompt -> a simulated panel (and you, if you like) ranks them -> reward
model -> PPO -> held-out customers judge base, SFT and PPO -> report. Every number that a reader may want to change
stands in `PLAN`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith import evaluation, rounds
from tunesmith.evaluation import Made
from tunesmith.feedback import simulated
from tunesmith.quickstart import customers, replies
from tunesmith.quickstart.builtin import Gold, to_prompt
from tunesmith.quickstart.customers import Scenario
from tunesmith.records import Demonstration, Message, Prompt, Record
from tunesmith.settings import (
    CollectSettings,
    EvaluateSettings,
    PpoSettings,
    QuickstartSettings,
    RewardSettings,
    SftSettings,
)
from tunesmith.shop import Shop
from tunesmith.store.workspace import Workspace
from tunesmith.terminal import Terminal


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    demonstrations: int = 1200
    ranked: int = 500
    customers: int = 3000
    held_out: int = 960
    labelers: int = 20
    rankings: int = 3
    updates: int = 60
    episodes: int = 64
    answer_tokens: int = 96


PLAN = Plan()
FAST = Plan(demonstrations=48, ranked=24, customers=48, held_out=24, labelers=4, rankings=1, updates=2, episodes=8,
            answer_tokens=24)
YOU = "you"
PROVOCATIVE = 1 / 3
"""Share of provocative customers among the held-out ones, so that rudeness is measured on a few hundred of them."""


def run(shop: Shop, settings: QuickstartSettings, terminal: Terminal) -> Made:
    """The whole loop; returns where the report is and what it says."""
    plan = FAST if settings.fast else PLAN
    seed = settings.seed
    name = f"desk{'-fast' if settings.fast else ''}-{seed}"
    terminal.say(
        f"Loan desk: {plan.demonstrations} demonstrations, {plan.ranked} ranked prompts, {plan.held_out} "
        f"held-out customers ({settings.split} phrasings); labelers are simulated"
    )
    prepare(shop.workspace, plan, name, seed, settings.split)
    rounds.sft(shop, SftSettings(
        base="loan-desk", data=f"{name}-demonstrations", name=f"{name}-sft", seed=seed, epochs=2, batch=16, lr=2e-3))
    rounds.collect(shop, CollectSettings(
        model=f"{name}-sft", prompts=f"{name}-prompts", name=f"{name}-answers", max_tokens=plan.answer_tokens,
        seed=seed))
    if settings.rank_yourself:
        rank_yourself(shop.workspace, f"{name}-answers", settings.rank_yourself, terminal)
    rank(shop.workspace, f"{name}-answers", plan, seed)
    rounds.reward(shop, RewardSettings(
        model=f"{name}-sft", comparisons=f"{name}-answers", name=f"{name}-reward", seed=seed, epochs=3, batch=16,
        lr=1e-3))
    rounds.ppo(shop, PpoSettings(
        policy=f"{name}-sft", reward=f"{name}-reward", prompts=f"{name}-customers", name=f"{name}-ppo", seed=seed,
        updates=plan.updates, episodes=plan.episodes, max_tokens=plan.answer_tokens, epochs=2, lr=6e-4, kl=0.15,
        checkpoint_every=10))
    return evaluation.evaluate(shop, EvaluateSettings(
        models=(f"{name}-ppo", f"{name}-sft"), against=("base",), prompts=f"{name}-{settings.split}",
        judge="loan-desk", reward=f"{name}-reward", name=name, max_tokens=plan.answer_tokens, seed=seed))


def prepare(workspace: Workspace, plan: Plan, name: str, seed: int, split: str) -> None:
    """Write demonstrations and prompts into the workspace; a second call finds them there."""
    demonstrations = [
        Demonstration(
            (*to_prompt(s).messages, Message("assistant", reply)), source="loan-desk simulator", licence="Apache-2.0"
        )
        for s, reply in replies.demonstrations(plan.demonstrations, seed)
    ]
    _add(workspace, f"{name}-demonstrations", "demonstrations", demonstrations)
    _add(workspace, f"{name}-prompts", "prompts", _prompts(customers.sample("train", plan.ranked, seed + 1)))
    _add(workspace, f"{name}-customers", "prompts", _prompts(customers.sample("train", plan.customers, seed + 2)))
    held_out = customers.sample(split, plan.held_out, seed + 3, provocative=PROVOCATIVE)
    _add(workspace, f"{name}-{split}", "prompts", _prompts(held_out))


def rank(workspace: Workspace, groups_name: str, plan: Plan, seed: int) -> None:
    """A simulated panel ranks what nobody has ranked, two labelers agreeing about as often as people do (73%).

    Several labelers rank each group, as Open-Assistant's volunteers did, because one person's ranking is that noisy.
    """
    groups = workspace.groups(groups_name)
    done = {r.group for r in workspace.rankings(groups_name)}
    gold = Gold()
    scores = [gold.score(g.prompt, [a.text for a in g.answers]) for g in groups]
    panel = simulated.panel(plan.labelers, scores)
    rankings = simulated.judge([g for g in groups if g.id not in done], gold, panel, per_group=plan.rankings, seed=seed)
    workspace.add_rankings(list(rankings))


def rank_yourself(workspace: Workspace, groups_name: str, count: int, terminal: Terminal) -> None:
    """Open the studio until the person has ranked `count` groups; their rankings train beside the panel's."""
    from tunesmith.service import access
    from tunesmith.service.app import create_app, open_server
    from tunesmith.store import team

    server, listener, url = open_server(create_app(workspace, labeler=YOU))
    link = access.entrance(team.link(workspace, YOU, team.SHELL), f"/rank/{groups_name}")
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    terminal.say(f"Rank {count} prompts at {url}{link} ; this goes on when you are done")
    try:
        with terminal.progress("your rankings") as progress:
            done = 0
            while done < count:
                time.sleep(0.5)
                done = len({r.group for r in workspace.rankings(groups_name) if r.labeler == YOU})
                progress(min(done, count), count, {})
    finally:
        server.should_exit = True
        thread.join(timeout=5)


def _prompts(scenarios: Sequence[Scenario]) -> list[Prompt]:
    """Prompts without repeats: two customers may write the same words."""
    return list({p.id: p for p in map(to_prompt, scenarios)}.values())


def _add(workspace: Workspace, name: str, kind: str, rows: Sequence[Record]) -> None:
    workspace.add_dataset(name, kind, rows, source="loan-desk simulator", licence="Apache-2.0")  # type: ignore[arg-type]
