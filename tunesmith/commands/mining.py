"""`tunesmith mine`: reactions of users as preferences."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith.commands.common import open_shop, skipped
from tunesmith.errors import UserError
from tunesmith.terminal import Terminal, table


def mine(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import mining

    made = mining.mine(open_shop(command, terminal), command.settings)
    figures = made.figures
    if made.refused:
        raise UserError(made.refused)
    left = skipped({"an unsafe answer would be preferred": figures["unsafe"]})
    lines = [f"{made.comparisons}: {figures['pairs']} pairs and {figures['labels']} single answers of "
             f"{figures['users']} users{left}"]
    if made.thumbs:
        lines.append(f"{made.thumbs}: {figures['thumbs']} thumbs")
    lines += ["", table(list(_worth(figures))), ""]
    if made.spots:
        lines.append(f"check some of the pairs: tunesmith studio --groups {made.spots}")
    terminal.result({"comparisons": made.comparisons, "thumbs": made.thumbs, "spots": made.spots, **figures},
                    "\n".join(lines))


def overlap(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import mining

    chosen = command.settings
    new = mining.overlap(open_shop(command, terminal), chosen)
    terminal.result({"set": chosen.name, "groups": new},
                    f"{chosen.name}: {new} new groups; rank them: tunesmith studio --groups {chosen.name}")


def _worth(figures: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """A row for each kind of reaction that somebody showed."""
    for kind in ("double", "single"):
        for name, s in figures[kind]["signals"].items():
            if s["users"]:
                auc = "{value:.1%} [{low:.1%}, {high:.1%}]".format(**s["auc"]) if s["auc"]["value"] is not None else "-"
                yield {"reaction": name, "users": str(s["users"]), "AUC": auc, "weight": f"{s['weight']:+.2f}",
                       "why": s.get("why", "")}
