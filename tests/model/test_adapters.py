"""Adapters: off means the base, what is saved is what PEFT reads and what another process gets back, bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tunesmith.errors import ModelError
from tunesmith.model import adapters, heads
from tunesmith.model import base as bases
from tunesmith.model.scorer import RewardModel
from tunesmith.records import Message, Prompt

IDS = torch.tensor([[5, 6, 7, 8, 9]])
PROMPT = Prompt((Message("user", "hello there"),))
ANSWERS = ("yes", "no, not at all", "")


def states(base):
    with torch.no_grad():
        return base.trunk(input_ids=IDS).last_hidden_state


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_adapters_off_equal_the_base_exactly(saved, architecture):
    """Checklist 18, second half: bit for bit, with strong adapters attached, before and after using them."""
    base = bases.load(str(saved[architecture]))
    bare = states(base)
    for i, name in enumerate(("policy", "reward")):
        adapters.attach(base, name, adapters.Method(rank=4, alpha=8), seed=i)
        tiny.shake(base, name, seed=i)
    with adapters.active(base, ""):
        assert torch.equal(states(base), bare)
    with adapters.active(base, "policy"):
        policy = states(base)
    with adapters.active(base, "reward"):
        reward = states(base)
    with adapters.active(base, ""):
        assert torch.equal(states(base), bare)
    with adapters.active(base, "policy"):
        assert torch.equal(states(base), policy)
    assert (policy - bare).abs().max() > 0.01 and (policy - reward).abs().max() > 0.01


def test_a_fresh_adapter_changes_nothing_and_its_seed_decides_its_weights(saved):
    weights = []
    for seed in (3, 3, 4):
        base = bases.load(str(saved["llama"]))
        bare = states(base)
        adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), seed)
        with adapters.active(base, "policy"):
            assert torch.equal(states(base), bare)
        weights.append(torch.cat([p.flatten() for p in adapters.parameters(base, "policy").values()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_lora_is_on_every_linear_layer_of_the_blocks_and_nowhere_else(base):
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    modules = {key.split(".lora_")[0].split(".", 2)[-1] for key in adapters.parameters(base, "policy")}
    linear = {f"{block}.{part}" for block in ("0", "1") for part in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
        "mlp.down_proj")}
    assert modules == linear


def test_roles_nest_and_survive_exceptions(base):
    for i, name in enumerate(("policy", "reward")):
        adapters.attach(base, name, adapters.Method(rank=4, alpha=8), i)
        tiny.shake(base, name, seed=i)
    with adapters.active(base, "reward"):
        reward = states(base)
    with adapters.active(base, "policy"):
        policy = states(base)
        with adapters.active(base, "reward"):
            assert torch.equal(states(base), reward)
        assert torch.equal(states(base), policy)
        with pytest.raises(RuntimeError), adapters.active(base, ""):
            raise RuntimeError
        assert torch.equal(states(base), policy)
    with adapters.active(base, "reward"):
        assert torch.equal(states(base), reward)


def test_only_the_active_adapter_gets_a_gradient(base):
    """Attaching, switching or removing another role in between must not switch its gradients off."""
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    tiny.shake(base, "policy")
    weights = adapters.trainable(base, "policy")
    with adapters.active(base, "policy"):
        pass
    adapters.attach(base, "reward", adapters.Method(rank=4, alpha=8), 1)
    adapters.copy(base, "policy", "reference")
    for name in ("reward", "reference", ""):
        with adapters.active(base, name), torch.no_grad():
            states(base)
    adapters.remove(base, "reward")
    with adapters.active(base, "policy"):
        base.trunk(input_ids=IDS).last_hidden_state.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in weights.values())
    others = [p for n, p in base.model.named_parameters() if ".policy." not in n]
    assert others and all(p.grad is None for p in others)


def test_a_copy_shares_nothing_with_its_source(base):
    """Checklist 18: the reference is frozen whatever happens to the policy."""
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    tiny.shake(base, "policy", 1)
    adapters.copy(base, "policy", "reference")
    with adapters.active(base, "policy"):
        start = states(base)
    tiny.shake(base, "policy", 2)
    with adapters.active(base, "reference"):
        assert torch.equal(states(base), start)
    with adapters.active(base, "policy"):
        assert not torch.equal(states(base), start)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_the_saved_directory_is_plain_peft(saved, tmp_path, architecture):
    base = bases.load(str(saved[architecture]))
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    tiny.shake(base, "policy")
    adapters.save(base, "policy", tmp_path)
    with adapters.active(base, "policy"), torch.no_grad():
        ours = base.logits(base.trunk(input_ids=IDS).last_hidden_state)
    plain = AutoModelForCausalLM.from_pretrained(saved[architecture], attn_implementation="sdpa")
    with torch.no_grad():
        bare = plain(input_ids=IDS).logits
        theirs = PeftModel.from_pretrained(plain, str(tmp_path)).eval()(input_ids=IDS).logits
    assert torch.allclose(ours, theirs, atol=1e-5) and (theirs - bare).abs().max() > 0.1
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["inference_mode"] and config["base_model_name_or_path"] == str(saved[architecture])


ELSEWHERE = """
import json, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tunesmith.model import adapters
from tunesmith.model import base as bases
from tunesmith.model.scorer import RewardModel
from tunesmith.records import Message, Prompt

