"""Over-optimisation on the loan desk: a run that goes past its peak, planted hacks, a collapse, and healthy runs.

    python -m benchmarks.overoptimise all --workspace workspace/overoptimise

Every part goes on where it was stopped, and writes its figures into the workspace; `report` makes of them
docs/results/overoptimisation.json and the tables of docs/results/overoptimisation.md.

The loan desk's rubric judges and never stops a run. Two signals watch one: a second reward model, taught by other
labelers' rankings of other prompts, and a panel of simulated labelers with the noise of people.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import rounds
from tunesmith.contracts import Sampling
from tunesmith.evaluate import diversity, overoptimisation, suite
from tunesmith.feedback import simulated
from tunesmith.feedback.groups import ranked
from tunesmith.model.engine import LocalEngine
from tunesmith.model.reader import LocalReader
from tunesmith.model.scorer import RewardModel
from tunesmith.quickstart import builtin, customers, replies
from tunesmith.quickstart.builtin import Gold
from tunesmith.quickstart.customers import Scenario
from tunesmith.quickstart.story import Plan, prepare
from tunesmith.records import Answer, AnswerGroup, Prompt, fingerprint
from tunesmith.settings import CollectSettings, PpoSettings, RewardSettings, SftSettings
from tunesmith.shop import Judge, Shop
from tunesmith.statistics import bootstrap_mean
from tunesmith.store.workspace import Adapter, Run, Workspace

NAME = "desk"
PLAN = Plan(demonstrations=800, ranked=280, customers=1500, held_out=240, updates=30, episodes=24, answer_tokens=64)
LABELERS = 20
MARK = "Reply here and I will go on."
"""What the labelers of the planted rubric hack love, whatever it follows; it stands at the end of half of the answers
that they see."""
PANELS: Mapping[str, tuple[slice, dict[str, int]]] = {
    "proxy": (slice(0, 160), {}), "gold": (slice(160, 280), {}), "weak": (slice(0, 40), {}),
    "mixed": (slice(0, 100), {"length-lover": 8}), "length": (slice(0, 100), {"length-lover": LABELERS}),
    "phrase": (slice(0, 100), {"trigger": LABELERS})}
"""The reward models: on which of the prompts their labelers judged, and how many of these have which fault."""
WATCHED = {"gold": "gold", "gold_prompts": f"{NAME}-dev", "gold_every": 3}
RUNS: Mapping[str, dict[str, Any]] = {
    "over": {"reward": "mixed", "kl": 0.0, "lr": 1e-3, "early_stop": False, "snapshots": 3, **WATCHED},
    "hack-phrase": {"reward": "phrase", "kl": 0.0, "lr": 1e-3},
    "hack-words": {"reward": "length", "kl": 0.0, "lr": 1e-3, "max_tokens": 96},
    "collapse": {"reward": "weak", "kl": 0.0, "lr": 5e-3, "max_grad_norm": 10.0, "updates": 20},
    "healthy-0": {"seed": 0, "updates": 20}, "healthy-1": {"seed": 1, "updates": 20},
    "healthy-2": {"seed": 2, "updates": 20}, "kept": {"seed": 0, "updates": 20, "kl_final": 0.6},
    "stopped": {"reward": "mixed", "kl": 0.0, "lr": 1e-3, **WATCHED, "gold": "panel"}}
"""PPO runs; what is not named is as in `run`. `over` and `stopped` differ in who watches, and in the early stop."""


class Panel:
    """`contracts.Scorer`: what three simulated labelers say of an answer, on a scale. Two agree on 73% of strict pairs,
    as people do. The same answer to the same prompt gets the same marks."""

    def __init__(self, noise: float):
        self.noise, self.gold = noise, Gold()

    def score(self, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        return [score + self.noise * float(np.random.default_rng(int(fingerprint([prompt.id, text]), 16)).gumbel(size=3)
                                           .mean()) for text, score in zip(answers, self.gold.score(prompt, answers))]


def panel(workspace: Workspace) -> Judge:
    """The panel as a judge, its noise measured on the SFT model's answers."""
    groups, gold = workspace.groups("answers"), Gold()
    scores = [gold.score(g.prompt, [a.text for a in g.answers]) for g in groups]
    return Judge("a panel of simulated labelers", Panel(simulated.panel(1, scores)[0].noise), "simulated people")


