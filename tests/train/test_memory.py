"""Micro-batches from a memory budget, and what a run settles before it begins."""

import pytest
import tiny
import torch
from test_sft import DEMOS, gradient, prepare

from tunesmith.errors import ModelError
from tunesmith.model import adapters, machine, recompute
from tunesmith.model import base as bases
from tunesmith.model.batch import Tree, build, hidden
from tunesmith.train import full, memory, reward, sft
from tunesmith.train.learner import BUDGET


def held(base, count, slot="policy"):
    """Bytes that torch itself says autograd keeps of one forward pass over `count` tokens."""
    batch = build([Tree(tuple(range(count // 2)), (tuple(range(count - count // 2)),))])
    seen = {}

    def pack(x):
        seen[x.untyped_storage().data_ptr()] = x
        return x

    with adapters.active(base, slot), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = hidden(base, batch)
    weights = {p.untyped_storage().data_ptr() for p in base.model.parameters()}
    return out, sum(x.untyped_storage().nbytes() for key, x in seen.items() if key not in weights)


@pytest.mark.parametrize("count", [100, 250])
def test_the_probe_predicts_what_a_larger_batch_keeps(lab, count):
    base, _, _ = prepare(lab)
    fixed, each = memory.activation_bytes(base, "policy")
    assert held(base, count)[1] == pytest.approx(fixed + count * each, rel=0.15)


@pytest.mark.parametrize("count", [150, 250])
def test_copies_of_weights_in_bf16_are_not_paid_by_every_token(lab, count):
    """Full fine-tuning under autocast keeps such a copy of every matrix, however small the batch is."""
    base = lab.base()
    base.compute = torch.bfloat16
    slot, weights = full.start(base, "policy", lab.sft(adapter="full"), None)
    fixed, each = memory.activation_bytes(base, slot)
    matrices = sum(2 * p.numel() for name, p in weights.items() if p.ndim > 1 and "embed" not in name)
    assert 0.7 * matrices < fixed < 1.3 * matrices
    assert fixed + count * each == pytest.approx(held(base, count, slot)[1], rel=0.05)


def test_half_the_room_holds_half_the_tokens_and_checkpointing_more(lab):
    base, _, _ = prepare(lab)
    fixed, each = memory.activation_bytes(base, "policy")
    assert fixed == pytest.approx(0, abs=20 * each)
    room = int(300 * memory.MARGIN * each)
    assert memory.micro_tokens(base, "policy", room, False) in (299, 300)
    assert memory.micro_tokens(base, "policy", room // 2, False) in (149, 150)
    assert memory.micro_tokens(base, "policy", room // 10**6, False) == 1
    assert memory.micro_tokens(base, "policy", 2**40, False) == BUDGET
    assert memory.micro_tokens(base, "policy", room // 2, True) > 200


def test_a_container_s_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    free = memory.available(torch.device("cpu"))
    assert 2**20 < free < 2**50
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available(torch.device("cpu")) == pytest.approx(free, rel=0.5)
    (tmp_path / "memory.max").write_text("5000000\n")
    assert memory.available(torch.device("cpu")) == 2_000_000
    (tmp_path / "memory.stat").write_text("anon 2000000\ninactive_file 900000\nactive_file 50000\n")
    assert memory.available(torch.device("cpu")) == 2_900_000, "the page cache is given up when memory is wanted"


def test_a_micro_batch_of_padded_rows_counts_what_is_computed(lab):
    """Two answers to 10 tokens of prompt are 24 tokens as a tree and two rows of 18 padded."""
    base = lab.base()
    trees = [Tree(tuple(range(10)), (tuple(range(6)), tuple(range(8)))), Tree((1, 2), ((3, 4),)), Tree((1, 2), ((3,),))]
    assert list(memory.micro_batches(base, trees, 30)) == [[0, 1], [2]]
    assert list(memory.micro_batches(base, trees, 36, "padded")) == [[0], [1, 2]]
    assert list(memory.micro_batches(base, trees, 54, "padded")) == [[0, 1], [2]]
    base.takes_trees = False
    assert list(memory.micro_batches(base, trees, 36)) == [[0], [1, 2]]


def test_little_memory_is_mentioned(lab, capsys):
    base, _, _ = prepare(lab)
    memory.micro_tokens(base, "policy", 2**40, False)
    assert capsys.readouterr().err == ""
    memory.micro_tokens(base, "policy", 2**10, False)
    assert "0 MB of memory hold 1 tokens at once, which is slow" in capsys.readouterr().err


def test_a_resumed_run_keeps_the_micro_batch_it_began_with(lab, monkeypatch):
    """Its sums are added up in the same order, whatever is free by then."""
    seen = []
    forward = sft.forward_backward
    monkeypatch.setattr(sft, "forward_backward", lambda base, learner, *a, **k: (
        seen.append(learner.budget), forward(base, learner, *a, **k))[1])

    def stop(done, total, metrics):
        if done == 3:
            raise KeyboardInterrupt

    for free, resumed in ((10**6, False), (10**9, True)):
        monkeypatch.setattr(memory, "available", lambda device, free=free: free)
        run = max(lab.workspace.runs(), key=lambda r: r.created) if resumed else None
        try:
            sft.train(lab.workspace, lab.base(), lab.sft(), resume=run, progress=None if resumed else stop)
        except KeyboardInterrupt:
            continue
    assert len(seen) == 3 + 4 and len(set(seen)) == 1 and seen[0] < BUDGET


def test_settings_that_name_a_budget_are_not_measured(lab, monkeypatch):
    monkeypatch.setattr(memory, "activation_bytes", None)
    adapter = sft.train(lab.workspace, lab.base(), lab.sft(micro_tokens=77))
    assert lab.workspace.run(adapter.lineage["run"]).settings["micro_tokens"] == 77


def test_a_base_in_another_precision_than_asked_for_is_refused(lab):
    with pytest.raises(ModelError, match="loaded in fp32, and the run wants bf16"):
        sft.train(lab.workspace, lab.base(), lab.sft(precision="bf16"))


@pytest.mark.parametrize(("changes", "weights", "products"), [
    ({}, torch.bfloat16, "bf16"), ({"adapter": "full"}, torch.float32, "bf16"),
    ({"precision": "fp32"}, torch.float32, "fp32"), ({"adapter": "full", "precision": "fp32"}, torch.float32, "fp32")])
def test_precision_is_the_machine_s_unless_named_and_full_keeps_fp32_weights(lab, monkeypatch, changes, weights,
                                                                             products):
    monkeypatch.setattr(machine, "precision", lambda device: torch.bfloat16)
    monkeypatch.setattr(memory, "WIDE", 32)
    base = lab.base(memory.loaded(lab.sft(**changes)))
    memory.set_precision(base, lab.sft(**changes))
    assert base.model.dtype == weights and base.precision == products and base.width == 32


def test_a_narrow_base_on_a_cpu_stays_in_fp32(lab, monkeypatch):
    monkeypatch.setattr(machine, "precision", lambda device: torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    base = lab.base()
    memory.set_precision(base, lab.sft())
    assert base.precision == "fp32"
    memory.set_precision(base, lab.sft(precision="bf16"))
    assert base.precision == "bf16"


def test_a_frozen_base_in_bf16_learns_about_the_same_with_fp32_adapters(lab):
    curves = []
    for dtype in (torch.float32, torch.bfloat16):
        base = lab.base(dtype)
        adapter = sft.train(lab.workspace, base, lab.sft(epochs=1))
        assert all(p.dtype == torch.float32 for p in adapters.parameters(base, "policy").values())
        curves.append([m["loss"] for m in lab.workspace.run(adapter.lineage["run"]).metrics()])
    assert curves[0] != curves[1] == pytest.approx(curves[0], rel=0.03)


@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_computing_again_gives_the_same_gradient_and_keeps_less(lab, layout):
    """Backward runs outside of the tree's layout and here outside of the adapter too: the blocks remember both."""
    base, learner, parameters = prepare(lab)
    trees, _ = sft.encode(base, DEMOS, 256)
    two = [Tree(t.prompt, (t.answers[0], t.answers[0][:3]), (t.weights[0], t.weights[0][:3])) for t in trees]
    learner.backward = lambda loss: losses.append(loss)
    found = []
    for on in (False, True):
        recompute.use(base, on)
        losses = []
        sft.forward_backward(base, learner, two, layout)
        with adapters.active(base, ""):
            sum(losses).backward()
        found.append(gradient(parameters))
    assert torch.equal(*found) and found[0].abs().max() > 1e-3
    recompute.use(base, True)
    out, few = held(base, 200)
    recompute.use(base, False)
    assert few < 0.4 * held(base, 200)[1]
    assert not out.isnan().any()


def test_computing_again_works_for_rewards_and_can_be_turned_off(lab):
    found = []
    for on in (False, True, False):
        adapter = reward.train(lab.workspace, lab.base(), lab.reward(checkpoint_activations=on), lab.groups)
        found.append([m["loss"] for m in lab.workspace.run(adapter.lineage["run"]).metrics()])
    assert found[0] == found[1] == found[2]
    base = lab.base()
    recompute.use(base, True)
    recompute.use(base, False)
    assert not any("forward" in b.__dict__ for b in recompute.blocks(base))


def test_every_budget_gives_the_gradient_of_one_batch(lab):
    base, learner, parameters = prepare(lab, torch.float64)
    trees, _ = sft.encode(base, DEMOS * 3, 256)
    found = []
    for learner.budget in (10**6, 100, 1):
        sft.forward_backward(base, learner, trees)
        found.append(gradient(parameters))
    assert all((g - found[0]).abs().max() < 1e-6 * found[0].abs().max() for g in found)


def test_a_bf16_run_computes_what_a_base_loaded_in_bf16_does(tmp_path, lab):
    """To the bit, far into the context too: the frequencies of the positions keep float32's precision."""
    ours, theirs = tiny.load(tmp_path), bases.load(str(tmp_path), dtype=torch.bfloat16)
    memory.set_precision(ours, lab.sft(precision="bf16"))
    ids = torch.arange(200)[None] % 250
    with torch.no_grad():
        assert torch.equal(*(b.trunk(input_ids=ids).last_hidden_state for b in (ours, theirs)))
    assert ours.precision == "bf16" and ours.model.model.rotary_emb.inv_freq.dtype == torch.float32
