"""Rounds of a loop on a tiny model: what each step makes, whom it waits for, what is adopted, and the way back."""

import tomllib
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import tiny

from tunesmith import cli, loop, rounds
from tunesmith.commands import rounds as commands
from tunesmith.errors import UserError
from tunesmith.feedback import drift, simulated
from tunesmith.feedback.simulated import SimulatedLabeler
from tunesmith.records import Answer, AnswerGroup, Interaction, Message, Prompt, Ranking
from tunesmith.settings import RoundSettings
from tunesmith.shop import Judge, Shop
from tunesmith.store import interactions as log
from tunesmith.store import loops, team
from tunesmith.store.erasure import forget, uses
from tunesmith.store.workspace import Workspace


class Longest:
    """The longer answer is better."""

    def score(self, prompt, answers):
        return [float(len(a)) for a in answers]


@pytest.fixture
def shop(tmp_path):
    base = str(tiny.save(tmp_path / "base"))
    shop = Shop(Workspace.open(tmp_path / "ws"), lambda _: nullcontext(lambda *_: None),
                judges={"longest": lambda: Judge("longer", Longest())})
    rounds.fresh(shop, base, "start")
    add_week(shop, 1)
    return shop


def add_week(shop, number):
    shop.workspace.add_dataset(f"week-{number}", "prompts", [
        Prompt((Message("user", f"Which rate {number} {n}?"),)) for n in range(24)])


def settings(gate="", **values):
    return RoundSettings(**{
        "name": "desk", "start": "start", "prompts": ("week-*",), "labels": 12, "overlap": 2, "answers": 2,
        "judge": "longest", "tests": 4, "held_out": 0.3, "gate": gate, "again": 0.34, "collect": {"max_tokens": 8},
        "reward": {"held_out": 0.0}, "ppo": {"updates": 1, "episodes": 4, "minibatches": 1, "max_tokens": 8,
                                             "watch": False}, "evaluate": {"max_tokens": 8}, **values})


def people(shop, name, labelers=("ann", "bob")):
    """Everybody prefers the longer answer."""
    done = {(r.group, r.labeler) for r in shop.workspace.rankings(name)}
    shop.workspace.add_rankings([
        Ranking(f"{who} {g.id}", g.id, who, tuple((int(i),) for i in np.argsort([-len(a.text) for a in g.answers])))
        for g in shop.workspace.groups(name) for who in labelers if (g.id, who) not in done])


@pytest.fixture
def gate(tmp_path):
    """Lets everything through."""
    path = tmp_path / "gate.toml"
    path.write_text('[[rule]]\nfigure = "preference"\nagainst = "champion"\nat_least = 0.0\n')
    return str(path)


def test_a_round_waits_for_people_and_then_for_a_yes(shop, gate):
    first = loop.run(shop, settings(gate))
    assert first.status == "waiting" and "12 more verdicts on desk-1-answers" in first.waits
    assert loop.run(shop, settings(gate)).waits == first.waits
    people(shop, "desk-1-answers")
    asked = loop.run(shop, settings(gate))
    assert asked.status == "waiting" and "somebody's yes" in asked.waits and asked.steps["evaluate"]["passed"]
    assert loops.champion(shop.workspace, "desk").adapter == "start@1"
    loops.adopt(shop.workspace, loops.under_way(shop.workspace, "desk"), "me")
    assert loops.champion(shop.workspace, "desk").adapter == "desk-1-ppo@1"
    with pytest.raises(UserError, match="has ended"):
        loops.under_way(shop.workspace, "desk")
    assert loops.roll_back(shop.workspace, "desk", "me").adapter == "start@1"
    with pytest.raises(UserError, match="nothing to go back to"):
        loops.roll_back(shop.workspace, "desk", "me")


