"""A workspace with two sets to rank, an app in memory, and a real server on a free loopback port."""

import pytest
from service_fakes import FakeEngine, group, running
from starlette.testclient import TestClient

from tunesmith.service import create_app
from tunesmith.store.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    with Workspace.open(tmp_path / "ws") as workspace:
        workspace.add_groups("desk", [group(f"What is the rate {i}?", *(f"It is {i}.{k} percent." for k in range(4)))
                                      for i in range(3)])
        for name, role in [("tone", "policy"), ("tone", "policy"), ("judge", "reward")]:
            workspace.publish_adapter(name, role, {"spec": "tiny", "hash": "0"},
                                      lambda folder: (folder / "adapter_config.json").write_text("{}") and None, {})
        yield workspace


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def app(workspace, engine):
    return create_app(workspace, lambda: engine, base="tiny")


@pytest.fixture
def client(app):
    with TestClient(app, base_url="http://127.0.0.1:8400") as client:
        yield client


@pytest.fixture
def url(app):
    with running(app) as url:
        yield url
