"""What a person sees while something runs: a progress display on a terminal, plain lines otherwise."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tunesmith.contracts import Progress

EVERY = 10.0
"""Seconds between plain progress lines."""


class Terminal:
    """Speaks on stderr; `result` alone writes to stdout, as JSON if asked to."""

    def __init__(self, as_json: bool = False, quiet: bool = False):
        self.as_json, self.quiet = as_json, quiet
        self.fancy = sys.stderr.isatty() and not as_json and not quiet

    def say(self, text: str) -> None:
        """One line for the person."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def result(self, value: Mapping[str, Any], text: str) -> None:
        """The command's result: one JSON object with --json, else the text."""
        print(json.dumps(value, ensure_ascii=False, default=str) if self.as_json else text, flush=True)

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """A callback (done, total, metrics) that draws a bar, or prints a line every few seconds."""
        if self.fancy:
            with _bar(title) as update:
                yield update
        else:
            yield self._lines(title)

    def _lines(self, title: str) -> Progress:
        state = {"next": 0.0, "start": time.monotonic()}

        def update(done: int, total: int, metrics: Mapping[str, float]) -> None:
            now = time.monotonic()
            if now >= state["next"] or done >= total:
                state["next"] = now + EVERY
                self.say(f"{title}: {done}/{total}{_figures(metrics)} ({now - state['start']:.0f} s)")

        return update


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("[bold]{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(),
               TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(), TextColumn("{task.fields[figures]}"))
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, figures="")

        def update(done: int, total: int, metrics: Mapping[str, float]) -> None:
            bar.update(task, completed=done, total=total, figures=_figures(metrics))

        yield update


def _figures(metrics: Mapping[str, float]) -> str:
    """The few figures worth watching."""
    watched = [k for k in ("loss", "accuracy", "reward", "gold", "kl", "finished", "grader_errors") if k in metrics]
    rung = int(metrics.get("alarms", 0))
    return "".join(f"  {k} {metrics[k]:.3f}" for k in watched) + (f"  ALARMS {rung}" if rung else "")


def watched(summary: Mapping[str, Any]) -> list[str]:
    """What a run's monitors said, for the end: alarms, why it stopped early, which version was kept."""
    lines = [f"ALARM after update {a['step']}: {a['text']}" for a in summary.get("alarms", ())]
    if summary.get("stopped_by"):
        lines.append(f"stopped early: {summary['stopped_by']}")
    if "best_step" in summary:
        lines.append(f"published: the version of update {summary['best_step']}, the best that the gold judge saw")
    return lines


def table(rows: Sequence[Mapping[str, Any]], empty: str = "nothing yet") -> str:
    """Rows as aligned columns of plain text."""
    if not rows:
        return empty
    heads = list(rows[0])
    cells = [[str(row[h]) for h in heads] for row in rows]
    widths = [max(len(h), *(len(c[i]) for c in cells)) for i, h in enumerate(heads)]
    lines = [heads, *cells]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines)
