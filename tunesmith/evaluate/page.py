"""report.json to one self-contained page: no script, no request, readable on a phone, in the dark and on paper.

Whatever a model or a person wrote is escaped by the template, and the page's own policy forbids scripts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from math import isfinite, nan
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, Template
from markupsafe import Markup, escape

from tunesmith.evaluate import svg
from tunesmith.statistics import Interval

MOST_POINTS = 300
TABLE_ROWS = 12
FORMATS = {"%": ".1%", "words": ".1f", "tokens": ".1f", "nats": ".2f", "": ".2f"}


def render(report: Mapping[str, Any]) -> str:
    """The page. Sections whose keys the report lacks are left out."""
    labels = {m["name"]: m["label"] for m in report.get("models", [])}
    metrics = report.get("metrics", [])
    return _template().render(
        report=report, labels=labels, created=_date(report.get("created", "")), tiles=_tiles(report, labels),
        preferences=_preferences(report.get("preferences", []), labels),
        tables=[("What the judge and the checks found", _table(report, [m for m in metrics if not m.get("beside")])),
                ("Beside them: is it progress or a hack?", _table(report, [m for m in metrics if m.get("beside")]))],
        names={m["key"]: m["label"] or m["key"] for m in metrics},
        suites=[_suite(section, labels) for section in report.get("suites", [])],
        sections=[{**s, "figures": [_drawn(f) for f in s.get("figures", [])]} for s in report.get("sections", [])],
        curves=[section for section in _curves(report) if section["figures"]], retention=_retention(report),
        how=_how(report.get("how", {})))


def show(interval: Mapping[str, Any] | None, unit: str = "%") -> str:
    """`72.1% [69.8, 74.4]`; the value alone where it has no interval; a dash where there is no value."""
    if interval is None or interval["value"] is None:
        return "–"
    i = _interval(interval)
    spec = FORMATS.get(unit, ".2f")
    text = format(i.value, spec) if i.low == i.high or not isfinite(i.low + i.high) else format(i, spec)
    return text.replace("-", "−")


def points(difference: Mapping[str, Any], unit: str) -> str:
    """`+3.1 points [0.4, 5.8]`."""
    if difference["value"] is None:
        return "–"
    i, scale, digits = _interval(difference), 100 if unit == "%" else 1, 1 if unit == "%" else 2
    value, low, high = (f"{x * scale:.{digits}f}" for x in (i.value, i.low, i.high))
    sign, word = "+" if i.value > 0 else "", " points" if unit == "%" else ""
    ends = f" [{low}, {high}]" if isfinite(i.low + i.high) else ""
    return f"{sign}{value}{word}{ends}".replace("-", "−")


@cache
def _template() -> Template:
    folder = Path(__file__).parent / "templates"
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["whole"] = _whole
    return environment.get_template("report.html")


def _whole(text: str) -> Markup:
    """The text, escaped, with no line break inside an interval."""
    return Markup(re.sub(r"\S+( points)? \[[^\[\]]*\]", lambda m: f'<span class="nb">{m[0]}</span>', str(escape(text))))


def _interval(data: Mapping[str, Any]) -> Interval:
    value, low, high = (nan if data[k] is None else float(data[k]) for k in ("value", "low", "high"))
    return Interval(value, low, high, int(data.get("n", 0)))


def _date(created: str) -> str:
    try:
        return datetime.fromisoformat(created).strftime("%-d %B %Y, %H:%M %Z").strip()
    except ValueError:
        return created


def _split(text: str) -> tuple[str, str]:
    """`72.1% [69.8, 74.4]` as its value and its interval."""
    value, _, ends = text.partition(" ")
    return value, ends


def _rate(preference: Mapping[str, Any]) -> Mapping[str, Any]:
    """Over seeds where there are several, else over prompts."""
    return preference["seeds"]["bootstrap"] if "seeds" in preference else preference["rate"]


def _tiles(report: Mapping[str, Any], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The few large figures under the verdict: preference rates of the newest model, and headline metrics."""
    models = report.get("models", [])
    newest = models[-1]["name"] if models else ""
    tiles: list[dict[str, Any]] = []
    for p in report.get("preferences", []):
        if p["model"] == newest:
            value, ends = _split(show(_rate(p)))
            tiles.append({"label": f"preferred over {labels.get(p['baseline'], p['baseline'])}", "value": value,
                          "ends": ends})
    for m in report.get("metrics", []):
        found = [(row["label"], row["metrics"].get(m["key"])) for row in models]
        if m.get("headline") and models and found[-1][1]:
            value, ends = _split(show(found[-1][1], m["unit"]))
            before = [f"{label} {_split(show(i, m['unit']))[0]}" for label, i in found[:-1] if i]
            tiles.append({"label": m["label"] or m["key"], "value": value, "ends": ends, "before": before})
    return tiles


