"""Pages of rounds: what each loop serves, how far the round under way is, all rounds compared, and the buttons.

    /rounds                                     all loops
    /rounds/LOOP/adopt, /refuse, /rollback      a manager decides; the next step of a round is made where it runs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from tunesmith.errors import NotFound, UserError
from tunesmith.evaluate import svg
from tunesmith.service.access import Form, Manager, Viewer
from tunesmith.service.pages import render
from tunesmith.service.words import sentence
from tunesmith.store import loops
from tunesmith.store.loops import Round

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

STEPS = {"collect": "The model answers", "rank": "People rank", "mine": "Reactions of users are read",
         "check": "The data are checked", "reward": "A reward model learns", "ppo": "The model learns from it (PPO)",
         "evaluate": "Candidate against champion", "adopt": "Adoption"}
SHOWN = 12
"""Figures that are compared over rounds."""
LAST = 26
"""Rounds of a loop on the page: half a year of weeks."""


def router(workspace: Workspace) -> APIRouter:
    """The pages."""
    routes = APIRouter(default_response_class=HTMLResponse)

    def page(who: Viewer, status: int = 200, problem: str = "") -> HTMLResponse:
        every = sorted(loops.rounds(workspace), key=lambda r: (r.loop, r.number))
        found = [about(workspace, name, list(own)[-LAST:]) for name, own in groupby(every, key=lambda r: r.loop)]
        return HTMLResponse(render("rounds.html", who=who, loops=found, steps=STEPS, problem=problem,
                                   pending=any(r.status == "running" for r in every)), status)

    @routes.get("/rounds")
    def rounds(who: Viewer) -> HTMLResponse:
        return page(who)

    @routes.post("/rounds/{loop}/{decision}")
    def decide(loop: str, decision: str, who: Manager, form: Form) -> Response:
        try:
            if decision in ("adopt", "refuse"):
                found = loops.under_way(workspace, loop)
                _seen(form, str(found))
                if decision == "adopt":
                    loops.adopt(workspace, found, who.name)
                else:
                    loops.refuse(workspace, found, form.get("why", ""), who.name)
            elif decision == "rollback":
                _seen(form, loops.champion(workspace, loop).adapter)
                loops.roll_back(workspace, loop, who.name)
            else:
                raise NotFound(f'no decision "{decision[:20]}": adopt, refuse or rollback')
        except NotFound:
            raise
        except UserError as error:
            return page(who, 409, sentence(error))
        return RedirectResponse(f"/rounds#{quote(loop)}", 303)

    return routes


def _seen(form: Mapping[str, str], now: str) -> None:
    """
    Raises:
        UserError: the page on which somebody decided showed another round or model.
    """
    if form.get("seen", now) != now:
        raise UserError(f"this page showed {form['seen']}, and now it is {now}: look at it first")


def about(workspace: Workspace, name: str, rounds: Sequence[Round]) -> dict[str, Any]:
    """What the page says of a loop."""
    adoptions = loops.adoptions(workspace, name)
    return {"name": name, "serves": adoptions[-1], "adoptions": adoptions, "rounds": rounds[::-1], "last": rounds[-1],
            "rates": {r.number: rate for r in rounds if (rate := preference(r))}, "charts": charts(rounds)}


def preference(round: Round) -> Mapping[str, Any] | None:
    """How often the round's candidate was preferred to the model that was served; None before that was measured."""
    evaluated = round.steps.get("evaluate", {})
    rate: Mapping[str, Any] | None = evaluated.get("figures", {}).get("preference", {}).get(evaluated.get("champion"))
    return rate


def charts(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Each figure of the candidates over the rounds, with intervals; the preference first."""
    found: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for r in rounds:
        rate = preference(r)
        figures = {**({"preferred to the model before": rate} if rate else {}),
                   **r.steps.get("evaluate", {}).get("figures", {}).get("own", {})}
        for key, figure in figures.items():
            if figure.get("value") is not None:
                found.setdefault(key, []).append((r.number, figure))
    return [_chart(key, points) for key, points in list(found.items())[:SHOWN] if len(points) > 1]


def _chart(key: str, points: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    title = key.replace("_", " ")
    said = "; ".join(f"round {n}: {_shown(f)}" for n, f in points)
    band = [(f["value"] if f["low"] is None else f["low"], f["value"] if f["high"] is None else f["high"])
            for _, f in points]
    series = svg.Series(title, [(float(n), float(f["value"])) for n, f in points], band)
    return {"title": title, "last": _shown(points[-1][1]), "svg": svg.scatter(
        [series], title=title, description=said, x_label="round", y_label="", joined=True)}


def _shown(figure: Mapping[str, Any]) -> str:
    ends = "" if figure["low"] is None else f" [{figure['low']:.3g}, {figure['high']:.3g}]"
    return f"{figure['value']:.3g}{ends}"
