"""PostgreSQL: how a workspace finds it, what is said when it is not there, and that its restarts lose nothing."""

import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa

from tunesmith.errors import MissingExtra, StorageError, UserError
from tunesmith.records import Answer, AnswerGroup, Message, Prompt, Ranking
from tunesmith.store import database as db
from tunesmith.store import tables
from tunesmith.store.invariants import violations
from tunesmith.store.workspace import VARIABLE, Workspace


def group(n):
    return AnswerGroup(Prompt((Message("user", f"question {n} \0 \u202e"),)), (Answer("a"), Answer("b\0")))


def verdict(id, n, labeler="ann"):
    return Ranking(id, group(n).id, labeler, ((0,), (1,)))


# ---- finding it

def test_a_workspace_stays_in_the_database_where_it_was_made(tmp_path, postgres, monkeypatch):
    url = postgres.database()
    given = url.replace("+psycopg", "").replace("tunesmith@", "tunesmith:pw@")
    with Workspace.open(tmp_path / "ws", database=given) as w:
        w.add_groups("s", [group(0)])
        assert w.groups("s") == [group(0)]
    assert "pw" not in (tmp_path / "ws" / "database.txt").read_text()
    assert not (tmp_path / "ws" / "tunesmith.db").exists()
    with pytest.raises(UserError, match="has its database at postgresql"):
        Workspace.open(tmp_path / "ws")
    with pytest.raises(UserError, match="not at postgresql"):
        Workspace.open(tmp_path / "ws", database=postgres.database())
    monkeypatch.setenv(VARIABLE, url.replace("tunesmith@", "tunesmith:other@"))
    with Workspace.open(tmp_path / "ws") as w:
        assert w.groups("s") == [group(0)]
    monkeypatch.delenv(VARIABLE)
    Workspace.open(tmp_path / "lite").close()
    with pytest.raises(UserError, match=r"in tunesmith\.db, not in PostgreSQL"):
        Workspace.open(tmp_path / "lite", database=url)


@pytest.mark.parametrize("url, said", [("nonsense", "must be a URL"), ("mysql://a@b/c", 'not "mysql"'),
                                       ("sqlite:///x.db", "leave it out for SQLite")])
def test_a_url_of_something_else_is_refused(tmp_path, url, said):
    with pytest.raises(UserError, match=said):
        Workspace.open(tmp_path / "ws", database=url)
    assert not (tmp_path / "ws").exists()


def test_without_the_driver_the_install_line_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(db, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"tunesmith\[postgres\]"):
        Workspace.open(tmp_path / "ws", database="postgresql://a@b/c")


def test_a_server_that_does_not_answer_is_named(tmp_path, postgres):
    pytest.importorskip("psycopg")
    with pytest.raises(StorageError, match="no connection to the database server"):
        Workspace.open(tmp_path / "ws", database="postgresql://a:secret@127.0.0.1:1/c")
    with pytest.raises(StorageError, match="\"nowhere\" does not exist") as error:
        Workspace.open(tmp_path / "ws", database=postgres.url("nowhere"))
    assert "secret" not in str(error.value)
    postgres.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    with pytest.raises(UserError, match="encoding LATIN1"):
        Workspace.open(tmp_path / "ws", database=postgres.url("latin"))


def test_several_processes_may_make_the_schema(tmp_path, postgres):
    postgres.execute("CREATE DATABASE fresh")
    code = """
import sys
from tunesmith.store.workspace import Workspace
Workspace.open(sys.argv[1], database=sys.argv[2])
"""
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "ws"), postgres.url("fresh")],
                                 stderr=subprocess.PIPE) for _ in range(3)]
    said = [c.communicate(timeout=60)[1] for c in children]
    assert [c.returncode for c in children] == [0, 0, 0], said


# ---- writes that meet

@pytest.fixture
def w(tmp_path, postgres):
    with Workspace.open(tmp_path / "ws", database=postgres.database()) as w:
        w.add_groups("s", [group(n) for n in range(4)])
        yield w
        assert violations(w) == []


def test_a_deadlock_is_run_again(w):
    both = threading.Barrier(2, timeout=20)
    tries = []

    def work(c, first, second):
        tries.append(first)
        rename(c, first)
        if len(tries) <= 2:
            both.wait()
        rename(c, second)

    def rename(c, n):
        c.execute(sa.update(tables.members).where(tables.members.c.group_id == group(n).id).values(priority=n))

    threads = [threading.Thread(target=w.database.write, args=[lambda c, a=a, b=b: work(c, a, b)])
               for a, b in ((0, 1), (1, 0))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    with w.database.read() as c:
        found = c.execute(sa.select(tables.members.c.priority).order_by(tables.members.c.position)).scalars().all()
    assert found == [0, 1, 0, 0] and len(tries) == 3


def test_a_lock_that_somebody_keeps_is_named(tmp_path, w, postgres):
    with Workspace.open(tmp_path / "ws", busy_seconds=0.2, database=w.database.url) as other:
        def work(c):
            c.execute(sa.select(tables.groups).with_for_update()).all()
            with pytest.raises(StorageError, match="ws: is busy: another process keeps writing"):
                other.add_ranking(verdict("1", 0))
        w.database.write(work)
        assert other.add_ranking(verdict("1", 0))


def test_append_only_is_kept_by_the_database(w):
    w.add_ranking(verdict("1", 0))
    for statement in ("DELETE FROM rankings", "UPDATE rankings SET labeler = 'bob'", "TRUNCATE rankings CASCADE"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"):
            w.database.write(lambda c, statement=statement: c.exec_driver_sql(statement))
    assert w.rankings("s") == [verdict("1", 0)]


def test_restarts_of_the_server_lose_nothing_that_was_acknowledged(w, postgres):
    acknowledged, refused, enough = [], [], threading.Event()

    def judge(who):
        n = 0
        while not enough.is_set() or n < 5:
            try:
                w.add_ranking(verdict(f"{who}-{n}", n % 4, who))
                acknowledged.append(f"{who}-{n}")
                n += 1
            except StorageError as error:
                refused.append(str(error))
                enough.wait(0.02)

    threads = [threading.Thread(target=judge, args=[f"p{n}"]) for n in range(3)]
    for t in threads:
        t.start()
    try:
        for _ in range(2):
            postgres.stop("immediate")
            postgres.start()
    finally:
        enough.set()
        for t in threads:
            t.join()
    stored = [r.id for r in w.rankings("s")]
    assert len(stored) == len(set(stored)) and set(acknowledged) <= set(stored)
    assert refused and all("database server" in text for text in refused)
