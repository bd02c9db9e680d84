"""What a run used: measured or estimated and marked so, added up over executions and lineage, every figure by hand."""

import json
import mmap
import sys
import time
import types

import pytest
import torch
from lab import weights

from tunesmith.errors import SettingsError
from tunesmith.model import machine
from tunesmith.model.machine import Machine
from tunesmith.records import Ranking
from tunesmith.store.runs import Run
from tunesmith.train import cost, ppo, reward, sft

MEASURED = {"seconds": 10.0, "core_seconds": 20.0, "gpu_seconds": 0.0, "cpu_joules": 3.6e6, "gpu_joules": None}
ESTIMATED = {**MEASURED, "cpu_joules": None}
ON_A_GPU = {**MEASURED, "gpu_seconds": 10.0}


class Killed(Exception):
    pass


def kill_at(step):
    def progress(done, total, metrics):
        if done == step:
            raise Killed
    return progress


# ---- energy

def test_measured_energy_by_hand():
    """3.6 MJ are 1 kWh, and 1 kWh is 473 g."""
    found = cost.total([MEASURED, MEASURED])
    assert (found["kwh"], found["co2_grams"], found["core_seconds"]) == (2.0, 946.0, 40.0)
    assert found["energy"].startswith("measured: whole processor")


def test_estimated_energy_by_hand_and_marked():
    found = cost.total([ESTIMATED])
    assert found["kwh"] == pytest.approx(20 * 10 / 3.6e6, rel=1e-3)
    assert found["energy"] == "estimated: 10 W per busy core; 473 g CO2 per kWh"


def test_one_estimated_part_marks_the_whole():
    """A GPU without a counter beside a processor with one; and one execution of two."""
    found = cost.total([ON_A_GPU])
    assert found["kwh"] == pytest.approx(1 + 10 * 400 / 3.6e6, rel=1e-3)
    assert found["energy"].startswith("estimated: 400 W per GPU held;")
    assert cost.total([{**ON_A_GPU, "cpu_joules": None}])["energy"].startswith(
        "estimated: 10 W per busy core, 400 W per GPU held;")
    assert cost.total([{**ON_A_GPU, "gpu_joules": 1.8e6}])["kwh"] == 1.5
    assert cost.total([{**ON_A_GPU, "gpu_joules": 1.8e6}])["energy"].startswith("measured")
    mixed = cost.total([MEASURED, ESTIMATED])
    assert mixed["energy"].startswith("estimated") and mixed["kwh"] == pytest.approx(1 + 200 / 3.6e6, rel=1e-3)


def test_the_carbon_of_another_country(monkeypatch):
    monkeypatch.setenv("TUNESMITH_GRAMS_PER_KWH", "50")
    assert cost.total([MEASURED])["co2_grams"] == 50 and "50 g CO2" in cost.total([MEASURED])["energy"]


@pytest.mark.parametrize("text", ["473,0", "much", "-1", "nan", "inf"])
def test_a_carbon_figure_that_is_none_is_refused_before_the_run(monkeypatch, text):
    monkeypatch.setenv("TUNESMITH_GRAMS_PER_KWH", text)
    with pytest.raises(SettingsError, match="TUNESMITH_GRAMS_PER_KWH is a number"):
        cost.Meter(cpu=cost.NoCounter())


def zone(root, number, name, micro):
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{micro}\n")
    (folder / "max_energy_range_uj").write_text("999999999\n")
    return folder


def test_rapl_adds_packages_and_memory_and_survives_the_wrap(tmp_path):
    """Cores are inside their package and would count twice."""
    assert cost.cpu_counter(tmp_path).joules() is None
    for number, name in (("0", "package-0"), ("0:0", "core"), ("0:1", "dram"), ("1", "psys")):
        zone(tmp_path, number, name, 999_000_000)
    counter = cost.cpu_counter(tmp_path)
    assert counter.joules() == 0
    zone(tmp_path, "0", "package-0", 999_500_000)
    zone(tmp_path, "0:0", "core", 999_900_000)
    assert counter.joules() == 0.5
    zone(tmp_path, "0", "package-0", 2_000_000)  # from 999.5 J over the range's end at 1000 J to 2 J
    zone(tmp_path, "0:1", "dram", 999_250_000)
    assert counter.joules() == 0.5 + 2.5 + 0.25


def test_a_counter_that_may_not_be_read_is_no_counter(tmp_path):
    (zone(tmp_path, "0", "package-0", 1) / "energy_uj").unlink()
    assert cost.cpu_counter(tmp_path).joules() is None


