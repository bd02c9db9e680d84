"""What a model said, kept on disk a line at a time, so that a run that was stopped asks nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tunesmith.store.publish import write_atomically


class Ledger:
    """Rows in a file of JSON lines, under a header that says what made them. A file with another header is begun anew;
    None keeps nothing. A last line that was cut off is dropped."""

    def __init__(self, path: Path | None, header: Mapping[str, Any]):
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        written, wanted = path.read_bytes() if path.exists() else b"", json.dumps(header)
        # bytes: a cut may go through a letter, and a text's splitlines() finds ends of lines inside texts
        first, *lines = written[:written.rfind(b"\n") + 1].decode().split("\n")[:-1] or [""]
        if first != wanted:
            first, lines = wanted, []
        whole = "".join(f"{line}\n" for line in (first, *lines))
        if whole.encode() != written:
            write_atomically(path, whole)
        self.rows = [json.loads(line) for line in lines]

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows at the end."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
