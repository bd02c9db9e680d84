"""A workspace with sets to rank, an app in memory, a real server on a free loopback port, and a browser."""

import re
import shutil
from pathlib import Path

import pytest
from postgres import Server
from service_fakes import FakeEngine, ask_as, group, running, signed
from starlette.testclient import TestClient

from tunesmith.service import create_app
from tunesmith.store.workspace import VARIABLE, Workspace

BASE = "http://127.0.0.1:8400"


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server of the tests' own."""
    server = Server()
    yield server
    server.remove()


@pytest.fixture
def workspace(tmp_path, request, empty, monkeypatch):
    """On SQLite, unless a test asks for "postgres"."""
    if getattr(request, "param", "") == "postgres":
        monkeypatch.setenv(VARIABLE, request.getfixturevalue("postgres").database())
    else:
        shutil.copytree(empty, tmp_path / "ws")
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


# ---- a real Chromium (mark such tests `browser`)

FLAGS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
         "--disable-background-networking"]


@pytest.fixture(scope="module")  # while one is open, no test can run an event loop of its own
def chromium():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        pytest.skip("Chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def problems():
    """Console errors, CSP violations, page errors and dialogs; a test that expects none ends with none."""
    return []


@pytest.fixture
def open_page(chromium, problems, signed_url):
    """`open_page(address, name="me", role="admin", ready=True, **context)`: a page that somebody signed in sees."""
    contexts = []

    def open_page(address, name="me", role="admin", ready=True, **options):
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, "reduced_motion": "reduce",
                                          **options})
        contexts.append(context)
        # Interception that begins in an open page may miss its next request: here it is on from the start.
        context.route("**/intercepted-from-the-start", lambda route: route.abort())
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: problems.append(str(e)))
        page.on("dialog", lambda d: (problems.append(f"dialog {d.message}"), d.dismiss()))
        page.goto(signed_url(address, name, role))
        page.wait_for_url(re.compile(r"^(?!.*/enter)"))
        if ready:
            page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def axe():
    """`axe(page)`: what axe-core finds wrong with a page as it is now, a line for each."""
    package = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    source = (Path(package.__file__).parent / "axe.min.js").read_text()

    def axe(page):
        page.wait_for_load_state()  # colours come with the style sheets
        page.evaluate(source)
        found = page.evaluate("axe.run()")["violations"]
        return [f"{v['id']}: {v['help']} ({node['target']}: {node['failureSummary']})"
                for v in found for node in v["nodes"]]

    return axe
