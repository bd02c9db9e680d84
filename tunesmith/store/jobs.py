"""Fine-tuning jobs: what was asked for, who works on it, what happened.

    validating_files -> queued -> running -> succeeded | failed          cancelled, paused: from any but the last two

Whoever works on a job holds a lease and the fencing token that came with it: every write of a worker names the token,
and fails once somebody else has claimed the job. What people ask for (cancel, pause, resume) needs no token: it changes
the status, and the worker sees it between two steps. Events are append-only, and an event said twice is stored once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tunesmith.errors import Interrupted, NotFound, UserError
from tunesmith.store import once
from tunesmith.store import tables as db
from tunesmith.store.blobs import OverQuota, new_id
from tunesmith.store.database import alone, insert_once, pack
from tunesmith.store.runs import finite, now
from tunesmith.store.team import from_now

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

PREFIX = "ftjob-"
"""Of a job's id, and of the adapters that it makes."""
OPEN = ("validating_files", "queued", "running")
"""A worker is wanted."""
OVER = ("succeeded", "failed", "cancelled")
LEASE = 30.0
"""Seconds that a silent worker keeps its job; it renews the lease every third of that."""
ATTEMPTS = 5
"""Claims without a single new step before a job counts as poisonous."""


class Lost(Interrupted):
    """Somebody else has claimed the job; this worker must let go of it."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job. `body` is what was asked for (see `service.finetuning`), `progress` how far it is."""

    seq: int
    id: str
    account: str
    key_id: str
    body: dict[str, Any]
    status: str
    created: str
    finished: str
    error: dict[str, Any]
    model: str
    trained_tokens: int | None
    results: tuple[str, ...]
    progress: dict[str, Any]
    token: int
    lease_owner: str
    lease_until: str
    attempts: int

    @property
    def held(self) -> bool:
        """Whether somebody works on it."""
        return self.lease_until > now()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    seq: int
    id: str
    created: str
    level: str
    kind: str
    message: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model that a job made on its way. `model` is the name that it is served under."""

    seq: int
    id: str
    step: int
    model: str
    metrics: dict[str, float]
    created: str


# ---- what people ask for

def create(workspace: Workspace, body: Mapping[str, Any], account: str, key_id: str = "", *, most: int = 0,
           mark: once.Mark | None = None) -> Job:
    """A new job that waits for its files to be validated; the one that this request made before, if it came before.

    Raises:
        OverQuota: this key has `most` unfinished jobs already.
    """
    id = new_id(PREFIX)

    def write(c: sa.Connection) -> str:
        alone(c, "jobs")
        if mark and (before := once.first(c, mark)):
            return before
        mine = sa.select(sa.func.count()).where(db.jobs.c.account == account, db.jobs.c.key_id == key_id,
                                                db.jobs.c.status.not_in(OVER))
        if most and (c.scalar(mine) or 0) >= most:
            raise OverQuota(f"this key has {most} unfinished jobs, and may have no more; wait for one, or cancel one")
        c.execute(sa.insert(db.jobs).values(id=id, account=account, key_id=key_id, body=pack(dict(body)),
                                            status=OPEN[0], created=now()))
        _say(c, id, f"Created fine-tuning job: {id}")
        _say(c, id, f"Validating training file: {body['training_file']}"
             + (f" and validation file: {body['validation_file']}" if body.get("validation_file") else ""))
        if mark:
            once.note(c, mark, id)
        return id

    return find(workspace, workspace.database.write(write))


def find(workspace: Workspace, id: str) -> Job:
    """
    Raises:
        NotFound: there is none.
    """
    with workspace.database.read() as c:
        return _find(c, id)


def page(workspace: Workspace, limit: int, after: str = "",
         metadata: Mapping[str, str] | None = None) -> tuple[list[Job], bool]:
    """Jobs, newest first, and whether more follow. `metadata`: only those that have these pairs.

    Raises:
        NotFound: `after` is no job's id.
    """
    query = sa.select(db.jobs).order_by(db.jobs.c.seq.desc())
    found: list[Job] = []
    with workspace.database.read() as c:
        if after:
            query = query.where(db.jobs.c.seq < _find(c, after).seq)
        for row in c.execute(query.limit(limit + 1) if metadata is None else query):
            job = _job(row)
            if metadata is None or (job.body.get("metadata") or {}).items() >= metadata.items():
                found.append(job)
            if len(found) > limit:
                break
    return found[:limit], len(found) > limit


def cancel(workspace: Workspace, id: str) -> Job:
    """End a job; whoever works on it stops after the step it is at. Asked again, it changes nothing.

    Raises:
        UserError: it is over.
    """
    return _ask(workspace, id, (*OPEN, "paused"), "cancelled", "The job was cancelled")


def pause(workspace: Workspace, id: str) -> Job:
    """Let a job rest; whoever works on it keeps a checkpoint after the step it is at.

    Raises:
        UserError: it is over.
    """
    return _ask(workspace, id, OPEN, "paused", "The job was paused")


def resume(workspace: Workspace, id: str) -> Job:
    """Let a paused job go on, from its last checkpoint.

    Raises:
        UserError: it is not paused.
    """
    def after(job: Job) -> str:
        return "queued" if job.progress.get("validated") else OPEN[0]

    return _ask(workspace, id, ("paused",), after, "The job was resumed")


def _ask(workspace: Workspace, id: str, before: Sequence[str], after: Any, message: str) -> Job:
    def write(c: sa.Connection) -> None:
        alone(c, "jobs")
        job = _find(c, id)
        status = after(job) if callable(after) else after
        if job.status == status:
            return
        if job.status not in before:
            raise UserError(f"Job {id} is {job.status}; only a job that is {' or '.join(before)} can be "
                            f"{message.rpartition(' ')[2]}.")
        c.execute(sa.update(db.jobs).where(db.jobs.c.id == id).values(
            status=status, attempts=0, finished=now() if status in OVER else ""))
        _say(c, id, message, key=f"{message} {job.token} {_count_events(c, job)}")

    workspace.database.write(write)
    return find(workspace, id)


# ---- what workers do

def waiting(workspace: Workspace) -> list[Job]:
    """Jobs that want a worker and have none, oldest first."""
    with workspace.database.read() as c:
        rows = c.execute(sa.select(db.jobs).where(db.jobs.c.status.in_(OPEN), db.jobs.c.lease_until <= now())
                         .order_by(db.jobs.c.seq))
        return [_job(row) for row in rows]


def unfinished(workspace: Workspace) -> int:
    """How many jobs want a worker, or have one."""
    with workspace.database.read() as c:
        return c.scalar(sa.select(sa.func.count()).where(sa.or_(
            db.jobs.c.status.in_(OPEN), db.jobs.c.lease_until > now()))) or 0


def claim(workspace: Workspace, id: str, owner: str, *, slots: int = 0, seconds: float = LEASE) -> Job | None:
    """Take a lease on a job; None if it wants no worker, has one, or `slots` others of its kind are worked on."""
    def write(c: sa.Connection) -> int:
        alone(c, "jobs")
        job = _find(c, id)
        validates = job.status == OPEN[0]
        same = db.jobs.c.status == OPEN[0] if validates else db.jobs.c.status != OPEN[0]
        busy = c.scalar(sa.select(sa.func.count()).where(same, db.jobs.c.lease_until > now())) or 0
        if job.status not in OPEN or job.held or (slots and busy >= slots):
            return 0
        c.execute(sa.update(db.jobs).where(db.jobs.c.id == id).values(
            token=job.token + 1, lease_owner=owner[:128], lease_until=from_now(minutes=seconds / 60),
            attempts=job.attempts + 1))
        return job.token + 1

    token = workspace.database.write(write)
    return replace(find(workspace, id), token=token) if token else None


def renew(workspace: Workspace, id: str, token: int, seconds: float = LEASE) -> str:
    """Keep the lease; the job's status, which tells whether somebody asked for something.

    Raises:
        Lost: another worker has the job.
    """
    def write(c: sa.Connection) -> str:
        job = _hold(c, id, token)
        _set(c, job, lease_until=from_now(minutes=seconds / 60))
        return job.status

    return workspace.database.write(write)


def release(workspace: Workspace, id: str, token: int, wait: float = 0.0) -> None:
    """Let go of a job, so that another worker may claim it after `wait` seconds. Too late, it does nothing."""
    until = from_now(minutes=wait / 60) if wait else ""
    workspace.database.write(lambda c: c.execute(sa.update(db.jobs).where(
        db.jobs.c.id == id, db.jobs.c.token == token).values(lease_until=until)))


def move(workspace: Workspace, id: str, token: int, before: str, after: str, message: str, **values: Any) -> bool:
    """Change the status as the worker that holds the job, with an event; False if somebody asked for something else.

    `values`: other columns to set: `body`, `progress`, `model`, `trained_tokens`, `results`, `error`.

    Raises:
        Lost: another worker has the job.
    """
    packed = {k: pack(v) if k in ("body", "progress", "results", "error") else v for k, v in values.items()}

    def write(c: sa.Connection) -> bool:
        job = _hold(c, id, token)
        if job.status != before:
            return False
        ended = {"finished": now(), "lease_until": ""} if after in OVER else {}
        _set(c, job, status=after, **packed, **ended)
        _say(c, id, message, level="error" if after == "failed" else "info")
        return True

    return workspace.database.write(write)


def advance(workspace: Workspace, id: str, token: int, progress: Mapping[str, Any],
            lines: Sequence[tuple[str, str, Mapping[str, Any]]] = ()) -> None:
    """Note how far a job is, and events as (key, message, metrics); a key said before is stored once.

    An event that is new shows that the job gets on, however often its workers died.

    Raises:
        Lost: another worker has the job.
    """
    def write(c: sa.Connection) -> None:
        job = _hold(c, id, token)
        new = [_say(c, id, message, key=key, kind="metrics" if data else "message", data=data)
               for key, message, data in lines]
        _set(c, job, progress=pack({**job.progress, **progress}), attempts=0 if any(new) else job.attempts)

    workspace.database.write(write)


def say(workspace: Workspace, id: str, message: str, *, key: str = "", level: str = "info") -> None:
    """Append an event."""
    workspace.database.write(lambda c: _say(c, id, message, key=key, level=level))


def add_checkpoint(workspace: Workspace, id: str, token: int, step: int, model: str, adapter: str,
                   metrics: Mapping[str, float]) -> None:
    """Note a model that is ready to use, with the name that it is served under. Noted twice, it is there once.

    Raises:
        Lost: another worker has the job.
    """
    def write(c: sa.Connection) -> None:
        _keep(c, _hold(c, id, token), step, model, adapter, metrics)

    workspace.database.write(write)


def succeed(workspace: Workspace, id: str, token: int, model: str, adapter: str, results: Sequence[str], tokens: int,
            last: tuple[int, Mapping[str, float]]) -> bool:
    """The end of a job: `adapter` (`name@version`) is served as `model` from now on, and is its last checkpoint.

    False, and nothing of it, if somebody has paused or cancelled the job.

    Raises:
        Lost: another worker has the job.
    """
    def write(c: sa.Connection) -> bool:
        job = _hold(c, id, token)
        if job.status != "running":
            return False
        _keep(c, job, last[0], model, adapter, last[1])
        _say(c, id, f"New fine-tuned model created: {model}")
        _set(c, job, status="succeeded", model=model, results=pack(list(results)), trained_tokens=tokens,
             finished=now(), lease_until="")
        _say(c, id, "The job has successfully completed")
        return True

    return workspace.database.write(write)


def name_model(workspace: Workspace, name: str, adapter: str) -> None:
    """Give an adapter (`name@version`) another name, under which it is served."""
    workspace.database.write(lambda c: _name(c, name, adapter))


# ---- what is read

def events(workspace: Workspace, id: str, limit: int, after: str = "") -> tuple[list[Event], bool]:
    """A job's events, newest first, and whether more follow.

    Raises:
        NotFound: no such job, or `after` is none of its events.
    """
    rows, more = _of_job(workspace, db.job_events, id, limit, after)
    return [Event(r.seq, r.id, r.created, r.level, r.kind, r.message, json.loads(r.data)) for r in rows], more


def checkpoints(workspace: Workspace, id: str, limit: int, after: str = "") -> tuple[list[Checkpoint], bool]:
    """A job's checkpoints, newest first, and whether more follow. Raises what `events` raises."""
    rows, more = _of_job(workspace, db.job_checkpoints, id, limit, after)
    return [Checkpoint(r.seq, r.id, r.step, r.model, json.loads(r.metrics), r.created) for r in rows], more


