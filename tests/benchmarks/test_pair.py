"""Two workers in turn, with fake workers that only write down when they were let through."""

from itertools import pairwise

import pytest

from benchmarks.pair import Command, Rounds, Worker, WorkerFailed, alone, alternate
from benchmarks.worker import Job

FAKE = """
import os, sys, time
from benchmarks.worker import Job, serve
job = Job.from_environment()
name, out = job.options["name"], job.options["diary"]
def step(number):
    with open(out, "a") as f: f.write(f"{name} begins {number}\\n")
    if job.options.get("fails") == number: raise ValueError("no more paper")
    if job.options.get("sleeps"): time.sleep(job.options["sleeps"])
    with open(out, "a") as f: f.write(f"{name} ends {number}\\n")
    return {"units": 10, "tokens": 30, "positions": 40, "loss": 0.5}
print("noise on stdout, which is not the gate")
serve(job, step)
"""


@pytest.fixture
def fake(tmp_path):
    (tmp_path / "fake_worker.py").write_text(FAKE)

    def make(name, **options):
        job = Job("fake", "tiny", "", 4, options={"name": name, "diary": str(tmp_path / "diary"), **options})
        return Command(name, "fake_worker", job, path=(str(tmp_path),))

    return make


def diary(tmp_path):
    return (tmp_path / "diary").read_text().split("\n")[:-1]


def test_never_two_at_once_and_who_begins_alternates(fake, tmp_path):
    rounds = alternate(fake("ours"), fake("theirs"), 3, tmp_path / "logs")
    lines = diary(tmp_path)
    begun = [line.replace("begins", "ends") for line in lines[::2]]
    assert begun == lines[1::2]  # each ends before another begins
    timed = [line.split()[0] for line in lines[::2]][2:]  # behind the warm-up of both
    assert timed == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert len(rounds.ours) == len(rounds.theirs) == 3
    assert rounds.facts["first_loss"] == {"ours": [0.5], "theirs": [0.5]}


def test_figures_of_a_step(fake, tmp_path):
    steps = alone(fake("ours", sleeps=0.05), 2, tmp_path / "logs" / "ours.log", warm_up=0)
    for step in steps:
        assert (step["units"], step["tokens"], step["positions"]) == (10, 30, 40)
        assert 0.05 <= step["seconds"] < 1
        assert 5 < step["peak_mb"] < 500
        assert step["other_cpu"] >= 0


def test_a_ratio_is_ours_over_theirs_within_the_pair():
    ours = [{"units": 10, "seconds": 1.0}, {"units": 10, "seconds": 2.0}]
    theirs = [{"units": 10, "seconds": 2.0}, {"units": 5, "seconds": 2.0}]
    assert Rounds(ours, theirs, {}).ratios == [2.0, 2.0]


def test_a_worker_that_fails_says_why_in_one_line(fake, tmp_path):
    with pytest.raises(WorkerFailed, match=r"^theirs: ValueError: no more paper \(exit 1; .*peer\.log\)$") as caught:
        alternate(fake("ours"), fake("theirs", fails=1), 2, tmp_path / "logs")
    assert "\n" not in str(caught.value)


def test_patience_ends(fake, tmp_path):
    with pytest.raises(WorkerFailed, match="one step took more than 1 s"):
        alone(fake("ours", sleeps=60), 1, tmp_path / "logs" / "ours.log", patience=1)


def test_workers_are_gone_afterwards(fake, tmp_path):
    with Worker(fake("ours"), tmp_path / "log", 30) as worker:
        worker.ready()
        process = worker._process
        assert process.poll() is None
    assert process.poll() == 0


def test_the_gates_close_behind_every_pair(fake, tmp_path):
    for _ in pairwise(range(3)):
        alternate(fake("ours"), fake("theirs"), 1, tmp_path / "logs", warm_up=0)
    assert len(diary(tmp_path)) == 2 * 2 * 2


def test_workers_take_the_cores_that_this_process_may_use(monkeypatch, fake, tmp_path):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda *a, env, **k: started.append(env["OMP_NUM_THREADS"]))
    Worker(fake("ours"), tmp_path / "log", 30)
    assert started == ["3"]