def test_nvml_counts_from_the_start_and_its_absence_is_no_error(monkeypatch):
    millijoules = {"a": 5_000_000, "b": 1_000}
    library = types.ModuleType("pynvml")
    library.nvmlInit = lambda: None
    library.nvmlDeviceGetHandleByUUID = {"GPU-0-a": "a", "GPU-0-b": "b"}.__getitem__
    library.nvmlDeviceGetTotalEnergyConsumption = millijoules.__getitem__
    library.NVMLError = RuntimeError
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: types.SimpleNamespace(uuid="0-" + "ab"[i]))
    counter = cost.gpu_counter(2)
    millijoules["b"] += 2_500
    assert counter.joules() == 2.5 and cost.gpu_counter(0).joules() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert cost.gpu_counter(2).joules() is None


def test_a_meter_counts_this_process_alone_and_from_its_making():
    meter = cost.Meter(gpus=2, cpu=cost.NoCounter(), gpu=cost.NoCounter())
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    used = meter.read()
    assert 0.04 < used["core_seconds"] < 5 and used["seconds"] >= 0.04
    assert used["gpu_seconds"] == pytest.approx(2 * used["seconds"], abs=0.003)
    assert used["cpu_joules"] is used["gpu_joules"] is None


# ---- runs

def test_a_resumed_run_adds_up_what_its_executions_used(lab):
    """Killed at step 3 after the checkpoint of step 2: the tokens of step 3 were computed twice, and count twice."""
    whole = sft.train(lab.workspace, lab.base(), lab.sft())
    once = lab.workspace.run(whole.lineage["run"])
    with pytest.raises(Killed):
        sft.train(lab.workspace, lab.base(), lab.sft(), progress=kill_at(3))
    broken = max(lab.workspace.runs(), key=lambda r: r.created)
    first, = broken.usage()
    again = sft.train(lab.workspace, lab.base(), lab.sft(), resume=broken)
    second = broken.usage()[1]
    summary = lab.workspace.run(broken.id).summary
    assert weights(again) == weights(whole)
    assert (first["execution"], second["execution"], summary["executions"]) == (1, 2, 2)
    assert summary["tokens"] == first["tokens"] + second["tokens"] > once.summary["tokens"]
    assert summary["core_seconds"] >= round(first["core_seconds"] + second["core_seconds"], 2) - 0.01
    steps = [u["tokens"] for u in read_all(once)]
    assert summary["tokens"] - once.summary["tokens"] == steps[2] - steps[1], "the tokens of step 3"
    assert again.lineage["cost"]["tokens"] == summary["tokens"] and once.summary["executions"] == 1


def test_a_run_that_died_after_publishing_loses_nothing_of_its_summary(lab, monkeypatch):
    groups = lab.groups
    lab.workspace.add_groups("ranked", groups)
    lab.workspace.add_rankings([verdict(i, g, "ann", 60) for i, g in enumerate(groups)])
    settings = lab.reward(comparisons="ranked")

    def die(*_):
        raise Killed

    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr(Run, "finish", die)
        reward.train(lab.workspace, lab.base(), settings, groups)
    broken = max(lab.workspace.runs(), key=lambda r: r.created)
    adapter = reward.train(lab.workspace, lab.base(), settings, groups, resume=broken)
    summary = lab.workspace.run(broken.id).summary
    assert str(adapter) == summary["adapter"] == "rm@1" and summary["label_minutes"] == len(groups)
    assert summary["tokens"] == adapter.lineage["cost"]["tokens"] and summary["executions"] == 2


def read_all(run):
    return [json.loads(line) for line in (run.folder / "usage.jsonl").read_text().splitlines()]


def test_the_fraction_of_the_limit_by_hand(lab, monkeypatch):
    """Operations of the learned trees, over the seconds of the steps, over the measured rate."""
    monkeypatch.setattr(machine, "measure", lambda device: Machine(device, 1, 0.01, 0.02, 1.0))
    base = lab.base(torch.float32)
    adapter = sft.train(lab.workspace, base, lab.sft())
    run = lab.workspace.run(adapter.lineage["run"])
    used, = run.usage()
    (body, _), (head, _) = machine.products(base)
    trees, _ = sft.encode(base, list(lab.workspace.dataset("demos").rows()), 1000)
    assert used["gflop"] * 1e9 <= 4 * (body + head) * used["tokens"]
    assert used["gflop"] * 1e9 > 4 * body * used["tokens"] and len(trees) == run.summary["rows"]
    assert run.summary["fraction_of_limit"] == pytest.approx(used["gflop"] / used["step_seconds"] / 0.01, rel=0.01)
    assert run.summary["tokens_per_second"] == pytest.approx(used["tokens"] / used["step_seconds"], rel=0.01)


