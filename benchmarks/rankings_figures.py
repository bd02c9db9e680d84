"""Figures and tables of `benchmarks.rankings`: over seeds and prompts, with differences on the same prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.statistics import Floats, bootstrap_mean, over_seeds, t_interval

METRICS = {"accuracy": ".1%", "tau": ".3f", "log_loss": ".3f"}
BESIDE = ("minus grouped", "minus half an epoch", "minus longer is better", "pages of several labelers")


def summarize(lines: Sequence[Mapping[str, Any]], yardsticks: Mapping[str, Mapping[str, Any]],
              arms: Sequence[str]) -> dict[str, Any]:
    """Figures by arm and epoch over the seeds; differences on the same prompts: from `grouped`, from the same run after
    half an epoch (does it overfit?), and from "the longer answer is better"."""
    runs: dict[tuple[str, float], dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for line in sorted(lines, key=lambda x: (arms.index(x["arm"]), x["epoch"], x["seed"])):
        runs[line["arm"], line["epoch"]][line["seed"]] = line
    found: dict[str, dict[str, Any]] = {arm: {} for arm in arms}
    longer = yardsticks.get("longer is better")
    for (arm, epoch), mine in runs.items():
        row: dict[str, Any] = {"seeds": list(mine)}
        row |= {k: float(np.mean([r[k] for r in mine.values()])) for k in ("tokens", "cpu_seconds")}
        row |= {part: _part([r[part] for r in mine.values()]) for part in ("held_out", "seen") if mine[min(mine)][part]}
        if all(r["held_out"]["shared"]["tau"] for r in mine.values()):
            row["pages of several labelers"] = {m: _over([values(r["held_out"], m, "shared") for r in mine.values()])
                                                for m in METRICS}
        if arm != "grouped":
            row["minus grouped"] = _difference(mine, runs.get(("grouped", epoch), {}))
        if epoch >= 1:
            row["minus half an epoch"] = _difference(mine, runs.get((arm, 0.5), {}))
        if longer:
            row["minus longer is better"] = _difference(mine, {s: {"held_out": longer} for s in mine},
                                                        ("accuracy", "tau"))
        found[arm][f"{epoch:g}"] = {k: v for k, v in row.items() if v}
    beside = {name: {"rankings": y["rankings"], **{m: bootstrap_mean(values(y, m)).to_dict()
                                                   for m in ("accuracy", "tau")}} for name, y in yardsticks.items()}
    return {"arms": {arm: rows for arm, rows in found.items() if rows}, "yardsticks": beside}


def _part(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {m: _over([values(r, m) for r in measured]) for m in METRICS}
    return found | {k: [r[k] for r in measured] for k in ("pairs", "wilson", "ece", "brier")}


def _difference(mine: Mapping[int, Mapping[str, Any]], theirs: Mapping[int, Mapping[str, Any]],
                metrics: Sequence[str] = tuple(METRICS)) -> dict[str, Any]:
    """Of the seeds that both have."""
    both = [(mine[s]["held_out"], theirs[s]["held_out"]) for s in mine if s in theirs]
    return {m: _over([values(a, m) - values(b, m) for a, b in both]) for m in metrics} if both else {}


def values(measured: Mapping[str, Any], metric: str, pages: str = "by_prompt") -> Floats:
    """A metric's values, one for each prompt, in the order of the prompts' ids."""
    return np.array(list(measured[pages][metric].values()))


def _over(values_SN: Sequence[Floats]) -> dict[str, Any]:
    return {"bootstrap": over_seeds(values_SN, crossed=True).to_dict(),
            "t": t_interval([v.mean() for v in values_SN]).to_dict(), "each": [float(v.mean()) for v in values_SN]}


def markdown(result: Mapping[str, Any]) -> str:
    """The tables of docs/results/rankings.md."""
    lines = ["| | epoch | seeds | accuracy | tau-b | log-loss | ECE | accuracy, train | log-loss, train |",
             "|---|---|---|---|---|---|---|---|---|"]
    for arm, epochs in result["arms"].items():
        for epoch, row in epochs.items():
            held, seen = row["held_out"], row.get("seen")
            cells = [_show(held[m]["bootstrap"], spec) for m, spec in METRICS.items()]
            cells.append(f"{np.mean(held['ece']):.3f}")
            cells += [format(seen[m]["bootstrap"]["value"], METRICS[m]) if seen else "" for m in ("accuracy",
                                                                                                  "log_loss")]
            lines.append(f"| {arm} | {epoch} | {len(row['seeds'])} | {' | '.join(cells)} |")
    for name, row in result["yardsticks"].items():
        lines.append(f"| {name} | | | {_show(row['accuracy'], '.1%')} | {_show(row['tau'], '.3f')} | | | | |")
    for title in BESIDE:
        if not any(title in row for epochs in result["arms"].values() for row in epochs.values()):
            continue
        lines += ["", f"| {title} | epoch | accuracy | tau-b | log-loss |", "|---|---|---|---|---|"]
        for arm, epochs in result["arms"].items():
            for epoch, row in epochs.items():
                if title in row:
                    cells = [_show(row[title][m]["bootstrap"], spec) if m in row[title] else ""
                             for m, spec in METRICS.items()]
                    lines.append(f"| {arm} | {epoch} | {' | '.join(cells)} |")
    lines += ["", "| | tokens an epoch | CPU seconds an epoch |", "|---|---|---|"]
    for arm, epochs in result["arms"].items():
        last, row = list(epochs.items())[-1]
        lines.append(f"| {arm} | {row['tokens'] / float(last):,.0f} | {row['cpu_seconds'] / float(last):.1f} |")
    return "\n".join(lines)


def _show(interval: Mapping[str, float], spec: str) -> str:
    value, low, high = (format(interval[k], spec) for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
