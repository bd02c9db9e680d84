"""A task with real human rewards: an agent that takes coffee orders and calls an ordering API.

Demonstrations (Taskmaster-4) -> SFT; people's thumbs on single actions (Taskmaster-3 and -4: coffee and movie tickets)
-> reward model; both -> PPO on the coffee contexts. `dev` contexts, of other conversations, measure. An action is
words or one API call; `coffee_turns.py` holds the format.

PPO raises the reward model's score by construction. Whether that is progress shows in what PPO never sees: does a
call parse, and is the action the one that a person approved of.

    python examples/coffee_agent.py --data ../shared/data --out docs/results/examples/coffee_agent.json
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from coffee_turns import demonstrations, parsed, thumbs
from common import arguments, auc_interval, bring, cost, finish, named, open_shop, read

from tunesmith import evaluation, rounds
from tunesmith.contracts import Sampling
from tunesmith.errors import TunesmithError
from tunesmith.model.base import Base
from tunesmith.model.engine import LocalEngine
from tunesmith.model.scorer import RewardModel
from tunesmith.records import Answer, AnswerGroup, Prompt
from tunesmith.settings import PpoSettings, RewardSettings, SftSettings
from tunesmith.shop import Shop
from tunesmith.statistics import Interval, auc, mean_interval, paired_difference
from tunesmith.store.workspace import Adapter
from tunesmith.terminal import Terminal

DEMONSTRATIONS, FEEDBACK = "customer_service/tm4_coffee_dialogues", "preferences/task_agent_feedback"
COFFEE, MOVIES = DOMAINS = ("coffee_ordering", "movie_tickets")
ABOUT = {"source": "github.com/google-research-datasets/Taskmaster", "licence": "CC BY 4.0"}
PLAN = {"room": 320, "demonstrations": 2400, COFFEE: 2350, MOVIES: 800, "dev": 400, "updates": 12, "episodes": 48,
        "answer": 120}
FAST = {"room": 160, "demonstrations": 16, COFFEE: 16, MOVIES: 8, "dev": 8, "updates": 2, "episodes": 4, "answer": 12}
"""Tokens of context (the newest turns that fit); rows of each kind; PPO's updates and episodes; tokens of an action."""
Action = tuple[str, Any]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Import, SFT, reward model, PPO, measure."""
    args = arguments(__doc__, argv)
    terminal = Terminal()
    shop = open_shop(args, terminal)
    plan = FAST if args.fast else PLAN
    base, room = shop.base(args.base), plan["room"]
    counts: Counter[str] = Counter()

    # 1. Demonstrations: the newest turns of a dialogue up to one of the agent's actions.
    dialogues = [r["messages"] for r in read(args, DEMONSTRATIONS) if r["split"] == "train"]
    random.Random(args.seed).shuffle(dialogues)
    demos = bring(shop, named(args, "coffee-demos"), "demonstrations",
                  demonstrations(base, dialogues[:plan["demonstrations"]], room, args.seed, counts), **ABOUT)

    # 2. Thumbs: context, action and label (groups of K = 1). PPO's prompts are the coffee contexts of `train`.
    feedback = read(args, FEEDBACK)
    rows = {split: [row for domain in DOMAINS
                    for row in thumbs(base, feedback, split, domain, plan[domain if split == "train" else "dev"], room,
                                      counts)] for split in ("train", "dev")}
    train, dev = (bring(shop, named(args, f"agent-thumbs-{split}"), "comparisons", rows[split], **ABOUT)
                  for split in ("train", "dev"))
    contexts = [{"messages": r["prompt"]} for r in rows["train"] if r["domain"] == COFFEE]
    prompts = bring(shop, named(args, "coffee-contexts"), "prompts", contexts, **ABOUT)
    terminal.say(f"{demos.count} demonstrations, {train.count} thumbs to learn from, {dev.count} to measure, "
                 f"{prompts.count} contexts for PPO; {dict(counts)}")

    # 3. The three steps of learning from human feedback.
    sft = rounds.sft(shop, SftSettings(base=args.base, data=demos.name, name=named(args, "coffee-sft"), epochs=2,
                                       batch=16, lr=2e-3, seed=args.seed))
    reward = rounds.reward(shop, RewardSettings(model=str(sft), comparisons=train.name, held_out=0.0, batch=16,
                                                lr=1e-3, name=named(args, "coffee-reward"), seed=args.seed))
    ppo = rounds.ppo(shop, PpoSettings(policy=str(sft), reward=str(reward), prompts=prompts.name,
                                       name=named(args, "coffee-ppo"), updates=plan["updates"], epochs=2,
                                       episodes=plan["episodes"], max_tokens=plan["answer"], seed=args.seed))

    # 4. Held-out figures.
    base = shop.base_of(str(ppo))
    scorer = RewardModel.load(base, reward.path)
    learned, judged = ({d: [g for g in data.rows() if g.prompt.domain == d] for d in DOMAINS} for data in (train, dev))
    results: dict[str, Any] = {
        "reward_model": {d: assess(scorer, learned[d], judged[d], args.seed) for d in DOMAINS},
        "policy": policies(shop, base, scorer, {"sft": sft, "ppo": ppo}, judged[COFFEE], plan["answer"], args.seed),
        "most_frequent_action": frequent(learned[COFFEE], judged[COFFEE]), "plan": plan, "counts": dict(counts),
        "skipped_at_import": {d.name: dict(d.skipped) for d in (demos, train, dev, prompts)},
        "base": base.describe(), "cost": {a.name: cost(shop, a) for a in (sft, reward, ppo)}}
    return finish(args, terminal, results, aucs(results["reward_model"]), columns(results["policy"]))


def assess(scorer: RewardModel, train: Sequence[AnswerGroup], dev: Sequence[AnswerGroup], seed: int) -> dict[str, Any]:
    """AUC of approved against rejected actions, beside two rules fitted on `train` and a constant."""
    def labels(groups: Sequence[AnswerGroup]) -> np.ndarray:
        return np.array([g.labels[0] for g in groups])

    def rule(feature: Callable[[str], float]) -> Interval:
        x, z = (np.array([feature(g.answers[0].text) for g in groups]) for groups in (train, dev))
        return auc_interval(z if auc(x, labels(train)) >= 0.5 else -z, labels(dev), seed)

    scores = scorer.score_all([g.prompt for g in dev], [[g.answers[0].text] for g in dev])
    return {"model": auc_interval(np.array(scores)[:, 0], labels(dev), seed), "majority": 0.5,
            "length_only": rule(len), "words_or_call": rule(lambda text: float(parsed(text)[0] == "words")),
            "approved": int(labels(dev).sum()), "rows": len(dev)}


def policies(shop: Shop, base: Base, scorer: RewardModel, models: Mapping[str, Adapter], dev: Sequence[AnswerGroup],
             tokens: int, seed: int) -> dict[str, Any]:
    """Each model's actions on the dev contexts, sampled as PPO sampled them and greedily; and PPO minus SFT."""
    approved = {g.prompt.id: parsed(g.answers[0].text) for g in dev if g.labels[0] > 0.5}
    prompts = list({g.prompt.id: g.prompt for g in dev}.values())
    engine = LocalEngine(base)
    found: dict[str, dict[str, np.ndarray]] = {}
    out: dict[str, Any] = {}
    for way, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        for name, adapter in models.items():
            engine.load(name, adapter.path)
            answers = [a[0] for a in engine.sample([p.messages for p in prompts], Sampling(tokens, temperature,
                                                                                          seed=seed), model=name)]
            found[name] = checked(scorer, prompts, answers, approved)
            out[f"{name} {way}"] = {k: mean_interval(x[~np.isnan(x)], seed=seed) for k, x in found[name].items()}
            if name == "ppo" and way == "sampled":
                kl = evaluation.divergence(shop, str(adapter), prompts, answers, temperature)
                out[f"{name} {way}"]["kl"] = mean_interval(kl, seed=seed)
        out[f"ppo - sft {way}"] = {k: paired_difference(*both(found["ppo"][k], found["sft"][k]), seed=seed)
                                   for k in found["sft"]}
    return out


