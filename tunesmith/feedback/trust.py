"""How far each labeler's judgements can be trusted, with what it rests on, and what to do about it.

Nothing is decided here: an action is recommended with its reasons, a person takes it, and it can be taken back. Speed,
taste or habit alone never lead to more than a talk. Left out: anything about a labeler but their judgements.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from tunesmith.feedback.ability import ENOUGH_SHARED, Fit, Standing, fit, standing
from tunesmith.feedback.agreement import Gold, gold_accuracy, leave_one_out, self_consistency
from tunesmith.feedback.detect import Suspicion, detect
from tunesmith.feedback.groups import pairs, ranked
from tunesmith.records import AnswerGroup, Ranking, Tiers
from tunesmith.statistics import Interval

Action = Literal["fine", "talk", "quarantine"]

HARMFUL = ("inverted", "collusion", "targeted", "trigger")
"""What `detect` finds that would spoil what is learned, not only blur it."""
SURE = 0.01
"""The false-discovery rate below which such a finding alone is reason for a quarantine; above it, for a talk."""
SAID: dict[Standing, tuple[str, ...]] = {"inverted": ("inverted", "careless"), "careless": ("careless",),
                                         "position-biased": ("position", "careless")}
"""What `detect` finds too where the fit has said it already."""


@dataclass(frozen=True, slots=True)
class Trust:
    """One labeler. `verdicts` are on different groups, `share` is of all pairs judged, `seconds` the median verdict's.

    `others` is agreement with the consensus of the others, `myself` that of second looks; both nan, with n = 0, where
    there was nothing to compare. `gold` is None without test questions. `action` is recommended, for `reasons`.
    """

    labeler: str
    verdicts: int
    share: float
    ability: Interval
    position: Interval
    shared: int
    standing: Standing
    others: Interval
    myself: Interval
    gold: Gold | None
    seconds: float
    suspicions: tuple[Suspicion, ...]
    action: Action
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All labelers, those to act on first, and what the data cannot tell."""

    labelers: tuple[Trust, ...]
    fit: Fit
    warnings: tuple[str, ...]


def report(groups: Iterable[AnswerGroup], rankings: Iterable[Ranking], *, gold: Mapping[str, Tiers] | None = None,
           quarantined: Collection[str] = (), seed: int = 0) -> Report:
    """Everything known about the labelers of a set.

    Args:
        groups: the set's groups.
        rankings: all of its rankings, in the order they came.
        gold: the known order of the test questions, by group.
        quarantined: labelers who are shown but have no say in the scores that the others are measured by.
    """
    stored = {g.id: g for g in groups}
    every = list(rankings)
    judged = ranked(stored.values(), every, merged=False)
    found = fit(judged, weights=dict.fromkeys(quarantined, 0.0))
    suspicions: dict[str, list[Suspicion]] = defaultdict(list)
    for s in detect(found, every, seed=seed):
        suspicions[s.labeler].append(s)
    others, again = leave_one_out(found), self_consistency(stored, every)
    known = gold_accuracy(stored, every, gold or {})
    counted, verdicts = Counter[str](), Counter[str]()
    for g in judged:
        counted[g.labeler] += len(pairs(g, "half"))
        verdicts[g.labeler] += 1
    total = max(1, counted.total())
    seconds: dict[str, list[float]] = defaultdict(list)
    for r in every:
        seconds[r.labeler] += [r.seconds] if r.seconds > 0 and not r.skipped else []
    rows = []
    for name, about in found.labelers.items():
        judgement = standing(found, name)
        action, reasons = recommend(judgement, about.shared, known.get(name), suspicions[name])
        rows.append(Trust(name, verdicts[name], counted[name] / total, about.ability, about.position, about.shared,
                          judgement, others[name], again.get(name, _NOTHING), known.get(name),
                          median(seconds[name]) if seconds[name] else 0.0, tuple(suspicions[name]), action, reasons))
    order = {"quarantine": 0, "talk": 1, "fine": 2}
    return Report(tuple(sorted(rows, key=lambda t: (order[t.action], t.ability.value))), found, found.warnings)


def recommend(judgement: Standing, shared: int, gold: Gold | None,
              suspicions: Sequence[Suspicion]) -> tuple[Action, tuple[str, ...]]:
    """What to do about a labeler, and why, in sentences for the owner and for the labeler."""
    grave: list[str] = []
    slight: list[str] = []
    if judgement == "inverted":
        grave.append("ranks best what others rank worst: perhaps the scale is upside down")
    if judgement == "careless":
        grave.append("what they rank hardly depends on the answers, as far as the others can tell")
    if judgement == "position-biased":
        slight.append("prefers what is shown first, or last")
    if gold and gold.decision == "fail":
        grave.append(f"failed the test questions: {gold.accuracy.value:.0%} of {gold.accuracy.n} right")
    for s in suspicions:
        if s.kind not in SAID.get(judgement, ()):
            (grave if s.kind in HARMFUL and s.q < SURE else slight).append(f"{s.kind}: {s.detail}")
    if grave:
        return "quarantine", (*grave, *slight)
    if slight:
        return "talk", tuple(slight)
    if shared < ENOUGH_SHARED:
        return "fine", ("little is known yet: few others judged the same answers",)
    return "fine", ()


def capped(weights: Mapping[str, float], cap: float) -> dict[str, float]:
    """What each labeler's weight is to be multiplied by so that nobody has more than a share `cap` of the whole.

    With fewer than 1 / cap labelers that cannot be, and nobody is cut: a team of two may share the work unevenly.
    """
    present = {name: w for name, w in weights.items() if w > 0}
    factors = dict.fromkeys(weights, 1.0)
    if len(present) * cap <= 1:
        return factors
    over: set[str] = set()
    while True:
        rest = sum(w for name, w in present.items() if name not in over)
        limit = cap * rest / (1 - cap * len(over))
        more = {name for name, w in present.items() if name not in over and w > limit * (1 + 1e-9)} if over else {
            name for name, w in present.items() if w > cap * rest * (1 + 1e-9)}
        if not more:
            return {**factors, **{name: limit / present[name] for name in over}}
        over |= more


_NOTHING = Interval(float("nan"), 0.0, 1.0, 0)
