"""Where questions and answers come from: files that people bring, servers that write answers, and live generation.

    /sources                    a file in the browser; the servers that may write answers
    POST /api/uploads           the file itself, as it is (application/octet-stream)

A file is written to disk as it comes, read as data, and removed; it is never served, so nothing in it is ever a page.
Its name only tells its kind and stands in messages. Larger files than `LARGEST` are for `tunesmith import`.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.concurrency import run_in_threadpool

from tunesmith.contracts import Sampling
from tunesmith.errors import DataError, UserError
from tunesmith.records import AnswerGroup, Demonstration, Message
from tunesmith.service import outbound
from tunesmith.service.access import Admin, Form, Manager, Person, require
from tunesmith.service.pages import render
from tunesmith.service.refusals import Refusal
from tunesmith.service.remote import RemoteEngine
from tunesmith.store import desk, formats, sets
from tunesmith.store.audit import audit
from tunesmith.store.checks import valid_name
from tunesmith.store.endpoints import Endpoint, add_endpoint, check_endpoint, endpoints, find_endpoint, remove_endpoint
from tunesmith.store.faults import storing
from tunesmith.store.files import ENDINGS

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

LARGEST = 128 * 2**20
UNPACKED = 512 * 2**20
AT_ONCE = 2
"""Files that are read at a time; the next one is told to come back."""
FOLDER = ".uploads"
OLD_SECONDS = 3600.0
TRY_SECONDS = 30.0

Kind = Literal["answers", "prompts", "demonstrations", "comparisons", "rankings"]
KINDS: dict[str, tuple[str, str]] = {
    "answers": ("Answers to rank", "questions, each with 2 to 9 answers; people rank them next"),
    "prompts": ("Questions", "prompts without answers, or chat logs: the last question of each conversation is taken"),
    "demonstrations": ("Demonstrations", "conversations that end as they should; a reviewer accepts them first"),
    "comparisons": ("Comparisons", "pairs of which one was chosen, or answers with a thumb; for training as they are"),
    "rankings": ("Rankings", "answers with an order somebody gave them; for training as they are"),
}


def router(workspace: Workspace) -> APIRouter:
    """The pages and what they send."""
    routes = APIRouter(default_response_class=HTMLResponse)
    reading = asyncio.Semaphore(AT_ONCE)
    _sweep(workspace.root / FOLDER)

    def page(who: Person, problem: str = "", done: str = "", said: str = "",
             typed: Mapping[str, str] | None = None) -> str:
        return render("sources.html", who=who, kinds=KINDS, endings=ENDINGS, largest=LARGEST // 2**20,
                      endpoints=[_shown(e) for e in endpoints(workspace)], sets=sets.set_names(workspace)[::-1],
                      problem=problem, done=done, said=said, listed=outbound.LISTED, typed=typed or {})

    @routes.get("/sources")
    def sources(who: Manager) -> str:
        return page(who)

    @routes.post("/api/uploads", status_code=201, response_class=JSONResponse)
    async def upload(request: Request, who: Annotated[Person, Depends(require("manager", "data"))], kind: Kind,
                     name: Annotated[str, Query(max_length=64)],
                     file: Annotated[str, Query(max_length=255)]) -> dict[str, Any]:
        """201 once everything in the file is stored; otherwise nothing of it is."""
        valid_name(name)
        shown, ending = _file_name(file)
        if reading.locked():
            raise Refusal(f"{AT_ONCE} files are being read already; try again shortly.", status=429)
        path = workspace.root / FOLDER / f"{uuid.uuid4().hex}{ending}"
        async with reading:
            try:
                await _receive(request, path)
                return await run_in_threadpool(_take, workspace, path, kind, name, shown, who.name)
            finally:
                path.unlink(missing_ok=True)

    @routes.post("/sources/endpoints")
    def add(who: Admin, form: Form) -> HTMLResponse:
        endpoint = Endpoint(*(form.get(field, "").strip() for field in ("name", "url", "model", "key_variable")))
        try:
            target = outbound.parse(check_endpoint(endpoint).url)
            outbound.Policy().check(target)
            add_endpoint(workspace, endpoint, who.name)
        except UserError as error:
            return HTMLResponse(page(who, problem=str(error), typed=form), 400)
        return HTMLResponse(page(who, done=f"{endpoint.name} may write answers now. Try it before you rely on it."))

    @routes.post("/sources/endpoints/try")
    def attempt(who: Admin, form: Form) -> HTMLResponse:
        try:
            engine = RemoteEngine(find_endpoint(workspace, form.get("name", "")), seconds=TRY_SECONDS)
            exchange = engine.stream((Message("user", "Say hello."),), Sampling(max_tokens=16))
            said = "".join(exchange)
        except UserError as error:
            return HTMLResponse(page(who, problem=str(error)), 400)
        return HTMLResponse(page(who, done=f"{form['name']} answers:", said=said or "(an empty answer)"))

    @routes.post("/sources/endpoints/remove")
    def remove(who: Admin, form: Form) -> str:
        remove_endpoint(workspace, name := form.get("name", ""), who.name)
        return page(who, done=f"{name} is forgotten. What it wrote stays.")

    return routes


# ---- files

async def _receive(request: Request, path: Path) -> None:
    """
    Raises:
        Refusal: too large, or empty.
        StorageError: no space.
    """
    size = 0
    with storing(path.parent):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(path, "xb") as f:
            async for chunk in request.stream():
                size += len(chunk)
                if size > LARGEST:
                    raise Refusal(f"The file is larger than {LARGEST // 2**20} MB; bring it at the shell: "
                                  "tunesmith import", status=413)
                await run_in_threadpool(f.write, chunk)


def _take(workspace: Workspace, path: Path, kind: Kind, name: str, shown: str, who: str) -> dict[str, Any]:
    """Read a file and store what is in it."""
    try:
        found = formats.read(path, kind, UNPACKED)
    except DataError as error:
        raise DataError(str(error).replace(str(path), shown)) from error
    rows, new, following = found.rows, len(found.rows), ""
    if kind == "answers":
        new, following = workspace.add_groups(name, [r for r in rows if isinstance(r, AnswerGroup)]), f"/rank/{name}"
    elif kind == "demonstrations":
        drafts = [row for row in rows if isinstance(row, Demonstration)]
        new, following = desk.add(workspace, name, drafts, origin="imported"), f"/desk/{name}"
    else:
        workspace.add_dataset(name, kind, rows, source=shown, skipped=found.skipped)
        following = f"/live?prompts={name}" if kind == "prompts" else ""
    audit(workspace, who, "upload", name, {"kind": kind, "file": shown, "rows": len(rows)})
    return {"name": name, "kind": kind, "rows": len(rows), "new": new, "format": found.format,
            "skipped": found.skipped, "notes": found.notes, "next": following}


def _file_name(name: str) -> tuple[str, str]:
    """(the name as messages show it, its ending).

    Raises:
        Refusal: an unknown kind of file.
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    shown = "".join(c if c.isprintable() else "?" for c in last)[-100:] or "file"
    packed = ".gz" if last.lower().endswith(".gz") else ""
    ending = next((e for e in ENDINGS if last.lower().removesuffix(".gz").endswith(e)), None)
    if ending is None:
        raise Refusal(f"{shown}: unknown kind of file; known are {', '.join(ENDINGS)}, each also with .gz",
                      param="file")
    return shown, ending + packed


def _sweep(folder: Path) -> None:
    """Remove what a server that was killed left behind."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.stat().st_mtime < time.time() - OLD_SECONDS:
                path.unlink()


# ---- endpoints

def _shown(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as the page shows it; of the key only whether there is one."""
    return {"endpoint": endpoint, "key": bool(os.environ.get(endpoint.key_variable)) if endpoint.key_variable else None}