def test_people_may_compare_champion_and_candidate(shop, gate):
    wanted = settings(gate, judge="people", ppo={"updates": 3, "episodes": 4, "minibatches": 1, "max_tokens": 8,
                                                 "watch": False, "lr": 0.02, "kl": 0.0})
    loop.run(shop, wanted)
    people(shop, "desk-1-answers")
    asked = loop.run(shop, wanted)
    assert "groups of answers wait in the studio" in asked.waits and "desk-1-report" in asked.waits
    groups = shop.workspace.groups("desk-1-report")
    shop.workspace.add_rankings([Ranking("first", groups[0].id, "ann", ((0,), (1,)))])
    if len(groups) > 1:
        assert f"{len(groups) - 1} more comparisons" in loop.run(shop, wanted).waits
    people(shop, "desk-1-report", ("bob",))
    assert "somebody's yes" in loop.run(shop, wanted).waits


def test_rounds_share_no_test_and_rank_a_few_groups_again(shop, gate):
    for number in (1, 2):
        loop.run(shop, settings(gate, ask=False))
        people(shop, f"desk-{number}-answers")
        done = loop.run(shop, settings(gate, ask=False))
        assert done.status == "adopted" and done.candidate == f"desk-{number}-ppo@1"
        add_week(shop, number + 1)
    w = shop.workspace
    one, two = ({p.id for p in w.dataset(f"desk-{n}-tests").rows()} for n in (1, 2))
    trained = {p.id for n in (1, 2) for what in ("practice", "prompts") for p in w.dataset(f"desk-{n}-{what}").rows()}
    assert one and two and not one & two and not trained & (one | two)
    again = [g for g in w.groups("desk-2-answers") if {a.text for a in g.answers} in [
        {a.text for a in h.answers} for h in w.groups("desk-1-answers") if h.prompt.id == g.prompt.id]]
    assert len(again) == done.steps["collect"]["again"] == 2
    assert done.steps["check"]["drift"]["meetings"]["1"][1] >= 1
    newest = w.adapter("desk-2-ppo")
    assert newest.lineage["parents"]["policy"] == "desk-1-ppo@1"
    assert w.adapter("desk-2-reward").lineage["parents"]["model"] == "desk-1-reward@1"


def test_a_closed_gate_keeps_the_champion(shop):
    loop.run(shop, settings(ask=False))
    people(shop, "desk-1-answers")
    done = loop.run(shop, settings(ask=False))
    assert done.status == "refused" and "preference" in done.steps["adopt"]["why"]
    assert loops.champion(shop.workspace, "desk").adapter == "start@1"


def test_settings_are_those_the_round_began_with(shop, gate):
    loop.run(shop, settings(gate))
    people(shop, "desk-1-answers")
    assert loop.run(shop, settings(gate, labels=100)).steps["rank"]["verdicts"] == 12


@pytest.mark.parametrize(("values", "says"), [
    ({"ppo": {"update": 3}}, r'unknown key "update" in \[ppo\]; did you mean "updates"'),
    ({"reward": {"name": "x"}}, r"\[reward\] name: the round itself sets this"),
    ({"ppo": {"updates": 0}}, r"\[ppo\] updates"),
    ({"challenger": 0.1, "ask": False}, "needs ask = true"),
    ({"prompts": ()}, "needs prompts")])
def test_bad_settings_are_said_before_anything_begins(values, says):
    with pytest.raises(UserError, match=says):
        settings(**values)


def test_prompts_that_are_not_there(shop):
    with pytest.raises(UserError, match='no dataset of prompts is named "weak-\\*"'):
        loop.run(shop, settings(prompts=("weak-*",)))


# ---- drift

def judged(rate, certainty=0.35, items=400, rounds=4, seed=0):
    """Groups of two answers, judged by two labelers each in every round; preferences flip with the time."""
    rng, out = np.random.default_rng(seed), []
    for n in range(items):
        group = AnswerGroup(Prompt((Message("user", f"q {n}"),)), (Answer("a"), Answer("b")))
        right = 0
        for number in range(rounds):
            if number and rng.random() > (1 + np.exp(-rate)) / 2:  # then the correlation with before is exp(-rate)
                right = 1 - right
            for who in ("ann", "bob"):
                best = right if rng.random() < 0.5 + np.sqrt(certainty / 2) else 1 - right
                out.append((number, AnswerGroup(group.prompt, group.answers, ((best,), (1 - best,)), labeler=who)))
    return out


