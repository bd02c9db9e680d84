"""Answer groups and verdicts on them, as the database keeps them. `Workspace` opens the transactions."""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tunesmith.contracts import check_tiers
from tunesmith.errors import DataError, NotFound
from tunesmith.records import Labeler, Ranking
from tunesmith.store import tables as db
from tunesmith.store.checks import valid_labeler
from tunesmith.store.database import insert_once, pack
from tunesmith.store.fields import short
from tunesmith.store.places import chunks, holders, lock, set_seq, settle
from tunesmith.store.runs import now


def insert_groups(c: sa.Connection, set_name: str, rows: Mapping[str, Mapping[str, Any]]) -> int:
    """Put groups into a set, making it if needed; how many were new to the set."""
    insert_once(c, db.sets, {"name": set_name}, {"created": now()})
    seq = set_seq(c, set_name)
    lock(c, rows)
    c.execute(sa.select(db.sets.c.seq).where(db.sets.c.seq == seq).with_for_update())  # places are given one by one
    known = dict(_fetch(c, rows, db.groups.c.id))
    inside = {id for id, (there,) in _fetch(c, rows, db.members.c.group_id, db.members.c.set_seq) if there == seq}
    end = c.scalar(sa.select(sa.func.max(db.members.c.position)).where(db.members.c.set_seq == seq))
    start = 0 if end is None else end + 1
    new = [row for id, row in rows.items() if id not in known]
    joining = [{"set_seq": seq, "group_id": id, "position": start + n, "shuffled": shuffled(id)}
               for n, id in enumerate(id for id in rows if id not in inside)]
    if new:
        c.execute(sa.insert(db.groups), new)
    if joining:
        c.execute(sa.insert(db.members), joining)
        settle(c, [row["group_id"] for row in joining if row["group_id"] in known])  # judged as part of another set
    return len(joining)


def check_ranking(r: Ranking) -> None:
    """What can be seen without the group. Every verdict passes here, whatever its way into the workspace.

    Raises:
        DataError: naming the field, what it holds and what it may hold.
    """
    for name, (fits, what) in _FIELDS.items():
        if not fits(value := getattr(r, name)):
            raise DataError(f'"{name}" of a ranking must be {what}, got {short(value)}')
    valid_labeler(r.labeler)
    if not r.id or len(r.id) > 128:
        raise DataError("a ranking needs an id of 1 to 128 characters, made by the client")
    if not (r.tiers or r.all_bad or r.skipped or r.ratings):
        raise DataError("a ranking needs tiers, ratings, all_bad, or the reason why it was skipped")


def _whole(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def _each(x: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(x, tuple | list) and all(map(fits, x))


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("id", "group", "labeler", "skipped", "rationale", "revises"),
                    (lambda x: isinstance(x, str), "a text")),
    **dict.fromkeys(("all_bad", "simulated"), (lambda x: isinstance(x, bool), "true or false")),
    "tiers": (lambda x: _each(x, lambda tier: _each(tier, _whole)), "lists of answers, by their index"),
    "shown": (lambda x: _each(x, _whole), "a list of answers, by their index"),
    "ratings": (lambda x: _each(x, lambda r: _number(r) and 1 <= r <= 7), "numbers from 1 to 7"),
    "seconds": (lambda x: _number(x) and x >= 0, "a number of at least 0"),
    "margin": (lambda x: _whole(x) and 0 <= x <= 4, "0 to 4"),
    "guidelines": (lambda x: _whole(x) and x >= 0, "a version's number"),
    "purpose": (lambda x: x in ("", "gold", "repeat", "review"), "empty, gold, repeat or review"),
    "flags": (lambda x: isinstance(x, Mapping) and all(isinstance(k, str) and k.isdecimal() and _each(
        v, lambda f: isinstance(f, str)) for k, v in x.items()), "lists of texts by the index of an answer"),
    "trace": (lambda x: isinstance(x, Mapping), "an object")}
"""Of each field of a ranking: whether a value fits, and what would."""


def check_fit(r: Ranking, answers: int) -> None:
    """Whether a verdict fits a group of so many answers.

    Raises:
        DataError: it does not.
    """
    check_tiers(r.tiers, answers)
    if r.shown and sorted(r.shown) != list(range(answers)):
        raise DataError(f"the order shown {list(r.shown)} is not an order of answers 0 to {answers - 1}")
    if r.ratings and len(r.ratings) != answers:
        raise DataError(f"{len(r.ratings)} ratings for {answers} answers")
    if strange := [i for i in r.flags if int(i) >= answers]:
        raise DataError(f"answer {strange[0]} is flagged, but there are answers 0 to {answers - 1}")


def insert_rankings(c: sa.Connection, rankings: Sequence[Ranking]) -> int:
    """Check each verdict against its group, its labeler and the ids that are taken; insert the new ones.

    A person's verdict ends the claim that this person holds on the group.
    """
    lock(c, [r.group for r in rankings])
    known = _Known.of(c, rankings)
    answers = dict(_fetch(c, [r.group for r in rankings], db.groups.c.id, db.groups.c.answers))
    people, rows, counting = [], [], []
    for r in rankings:
        if r.id in known.taken and known.check(r):
            continue
        if r.group not in answers:
            raise NotFound(f'no answer group "{r.group}"')
        check_fit(r, answers[r.group][0])
        if r.labeler not in known.simulated:
            people.append({"name": r.labeler, "simulated": r.simulated, "role": "labeler", "created": now()})
        known.check(r)
        if not (r.simulated or r.purpose):
            counting.append(r)
        rows.append({"id": r.id, "group_id": r.group, "labeler": r.labeler, "body": _body(r), "created": now()})
    if people:
        c.execute(sa.insert(db.labelers), people)
    if rows:
        c.execute(sa.insert(db.rankings), rows)
    if counting:
        _end_claims(c, counting)
        settle(c, [r.group for r in counting])
    return len(rows)