def model_names(workspace: Workspace) -> dict[str, list[str]]:
    """Adapter (`name@version`) -> the names beside its own that it is served under."""
    found: dict[str, list[str]] = {}
    with workspace.database.read() as c:
        for row in c.execute(sa.select(db.model_names).where(~db.model_names.c.deleted).order_by(db.model_names.c.seq)):
            found.setdefault(row.adapter, []).append(row.name)
    return found


def adapter_named(workspace: Workspace, name: str) -> str:
    """The adapter (`name@version`) that is served under such a name; the name itself if none is."""
    with workspace.database.read() as c:
        return c.scalar(sa.select(db.model_names.c.adapter).where(
            db.model_names.c.name == name, ~db.model_names.c.deleted)) or name


def delete_model(workspace: Workspace, name: str) -> bool:
    """Take a name away; False if there is none."""
    return bool(workspace.database.write(lambda c: c.execute(sa.update(db.model_names).where(
        db.model_names.c.name == name, ~db.model_names.c.deleted).values(deleted=True)).rowcount))


# ---- inside a transaction

def _find(c: sa.Connection, id: str) -> Job:
    row = c.execute(sa.select(db.jobs).where(db.jobs.c.id == id)).first()
    if row is None:
        raise NotFound(f"Could not find fine tune: {id[:100]}")
    return _job(row)


