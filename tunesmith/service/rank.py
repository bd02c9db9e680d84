"""The pages where people rank: sets, one group at a time, their own verdicts; and what these pages send.

Who gets which group and what a verdict may be is the store's business (`store.work`), what it means is `feedback`'s.
Names of models never reach these pages, unless a project says that it is not blind; test questions and second looks
look like everything else.

Left out: notes between labelers, remapping of keys (they can be switched off).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tunesmith.errors import Conflict, NotFound
from tunesmith.feedback.leaks import leaks
from tunesmith.records import AnswerGroup, Ranking
from tunesmith.service.access import LARGEST, Id, Labeler, Manager, Number, Person, SignedIn
from tunesmith.service.dashboards import reports
from tunesmith.service.markdown import plain
from tunesmith.service.markdown import render as markdown
from tunesmith.service.pages import render
from tunesmith.service.refusals import Refusal, describe
from tunesmith.service.words import NAMES
from tunesmith.store import critiques, mine, team, work
from tunesmith.store.critiques import SHOWN, Critique
from tunesmith.store.project import Project, acknowledge, acknowledged, guidelines, guidelines_of, project, unread
from tunesmith.store.sets import set_names, some_groups, unrankable

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

SKIP_REASONS = ("I cannot judge this", "The conversation is unclear", "An answer is broken or cut off",
                "I do not want to read this")
FLAGS = ("harmful", "false", "private data", "off topic", "insulting or biased", "sexual or violent", "broken")
MARGINS = ((1, "hardly"), (2, "slightly"), (3, "clearly"), (4, "far better"))
OTHER = "other: "
VERDICTS_SHOWN = 30
SCANNED = 2000
"""Groups that one look for leaked names reads."""

Index = Annotated[int, Field(ge=0, le=8)]
Flag = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Key = Annotated[str, Field(pattern=r"^[0-8]$")]


class Trace(BaseModel):
    """How a verdict came about, as the page saw it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    moves: int = Field(0, ge=0, le=100_000)
    away: int = Field(0, ge=0, le=100_000)
    first_seconds: float | None = Field(None, ge=0, le=7 * 86400)
    device: Literal["keyboard", "mouse", "touch", "pen"] | None = None
    unfolded: int = Field(0, ge=0, le=1000)
    side_by_side: int = Field(0, ge=0, le=1000)
    critique: Literal["shown", "hidden"] | None = None


