"""The quickstart over several seeds: every seed's whole loop, then all seeds' figures with intervals.

    python -m benchmarks.quickstart --seeds 0 1 2 --out docs/results

Each seed runs as the command a user types, in its own workspace; `--reuse` only collects workspaces that are there.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

from tunesmith.evaluate import compare
from tunesmith.evaluate.compare import (
    Comparison,
    OverSeeds,
    change_over_seeds,
    metric_over_seeds,
    preference_over_seeds,
)
from tunesmith.store.workspace import Workspace

METRICS = {
    "adherence": "guidelines kept", "rude_when_provoked": "rude to provocative customers",
    "rude": "rude, all customers", "avoidable_handover": "avoidable handovers",
}
BESIDE = {"words": "words per answer", "distinct_2": "distinct-2", "duplicates": "copies of another answer",
          "unfinished": "cut off"}


def main() -> None:
    arguments = _arguments()
    seconds = {}
    for seed in arguments.seeds:
        root = arguments.workspaces / f"seed-{seed}"
        if not arguments.reuse:
            seconds[seed] = run(root, seed, arguments.split)
    result = collect({s: arguments.workspaces / f"seed-{s}" for s in arguments.seeds}, arguments.split)
    result["pipeline_seconds"] = seconds or result["pipeline_seconds"]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "quickstart.json").write_text(json.dumps(result, indent=1))
    print(markdown(result))


def run(root: Path, seed: int, split: str) -> float:
    """One seed's whole loop as a command; returns its seconds."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "tunesmith", "quickstart", "--seed", str(seed), "--split", split,
                    "--workspace", str(root)], check=True, stdout=subprocess.DEVNULL)
    return round(time.monotonic() - began, 1)


def collect(roots: dict[int, Path], split: str) -> dict[str, Any]:
    """All seeds' comparisons as one set of figures."""
    comparisons, runs, seconds = [], {}, {}
    for seed, root in roots.items():
        found = compare.load(root / "reports" / f"desk-{seed}" / "comparison.jsonl")
        comparisons.append(Comparison(found.prompts, {plain(m): j for m, j in found.judged.items()}))
        with Workspace.open(root) as workspace:
            steps = {r.command: r.summary for r in workspace.runs()}
            runs[seed] = {command: _brief(summary) for command, summary in steps.items()}
            kl = json.loads((root / "reports" / f"desk-{seed}" / "report.json").read_text())
            runs[seed]["kl"] = {plain(m["name"]): m["metrics"].get("kl") for m in kl["models"]}
            seconds[seed] = round(sum(float(s.get("seconds", 0)) for s in steps.values()), 1)
    models = comparisons[0].models
    pairs = [("ppo", "base"), ("ppo", "sft"), ("sft", "base")]
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "split": split, "seeds": list(roots),
        "prompts": [len(c.prompts) for c in comparisons], "machine": machine(),
        "preference": {f"{a} over {b}": {**_seeds(preference_over_seeds(comparisons, a, b)),
                                         "tie_rate": [c.preference(a, b).tie_rate.value for c in comparisons]}
                       for a, b in pairs},
        "metrics": {m: {k: _seeds(metric_over_seeds(comparisons, m, k)) for k in METRICS} for m in models},
        "change": {"rude_when_provoked, ppo against base": change(comparisons, "ppo", "base", "rude_when_provoked"),
                   "rude_when_provoked, ppo against sft": change(comparisons, "ppo", "sft", "rude_when_provoked"),
                   "avoidable_handover, ppo against sft": change(comparisons, "ppo", "sft", "avoidable_handover")},
        "beside": {m: {k: [c.metrics(m)[k].value for c in comparisons] for k in BESIDE} for m in models},
        "runs": runs, "pipeline_seconds": seconds,
    }


def plain(model: str) -> str:
    """desk-0-ppo -> ppo: the same name in every seed."""
    return model.rsplit("-", 1)[-1]


def change(comparisons: Sequence[Comparison], model: str, baseline: str, check: str) -> dict[str, Any]:
    """Relative change of a check's mean against the baseline's, over seeds and prompts."""
    return {"bootstrap": change_over_seeds(comparisons, model, baseline, check).to_dict(),
            "each": [c.change(model, baseline, check).value for c in comparisons]}


def _seeds(found: OverSeeds) -> dict[str, Any]:
    return {"bootstrap": found.bootstrap.to_dict(), "t": found.t.to_dict(), "each": list(found.each)}


def _brief(summary: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {k: summary[k] for k in ("seconds", "tokens_per_second", "peak_mb") if k in summary}
    held_out = summary.get("held_out", {})
    return {**kept, **{k: held_out[k] for k in ("accuracy", "calibration_error", "pairs") if k in held_out}}


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())
    return {"processor": model, "threads": str(torch.get_num_threads()), "python": platform.python_version(),
            "torch": torch.__version__, "transformers": transformers.__version__}


def markdown(result: dict[str, Any]) -> str:
    """The tables of docs/results/quickstart.md."""
    lines = ["| preference, ties half | over seeds | each seed | ties |", "|---|---|---|---|"]
    for name, row in result["preference"].items():
        each = ", ".join(f"{x:.1%}" for x in row["each"])
        ties = ", ".join(f"{x:.0%}" for x in row["tie_rate"])
        lines.append(f"| {name} | {_show(row['bootstrap'])} | {each} | {ties} |")
    models = list(result["metrics"])
    lines += ["", f"| share | {' | '.join(models)} |", "|---|" + "---|" * len(models)]
    for key, label in METRICS.items():
        lines.append(f"| {label} | " + " | ".join(_show(result["metrics"][m][key]["bootstrap"]) for m in models) + " |")
    for key, label in BESIDE.items():
        cells = [", ".join(f"{x:.3g}" for x in result["beside"][m][key]) for m in models]
        lines.append(f"| {label} (each seed) | {' | '.join(cells)} |")
    lines += ["", "| relative change | over seeds | each seed |", "|---|---|---|"]
    for name, row in result["change"].items():
        each = ", ".join(f"{x:+.0%}" for x in row["each"])
        lines.append(f"| {name} | {_show(row['bootstrap'])} | {each} |")
    return "\n".join(lines)


def _show(interval: dict[str, float]) -> str:
    return f"{interval['value']:.1%} [{interval['low']:.1%}, {interval['high']:.1%}]"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", choices=["dev", "test"], default="test")
    parser.add_argument("--workspaces", type=Path, default=Path("workspace/quickstart-seeds"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--reuse", action="store_true", help="collect the workspaces of an earlier call")
    return parser.parse_args()


if __name__ == "__main__":
    main()
