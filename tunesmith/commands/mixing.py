"""Mixtures of many tasks."""

from __future__ import annotations

import argparse

from tunesmith.commands.common import open_shop, skipped
from tunesmith.terminal import Terminal, table


def mix(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import mixing

    made = mixing.mix(open_shop(command, terminal), command.settings)
    data, found, held_out = made.dataset, made.mixture, made.held_out
    rows = mixing.table(found)
    lines = [table(rows), f"{data.name}: {data.count:,} demonstrations of {len(rows)} tasks{skipped(data.skipped)}",
             f"one pass is {found.size:,} draws; learn from it: tunesmith sft --data {data.name}"]
    if held_out:
        lines.append(f"{held_out.name}: {held_out.count:,} demonstrations of the held-out clusters, to measure on"
                     f"{skipped(held_out.skipped)}")
    terminal.result({"name": data.name, "rows": data.count, "skipped": dict(data.skipped), "size": found.size,
                     "tasks": rows, "held_out": held_out.name if held_out else ""}, "\n".join(lines))
