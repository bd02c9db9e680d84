"""Pages of training runs with live curves, of models and what they were made from, and of reports.

    /runs, /runs/ID, /api/runs/ID      the newest runs; one with its curves, settings, cost; the same for programs
    /adapters, /adapters/NAME@VERSION  all models and their lineage as a graph; one with its ancestors and descendants
    /reports, /reports/NAME            what `tunesmith evaluate` wrote, in a sandbox

A run that is under way draws itself again every two seconds (`static/refresh.js`); the curves are drawn on the server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from tunesmith.errors import NotFound, nearest
from tunesmith.evaluate import svg
from tunesmith.service import charts
from tunesmith.service.access import Viewer
from tunesmith.service.pages import moment, render
from tunesmith.service.security import REPORT_POLICY
from tunesmith.service.tails import Tails, last_line

if TYPE_CHECKING:
    from tunesmith.store.runs import Run
    from tunesmith.store.workspace import Adapter, Workspace

METRICS = "metrics.jsonl"
RUNS_SHOWN = 50
NODES_SHOWN = 60
MOST_POINTS = 300
MOST_CURVES = 40
LINES_FOR_PROGRAMS = 5000
TOGETHER: dict[str, dict[str, str]] = {
    "loss": {"loss": "training", "held_out_loss": "held out"},
    "accuracy": {"accuracy": "training", "held_out_accuracy": "held out"},
    "gold": {"gold": "mean", "gold_low": "95% from", "gold_high": "to"},
}
"""Metrics that share a plot: its name -> metric -> its name there."""
FIRST = ("loss", "accuracy", "reward", "gold", "score", "kl", "margin", "entropy", "answer_tokens")
"""The plots that come first; the others follow by name."""


def router(workspace: Workspace) -> APIRouter:
    """The pages."""
    routes = APIRouter(default_response_class=HTMLResponse)
    _runs(routes, workspace)
    _models(routes, workspace)
    _reports(routes, workspace)
    return routes


# ---- runs

def _runs(routes: APIRouter, workspace: Workspace) -> None:
    tails = Tails()

    @routes.get("/runs")
    def runs(who: Viewer) -> str:
        newest = workspace.runs()[:-RUNS_SHOWN - 1:-1]
        states = [status(run) for run in newest]
        return render("runs.html", who=who, pending="running" in states,
                      runs=[(run, state, last_line(run.folder / METRICS)) for run, state in zip(newest, states)])

    @routes.get("/runs/{id}")
    def one(id: str, who: Viewer) -> str:
        run = workspace.run(id)
        found, events, now = tails.curves(run.folder / METRICS), run.events(), status(run)
        made = [a for a in workspace.adapters() if a.lineage.get("run") == run.id]
        cost = next((a.lineage["cost"] for a in made if a.lineage.get("cost")), None)
        return render("run.html", who=who, run=run, status=now, alarms=alarms(events),
                      pending=now == "running", curves=plots(found.series), last=found.last,
                      took=_took(run, now, events), made=made,
                      cost=_flat(cost or (run.usage() or [{}])[-1]), settings=_flat(run.settings),
                      inputs=_flat(run.inputs), summary=_flat(run.summary), events=_events(events))

    @routes.get("/api/runs/{id}", response_class=JSONResponse)
    def numbers(id: str, who: Viewer, after: Annotated[int, Query(ge=-1)] = -1) -> dict[str, Any]:
        """The metrics of the steps behind `after`, at most the newest 5,000."""
        run = workspace.run(id)
        metrics = [line for line in run.metrics() if line["step"] > after]
        return {"id": run.id, "command": run.command, "status": status(run), "created": run.created,
                "summary": run.summary, "metrics": metrics[-LINES_FOR_PROGRAMS:]}


def status(run: Run) -> str:
    """A run's state for people: "lost" if it is marked running and no process executes it."""
    return "lost" if run.status == "running" and not run.alive else run.status


