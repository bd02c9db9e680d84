"""Crashes, full disks, many writers: what was acknowledged is there once, what was not is invisible."""

import errno
import multiprocessing
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from postgres import sqlite_only

from tunesmith.errors import DataError, StorageError
from tunesmith.records import Answer, AnswerGroup, Message, Prompt, Ranking
from tunesmith.store import database as db
from tunesmith.store import publish, tables
from tunesmith.store.workspace import Workspace

PRELUDE = """
import os, sys
from tunesmith.records import *
from tunesmith.store.workspace import Workspace
def group(n): return AnswerGroup(Prompt((Message("user", f"question {n}"),)), (Answer("a"), Answer("b")))
def verdict(id, n, labeler="ann"): return Ranking(id, group(n).id, labeler, ((0,), (1,)))
def weights(folder): (folder / "w.safetensors").write_bytes(b"w" * 1000)
"""


def group(n):
    return AnswerGroup(Prompt((Message("user", f"question {n}"),)), (Answer("a"), Answer("b")))


def verdict(id, n, labeler="ann"):
    return Ranking(id, group(n).id, labeler, ((0,), (1,)))


def weights(folder):
    (folder / "w.safetensors").write_bytes(b"w" * 1000)


def child(root, code, failpoint="", **options):
    environment = {**os.environ, "TUNESMITH_FAILPOINT": failpoint}
    command = [sys.executable, "-c", PRELUDE + code, str(root)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **options)


def died(root, code, failpoint):
    process = child(root, code, failpoint)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors


def leftovers(root):
    return [p for p in root.rglob(".tmp-*")]


def hold_writer(workspace):
    """Keep the writer thread busy with one transaction until the function that this returns is called."""
    begun, gate = threading.Event(), threading.Event()

    def work(connection):
        begun.set()
        gate.wait(30)

    thread = threading.Thread(target=workspace.database.write, args=[work])
    thread.start()
    assert begun.wait(30)

    def release():
        gate.set()
        thread.join()

    return release


def start_and_queue(workspace, threads):
    for t in threads:
        t.start()
    for _ in range(10_000):
        if workspace.database._jobs.qsize() == len(threads):
            return
        time.sleep(0.003)
    raise AssertionError("the writes did not queue up")


# ---- many writers

def test_threads_and_processes_lose_and_double_nothing(workspace):
    workspace.add_groups("s", [group(n) for n in range(50)])
    code = """
w = Workspace.open(sys.argv[1])
for n in range(50): print(w.add_ranking(verdict(f"{os.getpid()}-{n}", n)), w.add_ranking(verdict(f"both-{n}", n)))
"""
    children = [child(workspace.root, code) for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        mine = list(pool.map(lambda i: workspace.add_ranking(verdict(f"me-{i % 100}", i % 50, "bob")), range(200)))
    printed = [c.communicate(timeout=60) for c in children]
    assert [c.returncode for c in children] == [0, 0], printed
    own = [line.split()[0] for out, _ in printed for line in out.splitlines()]
    shared = [line.split()[1] for out, _ in printed for line in out.splitlines()]
    assert own == ["True"] * 100 and sorted(shared) == ["False"] * 50 + ["True"] * 50
    assert sorted(mine) == [False] * 100 + [True] * 100
    ids = [r.id for r in workspace.rankings("s")]
    assert len(ids) == len(set(ids)) == 250


@sqlite_only
def test_writes_of_one_moment_share_a_commit_and_fail_alone(workspace):
    workspace.add_groups("s", [group(0)])
    commits = []
    sa.event.listen(workspace.database._writing, "commit", lambda c: commits.append(c))
    release = hold_writer(workspace)
    results = {}

    def judge(n):
        try:
            results[n] = workspace.add_ranking(Ranking(str(n), group(0).id, "ann", ((0,),) if n % 10 else ((7,),)))
        except DataError:
            results[n] = "refused"

    threads = [threading.Thread(target=judge, args=[n]) for n in range(100)]
    start_and_queue(workspace, threads)
    release()
    for t in threads:
        t.join()
    assert results == {n: True if n % 10 else "refused" for n in range(100)}
    assert len(workspace.rankings("s")) == 90
    assert len(commits) == 2


@sqlite_only
def test_a_write_that_breaks_the_transaction_leaves_its_neighbours_whole(workspace):
    workspace.add_groups("s", [group(0)])
    release = hold_writer(workspace)
    errors = []

    def breaks():
        try:
            workspace.database.write(lambda c: c.exec_driver_sql("ROLLBACK"))
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=workspace.add_ranking, args=[verdict("1", 0)]), threading.Thread(target=breaks),
               threading.Thread(target=workspace.add_ranking, args=[verdict("2", 0)])]
    start_and_queue(workspace, threads)
    release()
    for t in threads:
        t.join()
    assert len(errors) == 1 and sorted(r.id for r in workspace.rankings("s")) == ["1", "2"]


