"""Projects: how a set of answer groups is ranked, its test questions and its guidelines."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.contracts import check_tiers
from tunesmith.errors import DataError, NotFound
from tunesmith.records import Tiers
from tunesmith.store import audit
from tunesmith.store import tables as db
from tunesmith.store.checks import valid_labeler
from tunesmith.store.database import insert_once, pack
from tunesmith.store.places import OVERLAP, lock, set_seq, settings_of, settle
from tunesmith.store.runs import now

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

LONGEST = 100_000
"""Characters of a guideline text."""
MANY = 5000
"""Groups of a set that are opened or closed in one write."""


class Project(BaseModel):
    """How a set is ranked."""

    model_config = ConfigDict(frozen=True)

    overlap: int = Field(OVERLAP, ge=1, le=100)
    """How many people judge each group."""
    lease_seconds: int = Field(1800, ge=30, le=86400)
    """How long a claim lasts without a sign of life from its page."""
    gold_share: float = Field(0.05, ge=0, le=0.2)
    """How much of the work is test questions, if the set has any."""
    repeat_share: float = Field(0.03, ge=0, le=0.2)
    """How much of the work is a second look at what the labeler judged before."""
    order: Literal["informative", "random"] = "informative"
    """Groups of high priority first, or in a fixed random order."""
    contested_below: float = Field(0.7, ge=0.5, le=1)
    """Groups whose consensus is less certain than this are contested."""
    ratings: bool = False
    """Whether labelers may also rate each answer 1 to 7 and say how clearly the best one wins."""
    share_cap: float = Field(0.2, gt=0, le=1)
    """The largest share of the weight that one labeler may have in training."""
    open: bool = True
    """Whether anybody may claim more work."""
    blind: bool = True
    """Whether the names of the models stay hidden from labelers."""
    critique_share: float = Field(0.0, ge=0, le=1)
    """On how many of the groups that have a critique a labeler sees it; 0: nobody does, and no arm is noted."""


def read_project(c: sa.Connection, seq: int) -> Project:
    """The project of a set; the defaults if nobody set it."""
    return Project.model_validate(settings_of(c, [seq])[seq])


def project(workspace: Workspace, set_name: str) -> Project:
    """How a set is ranked.

    Raises:
        NotFound: naming the nearest set.
    """
    with workspace.database.read() as c:
        return read_project(c, set_seq(c, set_name))


def set_project(workspace: Workspace, set_name: str, settings: Project, by: str) -> None:
    """Change how a set is ranked, from now on; verdicts and live claims stay.

    Raises:
        NotFound: naming the nearest set.
    """
    valid_labeler(by)

    def work(c: sa.Connection) -> tuple[int, bool]:
        seq = set_seq(c, set_name)
        c.execute(sa.select(db.sets.c.seq).where(db.sets.c.seq == seq).with_for_update())  # waits for claims under way
        before = read_project(c, seq).model_dump()
        row = {"settings": pack(settings.model_dump())}
        if not insert_once(c, db.projects, {"set_seq": seq}, row):
            c.execute(sa.update(db.projects).where(db.projects.c.set_seq == seq).values(row))
        changed = {key: [before[key], value] for key, value in settings.model_dump().items() if before[key] != value}
        if changed:
            audit.append(c, by, "settings", set_name, changed)
        return seq, "overlap" in changed or not changed  # the same once more repairs what a crash left half done

    seq, again = workspace.database.write(work)
    start: int | None = 0 if again else None
    while start is not None:
        start = workspace.database.write(partial(_reopen, seq=seq, start=start))


def _reopen(c: sa.Connection, seq: int, start: int) -> int | None:
    """Open or close the groups from a position on by the overlap as it is now; where to go on, None at the end. A whole
    set in one write would keep everybody's verdicts waiting for seconds; claims made meanwhile look at the overlap."""
    c.execute(sa.select(db.sets.c.seq).where(db.sets.c.seq == seq).with_for_update())
    m, end = db.members.c, start + MANY
    free = sa.and_(m.gold == "", m.taken < read_project(c, seq).overlap)
    c.execute(sa.update(db.members).where(m.set_seq == seq, m.position >= start, m.position < end, m.open != free)
              .values(open=free))
    more = c.scalar(sa.select(m.position).where(m.set_seq == seq, m.position >= end).limit(1))
    return None if more is None else end


def set_gold(workspace: Workspace, set_name: str, group_id: str, tiers: Tiers | None, by: str) -> None:
    """Make a group of a set a test question whose right tiers are known, or (None) ordinary again.

    Test questions are shown to every labeler once, look like the rest, and never train.

    Raises:
        NotFound: no such set, or the group is not in it.
        DataError: the tiers do not fit the group.
    """
    valid_labeler(by)

    def work(c: sa.Connection) -> None:
        seq = set_seq(c, set_name)
        lock(c, [group_id])
        answers = c.scalar(sa.select(db.groups.c.answers).join(db.members).where(
            db.members.c.set_seq == seq, db.members.c.group_id == group_id))
        if answers is None:
            raise NotFound(f'no answer group "{group_id}" in {set_name}')
        if tiers is not None:
            check_tiers(tiers, answers)
            if len(tiers) < 2:
                raise DataError("a test question needs at least two tiers: what is better, what is worse")
        c.execute(sa.update(db.members).where(db.members.c.set_seq == seq, db.members.c.group_id == group_id)
                  .values(gold="" if tiers is None else pack(tiers)))
        settle(c, [group_id])
        audit.append(c, by, "gold", set_name, {"group": group_id, "tiers": tiers})

    workspace.database.write(work)