def alarms(events: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """What the run's monitors rang for: after which step, and why; once each, also where a step was made again."""
    return sorted({(int(e["step"]), str(e["text"])) for e in events if e.get("event") == "alarm"})


def plots(series: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> list[dict[str, Any]]:
    """A plot for each metric (name -> its steps and values) that has two numbers or more: its name, the last figure and
    the picture."""
    found: dict[str, list[svg.Series]] = {}
    for key in sorted(series, key=lambda key: (key.startswith("held_out"), key)):
        name = next((plot for plot, keys in TOGETHER.items() if key in keys), key)
        label = TOGETHER.get(name, {}).get(key, key)
        found.setdefault(name, []).append(svg.Series(label, _thinned(*series[key])))
    order = sorted(found, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    return [_plot(name, found[name]) for name in order if any(len(s.points) > 1 for s in found[name])][:MOST_CURVES]


def _plot(name: str, series: Sequence[svg.Series]) -> dict[str, Any]:
    title = name.replace("_", " ")
    last = ", ".join(f"{s.points[-1][1]:.4g}" + (f" {s.label}" if len(series) > 1 else "") for s in series)
    said = "; ".join(f"{s.label}: from {s.points[0][1]:.4g} at step {s.points[0][0]:.0f} to {s.points[-1][1]:.4g} at "
                     f"step {s.points[-1][0]:.0f}" for s in series)
    return {"title": title, "last": last,
            "svg": svg.lines(series, title=title, description=said, x_label="step", y_label="")}


def _thinned(steps: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """At most about `MOST_POINTS` points, evenly spread, the last one among them."""
    stride = max(1, -(-len(steps) // MOST_POINTS))
    first = (len(steps) - 1) % stride
    return list(zip(steps[first::stride], values[first::stride]))


def _took(run: Run, now: str, events: Sequence[Mapping[str, Any]]) -> str:
    """From its start to its last event, or to now while it runs; resumed runs count their pauses too."""
    begin = moment(run.created)
    ended = [at for event in events[-1:] if (at := moment(event.get("time")))]
    end = datetime.now(UTC) if now == "running" or not ended else ended[-1]
    if begin is None:
        return ""
    seconds = max(0, round((end - begin).total_seconds()))
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def _events(events: Sequence[Mapping[str, Any]]) -> list[tuple[Any, str, str]]:
    """The newest events first: when, what, and what it says."""
    return [(e.get("time"), str(e.get("event", "")),
             ", ".join(f"{k}: {_said(v)}" for k, v in e.items() if k not in ("time", "event")))
            for e in events[:-31:-1]]


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines: `adapter.rank`, "8"."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{key}.")
        else:
            found.append((f"{before}{key}", _said(value)))
    return found


def _said(value: Any) -> str:
    if isinstance(value, str):
        return value if len(value) <= 300 else f"{value[:299]}…"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:299]}…"


# ---- models

def _models(routes: APIRouter, workspace: Workspace) -> None:
    @routes.get("/adapters")
    def adapters(who: Viewer) -> str:
        known = workspace.adapters()
        shown = known[-NODES_SHOWN:]
        return render("adapters.html", who=who, adapters=known[::-1], drawn=len(shown),
                      graph=charts.graph(nodes(shown), "Which model was made from which") if known else "")

    @routes.get("/adapters/{name}")
    def one(name: str, who: Viewer) -> str:
        known = workspace.adapters()
        stem, _, version = name.partition("@")
        found = [a for a in known if a.name == stem and (not version or str(a.version) == version)]
        if not found:
            raise NotFound(f'no adapter "{name}"{nearest(name, [str(a) for a in known] + [a.name for a in known])}')
        adapter = found[-1]
        about = {k: v for k, v in adapter.lineage.items() if k not in ("run", "parents", "settings", "cost", "data")}
        return render("adapter.html", who=who, adapter=adapter, parents=adapter.lineage.get("parents", {}),
                      graph=charts.graph(nodes(_kin(known, adapter)), f"What {adapter} was made from, and what from it",
                                         str(adapter)),
                      run=adapter.lineage.get("run", ""), about=_flat(about), files=_size(adapter.path),
                      **{key: _flat(adapter.lineage.get(key) or {}) for key in ("data", "settings", "cost")})


def nodes(adapters: Sequence[Adapter]) -> list[charts.Node]:
    """The bases and models of a graph. What a model was made from and is not among them is left out."""
    names = {str(a) for a in adapters}
    bases = dict.fromkeys(str(a.base.get("from", a.base["spec"])) for a in adapters if not _parents(a))
    found = [charts.Node(f"base {spec}", spec.rstrip("/").rpartition("/")[2] or spec, "base", "base")
             for spec in bases if spec not in names]
    for a in adapters:
        parents = _parents(a) or (str(a.base.get("from", a.base["spec"])),)
        made_from = tuple(p if p in names else f"base {p}" for p in parents)
        command = str(a.lineage.get("run", "")).partition("-")[0]
        found.append(charts.Node(str(a), str(a), f"{a.role}{', ' + command if command else ''}", a.role,
                                 f"/adapters/{quote(str(a))}", made_from))
    return found


def _parents(adapter: Adapter) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(p) for p in adapter.lineage.get("parents", {}).values()))


def _kin(known: Sequence[Adapter], adapter: Adapter) -> list[Adapter]:
    """What a model was made from, and what was made from it, oldest first."""
    by_name, kin = {str(a): a for a in known}, {str(adapter)}
    todo = [adapter]
    while todo:
        for parent in _parents(todo.pop()):
            if parent in by_name and parent not in kin:
                kin.add(parent)
                todo.append(by_name[parent])
    below = {str(adapter)}
    for a in known:  # oldest first: what it was made from came before it
        if below & set(_parents(a)):
            below.add(str(a))
    return [a for a in known if str(a) in kin | below]


def _size(folder: Path) -> str:
    total = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else 0
    return f"{total / 2**20:.1f} MB" if total >= 2**19 else f"{total / 1024:.1f} kB"


# ---- reports

def _reports(routes: APIRouter, workspace: Workspace) -> None:
    @routes.get("/reports")
    def listed(who: Viewer) -> str:
        found = [(name, (workspace.root / "reports" / name / "report.html").stat().st_mtime)
                 for name in reports(workspace.root)]
        return render("reports.html", who=who, reports=sorted(found, key=lambda one: -one[1]))

    @routes.get("/reports/{name}")
    def report(name: str, who: Viewer) -> FileResponse:
        known = reports(workspace.root)
        if name not in known:
            raise NotFound(f'no report "{name}"{nearest(name, known)}')
        return FileResponse(workspace.root / "reports" / name / "report.html",
                            headers={"content-security-policy": REPORT_POLICY})


def reports(root: Path) -> list[str]:
    """Reports by name: plain folders directly under reports/, no links out of it."""
    folder = root / "reports"
    found = [f for f in folder.glob("*/report.html") if re.fullmatch(r"[\w][\w.@-]*", f.parent.name)]
    return sorted(f.parent.name for f in found if f.resolve() == folder.resolve() / f.parent.name / f.name)
