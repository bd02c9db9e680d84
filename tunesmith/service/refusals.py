"""The one place that turns an error into an HTTP answer.

Programs (`/v1`, `/api`) get OpenAI's error body, people get a page:

    {"error": {"message": "...", "type": "invalid_request_error", "param": "tiers", "code": "invalid_value"}}
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from tunesmith.errors import NotFound, StorageError, TunesmithError, UserError
from tunesmith.service.pages import render

log = logging.getLogger("tunesmith.service")


class Refusal(UserError):
    """A request that is turned down: `param` names the field, `code` is for programs, `kind` is OpenAI's type."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None,
                 kind: str = "", headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.param, self.code, self.kind, self.headers = status, param, code, kind, dict(headers or {})


class SignInNeeded(Refusal):
    """Nobody is signed in: a program hears 401, a browser is led to the sign-in page and back."""

    def __init__(self, message: str):
        super().__init__(message, status=401, code="invalid_api_key")


def install(app: FastAPI) -> None:
    """Every known error of `app` is answered by `answer`; the unknown ones reach `security.Guard`."""
    for kind in (TunesmithError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _handler)


async def _handler(request: Request, error: Exception) -> Response:
    return answer(request, error)


def answer(request: Request, error: Exception) -> Response:
    """JSON for programs, a page for people; a traceback for neither."""
    status, body = describe(error, request)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException | Refusal) else {}
    if status >= 500:
        log.error("%s %s", request.method, request.url.path, exc_info=error)
    if request.url.path.startswith(("/v1", "/api")):
        return JSONResponse({"error": body}, status, headers)
    if isinstance(error, SignInNeeded) and request.method == "GET":
        back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/signin?{urlencode({'next': back})}" if back != "/" else "/signin", 303)
    page = render("error.html", title=_TITLES.get(status, "That did not work"), message=body["message"])
    return HTMLResponse(page, status, headers)


def describe(error: Exception, request: Request | None = None) -> tuple[int, dict[str, Any]]:
    """Status and OpenAI's four fields."""
    status, param, code = 500, None, None
    message = "Something failed inside the server; its log says more under this x-request-id."
    if isinstance(error, Refusal):
        status, message, param, code = error.status, str(error), error.param, error.code
    elif isinstance(error, StorageError):
        status, message = error.status, _without_places(error, request)
    elif isinstance(error, TunesmithError):
        status, message, code = error.status, str(error), "not_found" if isinstance(error, NotFound) else None
    elif isinstance(error, RequestValidationError):
        status, (message, param, code) = 400, _first_invalid(error)
    elif isinstance(error, HTTPException):
        status, message = error.status_code, _plain(error, request)
    kind = error.kind if isinstance(error, Refusal) and error.kind else (
        "invalid_request_error" if status < 500 else "server_error")
    return status, {"message": message, "type": kind, "param": param, "code": code}


def _without_places(error: StorageError, request: Request | None) -> str:
    """What is wrong with the storage, for anybody: not where it lies, nor what the system said of it (in brackets)."""
    text = re.sub(r" *\(.*\)", "", str(error), flags=re.DOTALL)
    root = str(request.app.state.workspace.root) if request is not None and "app" in request.scope else ""
    return text.replace(f"{root}: ", "").replace(root, "the workspace") if root else text


def _plain(error: HTTPException, request: Request | None) -> str:
    if request is None:
        return error.detail
    if error.status_code == 404:
        return f"There is nothing at {request.url.path} ({request.method})."
    if error.status_code == 405:
        return f"{request.url.path} does not take {request.method}."
    return error.detail


def _first_invalid(error: RequestValidationError) -> tuple[str, str | None, str]:
    """The first problem of a body as (message, param, code)."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return "The body is not valid JSON.", None, "invalid_json"
    param = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"][1:]).lstrip(".") or None
    if first["type"] == "missing":
        return (f"Missing required parameter: '{param}'." if param else "The body is empty; send JSON.", param,
                "missing_required_parameter")
    if first["type"] == "extra_forbidden":
        return f"Unrecognized request argument supplied: {param}", param, "unknown_parameter"
    what = first["msg"].removeprefix("Value error, ")
    return f"Invalid '{param}': {what[:1].lower()}{what[1:]}.", param, "invalid_value"


_TITLES = {401: "Sign in first", 403: "Refused", 404: "Not found", 405: "Not possible", 421: "Wrong address",
           500: "Something failed here"}
