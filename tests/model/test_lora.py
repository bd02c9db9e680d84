"""Our LoRA layer against PEFT's own; mixed and merged adapters against each alone; the fast product, the plain one."""

import pytest
import tiny
import torch
from peft import LoraConfig
from peft.tuners import lora as peft_lora

from tunesmith.errors import ModelError
from tunesmith.model import adapters, lora, tuners
from tunesmith.model import base as bases
from tunesmith.ops.products import linear

IDS = torch.tensor([[5, 6, 7, 8, 9], [11, 12, 13, 14, 15], [21, 22, 23, 24, 25]])
RANKS = {"small": 2, "wide": 8, "policy": 4}


@pytest.fixture(params=["llama", "qwen3", "gpt2"])
def crowded(request, saved):
    """A base with three adapters of different ranks and strengths."""
    base = bases.load(str(saved[request.param]))
    for seed, (name, rank) in enumerate(RANKS.items()):
        adapters.attach(base, name, adapters.Method(rank=rank, alpha=2.0 + rank), seed)
        tiny.shake(base, name, seed)
    return base


def states(base):
    return base.trunk(input_ids=IDS, use_cache=False).last_hidden_state


@torch.no_grad()
def alone(base, name):
    with adapters.active(base, name):
        return states(base)


def test_values_and_gradients_equal_peft_s_own_layer(crowded):
    inputs = torch.randn(7, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = lora.layers(crowded.model.double())[0]
    found = []
    for forward in (layer.forward, lambda x: peft_lora.Linear.forward(layer, x)):
        layer.set_adapter("wide")
        layer.zero_grad()
        x = inputs.clone().requires_grad_()
        with adapters.active(crowded, "wide"):
            out = forward(x)
        (out.sin() * torch.arange(out.shape[-1])).sum().backward()
        found.append([out.detach(), x.grad, layer.lora_A["wide"].weight.grad.clone(),
                      layer.lora_B["wide"].weight.grad.clone()])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_every_token_of_a_mixed_batch_gets_its_own_adapter(crowded):
    """Whole rows, single tokens in any order, the bare base among them, and groups of different sizes."""
    per_row = ["wide", "", "small"]
    with torch.no_grad(), adapters.mixed(crowded, adapters.mixture(crowded, [n for n in per_row for _ in range(5)])):
        together = states(crowded)
    for i, name in enumerate(per_row):
        torch.testing.assert_close(together[i], alone(crowded, name)[i], rtol=1e-5, atol=2e-6)
    names = ["small", "policy", "policy", "wide", "", "policy", "wide"]
    x = torch.randn(7, 32)
    for layer in lora.layers(crowded.model)[:1]:
        with torch.no_grad(), adapters.mixed(crowded, adapters.mixture(crowded, names)):
            mixed = layer(x)
        for t, name in enumerate(names):
            with torch.no_grad(), adapters.active(crowded, name):
                torch.testing.assert_close(mixed[t], layer(x)[t], rtol=1e-5, atol=2e-6)


def test_merged_equals_unmerged_and_leaves_the_base_untouched(crowded):
    before = {k: v.clone() for k, v in crowded.model.state_dict().items()}
    expected, bare = alone(crowded, "wide"), alone(crowded, "")
    with torch.no_grad(), adapters.merged(crowded, "wide"):
        torch.testing.assert_close(states(crowded), expected, rtol=1e-5, atol=5e-6)
        assert torch.equal(alone(crowded, ""), bare)  # another role inside is not the merged one
    assert (expected - bare).abs().max() > 0.01
    assert all(torch.equal(v, before[k]) for k, v in crowded.model.state_dict().items())


def test_roles_nest_and_unknown_ones_are_refused(crowded):
    with torch.no_grad(), adapters.active(crowded, "small"):
        with adapters.active(crowded, "wide"):
            pass
        assert torch.equal(states(crowded), alone(crowded, "small"))
    with pytest.raises(ModelError, match="is not attached"):
        adapters.mixture(crowded, ["small", "gone"])
    with pytest.raises(ModelError, match="is not attached"), adapters.active(crowded, "gone"):
        pass


def test_attaching_another_adapter_leaves_a_training_one_training(crowded):
    chosen = adapters.trainable(crowded, "policy")
    adapters.copy(crowded, "policy", "reference")
    adapters.attach(crowded, "late", adapters.Method(rank=4, alpha=8), seed=9)
    assert all(p.requires_grad for p in chosen.values())
    assert not any(p.requires_grad for n in ("reference", "late", "small") for p in
                   adapters.parameters(crowded, n).values())


@pytest.fixture(params=["llama", "gpt2"])
def dora(request, saved):
    """A base with DoRA beside plain LoRA; GPT-2's layers have biases and are transposed."""
    base = bases.load(str(saved[request.param]))
    for seed, (name, kind) in enumerate({"dora": "dora", "wide": "lora"}.items()):
        adapters.attach(base, name, adapters.Method(kind, rank=4, alpha=6), seed)
        tiny.shake(base, name, seed)
    return base


def test_dora_equals_peft_s_own_computation(dora):
    """Values and gradients, also of the lengths; in float64."""
    inputs = torch.randn(7, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = lora.layers(dora.model.double())[0]
    found = []
    for forward in (layer.forward, lambda x: peft_lora.Linear.forward(layer, x)):
        layer.set_adapter("dora")
        layer.zero_grad()
        x = inputs.clone().requires_grad_()
        with adapters.active(dora, "dora"):
            out = forward(x)
        (out.sin() * torch.arange(out.shape[-1])).sum().backward()
        parts = layer.lora_A["dora"], layer.lora_B["dora"], layer.lora_magnitude_vector["dora"]
        found.append([out.detach(), x.grad, *(p.weight.grad.clone() for p in parts)])
    for ours, theirs in zip(*found):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_dora_shares_a_batch_and_is_folded(dora):
    names = ["dora", "", "wide"]
    with torch.no_grad(), adapters.mixed(dora, adapters.mixture(dora, [n for n in names for _ in range(5)])):
        together = states(dora)
    for i, name in enumerate(names):
        torch.testing.assert_close(together[i], alone(dora, name)[i], rtol=1e-5, atol=4e-6)
    assert torch.equal(together[1], alone(dora, "")[1])
    with torch.no_grad(), adapters.merged(dora, "dora"):
        torch.testing.assert_close(states(dora), alone(dora, "dora"), rtol=1e-5, atol=5e-6)
    assert (alone(dora, "dora") - alone(dora, "wide")).abs().max() > 0.1


def test_rslora_is_scaled_by_the_root_of_the_rank(base):
    for name, rslora in (("usual", False), ("rs", True)):
        adapters.attach(base, name, adapters.Method(rank=16, alpha=32, rslora=rslora), 0)
        tiny.shake(base, name)
    layer = lora.layers(base.model)[0]
    assert layer.scaling["usual"] == 2 and layer.scaling["rs"] == 8
    x = torch.randn(3, 32)
    with torch.no_grad():
        bare, usual, rs = (act(base, name, layer, x) for name in ("", "usual", "rs"))
    torch.testing.assert_close(rs - bare, 4 * (usual - bare), rtol=1e-4, atol=1e-4)


def act(base, name, layer, x):
    with adapters.active(base, name):
        return layer(x)


def test_a_variant_that_peft_computes_goes_through_it_and_refuses_to_share_a_batch(base):
    config = LoraConfig(r=4, target_modules="all-linear", lora_bias=True, task_type="CAUSAL_LM")
    tuners._add(base, "odd", config)
    tiny.shake(base, "odd")
    layer = lora.layers(base.model)[0]
    x = torch.randn(5, 32)
    layer.set_adapter("odd")
    with torch.no_grad(), adapters.active(base, "odd"):
        torch.testing.assert_close(layer(x), peft_lora.Linear.forward(layer, x))
    assert not adapters.shares(base, "odd")
    with pytest.raises(ModelError, match="cannot share a batch"):
        adapters.mixture(base, ["odd", ""])
    with torch.no_grad(), adapters.merged(base, "odd"):
        inside = states(base)
    assert torch.equal(inside, alone(base, "odd"))


def test_targets_are_adapted_and_nothing_else(base):
    adapters.attach(base, "policy", adapters.Method(rank=4, targets=("q_proj", "layers.1.mlp.up_proj")), 0)
    adapted = {key.split(".lora_")[0].split("model.model.")[-1] for key in adapters.parameters(base, "policy")}
    assert {k.split("layers.")[-1] for k in adapted} == {"0.self_attn.q_proj", "1.self_attn.q_proj", "1.mlp.up_proj"}


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
@pytest.mark.parametrize("wrong", ["query", "proj", "lm_head", "layers.7.mlp.up_proj"])
def test_a_target_that_the_base_lacks_is_refused_with_the_names_it_has(base, kind, wrong):
    with pytest.raises(ModelError, match=f'no linear layer "{wrong}" to adapt; it has down_proj, gate_proj, k_proj, '):
        adapters.attach(base, "policy", adapters.Method(kind, targets=("q_proj", wrong)), 0)
    assert adapters.names(base) == []


@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 6)])
def test_the_product_of_few_rows_is_the_plain_one(bias):
    x, weight = torch.randn(2, 3, 5), torch.randn(6, 5)
    plain = torch.nn.functional.linear(x, weight, bias)
    assert torch.equal(linear(x, weight, bias), plain)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, bias), plain)
