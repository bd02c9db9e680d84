"""Files that programs send under /v1/files, and uploads in parts: bytes in files/, a row for each.

The bytes are written aside, synced and renamed before the row is written, so a row always has its bytes; bytes that a
crash left without a row are swept away. Deleting a file takes its bytes at once and keeps the row.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import sqlalchemy as sa

from tunesmith.errors import NotFound, UserError
from tunesmith.store import once
from tunesmith.store import tables as db
from tunesmith.store.database import alone
from tunesmith.store.failpoints import failpoint
from tunesmith.store.faults import storing
from tunesmith.store.files import ENDINGS
from tunesmith.store.publish import sync
from tunesmith.store.runs import now
from tunesmith.store.team import from_now

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

FOLDER = "files"
PURPOSES = ("fine-tune", "assistants", "batch", "vision", "user_data", "evals")
"""What a program may say a file is for; `fine-tune-results` are written by jobs."""
LARGEST = {"batch": 200 * 2**20}
LARGEST_FILE = 512 * 2**20
LARGEST_UPLOAD = 8 * 2**30
LARGEST_PART = 64 * 2**20
UPLOAD_HOURS = 1.0
CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class File:
    """One file. `expires` is "" for never."""

    seq: int
    id: str
    account: str
    key_id: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    created: str
    expires: str
    deleted: bool


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that comes in parts; `bytes` is what was announced."""

    seq: int
    id: str
    account: str
    key_id: str
    filename: str
    purpose: str
    bytes: int
    keep_seconds: int
    status: str
    created: str
    expires: str
    file_id: str


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose files these are, and how many bytes they may have in all (0: no limit)."""

    account: str
    key_id: str = ""
    quota: int = 0


class OverQuota(UserError):
    """This key has stored all that it may; says how much."""

    status = 429


def new_id(prefix: str) -> str:
    """An id that nobody guesses."""
    return f"{prefix}{secrets.token_hex(12)}"


# ---- files

def add(workspace: Workspace, source: BinaryIO, sender: Sender, filename: str, purpose: str, *, keep_seconds: int = 0,
        mark: Callable[[str], once.Mark] | None = None, id: str = "") -> File:
    """Store a file; the one that this request stored before, if it came before.

    Args:
        mark: makes the request's mark from the SHA-256 of the bytes.
        id: a fixed one, for what is written once however often it is tried.

    Raises:
        UserError: empty, too large for its purpose.
        OverQuota: no room for it.
        StorageError: no space.
    """
    id = id or new_id("file-")
    place = workspace.root / FOLDER / stored_name(id, filename)
    size, digest = _write(source, place, LARGEST.get(purpose, LARGEST_FILE))
    return _register(workspace, place, sender, dict(
        id=id, filename=filename[:255], purpose=purpose, bytes=size, sha256=digest,
        expires=from_now(minutes=keep_seconds / 60) if keep_seconds else ""), mark)


def _register(workspace: Workspace, place: Path, sender: Sender, row: dict[str, object],
              mark: Callable[[str], once.Mark] | None) -> File:
    def write(c: sa.Connection) -> str:
        alone(c, "files")
        if mark and (before := once.first(c, mark(str(row["sha256"])))):
            return before
        if c.scalar(sa.select(db.files.c.id).where(db.files.c.id == row["id"])):
            return str(row["id"])
        room(c, sender, int(str(row["bytes"])))
        c.execute(sa.insert(db.files).values(account=sender.account, key_id=sender.key_id, created=now(), **row))
        if mark:
            once.note(c, mark(str(row["sha256"])), str(row["id"]))
        return str(row["id"])

    try:
        stored = workspace.database.write(write)
    except UserError:
        place.unlink(missing_ok=True)
        raise
    if stored != row["id"]:
        place.unlink(missing_ok=True)
    return file(workspace, stored)


def room(c: sa.Connection, sender: Sender, size: int) -> None:
    """
    Raises:
        OverQuota: the sender's files would have more bytes than they may.
    """
    if not sender.quota:
        return
    mine = sa.select(sa.func.coalesce(sa.func.sum(db.files.c.bytes), 0)).where(
        db.files.c.account == sender.account, db.files.c.key_id == sender.key_id, ~db.files.c.deleted)
    if (used := int(c.scalar(mine) or 0)) + size > sender.quota:
        raise OverQuota(f"the files of this key would have {used + size} bytes; it may store {sender.quota}. Delete "
                        "files that are no longer needed")


def file(workspace: Workspace, id: str) -> File:
    """
    Raises:
        NotFound: there is none, or it was deleted or has expired.
    """
    with workspace.database.read() as c:
        row = c.execute(sa.select(db.files).where(db.files.c.id == id, *_there())).first()
    if row is None:
        raise NotFound(f"No such File object: {id[:100]}")
    return File(**row._mapping)


def files(workspace: Workspace, limit: int, *, after: str = "", purpose: str = "",
          newest_first: bool = True) -> tuple[list[File], bool]:
    """A page of files, and whether more follow.

    Raises:
        NotFound: `after` is no file's id.
    """
    where = list(_there()) + ([db.files.c.purpose == purpose] if purpose else [])
    return _page(workspace, db.files, where, limit, after, newest_first, File, "File object")


def delete(workspace: Workspace, id: str) -> File:
    """Delete a file.

    Raises:
        NotFound: there is none.
    """
    found = file(workspace, id)
    workspace.database.write(lambda c: c.execute(
        sa.update(db.files).where(db.files.c.id == id).values(deleted=True)))
    path(workspace, found).unlink(missing_ok=True)
    return found


def path(workspace: Workspace, file: File) -> Path:
    """Where the bytes lie; the ending is the user's, so that readers know what it is."""
    return workspace.root / FOLDER / stored_name(file.id, file.filename)


