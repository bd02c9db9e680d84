"""Where models stand, for the report: preference beside preference at equal length, and all models in one order."""

from __future__ import annotations

from typing import Any

from tunesmith.errors import UserError
from tunesmith.evaluate import plan
from tunesmith.evaluate.compare import Comparison
from tunesmith.evaluate.ladder import Ladder, controlled, ladder, worst_fit
from tunesmith.evaluate.outcomes import of_comparison
from tunesmith.evaluate.suite import Section
from tunesmith.statistics import Interval

MISFIT = 0.1
"""A pair whose rate is further than this from what one order of all models predicts is named."""


def standing(comparison: Comparison, seed: int = 0) -> Section:
    """A section: the newest model's rate over each model before it, raw and at equal length, and from three models on
    the ladder of all. Notes say how precise the rates are and how many prompts more precision would take."""
    *before, newest = comparison.models
    rows, notes = [], []
    for baseline in reversed(before):
        found = controlled(comparison, newest, baseline, seed)
        rows += [_row(f"over_{baseline}", f"Preferred over {baseline}", {newest: found.raw.rate}, chance=0.5),
                 _row(f"over_{baseline}_at_equal_length", f"Preferred over {baseline}, at equal length",
                      {newest: found.rate}, chance=0.5,
                      help=f"what the rate would be if both wrote as much; it wrote more {found.longer.value:.0%} of "
                           "the time")]
    rate = comparison.preference(newest, before[-1], seed).rate if before else None
    if rate and rate.n:
        notes.append(plan.sentence(rate.n, rate.value))
    if len(comparison.models) > 2:
        rows, notes = _with_ladder(comparison, rows, notes, seed)
    return Section(name="standing", title="Preference", source="the judge of this report; Bradley & Terry 1952; "
                   "length as in AlpacaEval (2404.04475)", about="Who is preferred, and would be if all wrote equally "
                   "much?", items=len(comparison.prompts), of=len(comparison.prompts), rows=rows, samples=[],
                   notes=notes)


def _with_ladder(comparison: Comparison, rows: list[dict[str, Any]], notes: list[str], seed: int
                 ) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        found = ladder(of_comparison(comparison), seed=seed)
    except UserError as error:  # too few verdicts: the rest of the report stands without it
        return rows, [*notes, f"No ladder: {error}."]
    return [*rows, *_rungs(comparison, found)], [*notes, *_misfit(found)]


def _rungs(comparison: Comparison, found: Ladder) -> list[dict[str, Any]]:
    at = {r.model: r for r in found.rungs}
    return [_row("strength", "Strength", {m: at[m].strength for m in comparison.models}, unit="",
                 help="log-odds over the mean of these models: a difference of 1 is preferred 73% of the time"),
            _row("place", "Place", {m: at[m].place for m in comparison.models}, unit="", better="lower")]


def _misfit(found: Ladder) -> list[str]:
    (a, b), error = worst_fit(found)
    seen, said = found.fit[a, b]
    return [f"One order does not describe these models well: {a} was preferred over {b} on {seen:.0%}, the order says "
            f"{said:.0%}."] if abs(error) > MISFIT else []


def _row(key: str, label: str, values: dict[str, Interval], *, unit: str = "%", better: str = "higher",
         chance: float | None = None, help: str = "") -> dict[str, Any]:
    measurable = chance is None or not all(i.low <= chance <= i.high for i in values.values())
    return {"key": key, "label": label, "unit": unit, "better": better, "help": help, "chance": chance, "human": None,
            "headline": False, "measurable": measurable, "models": {m: i.to_dict() for m, i in values.items()},
            "changes": []}
