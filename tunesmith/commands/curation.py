"""`tunesmith data dedupe | decontaminate | health | generate | curve`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tunesmith.commands.common import open_shop, skipped
from tunesmith.terminal import Terminal

if TYPE_CHECKING:
    from tunesmith.curation import Checked


def dedupe(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import curation

    made = curation.dedupe(open_shop(command, terminal), command.settings)
    terminal.result({"name": made.name, "rows": made.count, "skipped": made.skipped},
                    f"{made.name}: {made.count} {made.kind}{skipped(made.skipped)}")


def decontaminate(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import curation

    made, found = curation.decontaminate(open_shop(command, terminal), command.settings)
    lines = [f"{made.name}: {made.count} {made.kind}{skipped(made.skipped)}"]
    lines += [f"{name}: {len(found.items.get(name, ()))} of {count} items stood in it ({found.share(name)})"
              + (f"; {found.too_short[name]} too short to look for" if found.too_short[name] else "")
              for name, count in found.looked_for.items()]
    terminal.result({"name": made.name, "rows": made.count, "skipped": made.skipped,
                     "evaluations": found.to_dict()["evaluations"]}, "\n".join(lines))


def health(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import curation

    _report(curation.check(open_shop(command, terminal), command.settings), terminal)


def curve(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import curation

    _report(curation.curve(open_shop(command, terminal), command.settings), terminal)


def generate(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import curation

    chosen = command.settings
    made = curation.generate(open_shop(command, terminal), chosen)
    lines = [f"{chosen.name}: {made.tasks} tasks, {made.drafts} drafts on the desk, {made.new} of them new"
             f"{skipped(made.left_out)}"]
    if made.ended:
        lines.append(f"ended early: {made.ended}")
    lines.append(f"published without waiting for reviews: {made.dataset}" if made.dataset else
                 "review them: tunesmith studio")
    terminal.result({"desk": chosen.name, "tasks": made.tasks, "drafts": made.drafts, "new": made.new,
                     "instructions": made.said, "skipped": dict(made.left_out), "ended": made.ended,
                     "dataset": made.dataset}, "\n".join(lines))


def _report(made: Checked, terminal: Terminal) -> None:
    terminal.result(made.report, "\n".join([*made.verdict, f"report: {made.path}"]))