def test_two_publishers_of_one_name_get_two_versions(workspace):
    code = """
w = Workspace.open(sys.argv[1])
for _ in range(5): print(w.publish_adapter("m", "policy", {}, weights, {}))
"""
    processes = [child(workspace.root, code) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        mine = [str(a) for a in pool.map(
            lambda _: workspace.publish_adapter("m", "policy", {}, weights, {}), range(10))]
    printed = [p.communicate(timeout=60) for p in processes]
    names = mine + [name for out, _ in printed for name in out.split()]
    assert sorted(names) == sorted(f"m@{n}" for n in range(1, 21)), printed
    assert sorted(map(str, workspace.adapters())) == sorted(names) and not leftovers(workspace.root)


def test_several_processes_may_make_the_same_workspace(tmp_path):
    code = 'print(Workspace.open(sys.argv[1]).add_groups("s", [group(0)]))'
    processes = [child(tmp_path / "ws", code) for _ in range(4)]
    printed = [p.communicate(timeout=60) for p in processes]
    assert sorted(out.strip() for out, _ in printed) == ["0", "0", "0", "1"], printed


def test_a_forked_child_writes_on_its_own_connections(workspace):
    workspace.add_groups("s", [group(0)])
    process = multiprocessing.get_context("fork").Process(target=workspace.add_ranking, args=[verdict("1", 0)])
    process.start()
    process.join(20)
    assert process.exitcode == 0
    workspace.add_ranking(verdict("2", 0))
    assert [r.id for r in workspace.rankings("s")] == ["1", "2"]


def test_another_process_that_holds_the_lock_for_long_is_named(tmp_path):
    with Workspace.open(tmp_path / "ws", busy_seconds=0.2) as w:
        w.add_groups("s", [group(0)])
        other = sqlite3.connect(tmp_path / "ws" / "tunesmith.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="ws: is busy: another process keeps writing"):
            w.add_ranking(verdict("1", 0))
        assert w.groups("s") == [group(0)]
        other.execute("COMMIT")
        other.close()
        assert w.add_ranking(verdict("1", 0))


@sqlite_only
def test_an_idle_writer_ends_and_another_takes_over(workspace, monkeypatch):
    monkeypatch.setattr(db, "IDLE_SECONDS", 0.01)
    for n in range(20):
        workspace.add_groups("s", [group(n)])
        time.sleep(0.015 if n % 3 else 0)
    assert len(workspace.groups("s")) == 20


# ---- kill -9

ADAPTER = 'Workspace.open(sys.argv[1]).publish_adapter("m", "policy", {"hash": "h"}, weights, {"seed": 1})'
DATASET = 'Workspace.open(sys.argv[1]).add_dataset("d", "prompts", [Prompt((Message("user", "a"),))])'
CHECKPOINT = """
run = Workspace.open(sys.argv[1]).runs()[0]
run.hold()
run.checkpoint(2, weights)
"""


@pytest.mark.parametrize("point", ["written", "sealed"])
def test_killed_before_the_rename_nothing_is_visible(workspace, point):
    run = workspace.start_run("sft", {}, 0, {})
    run.checkpoint(1, weights)
    run.release()
    died(workspace.root, ADAPTER, f"adapter-{point}")
    died(workspace.root, DATASET, f"dataset-{point}")
    died(workspace.root, CHECKPOINT, f"checkpoint-{point}")
    assert len(leftovers(workspace.root)) == 3
    with Workspace.open(workspace.root) as w:
        assert w.adapters() == [] and w.datasets() == [] and w.runs()[0].latest()[0] == 1
        assert not w.runs()[0].alive
        assert len(leftovers(workspace.root)) == 3  # young: their writers might be alive
        assert str(w.publish_adapter("m", "policy", {}, weights, {})) == "m@1"
    for path in leftovers(workspace.root):
        for p in (path, *path.rglob("*")):
            os.utime(p, (0, 0))
    with Workspace.open(workspace.root):
        assert leftovers(workspace.root) == []


def test_killed_between_rename_and_row_the_folder_is_adopted(workspace):
    run = workspace.start_run("sft", {}, 0, {})
    run.checkpoint(1, weights)
    run.release()
    died(workspace.root, ADAPTER, "adapter-renamed")
    died(workspace.root, DATASET, "dataset-renamed")
    died(workspace.root, CHECKPOINT, "checkpoint-renamed")
    with Workspace.open(workspace.root) as w:
        assert [str(a) for a in w.adapters()] == ["m@1"]
        assert w.adapter("m").lineage["seed"] == 1 and w.adapter("m").base == {"hash": "h"}
        assert list(w.dataset("d").rows()) == [Prompt((Message("user", "a"),))]
        assert w.runs()[0].latest()[0] == 2
        assert str(w.publish_adapter("m", "policy", {}, weights, {})) == "m@2"


def test_a_workspace_that_is_open_skips_an_orphans_version(workspace):
    died(workspace.root, ADAPTER, "adapter-renamed")
    assert str(workspace.publish_adapter("m", "policy", {}, weights, {})) == "m@2"


def test_a_damaged_orphan_stays_out(workspace):
    died(workspace.root, ADAPTER, "adapter-renamed")
    (workspace.root / "adapters" / "m" / "1" / "w.safetensors").write_bytes(b"")
    with Workspace.open(workspace.root) as w:
        assert w.adapters() == [] and str(w.publish_adapter("m", "policy", {}, weights, {})) == "m@2"


def test_killed_while_judging_what_was_acknowledged_is_stored_once(workspace):
    workspace.add_groups("s", [group(0)])
    process = child(workspace.root, """
w = Workspace.open(sys.argv[1])
for n in range(100000):
    w.add_ranking(verdict(str(n), 0)); print(n, flush=True)
""")
    acknowledged = [process.stdout.readline().strip() for _ in range(25)]
    process.kill()
    acknowledged += process.communicate()[0].split()
    stored = [r.id for r in Workspace.open(workspace.root).rankings("s")]
    assert len(stored) == len(set(stored)) and set(acknowledged) <= set(stored)
    assert len(stored) - len(acknowledged) <= 1


def test_killed_in_the_migration_the_next_open_does_it(tmp_path):
    died(tmp_path / "ws", "Workspace.open(sys.argv[1])", "migrated")
    with Workspace.open(tmp_path / "ws") as w:
        assert w.add_groups("s", [group(0)]) == 1


# ---- full and read-only disks

def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("code, message", [(errno.ENOSPC, "no space left"), (errno.EROFS, "cannot write here"),
                                           (errno.EACCES, "cannot write here"), (errno.EIO, "Input/output error")])
def test_a_disk_that_refuses_is_named_and_the_old_state_stays(workspace, monkeypatch, code, message):
    run = workspace.start_run("sft", {}, 0, {})
    run.checkpoint(1, weights)

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as m:
        m.setattr(publish, "sync", refuse)
        for write in (lambda: run.checkpoint(2, weights),
                      lambda: workspace.publish_adapter("m", "policy", {}, weights, {}),
                      lambda: workspace.add_dataset("d", "prompts", [group(0).prompt])):
            with pytest.raises(StorageError, match=f"ws/.*{message}"):
                write()
    assert run.latest()[0] == 1 and workspace.adapters() == [] and not leftovers(workspace.root)
    assert str(workspace.publish_adapter("m", "policy", {}, weights, {})) == "m@1"


def test_no_space_reported_by_safetensors_is_understood(workspace):
    class SafetensorError(Exception):
        pass

    def write(folder):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(StorageError, match="no space left"):
        workspace.publish_adapter("m", "policy", {}, write, {})


def test_a_real_limit_on_file_size_keeps_the_previous_checkpoint(workspace):
    run = workspace.start_run("sft", {}, 0, {})
    run.checkpoint(1, weights)
    run.release()
    process = child(workspace.root, """
run = Workspace.open(sys.argv[1]).runs()[0]
run.hold()
run.checkpoint(2, lambda folder: (folder / "w").write_bytes(bytes(2_000_000)))
""", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)))
    assert "StorageError" in (errors := process.communicate(timeout=60)[1]) and "no space left" in errors
    assert run.latest()[0] == 1 and not leftovers(workspace.root)


