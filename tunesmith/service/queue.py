"""Which groups of a set are asked first, and why: /sources/queue/NAME.

The order by the verdicts so far is computed beside the page (`figures`), and holds once a manager says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from tunesmith.service.access import Form, Manager, Person
from tunesmith.service.figures import Board, Ranked, Shown
from tunesmith.service.pages import render
from tunesmith.service.words import short
from tunesmith.store import sets
from tunesmith.store.project import project

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

SHOWN = 30
"""Groups at the head of a queue that its page shows."""


def router(workspace: Workspace, board: Board) -> APIRouter:
    """The page, and the button on it."""
    routes = APIRouter(default_response_class=HTMLResponse)

    def page(name: str, who: Person, order: Shown[Ranked], done: str = "") -> str:
        now = [(short(g.prompt.messages[-1].content), priority, "")
               for g, priority in sets.asked_first(workspace, name, SHOWN)]
        return render("sources_queue.html", who=who, name=name, now=now, order=order, pending=order.pending,
                      random=project(workspace, name).order == "random", done=done)

    @routes.get("/sources/queue/{name}")
    def queue(name: str, who: Manager) -> str:
        return page(name, who, board.ranked(name))

    @routes.post("/sources/queue/{name}")
    def order(name: str, who: Manager, form: Form) -> str:
        found = board.reorder(name, who.name)
        said = "The groups are being put in this order." if found.pending else \
            "From now on groups are asked in this order."
        return page(name, who, found, "" if found.problem else said)

    return routes
