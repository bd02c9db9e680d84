"""Every suite by name: what `tunesmith evaluate --suite` can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tunesmith.errors import UserError, nearest
from tunesmith.evaluate.suite import Suite

Make = Callable[[Path | None], Suite]
"""A suite from the folder with the user's files, if one was named."""

KNOWN: dict[str, Make] = {}


def find(names: Sequence[str], files: str = "", known: Mapping[str, Make] = KNOWN) -> list[Suite]:
    """The suites of these names, in that order, each once.

    Raises:
        UserError: no such suite, or its file is missing.
    """
    for name in names:
        if name not in known:
            raise UserError(f'no suite "{name}"{nearest(name, known)}; there are: {", ".join(known)}')
    folder = Path(files) if files else None
    if folder and not folder.is_dir():
        raise UserError(f"--files {files}: no such folder")
    return [known[name](folder) for name in dict.fromkeys(names)]
