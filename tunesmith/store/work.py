"""Who judges what, and when: claims with leases, and the verdicts that come back.

    live -> done | skipped      the labeler judged it, or said why not
    live -> expired | released  no sign of life for a lease, or the labeler left: the place is free again
    expired | released -> live | done | skipped  the labeler came back and the place was still free

A claim's token fences it: a page that comes back after its lease cannot take a place that somebody else has now.
All times are the server's (`now`). Left out: notes on who should judge what; everybody may judge every group.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from tunesmith.errors import Conflict, DataError, NotFound
from tunesmith.records import AnswerGroup, Ranking
from tunesmith.store import tables as db
from tunesmith.store.checks import valid_labeler
from tunesmith.store.places import chunks, lock, set_seq, settle
from tunesmith.store.project import HAS_GOLD, Project, read_project
from tunesmith.store.runs import now
from tunesmith.store.verdicts import check_ranking, insert_rankings, verdicts_of

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

Purpose = Literal["", "gold", "repeat", "review"]
REVIEWERS = ("reviewer", "manager", "admin")
REPEAT_AFTER = 10
"""So many later verdicts lie between a labeler's first and second look at a group."""
SWEPT = 200
"""How many leases end in one write; the rest end in the next one."""
MANY = 5000
"""Rows per write when a whole set changes: nobody waits long for the writer."""

# Written as in the partial indexes, so that SQLite uses them.
OPEN: sa.ColumnElement[bool] = sa.literal_column("members.open")
WAITING: sa.ColumnElement[bool] = sa.literal_column("members.contested = 'waiting'")
LIVE: sa.ColumnElement[bool] = sa.literal_column("claims.state = 'live'")

RANKABLE: sa.ColumnElement[bool] = db.groups.c.answers.between(2, 9)
"""Groups that a page can show; the others are never claimed."""


@dataclass(frozen=True)
class Claim:
    """The right to judge one group until `until`, unless a heartbeat renews it.

    `purpose` is for the server: the labeler must not see which groups are test questions or second looks.
    """

    token: str
    set_name: str
    group: AnswerGroup
    purpose: Purpose
    shown: tuple[int, ...]
    until: str


@dataclass(frozen=True)
class Submitted:
    """A verdict that is on disk. `new` is False if it was there before (a retry)."""

    new: bool


@dataclass(frozen=True)
class Progress:
    """Of a set: how many groups, how many have all their verdicts, how many are open to claims, live claims; and how
    many verdicts are this labeler's."""

    count: int
    done: int
    mine: int
    open: int
    live: int


# ---- claims

def claim(workspace: Workspace, set_name: str, labeler: str, role: str = "labeler") -> Claim | None:
    """The group that a labeler should judge now: the one claimed already, else a new one; None when nothing is left.

    Reviewers get contested groups first. The rest is ordinary work with test questions and second looks among it, in
    the project's shares; no group is ever held by more people than its overlap.

    Raises:
        NotFound: naming the nearest set.
        DataError: a labeler's name that cannot be.
    """
    valid_labeler(labeler)
    sweep(workspace, set_name, but=labeler)
    return workspace.database.write(lambda c: _claim(c, set_name, labeler, role))


def _claim(c: sa.Connection, set_name: str, labeler: str, role: str) -> Claim | None:
    seq = set_seq(c, set_name)
    project = read_project(c, seq)
    k = db.claims.c
    until = _later(project.lease_seconds)
    token = c.scalar(sa.select(k.token).where(k.labeler == labeler, k.set_seq == seq, LIVE))
    if token is not None:
        c.execute(sa.update(db.claims).where(k.token == token).values(until=until))
    elif project.open:
        token = _new_claim(c, seq, project, labeler, role, until)
    return None if token is None else _read(c, token)


def _new_claim(c: sa.Connection, seq: int, project: Project, labeler: str, role: str, until: str) -> str | None:
    found: tuple[str | None, str] = (None, "normal")
    if role in REVIEWERS:
        found = _contested(c, seq, labeler), "review"
    if found[0] is None:
        ordinary = _ordinary(c, seq, project, labeler)
        hidden = ordinary and _hidden(c, seq, project, labeler)
        found = hidden or (ordinary, "normal")
    group, purpose = found
    if group is None:
        return None
    token = secrets.token_hex(16)
    c.execute(sa.insert(db.claims).values(token=token, set_seq=seq, group_id=group, labeler=labeler, purpose=purpose,
                                          state="live", created=now(), until=until))
    if purpose == "normal":
        settle(c, [group])
    return token


