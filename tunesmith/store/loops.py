"""Rounds of a loop, step by step, and which model the loop has adopted.

A round that was begun is ended before the next one begins: a loop has at most one that is running or waits. What it
adopted is a list that only grows: going back to an earlier model is one more entry.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from tunesmith.errors import NotFound, UserError, nearest
from tunesmith.records import fingerprint
from tunesmith.store import tables as db
from tunesmith.store.audit import append
from tunesmith.store.checks import valid_name
from tunesmith.store.database import insert_once, pack
from tunesmith.store.runs import now

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

Status = Literal["running", "waiting", "adopted", "refused"]
OPEN = ("running", "waiting")
LONGEST_NAME = 40
"""Of a loop: what its rounds make has longer ones."""


@dataclass(frozen=True, slots=True)
class Round:
    """`settings` are as they were when it began; `steps` are what each step made, in the order in which they ended;
    `waits` says for what it waits."""

    loop: str
    number: int
    status: Status
    settings: Mapping[str, Any]
    steps: Mapping[str, Mapping[str, Any]]
    waits: str
    created: str
    updated: str

    @property
    def open(self) -> bool:
        return self.status in OPEN

    @property
    def candidate(self) -> str:
        """The model that it trained, "" before it did."""
        return str(self.steps.get("ppo", {}).get("adapter", ""))

    def __str__(self) -> str:
        return f"{self.loop} {self.number}"


@dataclass(frozen=True, slots=True)
class Adoption:
    """An adapter (`name@version`) that a loop serves from then on, and the number of the round that it came from (0:
    what the loop started from)."""

    loop: str
    adapter: str
    number: int
    why: Literal["start", "round", "rollback"]
    by: str
    created: str


def rounds(workspace: Workspace, loop: str = "") -> list[Round]:
    """All rounds of a loop, or of all loops, oldest first."""
    query = sa.select(db.rounds).order_by(db.rounds.c.seq)
    with workspace.database.read() as c:
        return [_round(row) for row in c.execute(query.where(db.rounds.c.loop == loop) if loop else query)]


def under_way(workspace: Workspace, loop: str) -> Round:
    """The round of a loop that has not ended.

    Raises:
        NotFound: no such loop.
        UserError: all rounds have ended.
    """
    champion(workspace, loop)
    last = rounds(workspace, loop)[-1]
    if not last.open:
        raise UserError(f"round {last} has ended: it was {last.status}")
    return last


def begin(workspace: Workspace, loop: str, start: str, settings: Mapping[str, Any]) -> Round:
    """The round under way, else a new one; the first one adopts `start`, the adapter that the loop starts from.

    Raises:
        DataError: a bad name.
    """
    valid_name(loop, "name of a loop")
    if len(loop) > LONGEST_NAME:
        raise UserError(f"the name of a loop has at most {LONGEST_NAME} characters: {loop}")

    def work(c: sa.Connection) -> Round:
        last = _last(c, loop)
        if last is None or not last.open:
            number = last.number + 1 if last else 1
            c.execute(sa.insert(db.rounds).values(
                loop=loop, number=number, status="running", settings=pack(dict(settings)), steps="{}", waits="",
                created=now(), updated=now()))
        insert_once(c, db.adoptions, {"id": f"{loop}-0"}, {"loop": loop, "adapter": start, "number": 0, "why": "start",
                                                           "by": "round", "created": now()})
        found = _last(c, loop)
        assert found
        return found

    return workspace.database.write(work)


def record(workspace: Workspace, round: Round, step: str, made: Mapping[str, Any]) -> Round:
    """A step has ended; the round goes on, unless somebody has ended it meanwhile."""
    return _update(workspace, round, lambda now_: {
        "status": "running", "steps": pack({**now_.steps, step: {**made, "at": now()}}), "waits": ""})


def wait(workspace: Workspace, round: Round, what: str) -> Round:
    """The round can go on only when somebody did what it waits for, unless somebody has ended it meanwhile."""
    return _update(workspace, round, lambda now_: {"status": "waiting", "waits": what})


def refuse(workspace: Workspace, round: Round, why: str, by: str) -> Round:
    """The round ends without a new model.

    Raises:
        UserError: it has ended already.
    """
    return _end(workspace, round, "refused", {"why": why, "by": by}, by)


def adopt(workspace: Workspace, round: Round, by: str) -> Round:
    """The round ends, and its model is what the loop serves from now on.

    Raises:
        UserError: it has ended already, or has no model yet.
    """
    if not round.candidate:
        raise UserError(f"round {round} has no model yet: there is nothing to adopt")
    return _end(workspace, round, "adopted", {"adapter": round.candidate, "by": by}, by)


def roll_back(workspace: Workspace, loop: str, by: str) -> Adoption:
    """The loop serves again what it served before the model that it serves now; once more goes back further.

    Raises:
        NotFound: no such loop.
        UserError: there is nothing before it.
    """
    def work(c: sa.Connection) -> Adoption:
        before = _standing(_adoptions(c, loop))[:-1]
        if not before:
            raise UserError(f"{loop} has served only what it started from: there is nothing to go back to")
        count = c.scalar(sa.select(sa.func.count()).where(db.adoptions.c.loop == loop))
        _adopt(c, f"{loop}-back-{count}", loop, before[-1].adapter, before[-1].number, "rollback", by)
        append(c, by, "round.rollback", loop, {"adapter": before[-1].adapter})
        return _adoptions(c, loop)[-1]

    return workspace.database.write(work)


def adoptions(workspace: Workspace, loop: str) -> list[Adoption]:
    """What a loop served and serves, oldest first.

    Raises:
        NotFound: no such loop.
    """
    with workspace.database.read() as c:
        return _adoptions(c, loop)


def standing(workspace: Workspace, loop: str) -> list[Adoption]:
    """What a loop adopted and did not take back, oldest first; the last one is what it serves.

    Raises:
        NotFound: no such loop.
    """
    return _standing(adoptions(workspace, loop))


def champion(workspace: Workspace, loop: str) -> Adoption:
    """What a loop serves now.

    Raises:
        NotFound: no such loop.
    """
    return adoptions(workspace, loop)[-1]


@dataclass(frozen=True, slots=True)
class Split:
    """Who answers under a loop's name: its champion, and a share of the time the candidate that waits for a person ("":
    none)."""

    champion: str
    challenger: str = ""
    share: float = 0.0

    def pick(self, who: str) -> tuple[str, str, float]:
        """(adapter, arm, its share of the traffic); the same `who` meets the same one, "" either of them."""
        drawn = int(fingerprint([self.challenger, who]), 16) / 16**16 if who else random.random()
        if self.challenger and drawn < self.share:
            return self.challenger, "challenger", self.share
        return self.champion, "champion" if self.challenger else "", 1 - self.share


def split(workspace: Workspace, loop: str) -> Split | None:
    """Who answers under this name now; None if no loop has it."""
    with workspace.database.read() as c:
        row = c.execute(sa.select(db.adoptions.c.adapter).where(db.adoptions.c.loop == loop).order_by(
            db.adoptions.c.seq.desc()).limit(1)).first()
        last = _last(c, loop) if row else None
    if row is None:
        return None
    if last is None or last.status != "waiting" or not last.steps.get("evaluate", {}).get("passed"):
        return Split(row.adapter)
    if last.steps.get("check", {}).get("holds"):
        return Split(row.adapter)  # its data are doubted: no user meets it before a person has looked
    share = float(last.settings.get("challenger", 0))
    return Split(row.adapter, last.candidate, share) if share else Split(row.adapter)


def names(workspace: Workspace) -> dict[str, str]:
    """loop -> the adapter that it serves, of all loops."""
    newest = sa.select(sa.func.max(db.adoptions.c.seq)).group_by(db.adoptions.c.loop)
    with workspace.database.read() as c:
        return {row.loop: row.adapter for row in c.execute(
            sa.select(db.adoptions).where(db.adoptions.c.seq.in_(newest)))}


def _standing(every: list[Adoption]) -> list[Adoption]:
    """The adoptions that were not taken back: a rollback takes the last one away."""
    out: list[Adoption] = []
    for one in every:
        if one.why == "rollback":
            out.pop()
        else:
            out.append(one)
    return out


def _end(workspace: Workspace, round: Round, status: Status, made: Mapping[str, Any], by: str) -> Round:
    def work(c: sa.Connection) -> Round:
        now_ = _last(c, round.loop)
        if now_ is None or now_.number != round.number or not now_.open:
            raise UserError(f"round {round} has ended already")
        _set(c, round, status=status, waits="", steps=pack({**now_.steps, "adopt": {**made, "at": now()}}))
        if status == "adopted":
            _adopt(c, f"{round.loop}-{round.number}", round.loop, made["adapter"], round.number, "round", by)
        append(c, by, f"round.{status}", str(round), dict(made))
        found = _last(c, round.loop)
        assert found
        return found

    return workspace.database.write(work)


def _adopt(c: sa.Connection, id: str, loop: str, adapter: str, number: int, why: str, by: str) -> None:
    insert_once(c, db.adoptions, {"id": id}, {"loop": loop, "adapter": adapter, "number": number, "why": why, "by": by,
                                              "created": now()})


def _update(workspace: Workspace, round: Round, change: Callable[[Round], Mapping[str, Any]]) -> Round:
    """The round as it is then. What a person decided while a step was at work stands."""
    def work(c: sa.Connection) -> Round:
        one = sa.select(db.rounds).where(db.rounds.c.loop == round.loop, db.rounds.c.number == round.number)
        if (now_ := _round(c.execute(one).one())).open:
            _set(c, round, **change(now_))
        return _round(c.execute(one).one())

    return workspace.database.write(work)


def _set(c: sa.Connection, round: Round, **values: Any) -> None:
    c.execute(sa.update(db.rounds).where(db.rounds.c.loop == round.loop, db.rounds.c.number == round.number)
              .values(**values, updated=now()))


def _last(c: sa.Connection, loop: str) -> Round | None:
    row = c.execute(sa.select(db.rounds).where(db.rounds.c.loop == loop).order_by(db.rounds.c.number.desc()).limit(1))
    return next(map(_round, row), None)


def _adoptions(c: sa.Connection, loop: str) -> list[Adoption]:
    a = db.adoptions.c
    found = [Adoption(*row) for row in c.execute(sa.select(a.loop, a.adapter, a.number, a.why, a.by, a.created).where(
        a.loop == loop).order_by(a.seq))]
    if not found:
        known = c.scalars(sa.select(a.loop).distinct()).all()
        raise NotFound(f'no loop "{loop}"{nearest(loop, known)}')
    return found


def _round(row: Any) -> Round:
    return Round(row.loop, row.number, row.status, json.loads(row.settings), json.loads(row.steps), row.waits,
                 row.created, row.updated)