def _job(row: sa.Row[Any]) -> Job:
    return Job(row.seq, row.id, row.account, row.key_id, json.loads(row.body), row.status, row.created, row.finished,
               json.loads(row.error or "{}"), row.model, row.trained_tokens, tuple(json.loads(row.results)),
               json.loads(row.progress), row.token, row.lease_owner, row.lease_until, row.attempts)


def _hold(c: sa.Connection, id: str, token: int) -> Job:
    job = _find(c, id)
    if job.token != token:
        raise Lost(f"job {id} is another worker's now ({job.lease_owner})")
    return job


def _set(c: sa.Connection, job: Job, **values: Any) -> None:
    """Compare and set: on PostgreSQL somebody may have claimed the job since it was read."""
    if not c.execute(sa.update(db.jobs).where(db.jobs.c.id == job.id, db.jobs.c.token == job.token,
                                              db.jobs.c.status == job.status).values(**values)).rowcount:
        raise Lost(f"job {job.id} has changed meanwhile")


def _say(c: sa.Connection, id: str, message: str, *, key: str = "", level: str = "info", kind: str = "message",
         data: Mapping[str, Any] | None = None) -> bool:
    """False if it is said already."""
    job_seq = c.scalar(sa.select(db.jobs.c.seq).where(db.jobs.c.id == id))
    return insert_once(c, db.job_events, {"id": f"ftevent-{_digest(id, key or message)}"},
                       {"job_seq": job_seq, "created": now(), "level": level, "kind": kind, "message": message,
                        "data": pack(finite(data or {}))})


