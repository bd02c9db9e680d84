"""How our cost grows: with the answers per prompt, the length, the data, and the adapters served together.

    python -m benchmarks.scaling                     all four tables, plots and JSON
    python -m benchmarks.scaling answers adapters    only these
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import data
from benchmarks.machine import describe
from benchmarks.pair import Command, WorkerFailed, alone
from benchmarks.sizes import ANSWER, PROMPT
from benchmarks.worker import Job
from tunesmith.evaluate.svg import Series, lines

STYLE = ("<style>text{font:12px sans-serif}.grid{stroke:#ddd}.axis{stroke:#555}polyline,path{fill:none;stroke-width:2}"
         ".s0{stroke:#0b6fb8}.s1{stroke:#b8520b}</style>")
Point = tuple[str, int, Job]
"""Which line of the plot, where on its x axis, and the job that is measured there."""


def answers(job: Job, quick: bool) -> Iterator[Point]:
    """K answers to one prompt, computed with the prompt once (tree) and with it K times (padded)."""
    for k in (1, 2, 9) if quick else range(1, 10):
        for layout in ("tree", "padded"):
            yield layout, k, _job(job, "trees", 2 if quick else 8, prompt=PROMPT, answer=ANSWER, answers=k,
                                  layout=layout)


def length(job: Job, quick: bool) -> Iterator[Point]:
    """The same number of tokens in fewer and longer conversations."""
    total = 1024 if quick else 4096
    for size in (64, 256, 1024) if quick else (64, 128, 256, 512, 1024, 2048):
        for layout in ("tree", "padded"):
            yield layout, size, _job(job, "trees", total // size, prompt=size // 2, answer=size // 2, answers=1,
                                     layout=layout)


def dataset(job: Job, quick: bool) -> Iterator[Point]:
    """A run of four steps on more and more demonstrations."""
    for rows in (100, 1000) if quick else (1000, 10_000, 50_000):
        with tempfile.TemporaryDirectory() as folder:
            yield "sft", rows, _job(job, "dataset", rows, folder=folder)


def adapters(job: Job, quick: bool) -> Iterator[Point]:
    """Different adapters in one batch of 32 rows."""
    counts = (1, 8) if quick else (1, 2, 4, 8, 16, 32)
    data.prepare_adapters(Path(job.data), job.shape, max(counts))
    for count in counts:
        yield "served", count, _job(job, "served", 32, new=32, what="mixed", adapters=count)


SWEEPS = {"answers": (answers, "answers per prompt"), "length": (length, "tokens of a conversation"),
          "dataset": (dataset, "demonstrations"), "adapters": (adapters, "adapters in one batch")}


def _job(job: Job, workload: str, rows: int, new: int = 0, **options: Any) -> Job:
    return Job(workload, job.shape, job.data, rows, new, job.steps, options=options)


def main(words: Sequence[str] | None = None) -> None:
    arguments = _arguments(words)
    folder = data.prepare(arguments.text or None, arguments.shape)
    out = arguments.out or data.root() / "results"
    out.mkdir(parents=True, exist_ok=True)
    job = Job("", arguments.shape, str(folder), 0, steps=8)
    made: dict[str, Any] = {"machine": describe(), "shape": arguments.shape, "sweeps": {}}
    for name in arguments.sweep or SWEEPS:
        made["sweeps"][name] = rows = measure(name, job, arguments.quick, out)
        (out / f"scaling-{name}.svg").write_text(plot(name, rows))
    (out / f"scaling-{arguments.shape}.json").write_text(json.dumps(made, indent=1))
    print(f"written: {out}/scaling-{arguments.shape}.json, scaling-*.svg")


def measure(name: str, job: Job, quick: bool, out: Path) -> list[dict[str, Any]]:
    """A sweep's rows, printed as they come; a size that fails is a row with its error."""
    sweep, label = SWEEPS[name]
    print(f"\n{name}: {sweep.__doc__}\n{label:<28}{'':<8}{'seconds':>10}{'tokens/s':>12}{'peak MB':>10}", flush=True)
    rows: list[dict[str, Any]] = []
    steps = 1 if quick or name == "dataset" else 3
    for line, x, each in sweep(job, quick):
        try:
            figures = alone(Command("ours", "benchmarks.sizes", each), steps,
                            (out / "logs" / f"scaling-{name}-{line}-{x}.log").resolve(),
                            warm_up=0 if name == "dataset" else 1)
        except WorkerFailed as e:
            rows.append({"line": line, "x": x, "error": str(e)})
            print(f"{x:<28}{line:<8}{e}", file=sys.stderr)
            continue
        rows.append(_row(line, x, figures))
        r = rows[-1]
        print(f"{x:<28}{line:<8}{r['seconds']:>10.3f}{r['tokens_per_second']:>12,.0f}{r['peak_mb']:>10,.0f}",
              flush=True)
    return rows


def _row(line: str, x: int, figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    seconds = median(f["seconds"] for f in figures)
    return {"line": line, "x": x, "seconds": seconds, "tokens_per_second": figures[0]["tokens"] / seconds,
            "peak_mb": max(f["peak_mb"] for f in figures), "steps": list(figures)}


def plot(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Seconds per step over the size, one line per way."""
    sweep, label = SWEEPS[name]
    good = [r for r in rows if "error" not in r]
    series = [Series(line, [(r["x"], r["seconds"]) for r in good if r["line"] == line])
              for line in dict.fromkeys(r["line"] for r in good)]
    if not series:
        return ""
    drawn = lines(series, title=str(sweep.__doc__), description=f"Seconds by {label}.", x_label=label, y_label="s")
    return str(drawn).replace(">", f">{STYLE}", 1)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("sweep", nargs="*", help=f"of {', '.join(SWEEPS)}; default: all")
    parser.add_argument("--shape", choices=list(data.STORED), default="tiny")
    parser.add_argument("--quick", action="store_true", help="few sizes, one step each")
    parser.add_argument("--text", default=os.environ.get("BENCH_TEXT", ""))
    parser.add_argument("--out", type=Path)
    found = parser.parse_args(words)
    if unknown := set(found.sweep) - SWEEPS.keys():
        parser.error(f"no sweep {', '.join(sorted(unknown))}; there are {', '.join(SWEEPS)}")
    return found


if __name__ == "__main__":
    main()
