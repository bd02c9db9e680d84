"""What the commands share: the shop that they work in, and words for what they show."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tunesmith.errors import SettingsError
from tunesmith.terminal import Terminal

if TYPE_CHECKING:
    from tunesmith.shop import Shop


def open_shop(command: argparse.Namespace, terminal: Terminal) -> Shop:
    """The workspace and the built-in names."""
    from tunesmith.quickstart import builtin
    from tunesmith.shop import Shop
    from tunesmith.store.workspace import Workspace

    return Shop(Workspace.open(command.workspace), terminal.progress, builtin.BASES, builtin.JUDGES)


def which(command: argparse.Namespace) -> str:
    if not command.which:
        raise SettingsError(f"tunesmith {command.command} {command.action}: which one? "
                            f"`tunesmith {command.command} ls` lists them")
    return str(command.which)


def skipped(counts: Mapping[str, int]) -> str:
    return "".join(f"; {n} left out: {why}" for why, n in counts.items() if n)
