"""Adapters: where they come from, in and out, and among each other."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tunesmith.commands.common import open_shop, which
from tunesmith.errors import SettingsError
from tunesmith.terminal import Terminal, table


def adapters(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import library
    from tunesmith.train import cost

    workspace = open_shop(command, terminal).workspace
    if command.action == "ls":
        rows = [{"adapter": str(a), "role": a.role, "base": a.base["spec"], "created": a.created}
                for a in workspace.adapters()]
        return terminal.result({"adapters": rows}, table(rows))
    if command.action in _MOVES:
        return _MOVES[command.action](command, terminal)
    a = workspace.adapter(which(command))
    shown = {"adapter": str(a), "role": a.role, "path": str(a.path), "base": dict(a.base), "lineage": dict(a.lineage),
             "licences of what it learned from": library.licences(workspace, a),
             "evaluations": library.evaluations(workspace, a),
             "cost of it and all that it was made from": cost.lineage(workspace, a)}
    return terminal.result(shown, "\n".join(f"{k}: {v}" for k, v in shown.items()))


def _export_adapter(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import rounds

    if not command.out:
        raise SettingsError("tunesmith adapters export NAME needs --out PATH")
    path = rounds.export(open_shop(command, terminal), which(command), command.format, command.out, command.precision,
                         command.licence)
    terminal.result({"path": str(path), "format": command.format}, f"{path}: {command.which} as {command.format}")


def _import_adapter(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import rounds

    if not command.name:
        raise SettingsError("tunesmith adapters import FOLDER needs --name NAME")
    adapter = rounds.import_adapter(open_shop(command, terminal), which(command), command.name, command.base)
    terminal.result({"adapter": str(adapter), "path": str(adapter.path)}, f"{adapter} is ready: {adapter.path}")


def _remove_adapter(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith.store import removal

    adapter = removal.remove_adapter(open_shop(command, terminal).workspace, which(command))
    terminal.result({"removed": str(adapter)}, f"{adapter} is removed")


def _fresh_adapter(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import rounds

    adapter = rounds.fresh(open_shop(command, terminal), command.base, which(command))
    terminal.result({"adapter": str(adapter), "path": str(adapter.path)}, f"{adapter} changes nothing yet, and is for "
                    "methods that begin with an adapter")


_MOVES = {"fresh": _fresh_adapter, "export": _export_adapter, "import": _import_adapter, "rm": _remove_adapter}


def _licensed(licences: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({said or 'licence not said'})" for name, said in licences.items()) or "unknown data"


def merge(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import library

    adapter = library.merge(open_shop(command, terminal), command.settings)
    made = adapter.lineage["merged"]
    parts = ", ".join(f"{weight:.3g} x {name}" for name, weight in made["weights"].items())
    lost = f"; {made['lost']:.1%} of the change lost" if made.get("lost") else ""
    terminal.result({"adapter": str(adapter), "path": str(adapter.path), **made},
                    f"{adapter} is ready: {adapter.path}\n{made['how']} of {parts}, rank {made['rank']}{lost}\n"
                    f"learned from: {_licensed(made['licences'])}")


def transfer(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import library

    rows = library.transfer(open_shop(command, terminal), command.settings)
    terminal.result({"rows": [row.to_dict() for row in rows]}, "\n".join(
        [table(library.table(rows)), "nats per token; * is what a new adapter for this data should start from "
         "(--after), base: nothing helps for sure"]))
