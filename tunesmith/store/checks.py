"""Which names datasets, adapters, sets and labelers may have."""

from __future__ import annotations

import re

from tunesmith.errors import DataError, UserError

LONGEST = 64
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def valid_name(name: str, what: str = "name") -> str:
    """The name, if it can be a folder's name everywhere.

    Raises:
        UserError: empty, too long, starting with a dot, or with anything but letters, digits, `.`, `_`, `-`.
    """
    if len(name) > LONGEST:
        raise UserError(f'{what} "{name[:20]}..." has {len(name)} characters; at most {LONGEST} are allowed')
    if not _NAME.fullmatch(name):
        raise UserError(f'"{name}" cannot be a {what}: use letters, digits, ".", "_" and "-", not starting with "."')
    return name


def valid_labeler(name: str) -> str:
    """The name, if it can stand beside a judgement: 1 to 64 printable characters, in any script.

    Raises:
        DataError: empty, too long or unprintable.
    """
    if not name.strip() or len(name) > LONGEST or not name.isprintable():
        raise DataError(f"a labeler's name has 1 to {LONGEST} printable characters, got {name[:LONGEST + 1]!r}")
    return name


def split_version(name: str) -> tuple[str, int | None]:
    """`"m@2"` -> `("m", 2)`, `"m"` -> `("m", None)`.

    Raises:
        UserError: the part after @ is not a version number.
    """
    stem, at, version = name.partition("@")
    if not at:
        return stem, None
    if not (version.isascii() and version.isdigit()):
        raise UserError(f'"{name}": what follows @ must be a version number, as in "{stem}@1"')
    return stem, int(version)
