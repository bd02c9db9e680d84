"""The manager's pages: how each set goes, its labelers, what is contested, its settings, guidelines and test questions.

    /manage                     all sets
    /manage/NAME                one set: queue, verdicts per day, agreement
    /manage/NAME/labelers       what each labeler's judgements are worth; quarantine and what dropping them changes
    /manage/NAME/contested      groups without a certain consensus; send them to a reviewer
    /manage/NAME/settings, /guidelines, /gold
    /audit                      who did what

Figures are read by whoever may see figures; what changes something, and the test questions, are for managers, the audit
log is for admins. Everything works without JavaScript. What takes long is computed beside the pages (`figures`).
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from math import ceil, exp, isfinite
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import ValidationError

from tunesmith.errors import NotFound, StorageError, UserError, nearest
from tunesmith.records import AnswerGroup, Tiers
from tunesmith.service import charts
from tunesmith.service.access import Admin, Form, Manager, Number, Person, Viewer
from tunesmith.service.figures import MOMENT, Board, Change, Contested, Counts, Figures
from tunesmith.service.markdown import plain
from tunesmith.service.markdown import render as markdown
from tunesmith.service.pages import render
from tunesmith.service.words import NAMES, in_letters, sentence, short, upper
from tunesmith.store import health, sets, team, work
from tunesmith.store import project as projects
from tunesmith.store.audit import audit, entries, verify_audit
from tunesmith.store.project import Project

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

RATE_DAYS = 7
GROUPS_SHOWN = 20
GOLD_SHOWN = 200
ENTRIES_SHOWN = 50
TONES = {"fine": "finished", "talk": "stopped", "quarantine": "failed"}
ADVICE = {"fine": "fine", "talk": "have a talk", "quarantine": "quarantine?"}


def router(workspace: Workspace, board: Board) -> APIRouter:
    """The pages."""
    routes = APIRouter(default_response_class=HTMLResponse)
    _overview(routes, workspace, board)
    _labelers(routes, workspace, board)
    _contested(routes, workspace, board)
    _settings(routes, workspace)
    _guidelines(routes, workspace)
    _gold(routes, workspace)
    _audit(routes, workspace)
    return routes


# ---- how it goes

def _overview(routes: APIRouter, workspace: Workspace, board: Board) -> None:
    @routes.get("/manage")
    def overview(who: Viewer) -> str:
        names = sets.set_names(workspace)
        for name in names:  # all at once, so that the page waits once
            board.counts(name, 0)
        until = time.monotonic() + MOMENT
        shown = [_state(workspace, board, name, max(0.0, until - time.monotonic())) for name in names]
        held = [q for q in team.quarantines(workspace) if not q.lifted_at]
        return render("manage.html", who=who, sets=shown, quarantines=held,
                      pending=any(s["counts"].pending for s in shown))

    @routes.get("/manage/{name}")
    def one(name: str, who: Viewer) -> str:
        state, figures = _state(workspace, board, name), board.figures(name)
        return render("manage_set.html", who=who, name=name, tab="", **state, figures=figures,
                      pending=state["counts"].pending or figures.pending, chart=_chart(state["counts"].value),
                      people=_people(figures.value), settings=projects.project(workspace, name),
                      agreement=_agreement(figures.value))


def _state(workspace: Workspace, board: Board, name: str, patience: float = MOMENT) -> dict[str, Any]:
    """A set's queue and counts."""
    counts = board.counts(name, patience)
    return {"set": name, "progress": work.progress(workspace, name), "queue": health.queue(workspace, name),
            "counts": counts, "pace": _pace(counts.value), "open": projects.project(workspace, name).open,
            "coverage": list(counts.value.tally.by_verdicts.items()) if counts.value else []}


def _pace(counts: Counts | None) -> dict[str, Any] | None:
    """Verdicts that people made per day lately, and how many days are left at that pace (None: nobody worked)."""
    if counts is None:
        return None
    today = datetime.now().astimezone().date()
    people = {day: n for (day, simulated), n in counts.days.items() if not simulated}
    first = max(min(people, default=today), today - timedelta(RATE_DAYS - 1))
    lately = sum(n for day, n in people.items() if day >= first)
    rate = lately / ((today - first).days + 1)
    return {"rate": rate, "left": counts.tally.left, "days": ceil(counts.tally.left / rate) if rate else None}