def test_the_threads_of_a_run_are_recorded_and_its_resumption_takes_them(lab):
    before = torch.get_num_threads()
    try:
        with pytest.raises(Killed):
            sft.train(lab.workspace, lab.base(), lab.sft(threads=2), progress=kill_at(3))
        broken = max(lab.workspace.runs(), key=lambda r: r.created)
        torch.set_num_threads(1)
        adapter = sft.train(lab.workspace, lab.base(), lab.sft(), resume=broken)
        assert torch.get_num_threads() == 2
        assert adapter.lineage["settings"]["threads"] == 2 == lab.workspace.run(broken.id).summary["threads"]
    finally:
        torch.set_num_threads(before)


# ---- people's time

def verdict(number, group, labeler, seconds, simulated=False):
    return Ranking(str(number), group.id, labeler, tuple((i,) for i in range(len(group.answers))), seconds=seconds,
                   simulated=simulated)


def test_label_minutes_by_hand(lab):
    groups = lab.groups[:3]
    lab.workspace.add_groups("ranked", groups)
    lab.workspace.add_groups("others", groups[:1])
    lab.workspace.add_rankings([verdict(1, groups[0], "ann", 90), verdict(2, groups[1], "bob", 30),
                                verdict(3, groups[2], "panel", 600, simulated=True)])
    assert cost.label_minutes(lab.workspace, ["ranked"]) == {"label_minutes": 2.0, "label_minutes_simulated": 10.0}
    assert cost.label_minutes(lab.workspace, ["ranked"], without=["ann"])["label_minutes"] == 0.5
    assert cost.label_minutes(lab.workspace, ["demos"]) == {}


def test_label_minutes_and_cost_follow_the_lineage(lab):
    """A reward model, and an adapter that has it for a parent twice over: each run and each minute once."""
    groups = lab.groups
    lab.workspace.add_groups("ranked", groups)
    lab.workspace.add_rankings([verdict(i, g, "ann", 60) for i, g in enumerate(groups)])
    model = reward.train(lab.workspace, lab.base(), lab.reward(comparisons="ranked"), groups)
    assert model.lineage["cost"]["label_minutes"] == len(groups)
    assert lab.workspace.run(model.lineage["run"]).summary["label_minutes"] == len(groups)
    again = reward.train(lab.workspace, lab.base(), lab.reward(comparisons="ranked", name="rm2"), groups)
    lab.workspace.add_groups("prompts", groups)
    policy = ppo.train(lab.workspace, lab.base(), lab.ppo(updates=1, reward="rm"))
    assert "label_minutes" not in policy.lineage["cost"], "prompts of a set's name are not the set"
    assert cost.lineage(lab.workspace, policy)["label_minutes"] == len(groups)
    child = lab.workspace.publish_adapter("child", "policy", model.base, lambda folder: None, {
        "run": "r", "data": {"p": "f"}, "cost": {**cost.total([ESTIMATED]), "tokens": 7},
        "parents": {"reward": str(model), "second": str(again), "third": str(model)}})
    found = cost.lineage(lab.workspace, child)
    parts = [child, model, again, lab.workspace.adapter("sft")]
    assert found["runs"] == 4 and found["label_minutes"] == len(groups)
    assert found["tokens"] == pytest.approx(sum(a.lineage["cost"]["tokens"] for a in parts), rel=1e-3)
    assert found["kwh"] == pytest.approx(sum(a.lineage["cost"]["kwh"] for a in parts), rel=1e-3)
    assert found["energy"].startswith("estimated")
    (again.path / "adapter_model.safetensors").write_bytes(b"damaged")
    assert cost.lineage(lab.workspace, child) == found


def test_the_peak_of_memory_is_the_run_s_own():
    """An earlier run in the same process, as in quickstart, leaves nothing behind in it."""
    cost.forget_peak()
    before = cost.peak_mb()
    block = mmap.mmap(-1, 2**28)  # straight from the system: freed memory that the process kept would not count
    for page in range(0, len(block), mmap.PAGESIZE):
        block[page] = 1
    with_block = cost.peak_mb()
    assert with_block > before + 200
    block.close()
    cost.forget_peak()
    assert cost.peak_mb() < with_block - 200
