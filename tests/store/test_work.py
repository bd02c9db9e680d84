"""Claims and what comes back: nobody gets a place too many, what is acknowledged is stored once."""

import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from postgres import sqlite_only

from tunesmith.errors import Conflict, DataError, NotFound
from tunesmith.records import Answer, AnswerGroup, Message, Prompt, Ranking
from tunesmith.store import sets, tables, team, work
from tunesmith.store.invariants import violations
from tunesmith.store.project import Project, set_gold, set_project
from tunesmith.store.work import Progress

PLAIN = Project(gold_share=0, repeat_share=0)


def group(n, answers=3):
    prompt = Prompt((Message("user", f"question {n}"),))
    return AnswerGroup(prompt, tuple(Answer(f"answer {k}") for k in range(answers)))


def verdict(claim, labeler, id="", **more):
    fields = {"tiers": ((0,), (1, 2)), "shown": claim.shown, **more}
    return Ranking(id or claim.token, claim.group.id, labeler, **fields)


def skip(claim, labeler, id=""):
    return verdict(claim, labeler, id, tiers=(), skipped="I cannot judge this")


@pytest.fixture
def clock(monkeypatch):
    """Server time that stands still until it is moved by seconds."""
    class Clock:
        at = datetime(2026, 11, 21, 12)

        def __call__(self):
            return self.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

        def move(self, seconds):
            self.at += timedelta(seconds=seconds)

    clock = Clock()
    monkeypatch.setattr(work, "now", clock)
    return clock


def make(workspace, groups=3, **settings):
    workspace.add_groups("s", [group(n) for n in range(groups)])
    set_project(workspace, "s", PLAIN.model_copy(update=settings), "boss")


def judge(workspace, labeler, count=10_000, name="s", **more):
    """Claim and submit until `count` verdicts are in or nothing is left; the claims."""
    claims = []
    while len(claims) < count and (claim := work.claim(workspace, name, labeler)):
        assert work.submit(workspace, verdict(claim, labeler, **more), claim.token).new
        claims.append(claim)
    return claims


# ---- claims

def test_a_labeler_gets_one_group_at_a_time_and_each_once(workspace):
    make(workspace, 3)
    claim = work.claim(workspace, "s", "ann")
    again = work.claim(workspace, "s", "ann")
    assert (again.token, again.shown, again.group) == (claim.token, claim.shown, claim.group)
    assert sorted(claim.shown) == [0, 1, 2] and claim.purpose == "" and claim.set_name == "s"
    claims = judge(workspace, "ann")
    assert {c.group.id for c in claims} == {group(n).id for n in range(3)}
    assert work.claim(workspace, "s", "ann") is None
    assert work.progress(workspace, "s", "ann") == Progress(count=3, done=0, mine=3, open=3, live=0)


def test_two_people_share_a_group_a_third_does_not_get_it(workspace):
    make(workspace, 1)
    first, second = work.claim(workspace, "s", "ann"), work.claim(workspace, "s", "bob")
    assert first.group == second.group and first.token != second.token
    assert work.claim(workspace, "s", "cid") is None
    work.release(workspace, first.token, "ann")
    third = work.claim(workspace, "s", "cid")
    assert third is not None and work.claim(workspace, "s", "ann") is None
    assert work.progress(workspace, "s") == Progress(1, 0, 0, open=0, live=2)


def test_the_order_of_the_answers_is_random_and_stays(workspace):
    make(workspace, 60)
    firsts = Counter(c.shown[0] for c in judge(workspace, "ann"))
    assert set(firsts) == {0, 1, 2} and max(firsts.values()) < 35
    stored = {r.group: r.shown for r in workspace.rankings("s")}
    assert len(set(stored.values())) >= 4


def test_high_priority_comes_first_unless_the_order_is_random(workspace):
    make(workspace, 20)
    work.priorities(workspace, "s", {group(n).id: n / 10 for n in range(20)})
    assert [c.group for c in judge(workspace, "ann", 5)] == [group(n) for n in (19, 18, 17, 16, 15)]
    set_project(workspace, "s", PLAIN.model_copy(update={"order": "random"}), "boss")
    random = [c.group.id for c in judge(workspace, "bob")]
    assert random != [group(n).id for n in range(19, -1, -1)] and len(set(random)) == 20
    with pytest.raises(DataError, match="must be a finite number"):
        work.priorities(workspace, "s", {group(0).id: float("nan")})


