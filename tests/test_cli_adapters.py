"""Adapters out, in and away by commands; and one trained on a base in few bits."""

import json

import pytest
import tiny
import torch
from safetensors.torch import load_file

from tunesmith import cli
from tunesmith.model import adapters, quantised
from tunesmith.model import base as bases
from tunesmith.records import Demonstration, Message
from tunesmith.store.workspace import Workspace


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0):
        capsys.readouterr()
        assert cli.main([*map(str, words), "--json"]) == code
        said = capsys.readouterr()
        return said.err if code else json.loads(said.out)

    return run


def test_out_in_and_away(run, tmp_path):
    base = bases.load(str(tiny.save(tmp_path / "base")))
    adapters.attach(base, "one", adapters.Method(rank=4, alpha=8), seed=0)
    tiny.shake(base, "one")
    with Workspace.open("workspace") as workspace:
        first = workspace.publish_adapter("m", "policy", base.describe(), lambda f: adapters.save(base, "one", f), {
            "run": "r", "data": {"clauses": "0"}, "parents": {}, "settings": {"rank": 4}})
        taught = Demonstration((Message("user", "a"), Message("assistant", "b")))
        workspace.add_dataset("clauses", "demonstrations", [taught], licence="CC-BY-4.0")
    assert "needs --out" in run("adapters", "export", "m", code=2)
    out = run("adapters", "export", "m", "--out", "out", "--licence", "mit")["path"]
    assert "exists already" in run("adapters", "export", "m", "--out", "out", code=2)
    assert "needs --name" in run("adapters", "import", out, code=2)
    again = run("adapters", "import", out, "--name", "again")
    assert again["adapter"] == "again@1"
    there, here = (load_file(f"{p}/adapter_model.safetensors") for p in (first.path, again["path"]))
    assert there.keys() == here.keys() and all(torch.equal(there[k], here[k]) for k in there)
    shown = run("adapters", "show", "again")
    assert shown["base"]["hash"] == base.hash and shown["lineage"]["imported"]["adapter"] == "m@1"
    assert shown["licences of what it learned from"] == {"clauses": "CC-BY-4.0"}
    assert run("adapters", "rm", "again") == {"removed": "again@1"}
    assert [a["adapter"] for a in run("adapters", "ls")["adapters"]] == ["m@1"]
    assert 'no adapter "again"' in run("adapters", "rm", "again", code=2)


def test_sft_on_a_base_in_few_bits(run, tmp_path, monkeypatch):
    """The adapter belongs to the whole base; without --quantise it would have learned something else."""
    packed = []

    def packer(kind):
        def pack(weight):
            packed.append(kind)
            small, scale = (weight / weight.abs().max() * 7).round(), weight.abs().max() / 7
            return lambda out: small * scale if out is None else torch.mul(small, scale, out=out)

        return pack

    monkeypatch.setattr(quantised, "_packer", packer)
    base = tiny.save(tmp_path / "base")
    rows = [{"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": "a"}]}
            for i in range(4)]
    (tmp_path / "demos.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    run("import", "demos.jsonl", "--as", "demonstrations", "--name", "demos")
    train = ("sft", "--base", base, "--data", "demos", "--epochs", "1", "--rank", "2")
    few = run(*train, "--name", "few", "--quantise", "nf4")
    assert packed == ["nf4"] * 14
    whole = run(*train, "--name", "whole")
    weights = [load_file(f"{made['path']}/adapter_model.safetensors") for made in (few, whole)]
    assert any(not torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    shown = run("adapters", "show", "few")
    assert shown["base"]["hash"] == run("adapters", "show", "whole")["base"]["hash"]
    assert shown["lineage"]["settings"]["quantise"] == "nf4"
    assert "choose one of them" in run(*train, "--name", "full", "--quantise", "nf4", "--adapter", "full", code=2)