def stored_name(id: str, filename: str) -> str:
    """`file-1a2b.jsonl`: our id, and an ending that we know."""
    name = filename.lower()
    packed = ".gz" if name.endswith(".gz") else ""
    ending = next((e for e in ENDINGS if name.removesuffix(".gz").endswith(e)), ".jsonl")
    return f"{id}{ending}{packed}"


# ---- uploads

def new_upload(workspace: Workspace, sender: Sender, filename: str, purpose: str, size: int,
               keep_seconds: int = 0) -> Upload:
    """Announce a file that will come in parts.

    Raises:
        UserError: too large.
        OverQuota: no room for it.
    """
    if size > LARGEST_UPLOAD:
        raise UserError(f"an upload may have {LARGEST_UPLOAD} bytes at most, this one would have {size}")
    id = new_id("upload_")

    def write(c: sa.Connection) -> None:
        room(c, sender, size)
        c.execute(sa.insert(db.uploads).values(
            id=id, account=sender.account, key_id=sender.key_id, filename=filename[:255], purpose=purpose, bytes=size,
            keep_seconds=keep_seconds, status="pending", created=now(), expires=from_now(minutes=60 * UPLOAD_HOURS)))

    workspace.database.write(write)
    return upload(workspace, id)


def upload(workspace: Workspace, id: str) -> Upload:
    """
    Raises:
        NotFound: there is none.
    """
    with workspace.database.read() as c:
        row = c.execute(sa.select(db.uploads).where(db.uploads.c.id == id)).first()
    if row is None:
        raise NotFound(f"No such Upload object: {id[:100]}")
    found = dict(row._mapping)
    if found["status"] == "pending" and found["expires"] <= now():
        found["status"] = "expired"
    return Upload(**found)