def test_a_lease_that_ends_gives_the_place_to_others(workspace, clock):
    make(workspace, 1, overlap=1)
    claim = work.claim(workspace, "s", "ann")
    clock.move(1799)
    assert work.claim(workspace, "s", "bob") is None
    until = work.heartbeat(workspace, claim.token, "ann")
    assert until == "2026-11-21T12:59:59.000000Z"
    clock.move(1801)
    taken = work.claim(workspace, "s", "bob")
    assert taken.group == claim.group
    with pytest.raises(Conflict, match="given to others in the meantime") as error:
        work.submit(workspace, verdict(claim, "ann"), claim.token)
    assert error.value.given == verdict(claim, "ann") and error.value.stored is None
    with pytest.raises(Conflict, match="given to others"):
        work.heartbeat(workspace, claim.token, "ann")
    assert work.submit(workspace, verdict(taken, "bob"), taken.token).new
    assert [r.labeler for r in workspace.rankings("s")] == ["bob"]


@pytest.mark.parametrize("end", ["expire", "release"])
def test_who_comes_back_in_time_gets_the_place_again(workspace, clock, end):
    make(workspace, 2, overlap=1)
    first, second = work.claim(workspace, "s", "ann"), work.claim(workspace, "s", "bob")
    if end == "expire":
        clock.move(1801)
        assert work.sweep(workspace) == 2 and work.sweep(workspace, "s") == 0
    else:
        work.release(workspace, first.token, "ann")
        work.release(workspace, second.token, "bob")
    assert work.progress(workspace, "s").live == 0
    work.heartbeat(workspace, first.token, "ann")
    assert work.claim(workspace, "s", "ann").token == first.token
    assert work.submit(workspace, verdict(second, "bob"), second.token).new
    assert work.progress(workspace, "s") == Progress(2, 1, 0, open=0, live=1)


def test_an_old_page_of_a_group_claimed_anew_may_still_send(workspace, clock):
    make(workspace, 1, overlap=1)
    old = work.claim(workspace, "s", "ann")
    clock.move(1801)
    work.sweep(workspace)
    new = work.claim(workspace, "s", "ann")
    assert new.group == old.group and new.token != old.token
    assert work.submit(workspace, verdict(old, "ann"), old.token).new
    with pytest.raises(Conflict, match="judged this group already") as error:
        work.submit(workspace, verdict(new, "ann"), new.token)
    assert error.value.stored.id == old.token and error.value.given.id == new.token


def test_ones_own_late_page_needs_no_sweep(workspace, clock):
    make(workspace, 1, overlap=1)
    claim = work.claim(workspace, "s", "ann")
    clock.move(100_000)
    assert work.claim(workspace, "s", "ann").token == claim.token
    clock.move(100_000)
    assert work.submit(workspace, verdict(claim, "ann"), claim.token).new


def test_a_token_is_of_one_labeler_and_one_group(workspace):
    make(workspace, 2)
    claim = work.claim(workspace, "s", "ann")
    for call in (lambda: work.heartbeat(workspace, claim.token, "bob"),
                 lambda: work.release(workspace, claim.token, "bob"),
                 lambda: work.submit(workspace, verdict(claim, "bob"), claim.token),
                 lambda: work.submit(workspace, verdict(claim, "ann"), "0" * 32),
                 lambda: work.submit(workspace, verdict(claim, "ann"))):
        with pytest.raises(NotFound, match="no such claim"):
            call()
    other = next(group(n) for n in range(2) if group(n) != claim.group)
    with pytest.raises(DataError, match="another group than the claim"):
        work.submit(workspace, replace(verdict(claim, "ann"), group=other.id), claim.token)
    with pytest.raises(DataError, match="order shown is not"):
        work.submit(workspace, verdict(claim, "ann", shown=claim.shown[::-1]), claim.token)
    with pytest.raises(DataError, match='purpose is "gold"'):
        work.submit(workspace, verdict(claim, "ann", purpose="gold"), claim.token)
    with pytest.raises(DataError, match="answer 7 is ranked"):
        work.submit(workspace, verdict(claim, "ann", tiers=((7,),)), claim.token)
    assert workspace.rankings("s") == []
    assert work.submit(workspace, verdict(claim, "ann"), claim.token).new


