"""A studio in a process of its own, and people at their browsers: many at a time, as slow as people are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tunesmith.records import Answer, AnswerGroup, Message, Prompt
from tunesmith.store import team
from tunesmith.store.invariants import violations
from tunesmith.store.workspace import Workspace

SERVER = """
import contextlib, sys
from tunesmith.service.app import create_app, open_server
from tunesmith.store.workspace import Workspace
root, database, port = sys.argv[1:]
with Workspace.open(root, database=database) as workspace:
    server, listener, url = open_server(create_app(workspace), port=int(port))
    with contextlib.suppress(KeyboardInterrupt):
        server.run([listener])
"""
TOKEN = re.compile(r'data-(?:token|claim)="([0-9a-f]{32})"')
GROUP = re.compile(r'data-group="([0-9a-f]{16})"')
ANSWER = re.compile(r'data-answer="(\d)"')


def fill(workspace: Workspace, groups: int, people: int) -> dict[str, str]:
    """A set "desk" of four answers each, and a session's secret per person."""
    workspace.add_groups("desk", (AnswerGroup(
        Prompt((Message("user", f"Question {i}: " + "what does the loan cost me in the end? " * 10),)),
        tuple(Answer(f"Answer {k} to {i}. " + "It depends on the term and on the rate. " * 25) for k in range(4)))
        for i in range(groups)))
    secrets = {}
    for i in range(people):
        name = f"person{i}"
        team.new_account(workspace, name, "labeler", "me")
        secrets[name] = team.start_session(workspace, name)
    return secrets


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def studio(root: Path, database: str = "") -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The studio as a process; yields its URL and the process."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(root), database, str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{url}/signin")
                break
            time.sleep(0.1)
        yield url, process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def resident_mb(process: subprocess.Popen[bytes]) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise ValueError("no VmRSS")


@dataclass
class Seen:
    """What the crowd saw: seconds per request by kind, ids that were acknowledged, problems."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    acknowledged: list[tuple[str, str, str]] = field(default_factory=list)  # id, group, labeler
    problems: Counter[str] = field(default_factory=Counter)
    idle: int = 0

    def share(self, kind: str, q: float) -> float:
        """A quantile of the seconds, over all kinds with ""."""
        every = sorted(s for k, found in self.seconds.items() if kind in ("", k) for s in found)
        return every[min(len(every) - 1, int(q * len(every)))]


async def crowd(url: str, secrets: dict[str, str], seconds: float, think: tuple[float, float], seed: int = 0) -> Seen:
    """Everybody ranks until the time is over."""
    seen, end = Seen(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4)
    cookie = f"tunesmith-{url.rpartition(':')[2]}"
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30) as client:
        people = [Person(client, name, {"cookie": f"{cookie}={secret}"}, random.Random(f"{seed} {name}"), seen)
                  for name, secret in secrets.items()]
        await asyncio.gather(*(p.work(end, think) for p in people))
    return seen


@dataclass
class Person:
    client: httpx.AsyncClient
    name: str
    headers: dict[str, str]
    random: random.Random
    seen: Seen

    async def work(self, end: float, think: tuple[float, float]) -> None:
        await asyncio.sleep(self.random.uniform(0, think[0]))
        while time.monotonic() < end:
            page = await self.ask("page", "GET", "/rank/desk")
            if page is None:
                return
            found = TOKEN.search(page)
            if found is None:
                self.seen.idle += 1  # nothing left for this person
                return
            await self.judge(page, found[1], self.random.uniform(*think), end)

    async def judge(self, page: str, token: str, pause: float, end: float) -> None:
        group = GROUP.search(page)[1]
        shown = list(dict.fromkeys(map(int, ANSWER.findall(page))))
        while pause > 60:
            await asyncio.sleep(60)
            pause -= 60
            await self.ask("heartbeat", "POST", f"/api/claims/{token}/heartbeat", {})
        await asyncio.sleep(pause)
        tiers = [[i] for i in self.random.sample(shown, len(shown))]
        body = {"id": str(uuid.uuid4()), "group": group, "token": token, "shown": shown, "seconds": pause}
        draw = self.random.random()
        body |= {"skipped": "I cannot judge this"} if draw < 0.03 else {"tiers": tiers}
        if draw > 0.97:
            await self.ask("release", "POST", f"/api/claims/{token}/release", {})
        elif await self.ask("submit", "POST", "/api/rankings", body) is not None:
            self.seen.acknowledged.append((body["id"], group, self.name))
            if draw > 0.94:  # the browser did not hear it and sends again
                await self.ask("again", "POST", "/api/rankings", body)

    async def ask(self, kind: str, method: str, path: str, body: dict | None = None) -> str | None:
        began = time.monotonic()
        try:
            response = await self.client.request(method, path, headers=self.headers, json=body)
        except httpx.HTTPError as error:
            self.seen.problems[f"{kind}: {type(error).__name__}"] += 1
            return None
        self.seen.seconds.setdefault(kind, []).append(time.monotonic() - began)
        if response.status_code >= 300:
            self.seen.problems[f"{kind}: {response.status_code} {response.text[:200]}"] += 1
            return None
        return response.text


def check(workspace: Workspace, seen: Seen) -> None:
    """Nothing acknowledged is lost, nothing is stored twice, nobody judged more than was asked for."""
    stored = Counter((r.id, r.group, r.labeler) for r in workspace.rankings("desk"))
    assert set(seen.acknowledged) <= set(stored)
    assert set(stored.values()) <= {1}
    assert len(stored) == len(seen.acknowledged)
    assert violations(workspace) == []


def report(seen: Seen, memory: list[float]) -> str:
    kinds = {kind: {"n": len(found), "p50_ms": round(1000 * seen.share(kind, 0.5)),
                    "p95_ms": round(1000 * seen.share(kind, 0.95)), "p99_ms": round(1000 * seen.share(kind, 0.99)),
                    "max_ms": round(1000 * max(found))} for kind, found in seen.seconds.items()}
    return json.dumps({"requests": kinds, "verdicts": len(seen.acknowledged), "problems": dict(seen.problems),
                       "idle": seen.idle, "memory_mb": [round(m) for m in memory]})
