"""Who asks, and what they may do: sessions of people, keys of programs, roles.

A route says whom it is for, and gets the person:

    @routes.get("/rank/{name}")
    def rank(name: str, who: Labeler) -> str: ...

`SignedIn` is anybody, `Labeler` whoever may judge, `Viewer` whoever may see figures (not labelers, who would learn
which model wrote what), `Reviewer`, `Manager`, `Admin`. Pages know people by a cookie; /api also takes keys, whose
scope must fit; /v1 takes keys only (`chat`).

Known limit: a browser sends cookies to every port of a host. Do not run services that you do not trust on the same
machine under the same name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode

from fastapi import Depends, Query, Request, Response
from pydantic import AfterValidator

from tunesmith.service.refusals import Refusal, SignInNeeded, log
from tunesmith.store import keys, team
from tunesmith.store.runs import now

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

Right = Literal["labeler", "viewer", "reviewer", "manager", "admin"]
HOLDERS: dict[str, frozenset[str]] = {
    "labeler": frozenset({"labeler", "reviewer", "manager", "admin"}),
    "viewer": frozenset({"viewer", "reviewer", "manager", "admin"}),
    "reviewer": frozenset({"reviewer", "manager", "admin"}),
    "manager": frozenset({"manager", "admin"}),
    "admin": frozenset({"admin"}),
}
"""The roles that have each right."""
SCOPES = {"labeler": "rank", "reviewer": "rank", "viewer": "read", "manager": "manage", "admin": "manage"}
"""The scope that a key needs for each right. A program's own account (role "api") needs nothing else."""

MAX_FORM = 2**20
MAX_FIELDS = 200
LARGEST = 2**31 - 1
"""The largest whole number that both databases hold in a column."""
Number = Annotated[int, Query(ge=0, le=LARGEST)]
"""A place in a list, as it stands in an address."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks. `name` is also the labeler's; `scopes` are None for a person in a browser."""

    name: str
    role: str
    via: Literal["session", "key"] = "session"
    scopes: frozenset[str] | None = field(default=None)
    key: str = ""  # its id

    def may(self, right: str, scope: str = "") -> bool:
        """Whether this person or program has a right; a key needs the scope too."""
        if self.scopes is None:
            return self.role in HOLDERS[right]
        fits = (scope or SCOPES[right]) in self.scopes
        return fits and (self.role in HOLDERS[right] or (self.role == "api" and right != "admin"))


def person(request: Request) -> Person:
    """Who is signed in, or whose key it is. A page says whose it is (x-labeler): what one person judged must not be
    stored under the name of another who signed in meanwhile, in another tab.

    Raises:
        Refusal: 401; a browser is sent to the sign-in page.
    """
    workspace: Workspace = request.app.state.workspace
    if request.url.path.startswith(("/api/", "/v1/")) and (secret := bearer(request)) is not None:
        return _program(workspace, secret)
    found = team.session(workspace, secret) if (secret := session_secret(request)) else None
    if found is None:
        raise SignInNeeded("Sign in first." if not request.url.path.startswith("/api/") else
                           "Sign in first, or send a key: Authorization: Bearer sk-...")
    meant = unquote(request.headers.get("x-labeler", ""))
    if meant and meant != found.name:
        raise Refusal(f"This page is {meant}'s, and {found.name} is signed in now. It waits in this browser until "
                      f"{meant} signs in again.", status=401, code="other_account")
    return Person(found.name, found.role)


def require(right: Right, scope: str = "") -> Callable[..., Person]:
    """A dependency: whoever asks, if they have this right. `scope` is what a key needs, if not the usual one.

    Raises:
        Refusal: 401 not signed in, 403 another role.
    """
    def check(who: Annotated[Person, Depends(person)]) -> Person:
        if who.may(right, scope):
            return who
        if who.via == "key":
            raise Refusal(f'This key may not do that; it needs the scope "{scope or SCOPES[right]}"'
                          f"{'' if who.role == 'api' else f' and an account that is {_roles(right)}'}.", status=403,
                          code="insufficient_permissions")
        raise Refusal(f"You are signed in as {who.name} ({who.role}); this is for {_roles(right)}. "
                      "An admin can change your role.", status=403)

    return check


SignedIn = Annotated[Person, Depends(person)]
Labeler = Annotated[Person, Depends(require("labeler"))]
Viewer = Annotated[Person, Depends(require("viewer"))]
Reviewer = Annotated[Person, Depends(require("reviewer"))]
Manager = Annotated[Person, Depends(require("manager"))]
Admin = Annotated[Person, Depends(require("admin"))]


@dataclass(frozen=True, slots=True)
class Caller:
    """The program that calls /v1: the account that it acts for, and the id of its key, "" where /v1 is open."""

    account: str
    key: str = ""


def program(scope: str) -> Callable[[Request], Caller]:
    """The dependency of routes under /v1: a key with this scope; none on loopback while nobody has made a key.

    Raises:
        Refusal: 401, 403, 429 in OpenAI's words.
    """
    def check(request: Request) -> Caller:
        workspace: Workspace = request.app.state.workspace
        caller = Caller(request.app.state.owner)
        if request.app.state.hosts or keys.any_key(workspace):
            secret = bearer(request)
            if secret is None:
                raise Refusal("You didn't provide an API key: send Authorization: Bearer sk-..., made by "
                              "tunesmith keys create.", status=401, code="invalid_api_key")
            who = _program(workspace, secret)
            if scope not in (who.scopes or ()):
                raise Refusal(f'This key may not {keys.SCOPES[scope]}; it needs the scope "{scope}".', status=403,
                              code="insufficient_permissions")
            caller = Caller(who.name, who.key)
        request.state.arrived = now()
        request.state.headers = request.app.state.rates.take(caller.key)
        return caller

    return check


