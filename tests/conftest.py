"""What several parts' tests share."""

import os
import shutil
from pathlib import Path

import pytest

from tunesmith.store.workspace import Workspace


@pytest.fixture(scope="session")
def empty(tmp_path_factory):
    """The folder of an empty workspace on SQLite, to copy: tables are made once."""
    folder = tmp_path_factory.mktemp("empty") / "ws"
    Workspace.open(folder).close()
    return folder


@pytest.fixture
def workspace(tmp_path, empty):
    """An empty workspace."""
    shutil.copytree(empty, tmp_path / "ws")
    with Workspace.open(tmp_path / "ws") as w:
        yield w


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data sets: TUNESMITH_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("TUNESMITH_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set TUNESMITH_DATA")
    return folder
