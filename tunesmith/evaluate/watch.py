"""What a run watches beside its canaries: an independent gold signal that ends it at its peak, a reward model whose
heads begin to disagree, answers that the reference would never give. `Watch` makes one monitor of several.

The signal that stops a run must not be what judges it afterwards: the version that it chose was chosen because it
scored well there. So a gold signal sees prompts that do not train, it must not be the reward, and `same_measure` tells
a report when its judge is the one that stopped the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
from scipy.special import stdtr

from tunesmith.contracts import Monitor, Scorer, View, Word
from tunesmith.errors import UserError
from tunesmith.records import Prompt
from tunesmith.statistics import Floats, t_interval

LEVEL = 0.05
WINDOWS = 3
"""Looks, or updates, in a row that make a trend."""
DISAGREEMENT = 1.5
STRANGE = 2.0
GOLD_SEED = 104_729


class Watch(Monitor):
    """Several monitors as one: figures and alarms of all, the first stop; what one wants kept is kept."""

    def __init__(self, **parts: Monitor):
        self.parts = parts

    def observe(self, step: int, metrics: Mapping[str, float], view: View) -> Word:
        words = [part.observe(step, metrics, view) for part in self.parts.values()]
        return Word({k: v for w in words for k, v in w.figures.items()}, tuple(a for w in words for a in w.alarms),
                    next((w.stop for w in words if w.stop), ""), any(w.best for w in words))

    def state(self) -> dict[str, Any]:
        return {name: part.state() for name, part in self.parts.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, part in self.parts.items():
            part.restore(state[name])


@dataclass(frozen=True, slots=True)
class Look:
    """What the gold judge said after update `step`: a score for each prompt; and the mean reward that training saw
    since the look before, None at the first."""

    step: int
    scores: Sequence[float]
    proxy: float | None

    @property
    def gold(self) -> float:
        return float(np.mean(self.scores))


class Gold(Monitor):
    """`contracts.Monitor`: has the policy answer held-out prompts now and then, and a judge that training does not
    read score them. Keeps the best version, stops when later ones are worse for sure, and rings when the reward rises
    while gold falls.

    The best version is the one with the highest mean so far; means of neighbouring looks are not averaged, which would
    lag behind the peak. A later version is worse for sure if the paired t-test over prompts says so at `level` divided
    by the number of looks (the best of many noisy figures is too good, and so many are compared with it), `patience`
    times in a row.

    Args:
        scorer: the judge; not the reward, and taught by other rankings.
        prompts: held out; those that train too are left out.
        updates: how many the run may have.
        every: updates between looks; the first is before the first update, the last after the last one.
    """

    def __init__(self, scorer: Scorer, prompts: Sequence[Prompt], updates: int, every: int = 5, *, patience: int = 2,
                 stop: bool = True, level: float = LEVEL):
        self.scorer, self.prompts, self.updates, self.every = scorer, list(prompts), updates, every
        self.patience, self.stop = patience, stop
        self.level = level / max(1, -(-updates // every))
        self.looks: list[Look] = []
        self.best = 0
        self.worse = 0
        self.rewards: list[float] = []
        self.rung = False
        self.left_out: list[str] = []

    def observe(self, step: int, metrics: Mapping[str, float], view: View) -> Word:
        if step == 0:
            self._keep_apart(view.prompts)
        if "reward" in metrics:
            self.rewards.append(metrics["reward"])
        if step % self.every and step != self.updates:
            return Word()
        sampling = replace(view.sampling, seed=view.sampling.seed + GOLD_SEED)  # the same draws at every look
        answers = view.engine.sample([p.messages for p in self.prompts], sampling, model=view.model)
        scores = [self.scorer.score(p, [a.text])[0] for p, (a, *_) in zip(self.prompts, answers, strict=True)]
        self.looks.append(Look(step, scores, float(np.mean(self.rewards)) if self.rewards else None))
        self.rewards = []
        return self._said()

    def state(self) -> dict[str, Any]:
        return {"looks": [asdict(look) for look in self.looks], "best": self.best, "worse": self.worse,
                "rewards": self.rewards, "rung": self.rung, "left_out": self.left_out}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.looks = [Look(**look) for look in state["looks"]]
        self.best, self.worse, self.rung = state["best"], state["worse"], state["rung"]
        self.rewards, self.left_out = list(state["rewards"]), list(state["left_out"])
        self.prompts = [p for p in self.prompts if p.id not in set(self.left_out)]

    def _keep_apart(self, training: Sequence[Prompt]) -> None:
        """
        Raises:
            UserError: all of the prompts train too.
        """
        known = {p.id for p in training}
        self.left_out = [p.id for p in self.prompts if p.id in known]
        self.prompts = [p for p in self.prompts if p.id not in known]
        if len(self.prompts) < 2:
            raise UserError("every prompt of --gold-prompts trains too: give it held-out ones")

    def _said(self) -> Word:
        now = len(self.looks) - 1
        best = now == 0 or self.looks[now].gold > self.looks[self.best].gold
        if best:
            self.best = now
        interval = t_interval(self.looks[now].scores)
        figures = {"gold": interval.value, "gold_low": interval.low, "gold_high": interval.high,
                   "gold_best_step": float(self.looks[self.best].step)}
        self.worse = self.worse + 1 if not best and self._fell(self.best, now) else 0
        alarms = self._alarms(now)
        top, here = self.looks[self.best], self.looks[now]
        why = (f"gold fell from {top.gold:.3f} after update {top.step} to {here.gold:.3f}"
               if self.stop and self.worse >= self.patience else "")
        return Word(figures, alarms, why, best)

    def _fell(self, before: int, now: int) -> bool:
        """Whether one look is below another for sure: one-sided t-test over prompts, at the level of one look."""
        lost = np.array(self.looks[before].scores) - np.array(self.looks[now].scores)
        return above(lost, np.zeros_like(lost), self.level)

    def _alarms(self, now: int) -> tuple[str, ...]:
        """The reward rises while gold falls: at `WINDOWS` looks in a row, or since the best version."""
        if self.rung:
            return ()
        trend = self.looks[-WINDOWS - 1:]
        steadily = len(trend) > WINDOWS and all(_apart(a, b) for a, b in pairwise(trend))
        first = now - WINDOWS if steadily else self.best
        a, b = self.looks[first], self.looks[now]
        fell = self._fell(first, now) if steadily else self.worse >= self.patience
        if not (fell and _apart(a, b)):
            return ()
        self.rung = True
        return (f"the reward rose from {a.proxy:.3f} to {b.proxy:.3f} while gold fell from {a.gold:.3f} to "
                f"{b.gold:.3f} (updates {a.step} to {b.step}): it is being gamed",)


def _apart(before: Look, after: Look) -> bool:
    """The reward is higher, gold is lower."""
    return before.proxy is not None and after.proxy is not None and (
        after.proxy > before.proxy and after.gold < before.gold)


class Disagreement(Monitor):
    """`contracts.Monitor` for a reward model with several heads: rings when they differ on the newest three updates'
    answers `DISAGREEMENT` times as much as on those of the first update, which are the reference's own.

    For sure: Welch's test over prompts, at `level` divided by the number of updates. Silent where there is one head.
    """

    def __init__(self, updates: int, level: float = LEVEL):
        self.level = level / max(1, updates)
        self.start: list[float] = []
        self.window: list[list[float]] = []
        self.rung = False

    def observe(self, step: int, metrics: Mapping[str, float], view: View) -> Word:
        if not view.spreads:
            return Word()
        newest = [sum(row) / len(row) for row in view.spreads]
        self.start = self.start or newest
        self.window = [*self.window, newest][-WINDOWS:]
        x, y = np.array([s for part in self.window for s in part]), np.array(self.start)
        ratio = float(x.mean() / y.mean()) if y.mean() else 1.0
        rings = not self.rung and above(x, DISAGREEMENT * y, self.level)
        self.rung |= rings
        return Word({"disagreement_ratio": ratio}, (
            f"the reward model's heads disagree {ratio:.2f} times as much as about the reference's answers: the policy "
            "has gone where the reward model knows little",) if rings else ())

    def state(self) -> dict[str, Any]:
        return {"start": self.start, "window": self.window, "rung": self.rung}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.start, self.window, self.rung = list(state["start"]), list(state["window"]), state["rung"]


def above(x: Floats, y: Floats, level: float) -> bool:
    """Whether the mean of x is above that of y for sure: one-sided Welch's test, with the degrees of freedom of the
    smaller sample (on the safe side)."""
    if min(x.size, y.size) < 2:
        return False
    error = sqrt(float(x.var(ddof=1)) / x.size + float(y.var(ddof=1)) / y.size)
    beyond = float(x.mean() - y.mean())
    return beyond > 0 if not error else float(stdtr(min(x.size, y.size) - 1, -beyond / error)) < level


class Strangeness(Monitor):
    """`contracts.Monitor`: rings when the policy's answers surprise the reference `STRANGE` times as much per token as
    its own do, which is KL per token and the policy's own surprise together, in the mean of three updates.

    A threshold without a test: a policy that only becomes surer of the reference's better answers stays below 1.
    """

    def __init__(self) -> None:
        self.start = 0.0
        self.window: list[float] = []
        self.rung = False

    def observe(self, step: int, metrics: Mapping[str, float], view: View) -> Word:
        if not {"kl", "entropy", "answer_tokens"} <= set(metrics):
            return Word()
        surprise = metrics["kl"] / max(1.0, metrics["answer_tokens"]) + metrics["entropy"]
        self.start = self.start or surprise
        self.window = [*self.window, surprise][-WINDOWS:]
        ratio = sum(self.window) / len(self.window) / self.start if self.start else 1.0
        rings = ratio > STRANGE and len(self.window) == WINDOWS and not self.rung
        self.rung |= rings
        return Word({"strangeness_ratio": ratio}, (
            f"the policy's answers surprise the reference {ratio:.2f} times as much per token as its own do: they are "
            "no longer of its kind",) if rings else ())

    def state(self) -> dict[str, Any]:
        return {"start": self.start, "window": self.window, "rung": self.rung}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.start, self.window, self.rung = state["start"], list(state["window"]), state["rung"]


def same_measure(judge: str, settings: Mapping[str, Any]) -> str:
    """What a report must say if its judge is the signal that stopped a run with these settings; "" if it is not.

    Both may be named with or without a version.
    """
    gold = str(settings.get("gold") or "")
    if not gold or gold.partition("@")[0] != judge.partition("@")[0]:
        return ""
    return (f"{judge} judges here, and it also chose this version while it was trained (--gold {gold}): what it says "
            "of it is too good; judge with something else")
