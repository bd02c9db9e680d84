"""Migrations on both databases: old data is equal afterwards, an interrupted one is done by the next open."""

import os
import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa

from tunesmith.records import Answer, AnswerGroup, Message, Prompt, Ranking
from tunesmith.store import database as db
from tunesmith.store import tables, work
from tunesmith.store.invariants import violations
from tunesmith.store.verdicts import shuffled
from tunesmith.store.workspace import DATABASE, VARIABLE, Workspace

GROUPS = [AnswerGroup(Prompt((Message("user", f"question {n}\0"),)), (Answer("a"), Answer("b"))) for n in range(3)]
OPENING = "import sys; from tunesmith.store.workspace import Workspace; Workspace.open(sys.argv[1])"


def ranked(id, n, labeler, **more):
    return Ranking(id, GROUPS[n].id, labeler, **({"tiers": ((0,), (1,))} | more))


VERDICTS = [ranked("1", 0, "ann"), ranked("2", 0, "ann", tiers=((1,), (0,))), ranked("3", 0, "bob"),
            ranked("4", 1, "ann", tiers=(), skipped="unclear"), ranked("5", 1, "bob"),
            ranked("6", 1, "bob", tiers=(), skipped="unclear"), ranked("7", 1, "robot", simulated=True),
            ranked("8", 2, "ann", flags={"0": ["false"]})]


@pytest.fixture(params=["sqlite", "postgres"])
def old(request, tmp_path, monkeypatch):
    """The folder of a workspace with the first schema and data in it."""
    root = tmp_path / "ws"
    root.mkdir()
    url = f"sqlite:///{root / DATABASE}"
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        server.execute(f"CREATE DATABASE old{next(server.numbers)}")
        url = server.url(f"old{next(server.numbers) - 1}")
        monkeypatch.setenv(VARIABLE, url)
    database = db.Database(url, root)
    database.migrate(to="0001")
    then = "2026-01-01T00:00:00.000000Z"
    people = [{"name": name, "simulated": name == "robot", "role": "labeler", "created": then}
              for name in ("ann", "bob", "robot")]
    rows = {
        "groups": [{"id": g.id, "answers": 2, "body": db.pack(g.to_dict())} for g in GROUPS],
        "sets": [{"name": "s", "created": then}],
        "members": [{"set_seq": 1, "group_id": g.id, "position": n, "shuffled": shuffled(g.id)}
                    for n, g in enumerate(GROUPS)],
        "labelers": people,
        "rankings": [{"id": r.id, "group_id": r.group, "labeler": r.labeler, "body": db.pack(r.to_dict()),
                      "created": then} for r in VERDICTS]}

    def fill(c):
        for name, values in rows.items():
            c.execute(sa.insert(sa.table(name, *map(sa.column, values[0]))), values)

    database.write(fill)
    database.close()
    return root


def check(root):
    with Workspace.open(root) as w:
        assert w.database.revision() == db.HEAD
        assert w.groups("s") == GROUPS and w.rankings("s") == VERDICTS
        assert [(p.name, p.simulated) for p in w.labelers()] == [("ann", False), ("bob", False), ("robot", True)]
        m = tables.members.c
        with w.database.read() as c:
            counters = c.execute(sa.select(m.taken, m.done, m.open).order_by(m.position)).all()
        assert [tuple(row) for row in counters] == [(2, 2, False), (0, 0, True), (1, 1, True)]
        assert violations(w) == []
        claim = work.claim(w, "s", "cid")
        assert claim.group in GROUPS[1:]
        work.submit(w, ranked("9", GROUPS.index(claim.group), "cid", shown=claim.shown), claim.token)
        assert violations(w) == []


def test_data_of_the_first_schema_is_equal_and_counted(old):
    check(old)


def test_killed_in_the_middle_the_old_schema_is_whole_and_the_next_open_does_it(old):
    process = subprocess.run([sys.executable, "-c", OPENING, str(old)], timeout=60, stderr=subprocess.PIPE,
                             env={**os.environ, "TUNESMITH_FAILPOINT": "migrated"})
    assert process.returncode == -signal.SIGKILL, process.stderr
    check(old)


def test_groups_that_shared_a_place_get_one_each(old):
    """Before revision 4, imports at the same time could give several groups one place."""
    url = os.environ.get(VARIABLE) or f"sqlite:///{old / DATABASE}"
    database = db.Database(url, old)
    database.migrate(to="0003")
    database.write(lambda c: c.execute(sa.update(tables.members).values(position=5)))
    database.close()
    with Workspace.open(old) as w:
        with w.database.read() as c:
            places = c.execute(sa.select(tables.members.c.position, tables.members.c.group_id)).all()
        assert sorted(places) == list(enumerate(sorted(g.id for g in GROUPS))) and violations(w) == []
        for again in (0, 1, 2):
            with pytest.raises(sa.exc.IntegrityError):
                w.database.write(lambda c, again=again: c.execute(sa.update(tables.members).values(position=again)))


def test_notes_of_uses_learn_whose_they_were(old):
    url = os.environ.get(VARIABLE) or f"sqlite:///{old / DATABASE}"
    database = db.Database(url, old)
    database.migrate(to="0007")
    text = dict.fromkeys(("conversation", "model", "source", "asked", "said", "body", "created", "expires"), "")
    notes = [{"dataset": "mined", "interaction": id} for id in ("here", "gone")]

    def fill(c):
        c.execute(sa.insert(tables.interactions).values(id="here", user="user-1", turn=0, holdout=False, **text))
        c.execute(sa.insert(sa.table("interaction_uses", sa.column("dataset"), sa.column("interaction"))), notes)

    database.write(fill)
    database.close()
    with Workspace.open(old) as w, w.database.read() as c:
        u = tables.interaction_uses.c
        assert c.execute(sa.select(u.interaction, u.user).order_by(u.seq)).all() == [("here", "user-1"), ("gone", "")]


def test_no_row_ever_goes_because_another_goes(workspace):
    """Nothing deletes in cascades: every foreign key only refuses."""
    with workspace.database.read() as c:
        keys = [key for name in sa.inspect(c).get_table_names() for key in sa.inspect(c).get_foreign_keys(name)]
    assert len(keys) >= 10 and all(not key["options"] for key in keys)
    assert all(key.ondelete is None and key.onupdate is None
               for table in tables.metadata.tables.values() for key in table.foreign_keys)


def test_what_was_judged_cannot_be_deleted(workspace):
    workspace.add_groups("s", GROUPS)
    workspace.add_rankings(VERDICTS)
    for table in ("rankings", "groups", "labelers", "sets"):
        with pytest.raises(sa.exc.DBAPIError):
            workspace.database.write(lambda c, table=table: c.execute(sa.delete(tables.metadata.tables[table])))
    assert workspace.rankings("s") == VERDICTS
