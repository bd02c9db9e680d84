"""Signing in and out, one's own account, and the team's page.

Plain HTML forms that need no JavaScript. Signing in elsewhere is in `oidc`. Left out: second factors, e-mail (links
are handed on by people).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from tunesmith.errors import NotFound, UserError
from tunesmith.service import access
from tunesmith.service.access import Form, Manager, Person, SignedIn, Throttle, local
from tunesmith.service.pages import render
from tunesmith.service.refusals import Refusal, log
from tunesmith.service.words import sentence
from tunesmith.store import keys, team

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

WRONG = "This name and password do not fit."
SPRAY = 50
"""Failures from one address, over all names, before it has to wait."""
AT_ONCE = 2
"""Passwords that are hashed at a time (`store.passwords` allows no more)."""
QUEUE = 150
"""Who may wait for that, about five seconds; the next one is told to come back."""
KEY_DAYS = 90
"""How long a key works, unless its maker says otherwise."""

Hashing = Callable[[Callable[[], Response]], Awaitable[Response]]


def router(workspace: Workspace) -> APIRouter:
    """/signin, /signout, /enter, /invite, /account, /team."""
    routes = APIRouter(default_response_class=HTMLResponse)
    hashing = _queue()
    _doors(routes, workspace, hashing, Throttle(), Throttle(free=SPRAY))
    _own(routes, workspace, hashing)
    _team(routes, workspace)
    return routes


def _queue() -> Hashing:
    """Runs what hashes a password in threads of its own, a few at a time: when everybody signs in at nine o'clock,
    those who wait hold no thread that others need for ranking.

    Raises:
        Refusal: too many wait.
    """
    seats = anyio.CapacityLimiter(AT_ONCE)

    async def hashing(work: Callable[[], Response]) -> Response:
        if seats.statistics().tasks_waiting >= QUEUE:
            raise Refusal("Very many people sign in right now; try again in ten seconds.", status=429)
        return await anyio.to_thread.run_sync(work, limiter=seats)

    return hashing


# ---- the doors

def _doors(routes: APIRouter, workspace: Workspace, hashing: Hashing, by_name: Throttle, by_address: Throttle) -> None:
    @routes.get("/signin")
    def signin(request: Request, next: str = "/") -> Response:
        if _known(request):
            return _to(local(next))
        return _page("signin.html", next=local(next), name="", problem="", oidc=request.app.state.oidc)

    @routes.post("/signin")
    async def sign_in(request: Request, fields: Form) -> Response:
        return await hashing(lambda: signed_in(request, fields))

    def signed_in(request: Request, fields: dict[str, str]) -> Response:
        name, password, path = _take(fields, "name", "password", "next")
        name, where = team.spelled(name), access.address(request)
        wait = max(by_name.wait(name, where), by_address.wait(where))
        if wait > 0:
            problem = f"Too many tries; wait {_duration(wait)} and try again."
            return _page("signin.html", 429, {"retry-after": str(math.ceil(wait))}, next=local(path), name=name,
                         problem=problem, oidc=request.app.state.oidc)
        by_name.failed(name, where)
        found = team.sign_in(workspace, name, password)
        if found is None:
            by_address.failed(where)
            log.warning("sign-in failed: %r from %s", name[:64], where)
            return _page("signin.html", 401, next=local(path), name=name, problem=WRONG,
                         oidc=request.app.state.oidc)
        by_address.forgive(by_name.forget(name, where) - 1, where)  # their own slips; never those of others
        return _welcome(request, workspace, team.start_session(workspace, found.name), local(path))

    @routes.post("/signout")
    def sign_out(request: Request, fields: Form, who: SignedIn) -> Response:
        if fields.get("everywhere"):
            team.end_sessions(workspace, who.name, who.name)
        else:
            team.end_session(workspace, access.session_secret(request))
        answer = _to("/signin")
        access.drop_cookie(request, answer)
        return answer

    @routes.get("/enter")
    def enter(request: Request, once: str = "", next: str = "/") -> Response:
        """The link that the command line prints. Opened from there it works at once. A page, a mail program or a
        preview that follows it gets a page with a button, so that nobody uses it up unseen; so does a browser in
        which somebody else is signed in."""
        found, known = team.link_for(workspace, once), _known(request)
        if found is None:
            if known:
                return _to(local(next))  # a reload, or the back button
            raise NotFound("This link does not work any more: it was used or has expired. Ask for a new one, or make "
                           "one at the command line: tunesmith team link NAME.")
        typed = request.headers.get("sec-fetch-site") == "none" and "sec-purpose" not in request.headers
        if typed and (known is None or known.name == found.name):
            return _welcome(request, workspace, team.enter(workspace, once), local(next))
        return _page("enter.html", once=once, next=local(next), name=found.name)

    @routes.post("/enter")
    def enter_by_button(request: Request, fields: Form) -> Response:
        once, path = _take(fields, "once", "next")
        return _welcome(request, workspace, team.enter(workspace, once), local(path))

    @routes.get("/invite")
    def invited(key: str = "") -> Response:
        asked = team.invitation(workspace, key)
        if asked is None:
            raise NotFound("This invitation does not work any more: it was used, withdrawn or has expired. "
                           "Ask for a new one.")
        return _page("invite.html", asked=asked, key=key, name=asked.name, problem="")

    @routes.post("/invite")
    async def accept(request: Request, fields: Form) -> Response:
        return await hashing(lambda: accepted(request, fields))

    def accepted(request: Request, fields: dict[str, str]) -> Response:
        key, name, password = _take(fields, "key", "name", "password")
        asked = team.invitation(workspace, key)
        try:
            if asked and password != fields.get("again", password):
                raise UserError("the two passwords differ")
            made = team.accept(workspace, key, name, password)
        except NotFound as error:
            raise Refusal(str(error), status=404) from error
        except UserError as error:
            if asked is None:
                raise
            return _page("invite.html", 400, asked=asked, key=key, name=name, problem=sentence(error))
        return _welcome(request, workspace, team.start_session(workspace, made.name, "invitation"), "/")


def _welcome(request: Request, workspace: Workspace, secret: str, path: str) -> Response:
    """Keep the new session; one that this browser had before ends."""
    if old := access.session_secret(request):
        team.end_session(workspace, old)
    answer = _to(path)
    access.set_cookie(request, answer, secret)
    return answer


def _known(request: Request) -> Person | None:
    try:
        return access.person(request)
    except Refusal:
        return None


# ---- one's own account

def _own(routes: APIRouter, workspace: Workspace, hashing: Hashing) -> None:
    by_name = Throttle()

    def page(who: Person, status: int = 200, **shown: Any) -> Response:
        own = team.account(workspace, who.name)
        return _page("account.html", status, **{
            "who": who, "own": own, "sessions": team.sessions(workspace, who.name), "problem": "", "done": "",
            "scopes": {s: keys.SCOPES[s] for s in keys.ALLOWED[own.role]}, "keys": keys.keys(workspace, who.name),
            "secret": "", "days": KEY_DAYS, **shown})

    @routes.get("/account")
    def account(who: SignedIn) -> Response:
        return page(who)

    @routes.post("/account/password")
    async def password(request: Request, who: SignedIn, fields: Form) -> Response:
        return await hashing(lambda: changed(request, who, fields))

    def changed(request: Request, who: Person, fields: dict[str, str]) -> Response:
        new, again = _take(fields, "password", "again")
        try:
            if new != again:
                raise UserError("the two passwords differ")
            _check_current(workspace, who, fields.get("current", ""), by_name)
            team.set_password(workspace, who.name, new, who.name, keep=access.session_secret(request))
        except UserError as error:
            return page(who, getattr(error, "status", 400), problem=sentence(error))
        return page(who, done="Your password is changed; other browsers are signed out.")

    @routes.post("/account/keys")
    async def new_key(who: SignedIn, fields: Form) -> Response:
        return await hashing(lambda: key_made(who, fields))

    def key_made(who: Person, fields: dict[str, str]) -> Response:
        try:
            _check_current(workspace, who, fields.get("current", ""), by_name)
            key, secret = keys.create_key(workspace, who.name, fields.get("key_name", ""),
                                          [s for s in keys.SCOPES if fields.get(f"scope_{s}")], who.name,
                                          days=_days(fields.get("days", "")))
        except UserError as error:
            return page(who, getattr(error, "status", 400), problem=sentence(error))
        return page(who, secret=secret, done=f"The key “{key.name}” is made.")

    @routes.post("/account/keys/revoke")
    def revoke(who: SignedIn, fields: Form) -> Response:
        keys.revoke_key(workspace, _take(fields, "id")[0], who.name, account=who.name)
        return page(who, done="The key is revoked.")

    @routes.post("/account/keys/revoke-all")
    def revoke_all(who: SignedIn, fields: Form) -> Response:
        keys.revoke_keys(workspace, who.name, who.name)
        return page(who, done="All your keys are revoked.")


def _check_current(workspace: Workspace, who: Person, current: str, tries: Throttle) -> None:
    """Whoever finds an open browser must not change the password of it, nor make a key that outlives the session."""
    if not team.account(workspace, who.name).password:
        return
    if (wait := tries.wait(who.name)) > 0:
        raise Refusal(f"Too many tries; wait {_duration(wait)} and try again.", status=429)
    tries.failed(who.name)
    if team.sign_in(workspace, who.name, current) is None:
        raise UserError("the current password is another one")
    tries.forget(who.name)


# ---- the team

def _team(routes: APIRouter, workspace: Workspace) -> None:
    def page(who: Person, status: int = 200, **shown: Any) -> Response:
        roles = [r for r in team.GRANTS[who.role]] if who.role in team.GRANTS else []
        return _page("team.html", status, **{
            "who": who, "accounts": team.accounts(workspace), "invitations": team.invitations(workspace),
            "roles": roles, "explained": ROLES, "may_grant": team.may_grant,
            "keys": keys.keys(workspace) if who.may("admin") else [], "problem": "", "done": "", "link": "",
            "reset": "", "left": [], **shown})

    def change(who: Person, fields: dict[str, str]) -> team.Account:
        """The account that a form is about, if `who` may change it."""
        found = team.account(workspace, _take(fields, "name")[0])
        if not team.may_grant(who.role, found.role):
            raise Refusal(f"{found.name} is {found.role}; as {who.role} you may not change that account.", status=403)
        return found

    @routes.get("/team")
    def show(who: Manager) -> Response:
        return page(who)

    @routes.post("/team/invite")
    def invite(request: Request, who: Manager, fields: Form) -> Response:
        role, name = _take(fields, "role", "name")
        if not team.may_grant(who.role, role):
            raise Refusal(f"As {who.role} you may not invite somebody as {role or 'nothing'}.", status=403)
        try:
            secret = team.invite(workspace, role, who.name, name.strip())
        except UserError as error:
            return page(who, 400, problem=sentence(error))
        return page(who, link=f"{_origin(request)}/invite?key={secret}",
                    done=f"The invitation of a {role} is ready. It works once, for {team.INVITATION_DAYS} days.")

    @routes.post("/team/withdraw")
    def withdraw(who: Manager, fields: Form) -> Response:
        digest, = _take(fields, "invitation")
        asked = next((i for i in team.invitations(workspace) if i.digest == digest), None)
        if asked and not team.may_grant(who.role, asked.role):
            raise Refusal(f"As {who.role} you may not withdraw the invitation of a {asked.role}.", status=403)
        team.withdraw(workspace, digest, who.name)
        return page(who, done="The invitation is withdrawn.")

    @routes.post("/team/role")
    def role(who: Manager, fields: Form) -> Response:
        found, to = change(who, fields), _take(fields, "role")[0]
        if not team.may_grant(who.role, to):
            raise Refusal(f"As {who.role} you may not make anybody {to or 'nothing'}.", status=403)
        return attempt(who, lambda: team.set_role(workspace, found.name, to, who.name),
                       f"{found.name} is now {to}; their browsers are signed out.")

    @routes.post("/team/active")
    def active(who: Manager, fields: Form) -> Response:
        found, on = change(who, fields), _take(fields, "active")[0] == "yes"
        return attempt(who, lambda: team.set_active(workspace, found.name, on, who.name),
                       f"{found.name} is switched {'on' if on else 'off'}.")

    @routes.post("/team/reset")
    def reset(request: Request, who: Manager, fields: Form) -> Response:
        found = change(who, fields)
        try:
            secret = team.reset_password(workspace, found.name, who.name)
        except UserError as error:
            return page(who, 400, problem=sentence(error))
        return page(who, link=f"{_origin(request)}{access.entrance(secret, '/account')}",
                    done=f"The password of {found.name} is gone. This link lets them in once, for "
                         f"{team.INVITATION_DAYS} days, to choose a new one.",
                    reset=found.name, left=[k for k in keys.keys(workspace, found.name) if k.works])

    @routes.post("/team/revoke-all")
    def revoke_all(who: Manager, fields: Form) -> Response:
        found = change(who, fields)
        count = keys.revoke_keys(workspace, found.name, who.name)
        return page(who, done=f"{count} {'key' if count == 1 else 'keys'} of {found.name} revoked.")

    @routes.post("/team/revoke")
    def revoke(who: Annotated[Person, Depends(access.require("admin"))], fields: Form) -> Response:
        return attempt(who, lambda: keys.revoke_key(workspace, _take(fields, "id")[0], who.name),
                       "The key is revoked.")

    def attempt(who: Person, act: Any, done: str) -> Response:
        try:
            act()
        except NotFound:
            raise
        except UserError as error:
            return page(who, 400, problem=sentence(error))
        still = team.account(workspace, who.name)
        if not still.active or still.role != who.role:  # it was one's own account
            return _to("/signin")
        return page(who, done=done)


ROLES = {
    "admin": "everything, also the team",
    "manager": "projects, the queue, figures; invites labelers, reviewers and viewers",
    "reviewer": "ranks, reviews demonstrations, settles contested items",
    "labeler": "ranks and writes demonstrations",
    "viewer": "reads the figures, changes nothing",
    "api": "a program; it has keys and does not sign in",
}
"""What the roles may do, as people read it."""


# ---- small things

def _page(template: str, status: int = 200, headers: dict[str, str] | None = None, **values: Any) -> HTMLResponse:
    return HTMLResponse(render(template, **values), status, headers)


def _to(path: str) -> RedirectResponse:
    return RedirectResponse(path, 303)


def _take(fields: dict[str, str], *names: str) -> list[str]:
    return [fields.get(name, "") for name in names]


def _duration(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole} s" if whole < 120 else f"{math.ceil(whole / 60)} minutes"


def _days(text: str) -> float:
    if text.strip() == "":
        return 0
    if not text.strip().isdecimal() or len(text.strip()) > 4 or not 1 <= int(text) <= 3650:
        raise UserError("a key lasts 1 to 3650 days; leave the field empty for one that never expires")
    return int(text)


def _origin(request: Request) -> str:
    """What people type before the path: the Host passed the Guard."""
    return f"{'https' if request.app.state.https else 'http'}://{request.headers['host']}"
