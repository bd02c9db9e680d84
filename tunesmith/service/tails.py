"""Lines of files that only grow: what was read before is not read again, however often a page asks.

A run of 10^5 steps writes tens of megabytes of metrics, and every viewer's page asks every two seconds.
"""

from __future__ import annotations

import json
import os
import threading
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

KEPT = 16
"""Files that are remembered; the one not asked for longest goes first."""
LAST_BYTES = 64 * 1024


@dataclass
class Curves:
    """The numbers of a metrics file: name -> (steps, values), 16 bytes a point; and its last line."""

    inode: int
    read: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    series: dict[str, tuple[array[float], array[float]]] = field(default_factory=dict)

    def add(self, line: Mapping[str, Any]) -> None:
        """One more line."""
        self.last = dict(line)
        for key, value in line.items():
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                steps, values = self.series.setdefault(key, (array("d"), array("d")))
                steps.append(float(line["step"]))
                values.append(float(value))


class Tails:
    """The curves of the runs that somebody looks at."""

    def __init__(self) -> None:
        self._kept: dict[Path, Curves] = {}
        self._lock = threading.Lock()

    def curves(self, path: Path) -> Curves:
        """What the file holds now; only what was appended since the last time is read."""
        with self._lock:
            known = self._kept.pop(path, None)
            try:
                with open(path, "rb") as f:
                    about = os.fstat(f.fileno())
                    if known is None or known.inode != about.st_ino or known.read > about.st_size:
                        known = Curves(about.st_ino)  # new, or written anew by a run that went back
                    f.seek(known.read)
                    whole, newline, _ = f.read().rpartition(b"\n")  # the last line may be on its way
            except FileNotFoundError:
                return Curves(0)
            for text in whole.splitlines():
                if (line := _line(text)) is not None:
                    known.add(line)
            known.read += len(whole) + len(newline)
            self._kept[path] = known
            if len(self._kept) > KEPT:
                self._kept.pop(next(iter(self._kept)))
            return replace(known, series=dict(known.series))


def last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a file of JSON objects, {} if there is none; only its end is read."""
    try:
        with open(path, "rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - LAST_BYTES))
            lines = f.read().splitlines()
    except FileNotFoundError:
        return {}
    return next((found for text in reversed(lines) if (found := _line(text)) is not None), {})


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:  # a line that a crash cut short
        return None
    return found if isinstance(found, dict) and "step" in found else None
