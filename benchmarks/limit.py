"""What this machine can do at most, and how much of it each workload of ours reaches.

    python -m benchmarks.limit                       rates of the machine; shares from the newest results
    python -m benchmarks.limit --fresh sft dpo       short new runs of these workloads instead

The limit is the rate of large square products in the workload's precision; what a workload cannot avoid computing is in
`benchmarks.floors`; the column "4N, 6N" is the share if all parameters counted for every token.
Decoding reads every weight once a step, so small batches are bound by bandwidth instead.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import data, floors
from benchmarks.catalogue import PEERS, UNIT
from benchmarks.machine import gemm
from benchmarks.pair import Command, WorkerFailed, alone, rate
from benchmarks.plan import Plan
from tunesmith.model.machine import measure

FIRST = {workload: peers[0].ours for workload, peers in PEERS.items()}
"""Our options where a workload has several."""


def main(words: Sequence[str] | None = None) -> None:
    arguments = _arguments(words)
    out = arguments.out or data.root() / "results"
    found: dict[str, Any] = {"machine": rates(), "workloads": {}}
    print(f"{'':<12}{'fp32 GFLOP/s':>14}{'bf16 GFLOP/s':>14}{'copy GB/s':>12}")
    for name, row in found["machine"].items():
        print(f"{name:<12}" + "".join(f"{v:>{w},.1f}" for v, w in zip(row.values(), (14, 14, 12))))
    print(f"\n{'workload':<14}{'shape':<8}{'measured':>12}{'at the limit':>14}  {'share':>6}{'4N, 6N':>8}  unit")
    for workload in arguments.fresh or list(PEERS):
        for shape in [arguments.shape] if arguments.fresh or arguments.shape else data.STORED:
            try:
                row = fresh(workload, shape or "tiny", arguments, out) if arguments.fresh else stored(
                    workload, shape, arguments.dtype, out)
            except WorkerFailed as e:
                print(f"{workload:<14}{shape:<8}{e}")
                continue
            if row:
                found["workloads"][f"{workload}, {shape}"] = row
                shares = row["measured"] / row["limit"], row["measured"] / row["limit_whole"]
                print(f"{workload:<14}{shape:<8}{row['measured']:>12,.4g}{row['limit']:>14,.4g}  "
                      f"{shares[0]:>6.0%}{shares[1]:>8.0%}  {UNIT[workload]}/s")
    if not found["workloads"]:
        print("no results yet: measure some with python -m benchmarks.peers, or give --fresh WORKLOAD ...")
    out.mkdir(parents=True, exist_ok=True)
    (out / "limit.json").write_text(json.dumps(found, indent=1))


def rates() -> dict[str, dict[str, float]]:
    """Products and copies with one thread and with all; on the GPU too where there is one."""
    every = torch.get_num_threads()
    places = [("1 thread", "cpu", 1)] + ([(f"{every} threads", "cpu", every)] if every > 1 else [])
    if torch.cuda.is_available():
        places.append(("GPU", "cuda", 0))
    measured = {name: measure(device, threads) for name, device, threads in places}
    return {name: {"fp32": m.fp32_gflops, "bf16": m.bf16_gflops, "copy": m.bandwidth_gbps}
            for name, m in measured.items()}


def stored(workload: str, shape: str, dtype: str, out: Path) -> dict[str, float]:
    """Our side of the newest comparison, or {} if there is none: the median over its peers."""
    file = out / f"{workload}-{shape}-{dtype}.json"
    if not file.is_file():
        return {}
    made = json.loads(file.read_text())
    sides = [p["ours"] for p in made["peers"].values() if "ours" in p and same(p["options"]["ours"], FIRST[workload])]
    if not sides:
        return {}
    share, whole = (median(s[key] for s in sides) for key in ("share_of_limit", "share_whole"))
    measured = median(s["rate"] for s in sides)
    return {"measured": measured, "limit": measured / share, "limit_whole": measured / whole}


def same(options: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return dict(options) == dict(wanted)


def fresh(workload: str, shape: str, arguments: argparse.Namespace, out: Path) -> dict[str, float]:
    """A run of ours alone."""
    folder = data.prepare(arguments.text or None, shape)
    plan = Plan(workload, shape, folder, data.named(arguments.text), out, pairs=3, quick=True, dtype=arguments.dtype)
    if workload == "adapters-8":
        data.prepare_adapters(plan.folder, shape)
    job = plan.job(FIRST[workload], plan.pairs)
    steps = alone(Command("ours", "benchmarks.ours", job), plan.pairs, (out / "logs" / f"{workload}.log").resolve())
    measured = median(map(rate, steps))
    per_unit, whole = map(median, floors.per_unit(workload, shape, steps, job.options))
    rate_of_products = gemm("cpu", arguments.dtype) * 1e9
    return {"measured": measured, "limit": rate_of_products / per_unit, "limit_whole": rate_of_products / whole}


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit", description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", nargs="+", choices=list(PEERS), default=[], help="measure these now, ours alone")
    parser.add_argument("--shape", choices=list(data.STORED), default="")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--text", default=os.environ.get("BENCH_TEXT", ""))
    parser.add_argument("--out", type=Path)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
