"""The gate: rules that a report must keep before its model is adopted, read from a TOML file.

    [[rule]]
    figure = "preference"          # the newest model over each baseline
    at_least = 0.5

    [[rule]]
    figure = "redteam.success"     # SUITE.FIGURE of a suite, or a figure of the answers such as "words" or "kl"
    against = "sft"                # default: every baseline
    worse_by_at_most = 0.02

A rule looks at report.json and nothing else, so the same gate can be held against an old report. What was not
measured holds no rule.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from tunesmith.errors import SettingsError, nearest
from tunesmith.settings import Settings

BOUNDS = ("at_least", "at_most", "worse_by_at_most", "changed_by_at_most")
ALARMS = "alarms"
PREFERENCE = "preference"


class Rule(Settings):
    """One line of the gate: a figure of the newest model and one bound."""

    figure: str = Field(..., description='"preference", "alarms", a figure of the answers, or SUITE.FIGURE')
    against: str = Field("", description="a baseline; default: every one")
    at_least: float | None = Field(None, description="the figure, with its whole interval")
    at_most: float | None = Field(None, description="the figure, with its whole interval")
    worse_by_at_most: float | None = Field(None, description="how much worse than the baseline the figure may be")
    changed_by_at_most: float | None = Field(None, description="how far from the baseline it may be, as a share of it")
    proven: bool | None = Field(None, description="true: the whole interval must lie within the bound; false: it is "
                                "enough that not all of it lies beyond; default: true for at_least and at_most")

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if sum(getattr(self, b) is not None for b in BOUNDS) != 1:
            raise SettingsError(f"a rule on {self.figure} needs one of {', '.join(BOUNDS)}")
        return self

    @property
    def bound(self) -> tuple[str, float]:
        """Its name and number."""
        return next((name, value) for name in BOUNDS if (value := getattr(self, name)) is not None)

    @property
    def is_proven(self) -> bool:
        return self.proven if self.proven is not None else self.bound[0] in ("at_least", "at_most")

    def __str__(self) -> str:
        name, value = self.bound
        over = f" against {self.against}" if self.against else ""
        return f"{self.figure}{over} {name.replace('_', ' ')} {value:g}{' (proven)' if self.is_proven else ''}"


class Gate(Settings):
    """gate.toml"""

    rule: tuple[Rule, ...] = Field(..., min_length=1)


def read(path: str | Path) -> Gate:
    """The rules of a file.

    Raises:
        SettingsError: which rule is wrong, and why.
    """
    try:
        written = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise SettingsError(f"{path}: {e}") from e
    rules = written.get("rule")
    if set(written) != {"rule"} or not isinstance(rules, list) or not rules:
        raise SettingsError(f"{path}: a gate is a list of [[rule]] tables and nothing else")
    return Gate(rule=tuple(_rule(path, n, rule) for n, rule in enumerate(rules, 1)))


def _rule(path: str | Path, number: int, values: Mapping[str, Any]) -> Rule:
    where = f"{path}: rule {number}"
    for key in values:
        if key not in Rule.model_fields:
            raise SettingsError(f'{where}: unknown key "{key}"{nearest(key, Rule.model_fields)}')
    try:
        return Rule.model_validate(values)
    except SettingsError as e:
        raise SettingsError(f"{where}: {e}") from e
    except ValidationError as e:
        first = e.errors()[0]
        raise SettingsError(f'{where}: "{".".join(map(str, first["loc"]))}": {first["msg"].lower()}') from e


def judge(gate: Gate, report: Mapping[str, Any]) -> dict[str, Any]:
    """Which rules the report's newest model keeps: {"passed", "rules": [{"rule", "passed", "found"}]}."""
    rules = [{"rule": str(rule), "passed": passed, "found": found} for rule in gate.rule
             for passed, found in [_kept(rule, report)]]
    return {"passed": all(r["passed"] for r in rules), "rules": rules}


def _kept(rule: Rule, report: Mapping[str, Any]) -> tuple[bool, str]:
    name, bound = rule.bound
    if rule.figure == ALARMS:
        alarms: Sequence[Any] = report.get(ALARMS, ())
        return len(alarms) <= bound, f"{len(alarms)} raised"
    found = list(_found(rule, report))
    if not found:
        return False, "not measured"
    kept = [_holds(name, bound, i, better, rule.is_proven) for _, i, better in found]
    shown = "; ".join(f"{who}{_show(i)}" for who, i, _ in found)
    return all(kept), shown


def _found(rule: Rule, report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """(against whom, interval, which direction is better) of everything that the rule is about."""
    newest = report["models"][-1]["name"] if report.get("models") else ""
    if rule.figure == PREFERENCE:
        for p in report.get("preferences", ()):
            if p["model"] == newest and rule.against in ("", p["baseline"]):
                yield f"over {p['baseline']} ", p["seeds"]["bootstrap"] if "seeds" in p else p["rate"], "higher"
        return
    row = _row(rule.figure, report)
    if row is None:
        return
    if rule.bound[0] in ("at_least", "at_most"):
        if newest in row["models"]:
            yield "", row["models"][newest], row["better"]
        return
    kind = "relative" if rule.bound[0] == "changed_by_at_most" else "difference"
    for change in row["changes"]:
        if change["model"] == newest and rule.against in ("", change["baseline"]) and change.get(kind):
            yield f"against {change['baseline']} ", change[kind], row["better"]


def _row(figure: str, report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """{"models", "changes", "better"} of a figure, of a suite or of the answers."""
    suite, dot, key = figure.partition(".")
    if dot:
        rows = [r for s in report.get("suites", ()) if s["name"] == suite for r in s["rows"] if r["key"] == key]
        return {**rows[0], "changes": [_with_share(c, rows[0]) for c in rows[0]["changes"]]} if rows else None
    models = {m["name"]: m["metrics"][figure] for m in report.get("models", ()) if figure in m["metrics"]}
    better = {m["key"]: m.get("better", "") for m in report.get("metrics", ())}
    changes = [c for c in report.get("changes", ()) if c["key"] == figure]
    return {"models": models, "changes": changes, "better": better.get(figure, "")} if models else None


def _with_share(change: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """A suite's change, and it as a share of the baseline's figure, whose own uncertainty is left out."""
    before, ends = row["models"][change["baseline"]]["value"], change["difference"]
    if not before:
        return dict(change)  # of nothing there is no share
    share = {k: ends[k] / abs(before) if ends[k] is not None else None for k in ("value", "low", "high")}
    return {**change, "relative": share}


def _holds(name: str, bound: float, found: Mapping[str, Any], better: str, proven: bool) -> bool:
    value = found["value"]
    low, high = (value if found[end] is None else found[end] for end in ("low", "high"))
    if value is None:
        return False
    if name == "at_least":
        return bool((low if proven else high) >= bound)
    if name == "at_most":
        return bool((high if proven else low) <= bound)
    if name == "changed_by_at_most":
        far, near = max(abs(low), abs(high)), 0.0 if low <= 0 <= high else min(abs(low), abs(high))
        return bool((far if proven else near) <= bound)
    worst, best = (-low, -high) if better == "higher" else (high, low)  # how much worse it may be, and at least is
    return bool((worst if proven else best) <= bound)


def _show(i: Mapping[str, Any]) -> str:
    if i["value"] is None:
        return "no value"
    ends = "" if i["low"] is None or i["high"] is None else f" [{i['low']:.3g}, {i['high']:.3g}]"
    return f"{i['value']:.3g}{ends}"