base = bases.load(sys.argv[1])
model = RewardModel.load(base, Path(sys.argv[2]))
scores = model.score(Prompt((Message("user", "hello there"),)), ("yes", "no, not at all", ""))
adapters.load(base, "policy", Path(sys.argv[2]))
with adapters.active(base, "policy"), torch.no_grad():
    states = base.trunk(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).last_hidden_state
print(json.dumps([[s.hex() for s in scores], [x.hex() for x in states.flatten().tolist()]]))
"""


def test_a_new_process_gets_bit_equal_scores_and_hidden_states(saved, tmp_path):
    """Checklist 11: adapter, head, gain and bias all travel."""
    base = bases.load(str(saved["llama"]))
    adapters.attach(base, "reward", adapters.Method(rank=4, alpha=8), 0)
    tiny.shake(base, "reward")
    head = heads.ScalarHead(base.width, torch.Generator().manual_seed(5))
    model = RewardModel(base, "reward", head)
    head.normalize(torch.tensor(model.score(PROMPT, ("a", "bb", "ccc"))))
    adapters.save(base, "reward", tmp_path)
    head.save(tmp_path)
    scores = model.score(PROMPT, ANSWERS)
    with adapters.active(base, "reward"):
        mine = states(base).flatten().tolist()
    command = [sys.executable, "-c", ELSEWHERE, str(saved["llama"]), str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True,
                         check=True, cwd=Path(__file__).parents[2])
    assert json.loads(out.stdout.splitlines()[-1]) == [[s.hex() for s in scores], [x.hex() for x in mine]]
    assert len(set(scores)) == 3


def test_dropout_of_a_foreign_adapter_stays_off(base, tmp_path):
    """Checklist 13."""
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    tiny.shake(base, "policy")
    adapters.save(base, "policy", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "lora_dropout": 0.5}))
    adapters.load(base, "foreign", tmp_path)
    assert any(getattr(m, "p", 0) == 0.5 for m in base.model.modules()) and not any(
        m.training for m in base.model.modules())
    with adapters.active(base, "foreign"):
        assert torch.equal(states(base), states(base))


def test_an_adapter_that_does_not_fit_is_refused(saved, tmp_path):
    """Checklist 11: a lost weight would silently leave a random one in its place."""
    base = bases.load(str(saved["llama"]))
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    adapters.save(base, "policy", tmp_path)
    whole = load_file(tmp_path / adapters.WEIGHTS)
    first = sorted(whole)[0]
    with pytest.raises(ModelError, match="does not fit"):
        adapters.load(bases.load(str(saved["gpt2"])), "policy", tmp_path)
    save_file({k: v for k, v in whole.items() if k != first}, tmp_path / adapters.WEIGHTS)
    with pytest.raises(ModelError, match="lacks weights"):
        adapters.load(bases.load(str(saved["llama"])), "policy", tmp_path)
    save_file({**whole, first.replace("layers.0", "layers.9"): whole[first].clone()}, tmp_path / adapters.WEIGHTS)
    with pytest.raises(ModelError, match="no place for"):
        adapters.load(bases.load(str(saved["llama"])), "policy", tmp_path)
    (tmp_path / adapters.WEIGHTS).write_bytes(b"\x00" * 20)
    with pytest.raises(ModelError, match="does not fit"):
        adapters.load(bases.load(str(saved["llama"])), "policy", tmp_path)


def test_an_unknown_role_is_refused(base):
    with pytest.raises(ModelError, match='"policy" is not attached'), adapters.active(base, "policy"):
        pass
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    with pytest.raises(ModelError, match='"value" is not attached'), adapters.active(base, "value"):
        pass


def foreign(saved, folder, **options):
    """A PEFT adapter made elsewhere, all of whose weights matter."""
    plain = AutoModelForCausalLM.from_pretrained(saved["llama"])
    options = {"r": 4, "target_modules": ["q_proj", "v_proj"], **options}
    made = get_peft_model(plain, LoraConfig(**options))
    torch.manual_seed(3)
    with torch.no_grad():
        for p in made.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn_like(p))
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("options, why", [
    ({"modules_to_save": ["norm"]}, "modules_to_save"),
    ({"trainable_token_indices": [5, 6]}, "trainable_token_indices"),
    ({"target_parameters": ["mlp.down_proj.weight"]}, "target_parameters"),
    ({"bias": "all"}, "bias=.all."),
    ({"init_lora_weights": "pissa"}, "init_lora_weights=.pissa."),
    ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens, a Embedding"),
])
@pytest.mark.filterwarnings("ignore")
def test_what_no_role_could_switch_off_is_refused(saved, tmp_path, options, why):
    """It would stay on for the bare base and every other adapter."""
    base = bases.load(str(saved["llama"]))
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    bare = states(base)
    with pytest.raises(ModelError, match=why):
        adapters.load(base, "x", foreign(saved, tmp_path, **options))
    assert torch.equal(states(base), bare) and adapters.names(base) == ["policy"]


def test_another_kind_of_adapter_is_refused(saved, base, tmp_path):
    plain = AutoModelForCausalLM.from_pretrained(saved["llama"])
    get_peft_model(plain, VeraConfig(target_modules=["k_proj"], r=2)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="type VERA"):
        adapters.load(base, "x", tmp_path)


def test_a_failed_load_leaves_no_empty_adapter(saved, tmp_path):
    """B = 0 under the name would be the bare base."""
    base = bases.load(str(saved["llama"]))
    adapters.load(base, "x", foreign(saved, tmp_path))
    with adapters.active(base, "x"):
        before = states(base)
    whole = {k: v.clone() for k, v in load_file(tmp_path / adapters.WEIGHTS).items()}  # the file is mapped
    (tmp_path / adapters.WEIGHTS).write_bytes(b"\x00" * 20)
    with pytest.raises(ModelError, match="does not fit"):
        adapters.load(base, "x", tmp_path)
    with adapters.active(base, "x"):
        assert torch.equal(states(base), before)
    for damaged in (dict(list(whole.items())[1:]), {**whole, "base_model.other.weight": torch.zeros(1)},
                    {k: v[:1].contiguous() for k, v in whole.items()}):
        save_file(damaged, tmp_path / adapters.WEIGHTS)
        with pytest.raises(ModelError):
            adapters.load(base, "x", tmp_path)
        assert adapters.names(base) == []


def test_weights_of_the_base_that_learn_go_on_learning(base):
    """PEFT renames them on the way."""
    weight = base.model.model.layers[0].self_attn.q_proj.weight.requires_grad_(True)
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    assert weight.requires_grad and sum(p.requires_grad for p in base.model.parameters()) == 1


@pytest.mark.parametrize("name", ["mlp", "layers", "base_layer"])
def test_an_adapter_may_be_called_like_a_part_of_the_base(base, name):
    adapters.attach(base, name, adapters.Method(rank=4, alpha=8), 0)
    chosen = adapters.parameters(base, name)
    assert len(chosen) == 2 * 7 * 2 and all("lora_" in key for key in chosen)