def _preferences(preferences: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> dict[str, Any] | None:
    if not preferences:
        return None
    rows, table, seeds = [], [], []
    for p in preferences:
        name = f"{labels.get(p['model'], p['model'])} over {labels.get(p['baseline'], p['baseline'])}"
        i = _interval(_rate(p))
        rows.append(svg.Row(name, i.value, i.low, i.high, show(_rate(p))))
        table.append([name, show(p["rate"]), show(p["tie_rate"]), p["wins"], p["ties"], p["losses"]])
        if "seeds" in p:
            seeds.append([name, show(p["seeds"]["bootstrap"]), show(p["seeds"]["t"]),
                          ", ".join(f"{x:.1%}" for x in p["seeds"]["each"])])
    said = "; ".join(f"{r.label} {r.text}" for r in rows)
    plot = svg.intervals(rows, title="Preference rates with 95% intervals", description=f"{said}. 50% means no "
                         "preference.")
    return {"svg": plot, "head": ["", "Preferred", "Ties", "Won", "Tied", "Lost"], "rows": table, "seeds": seeds}


def _table(report: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per metric: label, direction, help, and for each model value and interval."""
    models = report.get("models", [])
    return [{"label": m["label"] or m["key"], "better": m.get("better", ""), "help": m.get("help", ""),
             "unit": m["unit"] if m["unit"] in ("words", "tokens", "nats") else "",
             "cells": [_split(show(model["metrics"].get(m["key"]), m["unit"])) for model in models]}
            for m in metrics if any(m["key"] in model["metrics"] for model in models)]


def _suite(section: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """A suite's table: a row for each figure, a column for each model, then chance, people, and the newest's change."""
    models = list(dict.fromkeys(m for row in section["rows"] for m in row["models"]))
    newest = models[-1] if models else ""
    rows = []
    for row in section["rows"]:
        unit = row["unit"]
        beside = [f"{what} {format(row[key], FORMATS.get(unit, '.2f'))}" for key, what in (("chance", "guessing"),
                  ("human", "people")) if row.get(key) is not None]
        changes = [f"{points(c['difference'], unit)} against {labels.get(c['baseline'], c['baseline'])}"
                   f" (p = {c.get('adjusted', c['p']):.2g})" for c in row["changes"] if c["model"] == newest]
        rows.append({"label": row["label"], "better": row["better"], "help": row["help"], "beside": ", ".join(beside),
                     "unit": unit if unit in ("words", "tokens", "nats") else "", "measurable": row["measurable"],
                     "cells": [_split(show(row["models"].get(m), unit)) for m in models], "changes": changes})
    return {**section, "models": [labels.get(m, m) for m in models], "rows": rows}


def _drawn(figure: Mapping[str, Any]) -> dict[str, Any]:
    """A section's own figure: intervals in rows, or lines with bands and the points that they were drawn through."""
    title, caption = figure["title"], figure.get("caption", "")
    if figure["kind"] == "intervals":
        rows = [svg.Row(r["label"], i.value, i.low, i.high, show(r)) for r in figure["rows"] for i in [_interval(r)]]
        said = "; ".join(f"{r.label}: {r.text}" for r in rows)
        return _figure(title, caption, svg.intervals(rows, title=title, description=said, reference=None),
                       ["", title, "n"], [[r["label"], show(r), r.get("n", "")] for r in figure["rows"]])
    series = [svg.Series(s["label"], s["points"], s.get("band", ())) for s in figure["series"]]
    drawn = svg.lines(series, title=title, description=caption or title, x_label=figure["x"], y_label=figure["y"],
                      dots=figure.get("dots", ()))
    return _figure(title, caption, drawn, [figure["x"], *(s.label for s in series)],
                   [[f"{x:,.0f}", *(_near(s, x) for s in series)] for x, _ in _spread(series[0].points)])


def _curves(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    curves = report.get("curves", {})
    preferred = curves.get("prefer", [])
    rewarded = curves.get("ppo") or preferred  # GRPO and RLOO log the same figures
    return [
        {"title": "Learning from demonstrations (SFT)", "note": "",
         "figures": _present(_over_steps(curves.get("sft", []), "Loss per learned token", "step", "nats",
                                         {"loss": "training", "held_out_loss": "held out"}))},
        {"title": "The reward model", "note": "", "figures": _reward(curves.get("reward", {}))},
        {"title": "Learning from preferences (DPO, KTO)",
         "note": "A pair is right when the policy has moved towards the preferred answer more than towards the other.",
         "figures": _present(
             _over_steps(preferred, "Loss", "step", "", {"loss": "training"}),
             _over_steps(preferred, "Pairs or thumbs right", "step", "share", {"accuracy": "training"}),
             _over_steps(preferred, "Margin of implicit rewards", "step", "reward", {"margin": "training"}))},
        {"title": "Learning from the reward",
         "note": "Reward is the reward model's score of the answers that the policy wrote while it learned: it may "
                 "rise because answers got better, or because the policy found what the reward model overrates. Only a "
                 "judge that took no part in training can tell.",
         "figures": _present(
             _over_steps(rewarded, "Reward per answer", "update", "reward", {"reward": "reward"}),
             _over_steps(rewarded, "KL from the reference per answer", "update", "nats", {"kl": "KL"}),
             _reward_against_kl(rewarded), _gold(curves.get("gold")),
             _over_steps(rewarded, "Length per answer", "update", "tokens", {"answer_tokens": "tokens"}),
             _over_steps(rewarded, "Entropy per token", "update", "nats", {"entropy": "entropy"}))}]


def _reward(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return _present(_accuracy(data), _calibration(data),
                    _over_steps(data.get("training", []), "Loss per prompt", "step", "nats", {"loss": "training"}))


def _accuracy(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The reward model's held-out accuracy beside how far labelers agree with each other."""
    named = {"Reward model, on held-out pairs": data.get("accuracy"), "Two labelers with each other":
             data.get("agreement"), **data.get("baselines", {})}
    found = {label: i for label, i in named.items() if i and i["value"] is not None}
    if not found:
        return None
    rows = [svg.Row(label, i.value, i.low, i.high, show(d)) for label, d in found.items() for i in [_interval(d)]]
    said = "; ".join(f"{r.label}: {r.text}" for r in rows)
    return _figure("Agreement with labelers", "How often the preferred answer of a pair scores higher. The reward "
                   "model cannot be expected to agree with labelers more than they agree with each other.",
                   svg.intervals(rows, title="Agreement with labelers", description=said),
                   ["", "Agreement", "n"], [[label, show(d), d.get("n", "")] for label, d in found.items()])


def _calibration(data: Mapping[str, Any]) -> dict[str, Any] | None:
    bins = data.get("calibration")
    if not bins:
        return None
    observed = [_interval(b["observed"]) for b in bins]
    points = svg.Series("pairs", [(b["predicted"], o.value) for b, o in zip(bins, observed)],
                        [(o.low, o.high) for o in observed])
    error = data.get("calibration_error")
    caption = "On the dashed line a pair given 80% is won in 80% of cases." + (
        f" Mean distance from it (ECE): {error:.3f}." if error is not None else "")
    plot = svg.scatter([points], title="Calibration of the reward model", description=caption, diagonal=True,
                       x_label="predicted probability", y_label="share that came true")
    return _figure("Calibration", caption, plot, ["Predicted", "Came true", "Pairs"],
                   [[f"{b['predicted']:.1%}", show(b["observed"]), b["observed"]["n"]] for b in bins])


def _over_steps(rows: Sequence[Mapping[str, Any]], title: str, x_label: str, y_label: str, keys: Mapping[str, str]
                ) -> dict[str, Any] | None:
    """Lines of some keys over steps; with several seeds, their mean and range."""
    series = [_thinned(_by_step(rows, key, label)) for key, label in keys.items()
              if any(r.get(key) is not None for r in rows)]
    if not series:
        return None
    first, last = series[0].points[0], series[0].points[-1]
    described = f"{title} goes from {first[1]:.3g} at {x_label} {first[0]:g} to {last[1]:.3g} at {x_label} {last[0]:g}."
    banded = any(s.band for s in series)
    table = [[f"{x:g}", *(_near(s, x) for s in series)] for x, _ in _spread(series[0].points)]
    return _figure(title, "Mean and range over the seeds." if banded else "",
                   svg.lines(series, title=title, description=described, x_label=x_label, y_label=y_label),
                   [x_label, *(s.label for s in series)], table)


def _reward_against_kl(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    runs: dict[Any, list[svg.Point]] = defaultdict(list)
    for r in rows:
        if r.get("kl") is not None and r.get("reward") is not None:
            runs[r.get("seed")].append((r["kl"], r["reward"]))
    if not runs:
        return None
    series = [svg.Series("updates" if seed is None else f"seed {seed}", points) for seed, points in runs.items()]
    title = "Reward against KL"
    caption = "Each point is an update. A curve that bends over pays ever more KL for ever less reward."
    return _figure(title, caption, svg.scatter(series, title=title, description=caption, joined=True,
                                               x_label="KL from the reference, nats per answer", y_label="reward"),
                   ["run", "KL", "reward"], [[s.label, f"{x:.3g}", f"{y:.3g}"] for s in series
                                             for x, y in _spread(s.points)])


def _gold(data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What an independent judge saw of the run."""
    if not data or not data["points"]:
        return None
    from tunesmith.evaluate.overoptimisation import Curve, Point, plot

    points = [Point(**{**p, "proxy": nan if p["proxy"] is None else p["proxy"]}) for p in data["points"]]
    curve = Curve.from_dict(data["fit"]) if "fit" in data else None
    return _figure(data["title"], f"Judged by {data['gold']}, which training did not read. {data['text']}",
                   plot(points, curve, data["title"]), ["KL", "gold over the start", "reward over the start"],
                   [[f"{p.kl:.3g}", f"{p.gold:+.3g}", f"{p.proxy:+.3g}"] for p in points])


def _by_step(rows: Sequence[Mapping[str, Any]], key: str, label: str) -> svg.Series:
    values: dict[float, list[float]] = defaultdict(list)
    for r in rows:
        if r.get(key) is not None:
            values[r["step"]].append(float(r[key]))
    steps = sorted(values)
    band = [(min(values[s]), max(values[s])) for s in steps] if any(len(v) > 1 for v in values.values()) else []
    return svg.Series(label, [(s, sum(values[s]) / len(values[s])) for s in steps], band)


def _thinned(s: svg.Series) -> svg.Series:
    """At most MOST_POINTS points, each the mean of its neighbours."""
    size = -(-len(s.points) // MOST_POINTS)
    if size < 2:
        return s
    return svg.Series(s.label, _blocks(s.points, size), _blocks(s.band, size))


def _blocks(points: Sequence[svg.Point], size: int) -> list[svg.Point]:
    cut = [points[n:n + size] for n in range(0, len(points), size)]
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in cut]


def _spread(points: Sequence[svg.Point]) -> list[svg.Point]:
    """At most TABLE_ROWS of the points, first and last included."""
    if len(points) <= TABLE_ROWS:
        return list(points)
    return [points[round(n * (len(points) - 1) / (TABLE_ROWS - 1))] for n in range(TABLE_ROWS)]


def _near(s: svg.Series, x: float) -> str:
    return f"{min(s.points, key=lambda p: abs(p[0] - x))[1]:.4g}"


def _figure(title: str, caption: str, plot: Markup, head: Sequence[str], rows: Sequence[Sequence[Any]]
            ) -> dict[str, Any]:
    return {"title": title, "caption": caption, "svg": plot, "head": head, "rows": rows}


def _present(*figures: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [f for f in figures if f]


def _retention(report: Mapping[str, Any]) -> dict[str, Any]:
    """The table of stages: a row for each stage's data, a column for each stage."""
    rows = report.get("retention", [])
    columns = list(rows[0]["loss"]) if rows else []
    return {"head": ["Data", *columns],
            "rows": [[r["data"], *(show(r["loss"][c], "nats") for c in columns)] for r in rows]}


def _how(how: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Section -> (name, value) lines; nested dicts are flattened with dots."""
    return {section: _lines(values if isinstance(values, Mapping) else {"": values})
            for section, values in how.items()}


def _lines(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            out += _lines(value, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", _text(value)))
    return out


_TEXT: dict[type, Callable[[Any], str]] = {
    bool: lambda x: "yes" if x else "no", float: lambda x: f"{x:,.4g}" if abs(x) < 1e4 else f"{x:,.0f}",
    int: str, type(None): lambda _: "–", list: lambda x: ", ".join(map(_text, x)),
    tuple: lambda x: ", ".join(map(_text, x))}


def _text(value: Any) -> str:
    return _TEXT.get(type(value), str)(value)
