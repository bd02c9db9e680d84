"""PPO from human feedback: a policy, its frozen starting point, a reward model and a value on one resident base.

The readable edition of the same mathematics is `docs/ppo_by_hand.py`; `reference` names the frozen copy of the
adapter the policy starts from. Left out: several answers per prompt (that is `prefer`), asynchronous rollouts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from tunesmith.contracts import Monitor, Progress, Sampling, View
from tunesmith.errors import UserError
from tunesmith.model import adapters, heads
from tunesmith.model.base import Base
from tunesmith.model.batch import Tree, build, hidden
from tunesmith.model.engine import LocalEngine
from tunesmith.model.machine import Work, passes
from tunesmith.model.scorer import RewardModel
from tunesmith.ops import advantages, logprobs, losses
from tunesmith.records import Prompt
from tunesmith.settings import PpoSettings
from tunesmith.store.workspace import Adapter, Run, Workspace
from tunesmith.train import sft
from tunesmith.train.constraint import NOTHING, Objective, Said
from tunesmith.train.learner import Learner, indices, mean
from tunesmith.train.memory import micro_batches, settle
from tunesmith.train.rollouts import Rollouts, Value, check_heads, collect
from tunesmith.train.session import dataset, on_base, session
from tunesmith.train.watched import Watched, beginning, shown

RATIO_LIMIT = 10.0
"""A mean probability ratio beyond this ends the passes over the current rollouts (lm-human-preference-details)."""


@dataclass(slots=True)
class Roles:
    """Everything PPO holds on the base, and the newest update's rollouts."""

    engine: LocalEngine
    reward: RewardModel
    value: Value
    policy_learner: Learner
    value_learner: Learner
    controller: advantages.KlController
    objective: Objective = NOTHING
    rollouts: Rollouts | None = None


def train(workspace: Workspace, base: Base, settings: PpoSettings, *, resume: Run | None = None,
          progress: Progress | None = None, monitor: Monitor | None = None,
          objective: Objective = NOTHING) -> Adapter:
    """Improve `settings.policy` against `settings.reward` without straying from where it started.

    `objective` holds what else counts, and bounds that must hold.

    Raises:
        ModelError: the adapters belong to another base.
        UserError: the prompts or demonstrations are something else, or no prompt fits.
        SettingsError: pessimism, and a reward model with one head.
        TrainingStopped: NaN or exploding loss.
    """
    start, judge = on_base(workspace, base, settings.policy, settings.reward)
    data = dataset(workspace, settings.prompts, "prompts")
    roles = attach(base, start.path, judge.path, settings)
    roles.objective = objective
    slots = "policy", "reward", roles.value.slot, *objective.slots
    rows = list(data.rows())
    encoded = [base.chat.prompt(p.messages) for p in rows]
    prompts, skipped = encode(base, encoded, settings.max_tokens, slots)
    rows = [p for p, tokens in zip(rows, encoded) if fits(base, tokens, settings.max_tokens, slots)]
    ptx = dataset(workspace, settings.ptx, "demonstrations") if settings.ptx else None
    mixed = sft.encode(base, list(ptx.rows()), adapters.room(base, "policy"))[0] if ptx else []
    sources = {d.name: d.fingerprint for d in (data, ptx) if d}
    settings = settle(settings, base, "policy", resume)
    roles.policy_learner.budget = settings.micro_tokens
    inputs = {"prompts": data.fingerprint, "policy": str(start), "reward": str(judge), "base": base.hash,
              **({"ptx": ptx.fingerprint} if ptx else {}), **objective.inputs}
    learners = roles.policy_learner, roles.value_learner
    with session(workspace, base, "ppo", settings, inputs, settings.updates, resume, progress, *learners) as run:
        run.summary = {"prompts": len(prompts), "skipped": skipped}

        def publish(step: int = 0) -> Adapter:
            return run.publish(settings.name, "policy", base, lambda folder: adapters.save(base, "policy", folder),
                               sources, {"policy": str(start), "reward": str(judge), **objective.parents}, step)

        run.publish_every(settings.snapshots, publish)
        watched = Watched(monitor, run, roles.policy_learner.parameters)

        def checkpoint(folder: Path) -> None:
            save(folder, roles)
            watched.save(folder)

        def go_on(folder: Path) -> None:
            load(folder, roles)
            watched.load(folder)

        done = run.resume(go_on)
        if not done:
            watched.begin(lambda: beginning(roles.engine, drawn(settings), rows))
        for update in range(done, settings.updates):
            chosen = indices(len(prompts), settings.seed, update * settings.episodes, settings.episodes)
            asked = [rows[i] for i in chosen]
            metrics, work = step(base, roles, [prompts[i] for i in chosen], mixed, settings, update, asked)
            metrics, stop = watched.observe(update + 1, metrics, partial(view, roles, asked, settings))
            if settings.max_kl and metrics["kl"] > settings.max_kl:
                stop = stop or f"KL {metrics['kl']:.2f} passed max_kl"
                watched.ring(update + 1, stop)
            run.end_step(update + 1, metrics, checkpoint, work, stop)
            if stop:
                break
        run.summary |= objective.summary(run.run.metrics())
        watched.keep_best()
        return publish()


