"""The interaction log: looked at, exported, erased; other tools' logs taken in."""

from __future__ import annotations

import argparse
import gzip
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.commands.common import open_shop, skipped
from tunesmith.errors import SettingsError
from tunesmith.settings import ImportSettings, InteractionsSettings
from tunesmith.terminal import Terminal, table

if TYPE_CHECKING:
    from tunesmith.records import Interaction
    from tunesmith.store.erasure import Learned
    from tunesmith.store.workspace import Workspace


def interactions(command: argparse.Namespace, terminal: Terminal) -> None:
    _ACTIONS[command.settings.action](open_shop(command, terminal).workspace, command.settings, terminal)


def import_log(workspace: Workspace, chosen: ImportSettings, terminal: Terminal) -> None:
    from tunesmith.store import interactions, logs

    left: Counter[str] = Counter()
    found = logs.read(chosen.file, left, "" if chosen.origin == "auto" else chosen.origin, chosen.name)
    new = interactions.add(workspace, found)
    terminal.result({"source": chosen.name, "new": new, "skipped": +left},
                    f"{chosen.name}: {new} new interactions, scrubbed{skipped(left)}")


def _ls(workspace: Workspace, chosen: InteractionsSettings, terminal: Terminal) -> None:
    from tunesmith.store import erasure, interactions

    rows, stale = interactions.summary(workspace), erasure.to_retrain(workspace)
    terminal.result({"interactions": rows, "to_retrain": _learned(stale)},
                    "\n".join([table(rows, "no interactions are logged; tunesmith serve --log all keeps them"),
                               *_retrain(stale)]))


def _show(workspace: Workspace, chosen: InteractionsSettings, terminal: Terminal) -> None:
    from tunesmith.store.interactions import interaction

    it = interaction(workspace, _which(chosen, "an interaction's id"))
    about = {k: v for k, v in it.to_dict().items() if k not in ("messages", "answer", "events")}
    said = [*(f"{m.role}: {m.content}" for m in it.messages), f"{it.answer.model or 'assistant'}: {it.answer.text}"]
    done = [f"{e['at']}  {e['type']}  {e['value']}" for e in it.events]
    terminal.result(it.to_dict(), "\n".join([*(f"{k}: {v}" for k, v in about.items()), "", *said, "", *done]).strip())


def _export(workspace: Workspace, chosen: InteractionsSettings, terminal: Terminal) -> None:
    from tunesmith.store import interactions, team
    from tunesmith.store.faults import storing

    if not chosen.out.endswith((".jsonl", ".jsonl.gz")):
        raise SettingsError("tunesmith interactions export needs --out FILE.jsonl or FILE.jsonl.gz")
    out = Path(chosen.out)
    if out.exists():
        raise SettingsError(f"{out} exists already; choose another name")
    found = interactions.interactions(workspace, since=chosen.since, source=chosen.source, user=chosen.user,
                                      holdout=None)
    with storing(out.parent):
        rows = _write(out, found)
    team.audit(workspace, team.SHELL, "interactions.export", "interactions",
               {"rows": rows, "source": chosen.source, "since": chosen.since, "one user": bool(chosen.user)})
    terminal.result({"path": str(out), "rows": rows}, f"{out}: {rows} interactions")


def _write(out: Path, found: Iterable[Interaction]) -> int:
    """Whole or not at all; how many rows."""
    part, rows = out.with_name(f".tmp-{out.name}"), 0
    try:
        with gzip.open(part, "wt") if out.name.endswith(".gz") else open(part, "w") as f:
            for it in found:
                f.write(json.dumps(it.to_dict()) + "\n")
                rows += 1
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return rows


def _forget(workspace: Workspace, chosen: InteractionsSettings, terminal: Terminal) -> None:
    from tunesmith.store import erasure

    gone = erasure.forget(workspace, _which(chosen, "a user"))
    terminal.result({"interactions": gone.interactions, "events": gone.events, "to_retrain": _learned(gone.learned)},
                    "\n".join([f"erased {gone.interactions} interactions and {gone.events} events",
                               *_retrain(gone.learned)]))


def _purge(workspace: Workspace, chosen: InteractionsSettings, terminal: Terminal) -> None:
    from tunesmith.store import erasure

    gone = erasure.purge(workspace, chosen.days)
    terminal.result({"interactions": gone}, f"deleted {gone} interactions")


def _which(chosen: InteractionsSettings, what: str) -> str:
    if not chosen.which:
        raise SettingsError(f"tunesmith interactions {chosen.action} needs {what}")
    return chosen.which


def _learned(found: Learned) -> dict[str, list[str]]:
    return {"datasets": list(found.datasets), "runs": list(found.runs), "adapters": list(found.adapters)}


def _retrain(found: Learned) -> list[str]:
    """What a person has to do after an erasure."""
    if not any(_learned(found).values()):
        return []
    said = (f"{kind}: {', '.join(names)}" for kind, names in _learned(found).items() if names)
    return ["these learned from what was erased; mine and train them again, then remove the old ones:", *said]


_ACTIONS = {"ls": _ls, "show": _show, "export": _export, "forget": _forget, "purge": _purge}
