"""Looking after data, measured: duplicates at scale, real data sets, wrong labels, the learning curve.

    python -m benchmarks.curation scale --rows 20000 200000      planted duplicates: found, missed, memory, rows/s
    python -m benchmarks.curation real --data FOLDER             what is in real sets of demonstrations
    python -m benchmarks.curation noise --data FOLDER            wrong labels planted in banking's intents
    python -m benchmarks.curation laws --data FOLDER             learning curves of banking's intents, right and wrong
    python -m benchmarks.curation curve                          loan-desk demonstrations, clean and spoiled

Each writes its part of docs/results/curation.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from benchmarks.machine import describe
from tunesmith import curation
from tunesmith.data import checkup, growth, health, leakage, noise
from tunesmith.evaluate.toxicity import Toxicity
from tunesmith.quickstart import builtin, replies
from tunesmith.quickstart.builtin import to_prompt
from tunesmith.records import Demonstration, Message
from tunesmith.settings import CurveSettings
from tunesmith.shop import Shop
from tunesmith.statistics import wilson
from tunesmith.store import privacy
from tunesmith.store.workspace import Workspace
from tunesmith.terminal import Terminal

OUT = Path("docs/results/curation.json")
MOST, VALID = 900, 80
"""Demonstrations to learn from, and to measure on."""


# ---- real sets

def _read(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _told(asked: str, answer: str) -> Demonstration:
    return Demonstration((Message("user", asked), Message("assistant", answer)))


def demonstrations(data: Path) -> dict[str, list[Demonstration]]:
    """Real sets by name, their train parts."""
    folder = data / "demonstrations"
    return {
        "dolly_part": [_told(r["instruction"], r["response"]) for r in _read(folder / "dolly_part.jsonl.gz")
                       if r["split"] == "train"],
        "prompted_tasks": [_told(r["prompt"], r["completion"]) for r in _read(folder / "prompted_tasks.jsonl.gz")
                           if r["split"] == "train"],
        "super_ni_tasks": [_told(f"{r['definition']}\n\n{r['input']}", r["outputs"][0])
                           for r in _read(folder / "super_ni_tasks.jsonl.gz")],
        "self_instruct_human": [_told(f"{r['instruction']}\n\n{r['input']}".strip(), r["output"])
                                for r in _read(folder / "self_instruct_human.jsonl.gz") if r["split"] == "train"]}


def evaluations(data: Path) -> dict[str, list[tuple[str, ...]]]:
    """What must not be in them: the texts of evaluation items, and the development parts of the same sets."""
    folder = data / "evaluations"
    return {
        "gsm8k_part": [(r["question"],) for r in _read(folder / "gsm8k_part.jsonl.gz")],
        "mmlu_part": [(r["question"],) for r in _read(folder / "mmlu_part.jsonl.gz")],
        "truthfulqa": [(r["question"],) for r in _read(folder / "truthfulqa.jsonl.gz")],
        "ifeval": [(r["prompt"],) for r in _read(folder / "ifeval.jsonl.gz")],
        "dolly_part dev": [(r["instruction"],) for r in _read(data / "demonstrations/dolly_part.jsonl.gz")
                           if r["split"] == "dev"],
        "prompted_tasks dev": [(r["prompt"],) for r in _read(data / "demonstrations/prompted_tasks.jsonl.gz")
                               if r["split"] == "dev"],
        "self_instruct_human dev": [(f"{r['instruction']}\n\n{r['input']}".strip(),)
                                    for r in _read(data / "demonstrations/self_instruct_human.jsonl.gz")
                                    if r["split"] == "dev"]}


def real(data: Path, only: list[str]) -> dict[str, Any]:
    out = {}
    for name, told in demonstrations(data).items():
        if only and name not in only:
            continue
        watch = leakage.Evaluations(item for e, texts in evaluations(data).items() for item in leakage.items(e, texts))
        tools = health.Tools(Toxicity.load().probability, lambda text: (f.kind for f in privacy.find(text)), watch)
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            found = health.examine(name, "demonstrations", told, Path(folder) / "index", tools, sample=500)
        out[name] = {"rows": found.rows, "cpu_seconds": round(time.process_time() - start, 1),
                     "verdict": [s["text"] for s in checkup.verdict(found)], **checkup.to_json(found.figures)}
        print(name, "\n  ".join(out[name]["verdict"]), flush=True)
    return out


# ---- wrong labels

def wrong_labels(data: Path, most: int, labels: int, shares: list[float]) -> dict[str, Any]:
    read = [(r["text"], r["intent"]) for r in _read(data / "customer_service/banking77.jsonl.gz")]
    random.Random(0).shuffle(read)
    intents = sorted({intent for _, intent in read})[:labels]
    read = [row for row in read if row[1] in intents][:most]
    out = []
    for share in shares:
        draw = random.Random(1)
        flips = [draw.random() < share for _ in read]
        given = [draw.choice([i for i in intents if i != own]) if flip else own for (_, own), flip in zip(read, flips)]
        found = noise.label_noise([q for q, _ in read], given)
        assert found
        surest = [row for row, _, _ in found.suspects[:max(1, sum(flips))]]
        out.append({"planted": sum(flips) / len(flips), "estimated": found.share.to_dict(),
                    "classifier": found.accuracy.to_dict(), "trusted": found.trusted,
                    "labels": found.labels, "rows": found.rows,
                    "planted_among_surest": wilson(sum(flips[r] for r in surest), len(surest)).to_dict()})
        print(out[-1], flush=True)
    return {"rows": len(read), "shares": out}


# ---- learning curves

def laws(data: Path, sizes: list[int], seeds: int) -> dict[str, Any]:
    """Banking's intents by the classifier of `data.noise`: held-out nats against examples, with correct labels and with
    three in ten of the training labels wrong."""
    read = [(r["text"], r["intent"]) for r in _read(data / "customer_service/banking77.jsonl.gz")]
    random.Random(0).shuffle(read)
    intents = sorted({intent for _, intent in read})[:14]
    read = [row for row in read if row[1] in intents]
    x = noise.features([text for text, _ in read])
    label = np.array([intents.index(intent) for _, intent in read])
    out: dict[str, Any] = {"rows": len(read), "held_out": 500, "labels": len(intents)}
    for name, share in (("correct labels", 0.0), ("30% wrong labels", 0.3)):
        losses = {n: [_nats(x, label, len(intents), n, share, seed) for seed in range(seeds)] for n in sizes}
        found = growth.growth(losses)
        out[name] = {"losses": {str(n): of for n, of in losses.items()}, **found.to_dict()}
        print(name, found.text, f"exponent {found.exponent:.2f}, floor {found.floor:.3f}", flush=True)
    return out


def _nats(x: Any, label: Any, classes: int, n: int, share: float, seed: int) -> float:
    """Mean surprise at the last 500 rows' labels, after n of the others."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(label) - 500)[:n]
    given = np.where(rng.random(n) < share, (label[chosen] + rng.integers(1, classes, n)) % classes, label[chosen])
    weights = noise._fit(x[chosen], given, classes)
    logp = log_softmax(x[-500:] @ weights[:-1] + weights[-1], axis=1)
    return -float(logp[np.arange(500), label[-500:]].mean())


