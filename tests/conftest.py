"""What several parts' tests share."""

import os
from pathlib import Path

import pytest

from tunesmith.store.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    """An empty workspace."""
    with Workspace.open(tmp_path / "ws") as w:
        yield w


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data sets: TUNESMITH_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("TUNESMITH_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set TUNESMITH_DATA")
    return folder
