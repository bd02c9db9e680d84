"""One NVIDIA GPU, one command, under 8 minutes: ours and TRL on models of 0.5 and 7 billion parameters.

    python -m benchmarks.gpu --out results-gpu

Random weights in bf16, drawn on the device; the same workloads and processes in turn as `benchmarks.peers`. Where TRL
is not installed ours is measured alone. What does not fit into the time or the GPU's memory is said, not skipped
silently. `--device cpu --shape tiny` runs the same logic anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import data, floors
from benchmarks.catalogue import PEERS, UNIT, Peer, find
from benchmarks.machine import describe, gemm
from benchmarks.pair import Command, WorkerFailed, alone, rate
from benchmarks.plan import Plan, compare

ROWS = {"sft": 64, "rankings-4": 16, "dpo": 32, "ppo": 64, "generate": 64, "adapters-8": 64}
"""Rows of one step on 0.5b; a quarter of it on 7b."""
BEST: dict[str, dict[str, Any]] = {
    "sft": {"micro": 16}, "rankings-4": {"micro": 16}, "dpo": {"micro": 8},
    "ppo": {"value": "lora", "rollout": 64}, "generate": {}, "adapters-8": {}}
"""TRL's options on a GPU: large micro-batches, and no padding-free rows, which need FlashAttention there."""
PEER = {"ppo": "trl-value-lora", "generate": "transformers", "adapters-8": "peft"}
COPIES = {"ppo": 4}
"""Copies of the model that both sides hold together; two otherwise."""
SPARE_GB = {"0.5b": 8.0, "7b": 12.0}
"""For activations and moments of both sides."""


def main(words: Sequence[str] | None = None) -> int:
    arguments = _arguments(words)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: this benchmark needs one NVIDIA GPU and a CUDA build of torch; to try its logic "
              "elsewhere: python -m benchmarks.gpu --device cpu --shape tiny", file=sys.stderr)
        return 2
    ends = time.monotonic() + 60 * arguments.minutes
    arguments.out.mkdir(parents=True, exist_ok=True)
    made: dict[str, Any] = {"machine": describe(), "results": {}}
    for shape in arguments.shape:
        for workload in arguments.workload or ROWS:
            made["results"][f"{workload}, {shape}"] = one = _measure(workload, shape, arguments, ends)
            if "error" in one:
                print(f"{workload} on {shape}: {one['error']}", flush=True)
            (arguments.out / "gpu.json").write_text(json.dumps(made, indent=1))
    print(f"\n{'workload':<14}{'shape':<8}{'ours':>12}{'peer':>12}{'ratio':>8}{'share':>8}  unit")
    for name, one in made["results"].items():
        workload, _, shape = name.partition(", ")
        print(_row(workload, shape, one))
    print(f"written: {arguments.out}/gpu.json")
    return 0


def _measure(workload: str, shape: str, arguments: argparse.Namespace, ends: float) -> dict[str, Any]:
    """{"ours": rate, "peer": rate, "ratio": ..., "share": of the limit}, or {"error": why not}."""
    left = ends - time.monotonic()
    if left < 20:
        return {"error": f"not measured: the {arguments.minutes:g} minutes are over (--minutes)"}
    if arguments.device == "cuda" and (reason := _too_large(workload, shape)):
        return {"error": reason}
    rows = max(1, ROWS[workload] // (4 if shape == "7b" else 1 if arguments.device == "cuda" else 8))
    dtype = "bf16" if arguments.device == "cuda" else "fp32"
    folder = data.prepare(arguments.text or None, shape)
    plan = Plan(workload, shape, folder, data.named(arguments.text), arguments.out,
                arguments.pairs, dtype=dtype, device=arguments.device, patience=left, rows=rows)
    peer = next(p for p in PEERS[workload] if p.name == PEER.get(workload, "trl"))
    peer = replace(peer, options={k: v for k, v in peer.options.items() if k != "padding_free"} | BEST[workload])
    try:
        return _alone(plan, peer) if find(peer.where).lacking else _against(plan, peer)
    except WorkerFailed as e:
        return {"error": str(e)}


def _against(plan: Plan, peer: Peer) -> dict[str, Any]:
    found = compare(plan, [peer])["peers"][peer.name]
    if "error" in found:
        return {**_alone(plan, peer), "peer_error": found["error"]}
    return {"ours": found["ours"]["rate"], "peer": found["peer"]["rate"], "ratio": found["ratio"]["median"],
            "share": found["ours"]["share_of_limit"]}


def _alone(plan: Plan, peer: Peer) -> dict[str, Any]:
    """Ours without a peer beside it."""
    if plan.workload == "adapters-8":
        data.prepare_adapters(plan.folder, plan.shape)
    job = plan.job(peer.ours, plan.pairs)
    log = plan.out / "logs" / f"{plan.workload}-{plan.shape}-alone.log"
    steps = alone(Command("ours", "benchmarks.ours", job), plan.pairs, log.resolve(), patience=plan.patience)
    per_unit = median(floors.per_unit(plan.workload, plan.shape, steps, job.options)[0])
    measured = median(map(rate, steps))
    return {"ours": measured, "share": measured * per_unit / gemm(plan.device, plan.dtype) / 1e9, "steps": steps}


def _too_large(workload: str, shape: str) -> str:
    """Why both sides would not fit into this GPU, or nothing."""
    need = COPIES.get(workload, 2) * 2 * floors.products(shape) / 1e9 + SPARE_GB[shape]
    have = torch.cuda.get_device_properties(0).total_memory / 1e9
    return f"not measured: needs about {need:.0f} GB, this GPU has {have:.0f}" if need > have else ""


def _row(workload: str, shape: str, one: dict[str, Any]) -> str:
    if "error" in one:
        return f"{workload:<14}{shape:<8}{one['error']}"
    peer, ratio = (f"{one[k]:.4g}" if k in one else "-" for k in ("peer", "ratio"))
    return (f"{workload:<14}{shape:<8}{one['ours']:>12.4g}{peer:>12}{ratio:>8}{one['share']:>8.0%}  "
            f"{UNIT[workload]}/s")


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results-gpu"))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", nargs="+", choices=list(data.SHAPES), default=["0.5b", "7b"])
    parser.add_argument("--workload", nargs="+", choices=list(ROWS), default=[])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--text", default=os.environ.get("BENCH_TEXT", ""))
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
