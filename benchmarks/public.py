"""How long the public benchmarks take, and what they say of a base and of what was trained on it.

    python -m benchmarks.public --files DIR --models sft=FOLDER ppo=FOLDER --out docs/results/benchmarks.json

FOLDERs are published adapters of the bundled base; `--sample 0` takes every item. One thread, and seconds of processor
time, so that other processes on the machine do not count. Suites that `--out` holds already stay in it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from tunesmith.evaluate import benchmarks, suite
from tunesmith.evaluate.suite import Subject
from tunesmith.evaluate.toxicity import Toxicity
from tunesmith.model import base as bases
from tunesmith.model.engine import LocalEngine
from tunesmith.model.reader import LocalReader
from tunesmith.quickstart.builtin import BASES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--suites", nargs="+", default=[benchmarks.ALL])
    parser.add_argument("--sample", type=int, help="items of each suite (default: its own; 0: all)")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    engine = LocalEngine(bases.load(BASES["loan-desk"], "loan-desk"))
    for name, folder in (given.split("=", 1) for given in chosen.models):
        engine.load(name, Path(folder))
    reader = LocalReader(engine)
    subjects = [Subject(name or "base", engine, name, reader) for name in ("", *engine.models())]
    found = json.loads(chosen.out.read_text())["suites"] if chosen.out and chosen.out.exists() else {}
    for made in benchmarks.find(chosen.suites, chosen.files, judge=Toxicity.load().probability, judged_by="built-in"):
        found[made.name] = measured(made, subjects, chosen.sample)
        print(made.name, found[made.name]["core seconds"], flush=True)
        spent = sum(s for suite in found.values() for s in suite["core seconds"].values())
        if chosen.out:
            told = {"machine": describe(), "core seconds": round(spent, 1), "suites": found}
            chosen.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def measured(made: benchmarks.Benchmark, subjects: list[Subject], count: int | None) -> dict[str, Any]:
    """The suite's section without its samples, and the core seconds of each model."""
    items = suite.sample(made.items(), benchmarks.KINDS[made.name].sample if count is None else count)
    rows, spent = {}, {}
    for subject in subjects:
        start = time.process_time()
        rows[subject.name] = suite.run(made, subject, items)
        spent[subject.name] = round(time.process_time() - start, 2)
    section = suite.section(made, items, rows, samples=0)
    return {"items": len(items), "of": section["of"], "version": made.version, "core seconds": spent,
            "figures": [{key: row[key] for key in ("key", "chance", "human", "measurable", "models", "changes")}
                        for row in section["rows"]]}


if __name__ == "__main__":
    main()
