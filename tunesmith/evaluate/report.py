"""The report: report.json is the truth, report.html renders it and nothing else.

`build` assembles a `Report` from a comparison and the training runs' figures; a caller may also fill the dict by
hand. Every key but `title` may be missing: the page leaves that section out. An interval is everywhere
`{"value", "low", "high", "n"}`, as `Interval.to_dict` writes it; where low equals high the figure has no interval.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from tunesmith.evaluate.compare import (
    Comparison,
    change_over_seeds,
    difference_over_seeds,
    metric_over_seeds,
    preference_over_seeds,
)
from tunesmith.evaluate.page import points, render, show
from tunesmith.evaluate.suite import Section
from tunesmith.records import turns
from tunesmith.statistics import Interval, Preference, holm

__all__ = ["Metric", "Report", "build", "read", "render", "write"]

Tone = Literal["better", "worse", "unclear", "watch", "info"]
Unit = Literal["%", "words", "tokens", "nats", ""]


class Judge(TypedDict, total=False):
    """Who preferred: `kind` is e.g. "rubric", "reward model", "people". `simulated` says no person was involved."""

    name: str
    kind: str
    description: str
    simulated: bool


class Sentence(TypedDict):
    """One plain sentence of the verdict; the first is the headline."""

    text: str
    tone: Tone


class Report(TypedDict, total=False):
    """report.json.

    verdict: plain sentences, the headline first.
    metrics: what the table's rows mean, in their order (`Metric` as dicts).
    models: {"name", "label", "metrics": {key: interval}}, the plainest first.
    preferences: {"model", "baseline", "rate", "tie_rate", "wins", "ties", "losses"} and, where several seeds were
        trained, "seeds": {"bootstrap", "t", "each"}.
    changes: {"key", "model", "baseline", "difference", "relative"} of the newest model's figures against each baseline.
    suites: `suite.Section`s: benchmarks, safety, variety, consistency; changes carry "adjusted", the p-value after Holm
        over all of the newest model's.
    sections: {"title", "note", "tables": [{"title", "head", "rows"}], "figures": [...]} of other kinds of reports, each
        drawn as it is; a figure is {"kind": "intervals", "title", "rows": [{"label", interval}]} or {"kind": "lines",
        "title", "x", "y", "series": [{"label", "points", "band"}], "dots"}.
    alarms: {"text", "where"}: what looked like a hack, a collapse or a hidden behaviour, while training or here.
    gate: `gate.judge`'s verdict.
    curves: "sft": metric rows {"step", "loss", ...}; "reward": {"training": rows {"step", "loss", "accuracy"},
        "accuracy": interval on held-out pairs, "agreement": interval between labelers, "baselines": {label:
        interval}, "calibration": [{"predicted", "observed": interval}], "calibration_error", "pairs"}; "ppo": rows
        {"step", "reward", "kl", "entropy", "answer_tokens", ...}. Rows with a "seed" of several seeds are drawn as
        mean and range.
    retention: {"data", "loss": {model: interval}}: nats per token of the stages' models on each stage's data, and on
        text that the bare base writes.
    samples: {"why", "prompt": turns, "domain", "answers": [{"model", "text", "score", "finished", "broken"}]}.
    how: section -> {name: value}: settings, seeds, data fingerprints, hardware, versions, time, tokens.
    """

    title: str
    created: str
    verdict: list[Sentence]
    judge: Judge
    n_prompts: int
    metrics: list[dict[str, Any]]
    models: list[dict[str, Any]]
    preferences: list[dict[str, Any]]
    changes: list[dict[str, Any]]
    suites: list[Section]
    sections: list[dict[str, Any]]
    alarms: list[dict[str, str]]
    gate: dict[str, Any]
    curves: dict[str, Any]
    retention: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    notes: list[str]
    how: dict[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the table: what a figure is called, how it prints, which direction is better ("" if neither).

    `headline` puts it into the verdict and `relative` words its change as a share of the baseline's value.
    Metrics with `beside` are shown apart, as what must not get worse while the others get better.
    """

    key: str
    label: str = ""
    unit: Unit = "%"
    better: Literal["higher", "lower", ""] = ""
    headline: bool = False
    relative: bool = False
    beside: bool = False
    help: str = ""


