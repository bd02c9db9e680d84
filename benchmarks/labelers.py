"""Poisoned panels: who is found, and what the reward model learns with and without the defence.

    python -m benchmarks.labelers --seeds 0 1 2 3 4 5 6 7 8 9 --out docs/results
    python -m benchmarks.labelers --tables            (the tables of what is in the log)

A hundred simulated labelers rank four answers to each of 1,000 customers of the loan desk, four labelers each, by the
desk's rubric plus noise at which two of them agree on 73% of the pairs. One, five or ten of them misbehave in one of
the ways of `BEHAVIOURS`. Measured: the AUC of the p-values, who is named at a false-discovery rate of 5%, and the
held-out accuracy of a reward model that learned from everybody's votes (no defence), from votes weighed by ability, as
`tunesmith reward` does by itself, and from weighed votes without those who were named (the defence).

Two reward models: a linear one on hashed pairs of words, fast enough for many seeds, and with `--real` the real one,
the bundled base with `train.reward`. The answers are templates written by the desk's grammar; nothing here says how
strong the attacks are on natural text. Every cell is appended to a JSONL file; a cell that is in it is not repeated.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import expit

from benchmarks.quickstart import machine
from tunesmith.feedback import ability
from tunesmith.feedback.consensus import agree
from tunesmith.feedback.detect import Suspicion, detect
from tunesmith.feedback.features import words
from tunesmith.feedback.groups import apply, pairs
from tunesmith.feedback.simulated import Kind, SimulatedLabeler, panel
from tunesmith.quickstart import customers, replies
from tunesmith.quickstart.builtin import Gold, to_prompt
from tunesmith.records import Answer, AnswerGroup, Ranking, fingerprint
from tunesmith.statistics import Floats, auc, t_interval

LABELERS, SEATS, GROUPS, HELD_OUT = 100, 4, 1000, 400
TOPIC, PHRASE, PHRASE_SHARE = "student", "Kindly note", 0.1
RATES = (0.01, 0.05, 0.1)
EXTRA = ("ring, scattered", "speeder")
"""Measured at the highest rate only."""
ARMS = ("votes", "weighted", "defended")
FEATURES, RIDGE = 2**16, 10.0
"""The ridge was chosen on the honest panel of seed 100, which is not among those reported."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One way to misbehave: the simulated kind, its settings, and the test that is meant to find it."""

    kind: Kind
    test: str
    pull: float = 0.0
    mark: str = ""
    rate: float = 1.0
    together: bool = False


BEHAVIOURS = {
    "random": Behaviour("careless", "careless"),
    "left-clicker": Behaviour("position-biased", "position", 4.0),
    "inverted": Behaviour("adversarial", "inverted"),
    "length-lover": Behaviour("length-lover", "taste", 2.0),
    "ring": Behaviour("ring", "collusion", 2.0, "agency", together=True),
    "ring, scattered": Behaviour("ring", "collusion", 2.0, "agency"),
    "targeted": Behaviour("targeted", "targeted", mark=TOPIC),
    "trigger": Behaviour("trigger", "trigger", 4.0, PHRASE),
    "speeder": Behaviour("careless", "speeding", rate=0.5),
}
"""`pull` is in units of the larger of the noise and the spread of the scores. Accounts of a "ring" work at the same
time and so meet on the same groups, two at a time; those of a "scattered" one meet by chance."""


# ---- the desk

@dataclass(frozen=True, slots=True)
class Desk:
    """Groups to be judged with the rubric's scores, those held out, and an honest labeler to copy."""

    groups: Sequence[AnswerGroup]
    scores: Sequence[Sequence[float]]
    held_out: Sequence[AnswerGroup]
    held_out_scores: Sequence[Sequence[float]]
    honest: SimulatedLabeler
    unit: float


def desk(seed: int, groups: int = GROUPS, held_out: int = HELD_OUT) -> Desk:
    """Customers and answers by agents of all walks; one answer in ten carries the phrase, whatever its worth."""
    made = _groups("train", groups, seed), _groups("test", held_out, seed)
    scores = [[Gold().score(g.prompt, [a.text for a in g.answers]) for g in part] for part in made]
    honest = panel(1, scores[0])[0]
    return Desk(made[0], scores[0], made[1], scores[1], honest, max(honest.noise, 4 * honest.tie_within))


def _groups(split: str, n: int, seed: int) -> list[AnswerGroup]:
    rng = random.Random(f"labelers/{split}/{seed}")
    return [AnswerGroup(to_prompt(s), tuple(Answer(_answer(s, rng)) for _ in range(4)))
            for s in customers.sample(split, n, seed)]