def _ordinary(c: sa.Connection, seq: int, project: Project, labeler: str) -> str | None:
    """The open group of highest priority that this labeler neither judged nor holds."""
    m = db.members.c
    order = (m.priority.desc(), m.shuffled.desc()) if project.order == "informative" else (m.shuffled.desc(),)
    query = _not_mine(c, seq, labeler).where(OPEN).order_by(*order)

    def free(group: str) -> bool:
        taken, open = c.execute(sa.select(m.taken, m.open).where(m.set_seq == seq, m.group_id == group)).one()
        if taken >= project.overlap:  # the project changed while it was claimed
            settle(c, [group])
        return bool(open and taken < project.overlap)

    return _first(c, query, free)


def _contested(c: sa.Connection, seq: int, labeler: str) -> str | None:
    """A contested group that this reviewer did not judge and no other reviewer has before them."""
    k = db.claims.c
    reviewed = sa.exists().where(k.group_id == db.members.c.group_id, k.set_seq == seq, k.purpose == "review", LIVE)
    query = _not_mine(c, seq, labeler).where(WAITING, ~reviewed).order_by(
        db.members.c.priority.desc(), db.members.c.shuffled.desc())
    return _first(c, query, lambda group: c.scalar(query.where(db.members.c.group_id == group)) is not None)


def _first(c: sa.Connection, query: sa.Select[Any], free: Callable[[str], bool]) -> str | None:
    """The first group of a query that is still free once it is locked; groups that others lock now come last."""
    query = query.limit(1)
    while True:
        group = (c.scalar(query.with_for_update(key_share=True, skip_locked=True, of=db.groups))
                 or c.scalar(query.with_for_update(key_share=True, of=db.groups)))
        if group is None:
            if c.scalar(query) is None:
                return None
        elif free(group):
            return str(group)


def _hidden(c: sa.Connection, seq: int, project: Project, labeler: str) -> tuple[str, str] | None:
    """A test question or a second look, if it is its turn. The turn depends on how often this labeler claimed, so
    that reloading does not draw again."""
    k = db.claims.c
    count = c.scalar(sa.select(sa.func.count()).where(k.labeler == labeler, k.set_seq == seq))
    salt = c.scalar(sa.select(db.sets.c.created).where(db.sets.c.seq == seq))
    draw = random.Random(f"{salt} {labeler} {count}")
    turn = draw.random()
    if turn < project.gold_share:
        query, purpose = _not_mine(c, seq, labeler).where(HAS_GOLD), "gold"
    elif turn < project.gold_share + project.repeat_share:
        query, purpose = _seen(seq, labeler), "repeat"
    else:
        return None
    groups = sorted(c.scalars(query))
    return (draw.choice(groups), purpose) if groups else None


def _not_mine(c: sa.Connection, seq: int, labeler: str) -> sa.Select[Any]:
    """The ids of a set's groups that a labeler neither judged nor holds (as part of another set)."""
    r, k = db.rankings.c, db.claims.c
    held = c.scalars(sa.select(k.group_id).where(k.labeler == labeler, LIVE)).all()
    judged = sa.exists().where(r.group_id == db.members.c.group_id, r.labeler == labeler)
    query = sa.select(db.groups.c.id).join(db.members).where(db.members.c.set_seq == seq, ~judged, RANKABLE)
    return query.where(db.members.c.group_id.not_in(held)) if held else query


def _seen(seq: int, labeler: str) -> sa.Select[Any]:
    """The groups that a labeler judged a while ago, and once only."""
    first, again = db.claims.alias(), db.claims.alias()
    old = (sa.select(first.c.group_id).where(
        first.c.labeler == labeler, first.c.set_seq == seq, first.c.state == "done", first.c.purpose == "normal")
        .order_by(first.c.seq.desc()).limit(10 * MANY).offset(REPEAT_AFTER).subquery())
    return sa.select(old.c.group_id).where(~sa.exists().where(
        again.c.labeler == labeler, again.c.group_id == old.c.group_id, again.c.purpose == "repeat"))


def _read(c: sa.Connection, token: str) -> Claim:
    row = c.execute(sa.select(db.claims, db.groups.c.body, db.sets.c.name).join(db.groups).join(db.sets)
                    .where(db.claims.c.token == token)).one()
    group = AnswerGroup.from_dict(json.loads(row.body))
    return Claim(token, row.name, group, _purpose(row.purpose), order_shown(token, len(group.answers)), row.until)


