"""Stop anywhere, resume, and end with the same weights bit for bit; and what must stop a run."""

import fcntl
import json
import math
from dataclasses import replace

import pytest
import torch
from lab import weights
from safetensors.torch import load_file, save_file

from tunesmith.contracts import Monitor, Word
from tunesmith.errors import TrainingStopped, UserError
from tunesmith.model import adapters
from tunesmith.records import Pair
from tunesmith.store.publish import verify
from tunesmith.train import dpo, grpo, kto, ppo, references, reward, sft

PPO = {
    "value adapter": {},
    "value trunk": {"value": "trunk"},
    "value shared": {"value": "shared"},
    "adaptive KL": {"kl_target": 0.05, "kl_horizon": 20},
    "recompute, ptx, entropy": {"old_logprobs": "recompute", "ptx": "demos", "ptx_coef": 0.5, "entropy_coef": 0.01},
}
PREFER = {
    "dpo": {"method": "dpo", "epochs": 0.5, "sft_coef": 0.1},
    "kto": {"method": "kto", "epochs": 0.5},
    "grpo": {"method": "grpo", "epochs": 2, "minibatches": 2},
    "rloo": {"method": "rloo", "old_logprobs": "recompute"},
}
CASES = [("sft", {}), ("reward", {}), ("reward", {"loss": "plackett-luce"}), *(("ppo", c) for c in PPO.values()),
         *(("prefer", c) for c in PREFER.values())]
NAMES = ["sft", "reward", "reward plackett-luce", *(f"ppo {name}" for name in PPO), *PREFER]


class Killed(Exception):
    pass


def run(lab, command, changes, base=None, **how):
    base = base or lab.base()
    settings = getattr(lab, command)(**changes)
    if command == "reward" or (method := changes.get("method")) in ("dpo", "kto"):
        trainer = {"dpo": dpo, "kto": kto}[method] if command == "prefer" else reward
        return trainer.train(lab.workspace, base, settings, lab.groups, **how)
    return {"sft": sft, "ppo": ppo, "prefer": grpo}[command].train(lab.workspace, base, settings, **how)


def kill_at(step):
    def progress(done, total, metrics):
        assert total >= 4
        if done == step:
            raise Killed
    return progress


def newest(lab):
    return max(lab.workspace.runs(), key=lambda r: r.created)


@pytest.mark.parametrize(("command", "changes"), CASES, ids=NAMES)
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(lab, command, changes):
    """Checklist 38. Stopped at step 3, one past the checkpoint of step 2: step 3 is made again, exactly.

    Weights, value head, moments, schedule, data order, rollout seeds and the KL coefficient all have to be right.
    """
    whole = run(lab, command, changes)
    lines = lab.workspace.run(whole.lineage["run"]).metrics()
    with pytest.raises(Killed):
        run(lab, command, changes, progress=kill_at(3))
    broken = newest(lab)
    assert broken.status == "failed" and broken.latest()[0] == 2 and len(broken.metrics()) == 3
    again = run(lab, command, changes, resume=broken)
    assert weights(again) == weights(whole)
    assert newest(lab).metrics() == lines
    assert lab.workspace.run(broken.id).status == "finished" and again.lineage["run"] == broken.id
    if changes.get("kl_target"):
        assert len({m["kl_coefficient"] for m in lines}) > 2


@pytest.mark.parametrize("step", [1, 4])
def test_before_the_first_and_after_the_last_step(lab, step):
    """Checklist 38: no checkpoint yet means from the start; all steps done means publish only."""
    changes = {"checkpoint_every": 2}
    whole = run(lab, "ppo", changes)
    with pytest.raises(Killed):
        run(lab, "ppo", changes, progress=kill_at(step))
    assert weights(run(lab, "ppo", changes, resume=newest(lab))) == weights(whole)