def limit_pages(workspace, more):
    def limit(c):
        c.exec_driver_sql(f"PRAGMA max_page_count={c.exec_driver_sql('PRAGMA page_count').scalar() + more}")
    workspace.database.write(limit)


@sqlite_only
def test_a_full_disk_under_the_database_refuses_and_recovers(workspace):
    workspace.add_groups("s", [group(n) for n in range(10)])
    limit_pages(workspace, 0)
    stored = []
    with pytest.raises(StorageError, match="ws: no space left"):
        for n in range(1000):
            workspace.add_ranking(verdict(str(n), n % 10))
            stored.append(str(n))
    assert [r.id for r in workspace.rankings("s")] == stored
    limit_pages(workspace, 100_000)
    assert workspace.add_ranking(verdict(str(len(stored)), 0))
    workspace.database.check()


@sqlite_only
def test_a_read_only_database_is_named(workspace):
    workspace.database.write(lambda c: c.exec_driver_sql("PRAGMA query_only=ON"))
    with pytest.raises(StorageError, match="ws: is read-only"):
        workspace.add_groups("s", [group(0)])


# ---- migrations

def test_the_tables_and_the_migrations_agree(workspace):
    with workspace.database.read() as c:
        assert compare_metadata(MigrationContext.configure(c), tables.metadata) == []
    script = ScriptDirectory(os.path.join(os.path.dirname(db.__file__), "migrations"))
    assert script.get_heads() == [db.HEAD]


