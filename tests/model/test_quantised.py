"""A quantised base: gradients are those of the unpacked weights, and nothing else notices that there are none."""

import sys

import pytest
import tiny
import torch

from tunesmith.errors import MissingExtra, ModelError
from tunesmith.model import adapters, lora, machine, quantised
from tunesmith.model import base as bases
from tunesmith.model.adapters import Method
from tunesmith.train import full

IDS = torch.tensor([[5, 6, 7, 8, 9, 3, 200]])


def coarse(kind):
    """Stands in for bitsandbytes: 16 levels per matrix."""
    def pack(weight):
        scale = weight.abs().max() / 7
        small = (weight / scale).round().to(torch.int8)
        return lambda out: small * scale if out is None else torch.mul(small, scale, out=out)

    return pack


@pytest.fixture
def packer(monkeypatch):
    monkeypatch.setattr(quantised, "_packer", coarse)


def unpacked(base):
    """The same base with plain layers that hold what the packed ones unpack to."""
    for module in base.model.modules():
        if isinstance(module, quantised.Packed):
            weight = module.weight
            module.__class__ = lora.Dense
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
    return base


def gradients(base, method, dtype=torch.float32):
    adapters.attach(base, "one", method, seed=0)
    tiny.shake(base, "one", size=0.1)
    weights = adapters.trainable(base, "one")
    with adapters.active(base, "one"):
        hidden = base.trunk(input_ids=IDS, use_cache=False).last_hidden_state
        loss = base.logits(hidden).log_softmax(-1)[0, :-1].gather(1, IDS[0, 1:, None]).mean()
    found = torch.autograd.grad(loss, list(weights.values()))
    return hidden.detach(), dict(zip(weights, found))


def both(folder, kind):
    pair = bases.load(str(folder)), bases.load(str(folder))
    for base in pair:
        quantised.quantise(base, kind)
    return pair[0], unpacked(pair[1])


def same(ours, want):
    """1e-5 of the largest number: the order in which products add up."""
    return all(float((ours[k] - want[k]).abs().max()) <= 1e-5 * float(want[k].abs().max()) for k in want)


@pytest.mark.parametrize("method", [Method(rank=4, alpha=8), Method("dora", rank=4, alpha=8)], ids=["lora", "dora"])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_gradients_are_those_of_the_unpacked_weights(saved, packer, name, method):
    ours, reference = both(saved[name], "nf4")
    hidden, found = gradients(ours, method)
    want_hidden, want = gradients(reference, method)
    assert same({"hidden": hidden}, {"hidden": want_hidden})
    assert found.keys() == want.keys() and same(found, want) and all(g.abs().max() > 0 for g in want.values())
    plain, _ = gradients(bases.load(str(saved[name])), method)
    assert (hidden - plain).abs().max() > 1e-3  # it is quantised


def test_layers_of_the_blocks_are_packed_and_the_base_stays_what_it_is(saved, packer):
    plain, base = bases.load(str(saved["qwen3"])), bases.load(str(saved["qwen3"]))
    quantised.quantise(base, "int8")
    assert len(quantised.shapes(base.model)) == 14
    assert type(base.model.get_output_embeddings()) is lora.Dense
    assert (base.hash, base.parameters, machine.products(base)) == (plain.hash, plain.parameters,
                                                                    machine.products(plain))
    assert base.describe() == plain.describe()
    assert sum(p.numel() for p in base.model.parameters()) == plain.parameters - base.packed


def test_an_adapter_is_folded_into_unpacked_copies(saved, packer):
    base, _ = both(saved["llama"], "nf4")
    gradients(base, Method(rank=4, alpha=8))
    with torch.no_grad(), adapters.active(base, "one"):
        want = base.trunk(input_ids=IDS, use_cache=False).last_hidden_state
    with torch.no_grad(), adapters.merged(base, "one"):
        found = base.trunk(input_ids=IDS, use_cache=False).last_hidden_state
    assert same({"": found}, {"": want})


def test_what_cannot_be_quantised_says_so(saved, packer):
    with pytest.raises(ModelError, match="GPT2LMHeadModel has no layers of a kind that can be quantised"):
        quantised.quantise(bases.load(str(saved["gpt2"])), "nf4")
    base = bases.load(str(saved["llama"]))
    adapters.attach(base, "one", Method(rank=4, alpha=8), seed=0)
    with pytest.raises(ModelError, match="before they are attached"):
        quantised.quantise(base, "nf4")
    base = bases.load(str(saved["llama"]))
    quantised.quantise(base, "nf4")
    with pytest.raises(ModelError, match="choose one of them"):
        full.trainable(base)


def test_the_lack_of_bitsandbytes_names_the_extra(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtra, match=r"tunesmith\[quantised\]"):
        quantised.quantise(bases.load(str(saved["llama"])), "nf4")


@pytest.mark.parametrize(("kind", "error", "bits"), [("nf4", 0.12, 4.6), ("int8", 0.02, 8.6)])
def test_bitsandbytes_packs_and_unpacks(saved, kind, error, bits):
    pytest.importorskip("bitsandbytes")
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(0)) * 0.02
    unpack = quantised._packer(kind)(weight)
    assert (unpack(None) - weight).abs().mean() < error * weight.abs().mean()
    assert torch.equal(unpack(torch.empty(256, 512)), unpack(None))
    kept = [c.cell_contents for c in unpack.__closure__]
    state = [getattr(x, "absmax", None) for x in kept]
    tensors = [x for x in [*kept, *state] if isinstance(x, torch.Tensor)]
    assert 8 * sum(x.nbytes for x in tensors) / weight.numel() < bits
    ours, reference = both(saved["llama"], kind)
    assert same(gradients(ours, Method(rank=4, alpha=8))[1], gradients(reference, Method(rank=4, alpha=8))[1])
