"""`docs/ppo_by_hand.py` runs, learns, and computes what `train.ppo` computes from the same numbers."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tunesmith.contracts import Sampling
from tunesmith.model import adapters
from tunesmith.train import ppo
from tunesmith.train.rollouts import collect


@pytest.fixture(scope="module")
def by_hand():
    """The document as a module."""
    path = Path(__file__).parents[2] / "docs" / "ppo_by_hand.py"
    spec = importlib.util.spec_from_file_location("ppo_by_hand", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_document_runs_and_its_reward_rises(by_hand, capsys):
    """Checklist 40: from one letter in ten to most of them, KL rising from exactly 0."""
    history = by_hand.main(updates=12)
    assert history[0][0] < 0.15 and history[0][1] == 0.0
    assert history[-1][0] > 0.5 and history[-1][1] > 1.0
    assert "update   1  reward 0.0" in capsys.readouterr().out
    assert len((Path(by_hand.__file__)).read_text().splitlines()) < 180


def prepare(lab, **changes):
    base = lab.base()
    settings = lab.ppo(warmup=0.0, weight_decay=0.0, updates=1, **changes)
    roles = ppo.attach(base, lab.workspace.adapter("sft").path, lab.workspace.adapter("likes-a").path, settings)
    for learner in (roles.policy_learner, roles.value_learner):
        learner.decay = False
    prompts = [base.chat.prompt(p.messages) for p in lab.workspace.dataset("prompts").rows()][:settings.episodes]
    rollouts = collect(roles.engine, prompts, roles.reward, roles.value, Sampling(settings.max_tokens), version=0)
    return base, roles, rollouts, settings


def test_credit_equals_the_document(lab, by_hand):
    """The oracle, first half: advantages, returns and KL of the same rollouts, to 1e-6."""
    _, _, r, settings = prepare(lab, episodes=12)
    reference_BT = r.reference_BT - 0.3 * torch.rand(r.reference_BT.shape)  # as if the policy had moved
    moved = ppo.Rollouts(r.trees, r.finished_B, 0, r.mask_BT, r.logprobs_BT, reference_BT, r.values_BT, r.scores_B)
    table, reported = ppo.credit(moved, 0.07, settings)
    page = by_hand.Rollout(r.mask_BT, r.finished_B, r.logprobs_BT, reference_BT, r.values_BT, r.scores_B)
    advantages_BT, returns_BT, kl = by_hand.credit(page, 0.07)
    assert (table.advantages_BT - advantages_BT).abs().max() < 1e-6
    assert (table.returns_BT - returns_BT).abs().max() < 1e-6
    assert reported["kl"] == pytest.approx(kl, abs=1e-6) and kl > 0.1


def test_a_whole_update_equals_the_document(lab, by_hand):
    """The oracle, second half: two epochs of three minibatches end at the same policy and value weights, to 1e-6.

    The document computes each minibatch in one piece from plain rows of the transformers model. Steps are plain SGD
    in both, because Adam would blow rounding in the tiniest gradients up to whole steps.
    """
    base, roles, r, settings = prepare(lab, episodes=12, epochs=2, minibatches=3, max_grad_norm=by_hand.MAX_NORM,
                                       lr=0.1, value_lr=0.1, clip=by_hand.CLIP, value_clip=by_hand.VALUE_CLIP)
    table, _ = ppo.credit(r, 0.07, settings)
    learners = (roles.policy_learner, roles.value_learner)
    for learner in learners:
        learner.optimizer = torch.optim.SGD(learner.parameters.values(), lr=0.1)
    start = [{k: p.detach().clone() for k, p in x.parameters.items()} for x in learners]
    order = list(ppo.minibatches(12, settings.minibatches, settings.epochs, ppo.update_seed(settings.seed, 0)))
    for rows in order:
        ppo.forward_backward(base, roles, r, table, rows, settings)
        for learner in learners:
            learner.step()
    ours = [{k: p.detach().clone() for k, p in x.parameters.items()} for x in learners]
    with torch.no_grad():
        for learner, weights in zip(learners, start):
            for k, p in learner.parameters.items():
                p.copy_(weights[k])

    width = r.mask_BT.shape[1]

    def tables(rows, slot, read):
        out = []
        for i in rows:
            tree = r.trees[i]
            n = len(tree.answers[0])
            with adapters.active(base, slot):
                result = base.model(input_ids=torch.tensor([[*tree.prompt, *tree.answers[0]]]),
                                    output_hidden_states=True)
            places = slice(len(tree.prompt) - 1, len(tree.prompt) + n - 1)
            out.append(nn.functional.pad(read(result, places, torch.tensor(tree.answers[0])), (0, width - n)))
        for learner in learners:  # leaving a role switches its gradients off; here both losses share one backward
            for p in learner.parameters.values():
                p.requires_grad_(True)
        return torch.stack(out)

    def policy_logprobs(rows):
        return tables(rows, "policy", lambda result, places, answer: result.logits[0, places].log_softmax(-1).gather(
            1, answer[:, None])[:, 0])

    def values(rows):
        return tables(rows, "value", lambda result, places, _: roles.value.head(result.hidden_states[-1][0, places]))

    page = by_hand.Rollout(r.mask_BT, r.finished_B, r.logprobs_BT, r.reference_BT, r.values_BT, r.scores_B)
    advantages_BT, returns_BT, _ = by_hand.credit(page, 0.07)
    optimizers = [torch.optim.SGD(x.parameters.values(), lr=0.1) for x in learners]
    by_hand.learn(page, advantages_BT, returns_BT, order, policy_logprobs, values, optimizers)
    for learner, weights, before in zip(learners, ours, start):
        for k, p in learner.parameters.items():
            assert (p - weights[k]).abs().max() < 1e-6, k
        assert max(float((p - before[k]).abs().max()) for k, p in learner.parameters.items()) > 1e-3
