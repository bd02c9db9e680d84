"""Supervised fine-tuning against the plain model's own likelihood."""

import math

import pytest
import tiny
import torch
from lab import ask, weights

from tunesmith.contracts import Sampling
from tunesmith.errors import DataError, UserError
from tunesmith.model import adapters
from tunesmith.model.engine import LocalEngine
from tunesmith.records import Demonstration, Message
from tunesmith.train import sft
from tunesmith.train.learner import Learner, indices


def demo(*turns, **kw):
    return Demonstration(tuple(Message(*t) for t in turns), **kw)


DEMOS = [demo(("user", "a"), ("assistant", "yes")),
         demo(("user", "b"), ("assistant", "skipped", 0), ("user", "c"), ("assistant", "no no")),
         demo(("user", "long " * 5), ("assistant", "half", 0.5), ("user", "d"), ("assistant", "whole"))]


def prepare(lab, dtype=None):
    base = lab.base(dtype)
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    tiny.shake(base, "policy", size=0.1)
    parameters = adapters.trainable(base, "policy")
    return base, Learner(parameters, 10, 1e-3), parameters


def gradient(parameters):
    found = torch.cat([p.grad.flatten() for p in parameters.values()])
    for p in parameters.values():
        p.grad = None
    return found


@pytest.fixture
def exact(monkeypatch):
    """`losses.sft` in whatever precision it gets, for comparisons beyond float32."""
    from tunesmith.ops import logprobs
    monkeypatch.setattr(logprobs, "chosen", lambda logits, target, temperature=1.0: (
        logits / temperature).log_softmax(-1).gather(-1, target[:, None])[:, 0])


@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_the_loss_is_the_weighted_nll_of_the_assistant_turns(lab, layout):
    """Checklists 2, 4 and 32, by hand from one plain forward pass per conversation."""
    base, learner, _ = prepare(lab)
    trees, _ = sft.encode(base, DEMOS, 256)
    metrics = sft.forward_backward(base, learner, trees, layout)
    nll = total = 0.0
    for d in DEMOS:
        rendered = base.chat.render(d.messages)
        with adapters.active(base, "policy"), torch.no_grad():
            logp = base.model(input_ids=torch.tensor([rendered.tokens])).logits[0].log_softmax(-1)
        for i, (token, weight) in enumerate(zip(rendered.tokens, rendered.weight)):
            if weight:
                nll -= weight * float(logp[i - 1, token])
                total += weight
    assert total == 4 + 6 + 0.5 * 5 + 6
    assert metrics["loss"] == pytest.approx(nll / total, abs=1e-5)


def test_micro_batches_and_layouts_give_the_gradient_of_one_big_batch(lab, monkeypatch, exact):
    """Checklists 32 and 37: normalised by the step's tokens; RMSNorm's own float32 limits the layouts to 1e-6."""
    base, learner, parameters = prepare(lab, torch.float64)
    trees, _ = sft.encode(base, DEMOS * 2, 256)
    sft.forward_backward(base, learner, trees)
    whole = gradient(parameters)
    sft.forward_backward(base, learner, trees, "padded")
    assert (gradient(parameters) - whole).abs().max() < 1e-6
    for budget in (1, 60):
        learner.budget = budget
        sft.forward_backward(base, learner, trees)
        assert (gradient(parameters) - whole).abs().max() < 1e-10
    assert whole.abs().max() > 1e-3


def test_encode_counts_what_it_leaves_out(lab):
    """Checklist 5: over-long samples are counted and reported, never silently dropped."""
    base = lab.base()
    rows = [*DEMOS, demo(("user", "x" * 300), ("assistant", "y")),
            demo(("user", "p"), ("assistant", "q"), review="pending")]
    trees, skipped = sft.encode(base, rows, 256)
    assert len(trees) == 3 and skipped == {"too long": 1, "not accepted": 1}
    with pytest.raises(UserError, match="no demonstration is left"):
        sft.encode(base, rows[3:], 256)
    with pytest.raises(DataError, match="demonstration 2: no assistant turn"):
        sft.encode(base, [rows[0], demo(("user", "x"))], 256)


def test_training_learns_counts_its_steps_and_reports_the_skipped(lab):
    """Checklists 5 and 30: ceil(rows x epochs / batch) optimizer steps, the short last one included."""
    rows = [demo(("user", f"write {i}"), ("assistant", "abab")) for i in range(25)]
    lab.workspace.add_dataset("abab", "demonstrations", [*rows, demo(("user", "x" * 300), ("assistant", "y"))])
    seen = []
    adapter = sft.train(lab.workspace, lab.base(), lab.sft(data="abab", batch=8, epochs=6, lr=2e-2),
                        progress=lambda done, of, m: seen.append((done, of, m["loss"])))
    run = lab.workspace.run(adapter.lineage["run"])
    assert [s[:2] for s in seen] == [(i, 19) for i in range(1, 20)]
    assert len(run.metrics()) == 19 == math.ceil(25 * 6 / 8)
    assert run.summary["skipped"] == {"too long": 1} and run.summary["rows"] == 25 and run.status == "finished"
    assert seen[-1][2] < 0.5 * seen[0][2]
    engine = LocalEngine(lab.base())
    engine.load("m", adapter.path)
    answers = engine.sample([ask(i) for i in range(100, 116)], Sampling(8, temperature=0), model="m")
    assert sum(a[0].text == "abab" for a in answers) >= 12


def test_the_same_seed_gives_the_same_adapter_bit_for_bit(lab):
    """Checklist 35."""
    found = [weights(sft.train(lab.workspace, lab.base(), lab.sft(seed=seed))) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_training_after_an_adapter_starts_from_its_weights(lab):
    """The first loss is the parent's, and the parent stays as it was."""
    base = prepare(lab)[0]
    adapters.load(base, "policy", lab.workspace.adapter("sft").path)
    settings = lab.sft(after="sft")
    trees, _ = sft.encode(base, list(lab.workspace.dataset("demos").rows()), 256)
    first = [trees[i] for i in indices(len(trees), settings.seed, 0, settings.batch)]
    want = sft.forward_backward(base, Learner(adapters.trainable(base, "policy"), 1, 1e-3), first)["loss"]
    before = weights(lab.workspace.adapter("sft"))
    fresh, after = (lab.workspace.run(sft.train(lab.workspace, lab.base(), lab.sft(after=a)).lineage["run"]).metrics()
                    for a in ("", "sft"))
    assert after[0]["loss"] == pytest.approx(want, abs=1e-6) != pytest.approx(fresh[0]["loss"], abs=1e-3)
    assert weights(lab.workspace.adapter("sft")) == before
    assert lab.workspace.adapter("m").lineage["parents"] == {"after": "sft@1"}


def test_two_runs_may_share_a_resident_base(lab):
    """A second training on the same base starts from its own fresh adapter, not from what the first one left."""
    base = lab.base()
    first = weights(sft.train(lab.workspace, base, lab.sft()))
    assert weights(sft.train(lab.workspace, base, lab.sft())) == first


def test_scale_multiplies_the_gradient(lab):
    """Checklist 36: what PPO-ptx adds is coefficient x NLL."""
    base, learner, parameters = prepare(lab)
    trees, _ = sft.encode(base, DEMOS, 256)
    sft.forward_backward(base, learner, trees)
    one = gradient(parameters)
    sft.forward_backward(base, learner, trees, "tree", 3.0)
    assert torch.allclose(gradient(parameters), 3 * one, rtol=1e-4, atol=1e-6)
