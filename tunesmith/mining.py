"""Logged reactions -> preferences to train on: read, weigh by what people say, keep what is safe, check, publish.

`mine` is what a weekly round calls. What it publishes is a dataset like an imported one, so that `reward` and `prefer`
need not know where preferences come from; the workspace remembers which interactions each was made of, so that it can
say what to train again when a user wants to be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tunesmith.contracts import Sampling
from tunesmith.errors import UserError
from tunesmith.feedback import calibration, implicit, signals
from tunesmith.feedback import overlap as overlapping
from tunesmith.feedback.implicit import Worth
from tunesmith.feedback.signals import Evidence
from tunesmith.judgements import comparisons
from tunesmith.records import AnswerGroup, Interaction, Prompt
from tunesmith.settings import MineSettings, OverlapSettings
from tunesmith.settings.mining import Logged
from tunesmith.shop import Shop, engine_of, judge
from tunesmith.statistics import wilson
from tunesmith.store.erasure import used
from tunesmith.store.interactions import interactions
from tunesmith.store.workspace import Workspace

ENOUGH_CHECKS = 10
"""Fewer verdicts on mined pairs decide nothing."""
UNSAFE = 0.5
"""Probability of being toxic above which an answer is never preferred."""


@dataclass(frozen=True, slots=True)
class Mined:
    """What came of it. `refused` says why nothing was published; then `comparisons` and `thumbs` are "".

    `comparisons` is a dataset for `reward` and `prefer`, `thumbs` one for `prefer --method kto` ("" without thumbs that
    say anything), `spots` the set of pairs to check ("" if there are none). `figures` is JSON: counts, what each kind
    of reaction is worth, what the checks said.
    """

    comparisons: str
    thumbs: str
    spots: str
    refused: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def mine(shop: Shop, settings: MineSettings, judged: Sequence[AnswerGroup] | None = None) -> Mined:
    """Logged interactions -> datasets of preferences, or the reason why there are none to be had.

    Args:
        judged: what people said, one group per ranking; default: all that was said of the sets of `ranked`.

    Raises:
        UserError: no reaction was logged, or none is worth anything; a set of `ranked` is unknown or nobody ranked it.
    """
    workspace = shop.workspace
    found = _found(workspace, settings)
    if judged is None:
        judged = [g for name in settings.ranked for g in comparisons(workspace, name)]
    weighed = implicit.corrected(found, settings.user_share)
    worth = _worth(weighed, judged, settings)
    if settings.with_ranked:
        weighed = implicit.unjudged(weighed, judged)
    made, thumbs = implicit.groups(weighed, worth), implicit.thumbs(weighed, worth)
    unsafe = _unsafe(shop, settings, [*made, *thumbs])
    made, thumbs = implicit.without(made, unsafe), implicit.without(thumbs, unsafe)
    if not made:
        raise UserError(f"{len(found)} reactions, and none says for sure what people prefer: rank more answers that "
                        "were served (tunesmith mine overlap), or wait for more users")
    spots = implicit.spots(implicit.unjudged(made, judged), settings.spots, settings.seed)
    if spots:
        used(workspace, settings.checks, _sources(spots))
        workspace.add_groups(settings.checks, spots)
    checks = _checks(workspace, settings.checks) if spots else {"verdicts": 0}
    figures = {**_counts(found, made, thumbs), "unsafe": len(unsafe), "spots": checks,
               "single": worth.single.to_dict(), "double": worth.double.to_dict()}
    if why := _refused(settings, checks):
        return Mined("", "", settings.checks, why, figures)
    _publish(workspace, settings.name, [*made, *(judged if settings.with_ranked else [])])
    if thumbs:
        _publish(workspace, f"{settings.name}-thumbs", thumbs)
    return Mined(settings.name, f"{settings.name}-thumbs" if thumbs else "", settings.checks if spots else "", "",
                 figures)


def overlap(shop: Shop, settings: OverlapSettings, among: Callable[[Prompt], bool] = lambda prompt: True) -> int:
    """Logged answers to prompts `among` which to choose -> a set to rank, chosen by `feedback.overlap`; how many groups
    are new."""
    found = [e for e in _found(shop.workspace, settings) if among(e.prompt)]
    chosen = overlapping.choose(found, settings.count, settings.seed)
    used(shop.workspace, settings.name, {id for e in chosen for id in e.interactions})
    engine = engine_of(shop.base_of(settings.model, settings.base), shop.workspace, [settings.model])
    new = 0
    with shop.progress("overlap") as progress:
        for start in range(0, len(chosen), 32):
            part = chosen[start:start + 32]
            sampling = Sampling(settings.max_tokens, settings.temperature, seed=settings.seed + start)
            fresh = engine.sample([e.prompt.messages for e in part], sampling, n=settings.answers - 1,
                                  model=settings.model)
            groups = [overlapping.group(e, more, settings.answers, settings.pairs_alone)
                      for e, more in zip(part, fresh, strict=True)]
            new += shop.workspace.add_groups(settings.name, [g for g in groups if len(g.answers) > 1])
            progress(start + len(part), len(chosen), {})
    return new


def _found(workspace: Workspace, settings: Logged) -> list[Evidence]:
    """The evidence in what was logged; holdout traffic stays out of it."""
    log = interactions(workspace, since=settings.since, source=settings.source)
    found = signals.evidence(_before(log, settings.until) if settings.until else log)
    if not any(e.signals for e in found):
        raise UserError("no reaction of a user was logged: tunesmith serve --log, or tunesmith import FILE --as "
                        "interactions --name SOURCE")
    return found


def _before(log: Iterable[Interaction], end: str) -> Iterator[Interaction]:
    """What was logged before a moment, and what had happened by then."""
    for one in log:
        if one.created < end:
            yield replace(one, events=tuple(e for e in one.events if str(e["at"]) < end))


def _worth(found: Sequence[Evidence], judged: Sequence[AnswerGroup], settings: MineSettings) -> Worth:
    if settings.weights == "fixed":
        return Worth(*calibration.guessed(found))
    worth = Worth(*calibration.calibrate(found, judged, min_users=settings.min_users))
    if not worth.single.cases and not worth.double.cases:
        raise UserError(f"nobody ranked an answer that users reacted to: none of {', '.join(settings.ranked)} holds "
                        "one; make a set that does with tunesmith mine overlap, and rank it")
    return worth


def _unsafe(shop: Shop, settings: MineSettings, made: Sequence[AnswerGroup]) -> set[str]:
    """Preferred texts that the veto finds unsafe."""
    if settings.veto == "none":
        return set()
    if settings.veto == "toxicity":
        from tunesmith.evaluate.toxicity import Toxicity

        texts = sorted({text for g in made for text in implicit.preferred(g)})
        found = Toxicity.load().probability(texts)
        return {text for text, p in zip(texts, found, strict=True) if p > UNSAFE}
    scorer = judge(shop, settings.veto).scorer
    wanted = [(g, text) for g in made for text in implicit.preferred(g)]
    return {text for g, text in wanted if scorer.score(g.prompt, [text])[0] < settings.veto_below}


def _checks(workspace: Workspace, name: str) -> dict[str, Any]:
    """What people said of the pairs to check."""
    ranked = comparisons(workspace, name) if workspace.rankings(name) else []
    won, n = implicit.agreement(ranked)
    return {"verdicts": n, **({"agreement": wilson(won, n).to_dict()} if n else {})}


def _refused(settings: MineSettings, checks: dict[str, Any]) -> str:
    n = checks["verdicts"]
    if n < settings.require_spots:
        return (f"{n} of {settings.require_spots} checks are done: look at mined pairs with tunesmith studio --groups "
                f"{settings.checks}")
    if n >= ENOUGH_CHECKS and checks["agreement"]["value"] < 0.5:
        return (f"people who checked {n} mined pairs preferred the other answer more often "
                f"({checks['agreement']['value']:.0%} agreed): reactions are not what they seem, nothing was published")
    return ""


def _publish(workspace: Workspace, name: str, made: Sequence[AnswerGroup]) -> None:
    used(workspace, name, _sources(made))
    workspace.add_dataset(name, "comparisons", made, source="reactions of users")


def _sources(made: Iterable[AnswerGroup]) -> set[str]:
    """The interactions that groups were made of."""
    return {id for g in made for id in g.prompt.facts.get(implicit.FACT, {}).get("interactions", ())}


def _counts(found: Sequence[Evidence], made: Sequence[AnswerGroup], thumbs: Sequence[AnswerGroup]) -> dict[str, Any]:
    pairs = sum(bool(g.pairs) for g in made)
    return {"interactions": len({id for e in found for id in e.interactions}), "users": len({e.user for e in found}),
            "pairs": pairs, "labels": len(made) - pairs, "thumbs": len(thumbs)}