class Submission(BaseModel):
    """The body of POST /api/rankings."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: str = Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")
    group: Id = Field(min_length=1, max_length=64)
    token: Id = Field("", max_length=64)
    revises: Id = Field("", max_length=128)
    tiers: list[Annotated[list[Index], Field(min_length=1)]] = Field(default=[], max_length=9)
    shown: list[Index] = Field(min_length=1, max_length=9)
    all_bad: bool = False
    skipped: str = Field("", max_length=200)
    ratings: list[Annotated[int, Field(ge=1, le=7)]] = Field(default=[], max_length=9)
    margin: int = Field(0, ge=0, le=4)
    flags: dict[Key, Annotated[list[Flag], Field(min_length=1, max_length=12)]] = Field(default={})
    rationale: str = Field("", max_length=4000)
    seconds: float = Field(0.0, ge=0, le=7 * 86400)
    guidelines: int = Field(0, ge=0, le=LARGEST)
    """Ignored: the server knows which version this labeler has read."""
    trace: Trace = Trace()

    def ranking(self, labeler: str) -> Ranking:
        """The record to store.

        Raises:
            Refusal: a field does not fit the others; names it.
        """
        count, ranked = len(self.shown), [i for tier in self.tiers for i in tier]
        if sorted(self.shown) != list(range(count)):
            raise _invalid("shown", "it must name every answer once, by its index from 0")
        if self.skipped and ranked:
            raise _invalid("tiers", "a skipped group has no tiers")
        if not self.skipped and (not ranked or len(set(ranked)) < len(ranked) or not set(ranked) <= set(self.shown)):
            raise _invalid("tiers", f"they must hold some or all of the {count} answers, each once, got {self.tiers}")
        if self.ratings and len(self.ratings) != count:
            raise _invalid("ratings", f"rate all {count} answers or none, got {len(self.ratings)}")
        if unknown := [i for i in self.flags if int(i) >= count]:
            raise _invalid("flags", f"there is no answer {unknown[0]}")
        if strange := [f for flags in self.flags.values() for f in flags if f not in FLAGS and not f.startswith(OTHER)]:
            raise _invalid("flags", f'"{strange[0]}" is none of {", ".join(FLAGS)}, nor begins with "{OTHER}"')
        return Ranking(self.id, self.group, labeler, tuple(map(tuple, self.tiers)), tuple(self.shown), self.all_bad,
                       self.skipped, self.flags, tuple(float(r) for r in self.ratings), self.seconds,
                       margin=self.margin, rationale=self.rationale, revises=self.revises, guidelines=self.guidelines,
                       trace=self.trace.model_dump(exclude_defaults=True))


class Read(BaseModel):
    """The body of POST /api/sets/{name}/guidelines: which version was read."""

    model_config = ConfigDict(strict=True, extra="forbid")

    version: int = Field(ge=1, le=LARGEST)


def router(workspace: Workspace) -> APIRouter:
    """The pages, and what they send."""
    routes = APIRouter(default_response_class=HTMLResponse)

    @routes.get("/")
    def home(who: SignedIn) -> str:
        sets = [(name, work.progress(workspace, name, who.name), project(workspace, name))
                for name in set_names(workspace)]
        return render("home.html", who=who, sets=sets, alone=_alone(workspace),
                      reports=reports(workspace.root) if who.may("viewer") else [])

    @routes.get("/rank/{name}")
    def rank(name: str, who: Labeler) -> str:
        settings, rules = project(workspace, name), guidelines(workspace, name)
        if rules and acknowledged(workspace, name, who.name) < rules[0]:
            return render("guidelines.html", who=who, name=name, number=rules[0], text=markdown(rules[1]),
                          seen=acknowledged(workspace, name, who.name))
        claim = work.claim(workspace, name, who.name, who.role)
        progress = work.progress(workspace, name, who.name)
        if claim is None:
            return render("done.html", who=who, name=name, progress=progress, settings=settings,
                          unrankable=unrankable(workspace, name),
                          alone=_alone(workspace), model=_only_model(workspace, name, who))
        last = work.last(workspace, name, who.name)
        return _task(who, name, claim.group, claim.shown, settings, rules, progress=progress, token=claim.token,
                     undo=last is not None, alone=_alone(workspace), review=claim.purpose == "review",
                     critique=_critique(workspace, claim.group, _arm(settings, claim.group, who)))

    @routes.get("/rank/{name}/undo")
    def undo(name: str, who: Labeler) -> RedirectResponse:
        last = work.last(workspace, name, who.name)
        if last is None:
            raise NotFound(f"you have judged nothing in {name} yet")
        return RedirectResponse(f"/mine/{quote(last.id)}?back=rank", 303)

    @routes.get("/mine")
    def own(who: Labeler, set: str = "", before: Number = 0) -> str:
        found = mine.verdicts(workspace, who.name, set, before, VERDICTS_SHOWN + 1)
        page = found[:VERDICTS_SHOWN]
        return render("mine.html", who=who, set=set, sets=set_names(workspace), first=not before,
                      verdicts=[(v, _words(v.ranking), [(_words(r), at) for r, at in v.earlier]) for v in page],
                      older=page[-1].seq if len(found) > len(page) else 0)

    @routes.get("/mine/{id:path}")
    def change(id: str, who: Labeler, back: str = "") -> str:
        found = mine.verdict(workspace, id, who.name)
        shown = found.ranking.shown or tuple(range(len(found.group.answers)))
        to = f"/rank/{found.set_name}" if back == "rank" and found.set_name else "/mine"
        rules = guidelines(workspace, found.set_name) if found.set_name else None
        settings = project(workspace, found.set_name) if found.set_name else Project()
        return _task(who, found.set_name, found.group, shown, settings, rules, revises=found, back=to,
                     critique=_critique(workspace, found.group, critiques.arm_of(found.ranking)))

    @routes.post("/api/rankings", status_code=201, response_class=JSONResponse)
    def store(body: Submission, response: Response, who: Labeler) -> Any:
        """201 once the verdict is on disk, 200 when that id already was, 409 when others were faster."""
        ranking = body.ranking(who.name)
        if not body.revises and not body.token:
            raise _invalid("token", "a verdict needs the token of its claim, or the id of the verdict it revises")
        read, needed = guidelines_of(workspace, body.group, who.name, body.token)
        if read < needed and not body.revises:
            raise _read_first(needed)
        if body.trace.critique and critiques.critique(workspace, body.group) is None:
            raise _invalid("trace.critique", "this group has no critique")
        ranking = replace(ranking, guidelines=read)
        try:
            new = work.submit(workspace, ranking, body.token).new
        except Conflict as error:
            return _conflict(error)
        response.status_code = 201 if new else 200
        return {"id": body.id, "stored": True, "new": new}

    @routes.post("/api/sets/{name}/claims", status_code=201, response_class=JSONResponse)
    def claim(name: str, who: Labeler) -> Any:
        """For programs: a group to judge, null when none is left."""
        if version := unread(workspace, name, who.name):
            raise _read_first(version)
        found = work.claim(workspace, name, who.name, who.role)
        if found is None:
            return {"claim": None}
        side, beside = _critique(workspace, found.group, _arm(project(workspace, name), found.group, who))
        return {"claim": {
            **({"critique": {"arm": side, "text": _lettered(beside, found.shown) if side == SHOWN else ""}}
               if beside else {}),
            "token": found.token, "group": found.group.id, "shown": found.shown, "until": found.until,
            "prompt": [{"role": m.role, "content": m.content} for m in found.group.prompt.messages],
            "answers": [a.text for a in found.group.answers]}}

    @routes.post("/api/claims/{token}/heartbeat", response_class=JSONResponse)
    def heartbeat(token: str, who: Labeler) -> dict[str, Any]:
        return {"until": work.heartbeat(workspace, token, who.name)}

    @routes.post("/api/claims/{token}/release", response_class=JSONResponse)
    def release(token: str, who: Labeler) -> dict[str, Any]:
        work.release(workspace, token, who.name)
        return {"released": True}

    @routes.get("/api/sets/{name}/guidelines", response_class=JSONResponse)
    def rules(name: str, who: Labeler) -> dict[str, Any]:
        """For programs: what the page shows before the first group; version 0 if there is nothing to read."""
        version, text = guidelines(workspace, name) or (0, "")
        return {"version": version, "text": text, "read": acknowledged(workspace, name, who.name)}

    @routes.post("/api/sets/{name}/guidelines", response_class=JSONResponse)
    def read(name: str, body: Read, who: Labeler) -> dict[str, Any]:
        """Who read which version of the guidelines."""
        acknowledge(workspace, name, body.version, who.name)
        return {"read": body.version}

    @routes.get("/sets/{name}/names")
    def telling(name: str, who: Manager, start: Number = 0) -> str:
        groups = some_groups(workspace, name, start, SCANNED + 1)
        found = leaks(groups[:SCANNED], {str(a) for a in workspace.adapters()})
        return render("names.html", who=who, name=name, found=found, start=start, count=len(groups[:SCANNED]),
                      more=start + SCANNED if len(groups) > SCANNED else 0)

    return routes


def _task(who: Person, name: str, group: AnswerGroup, shown: tuple[int, ...], settings: Project,
          rules: tuple[int, str] | None, *, revises: mine.Verdict | None = None, back: str = "", progress: Any = None,
          token: str = "", undo: bool = False, alone: bool = True, review: bool = False,
          critique: tuple[str, Critique | None] = ("", None)) -> str:
    """The ranking page: of a claim, or (`revises`) of one's own verdict."""
    if not 2 <= len(group.answers) <= len(NAMES):
        raise Refusal(f"A group of {name} has {len(group.answers)} answers; the studio ranks 2 to {len(NAMES)}.")
    cards = [_card(letter, index, group, not settings.blind) for letter, index in zip(NAMES, shown, strict=False)]
    about = {"group": group.id, "token": token, "lease": settings.lease_seconds, "labeler": who.name,
             "revises": revises.ranking.id if revises else "", "back": back or f"/rank/{name}",
             "guidelines": rules[0] if rules else 0, "verdict": _state(revises.ranking) if revises else "",
             "critique": critique[0]}
    beside = markdown(_lettered(critique[1], shown)) if critique[1] and critique[0] == SHOWN else ""
    turns = [(m.role, markdown(m.content)) for m in group.prompt.messages]
    return render("rank.html", who=who, name=name, about=about, turns=turns, cards=cards, progress=progress, undo=undo,
                  rules=(rules[0], markdown(rules[1])) if rules else None, settings=settings, revises=revises,
                  reasons=SKIP_REASONS, flags=FLAGS, margins=MARGINS, alone=alone, review=review, back=back,
                  critique=beside)