def curve(root: Path, sizes: tuple[int, ...], seeds: int, only: list[str]) -> dict[str, Any]:
    """Loan-desk demonstrations; once as they are, once with a third of the answers given to other customers."""
    out = {}
    with Workspace.open(root) as workspace:
        shop = Shop(workspace, Terminal().progress, builtin.BASES, builtin.JUDGES)
        known = {d.name for d in workspace.datasets()}
        told = [_told_of(*pair) for pair in replies.demonstrations(MOST + VALID, 11)]
        if "valid" not in known:
            workspace.add_dataset("valid", "demonstrations", told[-VALID:])
            workspace.add_dataset("clean", "demonstrations", told[:-VALID])
            workspace.add_dataset("spoiled", "demonstrations", spoiled(told[:-VALID], 1 / 3))
        for name in only or ("clean", "spoiled"):
            made = curation.curve(shop, CurveSettings(data=name, valid="valid", base="loan-desk", sizes=sizes,
                                                      seeds=seeds, lr=2e-3, least_steps=30))
            out[name] = made.report["growth"]
            print(name, made.verdict, flush=True)
    return out


def _told_of(scenario: Any, reply: str) -> Demonstration:
    return Demonstration((*to_prompt(scenario).messages, Message("assistant", reply)), source="loan-desk simulator")


def spoiled(told: list[Demonstration], share: float, seed: int = 5) -> list[Demonstration]:
    """That share of the answers moved on by one among themselves."""
    draw = random.Random(seed)
    which = [n for n in range(len(told)) if draw.random() < share]
    out = list(told)
    for n, other in zip(which, which[1:] + which[:1]):
        out[n] = replace(told[n], messages=(*told[n].messages[:-1], told[other].messages[-1]))
    return out


def _alone(count: int) -> dict[str, Any]:
    """In a process of its own, so that its peak memory is its own."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.duplicates", str(count)], check=True, capture_output=True)
    print(done.stdout.decode(), flush=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def _part(name: str) -> Iterator[dict[str, Any]]:
    """The result is merged into the file when the part is done."""
    whole = json.loads(OUT.read_text()) if OUT.exists() else {}
    found: dict[str, Any] = whole.get(name, {})
    yield found
    whole[name] = {**found, "date": time.strftime("%Y-%m-%d"), "machine": describe()}
    OUT.write_text(json.dumps(whole, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scale", "real", "noise", "laws", "curve"))
    parser.add_argument("--rows", type=int, nargs="*", default=[20_000, 200_000])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--root", type=Path, default=Path("/tmp/tunesmith-curve"))
    parser.add_argument("--sizes", type=int, nargs="*", default=[30, 100, 300, 900])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="real, curve: these sets; others stay as they were")
    parser.add_argument("--most", type=int, default=3000)
    parser.add_argument("--labels", type=int, default=20)
    asked = parser.parse_args()
    with _part(asked.what) as part:
        if asked.what == "scale":
            part["sizes"] = [_alone(count) for count in asked.rows]
        elif asked.what == "real":
            part["sets"] = {**part.get("sets", {}), **real(asked.data, asked.only)}
        elif asked.what == "noise":
            part |= {f"{asked.labels} labels": wrong_labels(
                asked.data, asked.most, asked.labels, [0.0, 0.1, 0.2])}
        elif asked.what == "laws":
            part |= laws(asked.data, [100, 200, 400, 800], asked.seeds)
        else:
            measured = curve(asked.root, tuple(asked.sizes), asked.seeds, asked.only)
            part["curves"] = {**part.get("curves", {}), **measured}


if __name__ == "__main__":
    main()