def test_drift_is_found_and_measured():
    found = drift.drift(drift.meetings(judged(0.4)))
    assert found and found.sure and found.rate.low < 0.4 < found.rate.high
    assert found.agreement == pytest.approx(0.85, abs=0.02) and found.weight(2) == pytest.approx(
        np.exp(-2 * found.rate.value))


def test_without_drift_old_rankings_keep_their_weight():
    sure = [drift.drift(drift.meetings(judged(0.0, items=60, seed=seed)), seed).sure for seed in range(10)]
    assert sum(sure) <= 2  # one side of a 95% interval


def test_nothing_judged_twice_says_nothing():
    assert drift.drift(drift.meetings([one for one in judged(0.4, items=3) if one[0] == 0])) is None


# ---- by commands

def test_rounds_by_commands(shop, gate, tmp_path, capsys):
    file = tmp_path / "loop.toml"
    file.write_text(f"""
name = "desk"
start = "start"
prompts = ["week-*"]
labels = 12
answers = 2
judge = "loan-desk"
tests = 4
gate = "{gate}"
collect = {{ max_tokens = 8 }}
reward = {{ held_out = 0.0 }}
""")

    def tunesmith(*words):
        code = cli.main([*map(str, words), "--workspace", str(shop.workspace.root)])
        return code, capsys.readouterr()

    code, said = tunesmith("round", file)
    assert code == 0 and "round desk 1: waiting, for 12 more verdicts on desk-1-answers" in said.out
    assert "desk 1  waiting" in tunesmith("round")[1].out
    assert "desk serves start@1" in tunesmith("round", "show", "desk")[1].out
    assert tunesmith("round", "adopt", "desk")[1].err.startswith("tunesmith: round desk 1 has no model yet")
    code, said = tunesmith("round", "refuse", "desk", "--why", "a public holiday")
    assert code == 0 and "round desk 1: refused" in said.out and "a public holiday" in said.out
    for words, says in ((("round", "rollback", "desk"), "nothing to go back to"),
                        (("round", "show", "dask"), 'no loop "dask"; did you mean "desk"?'),
                        (("round", "rollback"), "of which loop?"), (("round", "rolback"), 'did you mean "rollback"?'),
                        (("round", tmp_path / "no.toml"), "no such file"),
                        (("round", file, "--schedule", "weekly"), "no cron expression")):
        code, said = tunesmith(*words)
        assert code == 2 and says in said.err, (words, said.err)


def test_cron_expressions():
    after = datetime(2026, 11, 21, 12, tzinfo=UTC)  # a Saturday
    upcoming = commands.times("0 6 * * 1", after)
    assert [next(upcoming).isoformat() for _ in range(2)] == ["2026-11-23T06:00:00+00:00", "2026-11-30T06:00:00+00:00"]


def test_the_page_shows_a_file_that_works():
    page = (Path(__file__).parents[1] / "docs" / "rounds.md").read_text(encoding="utf-8")
    found = RoundSettings.model_validate(tomllib.loads(page.split("```toml")[1].split("```")[0]))
    assert (found.name, found.labels, found.ppo) == ("desk", 150, {"updates": 25})


def test_a_labeler_who_spoils_one_round_is_left_out_of_it_and_holds_the_adoption(shop, gate):
    panel = [SimulatedLabeler(f"labeler {n}", noise=1.0) for n in range(7)]
    wanted = settings(gate, labels=120, overlap=6, again=0.0, held_out=0.2, ask=False, answers=4)
    for number in (1, 2):
        add_week(shop, number + 1)
        loop.run(shop, wanted)
        groups = shop.workspace.groups(f"desk-{number}-answers")
        if number == 2:  # somebody else has taken the first one's account
            panel[0] = replace(panel[0], kind="adversarial")
        shop.workspace.add_rankings(list(simulated.judge(groups, Longest(), panel, per_group=6, overlap=0, seed=1)))
        done = loop.run(shop, wanted)
    assert done.status == "waiting" and "labeler 0 looks as if they spoil the data" in done.waits
    assert list(done.steps["check"]["suspects now"]) == ["labeler 0"]
    asked = {g.prompt.id for g in groups}
    learned = [g for g in shop.workspace.dataset("desk-2-feedback").rows() if g.prompt.id in asked]
    said = [r for r in shop.workspace.rankings("desk-2-answers") if r.labeler != "labeler 0"]
    assert learned and len({g.id for g in learned}) <= len({r.group for r in said})
    assert loops.champion(shop.workspace, "desk").adapter == "desk-1-ppo@1"


