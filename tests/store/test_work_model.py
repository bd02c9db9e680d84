"""Claims, verdicts, skips, leases that end, revisions in any order, against a model that is a few dicts."""

import itertools
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tunesmith.errors import Conflict
from tunesmith.records import Answer, AnswerGroup, Message, Prompt, Ranking
from tunesmith.store import work
from tunesmith.store.invariants import violations
from tunesmith.store.project import Project, set_project
from tunesmith.store.work import Progress

PEOPLE = ("ann", "bob", "cid", "dee")
GROUPS, LEASE = 4, 600
counter = itertools.count()
who = st.sampled_from(PEOPLE)


@dataclass
class Held:
    labeler: str
    group: str
    until: datetime
    state: str = "live"
    sent: Ranking | None = None


@dataclass
class Model:
    """What should be: claims by token, and each person's verdicts on each group, oldest first."""

    overlap: int = 2
    at: datetime = datetime(2026, 1, 1)
    claims: dict[str, Held] = field(default_factory=dict)
    verdicts: dict[tuple[str, str], list[Ranking]] = field(default_factory=dict)

    def judged(self, group):
        return {p for p in PEOPLE if (given := self.verdicts.get((group, p))) and not given[-1].skipped}

    def taken(self, group):
        return len(self.judged(group) | {h.labeler for h in self.live() if h.group == group})

    def live(self, labeler=None):
        return [h for h in self.claims.values() if h.state == "live" and labeler in (None, h.labeler)]

    def expire(self, but=""):
        for held in self.live():
            if held.until < self.at and held.labeler != but:
                held.state = "expired"


def pick(data, things):
    """One of them, drawn by its place: names differ from run to run."""
    return list(things)[data.draw(st.integers(0, len(things) - 1))]