def add_part(workspace: Workspace, id: str, source: BinaryIO) -> tuple[str, str]:
    """Store a part; its id and when it came.

    Raises:
        UserError: the upload takes no more parts, or this one is too large or empty.
    """
    _pending(found := upload(workspace, id))
    part = new_id("part_")
    size, _ = _write(source, place := _part(workspace, part), LARGEST_PART)
    created = now()

    def write(c: sa.Connection) -> None:
        alone(c, f"upload {id}")
        sent = c.scalar(sa.select(sa.func.coalesce(sa.func.sum(db.upload_parts.c.bytes), 0))
                        .where(db.upload_parts.c.upload_seq == found.seq)) or 0
        if sent + size > 2 * found.bytes + LARGEST_PART:  # parts may be sent again, but not for ever
            raise UserError(f"the parts of this upload have {sent + size} bytes; {found.bytes} were announced")
        c.execute(sa.insert(db.upload_parts).values(id=part, upload_seq=found.seq, bytes=size, created=created))

    try:
        workspace.database.write(write)
    except UserError:
        place.unlink(missing_ok=True)
        raise
    return part, created


def complete(workspace: Workspace, id: str, parts: Sequence[str], md5: str = "") -> tuple[Upload, File]:
    """Put the parts together, in this order. Asked again, it answers with the same file.

    Raises:
        UserError: cancelled or expired; unknown parts; another size or checksum than was announced.
    """
    found = upload(workspace, id)
    if found.status == "completed":
        return found, file(workspace, found.file_id)
    _pending(found)
    with workspace.database.read() as c:
        sizes = {row.id: row.bytes for row in c.execute(
            sa.select(db.upload_parts).where(db.upload_parts.c.upload_seq == found.seq))}
    if unknown := [p for p in parts if p not in sizes]:
        raise UserError(f"No such part of upload {id}: {unknown[0][:100]}")
    if len(set(parts)) != len(parts):
        raise UserError("a part is named twice")
    if (size := sum(sizes[p] for p in parts)) != found.bytes:
        raise UserError(f"the parts have {size} bytes, {found.bytes} were announced")
    file_id = f"file-{hashlib.sha256(id.encode()).hexdigest()[:24]}"  # of the upload: completed twice, it is one file
    place = workspace.root / FOLDER / stored_name(file_id, found.filename)
    check = hashlib.md5(usedforsecurity=False)
    size, digest = _store(_chunks(workspace, parts, check.update), place, found.bytes)
    if md5 and check.hexdigest() != md5.lower():
        place.unlink(missing_ok=True)
        raise UserError(f"the parts have the MD5 {check.hexdigest()}, not {md5[:64]}")
    made = _register(workspace, place, Sender(found.account, found.key_id), dict(
        id=file_id, filename=found.filename, purpose=found.purpose, bytes=size, sha256=digest,
        expires=from_now(minutes=found.keep_seconds / 60) if found.keep_seconds else ""), None)
    failpoint("upload-stored")
    _end(workspace, found, "completed", file_id)
    return upload(workspace, id), made


def cancel_upload(workspace: Workspace, id: str) -> Upload:
    """Take no more parts.

    Raises:
        UserError: it is over already.
    """
    found = upload(workspace, id)
    if found.status != "cancelled":
        _pending(found)
        _end(workspace, found, "cancelled")
    return upload(workspace, id)


def sweep(workspace: Workspace, older_than: float = 3600.0) -> None:
    """Delete what has expired, and bytes that a crash left without a row."""
    with workspace.database.read() as c:
        gone = [File(**r._mapping) for r in c.execute(
            sa.select(db.files).where(~db.files.c.deleted, db.files.c.expires != "", db.files.c.expires <= now()))]
        late = [Upload(**r._mapping) for r in c.execute(
            sa.select(db.uploads).where(db.uploads.c.status == "pending", db.uploads.c.expires <= now()))]
    for one in gone:
        workspace.database.write(lambda c, one=one: c.execute(  # type: ignore[misc]
            sa.update(db.files).where(db.files.c.id == one.id).values(deleted=True)))
        path(workspace, one).unlink(missing_ok=True)
    for pending in late:
        _end(workspace, pending, "expired")
    _sweep_orphans(workspace, older_than)