def test_a_closed_set_gives_out_nothing_and_takes_what_was_claimed(workspace):
    make(workspace, 2)
    claim = work.claim(workspace, "s", "ann")
    set_project(workspace, "s", PLAIN.model_copy(update={"open": False}), "boss")
    assert work.claim(workspace, "s", "bob") is None
    assert work.claim(workspace, "s", "ann").token == claim.token
    assert work.submit(workspace, verdict(claim, "ann"), claim.token).new
    assert work.claim(workspace, "s", "ann") is None


def test_a_set_that_is_not_there_is_named(workspace):
    make(workspace)
    for call in (work.claim, work.progress, work.last):
        with pytest.raises(NotFound, match=r"did you mean|there is: s"):
            call(workspace, "ss", "ann")
    with pytest.raises(DataError, match="labeler's name"):
        work.claim(workspace, "s", " ")


# ---- verdicts

def test_the_same_id_again_is_stored_once(workspace):
    make(workspace, 2)
    claim = work.claim(workspace, "s", "ann")
    assert work.submit(workspace, verdict(claim, "ann"), claim.token).new
    assert not work.submit(workspace, verdict(claim, "ann"), claim.token).new
    assert not work.submit(workspace, verdict(claim, "ann"), "").new
    other = work.claim(workspace, "s", "bob")
    with pytest.raises(DataError, match="is taken by the verdict of ann"):
        work.submit(workspace, verdict(other, "bob", id=claim.token), other.token)
    assert len(workspace.rankings("s")) == 1 and work.claim(workspace, "s", "bob").token == other.token


def test_a_second_tab_is_told_what_the_first_one_stored(workspace):
    make(workspace, 1)
    claim = work.claim(workspace, "s", "ann")
    work.submit(workspace, verdict(claim, "ann", "one"), claim.token)
    with pytest.raises(Conflict, match="change that verdict instead") as error:
        work.submit(workspace, verdict(claim, "ann", "two", tiers=((2,), (0, 1))), claim.token)
    assert (error.value.stored.id, error.value.given.id, error.value.status) == ("one", "two", 409)
    with pytest.raises(Conflict, match="judged already"):
        work.heartbeat(workspace, claim.token, "ann")
    work.release(workspace, claim.token, "ann")
    assert work.progress(workspace, "s", "ann").mine == 1


def test_a_skip_gives_the_place_back_and_is_not_asked_again(workspace):
    make(workspace, 1, overlap=1)
    claim = work.claim(workspace, "s", "ann")
    assert work.submit(workspace, skip(claim, "ann"), claim.token).new
    assert work.claim(workspace, "s", "ann") is None
    assert work.progress(workspace, "s", "ann") == Progress(1, 0, mine=1, open=1, live=0)
    assert len(judge(workspace, "bob")) == 1
    with pytest.raises(Conflict, match="others have judged this group since you skipped it"):
        work.submit(workspace, verdict(claim, "ann", "again", revises=claim.token))


def test_revisions_are_kept_and_only_the_newest_can_be_revised(workspace):
    make(workspace, 1)
    claim = work.claim(workspace, "s", "ann")
    work.submit(workspace, verdict(claim, "ann", "one"), claim.token)
    assert work.last(workspace, "s", "ann").id == "one" and work.last(workspace, "s", "bob") is None
    revised = verdict(claim, "ann", "two", tiers=((2,), (0, 1)), revises="one")
    assert work.submit(workspace, revised).new and not work.submit(workspace, revised).new
    with pytest.raises(Conflict, match="was changed already") as error:
        work.submit(workspace, verdict(claim, "ann", "three", revises="one"))
    assert (error.value.stored, error.value.given.id) == (revised, "three")
    with pytest.raises(NotFound, match='no verdict "one" of yours'):
        work.submit(workspace, verdict(claim, "bob", "four", revises="one"))
    assert [r.id for r in work.history(workspace, claim.group.id, "ann")] == ["one", "two"]
    assert work.last(workspace, "s", "ann") == revised
    assert [r.id for r in workspace.rankings("s", latest=True)] == ["two"]
    assert work.progress(workspace, "s", "ann") == Progress(1, 0, 1, 1, 0)


