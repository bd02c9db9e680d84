"""The results of `benchmarks.peers` as one table beside the goals, for docs/results/performance.md.

    python -m benchmarks.table RESULTS_FOLDER > table.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.catalogue import PEERS
from benchmarks.report import NOISY

HEAD = ("| workload | shape | peer | ours / peer [min, max] | ours | peer | of the limit, ours / peer "
        "| at 4N or 6N a token "
        "| peak MB, ours / peer | padding, peer |\n|---|---|---|---|---|---|---|---|---|---|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    found = [json.loads(f.read_text()) for f in parser.parse_args().results.glob("*-*.json")]
    found = [f for f in found if "peers" in f]
    order = list(PEERS)
    print(HEAD)
    for made in sorted(found, key=lambda f: (f["dtype"], f["shape"] != "tiny", order.index(f["workload"]))):
        for name, one in made["peers"].items():
            print(row(made, name, one) if "ratio" in one else
                  f"| {made['workload']} | {shape(made)} | {name} | not measured: {one['error']} | | | | | | |")


def row(made: Mapping[str, Any], name: str, one: Mapping[str, Any]) -> str:
    """One peer of one workload; a star where other processes were busy."""
    ours, peer, ratio = one["ours"], one["peer"], one["ratio"]
    star = "\\*" if max(ours["other_cpu"], peer["other_cpu"]) > NOISY else ""
    return (f"| {made['workload']} | {shape(made)} | {name} | **{ratio['median']:.2f}** [{ratio['min']:.2f}, "
            f"{ratio['max']:.2f}], n = {len(ratio['each'])}{star} | {ours['rate']:,.4g} {made['unit']}/s "
            f"| {peer['rate']:,.4g} | {ours['share_of_limit']:.0%} / {peer['share_of_limit']:.0%} "
            f"| {ours['share_whole']:.0%} / {peer['share_whole']:.0%} "
            f"| {ours['peak_mb']:,.0f} / {peer['peak_mb']:,.0f} | {peer['padding']:.0%} |")


def shape(made: Mapping[str, Any]) -> str:
    """The model's shape, and the precision where it is not fp32."""
    return str(made["shape"]) if made["dtype"] == "fp32" else f"{made['shape']}, {made['dtype']}"


if __name__ == "__main__":
    main()
