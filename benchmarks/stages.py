"""General -> domain -> sub-domain on real data: what each way of tuning in stages learns, and what it forgets.

    python -m benchmarks.stages --data ../shared/data --out docs/results

Dolly's instructions, then service dialogues (SGD), then naming the intent of a bank customer's question (BANKING77):
400 rows of each, two epochs, LoRA of rank 16, on the bundled base. 100 other rows of each measure the last model:
nats per learned token; and the loss on text that the base writes by itself. A finished cell is in the log and is not
repeated.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.quickstart import machine
from tunesmith.model import adapters
from tunesmith.quickstart import builtin
from tunesmith.records import Demonstration, Message
from tunesmith.settings import SftSettings
from tunesmith.shop import Shop
from tunesmith.statistics import t_interval
from tunesmith.store.workspace import Workspace
from tunesmith.terminal import Terminal
from tunesmith.train import sft, stages, transfer

ROWS, HELD_OUT = 400, 100
STAGES = ("general", "domain", "sub-domain")
WAYS: dict[str, Mapping[str, Any]] = {
    "go on": {}, "go on, replay 20%": {"replay_share": 0.2}, "go on, KL 0.3": {"kl_to_start": 0.3},
    "go on, KL 1": {"kl_to_start": 1.0}, "stack": {"stack": True},
    "stack, O-LoRA 0.5": {"stack": True, "orthogonal": 0.5},
    "stack, replay 20%": {"stack": True, "replay_share": 0.2}}


def conversations(data: Path, seed: int) -> dict[str, list[Demonstration]]:
    """Shuffled rows of each stage, enough for learning and measuring."""
    def rows(name: str) -> list[dict[str, Any]]:
        with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    dolly = [(("user", f"{r['instruction']}\n\n{r['context']}" if r.get("context") else r["instruction"]),
              ("assistant", r["response"])) for r in rows("demonstrations/dolly_part")]
    desks = [tuple((("assistant" if who == "system" else who), text) for who, text in r["turns"][:6])
             for r in rows("customer_service/sgd_dialogues")]
    bank = [(("user", r["text"]), ("assistant", r["intent"].replace("_", " ")))
            for r in rows("customer_service/banking77")]
    found = {}
    for name, turns in zip(STAGES, (dolly, desks, bank)):
        usable = [t for t in turns if t[-1][0] == "assistant" and sum(len(text) for _, text in t) < 900]
        random.Random(seed).shuffle(usable)
        found[name] = [Demonstration(tuple(Message(who, text) for who, text in t)) for t in usable[:ROWS + HELD_OUT]]
    return found


def measure(data: Path, way: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train the three stages one way; the last model's loss on each stage's held-out rows, and the start's."""
    shop = Shop(Workspace.open(folder), Terminal(quiet=True).progress, builtin.BASES, builtin.JUDGES)
    everything = conversations(data, seed)
    options = dict(WAYS[way])
    for i, name in enumerate(STAGES):
        shop.workspace.add_dataset(name, "demonstrations", everything[name][:ROWS])
        replay = STAGES[:i] if "replay_share" in options else ()
        later = {**options, "after": STAGES[i - 1], "replay": replay} if i else {}
        settings = SftSettings(base="loan-desk", data=name, name=name, seed=seed, checkpoint_every=10_000, **later)
        sft.train(shop.workspace, shop.base("loan-desk", settings), settings)
    base = shop.base("loan-desk")
    slots = {}
    for name in STAGES:
        adapters.load(base, name, shop.workspace.adapter(name).path)
        slots[name] = name
    tests = {name: sft.encode(base, rows[ROWS:], base.context)[0] for name, rows in everything.items()}
    tests["own text"] = stages.own_text(base, seed=seed)
    loss = {name: {column: i.value for column, i in transfer.row(base, name, trees, slots, seed).loss.items()}
            for name, trees in tests.items()}
    run = shop.workspace.run(shop.workspace.adapter(STAGES[-1]).lineage["run"])
    shop.workspace.close()
    return {"way": way, "seed": seed, "loss": loss, "core_seconds": run.summary["core_seconds"],
            "bytes": sum(f.stat().st_size for f in (folder / "adapters" / STAGES[-1] / "1").glob("*.safetensors"))}


def table(rows: list[dict[str, Any]]) -> str:
    """The last model on every stage, by way; means over seeds with t intervals."""
    head = ["general", "domain", "sub-domain", "own text"]
    lines = [f"| way | {' | '.join(head)} | MB | core-s, last stage |", "|---|" + "---|" * 6]

    def cell(of: list[dict[str, Any]], name: str, column: str) -> str:
        return f"{t_interval([r['loss'][name][column] for r in of]):.3f}"

    first = [r for r in rows if r["way"] == "go on"]
    for label, column in (("the base", "base"), ("after general", "general"), ("after domain", "domain")):
        lines.append(f"| {label} | {' | '.join(cell(first, name, column) for name in head)} | | |")
    for way in WAYS:
        of = [r for r in rows if r["way"] == way]
        if of:
            lines.append(f"| {way} | {' | '.join(cell(of, name, 'sub-domain') for name in head)} | "
                         f"{of[0]['bytes'] / 1e6:.2f} | {sum(r['core_seconds'] for r in of) / len(of):.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--log", type=Path, default=Path("workspace/stages.jsonl"))
    parser.add_argument("--out", type=Path, help="folder of stages.json")
    a = parser.parse_args()
    a.log.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in a.log.read_text().splitlines()] if a.log.exists() else []
    for seed in a.seeds:
        for way in a.ways:
            if not any((r["way"], r["seed"]) == (way, seed) for r in rows):
                with tempfile.TemporaryDirectory() as folder:
                    rows.append(measure(a.data, way, seed, Path(folder)))
                with a.log.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    if a.out:
        result = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "cells": rows}
        (a.out / "stages.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
