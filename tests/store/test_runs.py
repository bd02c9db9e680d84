"""Metrics, checkpoints, events; and what happens to damaged checkpoints."""

import json
import math
import subprocess
import sys

import pytest

from tunesmith.errors import NotFound
from tunesmith.store.publish import publish
from tunesmith.store.workspace import Workspace


@pytest.fixture
def run(workspace):
    return workspace.start_run("sft", {"lr": 0.1, "name": "m"}, 7, {"demos": "f00"})


def state(value):
    def write(folder):
        (folder / "weights.safetensors").write_bytes(value * 100)
        (folder / "rng.json").write_text("{}")
    return write


def test_a_run_is_found_again_as_it_was(workspace, run):
    other = workspace.run(run.id)
    assert other == run and workspace.runs() == [run]
    assert (other.command, other.settings, other.seed, other.inputs, other.status, other.summary) == (
        "sft", {"lr": 0.1, "name": "m"}, 7, {"demos": "f00"}, "running", {})
    assert other.folder == workspace.root / "runs" / run.id and run.id.startswith("sft-2")
    assert json.loads((run.folder / "settings.json").read_text())["settings"] == run.settings
    with pytest.raises(NotFound, match="did you mean"):
        workspace.run(run.id[:-1])


def test_runs_are_listed_oldest_first(workspace):
    ids = [workspace.start_run(command, {}, 0, {}).id for command in ("sft", "ppo", "collect")]
    assert [r.id for r in workspace.runs()] == ids


def test_metrics_are_appended_and_numbers_that_are_not_finite_become_null(run):
    run.log(1, {"loss": 2.5, "tokens": 10})
    run.log(2, {"loss": float("nan"), "parts": [1.0, float("inf")], "note": "x"})
    assert run.metrics() == [{"step": 1, "loss": 2.5, "tokens": 10},
                             {"step": 2, "loss": None, "parts": [1.0, None], "note": "x"}]


def test_a_line_cut_short_by_a_crash_is_passed_over(run):
    run.log(1, {"loss": 1})
    with open(run.folder / "metrics.jsonl", "a") as f:
        f.write('{"step": 2, "lo')
    assert run.metrics() == [{"step": 1, "loss": 1}]
    run.rewind(1)
    run.log(2, {"loss": 3})
    assert [m["step"] for m in run.metrics()] == [1, 2]


def test_finish_records_how_it_ended(workspace, run):
    run.finish("failed", {"reason": "loss is NaN", "loss": float("nan")})
    assert (run.status, run.summary) == ("failed", {"reason": "loss is NaN", "loss": None})
    assert workspace.run(run.id) == run
    assert run.events()[-1]["event"] == "failed"


def test_checkpoints_keep_the_newest(run):
    assert run.latest() is None
    for step in (5, 10, 15):
        run.checkpoint(step, state(b"%d" % step))
    assert sorted(p.name for p in (run.folder / "checkpoints").iterdir()) == ["step-10", "step-15"]
    step, path = run.latest()
    assert step == 15 and (path / "weights.safetensors").read_bytes() == b"15" * 100
    run.checkpoint(100, state(b"x"), keep=1)
    assert [p.name for p in (run.folder / "checkpoints").iterdir()] == ["step-100"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)


def swap(folder):
    a, b = (folder / "weights.safetensors").read_bytes(), (folder / "rng.json").read_bytes()
    (folder / "weights.safetensors").write_bytes(b)
    (folder / "rng.json").write_bytes(a)


@pytest.mark.parametrize("harm", [
    lambda p: flip(p / "weights.safetensors"),
    lambda p: (p / "weights.safetensors").write_bytes((p / "weights.safetensors").read_bytes()[:-1]),
    lambda p: (p / "weights.safetensors").write_bytes(b""),
    lambda p: (p / "weights.safetensors").unlink(),
    lambda p: (p / "manifest.json").unlink(),
    lambda p: flip(p / "manifest.json"),
    lambda p: (p / "manifest.json").write_bytes(b""),
    swap,
], ids=["flip", "truncate", "empty", "delete", "no manifest", "flip manifest", "empty manifest", "swap"])
def test_a_damaged_checkpoint_is_passed_over_with_an_event(run, harm):
    run.checkpoint(1, state(b"a"))
    run.checkpoint(2, state(b"b"))
    harm(run.folder / "checkpoints" / "step-2")
    step, path = run.latest()
    assert step == 1 and (path / "weights.safetensors").read_bytes() == b"a" * 100
    event = run.events()[-1]
    assert event["event"] == "damaged checkpoint passed over" and event["step"] == 2 and event["reason"]
    harm(path)
    assert run.latest() is None