BESIDE = (
    Metric("words", "Length", "words", beside=True, help="mean words per answer"),
    Metric("tokens", "Length in tokens", "tokens", beside=True),
    Metric("distinct_1", "Distinct words", beside=True, better="higher",
           help="distinct-1: different words among all words, on samples of one size"),
    Metric("distinct_2", "Distinct word pairs", beside=True, better="higher", help="distinct-2, likewise"),
    Metric("distinct_3", "Distinct word triples", beside=True, better="higher", help="distinct-3, likewise"),
    Metric("repetition", "Repetition", beside=True, better="lower",
           help="word triples that occurred before in the same answer"),
    Metric("duplicates", "Copies", beside=True, better="lower",
           help="answers that equal another answer word for word"),
    Metric("unfinished", "Cut off", beside=True, better="lower", help="answers that ran into the length limit"),
    Metric("kl", "KL from the start", "nats", beside=True,
           help="per answer: how far the model moved from where PPO began"),
)

SCORE = Metric("score", "Judge's score", "", "higher", help="mean over the prompts")


def build(comparison: Comparison | None, *, title: str, judge: Judge | None = None, models: Sequence[str] = (),
          metrics: Sequence[Metric] = (),
          labels: Mapping[str, str] | None = None, kl: Mapping[str, float | Interval] | None = None,
          seeds: Sequence[Comparison] = (), curves: Mapping[str, Any] | None = None,
          retention: Sequence[Mapping[str, Any]] = (), suites: Sequence[Section] = (),
          alarms: Sequence[Mapping[str, str]] = (), how: Mapping[str, Mapping[str, Any]] | None = None,
          notes: Iterable[str] = (), samples: int = 6, seed: int = 0, created: str = "") -> Report:
    """A report from a comparison (models in training order, the one the report is about last).

    Args:
        comparison: None where only suites were run, on `models`.
        metrics: what the checks mean, in the table's order; checks not named here follow under their own name.
        labels: model name -> what readers call it.
        kl: model name -> KL per answer from its starting point, measured by the caller.
        seeds: comparisons of all training seeds (this one included), where there are several: rates, means and
            changes are then over seeds, while samples show `comparison`.
        curves, retention, suites, alarms, how: as in `Report`; intervals may be `Interval`s.
        samples: how many prompts to show side by side, picked at random; up to 2 more where the newest model lost.
    """
    models = comparison.models if comparison else tuple(models)
    names = {m: (labels or {}).get(m, m) for m in models}
    report: Report = {"title": title, "created": created or datetime.now(UTC).isoformat(timespec="seconds"),
                      "verdict": [], "models": [{"name": m, "label": names[m], "metrics": {}} for m in models]}
    if comparison:
        rows = {m: _row(comparison, seeds, m, seed) for m in models}
        for model, value in (kl or {}).items():
            rows[model]["kl"] = value if isinstance(value, Interval) else Interval(value, value, value, 0)
        known = _described(metrics, rows)
        preferences = [_preference(comparison, seeds, pair, p, seed)
                       for pair, p in comparison.preferences(seed).items()]
        report |= {
            "verdict": _verdict(comparison, seeds, names, known, rows, preferences, seed),
            "n_prompts": len(comparison.prompts), "metrics": [asdict(m) for m in known],
            "models": [{"name": m, "label": names[m], "metrics": {k: i.to_dict() for k, i in rows[m].items()}}
                       for m in models],
            "preferences": preferences, "changes": _changes(comparison, seeds, seed),
            "samples": _samples(comparison, known, samples, seed)}
    if judge:
        report["judge"] = judge
    if suites:
        report["suites"] = _adjusted(suites, models[-1])
        report["verdict"] += _measured(report["suites"], names)
    if alarms:
        report["alarms"] = [dict(a) for a in alarms]
        report["verdict"] += [{"text": f"Alarm: {a['text']}", "tone": "watch"} for a in alarms]
    if curves:
        report["curves"] = dict(curves)
    if retention:
        report["retention"] = [dict(row) for row in retention]
    if how:
        report["how"] = dict(how)
    report["notes"] = list(notes)
    return _plain(report)