def test_what_users_asked_and_did_is_learned_from(shop, gate):
    def served(n):
        """Two answers shown together; the user took the longer one."""
        at, pair = f"2026-11-02T10:00:{n:02d}Z", ("a", "a longer answer")
        ids = (f"{n}", f"{n}.1")
        chose = {"type": "select_variant", "value": list(ids), "at": at, "id": f"{n}/chose"}
        return [Interaction(id, (Message("user", f"What does loan {n} cost?"),), Answer(text, "start@1"), (chose,)
                            if text == pair[1] else (), f"talk {n}", user=f"user {n}", source="serve", created=at,
                            consent="asked") for id, text in zip(ids, pair)]

    log.add(shop.workspace, [one for n in range(60) for one in served(n)])
    wanted = settings(gate, labels=120, ask=False, interactions=True, again=0.0, served=0.9,
                      mine={"min_users": 1, "veto": "none"})
    found = loop.run(shop, wanted)
    assert found.steps["collect"]["served"] > 0 and found.steps["collect"]["groups"] > 20
    groups = shop.workspace.groups("desk-1-answers")
    assert not any(loop._is_held_out(g.prompt, wanted.held_out) for g in groups)
    assert len({g.prompt.id for g in groups}) == len(groups) == 60  # nobody is asked twice about what was served
    people(shop, "desk-1-answers", ("ann", "bob"))
    done = loop.run(shop, wanted)
    assert done.status == "adopted" and done.steps["mine"]["comparisons"] == "desk-1-implicit", done.steps["mine"]
    rows = [g for g in shop.workspace.dataset("desk-1-feedback").rows() if g.source == "implicit"]
    told = {p for g in shop.workspace.dataset("desk-1-feedback").rows() for p in [g.prompt.messages]}
    behind = {one.id for one in log.interactions(shop.workspace) if one.messages in told}
    assert rows and behind and behind <= set(uses(shop.workspace, "desk-1-feedback"))
    assert forget(shop.workspace, "user 3").learned.adapters


def test_all_that_is_asked_about_may_be_what_was_served(shop, gate):
    at = "2026-11-02T10:00:00Z"
    log.add(shop.workspace, [
        Interaction(f"{n}", (Message("user", f"What does loan {n} cost?" + " please" * (999 * (n == 0))),), Answer(
            f"It costs {n}.", "start@1"), ({"type": "thumb", "value": 1, "at": at, "id": f"{n}/up"},), f"talk {n}",
            user=f"user {n}", source="serve", created=at, consent="asked") for n in range(30)])
    found = loop.run(shop, settings(gate, interactions=True, again=0.0, served=1.0))
    assert "12 more verdicts" in found.waits and found.steps["collect"]["served"] == 6


def test_a_round_goes_on_without_those_who_judged_before(shop, gate):
    loop.run(shop, settings(gate, ask=False))
    people(shop, "desk-1-answers")
    assert loop.run(shop, settings(gate, ask=False)).status == "adopted"
    add_week(shop, 2)
    loop.run(shop, settings(gate, ask=False))
    people(shop, "desk-2-answers", ("cid", "dan"))
    for who in ("ann", "bob"):
        team.quarantine(shop.workspace, who, "cheats", "me")
    done = loop.run(shop, settings(gate, ask=False))
    assert done.status == "adopted" and done.steps["check"]["drift"] == {}


def test_a_reward_model_does_not_build_on_a_round_that_was_taken_back(shop, gate):
    for number in (1, 2):
        loop.run(shop, settings(gate, ask=False))
        people(shop, f"desk-{number}-answers")
        loop.run(shop, settings(gate, ask=False))
        add_week(shop, number + 1)
        if number == 1:
            loops.roll_back(shop.workspace, "desk", "me")
    assert shop.workspace.adapter("desk-2-reward").lineage["parents"]["model"] == "start@1"