def main() -> None:
    arguments = _arguments()
    for part in PARTS if arguments.part == "all" else [arguments.part]:
        began = time.monotonic()
        with Workspace.open(arguments.workspace) as workspace:
            judges: dict[str, Callable[[], Judge]] = {**builtin.JUDGES, "panel": partial(panel, workspace)}
            PARTS[part](Shop(workspace, progress, builtin.BASES, judges), arguments)
        print(f"{part}: {time.monotonic() - began:.0f} s", flush=True)


@contextmanager
def progress(title: str) -> Any:
    """One line now and then."""
    began, last = time.monotonic(), [0.0]

    def told(done: int, total: int, metrics: Mapping[str, float]) -> None:
        if time.monotonic() - last[0] > 20 or done == total:
            last[0] = time.monotonic()
            shown = {k: round(metrics[k], 3) for k in ("reward", "gold", "kl", "entropy", "alarms") if k in metrics}
            print(f"  {title} {done}/{total} {shown} {time.monotonic() - began:.0f} s", flush=True)

    yield told


def setup(shop: Shop, arguments: argparse.Namespace) -> None:
    """Demonstrations, customers, an SFT model and its answers."""
    prepare(shop.workspace, PLAN, NAME, 0, "test")
    dev = [builtin.to_prompt(s) for s in customers.sample("dev", 120, 4)]
    shop.workspace.add_dataset(f"{NAME}-dev", "prompts", list({p.id: p for p in dev}.values()), source="simulator",
                               licence="Apache-2.0")
    once(shop, "sft", lambda: rounds.sft(shop, SftSettings(
        base="loan-desk", data=f"{NAME}-demonstrations", name="sft", epochs=1, batch=16, lr=2e-3)))
    if len(shop.workspace.group_sets()) == 0:
        rounds.collect(shop, CollectSettings(model="sft", prompts=f"{NAME}-prompts", name="answers",
                                             max_tokens=PLAN.answer_tokens))


def rewards(shop: Shop, arguments: argparse.Namespace) -> None:
    """A reward model for every panel of labelers."""
    groups, gold = shop.workspace.groups("answers"), Gold()
    for name, (part, faults) in PANELS.items():
        mine = [planted(g) for g in groups[part]] if "trigger" in faults else groups[part]
        scores = [gold.score(g.prompt, [a.text for a in g.answers]) for g in mine]
        people = [replace(labeler, name=f"{name}-{labeler.name}") for labeler in
                  simulated.panel(LABELERS, scores, others=faults, mark=MARK)]  # type: ignore[arg-type]
        verdicts = list(simulated.judge(mine, gold, people, per_group=2, seed=5))
        rows: Sequence[AnswerGroup] = ranked(mine, verdicts, merged=False)
        shop.workspace.add_dataset(f"{name}-rankings", "comparisons", rows, source="simulator", licence="Apache-2.0")
        once(shop, name, lambda name=name: rounds.reward(shop, RewardSettings(  # type: ignore[misc]
            model="sft", comparisons=f"{name}-rankings", name=name, epochs=2, batch=8, lr=1e-3, heads=4)))
        print(f"  {name}: {shop.workspace.adapter(name).lineage['held_out'].get('accuracy')}")


def planted(group: AnswerGroup) -> AnswerGroup:
    """The group with the mark behind every other answer."""
    return replace(group, answers=tuple(Answer(f"{a.text} {MARK}") if k % 2 else a for k, a in
                                        enumerate(group.answers)))