def test_a_damaged_checkpoint_is_passed_over_and_the_result_is_the_same(lab):
    """Checklist 39: what a crash left half-written is never picked up."""
    changes = {"checkpoint_every": 1}
    whole = run(lab, "sft", changes)
    with pytest.raises(Killed):
        run(lab, "sft", changes, progress=kill_at(4))
    broken = newest(lab)
    step, folder = broken.latest()
    file = folder / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    assert step == 4 and broken.latest()[0] == 3
    assert weights(run(lab, "sft", changes, resume=broken)) == weights(whole)


@pytest.mark.parametrize("command", ["sft", "reward", "ppo"])
def test_a_checkpoint_without_moments_is_an_error(lab, command):
    """Checklist 39: an error, not a warning. The manifest is made to fit, so that only the learner can notice."""
    with pytest.raises(Killed):
        run(lab, command, {}, progress=kill_at(2))
    _, folder = newest(lab).latest()
    name = {"sft": "policy", "reward": "reward", "ppo": "value"}[command]
    file = folder / f"{name}.safetensors"
    tensors = load_file(file)
    lost = next(k for k in tensors if k.startswith("exp_avg_sq/"))
    kept = {k: v for k, v in tensors.items() if k != lost}

    def write(target):
        for f in folder.iterdir():
            if f.name != "manifest.json":
                (target / f.name).write_bytes(f.read_bytes())
        save_file(kept, target / f"{name}.safetensors", metadata={"about": json.dumps({"done": 2, "still": []})})

    newest(lab).checkpoint(2, write)
    verify(folder)
    with pytest.raises(TrainingStopped, match="lacks exp_avg_sq"):
        run(lab, command, {}, resume=newest(lab))


@pytest.mark.parametrize("command", ["sft", "reward", "ppo"])
def test_not_a_number_stops_the_run_and_keeps_the_last_good_checkpoint(lab, command):
    """A weight becomes NaN during step 3; resumed from step 2 the run ends as if nothing had happened."""
    whole = run(lab, command, {})
    base = lab.base()
    slot = {"sft": "policy", "reward": "reward", "ppo": "policy"}[command]

    def poison(done, total, metrics):
        if done == 3:
            with torch.no_grad():
                next(iter(adapters.parameters(base, slot).values())).fill_(math.nan)

    with pytest.raises(TrainingStopped, match="at step"):
        run(lab, command, {}, base=base, progress=poison)
    broken = newest(lab)
    assert broken.status == "stopped" and "checkpoint is kept" in broken.summary["error"]
    assert broken.latest()[0] == 2
    assert weights(run(lab, command, {}, resume=broken)) == weights(whole)


@pytest.mark.parametrize("method", ["dpo", "kto"])
@pytest.mark.parametrize("step", [1, 3])
def test_the_references_log_probs_come_from_the_start_also_after_a_resume(lab, method, step):
    """Checklist 38. Without a checkpoint they are computed again, with one they are read, and never from the policy
    that has moved meanwhile."""
    changes = {"method": method, "epochs": 0.5, "lr": 2e-2}
    whole = run(lab, "prefer", changes)
    with pytest.raises(Killed):
        run(lab, "prefer", changes, progress=kill_at(step))
    module, calls = {"dpo": dpo, "kto": kto}[method], []
    compute = references.compute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.references, "compute", lambda *a: calls.append(1) or compute(*a))
        assert weights(run(lab, "prefer", changes, resume=newest(lab))) == weights(whole)
    assert len(calls) == (1 if step == 1 else 0)


def test_a_finished_run_or_one_whose_data_changed_is_refused(lab):
    done = run(lab, "sft", {})
    with pytest.raises(UserError, match="has finished"):
        run(lab, "sft", {}, resume=lab.workspace.run(done.lineage["run"]))
    with pytest.raises(Killed):
        run(lab, "reward", {}, progress=kill_at(2))
    with pytest.raises(UserError, match="its comparisons has changed"):
        reward.train(lab.workspace, lab.base(), lab.reward(), lab.groups[:-5], resume=newest(lab))


