"""The demonstration desk's pages: write a demonstration, review others', publish what was accepted.

    /desk                       every desk
    /desk/NAME                  one desk's drafts          /desk/NAME/write    a new one
    /desk/NAME/next             the next that waits        /desk/NAME/ID       read, edit, accept, reject

What a decision means is the store's business (`store.desk`). Labelers see what they wrote themselves; reviewers and
viewers see all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import NotAllowed, NotFound, UserError
from tunesmith.records import Demonstration, Message, conversation
from tunesmith.service import markdown
from tunesmith.service.access import LARGEST, Form, Labeler, Manager, Number, Person, SignedIn
from tunesmith.service.diff import changes
from tunesmith.service.pages import render
from tunesmith.service.words import SPEAKERS, short
from tunesmith.store import desk as store
from tunesmith.store.audit import audit
from tunesmith.store.checks import valid_name
from tunesmith.store.sets import set_names

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

PAGE = 50
REASONS = {"inaccurate": "says something false, or leaves out what matters",
           "toxic": "insulting, harmful or unsafe",
           "biased": "unfair to somebody, or one-sided",
           "unhelpful": "does not do what was asked",
           "other": "something else; say what in the note"}

ClientId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
Text = Annotated[str, Field(max_length=store.LONGEST_TEXT)]


class Turn(BaseModel):
    """One turn that a person wrote."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: Text


class NewDraft(BaseModel):
    """The body of POST /api/desk/NAME/drafts."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: ClientId
    messages: list[Turn] = Field(min_length=2, max_length=store.MOST_TURNS)


class Decision(BaseModel):
    """The body of POST /api/desk/NAME/drafts/ID/reviews. `edits` are the turns with another text, from 0."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: ClientId
    verdict: Literal["accepted", "rejected", "pending"]
    reasons: list[str] = Field(default=[], max_length=len(store.REASONS))
    note: str = Field("", max_length=store.LONGEST_NOTE)
    edits: dict[Annotated[str, Field(pattern=r"^[0-9]{1,3}$")], Text] = Field(default={}, max_length=store.MOST_TURNS)
    seen: int = Field(ge=0, le=LARGEST)

    def review(self, reviewer: str, draft: store.Draft) -> store.Review:
        """The record to store."""
        edits = {int(n): text for n, text in self.edits.items()}
        edited = replace(draft.current, messages=store.edited_messages(draft.current, edits)) if edits else None
        return store.Review(self.id, reviewer, self.verdict, tuple(dict.fromkeys(self.reasons)), self.note.strip(),
                            edited)


def router(workspace: Workspace) -> APIRouter:
    """The pages and what they send."""
    routes = APIRouter(default_response_class=HTMLResponse)

    @routes.get("/desk", response_model=None)
    def desks(who: SignedIn, new: str = "") -> str | Response:
        if new:
            return RedirectResponse(f"/desk/{valid_name(new.strip(), 'name of a desk')}/write", 303)
        found = [_own_counts(workspace, d, who) for d in store.desks(workspace)]
        waiting = {d.name: store.waiting(workspace, d.name, who.name, _role(who)) for d in found}
        shown = [d for d in found if d.count or _sees_all(who) or who.may("labeler")]
        return render("desks.html", who=who, desks=shown, waiting=waiting, writes=who.may("labeler"),
                      sees_all=_sees_all(who))

    @routes.get("/desk/{name}")
    def drafts(name: str, who: SignedIn, state: store.State | None = None, mine: bool = False,
               before: Number = 0, done: bool = False) -> str:
        found = _desk(workspace, name, who)
        author = who.name if mine or not _sees_all(who) else None
        shown = store.listed(workspace, name, state, author, before, PAGE + 1)
        return render("desk.html", who=who, desk=found, drafts=[_line(d) for d in shown[:PAGE]], state=state,
                      mine=mine, more=shown[PAGE - 1].seq if len(shown) > PAGE else 0, done=done,
                      waiting=store.waiting(workspace, name, who.name, _role(who)), writes=who.may("labeler"),
                      sees_all=_sees_all(who), publishes=who.may("manager"),
                      sets=set_names(workspace) if who.may("manager") else [],
                      free_name=_free_name(workspace, name))

    @routes.post("/desk/{name}/publish")
    def publish(name: str, who: Manager, form: Form) -> str:
        made = store.publish(workspace, name, form.get("dataset", "").strip())
        audit(workspace, who.name, "desk.publish", made.name, {"desk": name, "rows": made.count})
        return render("published.html", who=who, desk=name, dataset=made)

    @routes.post("/desk/{name}/bring")
    def bring(name: str, who: Manager, form: Form) -> RedirectResponse:
        new = store.bring(workspace, name, chosen := form.get("set", ""), who.name)
        audit(workspace, who.name, "desk.bring", name, {"set": chosen, "new": new})
        if not new:
            raise UserError(f"{chosen} has no more answers that everybody placed first.")
        return RedirectResponse(f"/desk/{quote(name)}?state=pending", 303)

    @routes.get("/desk/{name}/write")
    def write(name: str, who: Labeler) -> str:
        valid_name(name, "name of a desk")
        return render("desk_write.html", who=who, name=name, longest=store.LONGEST_TEXT)

    @routes.get("/desk/{name}/next")
    def following(name: str, who: SignedIn, after: Number | None = None,
                  back: bool = False) -> RedirectResponse:
        return RedirectResponse(_next(workspace, name, who, after, back) or f"/desk/{quote(name)}?done=1", 303)

    @routes.get("/desk/{name}/{id}")
    def one(name: str, id: str, who: SignedIn) -> str:
        draft = _draft(workspace, name, id, who)
        return render("draft.html", who=who, draft=draft, turns=_turns(draft), history=_history(draft),
                      reasons=REASONS, decides=_decides(workspace, draft, who),
                      revises=store.revisable(draft, who.name), reviewer=who.may("reviewer"),
                      waiting=store.waiting(workspace, name, who.name, _role(who)), longest=store.LONGEST_NOTE)

    @routes.post("/api/desk/{name}/drafts", status_code=201, response_class=JSONResponse)
    def add(name: str, body: NewDraft, who: Labeler, response: Response) -> dict[str, Any]:
        """201 once the draft is on disk, 200 when that id already was."""
        messages = conversation([turn.model_dump() for turn in body.messages])
        new = store.write(workspace, name, body.id, Demonstration(messages), who.name)
        response.status_code = 201 if new else 200
        return {"id": body.id, "stored": True, "new": new, "url": f"/desk/{quote(name)}/{body.id}"}

    @routes.post("/api/desk/{name}/drafts/{id}/reviews", status_code=201, response_class=JSONResponse)
    def decide(name: str, id: str, body: Decision, who: Labeler, response: Response) -> dict[str, Any]:
        """201 once the decision is on disk, 200 when that id already was; `next` is the page of the next draft."""
        draft = _draft(workspace, name, id, who)
        new = store.review(workspace, id, body.review(who.name, draft), role=_role(who), seen=body.seen)
        response.status_code = 201 if new else 200
        return {"id": body.id, "stored": True, "new": new, "next": _next(workspace, name, who, draft.seq)}

    return routes


