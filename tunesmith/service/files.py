"""OpenAI's /v1/files and /v1/uploads.

All keys of a workspace see the same files, as all of a project's do at OpenAI. A file in parts becomes an ordinary
file when its upload is completed. Left out: what `assistants`, `batch` and `vision` files are for elsewhere; they are
kept and given back.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import FormData, UploadFile

from tunesmith.errors import NotFound, UserError
from tunesmith.service.access import Caller, Id, program
from tunesmith.service.quotas import over_quota
from tunesmith.service.refusals import Refusal
from tunesmith.store import blobs, once

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

Files = Annotated[Caller, Depends(program("files"))]
KEEP = (3600, 30 * 86400)
"""Seconds that `expires_after` may say."""
BATCH_DAYS = 30


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class ExpiresAfter(Strict):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=KEEP[0], le=KEEP[1])


class NewUpload(Strict):
    filename: str = Field(min_length=1, max_length=255)
    purpose: str
    bytes: int = Field(ge=1)
    mime_type: str = Field(max_length=255)
    expires_after: ExpiresAfter | None = None


class Complete(Strict):
    part_ids: list[Annotated[Id, Field(max_length=64)]] = Field(min_length=1, max_length=10_000)
    md5: str | None = Field(None, pattern="^[0-9a-fA-F]{32}$")


def router(workspace: Workspace) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1")

    @routes.get("/files")
    def files(who: Files, limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000, after: Id = "", purpose: Id = "",
              order: Literal["asc", "desc"] = "desc") -> dict[str, Any]:
        found, more = _known(blobs.files, workspace, limit, after=after, purpose=purpose, newest_first=order == "desc",
                             param="after")
        return page([shown(f) for f in found], more)

    @routes.post("/files")
    async def create(request: Request, who: Files) -> dict[str, Any]:
        async with _form(request, "file") as (source, fields):
            purpose, keep = _purpose(fields.pop("purpose", None)), _keep(fields)
            _nothing_else(fields)
            keep = keep or (BATCH_DAYS * 86400 if purpose == "batch" else 0)
            filename = _filename(source.filename)

            def mark(sha256: str) -> once.Mark:
                return marked(request, who, "\0".join([filename, purpose, str(keep), sha256]))

            return shown(await run_in_threadpool(
                _stored, blobs.add, workspace, source.file, _sender(request, who), filename, purpose,
                keep_seconds=keep, mark=mark))

    @routes.get("/files/{id}")
    def file(id: Id, who: Files) -> dict[str, Any]:
        return shown(_known(blobs.file, workspace, id, param="id"))

    @routes.delete("/files/{id}")
    def delete(id: Id, who: Files) -> dict[str, Any]:
        return {"id": _known(blobs.delete, workspace, id, param="id").id, "object": "file", "deleted": True}

    @routes.get("/files/{id}/content")
    def content(id: Id, who: Files) -> FileResponse:
        found = _known(blobs.file, workspace, id, param="id")
        return FileResponse(blobs.path(workspace, found), media_type="application/octet-stream", headers={
            "content-disposition": f"attachment; filename*=UTF-8''{quote(found.filename, safe='')}",
            "content-security-policy": "sandbox; default-src 'none'"})

    @routes.post("/uploads")
    def announce(body: NewUpload, request: Request, who: Files) -> dict[str, Any]:
        keep = body.expires_after.seconds if body.expires_after else 0
        return _upload(workspace, _stored(
            blobs.new_upload, workspace, _sender(request, who), _filename(body.filename), _purpose(body.purpose),
            body.bytes, keep))

    @routes.post("/uploads/{id}/parts")
    async def part(id: Id, request: Request, who: Files) -> dict[str, Any]:
        async with _form(request, "data") as (source, fields):
            _nothing_else(fields)
            made, created = await run_in_threadpool(
                _known, blobs.add_part, workspace, id, source.file, param="upload_id")
        return {"id": made, "object": "upload.part", "created_at": seconds(created), "upload_id": id}

    @routes.post("/uploads/{id}/complete")
    def complete(id: Id, body: Complete, who: Files) -> dict[str, Any]:
        done, made = _known(blobs.complete, workspace, id, body.part_ids, body.md5 or "", param="upload_id")
        return _upload(workspace, done, made)

    @routes.post("/uploads/{id}/cancel")
    def cancel(id: Id, who: Files) -> dict[str, Any]:
        return _upload(workspace, _known(blobs.cancel_upload, workspace, id, param="upload_id"))

    return routes


def shown(file: blobs.File) -> dict[str, Any]:
    """OpenAI's File object."""
    expires = {"expires_at": seconds(file.expires)} if file.expires else {}  # OpenAI's schema knows no null here
    return {"id": file.id, "object": "file", "bytes": file.bytes, "created_at": seconds(file.created), **expires,
            "filename": file.filename, "purpose": file.purpose, "status": "processed"}


