"""The loop beside the server: children that die, whoever dies with them, and who may start another."""

import sys
import time

import pytest

from tunesmith.service import worker
from tunesmith.service.worker import Worker
from tunesmith.store import jobs

BODY = {"training_file": "file-none", "validation_file": None, "metadata": None, "base": "tiny", "start": "",
        "seed": 0, "name": "ft:tiny:tunesmith::1", "method": {"type": "supervised", "supervised": {}}}


@pytest.fixture
def job(workspace):
    return jobs.create(workspace, BODY, "me")


@pytest.fixture
def child(tmp_path, monkeypatch):
    """`child(code)`: what children do instead; the real ones are in tests/chaos."""
    def make(code):
        script = tmp_path / "python"
        script.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{code}\n")
        script.chmod(0o755)
        monkeypatch.setattr(worker.sys, "executable", str(script))

    monkeypatch.setattr(worker, "PAUSE", 0.01)
    return make


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_job_whose_children_die_fails_with_the_end_of_their_log(workspace, job, child, monkeypatch):
    monkeypatch.setattr(worker, "POLL", 0.02)
    child("print('no memory left', flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    Worker(workspace).run(until_idle=True)
    found = jobs.find(workspace, job.id)
    assert found.status == "failed" and "died 5 times" in found.error["message"]
    assert found.error["message"].count("no memory left") == jobs.ATTEMPTS and found.error["code"] == "server_error"


def test_a_child_outlives_the_loop_that_started_it_and_no_other_starts_one(workspace, job, child, tmp_path):
    child(f"time.sleep(1); open({str(tmp_path / 'lived')!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10))")
    with Worker(workspace) as first:
        until(lambda: first.children)
    assert first.children[0].process.poll() is None  # the loop is gone, its child is not
    other = Worker(workspace)
    other.look()
    assert other.children == [] and jobs.find(workspace, job.id).lease_owner == worker.owner()
    until((tmp_path / "lived").exists)
    assert (tmp_path / "lived").read_text().split() == [
        "-m", "tunesmith", "work", "--once", job.id, "--token", "1", "--workspace", str(workspace.root)]
    assert first.children[0].process.wait(10) == 0


def test_a_lease_that_ran_out_is_somebody_elses(workspace, job, child, monkeypatch):
    monkeypatch.setattr(worker, "STARTING", 0.05)
    child("time.sleep(2)")
    first, second = Worker(workspace), Worker(workspace)
    first.look()
    time.sleep(0.1)
    monkeypatch.setattr(worker, "STARTING", 60)
    second.look()  # nobody renewed it: its child hangs, or its machine is gone
    assert [c.token for c in (*first.children, *second.children)] == [1, 2]
    for one in (*first.children, *second.children):
        one.process.kill()
        one.process.wait()
    first.look()  # the first child's death changes nothing about the second's claim
    assert jobs.find(workspace, job.id).token == 2


def test_a_cancelled_job_gets_no_child(workspace, job, child):
    child("raise SystemExit(1)")
    jobs.cancel(workspace, job.id)
    Worker(workspace).run(until_idle=True)
    assert jobs.find(workspace, job.id).token == 0