# ---- who sees and does what

def _role(who: Person) -> str:
    """The role that the store knows; a program with a reviewer's right is one."""
    return "reviewer" if who.role == "api" and who.may("reviewer") else who.role


def _sees_all(who: Person) -> bool:
    return who.may("viewer") or who.may("reviewer")


def _own_counts(workspace: Workspace, desk: store.Desk, who: Person) -> store.Desk:
    """A desk with the counts that this person may know."""
    return desk if _sees_all(who) else store.counted(workspace, desk.name, who.name)


def _desk(workspace: Workspace, name: str, who: Person) -> store.Desk:
    return _own_counts(workspace, store.find(workspace, name), who)


def _draft(workspace: Workspace, name: str, id: str, who: Person) -> store.Draft:
    """The draft, if it lies on this desk and this person may see it."""
    draft = store.draft(workspace, id)
    if draft.desk != name or not (_sees_all(who) or draft.author == who.name):
        raise NotFound(f'no draft "{id}"')
    return draft


def _decides(workspace: Workspace, draft: store.Draft, who: Person) -> str:
    """"" if this person may decide on a draft, else why not."""
    try:
        store.check_reviewer(draft, who.name, _role(who), store.other_reviewers(workspace, who.name))
    except NotAllowed as e:
        return str(e)
    return ""


def _next(workspace: Workspace, name: str, who: Person, after: int | None, back: bool = False) -> str | None:
    """The page of the next draft that waits for this person."""
    id = store.following(workspace, name, who.name, _role(who), after, back)
    return None if id is None else f"/desk/{quote(name)}/{quote(id)}"


def _free_name(workspace: Workspace, desk: str) -> str:
    """A name for the next dataset of a desk."""
    known = {d.name for d in workspace.datasets()}
    return next(name for n in range(1, len(known) + 2) if (name := f"{desk[:58]}-{n}") not in known)


# ---- what pages show

def _line(draft: store.Draft) -> dict[str, Any]:
    """One line of a list."""
    questions = [m.content for m in draft.current.messages if m.role == "user"]
    return {"draft": draft, "question": short(questions[-1] if questions else ""),
            "answer": short(draft.current.messages[-1].content)}


def _turns(draft: store.Draft) -> list[dict[str, Any]]:
    return [{"role": m.role, "who": SPEAKERS[m.role], "text": m.content, "html": markdown.render(m.content)}
            for m in draft.current.messages]


def _history(draft: store.Draft) -> list[dict[str, Any]]:
    """Every review, the newest first, with what its edit changed."""
    found, before = [], draft.original
    for review in draft.reviews:
        found.append({"review": review, "edits": _edits(before, review.edited) if review.edited else []})
        before = review.edited or before
    return found[::-1]


def _edits(old: Demonstration, new: Demonstration) -> list[dict[str, Any]]:
    """The turns that differ, as diffs."""
    def pieces(a: Message, b: Message) -> list[tuple[str, Any]]:
        return [(kind, markdown.plain(text)) for kind, text in changes(a.content, b.content)]

    return [{"who": SPEAKERS[b.role], "pieces": pieces(a, b)} for a, b in zip(old.messages, new.messages) if a != b]
