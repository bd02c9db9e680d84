"""Figures that take a while, computed beside the pages: how far labelers can be trusted, and what is contested.

A page shows what was computed last and says when. Opening it sets a fresh computation going if there are newer
verdicts, and waits for it no longer than a moment; figures of a large set are made anew only after ten times as long
as they took, so that they never take more than a tenth of one core.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tunesmith.service.words import short
from tunesmith.store import health, sets, team, work
from tunesmith.store.audit import audit
from tunesmith.store.project import gold, project
from tunesmith.store.runs import now

if TYPE_CHECKING:
    from tunesmith.feedback.ability import Fit
    from tunesmith.feedback.agreement import Agreement
    from tunesmith.feedback.trust import Trust
    from tunesmith.records import AnswerGroup
    from tunesmith.store.workspace import Workspace

T = TypeVar("T")
log = logging.getLogger("tunesmith.service")

MOMENT = 0.8
"""Seconds that a page waits for fresh figures."""
REST = 10.0
AT_ONCE = 2
"""Computations of a server at a time."""
UNSETTLED = 1000
"""The newest verdicts, which are counted again: others may still be committed between them."""
KEPT = 500
"""Figures in memory; the oldest go first."""
FIRST = 30
"""Groups at the head of an order that are shown."""
EXAMPLES = 200
"""Contested groups that are listed; all are counted."""


@dataclass(frozen=True, slots=True)
class Contested:
    """A group whose consensus is not certain: how certain, and who said what."""

    group: AnswerGroup
    certainty: float
    votes: tuple[AnswerGroup, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of a set's labelers and groups up to the verdict `seq`."""

    seq: int
    at: str
    seconds: float
    agreement: Agreement
    labelers: tuple[Trust, ...]
    reference: float
    warnings: tuple[str, ...]
    contested: tuple[Contested, ...]
    contested_count: int
    judged: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What counting finds, up to the verdict `seq`; `days` as in `health.day_counts`, `settled` those up to the verdict
    `settled_seq`, in a set of `groups` groups."""

    seq: int
    at: str
    tally: health.Tally
    days: Counter[tuple[date, bool]]
    settled: Counter[tuple[date, bool]]
    settled_seq: int
    groups: int
    unrankable: int


@dataclass(frozen=True, slots=True)
class Change:
    """What dropping a labeler changes.

    Of `groups` that others judged too, on how many the first place goes to another answer (`first`), and the share of
    answer pairs in another order (`order`). `lost` groups were judged by nobody else."""

    groups: int
    first: int
    order: float
    lost: int
    verdicts: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Ranked:
    """In which order the groups of a set that anybody judged should be asked, by the verdicts up to `seq`: how many
    each rule ordered, and the first of them (the question, the priority, why)."""

    seq: int
    at: str
    groups: int
    rules: Mapping[str, int]
    first: tuple[tuple[str, float, str], ...]


@dataclass(frozen=True, slots=True)
class Shown(Generic[T]):
    """What a page can show now: a value (None: none yet), whether a newer one is being made, and what went wrong."""

    value: T | None
    pending: bool
    problem: str = ""


class Board:
    """The figures of all sets of a workspace, each made by one thread at a time."""

    def __init__(self, workspace: Workspace, moment: float = MOMENT):
        self.workspace, self.moment = workspace, moment
        self._seats = threading.Semaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._kept: dict[Any, tuple[Any, Any, float]] = {}  # key -> what it was made from, the value, when to renew
        self._running: dict[Any, threading.Event] = {}
        self._failed: dict[Any, tuple[Any, str]] = {}

    def figures(self, set_name: str) -> Shown[Figures]:
        """The trust in a set's labelers, and its contested groups.

        Raises:
            NotFound: naming the nearest set.
        """
        below = project(self.workspace, set_name).contested_below
        state = (health.newest_verdict(self.workspace), team.quarantined(self.workspace),
                 str(gold(self.workspace, set_name)), below)
        return self._show(("figures", set_name), state, lambda old: self._figures(set_name, state, old))

    def counts(self, set_name: str, patience: float | None = None) -> Shown[Counts]:
        """The verdicts per day, and how many groups have how many; waits `patience` seconds instead of a moment.

        Raises:
            NotFound: naming the nearest set.
        """
        state = health.newest_verdict(self.workspace), project(self.workspace, set_name).overlap
        return self._show(("counts", set_name), state, lambda old: _counts(self.workspace, set_name, state[0], old),
                          patience)

    def without(self, set_name: str, labeler: str) -> Shown[Change]:
        """What the consensus of a set would be without a labeler.

        Raises:
            NotFound: naming the nearest set.
        """
        state = health.newest_verdict(self.workspace), team.quarantined(self.workspace)
        project(self.workspace, set_name)
        return self._show(("without", set_name, labeler), state, lambda _: _without(self.workspace, set_name, labeler))

    def ranked(self, set_name: str) -> Shown[Ranked]:
        """The order in which another verdict teaches most.

        Raises:
            NotFound: naming the nearest set.
        """
        state = health.newest_verdict(self.workspace), team.quarantined(self.workspace)
        project(self.workspace, set_name)
        return self._show(("ranked", set_name), state, lambda _: _ranked(self.workspace, set_name, state[0])[0])

    def reorder(self, set_name: str, by: str) -> Shown[Ranked]:
        """Let groups be asked in that order from now on. Groups that nobody judged keep their place.

        Raises:
            NotFound: naming the nearest set.
        """
        project(self.workspace, set_name)
        key, newest = ("reorder", set_name), health.newest_verdict(self.workspace)

        def make(_: Any) -> Ranked:
            found, priorities = _ranked(self.workspace, set_name, newest)
            work.priorities(self.workspace, set_name, priorities)
            audit(self.workspace, by, "queue.order", set_name, dict(found.rules))
            return found

        with self._lock:
            self._kept.pop(key, None)  # it is done again, whatever was done before
            self._failed.pop(key, None)
        return self._show(key, newest, make)

    def _show(self, key: Any, state: Any, make: Callable[[Any], Any],
              patience: float | None = None) -> Shown[Any]:
        with self._lock:
            made_from, value, renew = self._kept.get(key, (None, None, 0.0))
            running = self._running.get(key)
            if running is None and made_from != state and self._failed.get(key, (None,))[0] != state and \
                    time.monotonic() >= renew:
                running = self._running[key] = threading.Event()
                threading.Thread(target=self._make, args=(key, state, make, value), name=f"figures {key}",
                                 daemon=True).start()  # a server that stops does not wait for it
        if running is not None:
            running.wait(self.moment if patience is None else patience)
        with self._lock:
            made_from, value, _ = self._kept.get(key, (None, None, 0.0))
            failed_on, problem = self._failed.get(key, (None, ""))
            return Shown(value, key in self._running, problem if failed_on == state else "")

    def _make(self, key: Any, state: Any, make: Callable[[Any], Any], old: Any) -> None:
        with self._seats:
            start = time.monotonic()
            try:
                value, problem = make(old), ""
            except Exception:  # a page must say it instead of waiting for ever
                log.exception("figures of %s", key)
                value, problem = old, "it failed; the server's log says more"
            end = time.monotonic()
        with self._lock:
            if problem:
                self._failed[key] = state, problem
            else:
                self._kept[key] = state, value, end + REST * (end - start)
                self._failed.pop(key, None)
            if len(self._kept) > KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._running.pop(key).set()

    def _figures(self, set_name: str, state: Any, old: Figures | None) -> Figures:
        with self._lock:
            before = self._kept.get(("figures", set_name), (None,))[0]
        if old and before and before[1:] == state[1:] and not health.newest_of(
                self.workspace, set_name, old.seq, state[0]):
            return replace(old, seq=state[0])  # the new verdicts are on other sets
        return _figures(self.workspace, set_name, state[0], state[3])


def _figures(workspace: Workspace, set_name: str, newest: int, below: float) -> Figures:
    from tunesmith.feedback import ability, agreement, groups, queue, trust

    start = time.monotonic()
    known, quarantined = gold(workspace, set_name), team.quarantined(workspace)
    stored, rankings = health.judged_groups(workspace, set_name), workspace.rankings(set_name)
    found = trust.report(stored, rankings, gold=known, quarantined=quarantined)
    voices = groups.ranked(stored, rankings, without=quarantined, merged=False)
    contested = {id: ability.certainty(found.fit, g) for g in stored if g.id not in known
                 for id in queue.contested([g], found.fit, below)}
    worst = sorted(contested, key=lambda id: (contested[id], id))[:EXAMPLES]
    by_id, votes = {g.id: g for g in stored if g.id in set(worst)}, groups.by_item(voices)
    return Figures(newest, now(), time.monotonic() - start, agreement.agreement(voices), found.labelers,
                   found.fit.reference, found.warnings,
                   tuple(Contested(by_id[id], contested[id], tuple(votes.get(id, ()))) for id in worst),
                   len(contested), len(stored))


def _counts(workspace: Workspace, set_name: str, newest: int, old: Counts | None) -> Counts:
    """Past days are counted once, and the newest verdicts again each time: on PostgreSQL one with a lower number may be
    committed after one with a higher. All are counted again when groups have joined, with verdicts of another set."""
    groups = work.progress(workspace, set_name).count
    known = old if old and old.groups == groups else None
    before, since = (known.settled, known.settled_seq) if known else (Counter[tuple[date, bool]](), 0)
    until = max(newest - UNSETTLED, since)
    settled = before + health.day_counts(workspace, set_name, since, until)
    days = settled + health.day_counts(workspace, set_name, until, newest)
    return Counts(newest, now(), health.tally(workspace, set_name), days, settled, until, groups,
                  sets.unrankable(workspace, set_name))


def _ranked(workspace: Workspace, set_name: str, newest: int) -> tuple[Ranked, dict[str, float]]:
    """The order, and the priority of every group that anybody judged."""
    from tunesmith.feedback import ability, groups, queue

    stored = {g.id: g for g in health.judged_groups(workspace, set_name)}
    voices = groups.ranked(list(stored.values()), workspace.rankings(set_name), merged=False,
                           without=team.quarantined(workspace))
    found = queue.order(stored.values(), ability.fit(voices) if voices else None)
    first = sorted(found, key=lambda id: -found[id].priority)[:FIRST]
    return (Ranked(newest, now(), len(found), queue.rules(found), tuple(
        (short(stored[id].prompt.messages[-1].content), found[id].priority, found[id].why) for id in first)),
        {id: ordering.priority for id, ordering in found.items()})


def _without(workspace: Workspace, set_name: str, labeler: str) -> Change:
    from tunesmith.feedback import ability, groups

    start = time.monotonic()
    quarantined = team.quarantined(workspace) - {labeler}
    known = gold(workspace, set_name)
    stored = {g.id: g for g in health.judged_groups(workspace, set_name) if g.id not in known}
    voices = groups.ranked(stored.values(), workspace.rankings(set_name), without=quarantined, merged=False)
    mine = [g for g in voices if g.labeler == labeler]
    others = [g for g in voices if g.labeler != labeler]
    one, two = ability.fit(voices), ability.fit(others)
    judged = {g.id for g in others}
    first = compared = pairs = turned = 0
    for group in stored.values():
        if group.id not in judged:
            continue
        before, after = ability.consensus(one, group), ability.consensus(two, group)
        if before is None or after is None:
            continue
        compared += 1
        first += before.tiers[0] != after.tiers[0]
        order, other = _order(one, group), _order(two, group)
        both = order.keys() & other.keys()
        pairs += len(both)
        turned += sum(order[ij] != other[ij] for ij in both)
    lost = len({g.id for g in mine} - judged)
    return Change(compared, first, turned / pairs if pairs else 0.0, lost, len(mine), time.monotonic() - start)


def _order(fit: Fit, group: AnswerGroup) -> dict[tuple[int, int], bool]:
    """For every two answers that were compared, whether the first has the higher score."""
    scores = fit.scores(group)
    known = [i for i, s in enumerate(scores) if s == s]
    return {(i, j): bool(scores[i] > scores[j]) for n, i in enumerate(known) for j in known[n + 1:]}
