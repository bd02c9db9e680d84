"""Every trainer with prefix tuning and prompt tuning: as policy, as reward model, as value function."""

import math
import shutil

import pytest
from lab import Lab, weights
from test_resume import Killed, kill_at, newest, run

from tunesmith.contracts import Sampling
from tunesmith.errors import UserError
from tunesmith.model import adapters
from tunesmith.model.batch import Tree, build
from tunesmith.model.engine import LocalEngine
from tunesmith.model.scorer import RewardModel, token_logprobs
from tunesmith.records import Message, Prompt
from tunesmith.settings import RewardSettings, SftSettings
from tunesmith.train import sft

KINDS = ("prefix", "prompt")


def small(lab, kind):
    """The laboratory's small runs of that method."""
    how = dict(lr=2e-2, batch=4, checkpoint_every=2, adapter=kind, virtual_tokens=5, init_text="write abcd")
    lab.sft = lambda **more: SftSettings(**{**how, "data": "demos", "name": "m", "epochs": 0.25, **more})
    lab.reward = lambda **more: RewardSettings(**{**how, "comparisons": "groups", "name": "rm", "epochs": 0.3, **more})
    return lab


@pytest.fixture(scope="session")
def trained(prepared, tmp_path_factory):
    """By method: a workspace with a policy `v` of 5 virtual tokens and a reward model `vr` of 7."""
    folders = {}
    for kind in KINDS:
        folders[kind] = tmp_path_factory.mktemp(kind) / "ws"
        shutil.copytree(prepared.root, folders[kind])
        lab = small(Lab(folders[kind], prepared.model), kind)
        run(lab, "sft", {"name": "v", "epochs": 0.5})
        run(lab, "reward", {"virtual_tokens": 7, "name": "vr", "epochs": 0.6})
        lab.workspace.close()
    return folders


@pytest.fixture(params=KINDS)
def virtual(request, prepared, trained, tmp_path):
    """A private copy."""
    shutil.copytree(trained[request.param], tmp_path / "ws")
    lab = small(Lab(tmp_path / "ws", prepared.model), request.param)
    yield lab
    lab.workspace.close()


CASES = {
    "sft": ("sft", {}),
    "reward": ("reward", {}),
    "ppo, all virtual": ("ppo", {"policy": "v", "reward": "vr"}),
    "ppo, judged by LoRA": ("ppo", {"policy": "v", "value": "shared"}),
    "ppo of LoRA, judged by virtual tokens": ("ppo", {"reward": "vr"}),
    "dpo": ("prefer", {"method": "dpo", "policy": "v", "epochs": 0.5}),
    "kto": ("prefer", {"method": "kto", "policy": "v", "epochs": 0.5}),
    "grpo": ("prefer", {"method": "grpo", "policy": "v", "reward": "vr"}),
}
OFTEN = [("prefix", "ppo of LoRA, judged by virtual tokens"), ("prefix", "kto"), ("prompt", "reward"),
         ("prompt", "ppo, judged by LoRA")]
"""In every run of the tests; test_adapters_trained.py has more of prefix tuning."""


@pytest.mark.parametrize(("virtual", "case"), [
    pytest.param(kind, case, marks=[] if (kind, case) in OFTEN else pytest.mark.slow) for kind in KINDS
    for case in CASES], indirect=["virtual"])
def test_every_trainer_learns_and_resumes_bit_for_bit(virtual, case):
    """Stopped at step 3, one past the checkpoint of step 2. What is learned is the method's one tensor, and a head."""
    command, changes = CASES[case]
    whole = run(virtual, command, changes)
    lines = virtual.workspace.run(whole.lineage["run"]).metrics()
    assert len(lines) >= 4 and all(math.isfinite(m.get("loss", 0.0)) for m in lines)
    assert all(m["grad_norm"] > 0 for m in lines)
    with pytest.raises(Killed):
        run(virtual, command, changes, progress=kill_at(3))
    again = run(virtual, command, changes, resume=newest(virtual))
    assert weights(again) == weights(whole) and newest(virtual).metrics() == lines


def test_sft_lowers_the_loss_and_leaves_the_base_alone(virtual):
    """Batches of the same 16 demonstrations."""
    base = virtual.base()
    before = base.hash
    trained = run(virtual, "sft", {"lr": 3e-2, "epochs": 2, "batch": 16}, base=base)
    losses = [m["loss"] for m in virtual.workspace.run(trained.lineage["run"]).metrics()]
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])
    assert base.hash == before and all(p.grad is None for p in base.model.parameters())


@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_a_reward_model_scores_and_a_policy_writes_what_was_published(virtual, layout):
    """Both layouts score alike; sampled log-probs are those of a fresh pass."""
    base = virtual.base()
    model = RewardModel.load(base, virtual.workspace.adapter("vr").path)
    model.layout = layout
    scores = model.score(Prompt((Message("user", "write 1"),)), ("aaa", "dcd", "ab"))
    model.layout = "tree"
    assert scores == pytest.approx(model.score(Prompt((Message("user", "write 1"),)), ("aaa", "dcd", "ab")), abs=1e-4)
    assert len({round(s, 3) for s in scores}) == 3
    adapters.load(base, "policy", virtual.workspace.adapter("v").path)
    engine = LocalEngine(base, padded=layout == "padded")
    engine.use("policy", "policy")
    prompt = base.chat.prompt((Message("user", "write 1"),))
    ((tokens, logprobs),) = engine.generate([prompt], Sampling(8), [(1,)], model="policy")
    fresh = token_logprobs(base, "policy", build([Tree(tuple(prompt), (tuple(tokens),))]), layout=layout)
    assert logprobs == pytest.approx(fresh.tolist(), abs=1e-4)


def test_the_layouts_give_the_same_gradient(virtual):
    base = virtual.base()
    trees, _ = sft.encode(base, list(virtual.workspace.dataset("demos").rows())[:6], 256)
    adapters.load(base, "policy", virtual.workspace.adapter("v").path)
    (weight,) = adapters.trainable(base, "policy").values()
    found = []
    for layout in ("tree", "padded"):
        learner = sft.Learner({"weight": weight}, 1, 1e-3)
        sft.forward_backward(base, learner, trees, layout)
        found.append(weight.grad.clone())
        weight.grad = None
    assert float((found[0] - found[1]).abs().max() / found[0].abs().max()) < 1e-4


def test_what_is_too_long_with_virtual_tokens_is_left_out_and_said(virtual):
    """Demonstrations of 256 positions at most; with 230 virtual tokens nothing of these fits."""
    rows, chat = list(virtual.workspace.dataset("demos").rows()), virtual.base().chat
    lengths = sorted(len(chat.render(r.messages).tokens) for r in rows)
    room = lengths[len(lengths) // 2]
    trained = run(virtual, "sft", {"virtual_tokens": 256 - room})
    skipped = virtual.workspace.run(trained.lineage["run"]).summary["skipped"]
    assert skipped == {"too long": sum(n > room for n in lengths)} and skipped["too long"]
    with pytest.raises(UserError, match="no demonstration is left"):
        run(virtual, "sft", {"virtual_tokens": 250})