def order_shown(token: str, answers: int) -> tuple[int, ...]:
    """The order of the answers on the page of a claim: random, the same again when the page is reloaded."""
    order = list(range(answers))
    random.Random(token).shuffle(order)
    return tuple(order)


def _purpose(stored: str) -> Purpose:
    return "" if stored == "normal" else stored  # type: ignore[return-value]


def heartbeat(workspace: Workspace, token: str, labeler: str) -> str:
    """A sign of life from the page: until when the claim holds now. One that has ended is taken up again if its
    place is still free.

    Raises:
        NotFound: no such claim of this labeler.
        Conflict: it was judged, or somebody else has the place now.
    """
    def work(c: sa.Connection) -> str:
        held = _own(c, token, labeler)
        until = _later(read_project(c, held.set_seq).lease_seconds)
        if held.state != "live":
            own = verdicts_of(c, held.group_id, labeler)
            if any(r.purpose == _purpose(held.purpose) for r in own):
                raise Conflict("this group was judged already, in another tab or on another device")
            other = c.scalar(sa.select(db.claims.c.token).where(
                db.claims.c.labeler == labeler, db.claims.c.set_seq == held.set_seq, LIVE))
            if other is not None or not _free(c, held):
                raise Conflict(_GONE)
        c.execute(sa.update(db.claims).where(db.claims.c.token == token).values(state="live", until=until))
        settle(c, [held.group_id])
        return until

    return workspace.database.write(work)


def release(workspace: Workspace, token: str, labeler: str) -> None:
    """Give a claim back; nothing happens if it has ended already.

    Raises:
        NotFound: no such claim of this labeler.
    """
    def work(c: sa.Connection) -> None:
        held = _own(c, token, labeler)
        if held.state == "live":
            c.execute(sa.update(db.claims).where(db.claims.c.token == token).values(state="released"))
            settle(c, [held.group_id])

    workspace.database.write(work)


def sweep(workspace: Workspace, set_name: str = "", but: str = "") -> int:
    """End the claims without a sign of life, of one set or of all, except those of one labeler; how many.

    `claim` does it too: nobody has to call this.

    Raises:
        NotFound: naming the nearest set.
    """
    ended = 0
    while True:
        with workspace.database.read() as c:
            k = db.claims.c
            query = sa.select(k.token, k.group_id).where(LIVE, k.until < now(), k.labeler != but)
            if set_name:
                query = query.where(k.set_seq == set_seq(c, set_name))
            rows = c.execute(query.order_by(k.until).limit(SWEPT)).all()
        if not rows:
            return ended
        ended += workspace.database.write(partial(_expire, rows=rows))


def _expire(c: sa.Connection, rows: Iterable[Any]) -> int:
    """End those of the claims that are still without a sign of life."""
    tokens, groups = zip(*rows)
    lock(c, groups)
    ended = c.execute(sa.update(db.claims).where(db.claims.c.token.in_(tokens), LIVE, db.claims.c.until < now())
                      .values(state="expired")).rowcount
    settle(c, groups)
    return ended


def _own(c: sa.Connection, token: str, labeler: str) -> Any:
    """The row of a claim, its group locked."""
    query = sa.select(db.claims).where(db.claims.c.token == token, db.claims.c.labeler == labeler)
    row = c.execute(query).first()
    if row is None:
        raise NotFound("no such claim; open the page again to get a group to judge")
    lock(c, [row.group_id])
    return c.execute(query).one()


def _free(c: sa.Connection, claim: Any) -> bool:
    """Whether a claim that ended may go on. Test questions, second looks and reviews take nobody's place."""
    if claim.purpose != "normal":
        return True
    m = db.members.c
    taken = c.scalar(sa.select(m.taken).where(m.set_seq == claim.set_seq, m.group_id == claim.group_id)) or 0
    mine = c.scalar(sa.select(sa.func.count()).where(
        db.claims.c.group_id == claim.group_id, db.claims.c.labeler == claim.labeler,
        db.claims.c.purpose == "normal", LIVE)) or 0
    return taken - mine < read_project(c, claim.set_seq).overlap


_GONE = ("this group was given to others in the meantime, because nothing was heard from this page for too long; "
         "your judgement was not stored")


# ---- verdicts

