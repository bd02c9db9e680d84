"""Full fine-tuning: the base's own weights learn, and what comes out is a base that everything else starts from."""

import json
from contextlib import contextmanager

import pytest
import torch
from lab import ask
from safetensors.torch import load_file
from test_sft import DEMOS
from transformers import AutoModelForCausalLM

from tunesmith import evaluation, rounds
from tunesmith.contracts import Sampling
from tunesmith.errors import ModelError, UserError
from tunesmith.model import adapters, heads
from tunesmith.model.engine import LocalEngine
from tunesmith.settings import CollectSettings, EvaluateSettings
from tunesmith.shop import Shop, judge
from tunesmith.train import full, ppo, reward, sft
from tunesmith.train.learner import Learner


@pytest.fixture
def shop(lab):
    @contextmanager
    def silent(step):
        yield lambda *_: None

    return Shop(lab.workspace, silent)


def trained(lab, **changes):
    """(the published model, the base it came from as it was)"""
    before = lab.base()
    adapter = sft.train(lab.workspace, lab.base(), lab.sft(adapter="full", name="whole", lr=1e-2, epochs=1, **changes))
    return adapter, before


def logits(model, tokens):
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits[0]


def test_every_weight_gets_the_gradient_of_the_plain_likelihood(lab):
    """Embeddings, norms and the tied output layer too, through chunks and the tree layout."""
    base = lab.base()
    trees, _ = sft.encode(base, DEMOS, 256)
    parameters = full.trainable(base)
    assert len(parameters) == len(list(base.model.parameters()))
    sft.forward_backward(base, Learner(parameters, 1, 1e-3, budget=60), trees, slot="")
    found = {name: p.grad.clone() for name, p in parameters.items()}
    base.model.zero_grad()
    total = sum(w for t in trees for w in t.weights[0])
    for t in trees:
        tokens = [*t.prompt, *t.answers[0]]
        logp = base.model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
        for i, (token, weight) in enumerate(zip(t.answers[0], t.weights[0]), len(t.prompt)):
            if weight:
                (-weight / total * logp[i - 1, token]).backward(retain_graph=True)
    for name, p in parameters.items():
        assert torch.allclose(found[name], p.grad, rtol=1e-3, atol=1e-6), name
        assert p.grad.abs().max() > 1e-6, name


def test_what_is_published_is_a_base_that_transformers_loads(lab, shop):
    adapter, before = trained(lab)
    folder = adapter.path / "model"
    plain = AutoModelForCausalLM.from_pretrained(folder)
    base = shop.base_of("whole")
    tokens = base.chat.prompt(ask(0))
    assert torch.allclose(logits(plain, tokens), logits(base.model, tokens), atol=1e-5)
    assert (logits(base.model, tokens) - logits(before.model, tokens)).abs().max() > 0.1
    assert adapter.base["kind"] == "full" and adapter.base["spec"] == base.spec == "whole@1"
    assert adapter.base["hash"] == base.hash != before.hash == adapter.base["from"]["hash"]
    assert shop.base(str(folder)).hash == base.hash
    with pytest.raises(UserError, match="sft@1 is an adapter; its base is"):
        shop.base("sft@1")


@pytest.mark.parametrize(("kind", "stored"), [("full", torch.float32), ("lora", torch.bfloat16)])
def test_a_step_loads_its_base_in_the_precision_asked_for(lab, shop, monkeypatch, kind, stored):
    """Weights that are trained stay fp32; a frozen base is bf16 altogether."""
    bases = []
    load = Shop.base
    monkeypatch.setattr(Shop, "base", lambda *a: bases.append(load(*a)) or bases[-1])
    adapter = rounds.sft(shop, lab.sft(base=str(lab.model), adapter=kind, precision="bf16"))
    assert lab.workspace.run(adapter.lineage["run"]).settings["precision"] == bases[0].precision == "bf16"
    assert bases[0].model.dtype == stored


def test_the_adapter_beside_it_changes_nothing_yet(lab, shop):
    """So that whatever starts from an adapter may start from a full model."""
    adapter, _ = trained(lab)
    base = shop.base_of("whole")
    tokens = base.chat.prompt(ask(0))
    bare = logits(base.model, tokens)
    adapters.load(base, "policy", adapter.path)
    with adapters.active(base, "policy"):
        assert torch.equal(logits(base.model, tokens), bare)


def test_from_full_model_to_answers_reward_model_ppo_and_report(lab, shop):
    """The reward model and the policy are LoRA adapters on the new base; the report knows both bases."""
    trained(lab)
    collected = CollectSettings(model="whole", prompts="prompts", name="set", limit=3, max_tokens=4)
    assert rounds.collect(shop, collected) == 3
    judge = reward.train(lab.workspace, shop.base_of("whole"), lab.reward(model="whole", name="judge"), lab.groups)
    policy = ppo.train(lab.workspace, shop.base_of("whole"), lab.ppo(policy="whole", reward="judge", updates=1))
    assert policy.base["spec"] == judge.base["spec"] == "whole@1" and "kind" not in policy.base
    settings = EvaluateSettings(models=("whole",), against=("base", "sft"), prompts="prompts", judge="judge", limit=4,
                                max_tokens=4)
    prompts = list(lab.workspace.dataset("prompts").rows())[:4]
    drawn = evaluation.answers(shop, settings, prompts)
    sampling = Sampling(4, settings.temperature, seed=settings.seed)
    for name, base in (("whole", shop.base_of("whole")), ("base", lab.base())):
        want = LocalEngine(base).sample([p.messages for p in prompts], sampling)
        assert [a.tokens for a in drawn[name]] == [a[0].tokens for a in want]
    assert list(drawn) == ["base", "sft", "whole"] and drawn["whole"] != drawn["base"]
    kl = evaluation.divergence(shop, "whole", prompts, drawn["whole"], 1.0)
    assert sum(kl) > 0.1


