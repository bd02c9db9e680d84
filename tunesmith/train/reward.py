"""Reward modelling: ranked answer groups -> an adapter with a scalar head.

All pairs of a prompt stay in one batch element and each answer is computed once. InstructGPT (arXiv 2203.02155, section
3.5) saw shuffled pairs overfit within an epoch; here they did in the second (docs/results/rankings.md), and cost K - 1
times as much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tunesmith.contracts import Progress
from tunesmith.errors import DataError, UserError
from tunesmith.feedback.consensus import is_held_out
from tunesmith.feedback.groups import pairs
from tunesmith.model import adapters, heads
from tunesmith.model.base import Base
from tunesmith.model.batch import Tree, build, hidden
from tunesmith.model.machine import passes
from tunesmith.model.scorer import RewardModel
from tunesmith.ops import losses
from tunesmith.records import AnswerGroup, Pair, fingerprint
from tunesmith.settings import RewardSettings
from tunesmith.statistics import auc, calibration, wilson
from tunesmith.store.workspace import Adapter, Run, Workspace
from tunesmith.train import full
from tunesmith.train.learner import Learner, indices, mean
from tunesmith.train.memory import micro_batches, settle
from tunesmith.train.session import session


@dataclass(frozen=True, slots=True)
class Item:
    """One group, ready to learn from: tokens, and either pairs or per-answer labels (or tiers for Plackett-Luce).

    `draws`: how often it counts in the bootstrap sample of each head; empty where there is one head.
    """

    tree: Tree
    group: AnswerGroup
    pairs: tuple[Pair, ...]
    draws: tuple[float, ...] = field(default=(), kw_only=True)

    @property
    def weight(self) -> float:
        return self.group.weight

    def weight_of(self, head: int) -> float:
        """Its weight in the loss of a head."""
        return self.weight * self.draws[head] if self.draws else self.weight


Kind = TypeVar("Kind", bound=Item)


def train(workspace: Workspace, base: Base, settings: RewardSettings, groups: Sequence[AnswerGroup], *,
          about: Mapping[str, Any] | None = None, resume: Run | None = None,
          progress: Progress | None = None) -> Adapter:
    """Learn a score whose differences explain the rankings; held-out prompts measure it.

    Raises:
        UserError: no usable group.
        TrainingStopped: NaN or exploding loss.
    """
    parent = workspace.adapter(settings.model) if settings.model else None
    settings = full.inherit(settings, parent, resume)
    slot, weights = full.start(base, "reward", settings, parent, head=False)
    items, skipped = encode(base, groups, min(settings.max_tokens or base.context, adapters.room(base, slot)))
    train_items, held_out = divide(items, settings.held_out)
    settings = settle(settings, base, slot, resume)
    head = heads.ScalarHead(base.width, torch.Generator().manual_seed(settings.seed), settings.heads).to(base.device)
    train_items = bootstrapped(train_items, settings.heads, settings.seed)
    steps = math.ceil(len(train_items) * settings.epochs / settings.batch)
    learner = Learner.of({**weights, **dict(head.linear.named_parameters("head"))}, steps, settings)
    data = fingerprint([[i.group.id, i.weight, [p.to_dict() for p in i.pairs], list(i.group.labels),
                         list(i.group.tiers) if settings.loss == "plackett-luce" else []] for i in items])
    inputs = {"comparisons": data, "base": base.hash, **({"model": str(parent)} if parent else {})}
    with session(workspace, base, "reward", settings, inputs, steps, resume, progress, learner) as run:
        run.summary = {"groups": len(train_items), "held_out_groups": len(held_out), "skipped": skipped,
                       **(about or {})}
        for step in range(run.resume(lambda folder: learner.load(folder, "reward")), steps):
            chosen = [train_items[i]
                      for i in indices(len(train_items), settings.seed, step * settings.batch, settings.batch)]
            metrics = {**forward_backward(base, head, learner, chosen, settings, slot), **learner.step()}
            run.end_step(step + 1, metrics, lambda folder: learner.save(folder, "reward"),
                         passes([i.tree for i in chosen], trained=1))
        model = RewardModel(base, slot, head, settings.layout)
        scores_AH = head.normalize(model.score_each([i.tree for i in train_items]))
        run.summary |= {"train": assess(model, train_items, scores_AH), "held_out": assess(model, held_out)}

        save = full.finish(base, slot, settings)

        def write(folder: Path) -> None:
            save(folder)
            head.save(folder)

        return run.publish(settings.name, "reward", base, write,
                           dict.fromkeys((settings.comparisons, *settings.judged), data),
                           {"model": str(parent)} if parent else {})


def forward_backward(base: Base, head: heads.ScalarHead, learner: Learner, items: Sequence[Item],
                     settings: RewardSettings, slot: str = "reward") -> dict[str, float]:
    """Add the gradient of one optimizer step's loss, averaged over its prompts, and over heads.

    `slot` is the adapter that learns, "" the base itself.
    """
    totals = [sum(i.weight_of(h) for i in items) for h in range(head.heads)]
    answers = sum(len(i.tree.answers) for i in items)
    metrics = []
    for part in micro_batches(base, [i.tree for i in items], learner.budget, settings.layout):
        chosen = [items[j] for j in part]
        batch = build([i.tree for i in chosen], base.device)
        with adapters.active(base, slot):
            rewards_AH = head.each(hidden(base, batch, settings.layout, batch.last_A))
            told = [_loss(rewards_AH[:, h], chosen, h, totals[h], answers, settings) for h in range(head.heads)]
            learner.backward(torch.stack([loss for loss, _ in told]).mean())
        metrics.append({key: torch.stack([m[key] for _, m in told]).double().mean() for key in told[0][1]})
    summed = mean(metrics)
    right, strict = summed.pop("right"), summed.pop("strict")
    return {**summed, **({"accuracy": right / strict} if strict else {})}


def _loss(rewards_A: Tensor, items: Sequence[Item], head: int, total: float, answers: int,
          settings: RewardSettings) -> tuple[Tensor, losses.Metrics]:
    """One head's loss. Rankings and thumbs may share a batch: each item adds the loss of its own kind."""
    offsets = np.cumsum([0] + [len(i.tree.answers) for i in items]).tolist()
    ranked = [(i, o) for i, o in zip(items, offsets) if i.pairs]
    thumbs = [(i, o) for i, o in zip(items, offsets) if not i.pairs]
    loss = rewards_A.new_zeros(())
    metrics = {"right": loss, "strict": loss}
    if thumbs:
        index = [o + k for i, o in thumbs for k in range(len(i.group.labels))]
        label_A = rewards_A.new_tensor([x for i, _ in thumbs for x in i.group.labels])
        weight_A = rewards_A.new_tensor([i.weight_of(head) / total / len(i.group.labels) for i, _ in thumbs
                                         for _ in i.group.labels])
        loss = loss + losses.labels(rewards_A[index], label_A, weight_A)[0]
    if ranked and settings.loss == "plackett-luce":
        order = [_order(i.group, o) for i, o in ranked]
        weight_G = rewards_A.new_tensor([i.weight_of(head) / total for i, _ in ranked])
        loss = loss + losses.plackett_luce(rewards_A, order, weight_G)[0]
    elif ranked:
        pair_loss, metrics = _pairs_loss(rewards_A, ranked, head, total, settings)
        loss = loss + pair_loss
    metrics = {**metrics, "loss": loss.detach()}
    return loss + settings.center * rewards_A.square().sum() / answers, metrics