def _arm(settings: Project, group: AnswerGroup, who: Person) -> str:
    """Whether this labeler sees a critique of this group; "" where the project shows none to anybody."""
    return critiques.arm(group.id, who.name, settings.critique_share) if settings.critique_share else ""


def _critique(workspace: Workspace, group: AnswerGroup, arm: str) -> tuple[str, Critique | None]:
    """The arm and the critique, if the group has one."""
    found = critiques.critique(workspace, group.id) if arm else None
    return (arm, found) if found else ("", None)


def _lettered(critique: Critique, shown: tuple[int, ...]) -> str:
    """The critique in the letters of this page."""
    letter = {index: f"Answer {name}" for name, index in zip(NAMES, shown, strict=False)}
    best = f"\n[[{critique.choice}]] is held for the best." if critique.choice is not None else ""
    text = critique.text + best
    for index, name in letter.items():
        text = text.replace(f"[[{index}]]", name)
    return text.replace("\n", "\n\n")


def _card(letter: str, index: int, group: AnswerGroup, named: bool) -> dict[str, Any]:
    text = group.answers[index].text
    seen, raw = markdown(text), plain(text)
    return {"name": letter, "index": index, "text": seen, "raw": raw, "words": len(text.split()),
            "same": seen == f"<p>{raw}</p>\n", "empty": not text.strip(),
            "model": group.answers[index].model if named else ""}