def test_a_verdict_withdrawn_into_a_skip_and_given_again(workspace):
    make(workspace, 1, overlap=1)
    (claim,) = judge(workspace, "ann")
    work.submit(workspace, skip(claim, "ann", "two") and replace(skip(claim, "ann", "two"), revises=claim.token))
    assert work.progress(workspace, "s").open == 1
    work.submit(workspace, verdict(claim, "ann", "three", revises="two"))
    assert work.progress(workspace, "s") == Progress(1, 1, 0, 0, 0)


def test_verdicts_from_elsewhere_count_and_simulated_ones_do_not(workspace):
    make(workspace, 2)
    claim = work.claim(workspace, "s", "ann")
    workspace.add_rankings([Ranking("sim", claim.group.id, "robot", ((0,),), simulated=True),
                            Ranking("mail", claim.group.id, "ann", ((0,), (1,)))])
    assert work.claim(workspace, "s", "ann").group != claim.group
    with pytest.raises(Conflict, match="judged this group already"):
        work.submit(workspace, verdict(claim, "ann"), claim.token)
    workspace.add_rankings([Ranking(who, claim.group.id, who, ((1,),)) for who in ("bob", "cid")])
    assert work.progress(workspace, "s").done == 1
    m = tables.members.c
    with workspace.database.read() as c:
        assert tuple(c.execute(sa.select(m.taken, m.done).where(m.group_id == claim.group.id)).one()) == (3, 3)


def test_a_group_in_two_sets_has_its_places_once(workspace):
    make(workspace, 1)
    workspace.add_groups("t", [group(0), group(1)])
    set_project(workspace, "t", PLAIN, "boss")
    judge(workspace, "ann")
    work.claim(workspace, "s", "bob")
    assert work.claim(workspace, "t", "cid").group == group(1) and work.claim(workspace, "t", "bob").group == group(1)
    workspace.add_groups("u", [group(0)])
    assert work.progress(workspace, "u").open == 0


def test_a_changed_overlap_opens_and_closes(workspace):
    make(workspace, 2, overlap=1)
    judge(workspace, "ann")
    assert work.progress(workspace, "s") == Progress(2, 2, 0, 0, 0)
    set_project(workspace, "s", PLAIN.model_copy(update={"overlap": 3}), "boss")
    assert len(judge(workspace, "bob")) == 2
    set_project(workspace, "s", PLAIN.model_copy(update={"overlap": 2}), "boss")
    assert work.claim(workspace, "s", "cid") is None and work.progress(workspace, "s").done == 2


# ---- test questions, second looks, reviews

def test_test_questions_come_among_the_rest_and_take_nobodys_place(workspace):
    make(workspace, 60, gold_share=0.2, overlap=1)
    known = {group(n).id for n in range(5)}
    for n in range(5):
        set_gold(workspace, "s", group(n).id, ((0,), (1, 2)), "boss")
    assert work.progress(workspace, "s").open == 55
    claims = judge(workspace, "ann", 50)
    assert {c.group.id for c in claims if c.purpose == "gold"} <= known
    assert 1 <= sum(c.purpose == "gold" for c in claims) <= 5
    assert not known & {c.group.id for c in claims if not c.purpose}
    stored = {r.group: r.purpose for r in workspace.rankings("s")}
    assert stored == {c.group.id: c.purpose for c in claims}
    assert work.progress(workspace, "s", "ann").mine == 50
    again = judge(workspace, "bob")
    assert {c.group.id for c in again if c.purpose == "gold"} <= known
    for n in range(5):
        set_gold(workspace, "s", group(n).id, None, "boss")
    assert work.claim(workspace, "s", "cid").group.id in known
    with pytest.raises(DataError, match="at least two tiers"):
        set_gold(workspace, "s", group(9).id, ((0, 1, 2),), "boss")
    with pytest.raises(NotFound, match="no answer group"):
        set_gold(workspace, "s", group(99).id, ((0,), (1,)), "boss")


def test_second_looks_come_once_and_late(workspace):
    make(workspace, 80, repeat_share=0.2, overlap=1)
    claims = judge(workspace, "ann")
    again = [n for n, c in enumerate(claims) if c.purpose == "repeat"]
    assert 1 <= len(again) <= 50 and len(claims) == 80 + len(again)
    first = {c.group.id: n for n, c in enumerate(claims) if not c.purpose}
    assert all(n - first[claims[n].group.id] >= work.REPEAT_AFTER for n in again)
    assert len({claims[n].group.id for n in again}) == len(again)
    assert work.progress(workspace, "s", "ann").mine == len(claims) and work.progress(workspace, "s").done == 80
    look = claims[again[0]]
    work.submit(workspace, verdict(look, "ann", "better", tiers=((2,), (0, 1)), revises=look.token))
    assert [r.purpose for r in work.history(workspace, look.group.id, "ann")] == ["", "repeat", "repeat"]


