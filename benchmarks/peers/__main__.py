"""Ours and each installed peer on the same data, model, tokens and dtype, step by step in turn.

    python -m benchmarks.peers sft                      every configuration, 5 pairs each
    python -m benchmarks.peers sft --quick              2 pairs each, under 5 minutes
    python -m benchmarks.peers ppo --peer trl-value-full --shape small

Ends with `RATIO <workload> <peer> <median> <min> <max>` per peer: our rate over the peer's, per pair. How to install
the peers and how to read the figures: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import data
from benchmarks.catalogue import PEERS
from benchmarks.plan import Plan, compare


def main(words: Sequence[str] | None = None) -> int:
    arguments = _arguments(words)
    folder = data.prepare(arguments.text or None, arguments.shape)
    out = arguments.out or data.root() / "results"
    plan = Plan(arguments.workload, arguments.shape, folder, data.named(arguments.text), out,
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
