"""Ours and each installed peer on the same data, model, tokens and dtype, step by step in turn.

    python -m benchmarks.peers sft                      every configuration, 5 pairs each
    python -m benchmarks.peers sft --quick              2 pairs each, under 5 minutes
    python -m benchmarks.peers ppo --peer trl-value-full --shape small

Ends with `RATIO <workload> <peer> <median> <min> <max>` per peer: our rate over the peer's, per pair. How to install
the peers and how to read the figures: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import data, floors, report
from benchmarks.catalogue import KEEP_MEMORY, NEW, PEERS, UNIT, Peer, find, rows
from benchmarks.machine import describe, gemm
from benchmarks.pair import Command, WorkerFailed, alternate
from benchmarks.worker import SEED, Job

DEFAULT_PAIRS = 3
"""Pairs against a peer's documented default, which may be a hundred times slower."""


@dataclass(frozen=True)
class Plan:
    """What one call of the benchmark measures."""

    workload: str
    shape: str
    folder: Path
    text: str
    out: Path
    pairs: int = 5
    quick: bool = False
    dtype: str = "fp32"
    device: str = "cpu"
    patience: float = 900.0

    def pairs_with(self, peer: Peer) -> int:
        return min(self.pairs, 1 if self.quick else DEFAULT_PAIRS) if peer.default else self.pairs

    def job(self, options: Mapping[str, Any], pairs: int) -> Job:
        return Job(self.workload, self.shape, str(self.folder), rows(self.workload, self.shape, self.quick),
                   NEW.get(self.workload, 0), pairs + 2, self.dtype, self.device, options)


def main(words: Sequence[str] | None = None) -> int:
    arguments = _arguments(words)
    text = arguments.text or None
    source = Path(text).name if text else "the built-in loan desk's dialogues (--text FILE for text by people)"
    folder = data.prepare(text, arguments.shape)
    out = arguments.out or data.root() / "results"
    plan = Plan(arguments.workload, arguments.shape, folder, source, out,
                arguments.pairs or (2 if arguments.quick else 5), arguments.quick, arguments.dtype,
                patience=arguments.patience)
    known = PEERS[plan.workload]
    unknown = set(arguments.peer) - {p.name for p in known}
    if unknown:
        print(f"no peer {', '.join(sorted(unknown))} for {plan.workload}; there are: "
              f"{', '.join(p.name for p in known)}", file=sys.stderr)
        return 2
    chosen = [p for p in known if (p.name in arguments.peer if arguments.peer else p.usual)]
    compare(plan, chosen)
    return 0


def compare(plan: Plan, peers: Sequence[Peer]) -> dict[str, Any]:
    """Measure every peer that is there, print, and write JSON; returns what was written."""
    if plan.workload == "adapters-8":
        data.prepare_adapters(plan.folder, plan.shape)
    limit = gemm(plan.device, plan.dtype)
    size = plan.job({}, plan.pairs)
    print(f"{plan.workload} on {plan.shape} ({floors.products(plan.shape) / 1e6:.1f}M parameters in products), "
          f"{plan.dtype}, {size.rows} rows a step" + (f", {size.new} new tokens" if size.new else "")
          + f"; text: {plan.text}; limit {limit:,.0f} GFLOP/s", flush=True)
    made: dict[str, Any] = {
        "workload": plan.workload, "shape": plan.shape, "dtype": plan.dtype, "device": plan.device, "text": plan.text,
        "unit": UNIT[plan.workload], "seed": SEED, "rows": size.rows, "new_tokens": size.new, "quick": plan.quick,
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "machine": describe(), "gemm_gflops": limit,
        "peers": {}}
    for peer in peers:
        made["peers"][peer.name] = one = _measure(plan, peer, limit)
        if "error" in one:
            print(f"{peer.name}: {one['error']}", flush=True)
        else:
            print(peer.name, *report.lines(peer.name, made["unit"], one), sep="\n", flush=True)
    _write(plan, made)
    measured = {name: one for name, one in made["peers"].items() if "ratio" in one}
    for name in made["peers"].keys() - measured.keys():
        print(f"no ratio for {name}: {made['peers'][name]['error']}")
    for name, one in measured.items():
        print(report.ratio_line(plan.workload, name, one["ratio"]))
    sys.stdout.flush()
    return made


def _measure(plan: Plan, peer: Peer, limit: float) -> dict[str, Any]:
    """One peer's summary, or {"error": one line}."""
    place = find(peer.where)
    if place.lacking:
        return {"error": place.lacking}
    pairs = plan.pairs_with(peer)
    ours = plan.job(peer.ours, pairs)
    theirs = plan.job(peer.options, pairs)
    keep = {} if peer.default or peer.options.get("plain") else KEEP_MEMORY
    module = "benchmarks.ours" if peer.where == "ours" else f"benchmarks.peers.{peer.module}"
    logs = plan.out / "logs" / f"{plan.workload}-{plan.shape}" / peer.name.replace("/", "-")
    try:
        rounds = alternate(Command("ours", "benchmarks.ours", ours),
                           Command(peer.name, module, theirs, place.python, keep, place.path), pairs, logs.resolve(),
                           patience=plan.patience, tell=lambda line: print(f"  {line}", flush=True))
    except WorkerFailed as e:
        return {"error": str(e)}
    per_unit = mean(floors.flops(plan.workload, plan.shape, s["tokens"], ours.options) / s["units"]
                    for s in rounds.ours)
    return {**report.summary(rounds, per_unit, limit), "options": {"ours": dict(ours.options),
                                                                   "peer": dict(theirs.options)},
            "environment": keep, "flops_per_unit": per_unit}


def _write(plan: Plan, made: Mapping[str, Any]) -> None:
    """The newest result of a workload lies under its name; earlier ones keep their date."""
    plan.out.mkdir(parents=True, exist_ok=True)
    name = f"{plan.workload}-{plan.shape}-{plan.dtype}"
    text = json.dumps(made, indent=1)
    stamp = made["created"].replace(":", "").replace("+0000", "Z")
    for file in (plan.out / f"{name}-{stamp}.json", plan.out / f"{name}.json"):
        file.write_text(text)
    print(f"written: {plan.out / name}.json")


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("workload", choices=list(PEERS))
    parser.add_argument("--shape", choices=list(data.STORED), default="tiny")
    parser.add_argument("--quick", action="store_true", help="2 pairs, smaller steps: minutes, no claims")
    parser.add_argument("--peer", nargs="+", default=[], help="only these")
    parser.add_argument("--pairs", type=int, default=0, help="default 5 (2 with --quick)")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--text", default=os.environ.get("BENCH_TEXT", ""), help="JSONL of Anthropic HH transcripts; "
                        "default: BENCH_TEXT, else the built-in loan desk's dialogues")
    parser.add_argument("--out", type=Path, help="folder for JSON and logs; default: results/ beside the data")
    parser.add_argument("--patience", type=float, default=900, help="seconds that one step may take")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
