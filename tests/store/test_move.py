"""A workspace's database moves to PostgreSQL and back: every row, or nothing."""

import os
import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa

from tunesmith import cli
from tunesmith.errors import StorageError, UserError
from tunesmith.records import Answer, AnswerGroup, Demonstration, Message, Prompt, Ranking
from tunesmith.store import desk, keys, move, tables, team, work
from tunesmith.store.invariants import violations
from tunesmith.store.project import add_guidelines, set_gold
from tunesmith.store.workspace import DATABASE, ELSEWHERE, VARIABLE, Workspace

MOVING = "import sys; from tunesmith.store.move import move; move(sys.argv[1], sys.argv[2])"


def group(n):
    return AnswerGroup(Prompt((Message("user", f"question {n} \0 \u202e ж"),)), (Answer("a"), Answer("b\0")))


@pytest.fixture
def filled(tmp_path):
    """The folder of a workspace on SQLite in which every kind of work has been done."""
    root = tmp_path / "ws"
    with Workspace.open(root) as w:
        w.add_groups("s", [group(n) for n in range(9)])
        w.add_groups("t", [group(n) for n in range(3)])
        set_gold(w, "s", group(8).id, ((0,), (1,)), "boss")
        add_guidelines(w, "s", "Be kind.", "boss")
        team.new_account(w, "boss", "admin", "command line")
        keys.create_key(w, "boss", "script", ["chat"], "boss")
        desk.add(w, "d", [Demonstration((Message("user", "q"), Message("assistant", "a")))], origin="imported")
        for who in ("ann", "bob"):
            claim = work.claim(w, "s", who)
            work.submit(w, Ranking(f"1{who}", claim.group.id, who, ((0,), (1,)), claim.shown), claim.token)
        work.claim(w, "s", "cid")
        team.quarantine(w, "ann", "always the first", "boss")
        assert violations(w) == []
    return root


def everything(root):
    with Workspace.open(root) as w, w.database.read() as c:
        return {table.name: sorted(map(repr, c.execute(sa.select(table)))) for table in tables.metadata.sorted_tables}


def test_every_row_moves_there_and_back(filled, postgres, monkeypatch):
    before = everything(filled)
    url = postgres.database()
    counts = move.move(filled, url)
    assert counts == {name: len(rows) for name, rows in before.items()} and counts["rankings"] == 2
    assert not (filled / DATABASE).exists() and (filled / ELSEWHERE).exists()
    with monkeypatch.context() as patch:
        patch.setenv(VARIABLE, url)
        assert everything(filled) == before
        with Workspace.open(filled) as w:  # numbers go on where they were
            claim = work.claim(w, "s", "dan")
            work.submit(w, Ranking("new", claim.group.id, "dan", ((1,), (0,)), claim.shown), claim.token)
            team.lift(w, "ann", "talked", "boss")
            assert violations(w) == [] and team.verify_audit(w)[0] >= 4
        after = everything(filled)
        assert len(after["rankings"]) == 3
        move.move(filled, "sqlite")
    assert everything(filled) == after and not (filled / ELSEWHERE).exists()
    with Workspace.open(filled) as w:
        assert violations(w) == [] and work.claim(w, "s", "eve") is not None


def test_a_database_that_holds_something_is_refused(filled, postgres, tmp_path):
    before, url = everything(filled), postgres.database()
    with Workspace.open(tmp_path / "other", database=url) as other:
        other.add_groups("s", [group(0)])
    with pytest.raises(UserError, match="not empty"):
        move.move(filled, url)
    strange = postgres.database()
    engine = sa.create_engine(strange)
    with engine.begin() as c:
        c.exec_driver_sql("CREATE TABLE theirs (x integer)")
    engine.dispose()
    with pytest.raises(UserError, match="not empty"):
        move.move(filled, strange)
    with pytest.raises(UserError, match="already"):
        move.move(filled, "sqlite")
    assert everything(filled) == before


def test_nothing_moves_while_somebody_works(filled, postgres, monkeypatch):
    url = postgres.database()
    with Workspace.open(filled) as w:
        w.labelers()
        with pytest.raises(UserError, match="stop the studio"):
            move.move(filled, url)
        assert len(w.rankings("s")) == 2
    move.move(filled, url)  # what the refused one left behind is nothing
    monkeypatch.setenv(VARIABLE, url)
    with Workspace.open(filled) as w:
        w.labelers()
        with pytest.raises(UserError, match="stop the studio"):
            move.move(filled, "sqlite")


def test_killed_in_the_middle_the_workspace_stays_and_the_next_move_does_it(filled, postgres):
    before, url = everything(filled), postgres.database()
    process = subprocess.run([sys.executable, "-c", MOVING, str(filled), url], timeout=120, stderr=subprocess.PIPE,
                             env={**os.environ, "TUNESMITH_FAILPOINT": "copied"})
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert everything(filled) == before
    assert move.move(filled, url)["groups"] == 9


def test_a_copy_that_differs_is_undone(filled, postgres, monkeypatch):
    before, url = everything(filled), postgres.database()
    real = move._sum
    with monkeypatch.context() as patch:
        patch.setattr(move, "_sum", lambda c, table: (0, 0) if c.dialect.name == "postgresql" else real(c, table))
        with pytest.raises(StorageError, match="nothing was moved"):
            move.move(filled, url)
    assert everything(filled) == before
    assert move.move(filled, url)["groups"] == 9


def test_the_command(filled, postgres, capsys):
    assert cli.main(["data", "move", "--workspace", str(filled)]) == 2
    assert "needs --to URL" in capsys.readouterr().err
    assert cli.main(["data", "move", "--to", postgres.database(), "--workspace", str(filled)]) == 0
    assert "moved and compared" in capsys.readouterr().out