def drawn(settings: PpoSettings) -> Sampling:
    """How the policy writes."""
    return Sampling(settings.max_tokens, settings.temperature, seed=settings.seed)


def view(roles: Roles, rows: Sequence[Prompt], settings: PpoSettings) -> View:
    """The newest update as a monitor sees it."""
    assert roles.rollouts
    old = [row[mask].tolist() for row, mask in zip(roles.rollouts.logprobs_BT, roles.rollouts.mask_BT)]
    scores, spread_B = roles.rollouts.scores_B.tolist(), roles.rollouts.spread_B
    return shown(roles.engine, drawn(settings), rows, roles.rollouts.trees, old, [[x] for x in scores],
                 [] if spread_B is None else [[x] for x in spread_B.tolist()])


def encode(base: Base, prompts: Sequence[list[int]], room: int,
           slots: Sequence[str] = ()) -> tuple[list[list[int]], dict[str, int]]:
    """Prompts that leave room for an answer whichever of these adapters reads it, and how many do not."""
    kept = [p for p in prompts if fits(base, p, room, slots)]
    if not kept:
        raise UserError(f"no prompt leaves room for {room} tokens of answer in a context of "
                        f"{adapters.room(base, *slots)}")
    return kept, {"too long": len(prompts) - len(kept)} if len(kept) < len(prompts) else {}


def fits(base: Base, prompt: Sequence[int], room: int, slots: Sequence[str] = ()) -> bool:
    """Whether so many tokens of answer have room behind a prompt."""
    return len(prompt) + room <= adapters.room(base, *slots)


def attach(base: Base, start: Path, judge: Path, settings: PpoSettings) -> Roles:
    """All roles on the base, as at update 0."""
    adapters.load(base, "policy", start)
    adapters.copy(base, "policy", "reference")
    reward = RewardModel.load(base, judge)
    reward.layout = settings.layout
    reward.pessimism = settings.pessimism
    check_heads(reward, settings.pessimism)
    head = heads.load(judge, base.device)
    if settings.value == "adapter":
        adapters.load(base, "value", judge)
        value = Value("value", head)
        value_weights = adapters.trainable(base, "value")
    else:
        value = Value("policy", heads.ScalarHead(base.width).to(base.device))
        torch.nn.init.zeros_(value.head.linear.weight)
        value_weights = {}
    steps = settings.updates * settings.epochs * min(settings.episodes, settings.minibatches)
    engine = LocalEngine(base, padded=True if settings.layout == "padded" else None)
    engine.use("policy", "policy")
    return Roles(
        engine, reward, value,
        Learner.of(adapters.trainable(base, "policy"), steps, settings),
        Learner.of({**value_weights, **dict(value.head.linear.named_parameters("head"))}, steps, settings,
                   settings.value_lr),
        advantages.KlController(settings.kl, settings.kl_target, settings.kl_horizon))