def page(data: list[dict[str, Any]], more: bool, *, ends: bool = True) -> dict[str, Any]:
    """A page of a list, with the ids of its ends, "" where it is empty."""
    known = {"first_id": data[0]["id"] if data else "", "last_id": data[-1]["id"] if data else ""}
    return {"object": "list", "data": data, "has_more": more, **(known if ends else {})}


def seconds(moment: str) -> int | None:
    """The store's time as Unix time; None for never."""
    return int(datetime.fromisoformat(moment).timestamp()) if moment else None


def marked(request: Request, who: Caller, said: str) -> once.Mark:
    """What tells this request from others, so that the same one sent again makes nothing new."""
    key = request.headers.get("idempotency-key", "")
    if len(key) > 255:
        raise Refusal("An Idempotency-Key has 255 characters at most.", param="Idempotency-Key", code="invalid_value")
    again = request.headers.get("x-stainless-retry-count", "0")
    return once.Mark(f"{who.account} {who.key}", request.url.path, said, key, again.isdecimal() and int(again) > 0,
                     request.state.arrived)


# ---- forms

@asynccontextmanager
async def _form(request: Request, name: str) -> AsyncIterator[tuple[UploadFile, dict[str, str]]]:
    """The file of a multipart form, and its other fields.

    Raises:
        Refusal: no such form, another or a second file, a field twice.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Refusal(f"Send the file as a form: multipart/form-data with the field '{name}'.", status=415)
    async with request.form(max_files=1, max_fields=16, max_part_size=64 * 1024) as form:
        source = form.get(name)
        if not isinstance(source, UploadFile):
            raise Refusal(f"Missing required parameter: '{name}'; it must be a file.", param=name,
                          code="missing_required_parameter")
        yield source, _fields(form, name)


def _fields(form: FormData, but: str) -> dict[str, str]:
    pairs = [(k, v) for k, v in form.multi_items() if k != but]
    fields = {k: v for k, v in pairs if isinstance(v, str)}
    if len(fields) != len(pairs):
        raise Refusal("The form has a field twice, or a file in a field that is none.", code="invalid_value")
    return fields


def _nothing_else(fields: dict[str, str]) -> None:
    for name in fields:
        raise Refusal(f"Unrecognized request argument supplied: {name[:100]}", param=name[:100],
                      code="unknown_parameter")


def _keep(fields: dict[str, str]) -> int:
    """`expires_after[anchor]` and `expires_after[seconds]`, as OpenAI's client writes nested fields; 0 without."""
    anchor, lasts = (fields.pop(f"expires_after[{name}]", None) for name in ("anchor", "seconds"))
    if anchor is None and lasts is None:
        return 0
    if anchor != "created_at":
        raise Refusal("Invalid 'expires_after[anchor]': it must be created_at.", param="expires_after[anchor]",
                      code="invalid_value")
    if not re.fullmatch(r"[0-9]{1,9}", lasts or "") or not KEEP[0] <= int(lasts or 0) <= KEEP[1]:
        raise Refusal(f"Invalid 'expires_after[seconds]': it must be a number from {KEEP[0]} to {KEEP[1]}.",
                      param="expires_after[seconds]", code="invalid_value")
    return int(lasts or 0)


def _purpose(purpose: str | None) -> str:
    if purpose is None:
        raise Refusal("Missing required parameter: 'purpose'.", param="purpose", code="missing_required_parameter")
    if purpose not in blobs.PURPOSES:
        raise Refusal(f"'{purpose[:60]}' is not one of {list(blobs.PURPOSES)} - 'purpose'", param="purpose",
                      code="invalid_value")
    return purpose


def _filename(name: str | None) -> str:
    """The user's name for a file; only shown, never a path of ours."""
    plain = "".join(c for c in re.split(r"[/\\]", name or "")[-1] if c.isprintable())
    return plain[:255] or "file"


# ---- errors

def _sender(request: Request, who: Caller) -> blobs.Sender:
    return blobs.Sender(who.account, who.key, request.app.state.quotas.storage_bytes)


def _stored(function: Any, *args: Any, **known: Any) -> Any:
    try:
        return _known(function, *args, param="file", **known)
    except Refusal as error:
        if isinstance(error.__cause__, blobs.OverQuota):
            raise over_quota(error.__cause__) from error
        raise


def _known(function: Any, *args: Any, param: str, **known: Any) -> Any:
    """What the store says, with the field that an error is about."""
    try:
        return function(*args, **known)
    except NotFound as error:
        raise Refusal(str(error), status=404, param=param) from error
    except UserError as error:
        raise Refusal(str(error), param=param) from error


def _upload(workspace: Workspace, found: blobs.Upload, made: blobs.File | None = None) -> dict[str, Any]:
    return {"id": found.id, "object": "upload", "bytes": found.bytes, "created_at": seconds(found.created),
            "expires_at": seconds(found.expires), "filename": found.filename, "purpose": found.purpose,
            "status": found.status, "file": shown(made) if made else None}
