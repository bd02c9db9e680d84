"""Datasets and sets of answers."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunesmith.commands.common import open_shop, skipped, which
from tunesmith.errors import SettingsError
from tunesmith.terminal import Terminal, table

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace


def data(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import mixing
    from tunesmith.data.mixture import Mixture

    workspace = open_shop(command, terminal).workspace
    if command.action == "ls":
        rows: list[Mapping[str, Any]] = [{"name": d.name, "kind": d.kind, "rows": d.count, "ranked": ""}
                                         for d in workspace.datasets()]
        rows += [{"name": s["name"], "kind": "answer groups", "rows": s["count"], "ranked": s["ranked"]}
                 for s in workspace.group_sets()]
        return terminal.result({"data": rows}, table(rows))
    if command.action == "export":
        return _export(command, terminal, workspace)
    if command.action == "move":
        return _move(command, terminal, workspace)
    d = workspace.dataset(which(command))
    first = next(iter(d.rows())).to_dict()
    shown = {"name": d.name, "kind": d.kind, "rows": d.count, "fingerprint": d.fingerprint, "source": d.source,
             "licence": d.licence, "skipped": dict(d.skipped), "first row": first}
    if found := Mixture.of(d):
        shown["tasks"] = mixing.table(found)
    return terminal.result(shown, "\n".join(f"{k}: {v}" for k, v in shown.items()))


def _export(command: argparse.Namespace, terminal: Terminal, workspace: Workspace) -> None:
    from tunesmith.store import exchange, team

    if not command.out:
        raise SettingsError("tunesmith data export NAME needs --out PATH")
    made = exchange.export(workspace, which(command), command.format, command.out, names=command.names,
                           licence=command.licence)
    team.audit(workspace, team.SHELL, "data.export", command.which,
               {"format": command.format, "rows": made.rows, "names": command.names})
    terminal.result({"path": str(made.path), "rows": made.rows, "skipped": dict(made.skipped)},
                    f"{made.path}: {made.rows} rows{skipped(made.skipped)}")


def _move(command: argparse.Namespace, terminal: Terminal, workspace: Workspace) -> None:
    from tunesmith.store.move import SQLITE, move
    from tunesmith.store.workspace import VARIABLE

    workspace.close()
    if not command.to:
        raise SettingsError("tunesmith data move needs --to URL (of an empty PostgreSQL database) or --to sqlite")
    rows = move(workspace.root, command.to)
    then = f"unset {VARIABLE}" if command.to == SQLITE else f"set {VARIABLE} to its URL"
    terminal.result({"moved": rows}, f"{sum(rows.values()):,} rows of {len(rows)} tables moved and compared; from now "
                                     f"on {then}")
