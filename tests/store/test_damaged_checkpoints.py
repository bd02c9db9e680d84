"""Whatever happens to a checkpoint, it is noticed, said, and the one before it is used."""

import json
import os
import shutil
import time

import pytest

from tunesmith.store import publish
from tunesmith.store.publish import seal


@pytest.fixture
def run(workspace):
    """A run with good checkpoints of steps 1 and 2."""
    run = workspace.start_run("sft", {}, 0, {})
    for step in (1, 2):
        run.log(step, {"loss": step})
        run.checkpoint(step, state(step))
    return run


def state(step):
    def write(folder):
        (folder / "policy.safetensors").write_bytes(bytes([step]) * 1000)
        (folder / "value.safetensors").write_bytes(bytes([step + 100]) * 1000)
        (folder / "controller.json").write_text(json.dumps({"coefficient": step}))
    return write


def weights(folder):
    return folder / "policy.safetensors"


def truncate(folder):
    weights(folder).write_bytes(weights(folder).read_bytes()[:-1])


def flip(folder):
    data = bytearray(weights(folder).read_bytes())
    data[500] ^= 1
    weights(folder).write_bytes(data)


def empty(folder):
    weights(folder).write_bytes(b"")


def lose(folder):
    weights(folder).unlink()


def rename(folder):
    weights(folder).rename(folder / "policy.safetensors.bak")


def add(folder):
    (folder / "more").mkdir()
    (folder / "more" / "optimizer.safetensors").write_bytes(b"x")


def swap(folder):
    other = folder / "value.safetensors"
    first, second = weights(folder).read_bytes(), other.read_bytes()
    weights(folder).write_bytes(second)
    other.write_bytes(first)


def lose_manifest(folder):
    (folder / "manifest.json").unlink()


def cut_manifest(folder):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[:len(text) // 2])


def replace_manifest(folder):
    """By anything that is JSON but no manifest."""
    (folder / "manifest.json").write_text("[1, 2]")


def take_the_others_manifest(folder):
    shutil.copy(folder.parent / "step-1" / "manifest.json", folder)


def become_the_other(folder):
    """Whole and sound, but of another step."""
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "step-1", folder)


def belong_to_another_run(folder):
    (folder / "manifest.json").unlink()
    seal(folder, {"run": "sft-20260101-000000-abcdef", "step": 2, "created": "2026"})


def lie_about_size(folder):
    """The manifest's size is changed and its hashes are not; its own checksum tells."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"]["policy.safetensors"]["size"] = 999
    file.write_text(json.dumps(manifest))
    weights(folder).write_bytes(weights(folder).read_bytes()[:999])


def turn_into_a_folder(folder):
    weights(folder).unlink()
    weights(folder).mkdir()


def turn_into_a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("checkpoint")


def point_elsewhere(folder):
    """A link to a file that is gone."""
    weights(folder).unlink()
    weights(folder).symlink_to(folder.parent / "gone")


HARM = {
    truncate: "999 bytes instead of 1000", flip: "policy.safetensors was altered", empty: "0 bytes instead of 1000",
    lose: "policy.safetensors is missing", rename: "policy.safetensors is missing",
    add: "more/optimizer.safetensors does not belong", swap: "policy.safetensors was altered",
    lose_manifest: "manifest.json is missing", cut_manifest: "manifest.json is not readable",
    replace_manifest: "manifest.json is not readable", take_the_others_manifest: "was altered",
    become_the_other: "step 1 of", belong_to_another_run: "of run sft-20260101-000000-abcdef",
    lie_about_size: "manifest.json was altered", turn_into_a_folder: "policy.safetensors", turn_into_a_file: "manifest",
    point_elsewhere: "policy.safetensors is missing"}


def test_there_are_at_least_ten_ways():
    assert len(HARM) >= 10


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_damage_is_noticed_and_the_one_before_used(workspace, run, harm, capsys):
    harm(run.folder / "checkpoints" / "step-2")
    run.release()
    again = workspace.run(run.id)
    step, folder = again.resume()
    assert step == 1 and weights(folder).read_bytes() == b"\1" * 1000
    said, resumed = again.events()[-2:]
    assert (said["event"], said["step"]) == ("damaged checkpoint passed over", 2) and HARM[harm] in said["reason"]
    assert (resumed["event"], resumed["step"]) == ("resumed", 1)
    assert f"checkpoint step-2 of {run.id} is damaged" in (shown := capsys.readouterr().err) and HARM[harm] in shown
    assert [m["step"] for m in again.metrics()] == [1]
    again.checkpoint(2, state(2))
    assert again.latest()[0] == 2 and not list((run.folder / "checkpoints").glob("step-2/*.bak"))


@pytest.mark.parametrize("file", ["policy.safetensors", "manifest.json", "."])
def test_a_checkpoint_that_may_not_be_read_is_passed_over(run, monkeypatch, file):
    """The tests may run as root, whom no permission stops: the refusal is simulated where it would occur."""
    if os.geteuid():
        (run.folder / "checkpoints" / "step-2" / file).chmod(0)
    else:
        refuse(monkeypatch, run.folder / "checkpoints" / "step-2" / file)
    assert run.latest()[0] == 1
    assert "Permission denied" in run.events()[-1]["reason"]


def refuse(monkeypatch, path):
    def denied(*_):
        raise PermissionError(13, "Permission denied", str(path))

    if path.name == "policy.safetensors":
        real = publish.sha256
        monkeypatch.setattr(publish, "sha256", lambda p: denied() if p == path else real(p))
    else:
        real_read = publish.Path.read_text
        monkeypatch.setattr(publish.Path, "read_text", lambda p, **k: denied() if p.parent == path or p == path
                            else real_read(p, **k))


def test_half_written_folders_are_not_checkpoints(workspace, run):
    """What a killed writer leaves, before and after it wrote its manifest; opening the workspace clears it up later."""
    left = run.folder / "checkpoints" / ".tmp-0123456789"
    left.mkdir()
    state(3)(left)
    assert run.latest()[0] == 2
    seal(left, {"run": run.id, "step": 3, "created": "2026"})
    assert run.latest()[0] == 2 and run.events() == []
    long_ago = time.time() - 86400
    for path in (left, *left.iterdir()):
        os.utime(path, (long_ago, long_ago))
    publish.clean(left.parent)
    assert not left.exists() and run.latest()[0] == 2


def test_names_that_only_look_like_checkpoints_are_left_alone(run):
    for name in ("step-3.bak", "step-", "step-x", "step-3 (copy)"):
        shutil.copytree(run.folder / "checkpoints" / "step-2", run.folder / "checkpoints" / name)
    assert run.latest()[0] == 2 and run.events() == []


def test_with_every_checkpoint_damaged_the_run_starts_over(run):
    for step in (1, 2):
        flip(run.folder / "checkpoints" / f"step-{step}")
    assert run.resume() is None and run.metrics() == []
    assert [e["step"] for e in run.events()] == [2, 1, 0]