def step(base: Base, roles: Roles, prompts: Sequence[Sequence[int]], mixed: Sequence[Tree], settings: PpoSettings,
         update: int, asked: Sequence[Prompt] = ()) -> tuple[dict[str, float], Work]:
    """One update: roll out, estimate advantages, several passes of minibatches. Returns metrics and what it took.

    `asked` are the prompts as records, for an objective that wants them.
    """
    rollouts = collect(roles.engine, prompts, roles.reward, roles.value, drawn(settings), version=update,
                       recompute=settings.old_logprobs == "recompute", layout=settings.layout)
    roles.rollouts = rollouts
    said = roles.objective.hear(base, rollouts.trees, asked)
    table, reported = credit(rollouts, price(roles, settings, update), settings, roles.objective, said)
    reported |= roles.objective.learn(said)
    learned: list[dict[str, float]] = []
    taught: list[Tree] = []
    beside: list[Tree] = []
    parts = minibatches(len(rollouts.trees), settings.minibatches, settings.epochs, update_seed(settings.seed, update))
    for number, rows in enumerate(parts):
        taught += [rollouts.trees[i] for i in rows]
        metrics = forward_backward(base, roles, rollouts, table, rows, settings)
        if metrics["ratio_mean"] > RATIO_LIMIT:
            for learner in (roles.policy_learner, roles.value_learner):
                learner.discard()
            reported["aborted"] = 1.0
            break
        if mixed and settings.ptx_coef:
            at = (update * settings.epochs * settings.minibatches + number) * len(rows)
            chosen = [mixed[i] for i in indices(len(mixed), settings.seed, at, len(rows))]
            metrics["ptx_loss"] = sft.forward_backward(base, roles.policy_learner, chosen, settings.layout,
                                                       settings.ptx_coef)["loss"]
            beside += chosen
        value_norm = roles.value_learner.step()["grad_norm"]
        learned.append({**metrics, **roles.policy_learner.step(), "value_grad_norm": value_norm})
    roles.controller.update(reported["kl"], len(rollouts.trees))
    averaged = {k: sum(m[k] for m in learned) / len(learned) for k in (learned[0] if learned else {})}
    again, own = settings.old_logprobs == "recompute", settings.value == "adapter"
    work = (passes(rollouts.trees, forward=3 + own + again, forward_logits=2 + again)  # sampler, reward, reference
            + passes(taught, trained=1 + own, trained_logits=1) + passes(beside, trained=1, trained_logits=1))
    return {**reported, **averaged}, work


def price(roles: Roles, settings: PpoSettings, update: int) -> float:
    """An update's KL coefficient: the controller's, or one on the straight line from `kl` to `kl_final`."""
    if not settings.kl_final:
        return roles.controller.coefficient
    return settings.kl + (settings.kl_final - settings.kl) * update / max(1, settings.updates - 1)


