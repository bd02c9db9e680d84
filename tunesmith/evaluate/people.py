"""People as judges: blind groups for the studio, and what their rankings say of each pair of models.

    blind = for_people(prompts, answers_by_model)
    workspace.add_groups("first-look", blind.groups)         # tunesmith studio --groups first-look
    judged = from_rankings(blind, workspace.rankings("first-look"))
    judged.outcomes.preference("tuned", "base")

Nothing on the page tells who wrote an answer: answers are in an order drawn from their text, models that wrote the same
text share one card, and the studio shuffles once more for each person. Who wrote what is not read from the stored
groups but from the answers themselves, so a group that another evaluation stored before does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from tunesmith.errors import DataError, UserError
from tunesmith.evaluate.judges import TIE
from tunesmith.evaluate.outcomes import Outcomes
from tunesmith.feedback.agreement import Agreement, agreement
from tunesmith.feedback.consensus import Method, agree
from tunesmith.feedback.groups import by_item, pairs, ranked
from tunesmith.records import Answer, AnswerGroup, Prompt, Ranking, fingerprint
from tunesmith.statistics import Floats

MOST = 9
"""Answers that a page shows."""


@dataclass(frozen=True, slots=True)
class Blind:
    """Groups to judge, and of each prompt which group it is (None where all models wrote the same) and which answer
    of it each model wrote."""

    models: tuple[str, ...]
    groups: tuple[AnswerGroup, ...]
    places: tuple[tuple[AnswerGroup | None, Mapping[str, int]], ...]


def for_people(prompts: Sequence[Prompt], answers_by_model: Mapping[str, Sequence[Answer | str]],
               seed: int = 0) -> Blind:
    """Blind groups, one per prompt on which the models differ.

    The same call gives the same groups, so `from_rankings` may be given a fresh one.

    Raises:
        UserError: fewer than two models, or more than a page shows.
        DataError: a model with too many or too few answers.
    """
    models = tuple(answers_by_model)
    if not 2 <= len(models) <= MOST:
        raise UserError(f"people compare 2 to {MOST} models at a time, got {len(models)}; judge some of them, the "
                        "ladder joins what shares models")
    texts = {m: [a if isinstance(a, str) else a.text for a in found] for m, found in answers_by_model.items()}
    for model, found in texts.items():
        if len(found) != len(prompts):
            raise DataError(f'"{model}" gave {len(found)} answers to {len(prompts)} prompts')
    places: list[tuple[AnswerGroup | None, Mapping[str, int]]] = []
    for n, prompt in enumerate(prompts):
        wrote = {m: texts[m][n] for m in models}
        order = sorted(set(wrote.values()), key=lambda text: fingerprint([seed, prompt.id, text]))
        answers = tuple(Answer(text, ", ".join(m for m in models if wrote[m] == text)) for text in order)
        group = AnswerGroup(prompt, answers) if len(answers) > 1 else None
        places.append((group, {m: order.index(text) for m, text in wrote.items()}))
    groups = {g.id: g for g, _ in places if g}
    return Blind(models, tuple(groups.values()), tuple(places))


@dataclass(frozen=True, slots=True)
class Judged:
    """What people said: outcomes per pair of models, how far they agree with each other, and how the votes of several
    became one (`about`: method, labelers, abilities). `groups` were judged, of `of`; `alike` prompts needed nobody."""

    outcomes: Outcomes
    agreement: Agreement
    about: Mapping[str, Any]
    groups: int
    of: int
    alike: int
    verdicts: int


def from_rankings(blind: Blind, rankings: Iterable[Ranking], *, method: Method = "ability",
                  without: Sequence[str] = (), known: Iterable[str] = ()) -> Judged:
    """Rankings of the blind groups, read back as outcomes of models.

    Several people on one group become the share of their votes, weighed by what their verdicts show of them ("ability",
    as in training), or counted alike ("votes"). Models that wrote the same text tie. Two answers that a partial ranking
    leaves out stay unjudged.

    Args:
        without: labelers left out: those in quarantine.
        known: groups that are test questions; they say nothing of models.

    Raises:
        UserError: nobody has judged any of these groups.
    """
    skip = set(known)
    mine = {g.id for g in blind.groups} - skip
    said = [r for r in rankings if r.group in mine]
    judged = ranked([g for g in blind.groups if g.id in mine], said, without=without, merged=False)
    if not judged:
        raise UserError("nobody has judged these answers yet; rank them in the studio, or another set holds the "
                        "verdicts")
    found = agree(judged, method)
    shares = {id: _shares(same) for id, same in by_item(found.groups).items()}
    table = {(a, b): np.array([_outcome(place, shares, a, b) for place in blind.places])
             for a, b in combinations(blind.models, 2)}
    return Judged(Outcomes(blind.models, table), agreement(judged), found.about, len(by_item(judged)),
                  len(mine), sum(group is None for group, _ in blind.places), len(judged))


def _shares(same: Sequence[AnswerGroup]) -> Floats:
    """P(answer i is preferred over j) [K, K], nan where nobody compared them."""
    k = len(same[0].answers)
    total, weight = np.zeros((k, k)), np.zeros((k, k))
    for group in same:
        for p in pairs(group, "half"):
            for i, j, share in ((p.better, p.worse, p.p), (p.worse, p.better, 1 - p.p)):
                total[i, j] += share * p.weight * group.weight
                weight[i, j] += p.weight * group.weight
    return np.divide(total, weight, out=np.full((k, k), np.nan), where=weight > 0)


def _outcome(place: tuple[AnswerGroup | None, Mapping[str, int]], shares: Mapping[str, Floats], a: str,
             b: str) -> float:
    group, wrote = place
    if wrote[a] == wrote[b]:
        return TIE
    if group is None or group.id not in shares:
        return float("nan")
    return float(shares[group.id][wrote[a], wrote[b]])