def gold(workspace: Workspace, set_name: str) -> dict[str, Tiers]:
    """The test questions of a set: group -> its right tiers.

    Raises:
        NotFound: naming the nearest set.
    """
    m = db.members.c
    with workspace.database.read() as c:
        rows = c.execute(sa.select(m.position, m.group_id, m.gold).where(
            m.set_seq == set_seq(c, set_name), HAS_GOLD)).all()
    return {row.group_id: tuple(tuple(tier) for tier in json.loads(row.gold)) for row in sorted(rows)}


HAS_GOLD: sa.ColumnElement[bool] = sa.literal_column("members.gold <> ''")
"""Written as in the index of test questions, so that SQLite uses it."""


# ---- guidelines

def add_guidelines(workspace: Workspace, set_name: str, text: str, by: str) -> int:
    """A new version of a set's guidelines (Markdown); its number. The same text again is no new version.

    Raises:
        NotFound: naming the nearest set.
        DataError: empty or too long.
    """
    valid_labeler(by)
    if not text.strip() or len(text) > LONGEST or "\0" in text:
        raise DataError(f"guidelines have 1 to {LONGEST} characters, got {len(text)}")

    def work(c: sa.Connection) -> int:
        seq = set_seq(c, set_name)
        c.execute(sa.select(db.sets.c.seq).where(db.sets.c.seq == seq).with_for_update())
        newest = _newest(c, seq)
        if newest is not None and newest[1] == text:
            return newest[0]
        version = 1 if newest is None else newest[0] + 1
        c.execute(sa.insert(db.guidelines).values(set_seq=seq, version=version, text=text, by=by, created=now()))
        audit.append(c, by, "guidelines", set_name, {"version": version})
        return version

    return workspace.database.write(work)


def guidelines(workspace: Workspace, set_name: str, version: int | None = None) -> tuple[int, str] | None:
    """The version and text of a set's guidelines, the newest unless asked for another; None if there are none.

    Raises:
        NotFound: naming the nearest set.
    """
    with workspace.database.read() as c:
        return _newest(c, set_seq(c, set_name), version)


def acknowledge(workspace: Workspace, set_name: str, version: int, labeler: str) -> None:
    """Note that a labeler has read a version of the guidelines.

    Raises:
        NotFound: no such set or version.
    """
    valid_labeler(labeler)

    def work(c: sa.Connection) -> None:
        seq = set_seq(c, set_name)
        if _newest(c, seq, version) is None:
            raise NotFound(f"the guidelines of {set_name} have no version {version}")
        insert_once(c, db.acknowledgements, {"set_seq": seq, "version": version, "labeler": labeler}, {"at": now()})

    workspace.database.write(work)


def acknowledged(workspace: Workspace, set_name: str, labeler: str) -> int:
    """The newest version of a set's guidelines that a labeler has read; 0 if none.

    Raises:
        NotFound: naming the nearest set.
    """
    a = db.acknowledgements.c
    with workspace.database.read() as c:
        return c.scalar(sa.select(sa.func.max(a.version)).where(
            a.set_seq == set_seq(c, set_name), a.labeler == labeler)) or 0


def unread(workspace: Workspace, set_name: str, labeler: str) -> int:
    """The newest version of a set's guidelines if a labeler has not read it; 0 if they have, or if there are none.

    Raises:
        NotFound: naming the nearest set.
    """
    g, a = db.guidelines.c, db.acknowledgements.c
    with workspace.database.read() as c:
        seq = set_seq(c, set_name)
        newest = c.scalar(sa.select(sa.func.max(g.version)).where(g.set_seq == seq)) or 0
        read = newest and c.scalar(sa.select(a.version).where(
            a.set_seq == seq, a.version == newest, a.labeler == labeler))
    return 0 if read else newest


def guidelines_of(workspace: Workspace, group_id: str, labeler: str, token: str = "") -> tuple[int, int]:
    """For a verdict: the newest version of the guidelines that the labeler has read, and the newest when the group was
    claimed; of the set of the claim, or without its token of the labeler's newest claim on the group."""
    k, g, a = db.claims.c, db.guidelines.c, db.acknowledgements.c
    which = k.token == token if token else sa.and_(k.group_id == group_id, k.labeler == labeler)
    claim = sa.select(k.set_seq, k.created).where(which).order_by(k.seq.desc()).limit(1).subquery().c
    read = sa.select(sa.func.max(a.version)).where(a.set_seq == claim.set_seq, a.labeler == labeler)
    then = sa.select(sa.func.max(g.version)).where(g.set_seq == claim.set_seq, g.created <= claim.created)
    with workspace.database.read() as c:
        row = c.execute(sa.select(read.scalar_subquery(), then.scalar_subquery())).one()
    return row[0] or 0, row[1] or 0


def _newest(c: sa.Connection, seq: int, version: int | None = None) -> tuple[int, str] | None:
    g = db.guidelines.c
    query = sa.select(g.version, g.text).where(g.set_seq == seq).order_by(g.version.desc()).limit(1)
    row = c.execute(query if version is None else query.where(g.version == version)).first()
    return None if row is None else (row.version, row.text)