def submit(workspace: Workspace, ranking: Ranking, token: str = "") -> Submitted:
    """Store a verdict on a claimed group, or a revision of one's newest verdict (`ranking.revises`; needs no claim).

    It is on disk when this returns. The same id again (a retry) is stored once. The claim says what the verdict is
    for: `ranking.purpose` may be left empty. A skip gives the place back.

    Raises:
        NotFound: no such group, or no such claim of this labeler.
        DataError: the verdict does not fit its group or its claim.
        Conflict: others have the place now, or this labeler judged the group already; carries both verdicts.
        StorageError: not stored.
    """
    check_ranking(ranking)
    return workspace.database.write(lambda c: _submit(c, ranking, token))


def _submit(c: sa.Connection, ranking: Ranking, token: str) -> Submitted:
    lock(c, [ranking.group])
    own = verdicts_of(c, ranking.group, ranking.labeler)
    if ranking.id in {r.id for r in own}:
        return Submitted(False)
    if ranking.revises:
        ranking = _revision(c, ranking, own)
    else:
        ranking = _claimed(c, ranking, token, own)
    insert_rankings(c, [ranking])
    return Submitted(True)


def _claimed(c: sa.Connection, ranking: Ranking, token: str, own: list[Ranking]) -> Ranking:
    """The verdict with the purpose of its claim, which ends."""
    held = _own(c, token, ranking.labeler)
    purpose = _purpose(held.purpose)
    if held.group_id != ranking.group:
        raise DataError("the verdict is on another group than the claim")
    if ranking.purpose not in ("", purpose):
        raise DataError(f'the verdict\'s purpose is "{ranking.purpose}", the claim\'s is not')
    answers = c.scalar(sa.select(db.groups.c.answers).where(db.groups.c.id == held.group_id))
    if ranking.shown and ranking.shown != order_shown(token, answers or 0):
        raise DataError("the order shown is not the one that the claim was shown in; reload the page")
    if same := [r for r in own if r.purpose == purpose]:
        raise Conflict("you judged this group already, in another tab or on another device; change that verdict "
                       "instead", same[-1], ranking)
    if held.state != "live" and not _free(c, held):
        raise Conflict(_GONE, None, ranking)
    c.execute(sa.update(db.claims).where(db.claims.c.token == token)
              .values(state="skipped" if ranking.skipped else "done"))
    if purpose == "review" and not ranking.skipped:
        c.execute(sa.update(db.members).where(
            db.members.c.set_seq == held.set_seq, db.members.c.group_id == held.group_id).values(contested="settled"))
    return replace(ranking, purpose=purpose)


def _revision(c: sa.Connection, ranking: Ranking, own: list[Ranking]) -> Ranking:
    """The verdict with the purpose of the one that it replaces, which must be the newest of its kind."""
    old = next((r for r in own if r.id == ranking.revises), None)
    if old is None:
        raise NotFound(f'no verdict "{ranking.revises}" of yours on this group')
    newest = [r for r in own if r.purpose == old.purpose][-1]
    if newest.id != old.id:
        raise Conflict("this verdict was changed already, in another tab or on another device", newest, ranking)
    if old.skipped and not ranking.skipped and not old.purpose:
        m = db.members.c
        if c.scalar(sa.select(m.set_seq).where(m.group_id == ranking.group, ~OPEN, m.gold == "").limit(1)) is not None:
            raise Conflict("others have judged this group since you skipped it; it needs no more verdicts", old,
                           ranking)
    return replace(ranking, purpose=old.purpose)


def history(workspace: Workspace, group_id: str, labeler: str) -> list[Ranking]:
    """A labeler's verdicts on a group, oldest first: the newest of each purpose counts."""
    with workspace.database.read() as c:
        return verdicts_of(c, group_id, labeler)


def last(workspace: Workspace, set_name: str, labeler: str) -> Ranking | None:
    """A labeler's newest verdict in a set: the one that undo opens again.

    Raises:
        NotFound: naming the nearest set.
    """
    r, m = db.rankings.c, db.members.c
    with workspace.database.read() as c:
        body = c.scalar(sa.select(r.body).join(db.members, m.group_id == r.group_id).where(
            m.set_seq == set_seq(c, set_name), r.labeler == labeler).order_by(r.seq.desc()).limit(1))
    return None if body is None else Ranking.from_dict(json.loads(body))


# ---- the set as a whole

