"""kill -9 of trainer, worker and server at every stage of a fine-tuning job: it ends with the same model, and nothing
is there twice.

The trainer dies at random calls of whatever must not be torn apart (`warm.POINTS`), again and again; server and worker
are real processes, killed while their child trains, alone or together with it.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import tiny
import warm
from warm import Death

from tunesmith.store import blobs, jobs
from tunesmith.store.workspace import Workspace

KILLS = int(os.environ.get("TUNESMITH_KILLS", "25"))
"""Per kind of job."""
ROWS = [{"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"aa{n}"}]}
        for n in range(12)]
PAIRS = [{"input": {"messages": [{"role": "user", "content": f"say {n}"}]},
          "preferred_output": [{"role": "assistant", "content": "aaa"}],
          "non_preferred_output": [{"role": "assistant", "content": "bbb"}]} for n in range(12)]
KINDS: dict[str, tuple[list[Any], bool]] = {"supervised": (ROWS, True), "dpo": (PAIRS, False)}


class Desk:
    """A workspace with a base and files, and jobs in it."""

    def __init__(self, folder: Path):
        self.base, self.root, self.out = str(tiny.save(folder / "base")), folder / "ws", folder / "out"
        with Workspace.open(self.root) as w:
            self.files = {kind: blobs.add(w, io.BytesIO("\n".join(map(json.dumps, rows)).encode()),
                                          blobs.Sender("me"), "rows.jsonl", "fine-tune").id
                          for kind, (rows, _) in KINDS.items()}

    def create(self, kind: str, epochs: int = 3) -> str:
        how = {"hyperparameters": {"n_epochs": epochs, "batch_size": 4, "learning_rate_multiplier": "auto"}}
        with Workspace.open(self.root) as w:
            return jobs.create(w, {
                "model": self.base, "base": self.base, "start": "", "training_file": self.files[kind],
                "validation_file": self.files[kind] if KINDS[kind][1] else None, "method": {"type": kind, kind: how},
                "suffix": None, "seed": 5, "metadata": None, "name": f"ft:tiny:tunesmith::{os.urandom(4).hex()}"},
                "me").id

    def once(self, id: str, death: Death | None = None) -> int | None:
        """A child works on the job, as the worker would start it; its exit code."""
        with Workspace.open(self.root) as w:
            claimed = jobs.claim(w, id, "chaos")
            assert claimed, jobs.find(w, id)
            process = warm.start(["work", "--once", id, "--token", str(claimed.token), "--workspace", str(self.root)],
                                 self.out, death)
            process.join(120)
            jobs.release(w, id, claimed.token)
        return process.exitcode

    def status(self, id: str) -> str:
        with Workspace.open(self.root) as w:
            return jobs.find(w, id).status

    def result(self, id: str) -> dict[str, Any]:
        """All that a job leaves behind, without its names and times."""
        with Workspace.open(self.root) as w:
            job = jobs.find(w, id)
            assert job.status == "succeeded", (job.error, self.out.with_suffix(".err").read_text())
            events, more = jobs.events(w, id, 1000)
            points = jobs.checkpoints(w, id, 100)[0]
            made = [a for a in w.adapters() if a.name == id]
            results = blobs.files(w, 100, purpose="fine-tune-results")[0]
            file = blobs.file(w, job.results[0])
            assert not more and len({f.id for f in results}) == len(results) and len(job.results) == 1
            names = jobs.model_names(w)
            assert all(names[str(a)] for a in made) and len(made) == len(points)

            def plain(text: str) -> str:
                return re.sub(r"file-\w+", "FILE", text.replace(id, "JOB").replace(job.body["name"], "MODEL"))

            return {"events": Counter((plain(e.message), json.dumps(e.data, sort_keys=True)) for e in events),
                    "checkpoints": [(c.step, plain(c.model), c.metrics) for c in points],
                    "csv": blobs.path(w, file).read_bytes(), "tokens": job.trained_tokens,
                    "models": [(a.path / "adapter_model.safetensors").read_bytes() for a in made],
                    "how": job.body["method"]}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("jobs"))


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_trainer_that_dies_anywhere_changes_nothing(desk: Desk, kind: str) -> None:
    whole, calls = desk.create(kind), []
    for _ in range(2):  # validation, training
        assert desk.once(whole) == 0, desk.out.with_suffix(".err").read_text()
        calls.append(json.loads(desk.out.with_suffix(".calls").read_text()))
    expected = desk.result(whole)
    assert sum(expected["events"].values()) == 2 + 2 + 9 + 3 + 2 and len(expected["models"]) == 3
    dice, died = random.Random(kind), Counter[str]()
    while died.total() < KILLS:
        id = desk.create(kind)
        while (status := desk.status(id)) != "succeeded":
            points = calls[status != "validating_files"]
            point = dice.choice(sorted(points))
            death = Death(point, dice.randint(1, points[point]), dice.choice(["before", "during", "after"]),
                          dice.random() * 0.01) if died.total() < KILLS and dice.random() < 0.8 else None
            code = desk.once(id, death)
            died[point] += code == -signal.SIGKILL
            assert code in (0, -signal.SIGKILL), desk.out.with_suffix(".err").read_text()
        found = desk.result(id)
        assert {**found, "tokens": 0} == {**expected, "tokens": 0}, (id, died)
    print(f"\n{kind}: {died.total()} kills: {dict(died)}")


# ---- real processes

class Server:
    """`tunesmith serve` on a port."""

    def __init__(self, desk: Desk):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = command(desk, "serve", "--port", str(self.port), "--base", desk.base)
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.api = openai.OpenAI(base_url=self.url, api_key="x", max_retries=0, timeout=60)
        deadline = time.monotonic() + 120
        while True:
            try:
                self.api.models.list()
                return
            except openai.APIConnectionError:
                assert time.monotonic() < deadline and self.process.poll() is None, (
                    desk.out.with_suffix(".processes").read_text())
                time.sleep(0.1)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def command(desk: Desk, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tunesmith", *words, "--workspace", str(desk.root)],
                            stdout=subprocess.DEVNULL, stderr=open(desk.out.with_suffix(".processes"), "ab"))


def children(pid: int) -> list[int]:
    found = [Path(p).read_text().split() for p in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for line in found for child in line]


def until(condition: Any, seconds: float = 300) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def running(desk: Desk, id: str, step: int = 1) -> bool:
    with Workspace.open(desk.root) as w:
        job = jobs.find(w, id)
        assert job.status not in jobs.OVER, job
        return job.status == "running" and job.progress.get("step", 0) >= step


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victims", ["server", "trainer", "server and trainer", "worker"])
def test_whoever_is_killed_the_job_ends_the_same(desk: Desk, victims: str) -> None:
    """50 epochs are 150 steps: time enough to die in the middle."""
    expected = until_done(desk, desk.create("supervised", epochs=50), command(desk, "work", "--until-idle"))
    server = None if victims == "worker" else Server(desk)
    process = command(desk, "work") if server is None else server.process
    id = desk.create("supervised", epochs=50)
    until(lambda: running(desk, id))
    child, = children(process.pid)
    if victims != "trainer":
        process.kill()
        process.wait()
    if "trainer" in victims:
        os.kill(child, signal.SIGKILL)
    if victims == "server and trainer":  # nobody noticed that the child died: its lease has to run out
        server = Server(desk)
        process = server.process
    until(lambda: desk.status(id) in jobs.OVER)  # with server or worker alone dead, the child ends it by itself
    found = desk.result(id)
    assert {**found, "tokens": 0} == {**expected, "tokens": 0}
    process.kill()
    process.wait()


def until_done(desk: Desk, id: str, worker: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert worker.wait(300) == 0
    return desk.result(id)


@pytest.mark.chaos
def test_cancel_and_pause_reach_a_trainer_whose_server_is_gone(desk: Desk) -> None:
    server = Server(desk)
    id = desk.create("supervised", epochs=50)
    until(lambda: running(desk, id))
    child, = children(server.process.pid)
    server.api.fine_tuning.jobs.pause(id)
    server.kill()
    with Workspace.open(desk.root) as w:
        until(lambda: not jobs.find(w, id).held)
        run = next(r for r in w.runs() if r.settings["name"] == id)
        assert run.status == "stopped" and run.latest()
        until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text())
        jobs.resume(w, id)
        assert command(desk, "work", "--until-idle").wait(300) == 0
        assert jobs.find(w, id).status == "succeeded"


@pytest.mark.chaos
def test_a_server_killed_in_the_middle_of_an_upload_keeps_nothing_of_it(desk: Desk) -> None:
    server = Server(desk)
    before = {f.id for f in server.api.files.list()}

    def half() -> Any:
        yield (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b\r\n'
               b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + b"x" * 2**20)
        server.kill()
        yield b"x" * 2**20

    with pytest.raises(httpx2.TransportError):
        httpx2.post(f"{server.url}/files", content=half(), headers={"content-type": "multipart/form-data; boundary=b"})
    again = Server(desk)
    assert {f.id for f in again.api.files.list()} == before
    for point in ("file-written", "file-renamed"):
        again.kill()
        os.environ["TUNESMITH_FAILPOINT"] = point
        try:
            again = Server(desk)
        finally:
            del os.environ["TUNESMITH_FAILPOINT"]
        with pytest.raises(openai.APIConnectionError):
            again.api.files.create(file=("b.jsonl", b"{}"), purpose="fine-tune")
        again = Server(desk)
        assert {f.id for f in again.api.files.list()} == before
    again.kill()
    with Workspace.open(desk.root) as w:
        blobs.sweep(w, older_than=-1)
        kept = {f.id for f in blobs.files(w, 1000)[0]}
    assert {p.name.partition(".")[0] for p in (desk.root / blobs.FOLDER).iterdir()} == kept