def test_resume_drops_what_comes_after_the_checkpoint(workspace, run):
    for step in range(1, 6):
        run.log(step, {"loss": step})
        run.checkpoint(step, state(b"%d" % step), keep=3)
    flip(run.folder / "checkpoints" / "step-5" / "weights.safetensors")
    run.finish("stopped", {})
    again = workspace.run(run.id)
    step, _ = again.resume()
    assert step == 4 and again.status == workspace.run(run.id).status == "running"
    assert [m["step"] for m in again.metrics()] == [1, 2, 3, 4]
    assert sorted(p.name for p in (run.folder / "checkpoints").iterdir()) == ["step-3", "step-4"]
    again.log(5, {"loss": 9})
    again.checkpoint(5, state(b"x"))
    assert again.metrics()[-1] == {"step": 5, "loss": 9} and again.latest()[0] == 5


def test_resume_without_a_checkpoint_starts_over(run):
    run.log(1, {"loss": 1})
    assert run.resume() is None and run.metrics() == []


def test_a_checkpoint_of_the_same_step_is_replaced(run):
    run.checkpoint(3, state(b"a"))
    run.checkpoint(3, state(b"b"))
    assert (run.latest()[1] / "weights.safetensors").read_bytes() == b"b" * 100


def test_a_checkpoint_that_fails_keeps_the_previous(run):
    run.checkpoint(1, state(b"a"))

    def write(folder):
        (folder / "half").write_bytes(b"x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        run.checkpoint(2, write)
    assert [p.name for p in (run.folder / "checkpoints").iterdir()] == ["step-1"] and run.latest()[0] == 1


def test_only_one_process_executes_a_run(workspace, run):
    child = ("import sys; from tunesmith.store.workspace import Workspace\n"
             "run = Workspace.open(sys.argv[1]).run(sys.argv[2]); print(run.alive); run.resume()")
    command = [sys.executable, "-c", child, str(workspace.root), run.id]
    got = subprocess.run(command, capture_output=True, text=True)
    assert got.stdout == "True\n" and "is being executed by another process" in got.stderr
    run.release()
    assert not workspace.run(run.id).alive
    got = subprocess.run(command, capture_output=True, text=True)
    assert (got.stdout, got.returncode) == ("False\n", 0), got.stderr


def test_a_process_may_take_up_its_own_run_again(workspace, run):
    run.checkpoint(1, state(b"a"))
    again = workspace.run(run.id)
    assert again.alive and again.resume()[0] == 1
    again.finish("finished", {})
    assert not run.alive


def test_what_is_not_a_number_becomes_null_or_is_never_published(tmp_path):
    """In the lineage it is null; a folder whose manifest would hold it anyway is not renamed into place."""
    with Workspace.open(tmp_path / "ws") as workspace:
        made = workspace.publish_adapter("m", "policy", {"spec": "b", "hash": "h"}, lambda folder: None,
                                         {"held_out": {"auc": math.nan, "n": 2}, "curve": [1.0, math.inf]})
        assert made.lineage["held_out"] == {"auc": None, "n": 2} and made.lineage["curve"] == [1.0, None]
        with pytest.raises(ValueError, match="JSON compliant"):
            publish(tmp_path / "ws" / "adapters" / "m", iter(["2"]), lambda folder: None, {"x": math.nan}, "adapter")
        assert [p.name for p in (tmp_path / "ws" / "adapters" / "m").iterdir()] == ["1"]


def test_one_orphan_that_no_row_can_hold_does_not_close_the_workspace(tmp_path, monkeypatch):
    """As versions before this one could leave it behind."""
    with Workspace.open(tmp_path / "ws") as workspace:
        workspace.publish_adapter("m", "policy", {"spec": "b", "hash": "h"}, lambda folder: None, {})
    dumps = json.dumps
    with monkeypatch.context() as m:
        m.setattr(json, "dumps", lambda *a, **k: dumps(*a, **{**k, "allow_nan": True}))
        publish(tmp_path / "ws" / "adapters" / "m", iter(["2"]), lambda folder: None,
                {"created": "2026", "lineage": {"auc": math.nan}}, "adapter")
    with Workspace.open(tmp_path / "ws") as workspace:
        assert [str(a) for a in workspace.adapters()] == ["m@1"]
        again = workspace.publish_adapter("m", "policy", {"spec": "b", "hash": "h"}, lambda folder: None, {})
        assert again.version == 3
