import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest
from service_fakes import running
from starlette.testclient import TestClient

from tunesmith.errors import UserError
from tunesmith.service import create_app, open_server, run_server
from tunesmith.store import work


def post(client, workspace, **headers):
    claim = work.claim(workspace, "desk", "me")
    body = {"id": "rank-00001", "tiers": [[0], [1], [2], [3]], "group": claim.group.id, "token": claim.token,
            "shown": list(claim.shown)}
    return client.post("/api/rankings", json=body, headers=headers)


@pytest.mark.parametrize("host", ["127.0.0.1:8400", "localhost:8400", "LOCALHOST", "[::1]:8400", "[::1]", "127.0.0.1"])
def test_loopback_names_are_served(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8400", "127.0.0.1.evil.example:80", "localhost@evil:80",
                                  "127.0.0.1:80:evil", "[::1].evil.example", "0.0.0.0:8400", "", "localhost:x", "::1"])
def test_a_rebound_name_is_turned_away(client, host):
    for path in ("/", "/v1/models", "/static/rank.js", "/nowhere"):
        assert client.get(path, headers={"host": host}).status_code == 421


def test_a_page_of_another_origin_cannot_post(client, workspace):
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:3000"},
                    {"origin": "https://127.0.0.1:8400"}, {"sec-fetch-site": "cross-site"},
                    {"sec-fetch-site": "same-site"}, {"origin": ""},
                    {"origin": "http://localhost:8400"}):  # our own name, but not the one this page came from
        answer = post(client, workspace, **headers)
        assert answer.status_code == 403, headers
    assert workspace.rankings("desk") == []
    ours = {"origin": "http://127.0.0.1:8400", "sec-fetch-site": "same-origin"}
    assert post(client, workspace, **ours).status_code == 201


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_only_json_is_taken(client, workspace, kind):
    answer = client.post("/api/rankings", content=b"{}", headers={"content-type": kind})
    assert answer.status_code == 415 and answer.json()["error"]["type"] == "invalid_request_error"


def test_large_bodies_are_refused_with_and_without_a_length(workspace):
    with TestClient(create_app(workspace, max_body=1000), base_url="http://127.0.0.1") as client:
        assert client.post("/api/rankings", json={"id": "x" * 2000}).status_code == 413
        chunks = (b"x" * 100 for _ in range(100))
        chunked = client.post("/api/rankings", content=chunks, headers={"content-type": "application/json"})
        assert chunked.status_code == 413 and "1000 bytes" in chunked.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/rank/desk", "/nowhere", "/static/rank.js", "/v1/models", "/v1/x", "/api/x"])
def test_every_answer_carries_the_headers(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy and "require-trusted-types-for 'script'" in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin" and headers["x-request-id"].startswith("req_")
    assert "access-control-allow-origin" not in headers


def test_request_ids_differ(client):
    assert client.get("/").headers["x-request-id"] != client.get("/").headers["x-request-id"]


def test_a_crash_shows_no_traceback_but_keeps_headers(client, workspace, monkeypatch):
    monkeypatch.setattr("tunesmith.service.rank.set_names", lambda _: 1 / 0)
    answer = client.get("/")
    assert answer.status_code == 500 and "ZeroDivision" not in answer.text and "Traceback" not in answer.text
    assert "content-security-policy" in answer.headers and "x-request-id" in answer.headers


def test_static_files_stay_in_their_folder(client):
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd",
                 "/static/", "/static/..%5capp.py"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org", ""])
def test_only_loopback_is_bound(app, host):
    with pytest.raises(UserError, match="sign-in"):
        open_server(app, host, 0)


def test_a_port_in_use_is_named_with_the_cure(app):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use.*--port"):
            run_server(app, port=port)


def test_a_real_server_announces_its_free_port_and_listens_on_loopback_only(app):
    with running(app) as url:
        assert url.startswith("http://127.0.0.1:") and not url.endswith(":0")
        assert httpx.get(url, follow_redirects=True).status_code == 200
        assert "server" not in httpx.get(url).headers


def test_an_interrupt_ends_the_server_quietly(tmp_path):
    code = ("import sys; from tunesmith.service import create_app, run_server; "
            "from tunesmith.store.workspace import Workspace; workspace = Workspace.open(sys.argv[1]); "
            "run_server(create_app(workspace), announce=lambda url: print(url, flush=True)); print('ended')")
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path / "ws"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    url = child.stdout.readline().strip()
    assert httpx.get(f"{url}static/icon.svg", timeout=10).status_code == 200
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out.strip(), err) == (0, "ended", "")


def test_run_server_announces_and_stops(app, monkeypatch):
    said, served = [], threading.Event()

    def run(self, sockets):
        served.set()
        assert sockets[0].getsockname()[1] == int(said[0].rstrip("/").rsplit(":")[-1])

    monkeypatch.setattr("uvicorn.Server.run", run)
    run_server(app, "localhost", 0, said.append)
    assert served.is_set() and said[0].startswith("http://localhost:")
