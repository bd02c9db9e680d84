"""Kahneman-Tversky optimisation: single answers marked good or bad -> a better policy; no pairs are needed.

Rankings are taken too: answers that win more than they lose are good, those that lose more are bad, the middle is left
out. As in `dpo` the reference's log-probs are computed once.
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
from tunesmith.feedback.groups import pairs
from tunesmith.model import adapters
from tunesmith.model.base import Base
from tunesmith.model.batch import Tree, build, hidden
from tunesmith.ops import logprobs, preferences
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
    """The judged answers to one prompt: `good[k]` is answer k's thumb; `other` is an answer to another prompt.

    `reference` holds the reference's summed log-prob of each answer, and of `other` last.
    """

    good: tuple[bool, ...] = ()
    other: tuple[int, ...] = ()
    reference: references.Sums = ()

    @property
    def mismatch(self) -> Tree:
        """The prompt with the answer that is not its own."""
        return Tree(self.tree.prompt, (self.other,))

    @property
    def whole(self) -> Tree:
        """The prompt with all answers that `reference` is about."""
        return Tree(self.tree.prompt, (*self.tree.answers, self.other))


def train(workspace: Workspace, base: Base, settings: PreferSettings, groups: Sequence[AnswerGroup], *,
          about: Mapping[str, Any] | None = None, resume: Run | None = None,
          progress: Progress | None = None) -> Adapter:
    """Make good answers likelier and bad ones less likely, against where `settings.policy` stood.

    Raises:
        UserError: no usable answer, or all to one prompt.
        TrainingStopped: NaN or exploding loss.
    """
    start = workspace.adapter(settings.policy)
    adapters.load(base, "policy", start.path)
    items, skipped = encode(base, groups, min(settings.longest or base.context, adapters.room(base, "policy")))
    weights = adapters.trainable(base, "policy")
    settings = settle(settings, base, "policy", resume)
    size = len(divide(items, settings.held_out)[0])
    steps = math.ceil(size * settings.epochs / settings.batch)
    learner = Learner.of(weights, steps, settings)
    data = fingerprint([[i.group.id, i.weight, list(i.tree.answers), list(i.good)] for i in items])
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
        looked_at = [] if known else [i.whole for i in items]
        items = ([replace(i, reference=r) for i, r in zip(items, known, strict=True)] if known else
                 reference(base, items, settings))
        train_items, held_out = divide(items, settings.held_out)
        marks = [mark for i in train_items for mark in i.good]
        run.summary = {"groups": len(train_items), "held_out_groups": len(held_out), "good": sum(marks),
                       "bad": len(marks) - sum(marks), "skipped": skipped,
                       **(about or {})}

        def publish(step: int = 0) -> Adapter:
            return run.publish(settings.name, "policy", base, lambda folder: adapters.save(base, "policy", folder),
                               {settings.comparisons: data}, {"policy": str(start)}, step)

        run.publish_every(settings.snapshots, publish)
        for step in range(first, steps):
            chosen = [train_items[i]
                      for i in indices(len(train_items), settings.seed, step * settings.batch, settings.batch)]
            metrics = {**forward_backward(base, learner, chosen, settings), **learner.step()}
            looked_at += [i.mismatch for i in chosen]
            run.end_step(step + 1, metrics, save, references.work([i.tree for i in chosen], looked_at))
            looked_at = []
        run.summary |= {"held_out": assess(base, held_out, settings)}
        return publish()


def encode(base: Base, groups: Sequence[AnswerGroup], longest: int) -> tuple[list[Item], dict[str, int]]:
    """Groups as items (without their reference yet), and how many were left out for which reason.

    Raises:
        UserError: nothing is left, or there is only one prompt.
    """
    found, skipped = reward.encode(base, groups, longest)
    items, rated = [], reward.rated(groups)
    for i in found:
        if marks := thumbs(i.group, rated):
            tree = Tree(i.tree.prompt, tuple(i.tree.answers[k] for k in marks))
            items.append(Item(tree, i.group, (), tuple(marks.values())))
    if len(items) < len(found):
        skipped["neither good nor bad"] = len(found) - len(items)
    if (prompts := len({i.tree.prompt for i in items})) < 2:
        raise UserError("KTO sets each prompt against an answer to another one, so it needs good or bad answers to two "
                        f"prompts or more; there are {prompts}: {skipped}")
    return [replace(i, other=_other(items, n, min(longest, base.context))) for n, i in enumerate(items)], skipped


def thumbs(group: AnswerGroup, rated: bool = False) -> dict[int, bool]:
    """Which answers are good (True) or bad: by their labels, unless these are ratings (`reward.rated`), else by whether
    they win or lose more comparisons. All 0 is "all bad" beside ratings too.
    """
    if group.labels and not (rated and any(group.labels)):
        return {k: x > 0.5 for k, x in enumerate(group.labels) if x != 0.5}
    won = [0.0] * len(group.answers)
    for p in pairs(group):
        won[p.better] += p.weight * (p.p - 0.5)
        won[p.worse] -= p.weight * (p.p - 0.5)
    return {k: x > 0 for k, x in enumerate(won) if abs(x) > 1e-9}


def _other(items: Sequence[Item], n: int, longest: int) -> tuple[int, ...]:
    """The next item's answer that belongs to another prompt, cut to what fits behind this one."""
    prompt = items[n].tree.prompt
    following = (items[(n + step) % len(items)] for step in range(1, len(items)))
    return next(i.tree.answers[0] for i in following if i.tree.prompt != prompt)[:longest - len(prompt)]


