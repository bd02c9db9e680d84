"""Leases and fencing tokens of fine-tuning jobs, on both databases."""

import threading

import pytest
import sqlalchemy as sa

from tunesmith.errors import NotFound, UserError
from tunesmith.store import jobs
from tunesmith.store import tables as db
from tunesmith.store.workspace import Workspace

BODY = {"training_file": "file-1", "validation_file": None, "metadata": None}


def made(workspace, **more):
    return jobs.create(workspace, {**BODY, **more}, "me")


def texts(workspace, job):
    return [e.message for e in jobs.events(workspace, job.id, 100)[0]][::-1]


def expire(workspace, job):
    workspace.database.write(lambda c: c.execute(sa.update(db.jobs).where(db.jobs.c.id == job.id).values(
        lease_until="2026-01-01T00:00:00.000000Z")))


def validated(workspace, **more):
    """A job that waits to be trained."""
    job = jobs.claim(workspace, made(workspace, **more).id, "w")
    assert jobs.move(workspace, job.id, job.token, "validating_files", "queued", "ok", progress={"validated": True})
    jobs.release(workspace, job.id, job.token)
    return jobs.find(workspace, job.id)


def test_one_worker_gets_a_job(workspace):
    job, won = made(workspace), []
    threads = [threading.Thread(target=lambda n=n: won.append(jobs.claim(workspace, job.id, f"w{n}")))
               for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, = [c for c in won if c]
    assert first.token == 1 and first.lease_owner.startswith("w") and jobs.waiting(workspace) == []
    assert jobs.unfinished(workspace) == 1


def test_who_lost_the_lease_writes_nothing(workspace):
    old = jobs.claim(workspace, validated(workspace).id, "old")
    assert jobs.move(workspace, old.id, old.token, "queued", "running", "started")
    expire(workspace, old)
    assert [j.id for j in jobs.waiting(workspace)] == [old.id]
    new = jobs.claim(workspace, old.id, "new")
    assert new.token == old.token + 1 and new.status == "running"
    before = jobs.find(workspace, old.id), texts(workspace, old)
    for write in (lambda: jobs.renew(workspace, old.id, old.token),
                  lambda: jobs.advance(workspace, old.id, old.token, {"step": 9}, [("k", "late", {})]),
                  lambda: jobs.add_checkpoint(workspace, old.id, old.token, 1, "ft:x", "a@1", {}),
                  lambda: jobs.move(workspace, old.id, old.token, "running", "failed", "late"),
                  lambda: jobs.succeed(workspace, old.id, old.token, "ft:x", "a@1", [], 1, (1, {}))):
        with pytest.raises(jobs.Lost):
            write()
    jobs.release(workspace, old.id, old.token)
    assert (jobs.find(workspace, old.id), texts(workspace, old)) == before
    assert jobs.adapter_named(workspace, "ft:x") == "ft:x"
    assert jobs.renew(workspace, new.id, new.token) == "running"


def test_a_slot_is_one_job_of_a_kind_at_a_time(workspace):
    first, second, fresh = validated(workspace), validated(workspace), made(workspace)
    held = jobs.claim(workspace, first.id, "w", slots=1)
    assert held and jobs.claim(workspace, second.id, "w", slots=1) is None
    assert jobs.claim(workspace, fresh.id, "w", slots=1)  # validating does not wait for training
    jobs.pause(workspace, first.id)
    assert jobs.claim(workspace, second.id, "w", slots=1) is None  # its worker is still at its last step
    jobs.release(workspace, first.id, held.token)
    assert jobs.claim(workspace, second.id, "w", slots=1)


def test_what_people_ask_for_wins_over_the_end(workspace):
    job = jobs.claim(workspace, validated(workspace).id, "w")
    jobs.move(workspace, job.id, job.token, "queued", "running", "started")
    jobs.cancel(workspace, job.id)
    assert jobs.succeed(workspace, job.id, job.token, "ft:x", "a@1", ["file-r"], 9, (3, {})) is False
    found = jobs.find(workspace, job.id)
    assert (found.status, found.model, found.results) == ("cancelled", "", ())
    assert jobs.model_names(workspace) == {} and jobs.checkpoints(workspace, job.id, 9) == ([], False)


def test_the_end_is_all_or_nothing_and_names_the_model(workspace):
    job = jobs.claim(workspace, validated(workspace).id, "w")
    jobs.move(workspace, job.id, job.token, "queued", "running", "started")
    jobs.add_checkpoint(workspace, job.id, job.token, 2, "ft:x:ckpt-step-2", "a@1", {"step": 2})
    jobs.add_checkpoint(workspace, job.id, job.token, 2, "ft:x:ckpt-step-2", "a@1", {"step": 2})  # after a crash
    assert jobs.succeed(workspace, job.id, job.token, "ft:x", "a@2", ["file-r"], 9, (4, {"step": 4}))
    found = jobs.find(workspace, job.id)
    assert (found.status, found.model, found.results, found.trained_tokens) == ("succeeded", "ft:x", ("file-r",), 9)
    assert found.finished and not found.held and jobs.unfinished(workspace) == 0
    assert [(c.step, c.model) for c in jobs.checkpoints(workspace, job.id, 9)[0]] == [(4, "ft:x"),
                                                                                       (2, "ft:x:ckpt-step-2")]
    assert jobs.model_names(workspace) == {"a@1": ["ft:x:ckpt-step-2"], "a@2": ["ft:x"]}
    assert jobs.delete_model(workspace, "ft:x") and not jobs.delete_model(workspace, "ft:x")
    assert jobs.adapter_named(workspace, "ft:x") == "ft:x" and jobs.model_names(workspace) == {
        "a@1": ["ft:x:ckpt-step-2"]}


def test_events_are_said_once_and_never_change(workspace):
    job = jobs.claim(workspace, validated(workspace).id, "w")
    for _ in range(2):
        jobs.advance(workspace, job.id, job.token, {"step": 1}, [("s1", "Step 1", {"loss": float("nan")})])
    assert texts(workspace, job).count("Step 1") == 1
    assert jobs.events(workspace, job.id, 1)[0][0].data == {"loss": None}
    with pytest.raises(sa.exc.DBAPIError):
        workspace.database.write(lambda c: c.execute(sa.update(db.job_events).values(message="x")))
    jobs.pause(workspace, job.id), jobs.resume(workspace, job.id), jobs.pause(workspace, job.id)
    assert texts(workspace, job)[-3:] == ["The job was paused", "The job was resumed", "The job was paused"]
    with pytest.raises(NotFound):
        jobs.events(workspace, job.id, 9, after="ftevent-none")


def test_attempts_count_only_what_gets_nowhere(workspace):
    job = validated(workspace)
    for n in range(3):
        claimed = jobs.claim(workspace, job.id, "w")
        assert claimed.attempts == n + 2  # the validation was the first
        jobs.release(workspace, job.id, claimed.token)
    claimed = jobs.claim(workspace, job.id, "w")
    jobs.advance(workspace, job.id, claimed.token, {"step": 1}, [("s1", "Step 1", {"loss": 1.0})])
    assert jobs.find(workspace, job.id).attempts == 0
    jobs.advance(workspace, job.id, claimed.token, {"step": 1}, [("s1", "Step 1", {"loss": 1.0})])
    jobs.release(workspace, job.id, claimed.token)
    assert jobs.claim(workspace, job.id, "w").attempts == 1


def test_a_paused_job_is_validated_later_if_it_was_not(workspace):
    job = made(workspace)
    assert jobs.pause(workspace, job.id).status == "paused" and jobs.waiting(workspace) == []
    assert jobs.resume(workspace, job.id).status == "validating_files"
    later = validated(workspace)
    jobs.pause(workspace, later.id)
    assert jobs.resume(workspace, later.id).status == "queued"
    assert jobs.resume(workspace, later.id).status == "queued"  # asked again, nothing changes
    held = jobs.claim(workspace, later.id, "w")
    jobs.move(workspace, held.id, held.token, "queued", "running", "started")
    with pytest.raises(UserError, match="is running; only a job that is paused can be resumed"):
        jobs.resume(workspace, later.id)


def test_pages_by_metadata(workspace):
    ids = [made(workspace, metadata={"team": "a", "n": str(n)} if n % 2 else None).id for n in range(5)]
    found, more = jobs.page(workspace, 2)
    assert ([j.id for j in found], more) == (ids[:2:-1], True)
    assert [j.id for j in jobs.page(workspace, 9, after=ids[1])[0]] == [ids[0]]
    assert [j.id for j in jobs.page(workspace, 9, metadata={"team": "a"})[0]] == [ids[3], ids[1]]
    assert jobs.page(workspace, 9, metadata={"team": "a", "n": "3"})[0][0].id == ids[3]


def test_another_process_sees_the_same(workspace):
    job = jobs.claim(workspace, made(workspace).id, "w")
    with Workspace.open(workspace.root) as other:
        assert jobs.find(other, job.id) == jobs.find(workspace, job.id)
        assert jobs.claim(other, job.id, "v") is None
