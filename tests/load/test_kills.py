"""kill -9 and cut connections at random moments while people submit: what was acknowledged is stored, once."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import random
import re
import signal
import socket
import threading
import time
import uuid
from collections import Counter

import pytest
from crowd import ANSWER, GROUP, TOKEN, fill

from tunesmith.store.invariants import violations
from tunesmith.store.workspace import Workspace


def serve(listener: socket.socket, root: str, database: str) -> None:
    """The studio on a socket that its parent keeps open: connections wait while it is dead."""
    from tunesmith.service.app import create_app, open_server

    with Workspace.open(root, database=database) as workspace:
        server, own, _ = open_server(create_app(workspace))
        own.close()
        server.run([listener])


class Submitter(threading.Thread):
    """A person whose connection breaks now and then, and who sends again until the server has said yes."""

    def __init__(self, port: int, name: str, secret: str, stop: threading.Event):
        super().__init__(daemon=True)
        self.port, self.person, self.secret, self.stop = port, name, secret, stop
        self.acknowledged: list[str] = []
        self.cuts = 0
        self.problems: Counter[str] = Counter()

    def run(self) -> None:
        chance = random.Random(self.person)
        while not self.stop.is_set():
            page = self.ask("GET", "/rank/desk")
            token = page and TOKEN.search(page)
            if not token:
                continue
            shown = list(dict.fromkeys(map(int, ANSWER.findall(page))))
            body = {"id": str(uuid.uuid4()), "group": GROUP.search(page)[1], "token": token[1], "shown": shown,
                    "tiers": [[i] for i in shown]}
            while not self.stop.is_set():
                if chance.random() < 0.4:
                    self.cut(body, chance.uniform(0, 0.01))
                elif self.ask("POST", "/api/rankings", body) is not None:
                    self.acknowledged.append(body["id"])
                    break

    def ask(self, method: str, path: str, body: dict | None = None) -> str | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(method, path, json.dumps(body) if body else None, self.headers())
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        if response.status >= 300:
            self.problems[f"{method} {response.status} {re.sub(r'[0-9a-f]{16,}', '#', text)[:160]}"] += 1
            return None
        return text

    def cut(self, body: dict, after: float) -> None:
        """Send a verdict and close the connection before the answer, perhaps before all of it was sent."""
        data = json.dumps(body).encode()
        head = "".join(f"{k}: {v}\r\n" for k, v in {**self.headers(), "host": f"127.0.0.1:{self.port}",
                                                    "content-length": len(data)}.items())
        sent = f"POST /api/rankings HTTP/1.1\r\n{head}\r\n".encode() + data
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as s:
                s.sendall(sent if after > 0.001 else sent[:len(sent) // 2])
                time.sleep(after)
        except OSError:
            pass
        self.cuts += 1

    def headers(self) -> dict[str, str]:
        return {"content-type": "application/json", "cookie": f"tunesmith-{self.port}={self.secret}"}


def batter(tmp_path, kills: int, cuts: int, database: str = "", people: int = 4) -> tuple[int, int, int]:
    """How many kills, cuts and acknowledged verdicts there were."""
    root = tmp_path / "ws"
    with Workspace.open(root, database=database) as workspace:
        secrets = fill(workspace, groups=40 * (kills + cuts), people=people)
    context, chance, stop = multiprocessing.get_context("forkserver"), random.Random(kills), threading.Event()
    context.set_forkserver_preload(["tunesmith.service.app", "tunesmith.store.workspace", "tunesmith.store.work"])
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        crowd = [Submitter(listener.getsockname()[1], name, secret, stop) for name, secret in secrets.items()]
        for person in crowd:
            person.start()
        killed = 0
        while killed < kills or sum(p.cuts for p in crowd) < cuts:
            server = context.Process(target=serve, args=(listener, str(root), database))
            server.start()
            time.sleep(0.5 + chance.random() * 0.5 if killed < kills else 2)
            os.kill(server.pid, signal.SIGKILL)
            server.join()
            killed += 1
        stop.set()
        server = context.Process(target=serve, args=(listener, str(root), database))  # lets the last ones finish
        server.start()
        for person in crowd:
            person.join(20)
        server.kill()
        server.join()
    with Workspace.open(root, database=database) as workspace:
        stored = Counter(r.id for r in workspace.rankings("desk"))
        acknowledged = {id for p in crowd for id in p.acknowledged}
        assert acknowledged <= set(stored) and set(stored.values()) == {1}
        looks = Counter((r.group, r.labeler, r.purpose) for r in workspace.rankings("desk"))  # a second look is its own
        assert max(looks.values()) == 1
        workspace.database.check()
        assert violations(workspace) == []
    assert not sum((p.problems for p in crowd), Counter())
    return killed, sum(p.cuts for p in crowd), len(acknowledged)


def test_three_kills_and_some_cuts(tmp_path):
    killed, cut, acknowledged = batter(tmp_path, kills=3, cuts=5)
    assert killed >= 3 and cut >= 5 and acknowledged > 0


@pytest.mark.chaos
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_thousand_kills_and_cuts(tmp_path, kind, request):
    database = "" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    print("\nkills, cuts, acknowledged:", batter(tmp_path, kills=300, cuts=700, database=database))