def reference(base: Base, items: Sequence[Item], settings: PreferSettings) -> list[Item]:
    """The items with the log-probs of adapter `policy` as it is now."""
    found = references.compute(base, "policy", [i.whole for i in items], settings.layout)
    return [replace(i, reference=sums) for i, sums in zip(items, found)]


def forward_backward(base: Base, learner: Learner, items: Sequence[Item], settings: PreferSettings) -> dict[str, float]:
    """Add the gradient of one optimizer step's loss, averaged over its answers. Items come from `reference`."""
    z0 = reference_point(base, items, settings)
    total = sum(i.weight * len(i.good) for i in items)
    metrics = []
    for part in micro_batches(base, [i.tree for i in items], learner.budget, settings.layout):
        chosen = [items[j] for j in part]
        batch = build([i.tree for i in chosen], base.device)
        with adapters.active(base, "policy"):
            states = hidden(base, batch, settings.layout, batch.source_N)
            logp_N = logprobs.from_hidden(states, base.head, batch.target_N)
            loss, m = _loss(batch.table(logp_N).sum(1), chosen, total, z0, settings)
            learner.backward(loss)
        metrics.append(m)
    summed = mean(metrics)
    right, count = summed.pop("right"), summed.pop("strict")
    return {**summed, "accuracy": right / count, "reference_point": float(z0)}


def reference_point(base: Base, items: Sequence[Item], settings: PreferSettings) -> Tensor:
    """z0 over the whole step, from one answer per prompt that is not its own."""
    logprobs_G = references.answer_sums(base, "policy", [i.mismatch for i in items], settings.layout)
    return preferences.kto_reference_point(logprobs_G, logprobs_G.new_tensor([i.reference[-1] for i in items]))


def _loss(logprobs_A: Tensor, items: Sequence[Item], total: float, z0: Tensor,
          settings: PreferSettings) -> tuple[Tensor, Metrics]:
    good_A = torch.tensor([mark for i in items for mark in i.good], device=logprobs_A.device)
    weight = {True: settings.desirable_weight, False: settings.undesirable_weight}
    weight_A = logprobs_A.new_tensor([weight[mark] * i.weight / total for i in items for mark in i.good])
    ratio_A = logprobs_A - logprobs_A.new_tensor([r for i in items for r in i.reference[:-1]])
    loss, metrics = preferences.kto(ratio_A, good_A, weight_A, settings.beta, z0)
    return loss, metrics | preferences.agreement(ratio_A.detach() - z0, good_A.to(ratio_A))


def assess(base: Base, items: Sequence[Item], settings: PreferSettings) -> dict[str, Any]:
    """How often an answer's implicit reward is on its thumb's side of the reference point, with a Wilson interval."""
    if not items:
        return {}
    z0 = reference_point(base, items, settings)
    logprobs_A = references.answer_sums(base, "policy", [i.tree for i in items], settings.layout)
    ratio_A = logprobs_A - logprobs_A.new_tensor([r for i in items for r in i.reference[:-1]])
    found = preferences.agreement(ratio_A - z0, ratio_A.new_tensor([mark for i in items for mark in i.good]))
    n = int(found["strict"])
    return {"answers": n, "accuracy": wilson(float(found["right"]), n).to_dict(), "reference_point": float(z0)}