@pytest.mark.parametrize("command", ["reward", "dpo", "kto"])
def test_other_weights_of_the_same_comparisons_are_other_data(lab, command):
    """A second labeler who agrees leaves the pairs as they were and doubles the group's weight."""
    changes = {} if command == "reward" else {"method": command}
    with pytest.raises(Killed):
        run(lab, "reward" if command == "reward" else "prefer", changes, progress=kill_at(2))
    trainer = {"reward": reward, "dpo": dpo, "kto": kto}[command]
    settings = lab.reward() if command == "reward" else lab.prefer(command)
    heavier = [replace(lab.groups[0], weight=2.0), *lab.groups[1:]]
    with pytest.raises(UserError, match="its comparisons has changed"):
        trainer.train(lab.workspace, lab.base(), settings, heavier, resume=newest(lab))


def test_the_same_marks_on_other_answers_are_other_data(lab):
    """0 > 2 > 1 and 0 > 1 > 2 leave one good and one bad answer each, and not the same ones."""
    first, rest = next((g, lab.groups[i + 1:]) for i, g in enumerate(lab.groups) if len(g.tiers) == 3)
    (a,), (b,), (c,) = first.tiers
    orders = [replace(first, tiers=((a,), *tail)) for tail in (((b,), (c,)), ((c,), (b,)))]
    with pytest.raises(Killed):
        kto.train(lab.workspace, lab.base(), lab.prefer("kto", epochs=0.5), [orders[0], *rest], progress=kill_at(2))
    with pytest.raises(UserError, match="its comparisons has changed"):
        kto.train(lab.workspace, lab.base(), lab.prefer("kto", epochs=0.5), [orders[1], *rest], resume=newest(lab))


def test_tiers_are_part_of_what_plackett_luce_learns_from(lab):
    """Given pairs go first; only this loss reads the tiers beside them."""
    both = [replace(g, pairs=(Pair(0, 1),), tiers=((0,), (1, 2))) for g in lab.groups]
    other = [replace(g, tiers=((0,), (1,), (2,))) for g in both]
    settings = lab.reward(loss="plackett-luce")
    with pytest.raises(Killed):
        reward.train(lab.workspace, lab.base(), settings, both, progress=kill_at(2))
    with pytest.raises(UserError, match="its comparisons has changed"):
        reward.train(lab.workspace, lab.base(), settings, other, resume=newest(lab))


def test_a_run_that_another_process_executes_is_left_as_it_is(lab):
    with pytest.raises(Killed):
        run(lab, "sft", {}, progress=kill_at(3))
    live = newest(lab)
    live._store("running", {})
    with open(live.folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="being executed by another process"):
            run(lab, "sft", {}, resume=newest(lab))
    assert newest(lab).status == "running"
    run(lab, "sft", {}, resume=newest(lab))
    assert newest(lab).status == "finished"


class Watch(Monitor):
    """A monitor that stops at step 2."""

    def observe(self, step, metrics, view):
        return Word(stop="seen enough") if step == 2 else Word()


@pytest.mark.parametrize(("command", "changes", "how"), [
    ("ppo", {"max_kl": 1e-9}, {}), ("ppo", {}, {"monitor": Watch()}),
    ("prefer", {"method": "grpo"}, {"monitor": Watch()})])
def test_a_run_that_a_rule_had_stopped_is_not_resumed_past_it(lab, monkeypatch, command, changes, how):
    """Killed between the stopping step and the publishing; then the same rule need not see that step again."""
    changes = {**changes, "lr": 2e-2}
    whole = run(lab, command, changes, **how)
    stopped = lab.workspace.run(whole.lineage["run"])

    def die(*_):
        raise Killed

    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr(type(lab.workspace), "publish_adapter", die)
        run(lab, command, changes, **how)
    again = run(lab, command, changes, resume=newest(lab))
    assert weights(again) == weights(whole) and newest(lab).metrics() == stopped.metrics()
    assert again.lineage["stopped_by"] == stopped.summary["stopped_by"] == newest(lab).summary["stopped_by"]


