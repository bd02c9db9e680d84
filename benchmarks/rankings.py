"""Reward models on rankings by people: all pairs of a prompt together, Plackett-Luce, or every pair a row of its own.

    python -m benchmarks.rankings --data DIR --set e2e --seeds 0 1 2 --out docs/results

InstructGPT (arXiv 2203.02155, section 3.5) reports that shuffled pairs overfit within one epoch. The three arms see
the same pairs with the same weights, in the same number of steps; only what shares a step differs. The learning rate
stays constant after warmup, so that one run shows every epoch. Held-out figures are means over prompts of the prompt's
mean over single labelers' strict pairs. Nothing is chosen on the held-out part; `--tune` compares learning rates on
training prompts that the training leaves out. Every measurement is appended to a JSONL file at once; a run that is in
it is not repeated.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quickstart import machine
from benchmarks.rankings_figures import METRICS, markdown, summarize, values
from tunesmith.feedback.agreement import agreement
from tunesmith.feedback.groups import by_item, merge, pairs
from tunesmith.model import adapters, heads
from tunesmith.model import base as bases
from tunesmith.model.base import Base
from tunesmith.model.batch import Tree
from tunesmith.model.scorer import RewardModel
from tunesmith.quickstart.builtin import BASES
from tunesmith.records import Answer, AnswerGroup, Message, Pair, Prompt, Tiers, fingerprint
from tunesmith.settings import RewardSettings
from tunesmith.statistics import Floats, kendall_tau_b
from tunesmith.train import reward
from tunesmith.train.learner import Learner, indices
from tunesmith.train.reward import Item

ARMS = ("grouped", "plackett-luce", "shuffled")
FILES = {"e2e": "e2e_five_way.jsonl.gz", "qa": "qa_feedback_four_way.jsonl.gz"}
POINTS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Where in the training, in epochs, a model is measured, unless the command says."""

TUNE = 80
"""Unused training pages that learning rates are compared on."""

ByPrompt = dict[str, float]


def tiers(ratings: Sequence[float]) -> Tiers:
    """Higher is better, equal is tied."""
    return tuple(tuple(i for i, r in enumerate(ratings) if r == value) for value in sorted(set(ratings), reverse=True))