def _pairs_loss(rewards_A: Tensor, ranked: Sequence[tuple[Item, int]], head: int, total: float,
                settings: RewardSettings) -> tuple[Tensor, losses.Metrics]:
    better, worse, p, weight = [], [], [], []
    for item, offset in ranked:
        share = item.weight_of(head) / total / sum(q.weight for q in item.pairs)
        for q in item.pairs:
            better.append(offset + q.better)
            worse.append(offset + q.worse)
            p.append(q.p)
            weight.append(q.weight * share)
    better_P, worse_P = (torch.tensor(x, device=rewards_A.device) for x in (better, worse))
    p_P = rewards_A.new_tensor(p)
    target_P = losses.with_noise(p_P, float(settings.label_smoothing), settings.loss == "robust")
    return losses.ranking_pairs(rewards_A, better_P, worse_P, target_P, rewards_A.new_tensor(weight),
                                settings.margin * (2 * p_P - 1))


def _order(group: AnswerGroup, offset: int) -> list[list[int]]:
    """Tiers as indices into the batch's rewards; unranked answers form a last tier of their own."""
    tiers = [list(t) for t in group.tiers]
    if not tiers:
        raise DataError("Plackett-Luce needs tiers; these comparisons hold soft pairs: use --loss pairs")
    rest = sorted(set(range(len(group.answers))) - {i for t in tiers for i in t})
    return [[offset + i for i in t] for t in [*tiers, *([rest] if rest else [])]]


