"""The outbox of webhooks, on both databases."""

import threading

import sqlalchemy as sa

from tunesmith.store import deliveries, jobs
from tunesmith.store import tables as db
from tunesmith.store.workspace import Workspace

URL = "https://hooks.example/x"


def ended(workspace):
    job = jobs.create(workspace, {"model": "tiny", "training_file": "file-1"}, "me")
    return jobs.cancel(workspace, job.id)


def make_due(workspace):
    workspace.database.write(lambda c: c.execute(sa.update(db.deliveries).values(next="")))


def test_waits_grow_for_three_days_and_then_it_is_given_up(workspace):
    deliveries.subscribe(workspace, [URL])
    ended(workspace)
    waits = []
    for _ in range(len(deliveries.WAITS) + 1):
        make_due(workspace)
        delivery, = deliveries.take(workspace, URL)
        waits.append(deliveries.failed(workspace, delivery, "no"))
    assert waits == [*deliveries.WAITS, 0] and 3 * 86400 < sum(waits) < 4 * 86400
    d = db.deliveries.c
    with workspace.database.read() as c:
        assert [tuple(r) for r in c.execute(sa.select(d.state, d.tries, d.said))] == [("given up", 10, "no")]
    make_due(workspace)
    assert deliveries.take(workspace, URL) == []


def test_two_servers_do_not_deliver_at_once_and_one_that_died_is_stood_in_for(workspace):
    deliveries.subscribe(workspace, [URL])
    for _ in range(5):
        ended(workspace)
    taken, start = [], threading.Barrier(4)

    def take():
        with Workspace.open(workspace.root) as mine:
            start.wait()
            taken.extend(d.job for d in deliveries.take(mine, URL))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 5
    assert deliveries.take(workspace, URL) == []
    make_due(workspace)  # as after TRYING seconds without a result
    assert [d.tries for d in deliveries.take(workspace, URL)] == [2] * 5


def test_every_webhook_hears_of_every_job_that_ended_since_it_is_there(workspace):
    ended(workspace)
    deliveries.subscribe(workspace, [URL])
    first = ended(workspace).id
    deliveries.subscribe(workspace, [URL, "https://other.example/"])
    second = ended(workspace)
    jobs.create(workspace, {"model": "tiny", "training_file": "file-1"}, "me")
    assert [d.job for d in deliveries.take(workspace, URL)] == [first, second.id]
    other, = deliveries.take(workspace, "https://other.example/")
    assert (other.job, other.status, other.ended, other.tries) == (second.id, "cancelled", second.finished, 1)
    assert deliveries.take(workspace, "https://nobody.example/") == []