def write(folder: str | Path, report: Report) -> Path:
    """Write report.json and report.html into the folder, made if needed; the path of the page."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(report), ensure_ascii=False, indent=1, allow_nan=False)
    _replace(folder / "report.json", text)
    _replace(folder / "report.html", render(json.loads(text)))
    return folder / "report.html"


def read(folder: str | Path) -> Report:
    """The report that `write` left in the folder."""
    return json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))


def _replace(path: Path, text: str) -> None:
    aside = path.with_suffix(path.suffix + ".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def _plain(value: Any) -> Any:
    """What JSON knows: intervals and numpy numbers become plain, paths text, and a number that is none None."""
    if isinstance(value, Interval):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def _row(comparison: Comparison, seeds: Sequence[Comparison], model: str, seed: int) -> dict[str, Interval]:
    """A model's figures; over several seeds those of whole sets are plain means."""
    if len(seeds) < 2:
        return comparison.metrics(model, seed)
    each = [c.metrics(model, seed) for c in seeds]
    means = {key: float(np.mean([row[key].value for row in each if key in row])) for key in each[0]}
    keys = [key for key in comparison.keys(model) if all(key in row for row in each)]
    return {key: metric_over_seeds(seeds, model, key, seed).bootstrap if key in keys
            else Interval(x, x, x, each[0][key].n) for key, x in means.items()}


def _described(metrics: Sequence[Metric], rows: Mapping[str, Mapping[str, Interval]]) -> list[Metric]:
    """A Metric for every figure that some model has: the caller's, the score, other checks, then those beside."""
    present = dict.fromkeys(k for row in rows.values() for k in row)
    told = {m.key: m for m in (*BESIDE, SCORE, *metrics)}
    first = [m.key for m in (*metrics, SCORE)]
    rest = [k for k in present if k not in told]
    order = [*first, *rest, *(m.key for m in BESIDE)]
    return [told.get(k) or _guess(k, rows) for k in dict.fromkeys(order) if k in present]


def _guess(key: str, rows: Mapping[str, Mapping[str, Interval]]) -> Metric:
    share = all(i.low >= 0 and i.high <= 1 for row in rows.values() for k, i in row.items() if k == key)
    return Metric(key, key.replace("_", " ").capitalize(), "%" if share else "")


def _preference(comparison: Comparison, seeds: Sequence[Comparison], pair: tuple[str, str], p: Preference, seed: int
                ) -> dict[str, Any]:
    row = {"model": pair[0], "baseline": pair[1], "rate": p.rate.to_dict(), "tie_rate": p.tie_rate.to_dict(),
           "wins": p.wins, "ties": p.ties, "losses": p.losses}
    if len(seeds) > 1:
        over = preference_over_seeds(seeds, *pair, seed=seed)
        row["seeds"] = {"bootstrap": over.bootstrap.to_dict(), "t": over.t.to_dict(), "each": list(over.each)}
    return row


def _verdict(comparison: Comparison, seeds: Sequence[Comparison], names: Mapping[str, str], metrics: Sequence[Metric],
             rows: Mapping[str, Mapping[str, Interval]], preferences: Sequence[Mapping[str, Any]], seed: int
             ) -> list[Sentence]:
    newest = comparison.models[-1]
    said = [_preferred(p, names, len(comparison.prompts), len(seeds)) for p in preferences if p["model"] == newest]
    for m in metrics:
        if m.headline and m.key in rows[newest]:
            said.append(_changed(m, seeds if len(seeds) > 1 else [comparison], names, rows, seed))
    return [*said, *_watch(comparison, names, rows)]