class Diary(Monitor):
    """Keeps the version of step 2, rings at 3, and remembers all that it has been told."""

    def __init__(self):
        self.told = []

    def observe(self, step, metrics, view):
        drawn = view.engine.sample([view.prompts[0].messages], view.sampling, model=view.model)[0][0].text
        self.told.append([step, round(metrics.get("reward", 0.0), 12), drawn, [a[0].text for a in view.answers]])
        return Word({"entries": float(len(self.told))}, ("three",) if step == 3 else (), best=step == 2)

    def state(self):
        return {"told": self.told}

    def restore(self, state):
        self.told = state["told"]


@pytest.mark.parametrize(("command", "changes"), [("ppo", {}), ("prefer", {"method": "grpo", "kl": 0.0})])
def test_a_monitor_goes_on_where_it_was_and_the_best_version_is_published(lab, command, changes):
    """Killed before the first checkpoint, past one, and behind the last step: the same figures, alarms and weights."""
    changes = {**changes, "lr": 2e-2}
    diary = Diary()
    whole = run(lab, command, changes, monitor=diary)
    first = lab.workspace.run(whole.lineage["run"])
    assert [m["entries"] for m in first.metrics()] == [2, 3, 4, 5]
    assert [m["alarms"] for m in first.metrics()] == [0, 0, 1, 1]
    assert first.summary["alarms"] == [{"step": 3, "text": "three"}] and first.summary["best_step"] == 2
    assert first.summary["start"] == {"entries": 1.0}
    for step in (1, 3, 4):
        with pytest.raises(Killed):
            run(lab, command, changes, monitor=Diary(), progress=kill_at(step))
        other = Diary()
        resumed = run(lab, command, changes, monitor=other, resume=newest(lab))
        assert weights(resumed) == weights(whole) and other.told == diary.told
        assert newest(lab).metrics() == first.metrics()
        for key in ("alarms", "best_step", "start"):
            assert newest(lab).summary[key] == first.summary[key] == resumed.lineage[key]
    assert weights(run(lab, command, changes)) != weights(whole)  # without a monitor the last version is published


def test_the_version_that_is_kept_is_the_one_that_the_monitor_saw(lab):
    """Bit for bit the snapshot of that step, which `snapshots` publishes beside it."""
    class Second(Monitor):
        def observe(self, step, metrics, view):
            return Word(best=step == 2)

    made = run(lab, "ppo", {"lr": 2e-2, "snapshots": 1}, monitor=Second())
    versions = {a.lineage.get("step", 0): a for a in lab.workspace.adapters() if a.name == "p"}
    assert weights(made) == weights(versions[2]) != weights(versions[3])


def test_watching_changes_no_bit_of_the_losses(lab):
    """What a monitor draws for itself comes from streams of its own."""
    class Silent(Monitor):
        def observe(self, step, metrics, view):
            view.engine.sample([p.messages for p in view.prompts], view.sampling, n=2, model=view.model)
            return Word()

    seen, unseen = (run(lab, "ppo", {"lr": 2e-2}, monitor=m) for m in (Silent(), None))
    lines = [[{k: v for k, v in m.items() if k != "alarms"} for m in lab.workspace.run(a.lineage["run"]).metrics()]
             for a in (seen, unseen)]
    assert weights(seen) == weights(unseen) and lines[0] == lines[1]


def test_a_run_that_began_unwatched_goes_on_unwatched(lab):
    """Its policy is no longer what it started from, so there is nothing to compare with."""
    with pytest.raises(Killed):
        run(lab, "ppo", {}, progress=kill_at(3))
    diary = Diary()
    run(lab, "ppo", {}, monitor=diary, resume=newest(lab))
    assert diary.told == [] and "alarms" not in newest(lab).summary
