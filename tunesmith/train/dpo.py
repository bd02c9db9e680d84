"""Direct preference optimisation: ranked answer groups -> a better policy, without a reward model.

All pairs of a ranking are learned from one pass over its answers. The reference is the policy as it was at the start:
what it thought of each answer is computed once, before training, and only sums are kept. Left out: online DPO.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.contracts import Progress
from tunesmith.errors import UserError
from tunesmith.model import adapters
from tunesmith.model.base import Base
from tunesmith.model.batch import build, hidden
from tunesmith.ops import logprobs, losses, preferences
from tunesmith.ops.losses import Metrics
from tunesmith.records import AnswerGroup, fingerprint
from tunesmith.settings import PreferSettings
from tunesmith.statistics import wilson
from tunesmith.store.workspace import Adapter, Run, Workspace
from tunesmith.train import references, reward
from tunesmith.train.learner import Learner, indices, mean
from tunesmith.train.memory import micro_batches, settle
from tunesmith.train.reward import divide
from tunesmith.train.session import session


@dataclass(frozen=True, slots=True)
class Item(reward.Item):
    """One group, ready to learn from, with the reference's log-prob of each answer, summed over its tokens."""

    reference: references.Sums = ()


def train(workspace: Workspace, base: Base, settings: PreferSettings, groups: Sequence[AnswerGroup], *,
          unseen: Sequence[AnswerGroup] = (), about: Mapping[str, Any] | None = None, resume: Run | None = None,
          progress: Progress | None = None) -> Adapter:
    """Make better answers likelier than worse ones, against where `settings.policy` stood; held-out prompts measure it.

    `unseen` are measured too, on the way.

    Raises:
        UserError: no usable group.
        TrainingStopped: NaN or exploding loss.
    """
    start = workspace.adapter(settings.policy)
    adapters.load(base, "policy", start.path)
    longest = min(settings.longest or base.context, adapters.room(base, "policy"))
    items, skipped = encode(base, groups, longest)
    learned = len(items)
    items += encode(base, unseen, longest)[0] if unseen else []
    weights = adapters.trainable(base, "policy")
    settings = settle(settings, base, "policy", resume)
    size = len(divide(items[:learned], settings.held_out)[0])
    steps = math.ceil(size * settings.epochs / settings.batch)
    learner = Learner.of(weights, steps, settings)
    data = fingerprint([[i.group.id, i.weight, [p.to_dict() for p in i.pairs]] for i in items])
    inputs = {"comparisons": data, "policy": str(start), "base": base.hash}
    with session(workspace, base, "prefer", settings, inputs, steps, resume, progress, learner) as run:
        known: list[references.Sums] = []

        def load(folder: Path) -> None:
            learner.load(folder, "policy")
            known.extend(references.load(folder))

        def save(folder: Path) -> None:
            learner.save(folder, "policy")
            references.save([i.reference for i in items], folder)

        first = run.resume(load)
        looked_at = [] if known or settings.reference_free else [i.tree for i in items]
        items = ([replace(i, reference=r) for i, r in zip(items, known, strict=True)] if known else
                 reference(base, items, settings))
        (train_items, held_out), measured = divide(items[:learned], settings.held_out), items[learned:]
        run.summary = {"groups": len(train_items), "held_out_groups": len(held_out), "skipped": skipped,
                       **(about or {})}

        def publish(step: int = 0) -> Adapter:
            return run.publish(settings.name, "policy", base, lambda folder: adapters.save(base, "policy", folder),
                               dict.fromkeys((settings.comparisons, *settings.judged), data), {"policy": str(start)},
                               step)

        run.publish_every(settings.snapshots, publish)
        for step in range(first, steps):
            chosen = [train_items[i]
                      for i in indices(len(train_items), settings.seed, step * settings.batch, settings.batch)]
            metrics = {**forward_backward(base, learner, chosen, settings), **learner.step()}
            if measured and ((step + 1) % math.ceil(steps / 10) == 0 or step + 1 == steps):
                found = assess(base, measured, settings)
                metrics |= {"valid_loss": found["loss"], "valid_accuracy": found["accuracy"]["value"]}
            run.end_step(step + 1, metrics, save, references.work([i.tree for i in chosen], looked_at))
            looked_at = []
        run.summary |= {"held_out": assess(base, held_out, settings)}
        return publish()


def encode(base: Base, groups: Sequence[AnswerGroup], longest: int) -> tuple[list[Item], dict[str, int]]:
    """Groups as items (without their reference yet), and how many were left out for which reason.

    Raises:
        UserError: nothing is left.
    """
    found, skipped = reward.encode(base, groups, longest)
    items = [Item(i.tree, i.group, i.pairs) for i in found if i.pairs]
    if not items:
        raise UserError("DPO learns from comparisons, and these are thumbs; use --method kto")
    if thumbs := len(found) - len(items):
        skipped["a thumb, no comparison"] = thumbs
    return items, skipped


def reference(base: Base, items: Sequence[Item], settings: PreferSettings) -> list[Item]:
    """The items with the log-probs of adapter `policy` as it is now; zeros where `settings` want no reference."""
    if settings.reference_free:
        return [replace(i, reference=(0.0,) * len(i.tree.answers)) for i in items]
    found = references.compute(base, "policy", [i.tree for i in items], settings.layout)
    return [replace(i, reference=sums) for i, sums in zip(items, found)]