chat = program("chat")


def bearer(request: Request) -> str | None:
    """The key in `Authorization: Bearer`."""
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if kind.lower() == "bearer" else None


# ---- the cookie

def cookie_name(request: Request) -> str:
    """Cookies know no ports: two studios on one machine must not overwrite each other's."""
    if request.app.state.https:
        return "__Host-tunesmith"
    port = request.headers.get("host", "").rpartition("]")[2].rpartition(":")[2]
    return f"tunesmith-{port if port.isdecimal() else 80}"


def session_secret(request: Request) -> str:
    """The session's secret that the browser sent, "" if none."""
    return request.cookies.get(cookie_name(request), "")


def set_cookie(request: Request, response: Response, secret: str) -> None:
    """Let the browser keep a session."""
    response.set_cookie(cookie_name(request), secret, max_age=team.SESSION_DAYS * 86400, path="/", httponly=True,
                        secure=request.app.state.https, samesite="strict")


def drop_cookie(request: Request, response: Response) -> None:
    """Let the browser forget it."""
    response.delete_cookie(cookie_name(request), path="/", httponly=True, secure=request.app.state.https,
                           samesite="strict")


# ---- forms and addresses

async def form(request: Request) -> dict[str, str]:
    """A dependency: the fields of one of our own HTML forms (`security.Guard` saw that it is our own).

    Raises:
        Refusal: not a form, too large, a field twice, a character that not every database holds.
    """
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise Refusal("Send a form.", status=415)
    body = await request.body()
    if len(body) > MAX_FORM:
        raise Refusal(f"The form is larger than {MAX_FORM} bytes.", status=413)
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise Refusal("The form cannot be read.") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Refusal("The form has a field twice.")
    if any("\0" in text for pair in pairs for text in pair):
        raise Refusal("The form holds the character U+0000, which no name or text here may have.")
    return fields


Form = Annotated[dict[str, str], Depends(form)]


def _storable(text: str) -> str:
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("it holds a character that cannot be stored")
    return text


Id = Annotated[str, AfterValidator(_storable)]
"""A name or an id in a body: what a database can look for."""


def local(path: str) -> str:
    """`path` if it leads to a page of ours, else "/": nobody is sent to another site after signing in."""
    plain = path.isprintable() and path.startswith("/") and not path.startswith("//") and "\\" not in path
    return path if plain and len(path) < 2000 else "/"


def entrance(secret: str, path: str = "/") -> str:
    """The path of a link that signs in and leads on to `path`."""
    return f"/enter?{urlencode({'once': secret, **({'next': path} if path != '/' else {})}, quote_via=quote, safe='/')}"


# ---- guessing

class Throttle:
    """How long somebody who failed to sign in must wait: `free` tries, then twice as long every time.

    Kept in memory: a restart forgives. Entries are forgotten after `memory` seconds without a try.
    """

    def __init__(self, free: int = 5, longest: float = 900.0, memory: float = 3600.0,
                 clock: Callable[[], float] = time.monotonic):
        self.free, self.longest, self.memory, self.clock = free, longest, memory, clock
        self._tries: dict[tuple[str, ...], tuple[int, float]] = {}
        self._lock = threading.Lock()

    def wait(self, *key: str) -> float:
        """Seconds until the next try may be made."""
        with self._lock:
            count, last = self._tries.get(key, (0, 0.0))
        pause = min(2.0 ** (count - self.free), self.longest) if count >= self.free else 0.0
        return max(0.0, last + pause - self.clock())

    def failed(self, *key: str) -> None:
        """Count a failure. Called before the password of a name is checked: tries at once cannot outrun it."""
        now = self.clock()
        with self._lock:
            if len(self._tries) > 10_000:
                self._tries = {k: v for k, v in self._tries.items() if now - v[1] < self.memory}
            count, last = self._tries.get(key, (0, now))
            self._tries[key] = (count + 1 if now - last < self.memory else 1, now)

    def forget(self, *key: str) -> int:
        """The right password: how many tries are forgotten."""
        with self._lock:
            return self._tries.pop(key, (0, 0.0))[0]

    def forgive(self, count: int, *key: str) -> None:
        """Take so many failures back."""
        with self._lock:
            before, last = self._tries.get(key, (0, 0.0))
            self._tries[key] = max(0, before - count), last


def address(request: Request) -> str:
    """Whose connection it is: behind a proxy on this machine the address that the proxy saw."""
    peer = request.client.host if request.client else ""
    if request.app.state.https and peer in ("127.0.0.1", "::1"):
        return request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip() or peer
    return peer


def _program(workspace: Workspace, secret: str) -> Person:
    found = keys.key(workspace, secret)
    if found is None:
        log.warning("a key that does not work was sent: %r", f"...{secret[-4:]}" if len(secret) > 20 else "...")
        raise Refusal("Incorrect API key provided: it is unknown, revoked or has expired. "
                      "`tunesmith keys ls` shows which there are.", status=401, code="invalid_api_key")
    account, key = found
    return Person(account.name, account.role, "key", frozenset(key.scopes), key.id)


def _roles(right: str) -> str:
    *others, last = (r for r in ("labeler", "viewer", "reviewer", "manager", "admin") if r in HOLDERS[right])
    return f"{', '.join(others)} or {last}" if others else last