def test_reloading_does_not_draw_again(workspace):
    make(workspace, 30, gold_share=0.2)
    for n in range(3):
        set_gold(workspace, "s", group(n).id, ((0,), (1, 2)), "boss")
    for _ in range(20):
        claim = work.claim(workspace, "s", "ann")
        assert {work.claim(workspace, "s", "ann").token for _ in range(3)} == {claim.token}
        work.submit(workspace, verdict(claim, "ann"), claim.token)


def test_contested_groups_go_to_one_reviewer_who_has_not_judged_them(workspace):
    make(workspace, 3)
    (judged, *_), _ = judge(workspace, "ann"), judge(workspace, "bob")
    assert work.mark_contested(workspace, "s", [judged.group.id, "0" * 16]) == 1
    assert work.mark_contested(workspace, "s", [judged.group.id]) == 0
    assert work.contested(workspace, "s") == [judged.group.id]
    assert work.claim(workspace, "s", "cid") is None and work.claim(workspace, "s", "ann", "admin") is None
    claim = work.claim(workspace, "s", "rea", "reviewer")
    assert (claim.group, claim.purpose) == (judged.group, "review")
    assert work.claim(workspace, "s", "max", "manager") is None
    work.submit(workspace, verdict(claim, "rea"), claim.token)
    assert work.contested(workspace, "s") == [] and workspace.rankings("s")[-1].purpose == "review"
    assert work.mark_contested(workspace, "s", [judged.group.id]) == 0
    assert work.progress(workspace, "s").done == 3


def test_a_review_that_is_skipped_waits_for_another_reviewer(workspace):
    make(workspace, 1)
    judge(workspace, "ann")
    work.mark_contested(workspace, "s", [group(0).id])
    claim = work.claim(workspace, "s", "rea", "reviewer")
    work.submit(workspace, skip(claim, "rea"), claim.token)
    assert work.claim(workspace, "s", "max", "reviewer").purpose == "review"


# ---- many at once

@pytest.mark.parametrize("overlap", [1, 2])
def test_many_threads_fill_every_place_and_none_too_many(workspace, overlap):
    make(workspace, 40, overlap=overlap)
    people = [f"p{n}" for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        claims = [c for done in pool.map(lambda who: judge(workspace, who), people) for c in done]
    assert Counter(c.group.id for c in claims) == {group(n).id: overlap for n in range(40)}
    assert work.progress(workspace, "s") == Progress(40, 40, 0, 0, 0)
    assert violations(workspace) == []


def test_one_group_for_fifty_people(workspace):
    make(workspace, 1, overlap=1)
    with ThreadPoolExecutor(16) as pool:
        claims = list(pool.map(lambda n: work.claim(workspace, "s", f"p{n}"), range(50)))
    (got,) = [c for c in claims if c is not None]
    assert got.group == group(0)


def test_one_labeler_in_many_tabs_holds_one_claim_and_judges_once(workspace):
    make(workspace, 5)
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: work.claim(workspace, "s", "ann"), range(16)))
        assert len({c.token for c in claims}) == 1

        def send(n):
            try:
                return work.submit(workspace, verdict(claims[n], "ann", id=f"tab-{n % 4}"), claims[n].token).new
            except Conflict:
                return "conflict"

        answers = Counter(pool.map(send, range(16)))
    assert answers == {True: 1, False: 3, "conflict": 12}
    assert len(workspace.rankings("s")) == 1


def test_claims_and_leases_that_end_at_the_same_moment(workspace, clock):
    make(workspace, 30, overlap=1)
    for n in range(30):
        work.claim(workspace, "s", f"gone{n}")
    clock.move(1801)
    start = threading.Barrier(8)

    def run(who):
        start.wait()
        return [c.group.id for c in judge(workspace, who)]

    with ThreadPoolExecutor(8) as pool:
        judged = [id for ids in pool.map(run, [f"p{n}" for n in range(8)]) for id in ids]
    assert sorted(judged) == sorted(group(n).id for n in range(30))


