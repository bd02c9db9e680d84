"""Tasks in files: seeds that people wrote, and the journal of what a model made of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.data import rows
from tunesmith.data.selfinstruct import Made, Task
from tunesmith.errors import DataError, UserError
from tunesmith.store.files import read_rows
from tunesmith.store.workspace import Workspace

JOURNAL = "tasks.jsonl"


def read(seeds: str, workspace: Workspace) -> list[Task]:
    """The tasks of a file, or of a dataset of demonstrations.

    Raises:
        DataError: a row that is no task, with file and line; or there is none.
        NotFound: neither a file nor a dataset.
        UserError: a dataset of something else.
    """
    path = Path(seeds).expanduser()
    if path.exists():
        found = [_task(row, path, line) for line, row in read_rows(path, Counter())]
    else:
        data = workspace.dataset(seeds)
        if data.kind != "demonstrations":
            raise UserError(f"{seeds} holds {data.kind}; seeds are demonstrations, or a file of tasks")
        found = [Task(rows.question(r), (("", rows.answered(r)[0]),)) for r in data.rows()]
    if not found:
        raise DataError("holds no tasks", seeds)
    return found


def append(path: Path, made: Sequence[Made]) -> None:
    """Add tasks to the journal, on disk when this returns."""
    add_lines(path, map(asdict, made))


def add_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a file of JSON lines, whose last line a crash may have cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.read_bytes() if path.exists() else b""
    with open(path, "ab") as f:
        if whole and not whole.endswith(b"\n"):
            f.write(b"\n")  # a line that a crash cut off is not continued
        f.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def journal(path: Path) -> list[Made]:
    """The tasks of earlier runs; a line that was cut off is as if it had never been."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        task = row["task"]
        found.append(Made(Task(task["instruction"], tuple((a, b) for a, b in task["examples"]),
                               task["classification"]), row["request"], tuple(row["shown"]), row["nearest"]))
    return found


def _task(row: Mapping[str, Any], path: Path, line: int) -> Task:
    """One row: `instances` as the authors' seed tasks have them, or one `input` and `output`."""
    if not isinstance(row.get("instruction"), str) or not row["instruction"].strip():
        raise DataError('"instruction" is missing or empty', path, line)
    found = row.get("instances", [row])
    if not isinstance(found, list) or not all(isinstance(e, Mapping) for e in found):
        raise DataError('"instances" must be a list of objects with "input" and "output"', path, line)
    examples = tuple(_example(e, path, line) for e in found if e.get("output"))
    return Task(row["instruction"].strip(), examples, row.get("is_classification") is True)


def _example(row: Mapping[str, Any], path: Path, line: int) -> tuple[str, str]:
    given, out = row.get("input") or "", row["output"]
    if not isinstance(given, str) or not isinstance(out, str):
        raise DataError('"input" and "output" must be texts', path, line)
    return given.strip(), out.strip()