def machine(workspace, clock):
    """The machine's class, on a workspace that all of its runs share, each with a set of its own."""

    class Work(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.name = f"s{next(counter)}"
            self.model = Model()
            clock.at = self.model.at
            self.groups = [AnswerGroup(Prompt((Message("user", f"{self.name} {n}"),)), (Answer("a"), Answer("b")))
                           for n in range(GROUPS)]
            workspace.add_groups(self.name, self.groups)
            work.priorities(workspace, self.name, {g.id: -n for n, g in enumerate(self.groups)})
            self.set_overlap(2)
            self.ids = itertools.count()

        def set_overlap(self, overlap):
            self.model.overlap = overlap
            set_project(workspace, self.name, Project(
                overlap=overlap, lease_seconds=LEASE, gold_share=0, repeat_share=0), "boss")

        def verdict(self, group, labeler, shown=(), skipped=False, revises=""):
            more = {"skipped": "unclear"} if skipped else {"tiers": ((0,), (1,))}
            return Ranking(f"{self.name}-{next(self.ids)}", group, labeler, shown=shown, revises=revises, **more)

        # ---- what people do

        @rule(labeler=who)
        def claim(self, labeler):
            model = self.model
            model.expire(but=labeler)
            claim = work.claim(workspace, self.name, labeler)
            if mine := model.live(labeler):
                assert model.claims[claim.token] is mine[0]
                mine[0].until = model.at + timedelta(seconds=LEASE)
                return
            free = [g.id for g in self.groups
                    if model.taken(g.id) < model.overlap and (g.id, labeler) not in model.verdicts]
            assert (claim and claim.group.id) == (free[0] if free else None)
            if claim:
                assert claim.token not in model.claims
                model.claims[claim.token] = Held(labeler, claim.group.id, model.at + timedelta(seconds=LEASE))

        @precondition(lambda self: self.model.claims)
        @rule(data=st.data(), skipped=st.booleans())
        def submit(self, data, skipped):
            token = pick(data, self.model.claims)
            held, model = self.model.claims[token], self.model
            ranking = self.verdict(held.group, held.labeler, work.order_shown(token, 2), skipped)
            given = model.verdicts.get((held.group, held.labeler))
            others = [h for h in model.live(held.labeler) if h.group == held.group and h is not held]
            room = held.state == "live" or others or model.taken(held.group) < model.overlap
            if given or not room:
                with pytest.raises(Conflict) as error:
                    work.submit(workspace, ranking, token)
                assert error.value.stored == (given[-1] if given else None) and error.value.given == ranking
                return
            assert work.submit(workspace, ranking, token).new
            for h in (held, *others):
                h.state = "skipped" if skipped else "done"
            held.sent = ranking
            model.verdicts[held.group, held.labeler] = [ranking]

        @precondition(lambda self: any(h.sent for h in self.model.claims.values()))
        @rule(data=st.data())
        def send_again(self, data):
            sent = {token: held.sent for token, held in self.model.claims.items() if held.sent}
            token = pick(data, sent)
            assert not work.submit(workspace, sent[token], token).new

        @precondition(lambda self: self.model.verdicts)
        @rule(data=st.data(), skipped=st.booleans(), newest=st.booleans())
        def revise(self, data, skipped, newest):
            group, labeler = pick(data, self.model.verdicts)
            chain = self.model.verdicts[group, labeler]
            old = chain[-1] if newest else pick(data, chain)
            ranking = self.verdict(group, labeler, skipped=skipped, revises=old.id)
            room = not old.skipped or skipped or self.model.taken(group) < self.model.overlap
            if old is not chain[-1] or not room:
                with pytest.raises(Conflict) as error:
                    work.submit(workspace, ranking)
                assert (error.value.stored, error.value.given) == (chain[-1], ranking)
            else:
                assert work.submit(workspace, ranking).new
                chain.append(ranking)

        @precondition(lambda self: self.model.claims)
        @rule(data=st.data())
        def heartbeat(self, data):
            token = pick(data, self.model.claims)
            held, model = self.model.claims[token], self.model
            room = held.state == "live" or (held.state in ("expired", "released") and not model.live(held.labeler)
                                            and (held.group, held.labeler) not in model.verdicts
                                            and model.taken(held.group) < model.overlap)
            if not room:
                with pytest.raises(Conflict):
                    work.heartbeat(workspace, token, held.labeler)
                return
            held.state, held.until = "live", model.at + timedelta(seconds=LEASE)
            assert datetime.fromisoformat(work.heartbeat(workspace, token, held.labeler)[:-1]) == held.until

        @precondition(lambda self: self.model.claims)
        @rule(data=st.data())
        def release(self, data):
            token = pick(data, self.model.claims)
            held = self.model.claims[token]
            work.release(workspace, token, held.labeler)
            held.state = "released" if held.state == "live" else held.state

        # ---- what happens

        @rule(seconds=st.sampled_from([1, LEASE // 2, LEASE + 1]))
        def wait(self, seconds):
            self.model.at += timedelta(seconds=seconds)
            clock.at = self.model.at

        @rule()
        def sweep(self):
            self.model.expire()
            work.sweep(workspace, self.name)

        @rule()
        def raise_overlap(self):
            if self.model.overlap < 3:
                self.set_overlap(self.model.overlap + 1)

        @invariant()
        def counters_are_right(self):
            model = self.model
            ids = [g.id for g in self.groups]
            mine = sum((id, "ann") in model.verdicts for id in ids)
            assert work.progress(workspace, self.name, "ann") == Progress(
                GROUPS, sum(len(model.judged(id)) >= model.overlap for id in ids), mine,
                sum(model.taken(id) < model.overlap for id in ids), len(model.live()))

        def teardown(self):
            assert violations(workspace, self.name) == []
            for (group, labeler), chain in self.model.verdicts.items():
                assert work.history(workspace, group, labeler) == chain

    return Work


class Clock:
    at = datetime(2026, 1, 1)

    def __call__(self):
        return self.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def run(workspace, monkeypatch, examples, steps):
    clock = Clock()
    monkeypatch.setattr(work, "now", clock)
    run_state_machine_as_test(machine(workspace, clock), settings=settings(
        max_examples=examples, stateful_step_count=steps, deadline=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck)))


def test_the_store_does_what_the_model_does(workspace, monkeypatch):
    run(workspace, monkeypatch, examples=12, steps=40)


@pytest.mark.slow
def test_the_store_does_what_the_model_does_for_ten_thousand_steps(workspace, monkeypatch):
    run(workspace, monkeypatch, examples=200, steps=50)
