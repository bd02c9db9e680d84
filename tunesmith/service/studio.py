"""Pages of runs, models and reports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse

from tunesmith.errors import NotFound, nearest
from tunesmith.service.access import Viewer
from tunesmith.service.pages import render
from tunesmith.service.security import REPORT_POLICY

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

RUNS_SHOWN = 50


def router(workspace: Workspace) -> APIRouter:
    """The pages."""
    routes = APIRouter(default_response_class=HTMLResponse)

    @routes.get("/runs")
    def runs(who: Viewer) -> str:
        newest = workspace.runs()[:-RUNS_SHOWN - 1:-1]
        return render("runs.html", who=who, runs=[(run, (run.metrics() or [{}])[-1]) for run in newest])

    @routes.get("/adapters")
    def adapters(who: Viewer) -> str:
        return render("adapters.html", who=who, adapters=workspace.adapters()[::-1])

    @routes.get("/reports/{name}")
    def report(name: str, who: Viewer) -> FileResponse:
        known = reports(workspace.root)
        if name not in known:
            raise NotFound(f'no report "{name}"{nearest(name, known)}')
        return FileResponse(workspace.root / "reports" / name / "report.html",
                            headers={"content-security-policy": REPORT_POLICY})

    return routes


def reports(root: Path) -> list[str]:
    """Reports by name: plain folders directly under reports/, no links out of it."""
    folder = root / "reports"
    found = [f for f in folder.glob("*/report.html") if re.fullmatch(r"[\w][\w.@-]*", f.parent.name)]
    return sorted(f.parent.name for f in found if f.resolve() == folder.resolve() / f.parent.name / f.name)
