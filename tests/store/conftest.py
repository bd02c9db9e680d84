"""The store's tests run on both databases; PostgreSQL's are skipped where there is none."""

import shutil

import pytest
from postgres import Server

from tunesmith.store.invariants import violations
from tunesmith.store.workspace import VARIABLE, Workspace


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server of the tests' own."""
    server = Server()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgres"])
def workspace(request, tmp_path, empty, monkeypatch):
    """An empty workspace on each database; all rules hold in it when the test is over."""
    if request.param == "postgres":
        monkeypatch.setenv(VARIABLE, request.getfixturevalue("postgres").database())  # for child processes too
    else:
        shutil.copytree(empty, tmp_path / "ws")
    with Workspace.open(tmp_path / "ws") as w:
        yield w
        assert violations(w) == []


@pytest.fixture
def other(request, workspace, tmp_path):
    """A second empty workspace, on the same kind of database."""
    url = "" if workspace.database.sqlite else request.getfixturevalue("postgres").database()
    with Workspace.open(tmp_path / "other", database=url) as w:
        yield w
        assert violations(w) == []

