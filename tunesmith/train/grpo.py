"""GRPO and RLOO: several answers per prompt, each judged against its siblings; no value function.

A prompt is computed once for its answers, when they are written, scored and learned from. The judge is a reward model
on the same base, or any `contracts.Scorer`, which sees the prompt's row and the answers' texts. Left out: dynamic
sampling (asking again until a group's rewards differ) and asynchronous rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from tunesmith.contracts import Monitor, Progress, Sampling, Scorer, View
from tunesmith.errors import SettingsError
from tunesmith.feedback.grading import ERRORS
from tunesmith.model import adapters
from tunesmith.model.base import Base
from tunesmith.model.batch import Batch, Tree, build, hidden, split
from tunesmith.model.engine import LocalEngine
from tunesmith.model.machine import Work, passes
from tunesmith.model.scorer import BUDGET, RewardModel, token_logprobs
from tunesmith.ops import advantages, logprobs, losses
from tunesmith.records import Prompt, fingerprint
from tunesmith.settings import PreferSettings
from tunesmith.store.workspace import Adapter, Run, Workspace
from tunesmith.train.constraint import NOTHING, Objective, Said
from tunesmith.train.learner import Learner, indices, mean
from tunesmith.train.memory import micro_batches, settle
from tunesmith.train.ppo import encode, final_scores, fits, minibatches, update_seed
from tunesmith.train.rollouts import check_heads, rated
from tunesmith.train.session import dataset, on_base, session
from tunesmith.train.watched import Watched, beginning, shown


@dataclass(frozen=True, slots=True)
class Scoring:
    """A judge that is no reward model of the workspace: a grader, a rubric.

    `about` describes it in the run; a resumed run must have the same. `figures` says what it noticed since it was
    called last, and is logged with every update.
    """

    scorer: Scorer
    about: Mapping[str, Any] = field(default_factory=dict)
    figures: Callable[[], Mapping[str, float]] = dict


@dataclass(slots=True)
class Roles:
    """What the group methods hold on the base, besides adapter `reference` where KL is charged; and the newest update's
    samples."""

    engine: LocalEngine
    reward: RewardModel | Scoring
    learner: Learner
    objective: Objective = NOTHING
    samples: Samples | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """G prompts with K answers each, from one version of the policy.

    `old[g]` and `reference[g]` are log-probs of the answers' tokens of tree g, one after the other; no reference where
    KL costs nothing. `scores_GK` come from the judge; `finished_GK`: the end of turn came; `spread_GK`: how far the
    heads of a reward model that has several disagree.
    """

    trees: tuple[Tree, ...]
    old: tuple[Tensor, ...]
    reference: tuple[Tensor, ...]
    scores_GK: Tensor
    finished_GK: Tensor
    spread_GK: Tensor | None = None


def train(workspace: Workspace, base: Base, settings: PreferSettings, *, scoring: Scoring | None = None,
          resume: Run | None = None, progress: Progress | None = None, monitor: Monitor | None = None,
          objective: Objective = NOTHING) -> Adapter:
    """Improve `settings.policy` against `settings.reward`, or against `scoring`, by comparing answers to one prompt.

    `objective` holds what else counts, and bounds that must hold.

    Raises:
        ModelError: the adapters belong to another base.
        UserError: the prompts are something else, or no prompt fits; the judge cannot go on.
        TrainingStopped: NaN or exploding loss.
    """
    if bool(settings.reward) == bool(scoring):
        raise SettingsError("one judge: a reward model, or a scorer")
    start, *judges = on_base(workspace, base, *filter(None, (settings.policy, settings.reward)))
    data = dataset(workspace, settings.prompts, "prompts")
    rows = list(data.rows())
    encoded = [base.chat.prompt(p.messages) for p in rows]
    roles = attach(base, start.path, scoring or judges[0].path, settings)
    roles.objective = objective
    slots = ("policy", *(["reward"] if judges else []), *objective.slots)
    prompts, skipped = encode(base, encoded, settings.max_tokens, slots)
    rows = [p for p, tokens in zip(rows, encoded) if fits(base, tokens, settings.max_tokens, slots)]
    settings = settle(settings, base, "policy", resume)
    roles.learner.budget = settings.micro_tokens
    parents = {"policy": str(start), **({"reward": str(judges[0])} if judges else {}), **objective.parents}
    inputs = {"prompts": data.fingerprint, **parents, "base": base.hash, **objective.inputs,
              **({"grader": fingerprint(dict(scoring.about))} if scoring else {})}
    with session(workspace, base, "prefer", settings, inputs, settings.updates, resume, progress, roles.learner) as run:
        run.summary = {"prompts": len(prompts), "skipped": skipped, **(dict(scoring.about) if scoring else {})}

        def publish(step: int = 0) -> Adapter:
            return run.publish(settings.name, "policy", base, lambda folder: adapters.save(base, "policy", folder),
                               {data.name: data.fingerprint}, parents, step)

        run.publish_every(settings.snapshots, publish)
        watched = Watched(monitor, run, roles.learner.parameters)

        def checkpoint(folder: Path) -> None:
            roles.learner.save(folder, "policy")
            objective.save(folder)
            watched.save(folder)

        def go_on(folder: Path) -> None:
            roles.learner.load(folder, "policy")
            objective.load(folder)
            watched.load(folder)

        done = run.resume(go_on)
        if not done:
            watched.begin(lambda: beginning(roles.engine, drawn(settings), rows))
        for update in range(done, settings.updates):
            chosen = indices(len(prompts), settings.seed, update * settings.batch, settings.batch)
            asked = [rows[i] for i in chosen]
            metrics, work = step(base, roles, [prompts[i] for i in chosen], settings, update, asked)
            metrics, stop = watched.observe(update + 1, metrics, partial(view, roles, asked, settings))
            if settings.max_kl and metrics["kl"] > settings.max_kl:
                stop = stop or f"KL {metrics['kl']:.2f} passed max_kl"
                watched.ring(update + 1, stop)
            run.end_step(update + 1, metrics, checkpoint, work, stop)
            if stop:
                break
        if scoring:
            run.summary["grader_errors"] = ungraded(run.run.metrics())
        run.summary |= objective.summary(run.run.metrics())
        watched.keep_best()
        return publish()


def drawn(settings: PreferSettings) -> Sampling:
    """How the policy writes."""
    return Sampling(settings.max_tokens, settings.temperature, seed=settings.seed)


def view(roles: Roles, rows: Sequence[Prompt], settings: PreferSettings) -> View:
    """The newest update as a monitor sees it."""
    assert roles.samples
    found = roles.samples
    return shown(roles.engine, drawn(settings), rows, found.trees, [old.tolist() for old in found.old],
                 found.scores_GK.tolist(), [] if found.spread_GK is None else found.spread_GK.tolist())


def attach(base: Base, start: Path, judge: Path | Scoring, settings: PreferSettings) -> Roles:
    """All roles on the base, as at update 0: policy and its frozen copy from folder `start`, the reward model from
    folder `judge`."""
    adapters.load(base, "policy", start)
    if settings.kl:
        adapters.copy(base, "policy", "reference")
    reward: RewardModel | Scoring
    if isinstance(judge, Scoring):
        reward = judge
    else:
        reward = RewardModel.load(base, judge)
        reward.layout, reward.pessimism = settings.layout, settings.pessimism
        check_heads(reward, settings.pessimism)
    engine = LocalEngine(base, padded=True if settings.layout == "padded" else None)
    engine.use("policy", "policy")
    steps = settings.updates * int(settings.epochs) * min(settings.batch, settings.minibatches)
    return Roles(engine, reward, Learner.of(adapters.trainable(base, "policy"), steps, settings))


def step(base: Base, roles: Roles, prompts: Sequence[Sequence[int]], settings: PreferSettings, update: int,
         rows: Sequence[Prompt] = ()) -> tuple[dict[str, float], Work]:
    """One update: answer the prompts (as tokens), compare, learn. Returns metrics and what it took.

    `rows` are the prompts as records, for a judge that wants them.
    """
    samples = collect(base, roles, prompts, settings, update, rows)
    roles.samples = samples
    said = roles.objective.hear(base, samples.trees, rows)
    advantages_GK, reported = credit(samples, settings, roles.objective, said)
    reported |= roles.objective.learn(said)
    outside = roles.reward if isinstance(roles.reward, Scoring) else None
    if outside:
        reported |= outside.figures()
    epochs, judged = int(settings.epochs), bool(settings.kl) + (settings.old_logprobs == "recompute")
    parts = list(minibatches(len(samples.trees), settings.minibatches, epochs, update_seed(settings.seed, update)))
    learned = [{**forward_backward(base, roles.learner, samples, advantages_GK, rows, settings), **roles.learner.step()}
               for rows in parts]
    averaged = {k: sum(m[k] for m in learned) / len(learned) for k in learned[0]}
    taught = [samples.trees[g] for rows in parts for g in teaching(advantages_GK, rows, settings)]
    work = (passes(samples.trees, forward=(1 if outside else 2) + judged, forward_logits=1 + judged)  # sampler, judge
            + passes(taught, trained=1, trained_logits=1))
    return {**reported, **averaged}, work


@torch.no_grad()
def collect(base: Base, roles: Roles, prompts: Sequence[Sequence[int]], settings: PreferSettings, update: int,
            rows: Sequence[Prompt] = ()) -> Samples:
    """K answers to each prompt, scored, with the sampler's log-probs (or recomputed ones) and the reference's."""
    k = settings.samples
    seeds = [(settings.seed, update, i, j) for i in range(len(prompts)) for j in range(k)]
    written = roles.engine.generate(prompts, drawn(settings), seeds, n=k, model="policy")
    groups = [written[i:i + k] for i in range(0, len(written), k)]
    trees = tuple(Tree(tuple(p), tuple(tuple(tokens) for tokens, _ in group)) for p, group in zip(prompts, groups))
    old = tuple(torch.tensor([x for _, logp in group for x in logp], device=base.device) for group in groups)
    if settings.old_logprobs == "recompute":
        old = tokenwise(base, "policy", trees, settings)
    finished = [[tokens[-1] == base.chat.end for tokens, _ in group] for group in groups]
    scores_GK, spread_GK = scores(base, roles.reward, trees, rows)
    return Samples(trees, old, tokenwise(base, "reference", trees, settings) if settings.kl else (),
                   scores_GK, torch.tensor(finished, device=base.device), spread_GK)


def scores(base: Base, judge: RewardModel | Scoring, trees: Sequence[Tree], rows: Sequence[Prompt]
           ) -> tuple[Tensor, Tensor | None]:
    """What the judge says of every answer, [G, K], and how far its heads disagree, if it has several."""
    if isinstance(judge, RewardModel):
        scores_A, spread_A = rated(judge, trees)
        return scores_A.view(len(trees), -1), None if spread_A is None else spread_A.view(len(trees), -1)
    return torch.tensor([judge.scorer.score(row, [base.chat.text(answer) for answer in tree.answers])
                         for row, tree in zip(rows, trees, strict=True)], device=base.device), None


def tokenwise(base: Base, slot: str, trees: Sequence[Tree], settings: PreferSettings) -> tuple[Tensor, ...]:
    """Log-probs of every answer token under adapter `slot`, one flat tensor per tree."""
    out: list[Tensor] = []
    for part in split(trees, BUDGET):
        batch = build([trees[i] for i in part], base.device)
        logp_N = token_logprobs(base, slot, batch, settings.temperature, settings.layout)
        out += logp_N.split([sum(map(len, trees[i].answers)) for i in part])
    return tuple(out)


def credit(samples: Samples, settings: PreferSettings, objective: Objective = NOTHING,
           said: Said = MappingProxyType({})) -> tuple[Tensor, dict[str, float]]:
    """Advantages [G, K] of whole answers, and the figures that are reported per update."""
    scores_GK = final_scores(samples.scores_GK, samples.finished_GK, settings.no_eos, settings.no_eos_score)
    scores_GK = objective.combine(scores_GK, said)
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
        **({} if samples.spread_GK is None else {"disagreement": samples.spread_GK.mean()}),
    }
    return advantages_GK, {k: float(v) for k, v in reported.items()}


def ungraded(lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The share of a run's answers that could not be graded, by reason; {} if all could."""
    flags = {flag: sum(line.get(flag) or 0 for line in lines) / max(len(lines), 1) for flag in ERRORS}
    return {flag: round(share, 4) for flag, share in flags.items() if share}


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
