"""What every request passes before a route sees it.

- Host must be a loopback name: a page that rebinds its own DNS name to 127.0.0.1 is turned away.
- Unsafe methods must come from our own pages or from no page at all (Origin, Sec-Fetch-Site), carry JSON and stay
  under a size: another site open in the same browser can neither post a form nor a "simple" request.
- Every answer, errors too, carries the security headers and an x-request-id.

Any port is allowed in Host (an SSH tunnel may use another one); an Origin must equal that Host, port included.
"""

from __future__ import annotations

import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.errors import UserError
from tunesmith.service.refusals import Refusal, answer

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = 4 * 2**20

PAGE_POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
               "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
               "require-trusted-types-for 'script'")
REPORT_POLICY = ("sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
                 "form-action 'none'; base-uri 'none'; frame-ancestors 'none'")
"""For a self-contained report: its own styles and pictures, no script, an origin of its own."""

HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_SAFE = {"GET", "HEAD", "OPTIONS"}


def require_loopback(host: str) -> None:
    """
    Raises:
        UserError: `host` would let other machines in.
    """
    if host not in LOOPBACK:
        raise UserError(f'refusing to listen on "{host}": there is no sign-in yet, so anyone who reaches the port '
                        "could read and rank your data; use 127.0.0.1, and an SSH tunnel from other machines")


class Guard:
    """ASGI middleware, the outermost of ours."""

    def __init__(self, app: ASGIApp, max_body: int = MAX_BODY):
        self.app, self.max_body = app, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{uuid.uuid4().hex}"
        started = False

        async def reply(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers["x-request-id"] = request_id
            await send(message)

        try:
            check(scope["method"], Headers(scope=scope), self.max_body)
            await self.app(scope, _capped(receive, self.max_body), reply)
        except Exception as error:
            if started:
                raise
            await answer(Request(scope), error)(scope, receive, reply)


def check(method: str, headers: Headers, max_body: int) -> None:
    """
    Raises:
        Refusal: 421 foreign Host, 403 foreign page, 413 too large, 415 not JSON.
    """
    host = headers.get("host", "")
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
    if name.lower() not in ("127.0.0.1", "localhost", "[::1]") or not (port == "" or port.isdecimal()):
        raise Refusal(f'This server answers to 127.0.0.1, localhost and [::1] only, not to "{host[:80]}".', status=421)
    if method in _SAFE:
        return
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if (origin is not None and origin.lower() != f"http://{host}".lower()) or site not in ("same-origin", "none"):
        raise Refusal("This request comes from a page of another site; only pages of this server may send it.",
                      status=403)
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > max_body:
        raise Refusal(f"The body is larger than {max_body} bytes.", status=413)
    if method != "DELETE" and headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise Refusal("Send the body as JSON, with content-type: application/json.", status=415)


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
