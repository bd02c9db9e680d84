"""GRPO and RLOO: several answers per prompt, each judged against its siblings; no value function.

A prompt is computed once for its answers, when they are written, scored and learned from. Left out: dynamic sampling
(asking again until a group's rewards differ) and asynchronous rollouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.contracts import Monitor, Progress, Sampling
from tunesmith.model import adapters
from tunesmith.model.base import Base
from tunesmith.model.batch import Batch, Tree, build, hidden, split
from tunesmith.model.engine import LocalEngine
from tunesmith.model.machine import Work, passes
from tunesmith.model.scorer import BUDGET, RewardModel, token_logprobs
from tunesmith.ops import advantages, logprobs, losses
from tunesmith.settings import PreferSettings
from tunesmith.store.workspace import Adapter, Run, Workspace
from tunesmith.train.learner import Learner, indices, mean
from tunesmith.train.memory import micro_batches, settle
from tunesmith.train.ppo import encode, final_scores, minibatches, update_seed
from tunesmith.train.session import dataset, on_base, session


@dataclass(slots=True)
class Roles:
    """What the group methods hold on the base, besides adapter `reference` where KL is charged."""

    engine: LocalEngine
    reward: RewardModel
    learner: Learner


@dataclass(frozen=True, slots=True)
class Samples:
    """G prompts with K answers each, from one version of the policy.

    `old[g]` and `reference[g]` are log-probs of the answers' tokens of tree g, one after the other; no reference where
    KL costs nothing. `scores_GK` come from the reward model; `finished_GK`: the end of turn came.
    """

    trees: tuple[Tree, ...]
    old: tuple[Tensor, ...]
    reference: tuple[Tensor, ...]
    scores_GK: Tensor
    finished_GK: Tensor


def train(workspace: Workspace, base: Base, settings: PreferSettings, *, resume: Run | None = None,
          progress: Progress | None = None, monitor: Monitor | None = None) -> Adapter:
    """Improve `settings.policy` against `settings.reward` by comparing answers to the same prompt.

    Raises:
        ModelError: the adapters belong to another base.
        UserError: the prompts are something else, or no prompt fits.
        TrainingStopped: NaN or exploding loss.
    """
    start, judge = on_base(workspace, base, settings.policy, settings.reward)
    data = dataset(workspace, settings.prompts, "prompts")
    prompts, skipped = encode(base, [base.chat.prompt(p.messages) for p in data.rows()], settings.max_tokens)
    roles = attach(base, start.path, judge.path, settings)
    settings = settle(settings, base, "policy", resume)
    roles.learner.budget = settings.micro_tokens
    inputs = {"prompts": data.fingerprint, "policy": str(start), "reward": str(judge), "base": base.hash}
    with session(workspace, base, "prefer", settings, inputs, settings.updates, resume, progress) as run:
        run.summary = {"prompts": len(prompts), "skipped": skipped}

        def publish(step: int = 0) -> Adapter:
            return run.publish(settings.name, "policy", base, lambda folder: adapters.save(base, "policy", folder),
                               {data.name: data.fingerprint}, {"policy": str(start), "reward": str(judge)}, step)

        run.publish_every(settings.snapshots, publish)
        for update in range(run.resume(lambda folder: roles.learner.load(folder, "policy")), settings.updates):
            chosen = [prompts[i]
                      for i in indices(len(prompts), settings.seed, update * settings.batch, settings.batch)]
            metrics, work = step(base, roles, chosen, settings, update)
            stop = "monitor" if monitor and not monitor.observe(update + 1, metrics) else ""
            run.end_step(update + 1, metrics, lambda folder: roles.learner.save(folder, "policy"), work, stop)
            if stop:
                break
        return publish()


def attach(base: Base, start: Path, judge: Path, settings: PreferSettings) -> Roles:
    """All roles on the base, as at update 0: policy and its frozen copy from folder `start`, reward from `judge`."""
    adapters.load(base, "policy", start)
    if settings.kl:
        adapters.copy(base, "policy", "reference")
    reward = RewardModel.load(base, judge)
    reward.layout = settings.layout
    engine = LocalEngine(base, padded=True if settings.layout == "padded" else None)
    engine.use("policy", "policy")
    steps = settings.updates * int(settings.epochs) * min(settings.batch, settings.minibatches)
    return Roles(engine, reward, Learner.of(adapters.trainable(base, "policy"), steps, settings))


def step(base: Base, roles: Roles, prompts: Sequence[Sequence[int]], settings: PreferSettings,
         update: int) -> tuple[dict[str, float], Work]:
    """One update: answer the prompts (as tokens), compare, learn. Returns metrics and what it took."""
    samples = collect(base, roles, prompts, settings, update)
    advantages_GK, reported = credit(samples, settings)
    epochs, judged = int(settings.epochs), bool(settings.kl) + (settings.old_logprobs == "recompute")
    parts = list(minibatches(len(samples.trees), settings.minibatches, epochs, update_seed(settings.seed, update)))
    learned = [{**forward_backward(base, roles.learner, samples, advantages_GK, rows, settings), **roles.learner.step()}
               for rows in parts]
    averaged = {k: sum(m[k] for m in learned) / len(learned) for k in learned[0]}
    taught = [samples.trees[g] for rows in parts for g in teaching(advantages_GK, rows, settings)]
    work = (passes(samples.trees, forward=2 + judged, forward_logits=1 + judged)  # the sampler and the reward model
            + passes(taught, trained=1, trained_logits=1))
    return {**reported, **averaged}, work


@torch.no_grad()
def collect(base: Base, roles: Roles, prompts: Sequence[Sequence[int]], settings: PreferSettings,
            update: int) -> Samples:
    """K answers to each prompt, scored, with the sampler's log-probs (or recomputed ones) and the reference's."""
    k = settings.samples
    sampling = Sampling(settings.max_tokens, settings.temperature, seed=settings.seed)
    seeds = [(settings.seed, update, i, j) for i in range(len(prompts)) for j in range(k)]
    rows = roles.engine.generate(prompts, sampling, seeds, n=k, model="policy")
    drawn = [rows[i:i + k] for i in range(0, len(rows), k)]
    trees = tuple(Tree(tuple(p), tuple(tuple(tokens) for tokens, _ in rows)) for p, rows in zip(prompts, drawn))
    old = tuple(torch.tensor([x for _, logp in rows for x in logp], device=base.device) for rows in drawn)
    if settings.old_logprobs == "recompute":
        old = tokenwise(base, "policy", trees, settings)
    finished = [[tokens[-1] == base.chat.end for tokens, _ in rows] for rows in drawn]
    return Samples(trees, old, tokenwise(base, "reference", trees, settings) if settings.kl else (),
                   roles.reward.score_trees(trees).view(len(trees), k), torch.tensor(finished, device=base.device))


def tokenwise(base: Base, slot: str, trees: Sequence[Tree], settings: PreferSettings) -> tuple[Tensor, ...]:
    """Log-probs of every answer token under adapter `slot`, one flat tensor per tree."""
    out: list[Tensor] = []
    for part in split(trees, BUDGET):
        batch = build([trees[i] for i in part], base.device)
        logp_N = token_logprobs(base, slot, batch, settings.temperature, settings.layout)
        out += logp_N.split([sum(map(len, trees[i].answers)) for i in part])
    return tuple(out)


def credit(samples: Samples, settings: PreferSettings) -> tuple[Tensor, dict[str, float]]:
    """Advantages [G, K] of whole answers, and the figures that are reported per update."""
    scores_GK = final_scores(samples.scores_GK, samples.finished_GK, settings.no_eos, settings.no_eos_score)
    lengths = [len(a) for t in samples.trees for a in t.answers]
    old_N = torch.cat(samples.old)
    rewards_GK, kl = scores_GK, {}
    if settings.kl:
        k1_N, k3_N = (f(old_N, torch.cat(samples.reference)) for f in (advantages.k1, advantages.k3))
        kl_GK = torch.stack([x.sum() for x in k1_N.split(lengths)]).view_as(scores_GK)
        kl = {"kl": kl_GK.mean(), "kl_k3": k3_N.sum() / len(lengths)}
        if not kl_in_loss(settings):
            rewards_GK = scores_GK - settings.kl * kl_GK
    advantages_GK = (advantages.rloo(rewards_GK) if settings.method == "rloo" else
                     advantages.group(rewards_GK, settings.normalize_std))
    reported = {
        "reward": samples.scores_GK.mean(), "score": scores_GK.mean(), **kl, "entropy": -old_N.mean(),
        "reward_spread": scores_GK.std(1).mean(), "zero_variance": advantages.alike(rewards_GK).float().mean(),
        "answer_tokens": torch.tensor(sum(lengths) / len(lengths)), "finished": samples.finished_GK.float().mean(),
    }
    return advantages_GK, {k: float(v) for k, v in reported.items()}


def kl_in_loss(settings: PreferSettings) -> bool:
    """KL is charged in the loss or in the reward, never in both."""
    usual = "reward" if settings.method == "rloo" else "loss"
    return settings.kl > 0 and (usual if settings.kl_in == "usual" else settings.kl_in) == "loss"


def teaching(advantages_GK: Tensor, rows: Sequence[int], settings: PreferSettings) -> list[int]:
    """Those of some groups that have a gradient; the first if none has, so that a step has something to compute."""
    return [g for g in rows if kl_in_loss(settings) or advantages_GK[g].any()] or list(rows[:1])


def forward_backward(base: Base, learner: Learner, samples: Samples, advantages_GK: Tensor, rows: Sequence[int],
                     settings: PreferSettings) -> dict[str, float]:
    """Add the gradient of one minibatch of groups. A group without a gradient (all alike) is not computed at all."""
    taught = teaching(advantages_GK, rows, settings)
    step_tokens = sum(len(a) for g in rows for a in samples.trees[g].answers)
    step_answers = len(rows) * settings.samples
    high = settings.clip_high or settings.clip
    items = len(taught) * settings.samples if settings.method == "rloo" else sum(len(samples.old[g]) for g in taught)
    metrics = []
    for part in micro_batches(base, [samples.trees[g] for g in taught], learner.budget, settings.layout):
        chosen = [taught[j] for j in part]
        batch = build([samples.trees[g] for g in chosen], base.device)
        old_N = torch.cat([samples.old[g] for g in chosen])
        advantages_A = advantages_GK[chosen].flatten()
        weight_N = weights(batch, step_tokens, step_answers, settings).to(old_N)
        with adapters.active(base, "policy"):
            states = hidden(base, batch, settings.layout, batch.source_N)
            logp_N = logprobs.from_hidden(states, base.head, batch.target_N, settings.temperature)
            if settings.method == "rloo":
                new_A, old_A = batch.table(logp_N).sum(1), batch.table(old_N).sum(1)
                loss, m = losses.group_policy(new_A, old_A, advantages_A, torch.full_like(old_A, 1 / step_answers),
                                              settings.clip, high, items)
            else:
                loss, m = losses.group_policy(logp_N, old_N, advantages_A[batch.row_N], weight_N, settings.clip, high,
                                              items)
            if kl_in_loss(settings):
                price = (weight_N * advantages.k3(logp_N, torch.cat([samples.reference[g] for g in chosen]))).sum()
                loss, m["kl_loss"] = loss + settings.kl * price, price.detach()
            learner.backward(loss)
        metrics.append(m)
    return mean(metrics)


def weights(batch: Batch, step_tokens: int, step_answers: int, settings: PreferSettings) -> Tensor:
    """How the tokens of a batch are averaged over the step, [N].

    `tokens`: all count alike (DAPO, arXiv 2503.14476, section 3.3); `answers`: all answers do, however long (GRPO,
    arXiv 2402.03300, equation 3); `constant`: summed over an answer, divided by the longest allowed (Dr. GRPO, arXiv
    2503.20783). RLOO sums over an answer, which is one action to it.
    """
    ones_N = torch.ones(len(batch.row_N), device=batch.row_N.device)
    if settings.method == "rloo":
        return ones_N / step_answers
    if settings.average == "tokens":
        return ones_N / step_tokens
    if settings.average == "constant":
        return ones_N / (step_answers * settings.max_tokens)
    return ones_N / batch.row_N.bincount()[batch.row_N] / step_answers