def _state(ranking: Ranking) -> str:
    """A verdict as the page keeps it: all answers in tiers, the last of them the rest if some were left out."""
    order = ranking.shown or tuple(sorted(i for tier in ranking.tiers for i in tier))
    left = [i for i in order if not any(i in tier for tier in ranking.tiers)]
    tiers = [list(tier) for tier in ranking.tiers]
    if not tiers:
        tiers, left = [[i] for i in order], []
    return json.dumps({
        "tiers": [*tiers, left] if left else tiers, "rest": len(left) > 1, "touched": not ranking.skipped,
        "all_bad": ranking.all_bad, "flags": ranking.flags, "margin": ranking.margin, "rationale": ranking.rationale,
        "ratings": {str(i): rating for i, rating in enumerate(ranking.ratings)}})


def _words(ranking: Ranking) -> str:
    """A verdict in the letters of its page: "B > A = C > the rest"."""
    if ranking.skipped:
        return f"Skipped: {ranking.skipped}"
    letter = {index: NAMES[place] for place, index in enumerate(ranking.shown)}
    named = [" = ".join(letter.get(i, f"answer {i}") for i in tier) for tier in ranking.tiers]
    if len(ranking.shown) > sum(map(len, ranking.tiers)):
        named.append("the rest")
    return " > ".join(named) + (", all bad" if ranking.all_bad else "")


def _conflict(error: Conflict) -> JSONResponse:
    """409 with the labeler's own newest verdict, if that was in the way, so that the page can show both."""
    body: dict[str, Any] = {"error": describe(error)[1] | {"code": "conflict"}}
    if newest := error.stored:
        body["newest"] = {"id": newest.id, "tiers": newest.tiers, "skipped": newest.skipped, "all_bad": newest.all_bad}
    return JSONResponse(body, 409)


def _read_first(version: int) -> Refusal:
    return Refusal(f"Read version {version} of the guidelines first: open the page again, or for programs GET and POST "
                   "/api/sets/NAME/guidelines.", status=403, param="guidelines", code="guidelines")


def _alone(workspace: Workspace) -> bool:
    """Whether nobody else could judge: then there is no "everyone" to speak of."""
    return sum(a.active for a in team.accounts(workspace)) < 2


def _only_model(workspace: Workspace, name: str, who: Person) -> str:
    """The model that wrote the answers, "" if there are several, nobody knows, or `who` must not."""
    models = {a.model for g in some_groups(workspace, name, 0, 20) for a in g.answers} if who.may("viewer") else set()
    return models.pop() if len(models) == 1 else ""


def _invalid(param: str, why: str) -> Refusal:
    return Refusal(f"Invalid '{param}': {why}.", param=param, code="invalid_value")