def read(folder: Path, name: str) -> list[AnswerGroup]:
    """A set's rankings, one group for each."""
    with gzip.open(folder / FILES[name], "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return e2e(rows) if name == "e2e" else qa(rows)


def e2e(rows: Iterable[Mapping[str, Any]], criterion: str = "quality") -> list[AnswerGroup]:
    """Five descriptions of a restaurant by five systems, a group for each labeler of the page."""
    return [_group(r["input"], r["completions"], tiers(r["ratings"]), r["annotator"], r["split"])
            for r in rows if r["criterion"] == criterion]


def qa(rows: Iterable[Mapping[str, Any]]) -> list[AnswerGroup]:
    """Four answers to a question; rows whose six judgements are no order (2 better than 3, 3 than 4, 4 than 2) are
    left out. The passages are too: with them a prompt is longer than the base's context."""
    found = []
    for r in rows:
        wins = [0.0] * len(r["completions"])
        judged = {}
        for (i, j), preferred in zip(r["pairs"], r["preference"], strict=True):
            share = {1: 1.0, 2: 0.0, 0: 0.5}[preferred]
            wins[i] += share
            wins[j] += 1 - share
            judged[i, j] = share
        if all(share == (np.sign(wins[i] - wins[j]) + 1) / 2 for (i, j), share in judged.items()):
            found.append(_group(r["question"], r["completions"], tiers(wins), "", r["split"]))
    return found


def _group(prompt: str, answers: Sequence[str], order: Tiers, labeler: str, split: str) -> AnswerGroup:
    return AnswerGroup(Prompt((Message("user", prompt),), split="train" if split == "train" else "dev"),
                       tuple(map(Answer, answers)), order, labeler=labeler, source="human")


def merged(rankings: Iterable[AnswerGroup]) -> list[AnswerGroup]:
    """One soft group per page; a tie is no vote."""
    pages = (merge(judged, ties="drop") for judged in by_item(rankings).values())
    return sorted((p for p in pages if p), key=lambda g: g.prompt.id)


@dataclass(frozen=True, slots=True)
class Parts:
    """`train` learns (a page merged), `seen` are the single rankings behind some of it, `held_out` those of other
    prompts; `shared` names the pages that several labelers ranked."""

    train: list[Item]
    seen: list[Item]
    held_out: list[Item]
    shared: frozenset[str] = frozenset()


def divide(base: Base, rankings: Sequence[AnswerGroup], limit: int, held_out: float, tune: bool, seen: int) -> Parts:
    """The first `limit` pages by hash of the prompt; held out are the source's dev prompts and a share of train's.

    With `tune` training prompts that are not used are held out instead.
    """
    own = [g for g in rankings if g.prompt.split == "train"]
    pages = reward.encode(base, merged(own), base.context)[0]
    rest, further = reward.divide(pages, held_out) if held_out else (pages, [])
    rest = sorted(rest, key=lambda i: i.group.prompt.id, reverse=True)  # the cut of `divide` is at the low end
    used = {i.group.prompt.id for i in rest[:limit]}
    unused = [i.group for i in rest[limit:] if i.group.prompt.id not in used]
    if tune:
        measured = {g.prompt.id for g in unused[:TUNE]}
    else:
        measured = {i.group.prompt.id for i in further} | {g.prompt.id for g in rankings if g.prompt.split == "dev"}
    known = {i.group.id for i in rest[:seen]}
    return Parts(rest[:limit], reward.encode(base, [g for g in own if g.id in known], base.context)[0],
                 reward.encode(base, [g for g in rankings if g.prompt.id in measured], base.context)[0],
                 frozenset(page for page, judged in by_item(rankings).items() if len(judged) > 1))


def apart(item: Item) -> list[Item]:
    """Every pair of a group as a group of its own; their weights add up to the group's."""
    share = item.weight / sum(p.weight for p in item.pairs)
    rows = []
    for p in item.pairs:
        two = [item.group.answers[i] for i in (p.better, p.worse)]
        pair = Pair(0, 1, p.p)
        group = replace(item.group, answers=tuple(two), tiers=(), pairs=(pair,), weight=p.weight * share)
        tree = Tree(item.tree.prompt, tuple(item.tree.answers[i] for i in (p.better, p.worse)))
        rows.append(replace(item, tree=tree, group=group, pairs=(pair,)))
    return rows


def measure(rankings: Sequence[Item], scores: Sequence[Floats]) -> dict[str, ByPrompt]:
    """Accuracy (equal scores count half) and log-loss on strict pairs, and Kendall's tau-b; each a mean by prompt."""
    found: dict[str, dict[str, list[float]]] = {k: defaultdict(list) for k in ("accuracy", "log_loss", "tau")}
    for item, s in zip(rankings, scores, strict=True):
        margin = np.array([s[p.better] - s[p.worse] for p in pairs(item.group)])
        prompt = item.group.prompt.id
        found["accuracy"][prompt] += ((np.sign(margin) + 1) / 2).tolist()
        found["log_loss"][prompt] += np.logaddexp(0, -margin).tolist()
        found["tau"][prompt].append(tau(s, item.group.tiers))
    return {k: {prompt: float(np.mean(v)) for prompt, v in sorted(values.items())} for k, values in found.items()}


def tau(scores: Floats, order: Tiers) -> float:
    """Kendall's tau-b of scores with a ranking; scores that tell nothing apart correlate 0."""
    level = {i: -t for t, tier in enumerate(order) for i in tier}
    value = kendall_tau_b(scores, [level[i] for i in range(len(scores))])
    return 0.0 if math.isnan(value) else value


def others(rankings: Sequence[AnswerGroup], items: Sequence[Item]) -> tuple[list[Item], list[Floats]]:
    """For every ranking that has company: the mean rank that the page's other labelers give."""
    pages = by_item(rankings)
    kept, scores = [], []
    for item in items:
        company = [g for g in pages[item.group.id] if g.labeler != item.group.labeler]
        if company:
            kept.append(item)
            scores.append(np.mean([_mid_ranks(g) for g in company], axis=0))
    return kept, scores


def _mid_ranks(group: AnswerGroup) -> Floats:
    """Higher is better."""
    place = {i: -(sum(map(len, group.tiers[:t])) + (len(tier) - 1) / 2) for t, tier in enumerate(group.tiers)
             for i in tier}
    return np.array([place[i] for i in range(len(group.answers))])


def score(model: RewardModel, rankings: Sequence[Item]) -> list[Floats]:
    """The model's scores of each ranking's answers; a page is scored once, however many judged it."""
    pages = {i.group.id: i.tree for i in rankings}
    flat = model.score_trees(list(pages.values())).cpu().numpy().astype(float)
    ends = np.cumsum([len(t.answers) for t in pages.values()])
    known = dict(zip(pages, np.split(flat, ends[:-1])))
    return [known[i.group.id] for i in rankings]


def assess(model: RewardModel, rankings: Sequence[Item], shared: frozenset[str]) -> dict[str, Any]:
    """`measure`, the same on shared pages only, and the reward trainer's own figures over all strict pairs."""
    scores = score(model, rankings)
    pooled = reward.assess(model, rankings, torch.tensor(np.concatenate(scores)))
    several = [k for k, item in enumerate(rankings) if item.group.id in shared]
    return {"by_prompt": measure(rankings, scores), "pairs": pooled["pairs"], "wilson": pooled["accuracy"],
            "ece": pooled["calibration_error"], "brier": pooled["brier"],
            "shared": measure([rankings[k] for k in several], [scores[k] for k in several])}


def train(base: Base, parts: Parts, arm: str, settings: RewardSettings,
          points: Sequence[float] = POINTS) -> Iterator[dict[str, Any]]:
    """One run; yields a line at each of `points`."""
    began = time.process_time()
    rows = [row for item in parts.train for row in apart(item)] if arm == "shuffled" else parts.train
    settings = settings.model_copy(update={"loss": "plackett-luce" if arm == "plackett-luce" else "pairs"})
    per_epoch = math.ceil(len(parts.train) / settings.batch)
    adapters.attach(base, "reward", adapters.Method(rank=settings.rank, alpha=settings.alpha), settings.seed)
    head = heads.ScalarHead(base.width, torch.Generator().manual_seed(settings.seed)).to(base.device)
    model = RewardModel(base, "reward", head, settings.layout)
    learner = Learner({**adapters.trainable(base, "reward"), **dict(head.linear.named_parameters("head"))},
                      math.ceil(per_epoch * settings.epochs), settings.lr, settings.warmup, settings.max_grad_norm,
                      settings.weight_decay, decay=False)
    at = {math.ceil(p * per_epoch): p for p in points if p <= settings.epochs}
    tokens, spent = 0, time.process_time() - began
    for step in range(1, max(at) + 1):
        began = time.process_time()
        start, end = (round(s * len(rows) / per_epoch) for s in (step - 1, step))
        chosen = [rows[i] for i in indices(len(rows), settings.seed, start, end - start)]
        reward.forward_backward(base, head, learner, chosen, settings)
        learner.step()
        tokens += sum(i.tree.size for i in chosen)
        spent += time.process_time() - began
        if step in at:
            yield {"arm": arm, "seed": settings.seed, "lr": settings.lr, "epoch": at[step], "steps": step,
                   "rows": len(rows), "tokens": tokens, "cpu_seconds": round(spent, 2),
                   "held_out": assess(model, parts.held_out, parts.shared),
                   "seen": assess(model, parts.seen, parts.shared) if at[step] == int(at[step]) else None}


def yardsticks(rankings: Sequence[AnswerGroup], items: Sequence[Item]) -> dict[str, Any]:
    """What needs no model: length, and the other labelers of the page where there are some."""
    length = [np.array([len(a.text.split()) for a in i.group.answers], dtype=float) for i in items]
    found: dict[str, tuple[Sequence[Item], list[Floats]]] = {
        "longer is better": (items, length), "shorter is better": (items, [-x for x in length]),
        "the page's other labelers": others(rankings, items)}
    return {name: {"rankings": len(kept), "by_prompt": measure(kept, s)} for name, (kept, s) in found.items() if kept}


def main() -> None:
    a = _arguments()
    bases.keep_memory()
    base = bases.load(BASES["loan-desk"])
    rankings = read(a.data, a.set)
    limit, held_out = (a.limit or (160 if a.set == "e2e" else 96)), (0.0 if a.set == "e2e" else 0.2)
    parts = divide(base, rankings, limit, held_out, bool(a.tune), seen=16 if a.quick else 80)
    settings = RewardSettings(base="loan-desk", comparisons=a.set, name="rankings", lr=a.lr, epochs=a.epochs,
                              batch=a.batch)
    log = a.log / f"{a.set}-{limit}x{a.batch}-{same(settings, a.points, parts)}{'-tune' if a.tune else ''}.jsonl"
    runs = [(arm, settings.model_copy(update={"seed": seed, "lr": lr}))
            for seed in a.seeds for arm in a.arms for lr in a.tune or [a.lr]]
    lines = learn(base, parts, runs, a.points, log)
    if not a.tune:
        between = agreement(rankings)
        result = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(),
                  **describe(parts, settings), "labelers": {
                      "pages": between.items, "ties": between.ties.to_dict(), "agree": between.percent.to_dict(),
                      "alpha": between.alpha_ranks.value if between.items else None},
                  **summarize(lines, yardsticks(rankings, parts.held_out), ARMS)}
        print(markdown(result))
        if not a.quick:
            (a.out / f"rankings-{a.set}.json").write_text(json.dumps(_rounded(result)) + "\n")


