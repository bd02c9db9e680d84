"""What users' reactions are worth to a small linear reward, over many simulated logs in minutes.

    python -m benchmarks.reactions --seeds 0 1 2 3 4 5 --out docs/results/reactions.json
    python -m benchmarks.reactions --seeds 0 1 2 3 4 5 --contrary --out docs/results/reactions.json

`benchmarks.auto_rlhf` trains real reward models and policies, once or twice; here the reward is logistic regression on
words, and the served model the desk's average agent (`quickstart.replies`), so that many worlds can be compared and
each part of the way from reactions to preferences be left out in turn. A reward chooses the best of four answers to
new customers; the gold rubric says how much better that is than the first one. Users and labelers are simulated.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from tunesmith.contracts import Scorer
from tunesmith.feedback import calibration, groups, implicit, signals, simulated
from tunesmith.feedback import overlap as overlapping
from tunesmith.feedback.implicit import Worth
from tunesmith.feedback.signals import Evidence
from tunesmith.quickstart import customers, replies, rubric, users
from tunesmith.quickstart.builtin import Gold, to_prompt
from tunesmith.quickstart.customers import Scenario
from tunesmith.records import Answer, AnswerGroup, Prompt
from tunesmith.statistics import Floats, t_interval

Ids = NDArray[np.int64]
BUCKETS, EPOCHS, RATE = 2**14, 3, 0.5
INTERACTIONS, RANKED, NEW, LABELERS = 5000, 500, 400, 20
CONTRARY = {"abandon": (-1.0, 1.2), "copy": (-1.6, -0.9), "go_on": (-1.8, -0.9), "thumb": (0.0, 0.3)}
"""Habits of users who leave when they are content, copy what they want to dispute, and go on asking when they are not:
nobody's guesses fit every product."""


def world(seed: int, overlap: int, contrary: bool = False) -> dict[str, float]:
    """Mean gain of best-of-four by each way of learning, in gold score over a single answer."""
    served = Served(seed, contrary)
    log = served.log(INTERACTIONS)
    found = signals.evidence(log.interactions)
    judged = rank(overlap_of(found, log, served, overlap, seed), log.gold(), seed)
    rankings = rank([AnswerGroup(to_prompt(s), served.answers(s, 4)) for s in
                     customers.sample("train", RANKED, seed + 1000)], Gold(), seed)
    corrected = implicit.corrected(found)
    calibrated = implicit.groups(corrected, Worth(*calibration.calibrate(corrected, judged, min_users=20)))
    arms = {
        "rankings": rankings,
        "overlap alone": judged,
        "calibrated": calibrated,
        "calibrated and overlap": [*calibrated, *judged],
        "calibrated, soft labels": [soft(g) for g in calibrated],
        "fixed weights": implicit.groups(corrected, Worth(*calibration.guessed(found))),
        "fixed weights, at face value": implicit.groups(found, Worth(*calibration.guessed(found))),
    }
    test = [(s, served.answers(s, 4)) for s in customers.sample("dev", NEW, seed + 2000)]
    return {name: gain(learn(made, seed), test) for name, made in arms.items()}


class Served:
    """The served model: the desk's average agent, who knows what was asked."""

    def __init__(self, seed: int, contrary: bool = False):
        self.seed, self.contrary, self.written = seed, contrary, 0

    def answers(self, scenario: Scenario, n: int) -> tuple[Answer, ...]:
        self.written += 1
        rng = random.Random(f"{self.seed}/{self.written}")
        return tuple(Answer(replies.write(scenario, replies.AVERAGE, rng)) for _ in range(n))

    def log(self, count: int) -> users.Log:
        """An engine would see the conversations alone; the agent needs the scenarios behind them."""
        def write(scenarios: Sequence[Scenario], counts: Sequence[int], _: object) -> list[list[Answer]]:
            return [list(self.answers(s, n)) for s, n in zip(scenarios, counts, strict=True)]

        habits = {**users.HABITS, **(CONTRARY if self.contrary else {})}
        with patch.object(users, "_write", write), patch.object(users, "HABITS", habits):
            return users.simulate(count, lambda conversations, n: [], self.seed)


def overlap_of(found: Sequence[Evidence], log: users.Log, served: Served, count: int, seed: int) -> list[AnswerGroup]:
    """As `mining.overlap` makes it."""
    scenarios = {Prompt(i.messages).id: Scenario.from_dict(log.prompts[i.id].facts["scenario"])
                 for i in log.interactions}
    return [overlapping.group(e, served.answers(scenarios[e.prompt.id], 3), 4)
            for e in overlapping.choose(found, count, seed)]


def rank(asked: Sequence[AnswerGroup], gold: Scorer, seed: int) -> list[AnswerGroup]:
    """One verdict on each group."""
    panel = simulated.panel(LABELERS, [gold.score(g.prompt, [a.text for a in g.answers]) for g in asked])
    return groups.ranked(asked, simulated.judge(asked, gold, panel, overlap=0, seed=seed), merged=False)