def _sweep_orphans(workspace: Workspace, older_than: float) -> None:
    old = []
    for place in (workspace.root / FOLDER).glob("*"):
        with suppress(OSError):
            if time.time() - place.stat().st_mtime > older_than:
                old.append(place)
    if not old:
        return
    with workspace.database.read() as c:
        known = set(c.scalars(sa.select(db.files.c.id).where(~db.files.c.deleted)))
        known |= set(c.scalars(sa.select(db.upload_parts.c.id).join(db.uploads).where(
            db.uploads.c.status == "pending")))
    for place in old:
        if place.name.startswith(".") or place.name.partition(".")[0] not in known:
            place.unlink(missing_ok=True)


def _end(workspace: Workspace, found: Upload, status: str, file_id: str = "") -> None:
    """Close an upload and drop its parts."""
    def write(c: sa.Connection) -> None:
        c.execute(sa.update(db.uploads).where(db.uploads.c.seq == found.seq, db.uploads.c.status == "pending")
                  .values(status=status, file_id=file_id))

    workspace.database.write(write)
    with workspace.database.read() as c:
        parts = c.scalars(sa.select(db.upload_parts.c.id).where(db.upload_parts.c.upload_seq == found.seq)).all()
    for part in parts:
        _part(workspace, part).unlink(missing_ok=True)


def _pending(found: Upload) -> None:
    if found.status != "pending":
        raise UserError(f"Upload {found.id} is {found.status}; start a new one")


def _part(workspace: Workspace, part: str) -> Path:
    return workspace.root / FOLDER / part


def _chunks(workspace: Workspace, parts: Sequence[str], seen: Callable[[bytes], None]) -> Iterable[bytes]:
    for part in parts:
        with open(_part(workspace, part), "rb") as f:
            while chunk := f.read(CHUNK):
                seen(chunk)
                yield chunk


def _there() -> tuple[sa.ColumnElement[bool], ...]:
    return ~db.files.c.deleted, sa.or_(db.files.c.expires == "", db.files.c.expires > now())


def _page(workspace: Workspace, table: sa.Table, where: list[sa.ColumnElement[bool]], limit: int, after: str,
          newest_first: bool, make: type[File], what: str) -> tuple[list[File], bool]:
    with workspace.database.read() as c:
        if after:
            seq = c.scalar(sa.select(table.c.seq).where(table.c.id == after))
            if seq is None:
                raise NotFound(f"No such {what}: {after[:100]}")
            where.append(table.c.seq < seq if newest_first else table.c.seq > seq)
        order = table.c.seq.desc() if newest_first else table.c.seq
        rows = c.execute(sa.select(table).where(*where).order_by(order).limit(limit + 1)).all()
    return [make(**r._mapping) for r in rows[:limit]], len(rows) > limit


def _write(source: BinaryIO, place: Path, largest: int) -> tuple[int, str]:
    return _store(iter(lambda: source.read(CHUNK), b""), place, largest)


def _store(chunks: Iterable[bytes], place: Path, largest: int) -> tuple[int, str]:
    """Bytes and SHA-256 of what is in `place` afterwards, whole or not at all.

    Raises:
        UserError: nothing, or more than `largest` bytes.
        StorageError: no space.
    """
    size, digest = 0, hashlib.sha256()
    with storing(place.parent):
        place.parent.mkdir(mode=0o700, exist_ok=True)
        aside = place.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            with open(aside, "xb") as f:
                for chunk in chunks:
                    size += len(chunk)
                    if size > largest:
                        raise UserError(f"the file is larger than {largest} bytes")
                    digest.update(chunk)
                    f.write(chunk)
                f.flush()
                os.fsync(f.fileno())
            if not size:
                raise UserError("the file is empty")
            failpoint("file-written")
            os.replace(aside, place)
            sync(place.parent)
            failpoint("file-renamed")
        finally:
            aside.unlink(missing_ok=True)
    return size, digest.hexdigest()