def test_data_of_the_first_schema_reaches_the_newest(tmp_path):
    (tmp_path / "ws").mkdir()
    old = db.Database(f"sqlite:///{tmp_path / 'ws' / 'tunesmith.db'}", tmp_path / "ws")
    old.migrate(to="0001")
    group_id, body, ranking = group(0).id, db.pack(group(0).to_dict()), db.pack(verdict("1", 0).to_dict())
    rows = {
        "INSERT INTO groups (id, answers, body) VALUES (?, 2, ?)": (group_id, body),
        "INSERT INTO sets (name, created) VALUES (?, ?)": ("s", "2026-01-01T00:00:00.000000Z"),
        "INSERT INTO members (set_seq, group_id, position, shuffled) VALUES (1, ?, 0, 5)": (group_id,),
        "INSERT INTO labelers (name, simulated, role, created) VALUES (?, 0, 'labeler', '2026')": ("ann",),
        "INSERT INTO rankings (id, group_id, labeler, body, created) VALUES ('1', ?, 'ann', ?, '2026')":
            (group_id, ranking)}
    old.write(lambda c: [c.exec_driver_sql(query, values).rowcount for query, values in rows.items()])
    old.close()
    with Workspace.open(tmp_path / "ws") as w:
        assert w.database.revision() == db.HEAD
        assert w.groups("s") == [group(0)] and w.rankings("s") == [verdict("1", 0)]
        with w.database.read() as c:
            assert c.exec_driver_sql("PRAGMA foreign_key_check").all() == []


@sqlite_only
def test_sqlite_is_set_to_be_durable(workspace):
    seen = workspace.database.write(lambda c: [c.exec_driver_sql(f"PRAGMA {p}").scalar() for p in (
        "journal_mode", "synchronous", "foreign_keys")])
    assert seen == ["wal", 2, 1]
    with pytest.raises(sa.exc.IntegrityError):
        workspace.database.write(lambda c: c.execute(sa.insert(tables.members).values(
            set_seq=99, group_id="x", position=0, shuffled=0)))
