"""A workspace with two sets to rank, an app in memory, and a real server on a free loopback port."""

import pytest
from service_fakes import FakeEngine, ask_as, group, running, signed
from starlette.testclient import TestClient

from tunesmith.service import create_app
from tunesmith.store.workspace import Workspace

BASE = "http://127.0.0.1:8400"


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
def client(app, workspace):
    """Signed in as "me", the admin who started the studio."""
    with TestClient(app, base_url=BASE) as client:
        yield ask_as(client, workspace, "me")


@pytest.fixture
def anonymous(app):
    """Not signed in; redirects are not followed."""
    with TestClient(app, base_url=BASE, follow_redirects=False) as client:
        yield client


@pytest.fixture
def client_as(app, workspace):
    """`client_as(role, name=role)`: a client signed in with that role; the account is made if it is new."""
    clients = []

    def make(role, name=""):
        clients.append(TestClient(app, base_url=BASE))
        return ask_as(clients[-1], workspace, name or role, role)

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def signed_url(workspace):
    """`signed_url(address, name="me", role="admin")`: an address that signs a browser in and leads on to `address`."""
    return lambda address, name="me", role="admin": signed(workspace, address, name, role)


@pytest.fixture
def url(app):
    with running(app) as url:
        yield url