def _preferred(p: Mapping[str, Any], names: Mapping[str, str], prompts: int, seeds: int) -> Sentence:
    rate = p["seeds"]["bootstrap"] if "seeds" in p else p["rate"]
    over = f"Over {seeds} training seeds, each on" if "seeds" in p else "On"
    ties = show(p["tie_rate"], "%").split()[0]
    text = (f"{over} {prompts:,} held-out prompts, {names[p['model']]}'s answers were preferred over "
            f"{names[p['baseline']]}'s in {show(rate, '%')} of prompts; ties ({ties}) count half.")
    tone = _tone(rate["low"] - 0.5, rate["high"] - 0.5, "higher")
    return {"text": text + (" That is too close to call." if tone == "unclear" else ""), "tone": tone}


def _changed(m: Metric, comparisons: Sequence[Comparison], names: Mapping[str, str],
             rows: Mapping[str, Mapping[str, Interval]], seed: int) -> Sentence:
    """The figure of each model in training order, and the newest's change against the one before it."""
    models = [model for model, row in rows.items() if m.key in row]
    path = " → ".join(f"{names[model]} {show(rows[model][m.key].to_dict(), m.unit).split()[0]}" for model in models)
    text = f"{m.label or m.key}: {path}"
    if len(models) < 2:
        return {"text": f"{text}.", "tone": "info"}
    newest, before = models[-1], models[-2]
    difference = _difference(comparisons, newest, before, m.key, seed)
    if m.relative and rows[before][m.key].value:
        change = _signed(_relative(comparisons, newest, before, m.key, seed), 100, 0, "%")
    else:
        change = _signed(difference, 100, 1, " points") if m.unit == "%" else _signed(difference, 1, 2)
    return {"text": f"{text}; change against {names[before]}: {change}.",
            "tone": _tone(difference.low, difference.high, m.better)}


def _watch(comparison: Comparison, names: Mapping[str, str], rows: Mapping[str, Mapping[str, Interval]]
           ) -> list[Sentence]:
    """What a rise in reward is often bought with: length, sameness, repetition, cut answers."""
    if len(comparison.models) < 2:
        return []
    before, newest = comparison.models[-2:]
    a, b = rows[newest], rows[before]
    found = []
    change = a["words"].value / b["words"].value - 1 if b["words"].value else 0.0
    if abs(change) > 0.25:
        found.append(f"{abs(change):.0%} {'longer' if change > 0 else 'shorter'}")
    if a["distinct_2"].value < 0.8 * b["distinct_2"].value:
        found.append(f"less varied (distinct word pairs {b['distinct_2'].value:.1%} → {a['distinct_2'].value:.1%})")
    for key, what in (("repetition", "more repetitive"), ("duplicates", "more often copies of each other"),
                      ("unfinished", "more often cut off")):
        if a[key].value > b[key].value + 0.05:
            found.append(f"{what} ({b[key].value:.1%} → {a[key].value:.1%})")
    text = f"Watch: {names[newest]}'s answers are {', '.join(found)} than {names[before]}'s."
    return [{"text": text, "tone": "watch"}] if found else []


def _changes(comparison: Comparison, seeds: Sequence[Comparison], seed: int) -> list[dict[str, Any]]:
    """The newest model's figures against each baseline's, paired. Of KL and of whole sets there is nothing to pair."""
    *baselines, newest = comparison.models
    every = seeds if len(seeds) > 1 else [comparison]
    return [{"key": key, "model": newest, "baseline": b, "difference": _difference(every, newest, b, key, seed),
             "relative": _relative(every, newest, b, key, seed)}
            for b in reversed(baselines) for key in comparison.keys(newest) if key in comparison.keys(b)]


def _difference(comparisons: Sequence[Comparison], model: str, baseline: str, key: str, seed: int) -> Interval:
    return (difference_over_seeds(comparisons, model, baseline, key, seed) if len(comparisons) > 1
            else comparisons[0].difference(model, baseline, key, seed))


def _relative(comparisons: Sequence[Comparison], model: str, baseline: str, key: str, seed: int) -> Interval:
    return (change_over_seeds(comparisons, model, baseline, key, seed) if len(comparisons) > 1
            else comparisons[0].change(model, baseline, key, seed))