def progress(workspace: Workspace, set_name: str, labeler: str = "") -> Progress:
    """How far a set is, and how many verdicts are this labeler's.

    Raises:
        NotFound: naming the nearest set.
    """
    m, k, r = db.members.c, db.claims.c, db.rankings.c
    count = sa.func.count
    with workspace.database.read() as c:
        seq = set_seq(c, set_name)
        overlap = read_project(c, seq).overlap
        groups = (c.scalar(sa.select(sa.func.max(m.position)).where(m.set_seq == seq)) or 0) + 1
        open = _count_open(workspace, c, seq, groups)
        live = c.scalar(sa.select(count()).where(k.set_seq == seq, LIVE)) or 0
        held = c.scalar(sa.select(count(sa.distinct(m.group_id))).join(
            db.claims, sa.and_(k.set_seq == m.set_seq, k.group_id == m.group_id)).where(
                k.set_seq == seq, LIVE, k.purpose == "normal", ~OPEN, m.done < overlap)) or 0
        judged = c.scalar(sa.select(count(sa.distinct(r.group_id))).join(
            db.members, m.group_id == r.group_id).where(m.set_seq == seq, r.labeler == labeler)) or 0
        again = c.scalar(sa.select(count()).where(k.labeler == labeler, k.set_seq == seq, k.purpose == "repeat",
                                                  k.state.in_(("done", "skipped")))) or 0
    return Progress(groups, groups - open - held, judged + again, open, live)


def _count_open(workspace: Workspace, c: sa.Connection, seq: int, groups: int) -> int:
    """How many groups are open. Counting a million takes a tenth of a second, so that pages of a big set share a count
    for twenty times as long as it took: no more than a twentieth of the time goes into counting."""
    counts = _COUNTS.setdefault(workspace, {})
    until, open = counts.get(seq, (0.0, 0))
    start = time.monotonic()
    if groups <= MANY or start > until:
        m = db.members.c  # that `shuffled` is never negative leads SQLite to the index of the open ones
        open = c.scalar(sa.select(sa.func.count()).where(m.set_seq == seq, m.shuffled >= 0, OPEN)) or 0
        counts[seq] = start + 21 * (time.monotonic() - start), open
    return open


_COUNTS: WeakKeyDictionary[Workspace, dict[int, tuple[float, int]]] = WeakKeyDictionary()


def priorities(workspace: Workspace, set_name: str, values: Mapping[str, float]) -> None:
    """Say which groups are asked earlier (higher first); groups left out keep theirs.

    Raises:
        NotFound: naming the nearest set.
        DataError: a priority that is no number.
    """
    if bad := next((group for group, value in values.items() if not -1e300 < value < 1e300), None):
        raise DataError(f"the priority of group {bad} is {values[bad]}; it must be a finite number")
    rows = [{"the_group": group, "priority": float(value)} for group, value in sorted(values.items())]
    m = db.members.c

    def work(c: sa.Connection, chunk: list[dict[str, Any]]) -> None:
        seq = set_seq(c, set_name)
        c.execute(sa.update(db.members).where(m.set_seq == seq, m.group_id == sa.bindparam("the_group")), chunk)

    for start in range(0, max(len(rows), 1), MANY):
        if chunk := rows[start:start + MANY]:
            workspace.database.write(partial(work, chunk=chunk))


def mark_contested(workspace: Workspace, set_name: str, group_ids: Iterable[str]) -> int:
    """Send groups to a reviewer; how many were not sent before. What a reviewer settled stays settled.

    Raises:
        NotFound: naming the nearest set.
    """
    m = db.members.c

    def work(c: sa.Connection, chunk: list[str]) -> int:
        return c.execute(sa.update(db.members).where(
            m.set_seq == set_seq(c, set_name), m.group_id.in_(chunk), m.contested == "")
            .values(contested="waiting")).rowcount

    return sum(workspace.database.write(partial(work, chunk=chunk)) for chunk in chunks(group_ids))


def contested(workspace: Workspace, set_name: str) -> list[str]:
    """The ids of the groups that wait for a reviewer, in the set's order.

    Raises:
        NotFound: naming the nearest set.
    """
    m = db.members.c
    with workspace.database.read() as c:
        rows = c.execute(sa.select(m.position, m.group_id).where(m.set_seq == set_seq(c, set_name), WAITING)).all()
    return [row.group_id for row in sorted(rows)]


def _later(seconds: int) -> str:
    return (datetime.fromisoformat(now()) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
