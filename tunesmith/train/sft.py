"""Supervised fine-tuning: demonstrations -> adapter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tunesmith.contracts import Progress
from tunesmith.data.mixture import Mixture
from tunesmith.errors import DataError, UserError
from tunesmith.model import adapters
from tunesmith.model.base import Base
from tunesmith.model.batch import Layout, Tree, build, hidden
from tunesmith.model.machine import passes
from tunesmith.ops import logprobs, losses
from tunesmith.records import Demonstration
from tunesmith.settings import SftSettings
from tunesmith.store.workspace import Adapter, Dataset, Run, Workspace
from tunesmith.train import full, stages
from tunesmith.train.learner import Learner, mean
from tunesmith.train.material import Material, Mixed, Shuffled, cut
from tunesmith.train.memory import micro_batches, settle
from tunesmith.train.session import dataset, session


def train(workspace: Workspace, base: Base, settings: SftSettings, *, resume: Run | None = None,
          progress: Progress | None = None) -> Adapter:
    """Learn to continue the demonstrations' prompts as their assistant turns do.

    Raises:
        UserError: the data is something else, or holds no usable demonstration.
        TrainingStopped: NaN or exploding loss.
    """
    data = dataset(workspace, settings.data, "demonstrations")
    parent = workspace.adapter(settings.after) if settings.after else None
    settings = full.inherit(settings, parent, resume)
    slot, weights, stay = stages.start(base, "policy", settings, parent)
    longest = min(settings.max_tokens or base.context, adapters.room(base, slot))
    material, rows, skipped = _material(workspace, base, data, longest, settings.seed)
    valid = dataset(workspace, settings.valid, "demonstrations") if settings.valid else None
    unseen = encode(base, list(valid.rows()), longest)[0] if valid else []
    replay = [dataset(workspace, name, "demonstrations") for name in settings.replay]
    old = Shuffled([t for d in replay for t in encode(base, list(d.rows()), longest)[0]], settings.seed + 1)
    settings = settle(settings, base, slot, resume)
    fresh = settings.batch - stages.replayed(settings)
    steps = math.ceil(len(material) * settings.epochs / fresh)
    learner = Learner.of(weights, steps, settings)
    inputs = {"data": data.fingerprint, "base": base.hash, **({"after": str(parent)} if parent else {}),
              **({"valid": valid.fingerprint} if valid else {}),
              **{f"replay {d.name}": d.fingerprint for d in replay}}
    with session(workspace, base, "sft", settings, inputs, steps, resume, progress, learner) as run:
        run.summary = {"rows": rows, "skipped": skipped}

        def publish(step: int = 0) -> Adapter:
            if isinstance(material, Mixed):
                run.summary["drawn"] = material.drawn((step or steps) * fresh)
            return run.publish(settings.name, "policy", base, full.finish(base, slot, settings),
                               {d.name: d.fingerprint for d in (data, *replay)},
                               {"after": str(parent)} if parent else {}, step)

        if slot:
            run.publish_every(settings.snapshots, publish)
        for step in range(run.resume(lambda folder: learner.load(folder, "policy")), steps):
            chosen = stages.mixed(material, old, step, settings)
            metrics = {**forward_backward(base, learner, chosen, settings.layout, slot=slot, stay=stay),
                       **learner.step()}
            if unseen and due(step + 1, steps, settings):
                metrics |= assess(base, unseen, learner.budget, settings.layout, slot)
            run.end_step(step + 1, metrics, lambda folder: learner.save(folder, "policy"),
                         passes(chosen, forward=int(stay.kl > 0), forward_logits=int(stay.kl > 0), trained=1,
                                trained_logits=1))
        return publish()


def _material(workspace: Workspace, base: Base, data: Dataset, longest: int,
              seed: int) -> tuple[Material[Tree], int, dict[str, int]]:
    """What to learn from, how many conversations it holds, and what was left out."""
    if mixture := Mixture.of(data):
        tokens = cut(workspace, base, data, mixture, longest)
        return Mixed(mixture, tokens, seed), len(tokens), tokens.skipped
    trees, skipped = encode(base, list(data.rows()), longest)
    return Shuffled(trees, seed), len(trees), skipped


def due(step: int, steps: int, settings: SftSettings) -> bool:
    """Whether to measure after step number `step` (from 1): now and then, at the end, and with every version."""
    every = settings.valid_every or math.ceil(steps / 10)
    return step % every == 0 or step == steps or bool(settings.snapshots and step % settings.snapshots == 0)


def forward_backward(base: Base, learner: Learner, trees: Sequence[Tree], layout: Layout = "tree",
                     scale: float = 1.0, slot: str = "policy", stay: stages.Stay = stages.FREE) -> dict[str, float]:
    """Add the gradient of `scale` x the mean negative log-likelihood of these trees' learned tokens.

    `slot` is the adapter that learns, "" the base itself; `stay` is what keeps it near where it started.
    """
    weights = [w for t in trees for ws in t.weights for w in ws if w]
    metrics = []
    for part in micro_batches(base, trees, learner.budget, layout):
        batch = build([trees[i] for i in part], base.device)
        with adapters.active(base, slot):
            learned = batch.weight_N > 0
            states = hidden(base, batch, layout, batch.source_N[learned])
            logp_N, right_N = logprobs.judged(states, base.head, batch.target_N[learned])
            loss, m = losses.sft(logp_N, batch.weight_N[learned], sum(weights))
            if stay.kl:
                with torch.no_grad(), adapters.active(base, stay.before):
                    before = hidden(base, batch, layout, batch.source_N[learned])
                kl = logprobs.kl_from_hidden(before, states, base.head).sum() / len(weights)
                loss, m = loss + stay.kl * kl, {**m, "kl_to_start": kl.detach()}
            learner.backward(loss * scale)
        metrics.append({**m, "token_accuracy": right_N.sum() / len(weights)})
    found = mean(metrics)
    if stay.orthogonal:
        overlap = stages.overlap(base, slot, stay.frozen)
        learner.backward(stay.orthogonal * scale * overlap)
        found["overlap"] = float(overlap.detach())
    return found


@torch.no_grad()
def assess(base: Base, trees: Sequence[Tree], budget: int, layout: Layout = "tree",
           slot: str = "policy") -> dict[str, float]:
    """Loss per learned token of conversations that nothing was learned from, and how often the likeliest was right."""
    loss = right = total = count = 0.0
    for part in micro_batches(base, trees, budget, layout):
        batch = build([trees[i] for i in part], base.device)
        with adapters.active(base, slot):
            learned = batch.weight_N > 0
            states = hidden(base, batch, layout, batch.source_N[learned])
            logp_N, right_N = logprobs.judged(states, base.head, batch.target_N[learned])
            weight_N = batch.weight_N[learned]
        loss -= float((weight_N * logp_N).sum())
        right, total, count = right + float(right_N.sum()), total + float(weight_N.sum()), count + len(right_N)
    return {"valid_loss": loss / total, "valid_token_accuracy": right / count}


def encode(base: Base, rows: Sequence[Demonstration], longest: int) -> tuple[list[Tree], dict[str, int]]:
    """Demonstrations as trees of one answer, and how many were left out for which reason."""
    trees = []
    skipped = {"not accepted": 0, "too long": 0}
    for i, row in enumerate(rows):
        if row.review != "accepted":
            skipped["not accepted"] += 1
            continue
        try:
            rendered = base.chat.render(row.messages)
        except DataError as e:
            raise DataError(f"demonstration {i + 1}: {e}") from e
        if len(rendered.tokens) > min(longest, base.context):
            skipped["too long"] += 1
            continue
        first = max(1, next(j for j, w in enumerate(rendered.weight) if w))
        trees.append(Tree(rendered.tokens[:first], (rendered.tokens[first:],), (rendered.weight[first:],)))
    if not trees:
        raise UserError(f"no demonstration is left to learn from: {skipped}")
    return trees, {k: v for k, v in skipped.items() if v}