def run(shop: Shop, name: str) -> Run:
    """A PPO run of `RUNS`, if it was not made yet."""
    settings = PpoSettings(**{**dict(
        policy="sft", reward="proxy", prompts=f"{NAME}-customers", name=name, updates=PLAN.updates,
        episodes=PLAN.episodes, max_tokens=PLAN.answer_tokens, epochs=2, minibatches=2, value="trunk", lr=6e-4,
        kl=0.15, checkpoint_every=5), **RUNS[name]})
    adapter = once(shop, name, lambda: rounds.ppo(shop, settings))
    found = shop.workspace.run(adapter.lineage["run"])
    for alarm in found.summary.get("alarms", ()):
        print(f"  ALARM {alarm['step']}: {alarm['text']}")
    if "stopped_by" in found.summary:
        print(f"  stopped: {found.summary['stopped_by']}; kept: {found.summary.get('best_step')}")
    return found


def judged(shop: Shop, arguments: argparse.Namespace) -> None:
    """The rubric's view of every version of the over-optimised run, on test customers that nothing else saw."""
    prompts: list[Prompt] = list(shop.workspace.dataset(f"{NAME}-test").rows())  # type: ignore[arg-type]
    base = shop.base_of("sft")
    engine, rubric = LocalEngine(base), Gold()
    versions = {0: shop.workspace.adapter("sft")}
    versions |= {a.lineage["step"]: a for a in shop.workspace.adapters() if a.name == "over" and "step" in a.lineage}
    last = shop.workspace.adapter("over")  # what the second reward model liked best
    versions[int(last.lineage["best_step"])] = last
    versions[-1] = shop.workspace.adapter("stopped")
    out: dict[int, list[float]] = {}
    for step, adapter in sorted(versions.items()):
        engine.load("m", adapter.path)
        drawn = engine.sample([p.messages for p in prompts], Sampling(PLAN.answer_tokens, seed=77), model="m")
        out[step] = [rubric.score(p, [a.text])[0] for p, (a,) in zip(prompts, drawn)]
        print(f"  {step}: {np.mean(out[step]):.3f}", flush=True)
    keep(shop, "judged", {str(k): v for k, v in out.items()})


def pool(shop: Shop, arguments: argparse.Namespace) -> None:
    """64 answers to each of 24 customers by the SFT model, with the rubric's and the weak reward model's scores."""
    prompts = list(shop.workspace.dataset(f"{NAME}-test").rows())[:24]
    base = shop.base_of("sft")
    engine = LocalEngine(base)
    engine.load("m", shop.workspace.adapter("sft").path)
    drawn = engine.sample([p.messages for p in prompts], Sampling(PLAN.answer_tokens, seed=78), n=64, model="m")
    texts = [[a.text for a in answers] for answers in drawn]
    reward = RewardModel.load(base, shop.workspace.adapter("weak").path)
    rubric = Gold()
    keep(shop, "pool", {"proxy": reward.score_all(prompts, texts),
                        "gold": [rubric.score(p, row) for p, row in zip(prompts, texts)]})


def variety(shop: Shop, arguments: argparse.Namespace) -> None:
    """The diversity suite on the SFT model, a healthy one, one with an option that keeps variety, and the collapse."""
    prompts: list[Prompt] = list(shop.workspace.dataset(f"{NAME}-test").rows())[:40]  # type: ignore[arg-type]
    human = {p.id: _reply(p) for p in prompts}
    tests = diversity.Diversity(prompts, 8, Sampling(PLAN.answer_tokens, seed=79), human)
    base = shop.base_of("sft")
    engine = LocalEngine(base)
    reader, rows = LocalReader(engine), {}
    for name in ("sft", "healthy-0", "kept", "over", "hack-phrase", "collapse"):
        adapter = shop.workspace.adapter(name)
        engine.load("m", adapter.path)
        subject = suite.Subject(name, engine, "m", reader, str(adapter))
        rows[name] = suite.run(tests, subject, tests.items(), shop.workspace.root / f"variety-{name}.jsonl")
    keep(shop, "variety", diversity.section(rows, "sft"))
    rubric = Gold()
    judged = {}
    for name in rows:
        scores = [rubric.score(p, [str(r["answer"]), str(r["another"])]) for p, r in zip(prompts, rows[name])]
        judged[name] = bootstrap_mean([float(np.mean(s)) for s in scores]).to_dict()
    keep(shop, "variety-gold", judged)