def minibatches(rows: int, parts: int, epochs: int, seed: int) -> Iterator[list[int]]:
    """Shuffled passes over the rows, each in (at most) so many parts, whose sizes differ by at most one."""
    parts = min(rows, parts)
    edges = [rows * i // parts for i in range(parts + 1)]
    for epoch in range(epochs):
        order = indices(rows, seed, epoch * rows, rows)
        yield from (order[a:b] for a, b in pairwise(edges))


@dataclass(frozen=True, slots=True)
class Credit:
    """What each token earned: `advantages_BT` (whitened over the whole batch) and `returns_BT` (before whitening)."""

    advantages_BT: Tensor
    returns_BT: Tensor


def credit(rollouts: Rollouts, coefficient: float, settings: PpoSettings, objective: Objective = NOTHING,
           said: Said = MappingProxyType({})) -> tuple[Credit, dict[str, float]]:
    """Scores, what else was said of the answers, and KL to rewards; rewards to advantages; and the figures that are
    reported per update."""
    mask = rollouts.mask_BT
    kl_BT = advantages.k1(rollouts.logprobs_BT, rollouts.reference_BT).masked_fill(~mask, 0.0)
    scores_B = final_scores(rollouts.scores_B, rollouts.finished_B, settings.no_eos, settings.no_eos_score)
    scores_B, scale = objective.combine(scores_B, said), objective.scale
    rewards_BT = advantages.shape(kl_BT, scores_B / scale, mask, coefficient / scale)
    if settings.whiten_rewards:
        rewards_BT = advantages.normalize(rewards_BT, mask, center=False)
    advantages_BT, returns_BT = advantages.gae(rewards_BT, rollouts.values_BT, mask, settings.gamma, settings.lam)
    k3_BT = advantages.k3(rollouts.logprobs_BT, rollouts.reference_BT).masked_fill(~mask, 0.0)
    count = mask.sum()
    error_BT = (returns_BT - rollouts.values_BT).masked_fill(~mask, 0.0)
    spread = returns_BT[mask].var(unbiased=False).clamp_min(1e-8)
    reported = {
        "reward": rollouts.scores_B.mean(), "score": scores_B.mean(), "kl": kl_BT.sum(1).mean(),
        "kl_k3": k3_BT.sum(1).mean(), "kl_coefficient": torch.tensor(coefficient),
        "entropy": -rollouts.logprobs_BT.masked_fill(~mask, 0.0).sum() / count,
        "answer_tokens": mask.sum(1).float().mean(), "finished": rollouts.finished_B.float().mean(),
        "value_explained": 1 - error_BT.square().sum() / count / spread,
        **({} if rollouts.spread_B is None else {"disagreement": rollouts.spread_B.mean()}),
    }
    white_BT = advantages.normalize(advantages_BT, mask, center=True)
    return Credit(white_BT, returns_BT), {k: float(v) for k, v in reported.items()}


def final_scores(scores_B: Tensor, finished_B: Tensor, rule: str, value: float) -> Tensor:
    """Scores after the rule for answers without an end of turn: `set` to value, `subtract` |value|, or `ignore`."""
    if rule == "set":
        return torch.where(finished_B, scores_B, torch.full_like(scores_B, value))
    return scores_B - abs(value) * (~finished_B).float() if rule == "subtract" else scores_B


def forward_backward(base: Base, roles: Roles, rollouts: Rollouts, table: Credit, rows: Sequence[int],
                     settings: PpoSettings) -> dict[str, float]:
    """Add one minibatch's gradient to policy and value. Losses are divided by the minibatch's valid tokens."""
    rows = sorted(rows, key=lambda i: rollouts.trees[i].size)
    count = float(rollouts.mask_BT[list(rows)].sum())
    metrics = []
    for part in micro_batches(base, [rollouts.trees[i] for i in rows], roles.policy_learner.budget, settings.layout):
        chosen = [rows[j] for j in part]
        batch = build([rollouts.trees[i] for i in chosen], base.device)
        mask = batch.mask()
        old, advantage, old_values, returns = (
            t[chosen, :mask.shape[1]] for t in (rollouts.logprobs_BT, table.advantages_BT, rollouts.values_BT,
                                                table.returns_BT))
        value_table = (old_values, returns, mask)
        with adapters.active(base, "policy"):
            states = hidden(base, batch, settings.layout, batch.source_N)
            logp_N = logprobs.from_hidden(states, base.head, batch.target_N, settings.temperature)
            new = batch.table(logp_N)
            loss, m = losses.ppo_policy(new, old, advantage, mask, settings.clip, count)
            m["ratio_mean"] = (new.detach() - old).masked_fill(~mask, 0.0).exp().masked_fill(~mask, 0.0).sum() / count
            if settings.entropy_coef:
                spread_N = logprobs.entropy(base.logits(states), settings.temperature)
                loss = loss - settings.entropy_coef * spread_N.sum() / count
            if settings.value != "adapter":
                seen = states if settings.value == "shared" else states.detach()
                value_loss, v = losses.ppo_value(batch.table(roles.value.head(seen)), *value_table, settings.value_clip,
                                                 count)
                loss = loss + value_loss * (settings.value_coef if settings.value == "shared" else 1.0)
            roles.policy_learner.backward(loss)
        if settings.value == "adapter":
            with adapters.active(base, roles.value.slot):
                values = roles.value.head(hidden(base, batch, settings.layout, batch.source_N))
                loss, v = losses.ppo_value(batch.table(values), *value_table, settings.value_clip, count)
                roles.value_learner.backward(loss)
        metrics.append({**m, **v})
    return mean(metrics)


def update_seed(seed: int, update: int) -> int:
    """A seed of its own for each update's shuffles."""
    return seed * 1_000_003 + update + 1


def save(folder: Path, roles: Roles) -> None:
    """Everything that changes: both learners and the KL coefficient. The frozen roles reload from the workspace."""
    roles.policy_learner.save(folder, "policy")
    roles.value_learner.save(folder, "value")
    roles.objective.save(folder)
    (folder / "controller.json").write_text(json.dumps({"coefficient": roles.controller.coefficient}))


def load(folder: Path, roles: Roles) -> None:
    """Back to where `save` was called."""
    roles.policy_learner.load(folder, "policy")
    roles.value_learner.load(folder, "value")
    roles.objective.load(folder)
    coefficient = json.loads((folder / "controller.json").read_text())["coefficient"]
    roles.controller = replace(roles.controller, coefficient=coefficient)
