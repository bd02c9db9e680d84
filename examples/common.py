"""What the three examples share: flags, reading the data sets, importing rows, writing down results."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import __version__, rounds
from tunesmith.errors import UserError
from tunesmith.quickstart import builtin
from tunesmith.settings import ImportSettings
from tunesmith.shop import Shop
from tunesmith.statistics import Interval, auc
from tunesmith.store.workspace import Adapter, Dataset, Workspace
from tunesmith.terminal import Terminal, table

REPOSITORY = Path(__file__).resolve().parents[1]
STARTED = time.monotonic()


def arguments(about: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of every example."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    beside = REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=os.environ.get("TUNESMITH_DATA", beside),
                        help="folder of the data sets (default: $TUNESMITH_DATA or ../shared/data)")
    parser.add_argument("--workspace", default=os.environ.get("TUNESMITH_WORKSPACE", "workspace"))
    parser.add_argument("--base", default="loan-desk", help="a model directory, a Hugging Face id or loan-desk")
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fast", action="store_true", help="tiny slices: seconds, and no claims")
    return parser.parse_args(argv)


def open_shop(args: argparse.Namespace, terminal: Terminal) -> Shop:
    """The workspace, the built-in names and a progress display: what every step of `rounds` takes."""
    return Shop(Workspace.open(args.workspace), terminal.progress, builtin.BASES, builtin.JUDGES)


def named(args: argparse.Namespace, name: str) -> str:
    """Names that keep runs with other seeds or slices apart in one workspace."""
    return f"{name}{'-fast' if args.fast else ''}-{args.seed}"


def read(args: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """The rows of one data set.

    Raises:
        UserError: it is not there.
    """
    path = Path(args.data) / f"{name}.jsonl.gz"
    if not path.is_file():
        raise UserError(f"{path}: no such file; --data (or TUNESMITH_DATA) must name the folder of the data sets")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def bring(shop: Shop, name: str, kind: str, rows: Sequence[dict[str, Any]], **about: str) -> Dataset:
    """Write rows as a JSONL file and import it, as `tunesmith import FILE --as KIND` does."""
    file = shop.workspace.root / "examples" / f"{name}.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = ImportSettings.model_validate({"file": str(file), "as": kind, "name": name, **about})
    return rounds.import_file(shop, settings)


def cost(shop: Shop, adapter: Adapter) -> dict[str, Any]:
    """What the run that made an adapter cost, and which rows it left out."""
    summary = shop.workspace.run(adapter.lineage["run"]).summary
    return {k: summary[k] for k in ("rows", "groups", "prompts", "skipped", "seconds", "tokens_per_second", "peak_mb")
            if k in summary}


def auc_interval(scores: np.ndarray, positive: np.ndarray, seed: int, resamples: int = 2000) -> Interval:
    """AUC with a percentile bootstrap over rows."""
    drawn = np.random.default_rng(seed).integers(0, len(scores), (resamples, len(scores)))
    low, high = np.nanquantile([auc(scores[i], positive[i]) for i in drawn], [0.025, 0.975])
    return Interval(auc(scores, positive), float(low), float(high), len(scores))


def finish(args: argparse.Namespace, terminal: Terminal, results: dict[str, Any],
           *tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print the tables; write the results with everything needed to get them again."""
    import torch
    import transformers

    results = {"results": results, "seconds": round(time.monotonic() - STARTED, 1), "about": {
        "command": shlex.join(["python", "examples/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"), "seed": args.seed, "fast": args.fast, "processor": processor(),
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "python": platform.python_version(),
        "torch": torch.__version__, "transformers": transformers.__version__, "tunesmith": __version__}}
    plain = json.loads(json.dumps(results, default=Interval.to_dict))
    terminal.result(plain, "\n\n".join(map(table, tables)))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    return plain


def processor() -> str:
    """The processor's name as Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