def _keep(c: sa.Connection, job: Job, step: int, model: str, adapter: str, metrics: Mapping[str, float]) -> None:
    insert_once(c, db.job_checkpoints, {"job_seq": job.seq, "step": step},
                {"id": f"ftckpt_{_digest(job.id, str(step))}", "model": model, "metrics": pack(finite(metrics)),
                 "created": now()})
    _name(c, model, adapter)
    _say(c, job.id, f"Checkpoint created at step {step}", key=f"checkpoint {step}")


def _name(c: sa.Connection, name: str, adapter: str) -> None:
    insert_once(c, db.model_names, {"name": name}, {"adapter": adapter, "created": now()})


def _count_events(c: sa.Connection, job: Job) -> int:
    return c.scalar(sa.select(sa.func.count()).where(db.job_events.c.job_seq == job.seq)) or 0


def _of_job(workspace: Workspace, table: sa.Table, id: str, limit: int, after: str) -> tuple[Sequence[Any], bool]:
    with workspace.database.read() as c:
        query = sa.select(table).where(table.c.job_seq == _find(c, id).seq).order_by(table.c.seq.desc())
        if after:
            seq = c.scalar(query.with_only_columns(table.c.seq).where(table.c.id == after))
            if seq is None:
                raise NotFound(f"nothing of job {id} has the id {after[:100]}")
            query = query.where(table.c.seq < seq)
        rows = c.execute(query.limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