def learn(base: Base, parts: Parts, runs: Iterable[tuple[str, RewardSettings]], points: Sequence[float],
          log: Path) -> list[dict[str, Any]]:
    """The lines of these runs; those that the log lacks are measured and appended to it."""
    runs = list(runs)
    wanted = {(arm, s.seed, s.lr) for arm, s in runs}
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(x) for x in log.read_text().splitlines()] if log.exists() else []
    done = {(x["arm"], x["seed"], x["lr"], x["epoch"]) for x in lines}
    for arm, settings in runs:
        if (arm, settings.seed, settings.lr, max(p for p in points if p <= settings.epochs)) in done:
            continue
        for line in train(base, parts, arm, settings, points):
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
            lines.append(line)
            print(*_brief(line), flush=True)
    return [x for x in lines if (x["arm"], x["seed"], x["lr"]) in wanted]


def same(settings: RewardSettings, points: Sequence[float], parts: Parts) -> str:
    """What names all that runs in one log share: everything but arm, seed and learning rate."""
    shared = settings.model_dump(mode="json", exclude={"seed", "lr", "loss", "name"})
    pages = [[i.group.id for i in part] for part in (parts.train, parts.seen, parts.held_out)]
    return fingerprint([shared, list(points), pages])[:8]


def describe(parts: Parts, settings: RewardSettings) -> dict[str, Any]:
    """What was trained on and measured."""
    kept = {"base", "loss", "rank", "alpha", "lr", "warmup", "max_grad_norm", "weight_decay", "batch", "center"}
    return {"set": settings.comparisons, "train": {"pages": len(parts.train),
                                                   "prompts": len({i.group.prompt.id for i in parts.train}),
                                                   "pairs": sum(len(i.pairs) for i in parts.train)},
            "held_out": {"prompts": len({i.group.prompt.id for i in parts.held_out}),
                         "pages": len({i.group.id for i in parts.held_out}), "rankings": len(parts.held_out),
                         "pairs": sum(len(i.pairs) for i in parts.held_out)},
            "settings": settings.model_dump(include=kept)}


