"""What the pairs of a peer amount to: medians, ratios, shares of the limit, peaks; as lines and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.pair import Rounds, rate

NOISY = 0.2
"""Cores that other processes used during a step; above it the step says little."""


def summary(rounds: Rounds, flops_per_unit: float, gflops: float, whole: float) -> dict[str, Any]:
    """Both sides' medians and the ratio over pairs; every step's raw figures are kept.

    `flops_per_unit` are those that nobody can avoid, `whole` those at all of N a token (see `floors`).
    """
    ratios = rounds.ratios
    return {"ratio": {"median": median(ratios), "min": min(ratios), "max": max(ratios), "each": ratios},
            "ours": side(rounds.ours, flops_per_unit, gflops, whole),
            "peer": side(rounds.theirs, flops_per_unit, gflops, whole),
            "facts": rounds.facts, "steps": {"ours": rounds.ours, "peer": rounds.theirs}}


def side(steps: Sequence[Mapping[str, Any]], flops_per_unit: float, gflops: float, whole: float) -> dict[str, Any]:
    """One worker's medians: rate, shares of the limit, tokens with and without padding, peaks, noise."""
    rates = [rate(s) for s in steps]
    middle = median(rates)
    tokens, positions = (sum(s[k] for s in steps) for k in ("tokens", "positions"))
    found = {"rate": middle, "rate_min": min(rates), "rate_max": max(rates),
             "share_of_limit": middle * flops_per_unit / gflops / 1e9, "share_whole": middle * whole / gflops / 1e9,
             "tokens_per_step": tokens / len(steps),
             "padding": 1 - tokens / positions if positions else 0.0, "peak_mb": max(s["peak_mb"] for s in steps),
             "other_cpu": max(s["other_cpu"] for s in steps)}
    if "gpu_mb" in steps[0]:
        found["gpu_mb"] = max(s["gpu_mb"] for s in steps)
    return found


def ratio_line(workload: str, peer: str, ratio: Mapping[str, Any]) -> str:
    """The line that scripts read: our rate over the peer's, per pair."""
    return f"RATIO {workload} {peer} {ratio['median']:.2f} {ratio['min']:.2f} {ratio['max']:.2f}"


def lines(peer: str, unit: str, found: Mapping[str, Any]) -> list[str]:
    """Two lines for people, and a third if the machine was not quiet."""
    out = [_line(name, unit, found[key]) for name, key in (("ours", "ours"), (peer, "peer"))]
    first = found["facts"].get("first_loss", {})
    losses = [f"{side} {values[0]:.4f}" for side, values in first.items() if values and values[0] is not None]
    if losses:
        out.append(f"  loss of the first step: {', '.join(losses)}")
    noise = max(found["ours"]["other_cpu"], found["peer"]["other_cpu"])
    if noise > NOISY:
        out.append(f"  other processes used up to {noise:.1f} cores meanwhile: measure again on a quiet machine")
    return out


def _line(name: str, unit: str, s: Mapping[str, Any]) -> str:
    memory = f"{s['gpu_mb']:,.0f} MB on the GPU" if "gpu_mb" in s else f"peak {s['peak_mb']:,.0f} MB"
    return (f"  {name:<22} {s['rate']:>10,.4g} {unit}/s [{s['rate_min']:,.4g} - {s['rate_max']:,.4g}]  "
            f"{s['share_of_limit']:.0%} of the limit ({s['share_whole']:.0%} at 4N or 6N a token)  "
            f"{s['tokens_per_step']:,.0f} tokens a step, "
            f"{s['padding']:.0%} padding  {memory}")