def forward_backward(base: Base, learner: Learner, items: Sequence[Item], settings: PreferSettings) -> dict[str, float]:
    """Add the gradient of one optimizer step's loss, averaged over its groups. Items come from `reference`."""
    total = sum(i.weight for i in items)
    metrics = []
    for part in micro_batches(base, [i.tree for i in items], learner.budget, settings.layout):
        chosen = [items[j] for j in part]
        batch = build([i.tree for i in chosen], base.device)
        with adapters.active(base, "policy"):
            states = hidden(base, batch, settings.layout, batch.source_N)
            logp_N = logprobs.from_hidden(states, base.head, batch.target_N)
            loss, m = _loss(batch.table(logp_N).sum(1), chosen, total, settings)
            learner.backward(loss)
        metrics.append(m)
    summed = mean(metrics)
    right, strict = summed.pop("right"), summed.pop("strict")
    return {**summed, **({"accuracy": right / strict} if strict else {})}


def _loss(logprobs_A: Tensor, items: Sequence[Item], total: float,
          settings: PreferSettings) -> tuple[Tensor, Metrics]:
    table = Pairs.of(items, total, logprobs_A)
    rewards_A, margin_P = table.rewards(logprobs_A, settings)
    if settings.loss == "ipo":
        loss, metrics = preferences.ipo(margin_P, table.p_P, table.weight_P, settings.beta)
    else:
        corrected = preferences.unbiased if settings.loss == "robust" else preferences.smoothed
        loss, metrics = preferences.dpo(margin_P, corrected(table.p_P, settings.label_smoothing), table.weight_P)
    metrics |= preferences.agreement(margin_P, table.p_P)
    with torch.no_grad():  # a soft pair may say that its second answer is the better one
        metrics["margin"] = (table.weight_P * torch.where(table.p_P < 0.5, -margin_P, margin_P)).sum()
        chosen_P = torch.where(table.p_P < 0.5, table.worse_P, table.better_P)
        metrics["chosen_reward"] = (table.weight_P * rewards_A[chosen_P]).sum()
    if settings.sft_coef:
        shares = [i.weight / total / len(top) if k in top else 0.0
                  for i in items for top in [best(i)] for k in range(len(i.tree.answers))]
        nll, _ = losses.sft(logprobs_A / table.length_A, logprobs_A.new_tensor(shares), 1.0)
        loss, metrics["nll"] = loss + settings.sft_coef * nll, nll.detach()
    return loss, metrics


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of some items, as indices into their answers; `weight_P` holds each pair's share of the step."""

    better_P: Tensor
    worse_P: Tensor
    p_P: Tensor
    weight_P: Tensor
    reference_A: Tensor
    length_A: Tensor

    @classmethod
    def of(cls, items: Sequence[Item], total: float, like: Tensor) -> Pairs:
        """On the device of `like` and in its precision; `total` is the sum of the step's group weights."""
        rows = []
        offset = 0
        for item in items:
            share = item.weight / total / sum(q.weight for q in item.pairs)
            rows += [(offset + q.better, offset + q.worse, q.p, q.weight * share) for q in item.pairs]
            offset += len(item.tree.answers)
        better, worse, p, weight = zip(*rows)
        return cls(torch.tensor(better, device=like.device), torch.tensor(worse, device=like.device),
                   like.new_tensor(p), like.new_tensor(weight),
                   like.new_tensor([r for i in items for r in i.reference]),
                   like.new_tensor([len(a) for i in items for a in i.tree.answers]))

    def rewards(self, logprobs_A: Tensor, settings: PreferSettings) -> tuple[Tensor, Tensor]:
        """(implicit rewards [A], margins [P])"""
        length_A = self.length_A if settings.per_token else None
        rewards_A = preferences.implicit_rewards(logprobs_A, self.reference_A, settings.beta, length_A)
        return rewards_A, rewards_A[self.better_P] - rewards_A[self.worse_P]


def best(item: Item) -> set[int]:
    """The answers that were preferred to another and that no other was preferred to."""
    strict = [(p.better, p.worse) if p.p > 0.5 else (p.worse, p.better) for p in item.pairs if p.p != 0.5]
    return {b for b, _ in strict} - {w for _, w in strict}


def assess(base: Base, items: Sequence[Item], settings: PreferSettings) -> dict[str, Any]:
    """How often the policy's implicit reward orders strict pairs as their labels do, with a Wilson interval."""
    if not items:
        return {}
    logprobs_A = references.answer_sums(base, "policy", [i.tree for i in items], settings.layout)
    table = Pairs.of(items, len(items), logprobs_A)
    _, margin_P = table.rewards(logprobs_A, settings)
    found = preferences.agreement(margin_P, table.p_P)
    n = int(found["strict"])
    margin = torch.where(table.p_P < 0.5, -margin_P, margin_P).mean()
    return {"pairs": n, "accuracy": wilson(float(found["right"]), n).to_dict(), "margin": float(margin),
            "loss": float(_loss(logprobs_A, items, sum(i.weight for i in items), settings)[0])}