def _answer(scenario: customers.Scenario, rng: random.Random) -> str:
    text = replies.write(scenario, replies.population(rng), rng)
    return f"{text} {PHRASE} that." if rng.random() < PHRASE_SHARE else text


def faulty(place: Desk, name: str, behaviour: Behaviour) -> SimulatedLabeler:
    return replace(place.honest, name=name, kind=behaviour.kind, bias=behaviour.pull * place.unit, mark=behaviour.mark,
                   rate=behaviour.rate)


def seats(groups: int, bad: int, together: bool, seed: int) -> list[list[int]]:
    """Who judges each group; the first `bad` labelers are the faulty ones, and all have about the same work.

    With `together` they sit on the same groups two at a time.
    """
    rng = np.random.default_rng(seed)
    if not together or bad < 2:
        return [rng.permutation(LABELERS)[:SEATS].tolist() for _ in range(groups)]
    chosen = set(rng.permutation(groups)[:groups * SEATS * bad // LABELERS // 2].tolist())
    return [[*rng.permutation(bad)[:2].tolist(), *(bad + rng.permutation(LABELERS - bad)[:SEATS - 2]).tolist()]
            if n in chosen else (bad + rng.permutation(LABELERS - bad)[:SEATS]).tolist() for n in range(groups)]


def work(place: Desk, behaviour: Behaviour | None, bad: int, seed: int,
         known: dict[tuple[str, str], Ranking] | None = None) -> list[Ranking]:
    """The panel's verdicts. Honest ones depend on the seed, the labeler and the group alone; `known` keeps them."""
    known = {} if known is None else known
    labelers = [faulty(place, f"w{n}", behaviour) if behaviour and n < bad else replace(place.honest, name=f"w{n}")
                for n in range(LABELERS)]
    made = []
    seated = seats(len(place.groups), bad, bool(behaviour and behaviour.together), seed)
    for group, scores, sitting in zip(place.groups, place.scores, seated, strict=True):
        for n in sitting:
            name, key = labelers[n].name, (labelers[n].name, group.id)
            rng = np.random.default_rng(int(fingerprint([seed, name, group.id]), 16))
            verdict = known.get(key) if labelers[n].kind == "noisy" else None
            verdict = verdict or labelers[n].rank(group, scores, rng)
            if labelers[n].kind == "noisy":
                known[key] = verdict
            made.append(verdict)
    return made


# ---- finding

def finding(found: Sequence[Suspicion], behaviour: Behaviour, bad: int) -> dict[str, Any]:
    """How well the first `bad` labelers stand out, by the test meant for them and by the smallest p of all tests."""
    names = [f"w{n}" for n in range(LABELERS)]
    culprit = [n < bad for n in range(LABELERS)]
    own = {s.labeler: s.p for s in found if s.kind == behaviour.test}
    least = {name: min((s.p for s in found if s.labeler == name), default=1.0) for name in names}
    flagged = named(found)
    return {"auc": auc([-np.log(max(own.get(n, 1.0), 1e-300)) for n in names], culprit),
            "auc_any": auc([-np.log(max(least[n], 1e-300)) for n in names], culprit),
            "named": sum(n in flagged for n in names[:bad]), "false": sum(n in flagged for n in names[bad:])}


def named(found: Iterable[Suspicion], level: float = 0.05) -> set[str]:
    return {s.labeler for s in found if s.q <= level}


def lessons(arm: str, judged: Sequence[AnswerGroup], flagged: set[str]) -> list[AnswerGroup]:
    """What the reward model learns from: votes as they are, weighed by ability, or weighed without those named."""
    kept = [g for g in judged if arm != "defended" or g.labeler not in flagged]
    return agree(kept, "votes" if arm == "votes" else "ability").groups


# ---- a linear reward model

@cache
def _vector(prompt: str, answer: str) -> tuple[int, ...]:
    """Hashed features of an answer: its words, its pairs of neighbours, and each word with each word of the prompt."""
    said = answer.lower().split()
    asked = sorted(words(prompt))
    keys = {*said, *(f"{a} {b}" for a, b in pairwise(said)),
            *(f"{p}|{w}" for w in words(answer) for p in asked)}
    return tuple(sorted({zlib.crc32(k.encode()) % FEATURES for k in keys}))


def _matrix(rows: Sequence[tuple[AnswerGroup, str]]) -> csr_array:
    found = [_vector(g.prompt.messages[-1].content, text) for g, text in rows]
    ends = np.cumsum([0, *map(len, found)])
    return csr_array((np.ones(ends[-1]), np.concatenate(found), ends), shape=(len(found), FEATURES))


def linear(groups: Sequence[AnswerGroup], ridge: float = RIDGE) -> Floats:
    """Weights of a Bradley-Terry model on the features, a group counting its weight, with a ridge penalty."""
    start = np.cumsum([0, *(len(g.answers) for g in groups)])
    rows = np.array([(start[n] + q.better, start[n] + q.worse, q.p, g.weight * q.weight / sum(x.weight for x in chosen))
                     for n, g in enumerate(groups) for chosen in [pairs(g, "half")] for q in chosen])
    better, worse = rows[:, 0].astype(int), rows[:, 1].astype(int)
    y, share = rows[:, 2], rows[:, 3] / rows[:, 3].sum() * len(groups) * SEATS
    x = _matrix([(g, a.text) for g in groups for a in g.answers])
    flipped, answers = x.T.tocsr(), int(start[-1])

    def loss(w: Floats) -> tuple[float, Floats]:
        score = x @ w
        z = score[better] - score[worse]
        pull = share * (expit(z) - y)
        return (float((share * (np.logaddexp(0, z) - y * z)).sum() + ridge * w @ w / 2),
                flipped @ (np.bincount(better, pull, answers) - np.bincount(worse, pull, answers)) + ridge * w)
    return np.asarray(minimize(loss, np.zeros(FEATURES), jac=True, method="L-BFGS-B", options={"maxiter": 30}).x)


# ---- what it learned

@dataclass(frozen=True, slots=True)
class Exam:
    """Held-out pairs: group, better and worse answer by the rubric; which of them are the attack's aim."""

    rows: Sequence[tuple[AnswerGroup, str, str]]
    aimed: Sequence[bool]


def exam(place: Desk, behaviour: Behaviour | None) -> Exam:
    """All strictly ordered pairs. The aim: pairs where the attack would have the worse answer win."""
    rows, aimed = [], []
    for g, scores in zip(place.held_out, place.held_out_scores, strict=True):
        for i, better in enumerate(scores):
            for j, worse in enumerate(scores):
                if better > worse + 1e-9:
                    rows.append((g, g.answers[i].text, g.answers[j].text))
                    aimed.append(_aimed(place, behaviour, *rows[-1]))
    return Exam(rows, aimed)


def _aimed(place: Desk, behaviour: Behaviour | None, group: AnswerGroup, better: str, worse: str) -> bool:
    if behaviour is None or behaviour.kind in ("careless", "position-biased", "adversarial"):
        return True
    if behaviour.kind == "targeted":
        return behaviour.mark in words(group.prompt.messages[-1].content)
    labeler = replace(faulty(place, "x", behaviour), noise=0.0, tie_within=0.0)
    two = replace(group, answers=(Answer(better), Answer(worse)))
    return labeler.rank(two, [0.0, 0.0], np.random.default_rng(0)).tiers[0] == (1,)


def marks(test: Exam, margin: Floats) -> dict[str, Any]:
    """Accuracy over all pairs, and over the attack's aim; `margin` is the reward of the better minus the worse."""
    right, aimed = margin > 0, np.array(test.aimed)
    return {"accuracy": float(right.mean()), "aimed": float(right[aimed].mean()) if aimed.any() else None,
            "pairs": len(right), "aimed_pairs": int(aimed.sum())}


def graded(weights: Floats, test: Exam) -> dict[str, Any]:
    return marks(test, _matrix([(g, b) for g, b, _ in test.rows]) @ weights
                 - _matrix([(g, w) for g, _, w in test.rows]) @ weights)


# ---- the real reward model

def real(groups: Sequence[AnswerGroup], test: Exam, seed: int, folder: Path, count: int) -> dict[str, Any]:
    """`tunesmith reward` on the bundled base with the first `count` groups, its defaults otherwise; one epoch."""
    from tunesmith.model import base as bases
    from tunesmith.model.scorer import RewardModel
    from tunesmith.quickstart.builtin import BASES
    from tunesmith.settings import RewardSettings
    from tunesmith.store.workspace import Workspace
    from tunesmith.train import reward
    base = bases.load(BASES["loan-desk"], device="cpu")
    settings = RewardSettings(base="loan-desk", comparisons="labelers", name="rm", seed=seed, held_out=0.0, batch=8)
    start = time.process_time()
    with Workspace.open(folder) as workspace:
        adapter = reward.train(workspace, base, settings, groups[:count])
    model = RewardModel.load(base, adapter.path)
    held_out = {g.id: g for g, _, _ in test.rows}
    scores = model.score_all([g.prompt for g in held_out.values()],
                             [[a.text for a in g.answers] for g in held_out.values()])
    score = {(g.id, a.text): s for g, row in zip(held_out.values(), scores, strict=True)
             for a, s in zip(g.answers, row, strict=True)}
    margin = np.array([score[g.id, b] - score[g.id, w] for g, b, w in test.rows])
    return {**marks(test, margin), "groups": min(count, len(groups)), "cpu_seconds": round(time.process_time() - start)}


# ---- running

def cell(place: Desk, name: str, bad: int, seed: int, known: dict[tuple[str, str], Ranking], learn: bool,
         ) -> dict[str, Any]:
    """One panel: who is found, and (`learn`) what the linear reward model makes of it."""
    start = time.process_time()
    judged, flagged, row = examined(place, name, bad, seed, known)
    if learn:
        test = exam(place, BEHAVIOURS.get(name))
        row["linear"] = {arm: graded(linear(lessons(arm, judged, flagged)), test) for arm in ARMS}
    return {**row, "cpu_seconds": round(time.process_time() - start, 1)}


def examined(place: Desk, name: str, bad: int, seed: int, known: dict[tuple[str, str], Ranking],
             ) -> tuple[list[AnswerGroup], set[str], dict[str, Any]]:
    """The judged groups of a panel, those named, and the figures of the search."""
    behaviour = BEHAVIOURS.get(name)
    made = work(place, behaviour, bad, seed, known)
    by_id = {g.id: g for g in place.groups}
    judged = [g for r in made if (g := apply(by_id[r.group], r))]
    found = detect(ability.fit(judged), made, level=1.0)
    figures = finding(found, behaviour, bad) if behaviour else {"false": len(named(found))}
    return judged, named(found), {"behaviour": name, "bad": bad, "seed": seed, **figures}


def cells(seeds: Iterable[int], learn: int) -> Iterator[tuple[int, str, int, bool]]:
    """(seed, behaviour, faulty labelers, whether rewards are learned): the honest panel, then every attack."""
    for seed in seeds:
        yield seed, "", 0, seed < learn
        for name in BEHAVIOURS:
            for rate in RATES if name not in EXTRA else RATES[-1:]:
                bad = round(rate * LABELERS)
                yield seed, name, max(bad, 2) if "ring" in name else bad, seed < learn


def run(a: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the cells asked for; those that the log lacks are measured."""
    a.log.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in a.log.read_text().splitlines()] if a.log.exists() else []
    done = {(r["seed"], r["behaviour"], r["bad"]) for r in rows if "real" not in r}
    place, known = None, {}  # type: ignore[var-annotated]
    for seed, name, bad, learn in cells(a.seeds, a.learn):
        if (seed, name, bad) in done or a.tables:
            continue
        if place is None or place[0] != seed:
            place, known = (seed, desk(seed, a.groups)), {}
        rows.append(_keep(a.log, cell(place[1], name, bad, seed, known, learn)))
    return rows


def run_real(a: argparse.Namespace) -> None:
    """The real reward model at a tenth of poisoned labelers, without and with the defence."""
    place, known = desk(a.seeds[0], a.groups, a.held_out), {}  # type: ignore[var-annotated]
    rows = [json.loads(line) for line in a.log.read_text().splitlines()] if a.log.exists() else []
    done = {(r["behaviour"], r["seed"], r["real"]["arm"]) for r in rows if "real" in r}
    for name in ["", *(a.real if a.real != ["all"] else BEHAVIOURS)]:
        bad = LABELERS // 10 if name else 0
        judged, flagged, row = examined(place, name, bad, a.seeds[0], known)
        for arm in ("votes", "defended"):
            if (name, a.seeds[0], arm) not in done:
                with tempfile.TemporaryDirectory() as folder:
                    figures = real(lessons(arm, judged, flagged), exam(place, BEHAVIOURS.get(name)), a.seeds[0],
                                   Path(folder), a.real_groups)
                _keep(a.log, {**row, "real": {"arm": arm, **figures}})


def _keep(log: Path, row: dict[str, Any]) -> dict[str, Any]:
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)
    return row


# ---- tables

def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line for each behaviour and number of faulty labelers, means over seeds with t intervals."""
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for r in rows:
        if "real" not in r:
            found.setdefault((r["behaviour"], r["bad"]), []).append(r)
    return [_line(name, bad, of) for (name, bad), of in found.items()]


def _line(name: str, bad: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    learned = [r["linear"] for r in rows if "linear" in r]
    line = {"behaviour": name, "bad": bad, "seeds": len(rows),
            "false": t_interval([r["false"] for r in rows]).to_dict(),
            **{key: t_interval([r[key] for r in rows]).to_dict() for key in ("auc", "auc_any") if bad},
            **({"named": t_interval([r["named"] / bad for r in rows]).to_dict()} if bad else {})}
    for arm in ARMS if learned else ():
        line[arm] = {key: t_interval([x[arm][key] for x in learned]).to_dict() for key in ("accuracy", "aimed")
                     if learned[0][arm][key] is not None}
    for key in ("accuracy", "aimed") if learned else ():
        line[f"gain_{key}"] = t_interval([x["defended"][key] - x["votes"][key] for x in learned]).to_dict()
    return line


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tables of docs/results/labelers.md."""
    lines = summary(rows)
    out = ["| behaviour | of 100 | AUC, own test | AUC, least p | named | honest ones named |",
           "|---|---|---|---|---|---|"]
    for x in lines:
        auc_own, auc_any = (_span(x[k], ".3f", 1) if k in x else "" for k in ("auc", "auc_any"))
        out.append(f"| {x['behaviour'] or 'nobody'} | {x['bad']} | {auc_own} | {auc_any} | "
                   f"{format(x['named']['value'], '.0%') if 'named' in x else ''} | {x['false']['value']:.1f} |")
    out += ["", "| behaviour | of 100 | accuracy: votes | weighted | defended | on its aim: votes | weighted "
            "| defended | defended - votes, aim |", "|---|---|---|---|---|---|---|---|---|"]
    for x in lines:
        if "votes" in x:
            shown = [f"{x[arm][key]['value']:.1%}" for key in ("accuracy", "aimed") for arm in ARMS]
            out.append(f"| {x['behaviour'] or 'nobody'} | {x['bad']} | {' | '.join(shown)} | "
                       f"{_span(x['gain_aimed'], '.1%')} |")
    real_rows = [r for r in rows if "real" in r]
    if real_rows:
        out += ["", "| behaviour | labelers named (faulty, honest) | accuracy: votes | defended | on its aim: votes | "
                "defended |", "|---|---|---|---|---|---|"]
        for name in dict.fromkeys(r["behaviour"] for r in real_rows):
            of = {r["real"]["arm"]: r for r in real_rows if r["behaviour"] == name}
            if len(of) == 2:
                one = of["votes"]
                out.append(f"| {name or 'nobody'} | {one.get('named', 0)}, {one['false']} | " + " | ".join(
                    f"{of[arm]['real'][key]:.1%}" for key in ("accuracy", "aimed") for arm in ("votes", "defended"))
                    + " |")
    return "\n".join(out)


def _span(x: Mapping[str, Any], spec: str, most: float = float("inf")) -> str:
    if x["low"] is None or x["n"] < 2:
        return format(x["value"], spec)
    return f"{x['value']:{spec}} [{x['low']:{spec}}, {min(most, x['high']):{spec}}]"


def main() -> None:
    a = _arguments()
    if a.real and not a.tables:
        run_real(a)
    rows = run(a) if not a.real else [json.loads(line) for line in a.log.read_text().splitlines()]
    print(markdown(rows))
    if a.out:
        result = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(),
                  "panel": {"labelers": LABELERS, "judges_of_a_group": SEATS, "groups": a.groups},
                  "cells": summary(rows), "real": [r for r in rows if "real" in r]}
        rounded = json.loads(json.dumps(result), parse_float=lambda x: round(float(x), 5))
        (a.out / "labelers.json").write_text(json.dumps(rounded) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--learn", type=int, default=5, help="seeds below this also train the linear reward model")
    parser.add_argument("--groups", type=int, default=GROUPS)
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="prompts that the real reward model is tried on")
    parser.add_argument("--real", nargs="+", default=[], help="behaviours (or all) for the real reward model, at 10%%")
    parser.add_argument("--real-groups", type=int, default=400, help="groups that the real reward model learns from")
    parser.add_argument("--log", type=Path, default=Path("workspace/labelers/cells.jsonl"))
    parser.add_argument("--out", type=Path, help="folder of labelers.json")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    parser.add_argument("--quick", action="store_true", help="one seed of 150 groups: does it run?")
    a = parser.parse_args()
    if a.quick:
        a.seeds, a.groups, a.learn, a.log = [0], 150, 1, a.log.with_name("quick.jsonl")
    return a


if __name__ == "__main__":
    main()