def checked(scorer: RewardModel, prompts: Sequence[Prompt], answers: Sequence[Answer],
            approved: Mapping[str, Action]) -> dict[str, np.ndarray]:
    """Per context: what the reward model says, and what it does not see; nan where a figure does not apply."""
    scores = scorer.score_all(prompts, [[a.text] for a in answers])
    found = []
    for prompt, answer, score in zip(prompts, answers, scores):
        kind, action = parsed(answer.text)
        good = approved.get(prompt.id)
        call = good[1] if good and good[0] == "call" else None
        found.append({
            "reward": score[0], "calls": kind != "words",
            "calls_that_parse": kind == "call" if kind != "words" else None,
            "action_as_approved": (kind, action) == good if good else None,
            "call_as_approved": (kind, action) == ("call", call) if call else None,
            "function_as_approved": kind == "call" and [*action] == [*call] if call else None,
            "finished": answer.finished, "tokens": len(answer.tokens)})
    return {key: np.array([row[key] for row in found], dtype=float) for key in found[0]}


def both(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The items that both have a figure for."""
    known = ~np.isnan(a) & ~np.isnan(b)
    return a[known], b[known]


def frequent(train: Sequence[AnswerGroup], dev: Sequence[AnswerGroup]) -> Interval:
    """How often the approved action is the one that was approved most often in `train`."""
    actions, wanted = ([repr(parsed(g.answers[0].text)) for g in groups if g.labels[0] > 0.5]
                       for groups in (train, dev))
    most = Counter(actions).most_common(1)[0][0]
    return mean_interval([float(a == most) for a in wanted])


def aucs(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """The reward model's table."""
    return [{"held-out AUC": key.replace("_", " "), **{d: f"{found[d][key]:.3f}" for d in DOMAINS}}
            for key in ("model", "length_only", "words_or_call", "majority")]


def columns(found: Mapping[str, Mapping[str, Interval]]) -> list[dict[str, str]]:
    """The policies' table."""
    return [{"held-out contexts": key.replace("_", " "),
             **{name: format(x[key], ".2f" if key in ("reward", "kl", "tokens") else ".1%") if key in x else ""
                for name, x in found.items()}} for key in found["ppo sampled"]]


if __name__ == "__main__":
    try:
        main()
    except TunesmithError as e:
        sys.exit(f"{e}")
