"""More than one reward, and bounds that hold while the first one rises: Lagrange multipliers by dual ascent.

    maximise  E[r + Σ w_k s_k] - β KL    subject to  E[c_j] >= b_j   (or <=)

is the saddle point of  E[r + Σ w_k s_k] - β KL - Σ λ_j E[v_j],  v_j = b_j - c_j (or c_j - b_j): the policy climbs it,
the multipliers λ_j >= 0 climb what is missed, λ_j <- max(0, λ_j + rate * mean v_j), once per update (Altman 1999; for
language models Dai et al., arXiv 2310.12773, section 3.3, and Moskovitz et al., arXiv 2310.04373). A bound that holds
by itself ends with λ = 0 and costs nothing; of one that binds, λ is what its last bit costs in reward.

`v_j` is counted in standard deviations of c_j among the first answers, so that one `rate` fits a share between 0 and 1
and a reward model's score alike. A bound is on the mean over prompts and says nothing of a single answer. Left out:
bounds per prompt, and damping of the multipliers (PID control, arXiv 2007.03964): KL and clipping keep the policy slow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.model.base import Base
from tunesmith.model.batch import Tree
from tunesmith.model.scorer import RewardModel
from tunesmith.records import Prompt
from tunesmith.settings.objective import SubjectTo
from tunesmith.statistics import t_interval

STATE = "multipliers.json"
LAST = 10
"""Updates at the end of a run that tell whether a bound is kept."""

Rate = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]
"""A number for each prompt and answer; nan where it has nothing to say."""
Said = Mapping[str, Tensor]
"""What each signal says of all answers, flat over trees, [A]; nan where it does not apply."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Who says something of every answer. `about` is what it is made of: a resumed run must have the same."""

    name: str
    judge: RewardModel | Rate
    about: str

    def say(self, base: Base, trees: Sequence[Tree], rows: Sequence[Prompt]) -> Tensor:
        """One number per answer, [A]; `rows` are the prompts as records."""
        if isinstance(self.judge, RewardModel):
            return self.judge.score_trees(trees)
        asked = [(row, answer) for row, tree in zip(rows, trees, strict=True) for answer in tree.answers]
        said = self.judge([row for row, _ in asked], [base.chat.text(answer) for _, answer in asked])
        return torch.tensor(list(said), device=base.device)


@dataclass(slots=True)
class Bound:
    """A bound on a signal's mean, and the price of missing it: `multiplier` in rewards per `unit` of the signal.

    `unit` is the standard deviation among the first answers that differ, 0 before; till then the multiplier waits, for
    what is the same of all answers teaches nothing.
    """

    signal: Signal
    rule: SubjectTo
    multiplier: float = 0.0
    unit: float = 0.0

    def missed(self, said_A: Tensor) -> Tensor:
        """By how many units each answer misses the bound, [A]; below 0 with room to spare, 0 where nothing is said."""
        gap_A = said_A - self.rule.bound if self.rule.sense == "<=" else self.rule.bound - said_A
        return (gap_A / (self.unit or 1.0)).nan_to_num(0.0)

    def learn(self, said_A: Tensor, rate: float) -> None:
        """One step of dual ascent."""
        heard_A = said_A[~said_A.isnan()].double()
        if not len(heard_A):
            return
        if not self.unit and float(heard_A.max() - heard_A.min()) > 1e-6 * max(1.0, float(heard_A.abs().max())):
            self.unit = float(heard_A.std(unbiased=False))
        if self.unit:
            self.multiplier = max(0.0, self.multiplier + rate * float(self.missed(heard_A).mean()))


@dataclass(frozen=True, slots=True)
class Objective:
    """What is maximised beside the reward (`also`, with weights), and subject to what. Nothing of either is plain RL,
    to the bit."""

    also: tuple[tuple[Signal, float], ...] = ()
    bounds: tuple[Bound, ...] = ()
    rate: float = 0.5

    @property
    def signals(self) -> list[Signal]:
        return [signal for signal, _ in self.also] + [b.signal for b in self.bounds]

    @property
    def slots(self) -> list[str]:
        """The adapters among the signals, which must have room for what they read."""
        return [s.judge.slot for s in self.signals if isinstance(s.judge, RewardModel)]

    @property
    def scale(self) -> float:
        """1 + Σ λ. PPO divides rewards and KL coefficient by it: the optimum stays where it is, and what the value
        function has to predict does not grow with the multipliers."""
        return 1.0 + sum(b.multiplier for b in self.bounds)

    @property
    def inputs(self) -> dict[str, str]:
        """For the run: what the signals are made of."""
        return {f"signal {s.name}": s.about for s in self.signals}

    @property
    def parents(self) -> dict[str, str]:
        """For the lineage: the reward models among the signals."""
        return {f"signal {s.name}": s.about for s in self.signals if isinstance(s.judge, RewardModel)}

    @torch.no_grad()
    def hear(self, base: Base, trees: Sequence[Tree], rows: Sequence[Prompt]) -> Said:
        """What all signals say of an update's answers."""
        return {s.name: s.say(base, trees, rows) for s in self.signals}

    def combine(self, scores: Tensor, said: Said) -> Tensor:
        """r + Σ w s - Σ λ v for every answer, in the shape of the scores."""
        for signal, weight in self.also:
            scores = scores + weight * said[signal.name].nan_to_num(0.0).view_as(scores)
        for bound in self.bounds:
            scores = scores - bound.multiplier * bound.missed(said[bound.signal.name]).view_as(scores)
        return scores

    def learn(self, said: Said) -> dict[str, float]:
        """Move the multipliers by what the answers missed; figures of this update: what was heard, and the prices that
        the next one pays."""
        for bound in self.bounds:
            bound.learn(said[bound.signal.name], self.rate)
        return {**{f"signal_{name}": float(said_A.nanmean()) for name, said_A in said.items()},
                **{f"multiplier_{b.signal.name}": b.multiplier for b in self.bounds}}

    def save(self, folder: Path) -> None:
        """Into a checkpoint."""
        if self.bounds:
            (folder / STATE).write_text(json.dumps([[b.multiplier, b.unit] for b in self.bounds]), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Back to where `save` was called."""
        if self.bounds:
            for bound, (multiplier, unit) in zip(self.bounds, json.loads((folder / STATE).read_text("utf-8"))):
                bound.multiplier, bound.unit = multiplier, unit

    def summary(self, lines: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        """For the run's summary, from its logged updates: by bound whether it is kept over the last of them. "yes",
        "no", or "unclear" where the interval of the updates' means holds the bound; the mean decides nothing."""
        if not self.bounds:
            return {}
        found = {}
        for b in self.bounds:
            said = t_interval([x for line in lines[-LAST:] if (x := line.get(f"signal_{b.signal.name}")) is not None])
            least, most = (said.low, said.high) if b.rule.sense == ">=" else (-said.high, -said.low)
            bound = b.rule.bound if b.rule.sense == ">=" else -b.rule.bound
            kept = "yes" if least >= bound else "no" if most < bound else "unclear"
            found[b.signal.name] = {"bound": f"{b.rule.sense} {b.rule.bound:g}", "kept": kept,
                                    "found": said.to_dict(), "multiplier": round(b.multiplier, 4)}
        return {"bounds": found}


NOTHING = Objective()
"""The reward alone."""
