"""Every adapter method on one real task: quality, time, memory, size, and what the base forgets.

    python -m benchmarks.adapters --text banking77.jsonl.gz --out docs/results/adapters.json

The task is to name the intent of a bank customer's question (`text`, `intent`; 77 intents of BANKING77, CC BY 4.0)
after 1,000 examples, on the bundled base, which has seen such questions but never an intent. 300 other questions
measure it: loss per token of the answer, and how often the whole answer is the likeliest at every token. Forgetting is
the rise of the loss on replies of the loan desk, which the base was made to write. Every method has a process of its
own and goes through `train.sft`, on one thread; seconds are the processor's, so that other programs count for less.
`--tune` compares learning rates on training questions that the training leaves out; nothing is chosen on the held-out
ones.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROWS, HELD_OUT, TUNING, OWN = 1000, 300, 500, 60
METHODS: dict[str, dict[str, Any]] = {
    "lora": {}, "rslora": {"adapter": "lora", "rslora": True}, "dora": {"adapter": "dora"}, "ia3": {"adapter": "ia3"},
    "houlsby": {"adapter": "houlsby"}, "pfeiffer": {"adapter": "pfeiffer"}, "parallel": {"adapter": "parallel"},
    "prefix": {"adapter": "prefix"}, "prompt": {"adapter": "prompt"}, "full": {"adapter": "full"}}
TRIED = {"lora": (1e-3, 3e-3, 1e-2), "rslora": (1e-3,), "dora": (3e-3,), "ia3": (1e-2, 5e-2), "houlsby": (1e-3, 5e-3),
         "pfeiffer": (1e-3, 5e-3), "parallel": (1e-3, 5e-3, 1e-2), "prefix": (1e-2, 5e-2), "prompt": (1e-2, 5e-2),
         "full": (1e-4, 3e-4, 1e-3, 3e-3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="JSONL with text and intent, may be gzipped")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--tune", action="store_true", help="learning rates, on one seed")
    parser.add_argument("--rates", help="JSON: a learning rate by method; without, the trainer's own")
    parser.add_argument("--log", type=Path, default=Path("adapters.jsonl"), help="runs that are in it are not repeated")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        for job in json.loads(chosen.one):
            row = json.dumps({"job": job, **measure(chosen.text, job)})
            with open(chosen.log, "a") as log:
                log.write(row + "\n")
        return
    for method in chosen.methods:
        left = [job for job in jobs(chosen, method) if job not in [row["job"] for row in logged(chosen.log)]]
        command = [sys.executable, "-m", "benchmarks.adapters", "--text", chosen.text, "--log", str(chosen.log),
                   "--one", json.dumps(left)]
        if left:
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if chosen.out:
        chosen.out.write_text(json.dumps(summary(logged(chosen.log)), indent=1) + "\n")


def logged(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def jobs(chosen: argparse.Namespace, method: str) -> Iterator[dict[str, Any]]:
    rates = json.loads(chosen.rates) if chosen.rates else {}
    for seed in [0] if chosen.tune else chosen.seeds:
        for lr in TRIED[method] if chosen.tune else (rates.get(method, 0.0),):
            yield {"method": method, "seed": seed, "lr": lr, "epochs": chosen.epochs, "tune": chosen.tune}


def measure(text: str, job: dict[str, Any]) -> dict[str, Any]:
    """One run and what came of it."""
    from tunesmith.model import base as bases
    from tunesmith.model.batch import Tree
    from tunesmith.quickstart import builtin, replies
    from tunesmith.records import Demonstration, Message
    from tunesmith.settings import SftSettings
    from tunesmith.store.workspace import Workspace
    from tunesmith.train import sft

    rows = questions(text, job["seed"])
    train, held_out = rows[:ROWS], rows[ROWS:ROWS + HELD_OUT]
    if job["tune"]:
        train, held_out = rows[:TUNING], rows[TUNING:TUNING + HELD_OUT]
    base = bases.load(str(builtin.BASES["loan-desk"]), "loan-desk")
    own = [Demonstration((*builtin.to_prompt(s).messages, Message("assistant", reply)))
           for s, reply in replies.demonstrations(OWN, seed=12345)]

    def trees(demonstrations: list[Demonstration]) -> list[Tree]:
        return sft.encode(base, demonstrations, base.context - 64)[0]

    def loss(slot: str, demonstrations: list[Demonstration]) -> float:
        return sft.assess(base, trees(demonstrations), 768, slot=slot)["valid_loss"]

    before = {"held_out_loss": loss("", held_out), "own_loss": loss("", own)}
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.open(Path(folder))
        workspace.add_dataset("questions", "demonstrations", train)
        adapter = sft.train(workspace, base, SftSettings(
            data="questions", name="made", epochs=job["epochs"], seed=job["seed"], lr=job["lr"], threads=1,
            checkpoint_every=10_000, **METHODS[job["method"]]))
        about = workspace.run(adapter.lineage["run"]).summary
        disk = sum(f.stat().st_size for f in adapter.path.rglob("*.safetensors"))
        slot = "" if job["method"] == "full" else "policy"
        after = {"held_out_loss": loss(slot, held_out), "own_loss": loss(slot, own)}
        right = sum(sft.assess(base, [t], 768, slot=slot)["valid_token_accuracy"] == 1 for t in trees(held_out))
        workspace.close()
    return {"about": about, "before": before, "after": after, "exact": right / len(held_out), "disk_bytes": disk}


def questions(text: str, seed: int) -> list[Any]:
    """Questions with their intents in words, in an order of the seed's."""
    from tunesmith.records import Demonstration, Message

    with (gzip.open(text, "rt") if text.endswith(".gz") else open(text)) as lines:
        rows = sorted((json.loads(line) for line in lines), key=lambda r: r["text"])
    random.Random(seed).shuffle(rows)
    return [Demonstration((Message("user", r["text"]), Message("assistant", r["intent"].replace("_", " ").lower())))
            for r in rows]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds, and the largest distance from it; and what the learning rates were chosen by."""
    figures = {
        "held_out_loss": lambda r: r["after"]["held_out_loss"], "exact": lambda r: r["exact"],
        "forgotten": lambda r: r["after"]["own_loss"] - r["before"]["own_loss"],
        "core_seconds": lambda r: r["about"]["core_seconds"]}
    found: dict[str, Any] = {"rows": ROWS, "held_out": HELD_OUT, "before": rows[0]["before"], "methods": {}}
    found["tuning"] = [{"method": r["job"]["method"], **sizes(r),
                        **{name: figure(r) for name, figure in figures.items()}} for r in rows if r["job"]["tune"]]
    for method in METHODS:
        if mine := [r for r in rows if r["job"]["method"] == method and not r["job"]["tune"]]:
            values = {name: [figure(r) for r in mine] for name, figure in figures.items()}
            found["methods"][method] = {
                "seeds": len(mine), **sizes(mine[0]),  # memory is that of a process's first run
                **{name: {"mean": statistics.fmean(v), "within": max(abs(x - statistics.fmean(v)) for x in v)}
                   for name, v in values.items()}}
    return {**found, "runs": rows}


def sizes(row: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the seed."""
    about = row["about"]
    return {"lr": row["job"]["lr"], "parameters": about["parameters"], "trained": about["trained_parameters"],
            "disk_kb": row["disk_bytes"] / 1000, "peak_mb": about["peak_mb"]}


