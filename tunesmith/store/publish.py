"""A folder appears whole or not at all.

Written aside (`.tmp-...` in the same parent), every file synced, `manifest.json` (sha256 and size of every file)
last, then one rename. Readers trust only a folder whose manifest verifies. What a crash leaves behind is a
`.tmp-...` folder, which nobody reads and `clean` removes later.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.records import fingerprint
from tunesmith.store.failpoints import failpoint
from tunesmith.store.faults import storing

MANIFEST = "manifest.json"
Write = Callable[[Path], Mapping[str, Any] | None]
"""Fills an empty folder; what it returns, if anything, joins the manifest's `about`."""


class Damaged(Exception):
    """A folder that does not match its manifest; the message says how. Callers turn it into their own error."""


class Taken(Exception):
    """Every candidate name exists already."""


def publish(parent: Path, places: Iterator[str], write: Write, about: Mapping[str, Any], point: str) -> Path:
    """Write a folder and give it the first free name of `places`.

    Args:
        places: candidate names inside `parent`, best first; `Taken` when they run out.
        write: fills the folder.
        about: what the manifest says besides the files.
        point: prefix of the failpoints `-written`, `-sealed`, `-renamed`.

    Raises:
        StorageError: no space, read-only.
        Taken: all places are taken; nothing was changed.
    """
    with aside(parent) as folder:
        with storing(parent):
            about = {**about, **(write(folder) or {})}
            failpoint(f"{point}-written")
            seal(folder, about)
            failpoint(f"{point}-sealed")
            target = _rename_to_first_free(folder, parent, places)
            sync(parent)
            failpoint(f"{point}-renamed")
            return target


@contextmanager
def aside(parent: Path) -> Iterator[Path]:
    """A fresh hidden folder inside `parent`; removed on exit unless renamed."""
    with storing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        folder = parent / f".tmp-{uuid.uuid4().hex}"
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def seal(folder: Path, about: Mapping[str, Any]) -> None:
    """Sync every file, then write the manifest, then sync the folder."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sync(path)
        files[path.relative_to(folder).as_posix()] = {"sha256": sha256(path), "size": path.stat().st_size}
    body = {"format": 1, "about": dict(about), "files": files}
    # no NaN: a manifest that other JSON readers refuse must not be renamed into place
    text = json.dumps({**body, "checksum": fingerprint(body)}, indent=1, ensure_ascii=True, allow_nan=False)
    with open(folder / MANIFEST, "w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    for path in sorted(p for p in folder.rglob("*") if p.is_dir()):
        sync(path)
    sync(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, its own checksum verified.

    Raises:
        Damaged: missing, unreadable or altered.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        body = {key: manifest[key] for key in ("format", "about", "files")}
        if manifest["checksum"] != fingerprint(body):
            raise Damaged(f"{MANIFEST} was altered")
    except OSError as e:
        raise Damaged(f"{MANIFEST} is missing" if e.errno == errno.ENOENT else f"{MANIFEST}: {e.strerror}") from e
    except (ValueError, KeyError, TypeError) as e:
        raise Damaged(f"{MANIFEST} is not readable") from e
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a folder all of whose files match it, byte for byte.

    Raises:
        Damaged: names the first file that does not.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != expected["size"]:
                raise Damaged(f"{name} has {size} bytes instead of {expected['size']}")
            if sha256(path) != expected["sha256"]:
                raise Damaged(f"{name} was altered")
        except OSError as e:
            raise Damaged(f"{name} is missing" if e.errno == errno.ENOENT else f"{name}: {e.strerror}") from e
    return manifest


def write_atomically(path: Path, text: str) -> None:
    """Replace one file's content, whole or not at all."""
    with storing(path.parent):
        new = path.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            with open(new, "w", encoding="utf-8") as f:
                f.write(text)
                f.flush()
                os.fsync(f.fileno())
            os.replace(new, path)
            sync(path.parent)
        finally:
            new.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Delete a published folder; it disappears at once, a crash leaves only a `.tmp-` folder."""
    gone = folder.with_name(f".tmp-{uuid.uuid4().hex}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def clean(parent: Path, older_than: float = 3600.0) -> None:
    """Remove the `.tmp-` leftovers of crashed writers, young ones excepted: they may be at work."""
    for path in parent.glob(".tmp-*"):
        try:
            newest = max(p.stat().st_mtime for p in (path, *path.rglob("*")))
            if time.time() - newest > older_than:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:
            continue  # someone else removed or finished it meanwhile


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The hex digest of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _rename_to_first_free(folder: Path, parent: Path, places: Iterator[str]) -> Path:
    for place in places:
        try:  # renaming onto a folder with files fails, so two writers can never share a name
            return folder.rename(parent / place)
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
    raise Taken(str(parent))