@dataclass
class _Known:
    """Whose the ids are, and which labelers are simulated; grows with every verdict that is checked."""

    taken: dict[str, tuple[str, str]]
    simulated: dict[str, bool]

    @classmethod
    def of(cls, c: sa.Connection, rankings: Sequence[Ranking]) -> _Known:
        v, people = db.rankings.c, db.labelers.c
        taken = {id: (group, labeler) for id, (group, labeler) in _fetch(
            c, [r.id for r in rankings], v.id, v.group_id, v.labeler)}
        return cls(taken, {name: flag for name, (flag,) in _fetch(
            c, [r.labeler for r in rankings], people.name, people.simulated)})

    def check(self, r: Ranking) -> bool:
        """Whether this verdict is stored already.

        Raises:
            DataError: its id or its labeler is another's.
        """
        group, labeler = self.taken.get(r.id, (r.group, r.labeler))
        if (group, labeler) != (r.group, r.labeler):
            raise DataError(f'the ranking id "{r.id}" is taken by the verdict of {labeler} on {group}')
        if self.simulated.setdefault(r.labeler, r.simulated) != r.simulated:
            which = "a simulated labeler" if self.simulated[r.labeler] else "a person"
            raise DataError(f'"{r.labeler}" is {which}; choose another name for the other')
        known = r.id in self.taken
        self.taken[r.id] = group, labeler
        return known


def enlist(c: sa.Connection, labeler: Labeler) -> None:
    """Note a labeler whose judgements are no rankings, such as a language model.

    Raises:
        DataError: the name is another's.
    """
    insert_once(c, db.labelers, {"name": labeler.name},
                {"simulated": labeler.simulated, "role": labeler.role, "created": now()})
    row = c.execute(sa.select(db.labelers).where(db.labelers.c.name == labeler.name)).one()
    if (row.simulated, row.role) != (labeler.simulated, labeler.role):
        raise DataError(f'the name "{labeler.name}" is taken by another labeler ({row.role})')


def first_refused(c: sa.Connection, rankings: Sequence[Ranking]) -> tuple[int, str] | None:
    """The first verdict that `insert_rankings` would refuse for what is stored already: its place, and why."""
    known = _Known.of(c, rankings)
    for n, r in enumerate(rankings):
        try:
            known.check(r)
        except DataError as e:
            return n, str(e)
    return None


def _end_claims(c: sa.Connection, rankings: Sequence[Ranking]) -> None:
    """The claims for ordinary work that these people held on these groups are over."""
    judged = {(r.group, r.labeler): "skipped" if r.skipped else "done" for r in rankings}
    claims = db.claims.c
    for chunk in chunks(r.group for r in rankings):
        for group, labelers in holders(c, chunk).items():
            for labeler in labelers & {person for there, person in judged if there == group}:
                c.execute(sa.update(db.claims).where(
                    claims.group_id == group, claims.labeler == labeler, claims.state == "live",
                    claims.purpose == "normal").values(state=judged[group, labeler]))


def verdicts_of(c: sa.Connection, group_id: str, labeler: str) -> list[Ranking]:
    """A labeler's verdicts on a group, oldest first."""
    r = db.rankings.c
    bodies = c.scalars(sa.select(r.body).where(r.group_id == group_id, r.labeler == labeler).order_by(r.seq))
    return [Ranking.from_dict(json.loads(body)) for body in bodies]


def newest_verdicts(c: sa.Connection, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], Ranking]:
    """(group, labeler) -> the newest verdict for ordinary work, where there is one."""
    r = db.rankings.c
    found = {}
    for chunk in chunks(group for group, _ in wanted):
        for row in c.execute(sa.select(r.group_id, r.labeler, r.body).where(r.group_id.in_(chunk)).order_by(r.seq)):
            if (row.group_id, row.labeler) in wanted and not (body := json.loads(row.body)).get("purpose"):
                found[row.group_id, row.labeler] = Ranking.from_dict(body)
    return found


def _fetch(c: sa.Connection, ids: Iterable[str], key: sa.Column[Any],
           *columns: sa.Column[Any]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """(id, the columns) of the rows that exist."""
    rest = iter(dict.fromkeys(ids))
    while chunk := list(itertools.islice(rest, 500)):
        for row in c.execute(sa.select(key, *columns).where(key.in_(chunk))):
            yield row[0], tuple(row[1:])


def _body(r: Ranking) -> str:
    try:
        return pack(r.to_dict())
    except (ValueError, TypeError) as e:
        raise DataError(f"the ranking cannot be stored: {e}") from e


def shuffled(text: str) -> int:
    """A fixed pseudo-random number below 2**31."""
    return zlib.crc32(text.encode(errors="surrogatepass")) & 0x7FFFFFFF