def _adjusted(suites: Sequence[Section], newest: str) -> list[Section]:
    """With p-values adjusted for how many figures of the newest model are looked at."""
    own = [change for s in suites for row in s["rows"] for change in row["changes"] if change["model"] == newest]
    for change, p in zip(own, holm([c["p"] for c in own]), strict=True):
        change["adjusted"] = p
    return list(suites)


def _measured(suites: Sequence[Section], names: Mapping[str, str]) -> list[Sentence]:
    """What the tests' headline figures say of the newest model against the one before it: a sentence for each that
    changed for sure, and one for all others."""
    newest = list(names)[-1]
    said: list[Sentence] = []
    same: list[str] = []
    chance: list[str] = []
    for suite in suites:
        for row in suite["rows"]:
            if not row["headline"] or newest not in row["models"]:
                continue
            of = "" if suite["title"].lower() in row["label"].lower() else f" ({suite['title']})"
            changes = [c for c in row["changes"] if c["model"] == newest]
            path = " → ".join(f"{names[m]} {show(i, row['unit']).split()[0]}" for m, i in row["models"].items())
            if not row["measurable"]:
                chance.append(row["label"] + of)
            elif not changes:
                said.append({"text": f"{row['label']}{of}: {path}.", "tone": "info"})
            elif changes[0]["adjusted"] >= 0.05:
                same.append(row["label"] + of)
            else:
                i, baseline = changes[0]["difference"], names[changes[0]["baseline"]]
                said.append({"text": f"{row['label']}{of}: {path}; change against {baseline}: "
                             f"{points(i, row['unit'])}, p = {changes[0]['adjusted']:.2g} after correction.",
                             "tone": _tone(i["low"], i["high"], row["better"])})
    if same:
        said.append({"text": f"Tests that show no difference: {'; '.join(same)}.", "tone": "unclear"})
    if chance:
        said.append({"text": f"At chance, so not measurable on models of this size: {'; '.join(chance)}.",
                     "tone": "info"})
    return said


def _tone(low: float, high: float, better: str) -> Tone:
    if not better:
        return "info"
    up, down = low > 0, high < 0
    if not (up or down):
        return "unclear"
    return "better" if up == (better == "higher") else "worse"


def _signed(i: Interval, scale: float, digits: int, unit: str = "") -> str:
    value, low, high = (f"{x * scale:+.{digits}f}".replace("-", "−") for x in (i.value, i.low, i.high))
    return f"{value}{unit} [{low}, {high}]"


def _samples(comparison: Comparison, metrics: Sequence[Metric], count: int, seed: int) -> list[dict[str, Any]]:
    """Prompts picked at random, then those where the newest model lost most to the one before it."""
    rng = np.random.default_rng(seed)
    chosen = [(int(n), "picked at random") for n in rng.permutation(len(comparison.prompts))[:count]]
    if len(comparison.models) > 1 and count:
        before, newest = comparison.models[-2:]
        loss = comparison.scores(before) - comparison.scores(newest)
        worst = [int(n) for n in np.argsort(-loss, kind="stable")[:2] if loss[n] > comparison.tie_within]
        chosen += [(n, "where the newest model lost most") for n in worst if n not in dict(chosen)]
    return [_sample(comparison, metrics, n, why) for n, why in chosen]


def _sample(comparison: Comparison, metrics: Sequence[Metric], n: int, why: str) -> dict[str, Any]:
    prompt = comparison.prompts[n]
    row = [(model, judged[n]) for model, judged in comparison.judged.items()]
    good = {m.key: m.better == "higher" for m in metrics if m.better}
    return {"why": why, "prompt": turns(prompt.messages), "domain": prompt.domain, "answers": [
        {"model": model, "text": j.answer.text, "score": j.score, "finished": j.answer.finished,
         "broken": [k for k, v in j.checks.items() if isinstance(v, bool) and k in good and v != good[k]]}
        for model, j in row]}