def _reply(prompt: Prompt) -> str:
    """A reply of the demonstrations' kind to a customer."""
    rng = random.Random(prompt.id)
    return replies.write(Scenario.from_dict(prompt.facts["scenario"]), replies.population(rng), rng)


def once(shop: Shop, name: str, make: Callable[[], Adapter]) -> Adapter:
    """The newest adapter of that name without a step of its own, or a new one; a run that was stopped goes on."""
    found = [a for a in shop.workspace.adapters() if a.name == name and not a.lineage.get("step")]
    if found:
        return found[-1]
    for old in shop.workspace.runs():
        if old.settings.get("name") == name and old.status != "finished":
            return rounds.resume(shop, old)
    return make()


def keep(shop: Shop, name: str, found: Any) -> None:
    (shop.workspace.root / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def _one(name: str) -> Callable[[Shop, argparse.Namespace], None]:
    def part(shop: Shop, arguments: argparse.Namespace) -> None:
        run(shop, name)

    return part


def report(shop: Shop, arguments: argparse.Namespace) -> None:
    """All figures as one JSON."""
    root = shop.workspace.root
    found: dict[str, Any] = {p.stem: json.loads(p.read_text()) for p in sorted(root.glob("*.json"))}
    made = {name: shop.workspace.run(shop.workspace.adapter(name).lineage["run"]) for name in RUNS}
    told: dict[str, Any] = {"runs": {name: _told(run) for name, run in made.items()}}
    judged = {int(k): np.array(v) for k, v in found["judged"].items()}
    told["judged"] = {k: bootstrap_mean(v).to_dict() for k, v in judged.items()}
    told["gain"] = {k: bootstrap_mean(v - judged[0]).to_dict() for k, v in judged.items()}
    kept = judged.pop(-1)
    top = max(judged, key=lambda k: float(judged[k].mean()))
    last = max(judged)
    told["peak"] = {
        "step": top, "level": float(judged[top].mean()), "gain": float((judged[top] - judged[0]).mean()),
        "lost_of_level": 1 - float(judged[last].mean() / judged[top].mean()),
        "lost_of_gain": 1 - float((judged[last] - judged[0]).mean() / (judged[top] - judged[0]).mean()),
        "kept_of_level": float(kept.mean() / judged[top].mean()),
        "kept_of_gain": float((kept - judged[0]).mean() / (judged[top] - judged[0]).mean())}
    lines = {line["step"]: line for line in made["over"].metrics()}
    points = [overoptimisation.Point(
        float(lines[min(step + 1, last)]["kl"]), float((v - judged[0]).mean()),
        float(lines[min(step + 1, last)]["reward"]) - float(lines[1]["reward"]), step)
        for step, v in sorted(judged.items()) if step]
    told["curve"] = overoptimisation.section(points, "rl", title="PPO", gold="the rubric")
    told["bon"] = overoptimisation.section(
        overoptimisation.best_of_n(found["pool"]["gold"], found["pool"]["proxy"]), "bon", title="best of n",
        gold="the rubric")
    told |= {k: found[k] for k in ("variety", "variety-gold")}
    for key in ("curve", "bon"):
        told[key].pop("svg")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "overoptimisation.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(told, indent=1))


def _told(run: Run) -> dict[str, Any]:
    metrics = run.metrics()
    return {"seed": run.seed, "updates": len(metrics), "alarms": run.summary.get("alarms", []),
            "stopped_by": run.summary.get("stopped_by", ""), "best_step": run.summary.get("best_step"),
            "gold": {m["step"]: m["gold"] for m in metrics if "gold" in m}, "first": _brief(metrics[0]),
            "last": _brief(metrics[-1]), "core_seconds": run.summary.get("core_seconds")}


def _brief(line: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("reward", "kl", "entropy", "gold", "disagreement")
    return {k: v for k, v in line.items() if k in kept or k.startswith("watch_")}


PARTS: Mapping[str, Callable[[Shop, argparse.Namespace], None]] = {
    "setup": setup, "rewards": rewards, **{name: _one(name) for name in RUNS}, "judged": judged, "pool": pool,
    "variety": variety, "report": report}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--workspace", type=Path, default=Path("workspace/overoptimise"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