def _rounded(result: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(result), parse_float=lambda x: round(float(x), 5))


def _brief(line: Mapping[str, Any]) -> Iterator[str]:
    yield f"{line['arm']:14} seed {line['seed']} lr {line['lr']:g} epoch {line['epoch']:<4g} {line['cpu_seconds']} s"
    for part in ("held_out", "seen"):
        if line[part]:
            yield part + " " + " ".join(f"{m} {values(line[part], m).mean():.3f}" for m in METRICS)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the .jsonl.gz files")
    parser.add_argument("--set", choices=list(FILES), required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--points", type=float, nargs="+", default=POINTS, help="epochs at which to measure")
    parser.add_argument("--limit", type=int, default=0, help="training pages; 0: 160 of e2e, 96 of qa")
    parser.add_argument("--batch", type=int, default=8, help="prompts per step; as many pairs on average if shuffled")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--tune", type=float, nargs="+", help="learning rates to compare on unused training prompts")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--log", type=Path, default=Path("workspace/rankings"), help="folder of the JSONL files")
    parser.add_argument("--quick", action="store_true", help="one epoch of 32 pages, one seed: does it run?")
    a = parser.parse_args()
    if a.quick:
        a.limit, a.epochs, a.seeds = 32, 1.0, [0]
    return a


if __name__ == "__main__":
    main()
