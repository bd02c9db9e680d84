"""The studio's pages, and the one thing they send: a ranking.

What to show next is the store's business (`next_group`), what a ranking means is `feedback`'s; here it is only shown,
checked for shape and handed on. Left out: undo, review.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import NotFound, UserError, nearest
from tunesmith.records import AnswerGroup, Ranking, fingerprint
from tunesmith.service.access import Labeler, SignedIn, Viewer
from tunesmith.service.pages import render
from tunesmith.service.refusals import Refusal
from tunesmith.service.security import REPORT_POLICY

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

NAMES = "ABCDEFGHI"
SKIP_REASONS = ("I cannot judge this", "The conversation is unclear", "An answer is broken or cut off",
                "I do not want to read this", "Another reason")
RUNS_SHOWN = 50

Index = Annotated[int, Field(ge=0, le=8)]


class Submission(BaseModel):
    """The body of POST /api/rankings."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: str = Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")
    group: str = Field(min_length=1, max_length=64)
    tiers: list[Annotated[list[Index], Field(min_length=1)]] = Field(default=[], max_length=9)
    shown: list[Index] = Field(min_length=1, max_length=9)
    all_bad: bool = False
    skipped: str = Field("", max_length=200)
    seconds: float = Field(0.0, ge=0, le=7 * 86400)

    def ranking(self, labeler: str) -> Ranking:
        """The record to store.

        Raises:
            Refusal: `shown` or `tiers` do not name every answer exactly once.
        """
        ranked = [i for tier in self.tiers for i in tier]
        if sorted(self.shown) != list(range(len(self.shown))):
            raise _invalid("shown", "it must name every answer once, by its index from 0")
        if self.skipped and ranked:
            raise _invalid("tiers", "a skipped group has no tiers")
        if not self.skipped and sorted(ranked) != sorted(self.shown):
            raise _invalid("tiers", f"they must hold each of the {len(self.shown)} answers once, got {self.tiers}")
        return Ranking(self.id, self.group, labeler, tuple(map(tuple, self.tiers)), tuple(self.shown), self.all_bad,
                       self.skipped, seconds=self.seconds)


def router(workspace: Workspace) -> APIRouter:
    """The pages and POST /api/rankings; every ranking is stored under the name of who is signed in."""
    routes = APIRouter(default_response_class=HTMLResponse)

    @routes.get("/")
    def home(who: SignedIn) -> str:
        return render("home.html", who=who, sets=workspace.group_sets(), reports=_reports(workspace.root),
                      labeler=who.name)

    @routes.get("/rank/{name}")
    def rank(name: str, who: Labeler) -> str:
        labeler = who.name
        progress = _progress(workspace, name, labeler)
        group = workspace.next_group(name, labeler)
        if group is None:
            return render("done.html", who=who, name=name, labeler=labeler, progress=progress,
                          model=_only_model(workspace.groups(name)))
        if not 2 <= len(group.answers) <= len(NAMES):
            raise UserError(f"A group of {name} has {len(group.answers)} answers; the studio ranks 2 to {len(NAMES)}.")
        shown = shuffled(group, labeler)
        cards = [(NAMES[place], index, group.answers[index].text) for place, index in enumerate(shown)]
        return render("rank.html", who=who, name=name, labeler=labeler, progress=progress, group=group,
                      cards=cards, reasons=SKIP_REASONS)

    @routes.post("/api/rankings", status_code=201, response_class=JSONResponse)
    def store(body: Submission, response: Response, who: Labeler) -> dict[str, Any]:
        """201 once the ranking is on disk, 200 when that id already was."""
        new = workspace.add_ranking(body.ranking(who.name))
        response.status_code = 201 if new else 200
        return {"id": body.id, "stored": True, "new": new}

    @routes.get("/runs")
    def runs(who: Viewer) -> str:
        newest = workspace.runs()[:-RUNS_SHOWN - 1:-1]
        return render("runs.html", who=who, runs=[(run, (run.metrics() or [{}])[-1]) for run in newest])

    @routes.get("/adapters")
    def adapters(who: Viewer) -> str:
        return render("adapters.html", who=who, adapters=workspace.adapters()[::-1])

    @routes.get("/reports/{name}")
    def report(name: str, who: Viewer) -> FileResponse:
        known = _reports(workspace.root)
        if name not in known:
            raise NotFound(f'no report "{name}"{nearest(name, known)}')
        return FileResponse(workspace.root / "reports" / name / "report.html",
                            headers={"content-security-policy": REPORT_POLICY})

    return routes


def shuffled(group: AnswerGroup, labeler: str) -> list[int]:
    """The order on the page: random over groups and labelers, the same again when a page is reloaded."""
    order = list(range(len(group.answers)))
    random.Random(fingerprint([group.id, labeler])).shuffle(order)
    return order


def _progress(workspace: Workspace, name: str, labeler: str) -> dict[str, int]:
    """How many groups there are, how many anyone judged and how many `labeler` did."""
    sets = {s["name"]: s for s in workspace.group_sets()}
    if name not in sets:
        raise NotFound(f'no set of answers "{name}"{nearest(name, sets)}')
    mine = {r.group for r in workspace.rankings(name) if r.labeler == labeler}
    return {"count": sets[name]["count"], "ranked": sets[name]["ranked"], "mine": len(mine)}


def _reports(root: Path) -> list[str]:
    """Reports by name: plain folders directly under reports/, no links out of it."""
    folder = root / "reports"
    found = [f for f in folder.glob("*/report.html") if re.fullmatch(r"[\w][\w.@-]*", f.parent.name)]
    return sorted(f.parent.name for f in found if f.resolve() == folder.resolve() / f.parent.name / f.name)


def _only_model(groups: list[AnswerGroup]) -> str:
    """The model that wrote every answer, "" if there are several or it is not known."""
    models = {a.model for g in groups for a in g.answers}
    return models.pop() if len(models) == 1 else ""


def _invalid(param: str, why: str) -> Refusal:
    return Refusal(f"Invalid '{param}': {why}.", param=param, code="invalid_value")
