"""One workload measured: which peers run, how many pairs, and the JSON and RATIO lines that come of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import data, floors, report
from benchmarks.catalogue import KEEP_MEMORY, NEW, UNIT, Peer, find, rows
from benchmarks.machine import describe, gemm
from benchmarks.pair import Command, WorkerFailed, alternate
from benchmarks.worker import SEED, Job

QUICK_SECONDS = 270
"""With --quick no peer begins after this."""

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
    rows: int = 0  # per step; 0: the workload's usual number

    def pairs_with(self, peer: Peer) -> int:
        return min(self.pairs, 1 if self.quick else DEFAULT_PAIRS) if peer.default else self.pairs

    def job(self, options: Mapping[str, Any], pairs: int) -> Job:
        count = self.rows or rows(self.workload, self.shape, self.quick)
        return Job(self.workload, self.shape, str(self.folder), count, NEW.get(self.workload, 0), pairs + 2,
                   self.dtype, self.device, options)


def compare(plan: Plan, peers: Sequence[Peer]) -> dict[str, Any]:
    """Measure every peer that is there, print, and write JSON; returns what was written."""
    if plan.workload == "adapters-8":
        data.prepare_adapters(plan.folder, plan.shape)
    made = _about(plan)
    ends = time.monotonic() + (QUICK_SECONDS if plan.quick else float("inf"))
    for peer in sorted(peers, key=lambda p: p.default):  # the documented defaults last, since they may be very slow
        one = {"created": _now(), **_measure(plan, peer, made["gemm_gflops"], ends - time.monotonic())}
        made["peers"][peer.name] = one
        if "error" in one:
            print(f"{peer.name}: {one['error']}", flush=True)
        else:
            print(peer.name, *report.lines(peer.name, made["unit"], one), sep="\n", flush=True)
    _write(plan, made)
    for name, one in made["peers"].items():
        if "error" in one:
            print(f"no ratio for {name}: {one['error']}")
    for name, one in made["peers"].items():
        if "ratio" in one:
            print(report.ratio_line(plan.workload, name, one["ratio"]), flush=True)
    return made


def _about(plan: Plan) -> dict[str, Any]:
    """What was measured and on what, printed in a line; the peers' results come into `peers`."""
    limit, job = gemm(plan.device, plan.dtype), plan.job({}, plan.pairs)
    new = f", {job.new} new tokens" if job.new else ""
    print(f"{plan.workload} on {plan.shape} ({floors.products(plan.shape) / 1e6:.1f}M parameters in products), "
          f"{plan.dtype}, {job.rows} rows a step{new}; text: {plan.text}; limit {limit:,.0f} GFLOP/s", flush=True)
    return {"workload": plan.workload, "shape": plan.shape, "dtype": plan.dtype, "device": plan.device,
            "text": plan.text, "unit": UNIT[plan.workload], "seed": SEED, "rows": job.rows, "new_tokens": job.new,
            "quick": plan.quick, "created": _now(), "machine": describe(), "gemm_gflops": limit, "peers": {}}


def _measure(plan: Plan, peer: Peer, limit: float, left: float) -> dict[str, Any]:
    """One peer's summary, or {"error": one line}; `left` seconds remain."""
    place = find(peer.where)
    if place.lacking:
        return {"error": place.lacking}
    if left <= 0:
        return {"error": f"not measured: the time of --quick is over; alone: --peer {peer.name}"}
    pairs = plan.pairs_with(peer)
    ours = plan.job(peer.ours, pairs)
    theirs = plan.job(peer.options, pairs)
    keep = {} if peer.default or peer.options.get("plain") else KEEP_MEMORY
    module = "benchmarks.ours" if peer.where == "ours" else f"benchmarks.peers.{peer.module}"
    logs = plan.out / "logs" / f"{plan.workload}-{plan.shape}" / peer.name.replace("/", "-")
    try:
        rounds = alternate(Command("ours", "benchmarks.ours", ours),
                           Command(peer.name, module, theirs, place.python, keep, place.path), pairs, logs.resolve(),
                           patience=min(plan.patience, left), tell=lambda line: print(f"  {line}", flush=True))
    except WorkerFailed as e:
        return {"error": str(e)}
    per_unit, whole = map(mean, floors.per_unit(plan.workload, plan.shape, rounds.ours, ours.options))
    return {**report.summary(rounds, per_unit, limit, whole), "options": {"ours": dict(ours.options),
                                                                   "peer": dict(theirs.options)},
            "environment": keep, "flops_per_unit": per_unit, "flops_per_unit_whole": whole}


def _write(plan: Plan, made: Mapping[str, Any]) -> None:
    """One file per workload, shape and dtype; peers that an earlier call measured in the same way stay in it."""
    plan.out.mkdir(parents=True, exist_ok=True)
    file = plan.out / f"{plan.workload}-{plan.shape}-{plan.dtype}.json"
    before = json.loads(file.read_text()) if file.is_file() else {"peers": {}}
    if all(before.get(key) == made[key] for key in ("text", "rows", "machine", "device")):
        made = {**made, "peers": {**before["peers"], **made["peers"]}}
    file.write_text(json.dumps(made, indent=1))
    print(f"written: {file}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
