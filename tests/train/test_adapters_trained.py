"""Every trainer takes every adapter: what is recorded, what is refused, and resuming is bit-equal."""

import json

import pytest
import test_resume as resuming
from lab import weights
from tiny import METHODS

from tunesmith import settings
from tunesmith.errors import ModelError, SettingsError
from tunesmith.model import adapters
from tunesmith.train import dpo, full, grpo, memory, ppo, reward, sft

SIZES = {"lora": ("rank", "alpha"), "dora": ("rank", "alpha"), "houlsby": ("bottleneck",), "pfeiffer": ("bottleneck",),
         "parallel": ("bottleneck",), "prefix": ("virtual_tokens",), "prompt": ("virtual_tokens",)}


def options(name):
    """A method of tests/model/test_methods.py as settings of a trainer."""
    how = METHODS[name]
    sizes = {k: getattr(how, k) for k in SIZES.get(how.kind, ())}
    return {"adapter": how.kind, **({"rslora": True} if how.rslora else {}), **sizes}


def plain(lab, **changes):
    """The laboratory's settings for SFT, without its LoRA sizes."""
    given = dict(data="demos", name="m", lr=1e-2, batch=4, checkpoint_every=2, epochs=0.25)
    return settings.SftSettings(**{**given, **changes})


@pytest.mark.parametrize("name", ["dora", "ia3", "houlsby", *(pytest.param(name, marks=pytest.mark.slow) for name in (
    "usual", "rslora", "pfeiffer", "parallel", "prefix", "prompt"))])
def test_sft_stopped_and_resumed_equals_uninterrupted_bit_for_bit(lab, name):
    """And the manifest says what was trained, of how much, and how it was made."""
    chosen = plain(lab, **options(name))
    whole = sft.train(lab.workspace, lab.base(), chosen)
    with pytest.raises(resuming.Killed):
        sft.train(lab.workspace, lab.base(), chosen, progress=resuming.kill_at(3))
    again = sft.train(lab.workspace, lab.base(), chosen, resume=resuming.newest(lab))
    assert weights(again) == weights(whole)
    summary = lab.workspace.run(whole.lineage["run"]).summary
    base = lab.base()
    adapters.load(base, "made", whole.path)
    trained = sum(p.numel() for p in adapters.parameters(base, "made").values())
    assert summary["trained_parameters"] == trained > 0
    assert summary["parameters"] == trained + sum(p.numel() for p in lab.base().model.parameters())
    about = adapters.described(whole.path)
    assert {k: v for k, v in options(name).items() if k != "adapter"} == {
        k: getattr(about, k) for k in options(name) if k != "adapter"} and about.kind == options(name)["adapter"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dora", "ia3", "houlsby", "prefix"])
def test_reward_ppo_dpo_and_grpo_resume_bit_for_bit_with_other_methods_than_lora(lab, name):
    """One of each kind: a policy and a reward model of it, and PPO's reference and value function copied from them."""
    sft.train(lab.workspace, lab.base(), plain(lab, **options(name)))
    judge = lab.reward(name="judge", model="m")
    trainers = {
        "reward": lambda **how: reward.train(lab.workspace, lab.base(), judge, lab.groups, **how),
        "ppo": lambda **how: ppo.train(lab.workspace, lab.base(), lab.ppo(policy="m", reward="judge"), **how),
        "dpo": lambda **how: dpo.train(lab.workspace, lab.base(), lab.prefer("dpo", policy="m", epochs=0.5),
                                       lab.groups, **how),
        "grpo": lambda **how: grpo.train(lab.workspace, lab.base(), lab.prefer("grpo", policy="m"), **how)}
    for trainer, train in trainers.items():
        whole = train()
        with pytest.raises(resuming.Killed):
            train(progress=resuming.kill_at(3))
        assert weights(train(resume=resuming.newest(lab))) == weights(whole), trainer
        assert adapters.described(whole.path).kind == METHODS[name].kind
    assert weights(whole) != weights(lab.workspace.adapter("m"))


def test_ppo_with_bottleneck_layers_resumes_bit_for_bit(lab):
    """The policy of one method, its reference a copy, the reward model of another."""
    sft.train(lab.workspace, lab.base(), plain(lab, **options("pfeiffer")))
    whole = ppo.train(lab.workspace, lab.base(), lab.ppo(policy="m"))
    with pytest.raises(resuming.Killed):
        ppo.train(lab.workspace, lab.base(), lab.ppo(policy="m"), progress=resuming.kill_at(3))
    again = ppo.train(lab.workspace, lab.base(), lab.ppo(policy="m"), resume=resuming.newest(lab))
    assert weights(again) == weights(whole) != weights(lab.workspace.adapter("m"))


@pytest.mark.parametrize("changes", [{"rank": 8}, {"alpha": 16}, {"rslora": True}, {"adapter": "dora"},
                                     {"targets": ("q_proj",)}, {"adapter": "ia3"}])
def test_what_differs_from_the_parent_is_refused(lab, changes):
    """It used to be recorded and ignored."""
    key, value = list(changes.items())[-1]
    with pytest.raises(ModelError, match=f"sft@1 has --{key} .* cannot have {value if key != 'targets' else 'q_proj'}"):
        sft.train(lab.workspace, lab.base(), plain(lab, after="sft", **changes))
    with pytest.raises(ModelError, match=f"sft@1 has --{key} "):
        reward.train(lab.workspace, lab.base(), lab.reward(**changes), lab.groups)


def test_the_parent_s_sizes_are_recorded(lab):
    """Not this command's defaults; naming them as they are is no mistake."""
    for given in ({}, {"rank": 4, "alpha": 8.0}):
        made = sft.train(lab.workspace, lab.base(), plain(lab, after="sft", **given))
        recorded = made.lineage["settings"]
        assert (recorded["adapter"], recorded["rank"], recorded["alpha"]) == ("lora", 4, 8)
        assert sorted(recorded["targets"]) == sorted(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                                                      "down_proj"])
    sft.train(lab.workspace, lab.base(), plain(lab, **options("houlsby")))
    made = sft.train(lab.workspace, lab.base(), plain(lab, after="m", name="n"))
    recorded = made.lineage["settings"]
    assert (recorded["adapter"], recorded["bottleneck"], recorded["rank"]) == ("houlsby", 8, 16)


