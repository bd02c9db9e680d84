"""What every request passes before a route sees it.

- Host must be a loopback name or one that was allowed by name: a page that rebinds its own DNS name to 127.0.0.1 is
  turned away.
- Unsafe methods must come from our own pages or from no page at all (Origin, Sec-Fetch-Site) and stay under a size.
  Under /api and /v1 they carry JSON, or a file where files are sent. Elsewhere they are HTML forms, which only our
  own pages may send: Origin or Sec-Fetch-Site must say so.
- What users of an application did may be sent (`FEEDBACK`) by pages of the origins that were named for that.
- Every answer, errors too, carries the security headers and an x-request-id.

Any port is allowed in Host (an SSH tunnel may use another one); an Origin must equal that Host, port included.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.errors import UserError
from tunesmith.service.refusals import Refusal, answer

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = 4 * 2**20
UPLOADS = "/api/uploads"
"""Where files are sent as they are (application/octet-stream), and may be larger: `MAX_UPLOAD`."""
MAX_UPLOAD = 2**30
FILES = re.compile(r"/v1/(files|uploads/[^/]+/parts)")
"""Where programs send files as forms, as OpenAI's client does; each may have `MAX_FILE` bytes."""
MAX_FILE = 513 * 2**20
FEEDBACK = "/v1/feedback"

PAGE_POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
               "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
               "require-trusted-types-for 'script'")
REPORT_POLICY = ("sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
                 "form-action 'none'; base-uri 'none'; frame-ancestors 'none'")
"""For a self-contained report: its own styles and pictures, no script, an origin of its own."""

HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with no-referrer, browsers send our own forms with "Origin: null"
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
PREFLIGHT = {"access-control-allow-methods": "POST", "access-control-allow-headers": "content-type",
             "access-control-max-age": "86400"}
_SAFE = {"GET", "HEAD", "OPTIONS"}
_LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_KINDS = {"application/json": "JSON", "application/octet-stream": "a file", "multipart/form-data": "a form"}


def require_named(host: str, names: Sequence[str]) -> None:
    """
    Raises:
        UserError: `host` would let other machines in, and nobody said by which name.
    """
    if host not in LOOPBACK and not (host and names):
        raise UserError(f'refusing to listen on "{host}": other machines could then reach the sign-in. Use 127.0.0.1 '
                        "and an SSH tunnel; or name the address that people will type, --allow-host NAME, with "
                        "--https if a proxy encrypts (it should: passwords pass through)")


class Guard:
    """ASGI middleware, the outermost of ours. `hosts` and `https` as in `create_app`."""

    def __init__(self, app: ASGIApp, max_body: int = MAX_BODY, hosts: Sequence[str] = (), https: bool = False,
                 feedback_origins: Sequence[str] = ()):
        self.app, self.max_body, self.feedback_origins = app, max_body, frozenset(feedback_origins)
        self.hosts, self.https = frozenset(h.lower() for h in hosts), https
        self.headers = {**HEADERS, **({"strict-transport-security": "max-age=31536000"} if https else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{uuid.uuid4().hex}"
        started = False
        guest = self.guest(scope)

        async def reply(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
                for name, value in scope.get("state", {}).get("headers", {}).items():  # what the route has to add
                    headers[name] = value
                headers["x-request-id"] = request_id
                if guest:
                    headers["access-control-allow-origin"] = guest
                    headers["vary"] = "origin"
            await send(message)

        try:
            path = scope["path"]
            if guest and scope["method"] == "OPTIONS":
                return await Response(status_code=204, headers=PREFLIGHT)(scope, receive, reply)
            limit = MAX_UPLOAD if path.startswith(UPLOADS) else MAX_FILE if FILES.fullmatch(path) else self.max_body
            self.check(scope["method"], scope["path"], Headers(scope=scope), limit)
            if "\0" in scope["path"] or b"%00" in scope.get("query_string", b""):
                raise Refusal("The address holds the character U+0000; nothing here has it in its name.",
                              status=404 if "\0" in scope["path"] else 400)
            await self.app(scope, _capped(receive, limit), reply)
        except Exception as error:
            if started:
                raise
            await answer(Request(scope), error)(scope, receive, reply)

    def check(self, method: str, path: str, headers: Headers, limit: int) -> None:
        """
        Raises:
            Refusal: 421 foreign Host, 403 foreign page, 413 too large, 415 not JSON.
        """
        host = headers.get("host", "").lower()
        self.check_host(host)
        if method in _SAFE:
            return
        ours = not self.guest_of(path, headers) and self.check_origin(host, headers)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            raise Refusal(f"The body is larger than {limit} bytes.", status=413)
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if path.startswith(("/api/", "/v1/")):
            wanted = ("application/octet-stream" if path.startswith(UPLOADS) else
                      "multipart/form-data" if FILES.fullmatch(path) else "application/json")
            nothing = length == "0" and not kind and "transfer-encoding" not in headers
            if method != "DELETE" and not nothing and kind not in (wanted, "application/json"):
                raise Refusal(f"Send the body as {_KINDS[wanted]}, with content-type: {wanted}.", status=415)
        elif kind != "application/x-www-form-urlencoded":
            raise Refusal("A page of this server sends forms here.", status=415)
        elif not ours:
            raise Refusal("Only a page of this server may send this form; programs use /api.", status=403)

    def check_host(self, host: str) -> None:
        """Any port, but only our own names."""
        name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
        if not (name in _LOOPBACK_HOSTS or name in self.hosts) or not (port == "" or port.isdecimal()):
            names = ", ".join(["127.0.0.1, localhost", *sorted(self.hosts)])
            raise Refusal(f'This server answers to {names} and [::1] only, not to "{host[:80]}".', status=421)

    def guest(self, scope: Scope) -> str:
        """The origin of a page that may send feedback from elsewhere, "" for every other request."""
        return self.guest_of(scope["path"], Headers(scope=scope))

    def guest_of(self, path: str, headers: Headers) -> str:
        origin = headers.get("origin", "")
        return origin if path == FEEDBACK and origin in self.feedback_origins else ""

    def check_origin(self, host: str, headers: Headers) -> bool:
        """Whether a page of ours sent this; False if no page did. A page of another site is refused."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        own = {f"http://{host}"} if not self.https else {f"https://{host}"}
        if (origin is not None and origin.lower() not in own) or site not in ("same-origin", "none"):
            raise Refusal("This request comes from a page of another site; only pages of this server may send it.",
                          status=403)
        return origin is not None or site == "same-origin"


def _capped(receive: Receive, limit: int) -> Receive:
    """`receive` that stops a body which announced no length."""
    seen = 0

    async def capped() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, f"The body is larger than {limit} bytes.")
        return message

    return capped