def _chart(counts: Counts | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    people: dict[date, int] = {day: n for (day, simulated), n in counts.days.items() if not simulated}
    today = datetime.now().astimezone().date()
    return {"wide": charts.days(people, today, 28, 1000), "narrow": charts.days(people, today, 10, 330),
            "people": sum(people.values()),
            "simulated": sum(n for (_, simulated), n in counts.days.items() if simulated),
            "rows": sorted(people.items(), reverse=True)[:14]}


def _people(figures: Figures | None) -> dict[str, int]:
    found = {"fine": 0, "talk": 0, "quarantine": 0}
    for one in figures.labelers if figures else ():
        found[one.action] += 1
    return found


def _agreement(figures: Figures | None) -> list[tuple[str, str, str]]:
    """Name, figure and what it means."""
    if figures is None or not figures.agreement.items:
        return []
    a = figures.agreement
    rows = [("Two labelers agree on", a.percent, ".0%",
             "of the pairs of answers that both put in an order; InstructGPT’s labelers reached 73%"),
            ("Krippendorff’s α of the ranks", a.alpha_ranks, ".2f", "1 is full agreement, 0 is chance"),
            ("Kendall’s τ of two labelers", a.tau, ".2f", "1: the same order, 0: unrelated, −1: reversed"),
            ("Kendall’s W", a.w, ".2f", "of all who ranked every answer of a group"),
            ("Ties", a.ties, ".0%", "of all judged pairs")]
    return [(label, _figure(i, spec), note) for label, i, spec, note in rows if isfinite(i.value)]


def _figure(interval: Any, spec: str) -> str:
    if not isfinite(interval.value):
        return "–"
    ends = isfinite(interval.low) and isfinite(interval.high)
    return (format(interval, spec) if ends else format(interval.value, spec)).replace("-", "−")


# ---- labelers

def _labelers(routes: APIRouter, workspace: Workspace, board: Board) -> None:
    def page(name: str, who: Person, status: int = 200, problem: str = "", done: str = "") -> HTMLResponse:
        shown = board.figures(name)
        held = {q.labeler: q for q in team.quarantines(workspace) if not q.lifted_at}
        simulated = {one.name for one in workspace.labelers() if one.simulated}
        rows = [_row(t, shown.value.reference, held, simulated) for t in shown.value.labelers] if shown.value else []
        return HTMLResponse(render("labelers.html", who=who, name=name, tab="labelers", figures=shown, rows=rows,
                                   gold=any(t["gold"] for t in rows), repeats=any(t["myself"] for t in rows),
                                   elsewhere=[q for q in held.values() if q.labeler not in {r["name"] for r in rows}],
                                   problem=problem, done=done, pending=shown.pending), status)

    @routes.get("/manage/{name}/labelers")
    def labelers(name: str, who: Viewer, done: str = "") -> HTMLResponse:
        said = {"quarantine": "In quarantine: left out of training and of the consensus, until it is lifted.",
                "lift": "The quarantine is lifted; the judgements count again."}
        return page(name, who, done=said.get(done, ""))

    @routes.post("/manage/{name}/quarantine")
    def quarantine(name: str, who: Manager, form: Form) -> Response:
        projects.project(workspace, name)
        try:
            team.quarantine(workspace, form.get("labeler", ""), form.get("reason", ""), who.name)
        except NotFound:
            raise
        except UserError as error:
            return page(name, who, 400, problem=sentence(error))
        return RedirectResponse(f"/manage/{quote(name)}/labelers?done=quarantine", 303)

    @routes.post("/manage/{name}/lift")
    def lift(name: str, who: Manager, form: Form) -> Response:
        projects.project(workspace, name)
        team.lift(workspace, form.get("labeler", ""), form.get("reason", ""), who.name)
        return RedirectResponse(f"/manage/{quote(name)}/labelers?done=lift", 303)

    @routes.get("/manage/{name}/without")
    def without(name: str, who: Viewer, labeler: str) -> str:
        known = [one.name for one in workspace.labelers()]
        if labeler not in known:
            raise NotFound(f'no labeler "{labeler}"{nearest(labeler, known)}')
        figures = board.figures(name).value
        change = board.without(name, labeler)
        return render("without.html", who=who, name=name, tab="labelers", labeler=labeler, change=change,
                      said=_change(change.value, labeler), pending=change.pending,
                      command=_command(workspace, name, labeler),
                      about=next((t for t in figures.labelers if t.labeler == labeler), None) if figures else None)


def _row(trust: Any, reference: float, held: Mapping[str, team.Quarantine], simulated: set[str]) -> dict[str, Any]:
    """A labeler as the table shows them. Abilities are in units of the median labeler's."""
    scale = reference if reference > 0 else 1.0
    ability = _times(trust.ability, 1 / scale)
    first = _first_wins(trust.position)
    known = trust.others.n > 0 and isfinite(trust.others.value)
    return {"name": trust.labeler, "simulated": trust.labeler in simulated, "held": held.get(trust.labeler),
            "verdicts": trust.verdicts, "share": trust.share, "action": trust.action, "advice": ADVICE[trust.action],
            "tone": TONES[trust.action], "reasons": [upper(r) for r in trust.reasons],
            "ability": _figure(ability, ".2f"), "ability_svg": charts.whisker(ability, (-1.25, 2.25), 1.0),
            "first": _figure(first, ".0%"), "first_svg": charts.whisker(first, (0, 1), 0.5),
            "others": _figure(trust.others, ".0%") if known else "",
            "others_svg": charts.whisker(trust.others, (0, 1), 0.5) if known else "",
            "gold": f"{trust.gold.accuracy.value:.0%} of {trust.gold.accuracy.n}" if trust.gold else "",
            "gold_said": trust.gold.decision if trust.gold else "",
            "myself": _figure(trust.myself, ".0%") if trust.myself.n else "", "seconds": trust.seconds}


def _times(interval: Any, factor: float) -> Any:
    return type(interval)(interval.value * factor, interval.low * factor, interval.high * factor, interval.n)


def _first_wins(position: Any) -> Any:
    """How often this labeler would prefer the first shown of two equal answers, from log-odds."""
    def share(x: float) -> float:
        return 1 / (1 + exp(-max(-30.0, min(30.0, x))))

    return type(position)(share(position.value), share(position.low), share(position.high), position.n)


def _change(change: Change | None, labeler: str) -> list[str]:
    """What dropping a labeler changes, in sentences."""
    if change is None:
        return []
    if not change.verdicts:
        return [f"{labeler} has no verdicts here that would train anything."]
    said = [f"{change.verdicts} verdicts would be left out."]
    if change.groups:
        said.append(f"Another answer comes first in {change.first} of {change.groups} groups that others judged too "
                    f"({change.first / change.groups:.1%}), and {change.order:.1%} of the pairs of answers turn "
                    "around.")
    if change.lost:
        said.append(f"{change.lost} groups would have no verdict at all.")
    return said


def _command(workspace: Workspace, name: str, labeler: str) -> str:
    models = sorted({a.model for g in sets.some_groups(workspace, name, 0, 20) for a in g.answers if a.model})
    known = {str(a) for a in workspace.adapters()}
    model = models[0] if len(models) == 1 and models[0] in known else "MODEL"
    return shlex.join(["tunesmith", "reward", "--model", model, "--comparisons", name, "--without", labeler, "--name",
                       f"{name}-without"])


# ---- contested

def _contested(routes: APIRouter, workspace: Workspace, board: Board) -> None:
    @routes.get("/manage/{name}/contested")
    def contested(name: str, who: Viewer, sent: int = -1) -> str:
        shown = board.figures(name)
        found = shown.value.contested if shown.value else ()
        states = health.contested_states(workspace, name, [c.group.id for c in found])
        rows = [_contested_row(c, states.get(c.group.id, "")) for c in found]
        return render("contested.html", who=who, name=name, tab="contested", figures=shown, rows=rows, sent=sent,
                      waiting=health.queue(workspace, name).waiting, pending=shown.pending,
                      below=projects.project(workspace, name).contested_below,
                      unsent=sum(not r["state"] for r in rows))

    @routes.post("/manage/{name}/contested")
    def send(name: str, who: Manager, form: Form) -> Response:
        found = board.figures(name).value
        known = [c.group.id for c in found.contested] if found else []
        chosen = [form["group"]] if form.get("group") else known
        if form.get("group") and not health.in_set(workspace, name, form["group"]):
            raise NotFound(f'no answer group "{form["group"]}" in {name}')
        new = work.mark_contested(workspace, name, chosen)
        audit(workspace, who.name, "contested", name, {"groups": new, **({"group": form["group"]} if form.get("group")
                                                                         else {})})
        return RedirectResponse(f"/manage/{quote(name)}/contested?sent={new}", 303)


def _contested_row(one: Contested, state: str) -> dict[str, Any]:
    said: dict[str, list[str]] = {}
    for vote in one.votes:
        said.setdefault(in_letters(vote.tiers), []).append(vote.labeler)
    return {"id": one.group.id, "certainty": one.certainty, "question": _question(one.group), "state": state,
            "votes": sorted(said.items(), key=lambda item: -len(item[1])),
            "answers": [(NAMES[n], plain(short(a.text, 400))) for n, a in enumerate(one.group.answers[:len(NAMES)])]}


def _question(group: AnswerGroup) -> str:
    asked = [m.content for m in group.prompt.messages if m.role == "user"]
    return short(asked[-1] if asked else "", 220)


# ---- settings

NUMBERS: dict[str, tuple[str, str, float]] = {
    "overlap": ("Verdicts for each group", "how many people judge it: 1 to 100", 1),
    "lease_seconds": ("Minutes before a group is given to somebody else", "when nothing is heard from its page: 0.5 to "
                      "1440", 60),
    "gold_share": ("Test questions, %", "of a labeler’s work, if the set has any: 0 to 20", 0.01),
    "repeat_share": ("Second looks, %", "at what the labeler judged before, to see how steady they are: 0 to 20", 0.01),
    "contested_below": ("Contested below, %", "certainty of the consensus: 50 to 100", 0.01),
    "share_cap": ("Largest share of one labeler, %", "of the weight in training: 1 to 100", 0.01),
    "critique_share": ("Critiques shown, %", "of the groups that have one, drawn for each labeler; the others are the "
                       "control that shows whether critiques lead people: 0 to 100", 0.01),
}
"""Label, hint, and what one unit of the form is in the project's."""
SWITCHES = {"open": ("Open", "labelers may take more work"),
            "ratings": ("Ratings", "labelers may also rate each answer 1 to 7, and say how clearly the best one wins"),
            "blind": ("Blind", "the names of the models stay hidden from labelers")}
ORDERS = {"informative": "What teaches most first: where people disagree or the reward model is unsure",
          "random": "A fixed random order"}


def _settings(routes: APIRouter, workspace: Workspace) -> None:
    def page(name: str, who: Person, values: Mapping[str, str], switches: Mapping[str, bool], order: str,
             status: int = 200, problem: str = "", done: str = "") -> HTMLResponse:
        return HTMLResponse(render("manage_settings.html", who=who, name=name, tab="settings", numbers=NUMBERS,
                                   values=values, switches=SWITCHES, on=switches, orders=ORDERS, order=order,
                                   problem=problem, done=done, pending=False), status)

    @routes.get("/manage/{name}/settings")
    def settings(name: str, who: Manager, saved: bool = False) -> HTMLResponse:
        now = projects.project(workspace, name)
        return page(name, who, _typed(now), {k: getattr(now, k) for k in SWITCHES}, now.order,
                    done="Saved. It holds from the next group that anybody opens." if saved else "")

    @routes.post("/manage/{name}/settings")
    def save(name: str, who: Manager, form: Form) -> Response:
        before = projects.project(workspace, name)
        try:
            after = _read(before, form)
        except UserError as error:
            return page(name, who, {k: form.get(k, "") for k in NUMBERS}, {k: k in form for k in SWITCHES},
                        form.get("order", ""), 400, problem=str(error))
        projects.set_project(workspace, name, after, who.name)
        return RedirectResponse(f"/manage/{quote(name)}/settings?saved=1", 303)


def _typed(settings: Project) -> dict[str, str]:
    return {key: f"{round(getattr(settings, key) / unit, 6):g}" for key, (_, _, unit) in NUMBERS.items()}


def _read(before: Project, form: Mapping[str, str]) -> Project:
    """The project that a form asks for.

    Raises:
        UserError: naming the field.
    """
    found: dict[str, Any] = {key: key in form for key in SWITCHES} | {"order": form.get("order", before.order)}
    for key, (label, hint, unit) in NUMBERS.items():
        try:
            number = float(form.get(key, "").replace(",", "."))
            if not isfinite(number):
                raise ValueError
        except ValueError as error:
            raise UserError(f"“{label}” needs a number ({hint}).") from error
        value = number * unit
        found[key] = round(value) if key in ("overlap", "lease_seconds") else round(value, 6)
        if key == "overlap" and number != round(number):
            raise UserError(f"“{label}” needs a whole number ({hint}).")
    try:
        return Project.model_validate(found)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        label, hint, *_ = NUMBERS.get(key, (key, "one of the choices"))
        raise UserError(f"“{label}” does not take {form.get(key, '')!r} ({hint}).") from error


# ---- guidelines

def _guidelines(routes: APIRouter, workspace: Workspace) -> None:
    def page(name: str, who: Person, text: str, preview: str = "", status: int = 200, problem: str = "",
             done: str = "", version: int | None = None) -> HTMLResponse:
        versions = health.guideline_versions(workspace, name)
        return HTMLResponse(render(
            "manage_guidelines.html", who=who, name=name, tab="guidelines", text=text, versions=versions,
            preview=markdown(preview) if preview.strip() else "", chosen=version, longest=projects.LONGEST,
            problem=problem, done=done, pending=False), status)

    @routes.get("/manage/{name}/guidelines")
    def guidelines(name: str, who: Manager, version: Number | None = None,
                   saved: Number = 0) -> HTMLResponse:
        found = projects.guidelines(workspace, name, version)
        if version and found is None:
            raise NotFound(f"the guidelines of {name} have no version {version}")
        return page(name, who, found[1] if found else "", found[1] if version and found else "", version=version,
                    done=f"Version {saved} is out: everybody reads it before their next group." if saved else "")

    @routes.post("/manage/{name}/guidelines")
    def publish(name: str, who: Manager, form: Form) -> Response:
        text = form.get("text", "").replace("\r\n", "\n")
        if form.get("do") != "publish":
            return page(name, who, text, text, problem="" if text.strip() else "There is nothing to preview yet.")
        newest = projects.guidelines(workspace, name)
        if newest and newest[1] == text:
            return page(name, who, text, problem=f"This is version {newest[0]} already; nothing was changed.")
        try:
            version = projects.add_guidelines(workspace, name, text, who.name)
        except NotFound:
            raise
        except UserError as error:
            return page(name, who, text, status=400, problem=sentence(error))
        return RedirectResponse(f"/manage/{quote(name)}/guidelines?saved={version}", 303)


# ---- test questions

def _gold(routes: APIRouter, workspace: Workspace) -> None:
    @routes.get("/manage/{name}/gold")
    def gold(name: str, who: Manager, start: Number = 0, find: str = "") -> Response:
        if find.strip():
            return RedirectResponse(f"/manage/{quote(name)}/gold/{quote(find.strip(), safe='')}", 303)
        known = projects.gold(workspace, name)
        chosen = [(workspace.group(id), in_letters(tiers)) for id, tiers in list(known.items())[:GOLD_SHOWN]]
        groups = sets.some_groups(workspace, name, start, GROUPS_SHOWN + 1)
        return HTMLResponse(render(
            "gold.html", who=who, name=name, tab="gold", count=len(known), pending=False,
            gold=[(g.id, _question(g), order) for g, order in chosen],
            groups=[(g.id, _question(g), len(g.answers)) for g in groups[:GROUPS_SHOWN] if g.id not in known],
            start=start, more=start + GROUPS_SHOWN if len(groups) > GROUPS_SHOWN else 0, step=GROUPS_SHOWN))

    @routes.get("/manage/{name}/gold/{group}")
    def edit(name: str, group: str, who: Manager) -> HTMLResponse:
        return _question_page(workspace, name, group, who)

    @routes.post("/manage/{name}/gold/{group}")
    def save(name: str, group: str, who: Manager, form: Form) -> Response:
        found = _member(workspace, name, group)
        if form.get("do") == "remove":
            projects.set_gold(workspace, name, group, None, who.name)
            return RedirectResponse(f"/manage/{quote(name)}/gold", 303)
        places = [form.get(f"place_{n}", "") for n in range(len(found.answers))]
        try:
            tiers = _tiers(places)
            projects.set_gold(workspace, name, group, tiers, who.name)
        except NotFound:
            raise
        except UserError as error:
            return _question_page(workspace, name, group, who, places, 400, sentence(error))
        return RedirectResponse(f"/manage/{quote(name)}/gold", 303)


def _question_page(workspace: Workspace, name: str, group: str, who: Person, places: list[str] | None = None,
                   status: int = 200, problem: str = "") -> HTMLResponse:
    found, known = _member(workspace, name, group), projects.gold(workspace, name).get(group)
    if places is None:
        places = [next((str(n + 1) for n, tier in enumerate(known or ()) if i in tier), "")
                  for i in range(len(found.answers))]
    return HTMLResponse(render(
        "gold_edit.html", who=who, name=name, tab="gold", group=group, known=known is not None, problem=problem,
        turns=[(m.role, markdown(m.content)) for m in found.prompt.messages], places=places, pending=False,
        answers=[(NAMES[n], markdown(a.text)) for n, a in enumerate(found.answers[:len(NAMES)])]), status)


def _member(workspace: Workspace, name: str, group: str) -> AnswerGroup:
    if not health.in_set(workspace, name, group):
        raise NotFound(f'no answer group "{group}" in {name}')
    return workspace.group(group)


def _tiers(places: list[str]) -> Tiers:
    """Tiers from the places that a form gives each answer; the same place is a tie.

    Raises:
        UserError: an answer without a place.
    """
    if missing := [NAMES[n] for n, place in enumerate(places) if not place.isdecimal() or not 1 <= int(place) <= 9]:
        raise UserError(f"give every answer a place; there is none for {', '.join(missing)}")
    numbers = [int(place) for place in places]
    return tuple(tuple(i for i, n in enumerate(numbers) if n == place) for place in sorted(set(numbers)))


# ---- the log

def _audit(routes: APIRouter, workspace: Workspace) -> None:
    @routes.get("/audit")
    def log(who: Admin, before: Number = 0, check: bool = False) -> str:
        found = entries(workspace, ENTRIES_SHOWN + 1, before)
        good, bad = "", ""
        if check:
            try:
                count, head = verify_audit(workspace)
                good = f"The chain holds: {count} entries, up to {head[:16]}."
            except StorageError as error:
                bad = sentence(error)
        rows = [(e, ", ".join(f"{key}: {_said(value)}" for key, value in (e.detail or {}).items()))
                for e in found[:ENTRIES_SHOWN]]
        return render("audit.html", who=who, rows=rows, first=not before, good=good, bad=bad,
                      older=found[ENTRIES_SHOWN - 1].seq if len(found) > ENTRIES_SHOWN else 0)


def _said(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2:
        return f"{_said(value[0])} → {_said(value[1])}"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else "none" if value is None else str(value)