def test_a_reward_model_may_be_trained_in_full(lab, shop):
    base = lab.base()
    adapter = reward.train(lab.workspace, base, lab.reward(model="", adapter="full", name="rm", lr=3e-3, epochs=2),
                           lab.groups)
    assert lab.workspace.run(adapter.lineage["run"]).summary["train"]["accuracy"]["value"] > 0.75
    scorer = judge(shop, "rm").scorer
    fresh = shop.base_of("rm")
    states = fresh.trunk(input_ids=torch.tensor([[*fresh.chat.prompt(ask(0)), *fresh.chat.answer("aa")]]))
    want = heads.load(adapter.path, fresh.device)(states.last_hidden_state[0, -1])
    prompt = lab.groups[0].prompt
    assert prompt.messages == ask(0)
    assert scorer.score(prompt, ["aa"])[0] == pytest.approx(float(want.detach()), abs=1e-4)


def test_one_full_training_may_follow_another_but_not_an_adapter(lab, shop):
    trained(lab)
    again = sft.train(lab.workspace, shop.base_of("whole"), lab.sft(adapter="full", after="whole", name="again"))
    assert again.base["from"]["spec"] == "whole@1" and again.lineage["parents"] == {"after": "whole@1"}
    with pytest.raises(ModelError, match="sft@1 is an adapter, and --adapter full trains a base"):
        sft.train(lab.workspace, lab.base(), lab.sft(adapter="full", after="sft"))


def test_a_base_in_use_or_in_bf16_is_not_trained(lab):
    base = lab.base()
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    with pytest.raises(ModelError, match="carries adapters"):
        full.trainable(base)
    with pytest.raises(ModelError, match="too coarse"):
        full.trainable(lab.base(torch.bfloat16))


def test_learning_rate_follows_what_is_trained_unless_given(lab):
    found = []
    for changes in ({"adapter": "full", "lr": 0}, {"lr": 0}, {"adapter": "full", "lr": 3e-3}):
        adapter = sft.train(lab.workspace, lab.base(), lab.sft(**changes))
        found.append(lab.workspace.run(adapter.lineage["run"]).settings["lr"])
    assert found == [1e-4, 1e-3, 3e-3]


def test_products_in_bf16_learn_what_those_in_fp32_do_and_keep_fp32_weights(lab):
    curves = []
    for compute in (None, torch.bfloat16):
        base = lab.base()
        base.compute = compute
        adapter = sft.train(lab.workspace, base, lab.sft(adapter="full", lr=3e-3, epochs=1))
        run = lab.workspace.run(adapter.lineage["run"])
        curves.append([m["loss"] for m in run.metrics()])
        assert run.settings["precision"] == ("bf16" if compute else "fp32")
    assert base.model.dtype == torch.float32
    assert curves[0] != curves[1] == pytest.approx(curves[0], rel=0.03)


def test_one_base_has_one_hash_in_either_precision(lab):
    base, coarse = lab.base(), lab.base(torch.bfloat16)
    assert base.hash == coarse.hash
    with torch.no_grad():
        base.model.get_input_embeddings().weight[3, 4] += 1.0
    base.became("another")
    assert base.hash != coarse.hash


@pytest.mark.parametrize("changes", [{}, {"checkpoint_activations": True}, {"optimizer": "adamw8bit"}])
@pytest.mark.parametrize("command", ["sft", "reward"])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(lab, command, changes):
    """Checklist 38, for every weight of the base, and its moments in 32 or in 8 bits."""
    if changes.get("optimizer"):
        pytest.importorskip("bitsandbytes")

    def run(**how):
        if command == "sft":
            return sft.train(lab.workspace, lab.base(), lab.sft(adapter="full", **changes), **how)
        settings = lab.reward(adapter="full", model="", **changes)
        return reward.train(lab.workspace, lab.base(), settings, lab.groups, **how)

    def kill(done, total, metrics):
        if done == 3:
            raise KeyboardInterrupt

    def tensors(adapter):
        return [load_file(f) for f in sorted(adapter.path.rglob("*.safetensors"))]

    whole = tensors(run())
    with pytest.raises(KeyboardInterrupt):
        run(progress=kill)
    again = tensors(run(resume=max(lab.workspace.runs(), key=lambda r: r.created)))
    assert len(whole) == len(again) == (2 if command == "sft" else 3)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(whole, again) for k in a)


def test_an_adapter_on_a_full_model_has_the_rank_that_was_asked_for(lab, shop):
    """The adapter beside the model changes nothing; its rank must not bind whoever starts from the model."""
    trained(lab)
    made = reward.train(lab.workspace, shop.base_of("whole"), lab.reward(model="whole", rank=3, alpha=5), lab.groups)
    config = json.loads((made.path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 5)
    assert (made.lineage["settings"]["rank"], made.lineage["settings"]["alpha"]) == (3, 5)
