"""The worked examples, measured: every command of a page as it stands there, over several seeds.

    python -m benchmarks.worked radiology_reports --seeds 0 1 --out docs/results/worked

The seed goes to the script that writes the data and to every command that takes one, so another seed is other data
and another training. Commands that wait for people (the studio, a server) are passed over. Intervals are 95%, over
seeds and prompts together, as `evaluate.compare.metric_over_seeds` draws them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import runpy
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tunesmith import __version__, cli
from tunesmith.evaluate.compare import (
    Comparison,
    OverSeeds,
    difference_over_seeds,
    load,
    metric_over_seeds,
    preference_over_seeds,
)
from tunesmith.statistics import wilson

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "examples"
WAITING = ("studio", "serve", "work")
"""Commands that wait for people or programs."""
KEPT = ("adapter", "rows", "valid_loss", "trained_parameters", "parameters", "core_seconds", "seconds", "peak_mb",
        "held_out", "stopped_by", "gate", "retention", "status", "steps")
"""What a run's summary says that a reader wants to know."""


@dataclass(frozen=True)
class Step:
    """A command of a page that was run: its words, what it gave with --json (scripts give nothing), seconds."""

    words: Sequence[str]
    result: Mapping[str, Any]
    seconds: float


def commands(page: str) -> Iterator[list[str]]:
    """The words of every command in a page's console blocks, continued lines joined."""
    for block in re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", page, flags=re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line.strip().removeprefix("$ "), comments=True):
                yield words


def play(page: Path, seed: int = 0, more: Callable[[Sequence[str]], Sequence[str]] = lambda words: ()
         ) -> Iterator[Step]:
    """Run a page's commands one after the other, in this process and the current folder.

    Args:
        more: further flags for a command, by its words; they win over the page's.

    Raises:
        RuntimeError: a command failed; a gate that stays closed is no failure.
    """
    for words in commands(page.read_text(encoding="utf-8")):
        start = time.monotonic()
        if words[0] == "python":
            _script([*words[1:], "--seed", str(seed), *more(words)])
            yield Step(words, {}, time.monotonic() - start)
        elif words[0] == "tunesmith":
            verb = cli._parse(words[1:]).command
            if verb not in WAITING:
                model, _ = cli.FROM_SETTINGS.get(verb, (None, ()))
                seeded = ["--seed", str(seed)] if model and "seed" in model.model_fields else []
                result = _call([*words[1:], *seeded, *more(words)])
                yield Step(words, result, time.monotonic() - start)


def _script(words: Sequence[str]) -> None:
    path = ROOT / words[0]
    with patch.object(sys, "argv", [*words]), patch.object(sys, "path", [str(path.parent), *sys.path]):
        with redirect_stdout(sys.stderr):
            runpy.run_path(str(path), run_name="__main__")


def _call(argv: Sequence[str]) -> dict[str, Any]:
    out = io.StringIO()
    with redirect_stdout(out):
        code = cli.main([*argv, "--json"])
    if code not in (0, 1) or (code and "--gate" not in argv):
        raise RuntimeError(f"tunesmith {shlex.join(argv)} ended with {code}")
    return dict(json.loads(out.getvalue().strip().splitlines()[-1])) if out.getvalue().strip() else {}


def measured(page: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """The figures of a page over seeds."""
    comparisons: dict[str, list[Comparison]] = {}
    steps: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            for step in play(page, seed):
                steps.setdefault(shlex.join(step.words), []).append({"seed": seed, **_brief(step)})
                print(f"seed {seed}: {step.seconds:.0f} s  {shlex.join(step.words)}", file=sys.stderr, flush=True)
            for file in sorted(Path(folder).glob("*/reports/*/comparison.jsonl")):
                comparisons.setdefault(file.parent.name, []).append(load(file))
    return {"page": page.stem, "seeds": list(seeds), "date": time.strftime("%Y-%m-%d"), "tunesmith": __version__,
            "threads": os.environ.get("OMP_NUM_THREADS", ""), "evaluations": {
                name: figures(found) for name, found in comparisons.items()}, "steps": steps}


def _brief(step: Step) -> dict[str, Any]:
    """What is kept of a step: no texts."""
    return {"wall_seconds": round(step.seconds, 1), **{k: step.result[k] for k in KEPT if k in step.result}}


def figures(found: Sequence[Comparison]) -> dict[str, Any]:
    """One evaluation over seeds: each model's figures, who was preferred, and how far each is from the others."""
    models = found[0].models
    checks = list(dict.fromkeys(k for c in found for j in c.judged[models[0]] for k in j.checks))
    keys = [k for k in (*checks, "words") if all(k in c.keys(m) for c in found for m in models)]
    pairs = [(a, b) for i, a in enumerate(models) for b in models[:i]]
    return {
        "prompts": len(found[0].prompts),
        "models": {m: {k: _said(metric_over_seeds(found, m, k)) for k in keys} for m in models},
        "preferences": [{"model": a, "baseline": b, **_said(preference_over_seeds(found, a, b))} for a, b in pairs],
        "differences": [{"model": a, "baseline": b,
                         **{k: difference_over_seeds(found, a, b, k).to_dict() for k in keys}} for a, b in pairs]}


def _said(over: OverSeeds) -> dict[str, Any]:
    """A figure with its interval and each seed's value. Where all answers are alike, resampling them has no width, and
    Wilson's interval stands instead."""
    found = over.bootstrap
    if found.low == found.high and found.value in (0, 1):
        found = wilson(found.value * found.n, found.n)
    return {**found.to_dict(), "each": [round(x, 4) for x in over.each]}


def tables(result: Mapping[str, Any]) -> str:
    """The evaluations as Markdown."""
    lines = []
    for name, found in result["evaluations"].items():
        models = list(found["models"])
        lines += [f"**{name}**, {found['prompts']} prompts, seeds {', '.join(map(str, result['seeds']))}", "",
                  f"| | {' | '.join(models)} |", f"|---|{'---:|' * len(models)}"]
        for key in found["models"][models[0]]:
            row = [_shown(found["models"][m][key], "words" if key == "words" else "%") for m in models]
            lines.append(f"| {key} | {' | '.join(row)} |")
        preferred = [f"- {p['model']} preferred over {p['baseline']}: {_shown(p)}" for p in found["preferences"]]
        lines += ["", *preferred, ""]
    return "\n".join(lines)


def _shown(i: Mapping[str, Any], unit: str = "%") -> str:
    scale, digits = (100, 1) if unit == "%" else (1, 1)
    value, low, high = (scale * i[k] for k in ("value", "low", "high"))
    return f"{value:.{digits}f}{'%' if unit == '%' else ''} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", help="pages of docs/examples, without .md")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="folder for PAGE.json")
    args = parser.parse_args()
    out = args.out.resolve() if args.out else None
    for page in args.pages:
        result = measured(PAGES / f"{page}.md", args.seeds)
        if out:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{page}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(tables(result), flush=True)


if __name__ == "__main__":
    main()