def test_a_run_recorded_otherwise_can_still_be_resumed(lab):
    """Runs from before that check carry sizes that were never used."""
    chosen = plain(lab, after="sft")
    with pytest.raises(resuming.Killed):
        sft.train(lab.workspace, lab.base(), chosen, progress=resuming.kill_at(3))
    old = settings.SftSettings(**{**chosen.model_dump(), "rank": 16, "alpha": 32})
    sft.train(lab.workspace, lab.base(), old, resume=resuming.newest(lab))


@pytest.mark.parametrize("given, wrong", [
    ({"adapter": "ia3", "rank": 8}, "--rank is for --adapter lora or dora or full, not for ia3"),
    ({"adapter": "houlsby", "targets": ("q_proj",)}, "--targets is for --adapter lora or dora or ia3 or full, not for"),
    ({"bottleneck": 8}, "--bottleneck is for --adapter houlsby or pfeiffer or parallel, not for lora"),
    ({"adapter": "dora", "virtual_tokens": 8}, "--virtual-tokens is for --adapter prefix or prompt, not for dora"),
])
def test_a_size_that_the_adapter_would_not_heed_is_a_mistake(given, wrong):
    with pytest.raises(SettingsError, match=wrong):
        settings.SftSettings.load({"data": "d", "name": "n", **given})


def test_every_kind_of_the_settings_is_one_of_the_model_s():
    kinds = settings.Lora.model_fields["adapter"].annotation.__args__
    assert set(kinds) == {*adapters.PEFT_TYPE, "full"} == set(memory.RATES)
    for kind in kinds:
        assert full.method(settings.Lora(adapter=kind)).kind == (kind if kind != "full" else "lora")


def test_a_full_model_and_a_head_count_as_trained(lab):
    base = lab.base()
    everything = sum(p.numel() for p in base.model.parameters())
    made = sft.train(lab.workspace, base, plain(lab, adapter="full", lr=1e-3))
    summary = lab.workspace.run(made.lineage["run"]).summary
    assert summary["trained_parameters"] == summary["parameters"] == everything
    judge = reward.train(lab.workspace, lab.base(), lab.reward(), lab.groups)
    policy = json.loads((judge.path / "adapter_config.json").read_text())
    summary = lab.workspace.run(judge.lineage["run"]).summary
    head = base.width + 1
    lora = 4 * sum(a + b for a, b in tiny_shapes(lab.base()))
    assert policy["r"] == 4 and summary["trained_parameters"] == head + lora
    assert summary["parameters"] == everything + head + lora


def tiny_shapes(base):
    """(in, out) of every linear layer of the blocks."""
    return [m.weight.shape for m in base.model.model.layers.modules() if hasattr(m, "weight") and m.weight.ndim == 2]