def soft(group: AnswerGroup) -> AnswerGroup:
    """The probability as label, at the weight that sure verdicts have."""
    p = float(group.prompt.facts[implicit.FACT]["p"])
    weight = group.weight / abs(2 * p - 1)
    pairs = tuple(replace(q, p=max(p, 1 - p)) for q in group.pairs)
    return replace(group, pairs=pairs, labels=(p,) if group.labels else (), weight=weight)


def learn(made: Sequence[AnswerGroup], seed: int) -> Floats:
    """Weights of words: the loss of `train.reward`, by AdaGrad on one comparison at a time."""
    items = [item for g in made for item in _items(g)]
    theta, seen, base, rng = np.zeros(BUCKETS), np.full(BUCKETS, 1e-8), 0.0, np.random.default_rng(seed)
    for n in (n for _ in range(EPOCHS) for n in rng.permutation(len(items))):
        ids, values, p, weight, single = items[n]
        slope = weight * (1 / (1 + np.exp(-(theta[ids] @ values + base * single))) - p)
        step = slope * values
        seen[ids] += step * step
        theta[ids] -= RATE * step / np.sqrt(seen[ids])
        base -= 0.01 * slope * single
    return theta


def _items(g: AnswerGroup) -> list[tuple[Ids, Floats, float, float, bool]]:
    asked = g.prompt.messages[-1].content
    words = [features(asked, a.text) for a in g.answers]
    if g.labels and not g.tiers:
        return [(words[0], np.full(words[0].size, words[0].size ** -0.5), g.labels[0], g.weight, True)]
    found = groups.pairs(g)
    return [(*_difference(words[q.better], words[q.worse]), q.p, g.weight * q.weight / len(found), False)
            for q in found]


def _difference(better: Ids, worse: Ids) -> tuple[NDArray[Any], Floats]:
    """Words that tell two answers apart, each once."""
    ids, which = np.unique(np.concatenate([better, worse]).astype(np.int64), return_inverse=True)
    sizes = np.repeat([better.size ** -0.5, -worse.size ** -0.5], [better.size, worse.size])
    return ids, np.bincount(which, sizes).astype(np.float64)


@lru_cache(maxsize=100_000)
def features(asked: str, text: str) -> Ids:
    """Words, pairs of words, and words beside those of the question that say what it is about."""
    words = re.findall(r"[a-z']+|\d+|[.!?]", text.lower())
    topic = [w for w in re.findall(r"[a-z]+", asked.lower()) if len(w) > 4][:8]
    found = {*words, *(f"{a} {b}" for a, b in pairwise(words)), f"length {len(words) // 8}",
             *(f"{t}: {w}" for t in topic for w in set(words))}
    return np.unique([zlib.crc32(f.encode()) % BUCKETS for f in found])


def gain(theta: Floats, test: Sequence[tuple[Scenario, Sequence[Answer]]]) -> float:
    """How much better the chosen of four is than the first, in gold score."""
    out = []
    for scenario, answers in test:
        asked = scenario.messages[-1]["content"]
        reward = [theta[ids].sum() * ids.size ** -0.5 for ids in (features(asked, a.text) for a in answers)]
        gold = [rubric.gold(scenario, a.text) for a in answers]
        out.append(gold[int(np.argmax(reward))] - float(np.mean(gold)))
    return float(np.mean(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--overlap", type=int, default=300)
    parser.add_argument("--contrary", action="store_true", help="users whose habits no guess fits")
    parser.add_argument("--out", type=Path, help="write the gains of these seeds to this file; more are added to it")
    arguments = parser.parse_args()
    known = json.loads(arguments.out.read_text()) if arguments.out and arguments.out.exists() else {}
    kind = f"{'contrary' if arguments.contrary else 'usual'}, overlap {arguments.overlap}"
    gains = known.setdefault(kind, {})
    for seed in arguments.seeds:
        gains[str(seed)] = world(seed, arguments.overlap, arguments.contrary)
        print(seed, {name: round(gain, 3) for name, gain in gains[str(seed)].items()}, flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(known, indent=1))
    print(markdown(list(gains.values())))


def markdown(worlds: Sequence[dict[str, float]]) -> str:
    """Gains, their share of what rankings gain, and what calibrated ones gain more: means over worlds with t
    intervals."""
    lines = ["| learned from | gain of the best of four | of the gain of rankings | less than calibrated |",
             "|---|---|---|---|"]
    for name in worlds[0]:
        share = t_interval([w[name] / w["rankings"] for w in worlds])
        less = t_interval([w["calibrated"] - w[name] for w in worlds])
        lines.append(f"| {name} | {t_interval([w[name] for w in worlds]):.3f} | {share:.0%} | {less:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