def table(found: dict[str, Any]) -> str:
    """The summary for docs/which_adapter.md."""
    def shown(value: dict[str, float], digits: int, scale: float = 1.0, unit: str = "") -> str:
        return f"{scale * value['mean']:,.{digits}f}{unit} ± {scale * value['within']:,.{digits}f}"

    lines = ["| | rate | seeds | of all | held-out loss | answers right | forgotten | core-seconds | peak MB |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for name, m in found["methods"].items():
        lines.append(
            f"| {name} | {m['lr']:g} | {m['seeds']} | {100 * m['trained'] / m['parameters']:.3g}% | "
            f"{shown(m['held_out_loss'], 3)} | {shown(m['exact'], 1, 100, '%')} | {shown(m['forgotten'], 3)} | "
            f"{shown(m['core_seconds'], 0)} | {m['peak_mb']:,.0f} |")
    return "\n".join(lines)


def tried(found: dict[str, Any]) -> str:
    """The learning rates for docs/which_adapter.md."""
    lines = ["| | rate | trained | held-out loss | answers right | forgotten | core-seconds | peak MB | on disk, kB |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for t in sorted(found["tuning"], key=lambda t: (list(METHODS).index(t["method"]), t["lr"])):
        lines.append(f"| {t['method']} | {t['lr']:g} | {t['trained']:,} | {t['held_out_loss']:.3f} | "
                     f"{100 * t['exact']:.1f}% | {t['forgotten']:.3f} | {t['core_seconds']:.0f} | "
                     f"{t['peak_mb']:,.0f} | {t['disk_kb']:,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
