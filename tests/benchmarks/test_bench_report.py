"""What is printed and written: RATIO lines, shares of the limit, missing peers."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import catalogue, data, floors, plan, report
from benchmarks.catalogue import PEERS, Peer
from benchmarks.pair import Rounds


def step(units, seconds, **more):
    return {"units": units, "seconds": seconds, "tokens": 90, "positions": 120, "peak_mb": 50, "other_cpu": 0.0,
            **more}


def test_the_ratio_line_has_median_min_and_max():
    found = report.summary(Rounds([step(10, 1), step(10, 2), step(10, 1)], [step(5, 1), step(5, 1), step(2, 1)], {}),
                           2e9, 100, 3e9)
    assert found["ratio"]["each"] == [2, 1, 5]
    assert report.ratio_line("sft", "trl", found["ratio"]) == "RATIO sft trl 2.00 1.00 5.00"
    assert found["ours"]["share_of_limit"] == pytest.approx(10 * 2e9 / 100e9)
    assert found["ours"]["share_whole"] == pytest.approx(10 * 3e9 / 100e9)
    assert found["ours"]["padding"] == pytest.approx(0.25)


def test_a_noisy_machine_is_named():
    quiet, noisy = (report.summary(Rounds([step(1, 1, other_cpu=x)], [step(1, 1)], {}), 1, 1, 1) for x in (0.1, 0.7))
    assert not any("other processes" in line for line in report.lines("trl", "tokens", quiet))
    assert any("up to 0.7 cores" in line for line in report.lines("trl", "tokens", noisy))


def test_missing_peers_say_how_to_get_them(monkeypatch, tmp_path):
    for e in catalogue.ENVIRONMENTS.values():
        monkeypatch.delenv(e.variable or "NONE", raising=False)
        monkeypatch.delenv(e.path or "NONE", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for where in ("trl", "trl-ppo", "llamafactory", "torchtune", "llamacpp", "vllm"):
        lacking = catalogue.find(where).lacking
        assert lacking.startswith("not installed: ")
        assert catalogue.ENVIRONMENTS[where].install in lacking
    monkeypatch.setenv("LF_PY", str(tmp_path / "python"))
    assert "LF_PY=" in catalogue.find("llamafactory").lacking


def test_a_named_python_is_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("TRL_PPO", str(tmp_path))
    monkeypatch.setenv("BENCH_PY", sys.executable)
    monkeypatch.setitem(catalogue.ENVIRONMENTS, "trl-ppo", replace(catalogue.ENVIRONMENTS["trl-ppo"], package="json"))
    assert catalogue.find("trl-ppo") == catalogue.Place(sys.executable, (str(tmp_path),))


def test_a_missing_peer_is_named_in_output_and_json(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(plan, "find", lambda where: catalogue.Place(lacking="not installed: pip install it"))
    monkeypatch.setattr(plan, "gemm", lambda device, dtype: 100.0)
    plan.compare(plan.Plan("sft", "tiny", tmp_path, "text", tmp_path), [Peer("trl", "trl_sft", "trl")])
    printed = capsys.readouterr().out
    assert "trl: not installed: pip install it" in printed
    assert "no ratio for trl: not installed" in printed
    assert "RATIO" not in printed
    written = json.loads((tmp_path / "sft-tiny-fp32.json").read_text())
    assert written["peers"]["trl"]["error"] == "not installed: pip install it"


def test_every_peer_has_its_module_and_every_workload_a_documented_default():
    for workload, peers in PEERS.items():
        assert len({p.name for p in peers}) == len(peers)
        assert any(p.default for p in peers), workload
        for p in peers:
            assert re.fullmatch(r"[a-z0-9/-]+", p.name), "a RATIO line is split at spaces"
            assert p.where in catalogue.ENVIRONMENTS
            assert p.where == "ours" or (Path(plan.__file__).parent / "peers" / f"{p.module}.py").is_file()


def test_floors_count_the_parameters_in_products():
    blocks = 4 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 1024)
    assert floors.products("tiny", head=False) == blocks
    assert floors.products("tiny") == blocks + 256 * 8192
    assert floors.flops("sft-full", "tiny", 10, None, {}) == 6 * 10 * floors.products("tiny")
    adapter, trunk = (floors.flops("ppo", "tiny", 1, None, {"epochs": 4, "value": v}) for v in ("adapter", "trunk"))
    assert adapter - trunk == 4 * 4 * blocks
    assert floors.flops("grpo", "tiny", 7, None, {}) == 7 * (8 * blocks + 6 * 256 * 8192)


def test_floors_charge_the_output_layer_and_the_last_block_for_what_is_read():
    """96 tokens of prompt, 56 that are read: the prompt needs the last block's keys and values and no vocabulary."""
    blocks, last, head = floors.products("tiny", head=False), 2 * 256 * 256 + 3 * 256 * 1024, 256 * 8192
    assert floors.skippable("tiny") == last
    assert floors.flops("sft", "tiny", 152, 56, {}) == 4 * (152 * (blocks - last) + 56 * (last + head))
    assert floors.flops("reward", "tiny", 152, 2, {}) == 4 * (152 * (blocks - last) + 2 * last)
    for workload in PEERS:
        assert floors.flops(workload, "tiny", 152, 56, {}) < floors.flops(workload, "tiny", 152, None, {})


def test_rows_repeat_from_the_start_and_are_the_same_for_all():
    assert data.take("abcde", 0, 3) + data.take("abcde", 1, 3) == list("abcdea")


def test_default_configurations_get_fewer_pairs(tmp_path):
    p = plan.Plan("sft", "tiny", tmp_path, "", tmp_path, pairs=5)
    best, default = Peer("x", "m", "trl"), Peer("x-default", "m", "trl", {"default": True})
    assert (p.pairs_with(best), p.pairs_with(default)) == (5, 3)
    assert replace(p, pairs=2, quick=True).pairs_with(default) == 1
