"""Rounds of a loop: begin them, go on, by the clock, and decide what is adopted."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tunesmith.commands.common import open_shop
from tunesmith.errors import MissingExtra, SettingsError, TunesmithError, nearest
from tunesmith.settings import RoundSettings
from tunesmith.terminal import Terminal, table

if TYPE_CHECKING:
    from tunesmith.shop import Shop
    from tunesmith.store.loops import Round

LOOK = 60.0
"""Seconds between looks at whether people have done their part."""


def round(command: argparse.Namespace, terminal: Terminal) -> None:
    chosen, shop = command.settings, open_shop(command, terminal)
    if chosen.action in _ACTIONS:
        return _ACTIONS[chosen.action](shop, chosen, terminal)
    if not chosen.action.endswith(".toml"):
        raise SettingsError(f'tunesmith round: a FILE.toml, or {", ".join(_ACTIONS)}; not "{chosen.action}"'
                            f"{nearest(chosen.action, _ACTIONS)}")
    if chosen.schedule:
        return _by_the_clock(shop, chosen, terminal)
    return _told(_once(shop, chosen.action), terminal)


def _once(shop: Shop, file: str) -> Round:
    from tunesmith import loop

    return loop.run(shop, RoundSettings.load({}, file))


def _told(found: Round, terminal: Terminal) -> None:
    lines = list(_lines(found))
    terminal.result({"loop": found.loop, "round": found.number, "status": found.status, "waits": found.waits,
                     "steps": {k: dict(v) for k, v in found.steps.items()}}, "\n".join(lines))


def _lines(found: Round, serves: str = "") -> Iterator[str]:
    """What a person wants to know of a round; `serves` is the loop's model, where that may be another one by now."""
    steps = found.steps
    yield f"round {found}: {found.status}" + (f", for {found.waits}" if found.waits else "")
    checked = steps.get("check", {})
    for text in (*checked.get("holds", ()), *checked.get("notes", ())):
        yield f"data: {text}"
    yield from steps.get("evaluate", {}).get("verdict", ())
    for rule in steps.get("evaluate", {}).get("rules", ()):
        yield f"{'kept' if rule['passed'] else 'BROKEN'}: {rule['rule']} (found {rule['found']})"
    if why := steps.get("adopt", {}).get("why"):
        yield why
    if found.status == "adopted":
        back = f"back to the one before: tunesmith round rollback {found.loop}"
        yield (f"{found.loop} is {found.candidate} from now on; {back}" if serves in ("", found.candidate) else
               f"{found.candidate} was taken back: {found.loop} is {serves} now")


def _by_the_clock(shop: Shop, chosen: Any, terminal: Terminal) -> None:
    """Begin a round at each of the times; between them look whether one that waits can go on. Ends with Ctrl+C."""
    from tunesmith.store import loops

    upcoming, name = times(chosen.schedule, datetime.now().astimezone()), RoundSettings.load({}, chosen.action).name
    said, due = "", next(upcoming)
    terminal.say(f"the next round of {name} begins {due:%Y-%m-%d %H:%M}  (Ctrl+C ends this)")
    while True:
        before = loops.rounds(shop.workspace, name)
        under_way = bool(before) and before[-1].open
        if under_way or datetime.now().astimezone() >= due:
            said = _tried(lambda: _once(shop, chosen.action), said, terminal)
            if not under_way:
                due = next(t for t in upcoming if t > datetime.now().astimezone())
        time.sleep(min(LOOK, max(0.0, (due - datetime.now().astimezone()).total_seconds())) or LOOK)


def _tried(work: Callable[[], Round], said: str, terminal: Terminal) -> str:
    """A mistake ends this try, not the schedule; nothing is said twice in a row."""
    try:
        text = "\n".join(_lines(work()))
    except TunesmithError as e:
        text = f"tunesmith: {e}"
    if text != said:
        terminal.say(text)
    return text


def times(expression: str, after: datetime) -> Iterator[datetime]:
    """The moments that a cron expression means, after a moment, in its time zone.

    Raises:
        SettingsError: no cron expression.
    """
    try:
        from cronsim import CronSim, CronSimError
    except ImportError as e:
        raise MissingExtra("cronsim", "schedule") from e
    try:
        return iter(CronSim(expression, after))
    except CronSimError as e:
        raise SettingsError(f'--schedule "{expression}" is no cron expression such as "0 6 * * 1" (minute, hour, day, '
                            f"month, weekday): {e}") from e


# ---- what became of rounds

def _ls(shop: Shop, chosen: Any, terminal: Terminal) -> None:
    from tunesmith.store import loops

    rows = [row_of(r) for r in loops.rounds(shop.workspace, chosen.which)]
    terminal.result({"rounds": rows}, table(rows))


def row_of(found: Round) -> dict[str, Any]:
    evaluated: Mapping[str, Any] = found.steps.get("evaluate", {})
    rate = evaluated.get("figures", {}).get("preference", {}).get(evaluated.get("champion"))
    return {"round": str(found), "status": found.status, "candidate": found.candidate,
            "preferred to the champion": "{value:.0%} [{low:.0%}, {high:.0%}]".format(**rate) if rate else "",
            "labels": found.steps.get("rank", {}).get("verdicts", ""), "began": found.created[:16]}


def _show(shop: Shop, chosen: Any, terminal: Terminal) -> None:
    from tunesmith.store import loops

    serves = loops.champion(shop.workspace, _loop(chosen))
    last = loops.rounds(shop.workspace, chosen.which)[-1]
    terminal.result({"serves": serves.adapter, "since": serves.created, "round": last.number, "status": last.status,
                     "steps": {k: dict(v) for k, v in last.steps.items()}},
                    "\n".join([f"{chosen.which} serves {serves.adapter} since {serves.created[:16]}",
                               *_lines(last, serves.adapter)]))


def _adopt(shop: Shop, chosen: Any, terminal: Terminal) -> None:
    from tunesmith.store import loops, team

    _told(loops.adopt(shop.workspace, loops.under_way(shop.workspace, _loop(chosen)), team.SHELL), terminal)


def _refuse(shop: Shop, chosen: Any, terminal: Terminal) -> None:
    from tunesmith.store import loops, team

    found = loops.under_way(shop.workspace, _loop(chosen))
    _told(loops.refuse(shop.workspace, found, chosen.why, team.SHELL), terminal)


def _rollback(shop: Shop, chosen: Any, terminal: Terminal) -> None:
    from tunesmith.store import loops, team

    now = loops.roll_back(shop.workspace, _loop(chosen), team.SHELL)
    terminal.result({"loop": now.loop, "adapter": now.adapter}, f"{now.loop} is {now.adapter} again")


def _loop(chosen: Any) -> str:
    if not chosen.which:
        raise SettingsError(f"tunesmith round {chosen.action}: of which loop? `tunesmith round ls` lists them")
    return str(chosen.which)


_ACTIONS: dict[str, Callable[[Shop, Any, Terminal], None]] = {
    "ls": _ls, "show": _show, "adopt": _adopt, "refuse": _refuse, "rollback": _rollback}
