"""Bottleneck layers against what the `adapters` library computed (record_bottleneck.py), and their places in every
architecture against the formulas, by hand."""

import json
from pathlib import Path

import pytest
import tiny
import torch
import transformers as hf
from safetensors.torch import load_file
from test_architectures import CONFIGS, TREES, alone, far

from tunesmith.errors import ModelError
from tunesmith.model import adapters, bottleneck
from tunesmith.model import base as bases
from tunesmith.model.base import Base
from tunesmith.model.batch import build, hidden

KINDS = ("houlsby", "pfeiffer", "parallel")
FIXTURES = Path(__file__).parent / "fixtures"
MODELS = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=True)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=1)),
}
PARTS = {"adapter_down.0.weight": "down.weight", "adapter_down.0.bias": "down.bias", "adapter_up.weight": "up.weight",
         "adapter_up.bias": "up.bias"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", MODELS)
def test_values_and_gradients_are_those_of_the_adapters_library(architecture, kind):
    """To 1e-5 of the largest number: where the layers stand, what they add to, activation, scaling and biases."""
    recorded = load_file(FIXTURES / f"bottleneck_{architecture}.safetensors")
    model = MODELS[architecture]()
    lacking = model.load_state_dict({k[5:]: v for k, v in recorded.items() if k.startswith("base/")}, strict=False)
    assert lacking.missing_keys == ["lm_head.weight"] and not lacking.unexpected_keys  # tied
    base = Base(model, tiny.tokenizer(), architecture)
    adapters.attach(base, "a", adapters.Method(kind, bottleneck=4), 0)
    weights = adapters.trainable(base, "a")
    names = {ours(k, kind): k for k in recorded if k.startswith(f"{kind}/weight/")}
    assert names.keys() == weights.keys()
    with torch.no_grad():
        for name, key in names.items():
            weights[name].copy_(recorded[key])
    with adapters.active(base, "a"):
        logits = base.logits(base.trunk(input_ids=recorded["ids"]).last_hidden_state)
        (logits.log_softmax(-1).sin() * torch.linspace(-1, 2, 40)).sum().backward()
    assert far(logits.detach(), recorded[f"{kind}/logits"]) < 1e-5
    for name, key in names.items():
        assert far(weights[name].grad, recorded[key.replace("/weight/", "/gradient/")]) < 1e-4, name
    with torch.no_grad(), adapters.active(base, ""):
        bare = base.logits(base.trunk(input_ids=recorded["ids"]).last_hidden_state)
    assert far(bare, recorded["logits"]) < 1e-5 and far(bare, logits.detach()) > 0.1


def ours(key, kind):
    """The library's name of a weight in our file."""
    *_, block, place = key.split(".adapters.")[0].split(".")
    where = {"attention_adapters": "attention", "output_adapters": "block" if kind == "pfeiffer" else "mlp"}[place]
    return f"blocks.{block}.{where}.{PARTS[key.split(f'.adapters.{kind}.')[1]]}"


@pytest.fixture(scope="module", params=CONFIGS)
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(3)
    hf.AutoModelForCausalLM.from_config(CONFIGS[request.param]).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    base = bases.load(str(folder))
    for i, kind in enumerate(KINDS):
        adapters.attach(base, kind, adapters.Method(kind, bottleneck=8), seed=i)
        tiny.shake(base, kind, seed=i, size=0.2)
    return base


def seen(base, name):
    """What goes in and out of every block's parts, [T, D]: h at both ends, a, m and h in front of the MLP."""
    found, handles = {}, []

    def flat(x):
        x = x[0] if isinstance(x, tuple) else x
        return x.reshape(-1, x.shape[-1])

    def watch(module, key):  # registered last, so behind the adapters' own
        handles.append(module.register_forward_hook(
            lambda _, args, kwargs, out: found.update({key: (flat(args[0] if args else kwargs["hidden_states"]),
                                                             flat(out))}), with_kwargs=True))

    for i, module in enumerate(bottleneck._blocks(base)):
        parts = bottleneck._parts(base, module)
        for place in ("whole", "attention", "mlp", "entry"):
            watch(getattr(parts, place), f"{i}.{place}")
    with torch.no_grad(), adapters.active(base, name):
        base.trunk(input_ids=torch.arange(5, 14)[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_places_are_right_in_every_architecture(base, kind):
    """In all of them a block's output is its input, and what attention and MLP add: so the parts were found. With an
    adapter, what is added more is its formula's."""
    bare, adapted = seen(base, ""), seen(base, kind)
    weights = base.bottlenecks[kind]
    for i in range(2):
        h, out = bare[f"{i}.whole"]
        assert far(h + bare[f"{i}.attention"][1] + bare[f"{i}.mlp"][1], out) < 1e-5
        h, out = adapted[f"{i}.whole"]
        assert far(adapted[f"{i}.entry"][0], h + adapted[f"{i}.attention"][1]) < 1e-5 or parallel_residual(base)
        total = h + adapted[f"{i}.attention"][1] + adapted[f"{i}.mlp"][1]
        if kind == "pfeiffer":
            total = total + bottleneck._network(weights, f"blocks.{i}.block", total)
        assert far(total, out) < 1e-5
    first = {place: (bare[f"0.{place}"], adapted[f"0.{place}"]) for place in ("attention", "mlp", "entry")}
    (_, a), (_, a_adapted) = first["attention"]
    (_, m), (_, m_adapted) = first["mlp"]
    if kind == "houlsby":
        assert far(a_adapted, a + bottleneck._network(weights, "blocks.0.attention", a)) < 1e-5
    if kind == "parallel":
        (h, _), _ = first["entry"]
        assert far(m_adapted, m + bottleneck._network(weights, "blocks.0.mlp", h)) < 1e-5
    assert far(m_adapted, m) == 0 or kind != "pfeiffer"


def parallel_residual(base):
    """Attention and MLP read the same h."""
    return base.model.config.model_type in ("phi", "gpt_neox")


@pytest.mark.parametrize("kind", KINDS)
def test_trees_equal_unpadded_rows(base, kind):
    """Values in a tree batch and at read positions alone, and gradients of every weight."""
    weights = adapters.trainable(base, kind)
    batch = build(TREES)
    factors = torch.linspace(-1, 2, batch.tokens_T.shape[0])

    def rows():
        found = []
        for tree in TREES:
            each = [alone(base, tree.prompt + answer)[0] for answer in tree.answers]
            length = len(tree.prompt)
            found += [each[0][:length], *(x[length:] for x in each)]
        return torch.cat(found)

    gradients = []
    with adapters.active(base, kind):
        states = hidden(base, batch)
        for x in (states, rows()):
            loss = (base.logits(x).log_softmax(-1)[:, 7] * factors).sum()
            gradients.append(torch.autograd.grad(loss, list(weights.values())))
        assert far(states.detach(), x.detach()) < 1e-5
        with torch.no_grad():
            assert far(hidden(base, batch, at=batch.source_N), states.detach()[batch.source_N]) < 1e-5
    for name, a, b in zip(weights, *gradients):
        assert b.abs().max() > 0 and far(a, b) < 1e-3, name
    for p in weights.values():
        p.requires_grad_(False)


def test_blocks_without_such_places_are_refused(tmp_path):
    torch.manual_seed(0)
    config = hf.OPTConfig(vocab_size=300, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
                          max_position_embeddings=64, do_layer_norm_before=False)
    base = Base(hf.OPTForCausalLM(config), tiny.tokenizer(), "opt")
    with pytest.raises(ModelError, match=r"base opt: its blocks .OPTDecoderLayer: self_attn, .* another --adapter"):
        adapters.attach(base, "a", adapters.Method("houlsby"), 0)
    assert adapters.names(base) == []
    config = hf.MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4)
    base = Base(hf.MambaForCausalLM(config), tiny.tokenizer(), "mamba")
    with pytest.raises(ModelError, match=r"its blocks .MambaBlock: norm, mixer. are built in a way"):
        adapters.attach(base, "a", adapters.Method("pfeiffer"), 0)


@pytest.mark.parametrize("change, why", [
    ({"kind": "compacter"}, "not of Tunesmith's bottleneck layers"),
    ({"width": 0}, "not of Tunesmith's bottleneck layers"),
    ({"reduction": 16}, "not of Tunesmith's bottleneck layers"),
    ({"width": 9}, "down.bias has shape .8., the base takes .9."),
    ({"kind": "pfeiffer"}, "no place for"),
])
def test_a_folder_of_something_else_is_refused(saved, tmp_path, change, why):
    base = bases.load(str(saved["llama"]))
    adapters.attach(base, "a", adapters.Method("houlsby", bottleneck=8), 0)
    adapters.save(base, "a", tmp_path)
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**said, **change}))
    with pytest.raises(ModelError, match=why):
        adapters.load(base, "b", tmp_path)
    assert adapters.names(base) == ["a"]