def test_several_processes_share_the_work(workspace):
    make(workspace, 20)
    code = """
import sys
from tunesmith.records import Ranking
from tunesmith.store import work
from tunesmith.store.workspace import Workspace
w, who = Workspace.open(sys.argv[1]), sys.argv[2]
while claim := work.claim(w, "s", who):
    work.submit(w, Ranking(claim.token, claim.group.id, who, ((0,), (1, 2)), claim.shown), claim.token)
    print(claim.group.id)
"""
    children = [subprocess.Popen([sys.executable, "-c", code, str(workspace.root), f"p{n}"], text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE) for n in range(3)]
    judged = [line for c in children for line in c.communicate(timeout=120)[0].split()]
    assert [c.returncode for c in children] == [0, 0, 0]
    assert Counter(judged) == {group(n).id: 2 for n in range(20)}
    assert work.progress(workspace, "s") == Progress(20, 20, 0, 0, 0)


@sqlite_only
@pytest.mark.parametrize("order", ["informative", "random"])
def test_an_index_finds_the_next_group_whatever_the_size_of_the_set(workspace, order):
    make(workspace, 30, order=order, gold_share=0.2)
    set_gold(workspace, "s", group(0).id, ((0,), (1, 2)), "boss")
    work.mark_contested(workspace, "s", [group(1).id])
    seen = {}
    engines = workspace.database._reading, workspace.database._writing
    for engine in engines:
        sa.event.listen(engine, "before_cursor_execute", lambda c, cursor, sql, values, *_: seen.update({sql: values}))
    judge(workspace, "ann")
    work.claim(workspace, "s", "rea", "reviewer")
    work.progress(workspace, "s", "ann")
    work.contested(workspace, "s")
    queries = {sql: values for sql, values in seen.items() if sql.startswith("SELECT") and "FROM" in sql}
    assert len(queries) > 15
    with workspace.database.read() as c:
        for sql, values in queries.items():
            plan = str([row[3] for row in c.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)])
            assert not any(f"SCAN {table}" in plan for table in ("members", "rankings", "claims", "groups")), sql
            if "max(members.position)" not in sql:  # what reads along these indexes reads the whole set
                assert "ix_members_set_seq_position" not in plan and "set_seq_shuffled" not in plan, (sql, plan)
            if "LIMIT" in sql and "contested" not in sql:
                assert "TEMP B-TREE FOR ORDER" not in plan, (sql, plan)


def test_a_quarantine_frees_the_places_and_its_end_takes_them_again(workspace):
    make(workspace, 3)
    for who in ("ann", "bob"):
        for _ in range(3):
            held = work.claim(workspace, "s", who)
            work.submit(workspace, verdict(held, who), held.token)
    assert work.claim(workspace, "s", "cid") is None and work.progress(workspace, "s").done == 3
    team.quarantine(workspace, "bob", "always the first", "boss")
    assert violations(workspace) == []
    assert (work.progress(workspace, "s").done, work.progress(workspace, "s").open) == (0, 3)
    held = work.claim(workspace, "s", "cid")
    work.submit(workspace, verdict(held, "cid"), held.token)
    assert work.progress(workspace, "s").done == 1
    team.lift(workspace, "bob", "talked", "boss")
    assert work.progress(workspace, "s").done == 3 and violations(workspace) == []


def test_imports_at_the_same_time_give_every_group_its_own_place(workspace):
    """Four importers into one set: 121 groups at the places 0 to 120, and every page of them is complete."""
    workspace.add_groups("s", [group(1000)])
    with ThreadPoolExecutor(4) as pool:
        parts = [[group(100 * n + i) for i in range(30)] for n in range(4)]
        for part in [pool.submit(workspace.add_groups, "s", part[m:m + 10]) for part in parts for m in (0, 10, 20)]:
            part.result()
    with workspace.database.read() as c:
        places = c.scalars(sa.select(tables.members.c.position).order_by(tables.members.c.position)).all()
    assert places == list(range(121)) and work.progress(workspace, "s").count == 121
    paged = [g.id for start in range(0, 130, 10) for g in sets.some_groups(workspace, "s", start, 10)]
    assert len(paged) == len(set(paged)) == 121 and violations(workspace) == []