def encode(base: Base, groups: Sequence[AnswerGroup], longest: int) -> tuple[list[Item], dict[str, int]]:
    """Groups as items, and how many were left out for which reason."""
    items, scaled = [], rated(groups)
    skipped = {"no preference in it": 0, "too long": 0}
    for group in groups:
        chosen = tuple(p for p in pairs(group) if p.weight > 0)
        thumbs = bool(group.labels) and not (scaled and any(group.labels) and len(group.answers) > 1)  # stars are none
        if group.weight <= 0 or not (chosen or thumbs):
            skipped["no preference in it"] += 1
            continue
        if not chosen and not all(0 <= x <= 1 for x in group.labels):
            raise DataError(f"the label of a single answer lies between 0 (bad) and 1 (good), not {group.labels[0]:g} "
                            f"(of {group.labeler or 'nobody named'}, group {group.id}); divide ratings by the best one")
        tree = Tree(tuple(base.chat.prompt(group.prompt.messages)),
                    tuple(tuple(base.chat.answer(a.text)) for a in group.answers))
        if len(tree.prompt) + max(map(len, tree.answers)) > min(longest, base.context):
            skipped["too long"] += 1
            continue
        items.append(Item(tree, group, chosen))
    if not items:
        raise UserError(f"no comparison is left to learn from: {skipped}")
    return items, {k: v for k, v in skipped.items() if v}


def rated(groups: Sequence[AnswerGroup]) -> bool:
    """Whether the labels are ratings on a scale of their own: then a 1 is no thumb up. Decided over all the data."""
    return any(not 0 <= x <= 1 for g in groups for x in g.labels)


def bootstrapped(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """The items with a bootstrap sample of its own for each of `count` heads, if there are several.

    The weights are exponential (the Bayesian bootstrap, Rubin 1981): no step is without an item for some head.
    """
    if count == 1:
        return list(items)
    draws_NH = np.random.default_rng((seed, 0)).exponential(size=(len(items), count))
    return [replace(item, draws=tuple(row)) for item, row in zip(items, draws_NH.tolist())]


def divide(items: Sequence[Kind], share: float) -> tuple[list[Kind], list[Kind]]:
    """(train, held-out): by a hash of the prompt, so a prompt is on one side whatever else is in the data."""
    out: tuple[list[Kind], list[Kind]] = ([], [])
    for item in items:
        out[is_held_out(item.group, share)].append(item)
    if not out[0]:
        raise UserError("every prompt fell into the held-out part; lower --held-out or bring more prompts")
    return out


def assess(model: RewardModel, items: Sequence[Item], scores_AH: Tensor | None = None) -> dict[str, Any]:
    """Accuracy on strict pairs with a Wilson interval, and calibration; where only thumbs tell answers apart, their
    AUC, if there are good and bad ones.

    Probabilities are those that the loss saw, before the scores were normalised (of several heads: those of their mean
    reward). `scores_AH` are the heads' scores of the items' answers, if they are known already.
    """
    if not items:
        return {}
    each_AH = model.score_each([i.tree for i in items]) if scores_AH is None else scores_AH
    each_AH = each_AH.reshape(len(each_AH), -1)
    scores = each_AH.mean(1).cpu().numpy()
    offsets = np.cumsum([0] + [len(i.tree.answers) for i in items])
    preferred = [(int(o) + p.better, int(o) + p.worse) for i, o in zip(items, offsets) for p in i.pairs if p.p > 0.5]
    if not preferred:
        thumbs = [(int(o) + k, x) for i, o in zip(items, offsets) if not i.pairs for k, x in enumerate(i.group.labels)]
        found = auc([scores[k] for k, _ in thumbs], [x > 0.5 for _, x in thumbs]) if thumbs else math.nan
        return {"labels": len(thumbs)} | ({} if math.isnan(found) else {"auc": found})
    better, worse = np.array(preferred).T
    names = np.array([fingerprint(a) for i in items for a in i.tree.answers])
    swap = names[better] > names[worse]  # an order that does not know the answer: files put the chosen one first
    first, second = np.where(swap, worse, better), np.where(swap, better, worse)
    raw = (each_AH / model.head.gain).mean(1).cpu().numpy()
    fit = calibration(1 / (1 + np.exp(raw[second] - raw[first])), ~swap)
    accuracy = wilson(int((scores[better] > scores[worse]).sum()), len(better))
    apart = {"disagreement": float(each_AH.std(1).mean())} if model.head.heads > 1 else {}
    return {"pairs": len(better), "accuracy": accuracy.to_dict(), "calibration_error": fit.ece, "brier": fit.brier,
            **apart, "calibration": [{"predicted": b.predicted, "observed": b.observed.to_dict()} for b in fit.bins]}
