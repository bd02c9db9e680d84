"""Who watches a training run: the monitors that its settings ask for, and whether the gold judge may be one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.contracts import Monitor, Scorer
from tunesmith.errors import NotFound, UserError
from tunesmith.evaluate.canaries import Canaries
from tunesmith.evaluate.watch import Disagreement, Gold, Strangeness, Watch
from tunesmith.judgements import comparisons
from tunesmith.records import Prompt, fingerprint
from tunesmith.settings import PpoSettings, PreferSettings
from tunesmith.shop import Shop, judge, limited
from tunesmith.store.workspace import Adapter, Workspace

if TYPE_CHECKING:
    from tunesmith.model.base import Base

GOLD_PROMPTS = 128
"""Held-out prompts that the gold judge sees at each look."""


def monitor(shop: Shop, base: Base, settings: PpoSettings | PreferSettings) -> Monitor | None:
    """The monitors of a run as one; None if there are none.

    Raises:
        NotFound, UserError: the gold judge or its prompts are not there, or it is not independent of the reward.
    """
    parts: dict[str, Monitor] = {}
    if settings.watch:
        parts |= {"canaries": Canaries(settings.updates), "disagreement": Disagreement(settings.updates),
                  "strangeness": Strangeness()}
    if settings.gold:
        prompts = limited(shop.workspace.dataset(settings.gold_prompts), GOLD_PROMPTS)
        scorer = gold_judge(shop, base, settings.gold, settings.reward, prompts)
        parts["gold"] = Gold(scorer, prompts, settings.updates, settings.gold_every, stop=settings.early_stop)
    return Watch(**parts) if parts else None


def gold_judge(shop: Shop, base: Base, name: str, reward: str, prompts: list[Prompt]) -> Scorer:
    """A built-in judge, or a reward model that has learned from other verdicts than `reward` has. On the run's own base
    it is one more adapter.

    Raises:
        NotFound, UserError: see `monitor`.
    """
    if name in shop.judges:
        scorer = judge(shop, name).scorer
        scorer.score(prompts[0], ["a judge that cannot judge these prompts says so before anything is trained"])
        return scorer
    from tunesmith.model.scorer import RewardModel

    try:
        gold = shop.workspace.adapter(name)
    except NotFound as e:
        raise NotFound(f'no gold judge "{name}": give a reward model, or one of: {", ".join(shop.judges)} ({e})') from e
    if reward:
        check_independent(shop.workspace, gold, shop.workspace.adapter(reward))
    if gold.base["hash"] == base.hash:
        return RewardModel.load(base, gold.path, "gold")
    return judge(shop, name).scorer


def check_independent(workspace: Workspace, gold: Adapter, reward: Adapter) -> None:
    """
    Raises:
        UserError: both are one, or learned from some of the same verdicts; then gold shares the reward's mistakes.
    """
    if str(gold) == str(reward):
        raise UserError(f"{gold} is what training maximises: it cannot tell when that goes wrong; give --gold a reward "
                        "model that was taught other rankings")
    one, other = verdicts(workspace, gold), verdicts(workspace, reward)
    if shared := len(one & other):
        raise UserError(f"{gold} and {reward} learned from {shared} of the same verdicts, so the one cannot tell where "
                        "the other is wrong: train them on different sets, or on different labelers of one set "
                        "(tunesmith reward --without)")


def verdicts(workspace: Workspace, reward: Adapter) -> set[str]:
    """What a reward model learned from, verdict by verdict; nothing is known of one from elsewhere, or whose data are
    gone."""
    settings = reward.lineage.get("settings", {})
    if not settings.get("comparisons"):
        return set()
    try:
        groups = comparisons(workspace, settings["comparisons"], settings.get("without", ()))
    except (NotFound, UserError):
        return set()
    return {fingerprint([g.id, g.labeler, [list(t) for t in g.tiers], [p.to_dict() for p in g.pairs], list(g.labels)])
            for g in groups}
