"""What a policy is trained for beside its reward, by the names that `--also` and `--subject-to` give.

    NAME         a reward model of the workspace, on the run's own base: its score
    FILE.toml    a written rubric: the weighted share of its items that an answer meets, from 0 to 1

The loan desk's built-in rubric is none of them: it judges, and training never reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith import judging
from tunesmith.errors import NotFound, UserError
from tunesmith.evaluate.checklist import RubricJudge
from tunesmith.settings import PpoSettings, PreferSettings
from tunesmith.settings.objective import also, subject_to
from tunesmith.shop import Shop

if TYPE_CHECKING:
    from tunesmith.model.base import Base
    from tunesmith.train.constraint import Objective, Signal
    from tunesmith.train.grpo import Scoring


def objective(shop: Shop, base: Base, settings: PpoSettings | PreferSettings) -> Objective:
    """What a run maximises beside its reward, and subject to what.

    Raises:
        NotFound: no such reward model, file or model that is asked.
        ModelError: a reward model on another base.
        UserError: a policy where a reward model is meant; a rubric whose questions nobody answers.
    """
    from tunesmith.train.constraint import NOTHING, Bound, Objective

    weights, rules = also(settings.also), subject_to(settings.subject_to)
    if not weights and not rules:
        return NOTHING
    names = [w.name for w in weights] + [r.name for r in rules]
    signals = {name: _signal(shop, base, name, f"signal{n}", settings) for n, name in enumerate(names)}
    called = [s.name for s in signals.values()]
    if len(set(called)) < len(called):
        raise UserError(f"two of {', '.join(names)} would have one name in the run's log: rename a file")
    return Objective(tuple((signals[w.name], w.weight) for w in weights),
                     tuple(Bound(signals[r.name], r) for r in rules), settings.multiplier_rate)


def _signal(shop: Shop, base: Base, name: str, slot: str, settings: PpoSettings | PreferSettings) -> Signal:
    from tunesmith.model.scorer import RewardModel
    from tunesmith.train.constraint import Signal
    from tunesmith.train.session import on_base

    if name.endswith(".toml"):
        judge, made = rules(shop, name, settings.asks)
        return Signal(Path(name).stem, judge.shares, made)
    if name in shop.judges:
        raise UserError(f"{name} judges what training made, so training must not read it: name a reward model, or a "
                        "rubric's FILE.toml")
    try:
        adapter, = on_base(shop.workspace, base, name)
    except NotFound as error:
        raise NotFound(f"{error}; a written rubric is named by its file, such as {name}.toml") from error
    if adapter.role != "reward":
        raise UserError(f"{adapter} is a {adapter.role}, not a reward model: it says nothing of answers")
    model = RewardModel.load(base, adapter.path, slot)
    model.layout = settings.layout
    return Signal(name, model, str(adapter))


def rules(shop: Shop, file: str, asks: str) -> tuple[RubricJudge, str]:
    """A written rubric, and the fingerprint of the file and of who answers its questions.

    Raises:
        DataError: not there, or no rubric.
        UserError: it asks questions and nobody answers.
    """
    found = judging.find(shop, file, asks=asks)
    assert found and isinstance(found.judge, RubricJudge)
    return found.judge, found.of


def rule_based(shop: Shop, settings: PreferSettings) -> Scoring:
    """A written rubric as the judge of `prefer --grader FILE.toml`: a rule-based reward (Mu et al., arXiv
    2411.01111)."""
    from tunesmith.train.grpo import Scoring

    judge, made = rules(shop, settings.grader, settings.asks)
    return Scoring(judge, {"grader": {"type": "rubric", "name": judge.rubric.name, "made": made}})
