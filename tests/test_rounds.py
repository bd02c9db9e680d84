"""What of a set's judgements reaches a learner; training itself is tested in tests/train."""

import numpy as np
import pytest

from tunesmith import judgements
from tunesmith.errors import UserError
from tunesmith.feedback.agreement import agreement
from tunesmith.records import Answer, AnswerGroup, Message, Prompt, Ranking
from tunesmith.settings import PreferSettings, RewardSettings
from tunesmith.store import team
from tunesmith.store.project import Project, set_gold, set_project
from tunesmith.store.workspace import Workspace

KINDS = {"ann": 1, "bob": 1, "cy": 1, "dan": 1, "eve": -1, "fay": 0, "gus": 1, "hal": 1}


@pytest.fixture
def workspace(tmp_path):
    """Eight people on 120 groups of three answers, four each: eve has the scale upside down, fay clicks anything."""
    workspace = Workspace.open(tmp_path)
    groups = [AnswerGroup(Prompt((Message("user", f"question {n}"),)), tuple(Answer(f"answer {i}") for i in range(3)))
              for n in range(120)]
    workspace.add_groups("desk", groups)
    rng = np.random.default_rng(0)
    rankings = []
    for g in groups:
        for who in rng.choice(list(KINDS), 4, replace=False):
            order = np.argsort(-(KINDS[who] * np.array([2.0, 1.0, 0.0]) + rng.gumbel(size=3) * 0.7))
            shown = tuple(int(i) for i in rng.permutation(3))
            rankings.append(Ranking(f"{who} {g.id}", g.id, str(who), tuple((int(i),) for i in order), shown=shown))
    workspace.add_rankings(rankings)
    return workspace


def settings(**kwargs):
    return RewardSettings(comparisons="desk", name="rm", base="loan-desk", **kwargs)


def test_votes_are_weighed_by_ability_unless_said_otherwise(workspace):
    weighed = judgements.agreed(workspace, settings())
    assert weighed.about["consensus"] == "ability" and weighed.about["labelers"] == 8
    votes = weighed.about["votes"]
    assert votes["eve"] < -0.5 and abs(votes["fay"]) < 0.4 and min(votes[n] for n in ("ann", "bob", "cy")) > 0.6
    plain = judgements.agreed(workspace, settings(consensus="votes"))

    def sure(found):
        return np.mean([p.p if p.better < p.worse else 1 - p.p for g in found.groups for p in g.pairs])

    assert sure(weighed) > sure(plain) + 0.1     # answer 0 is best, 2 worst
    assert len(judgements.agreed(workspace, settings(consensus="none")).groups) == 480
    dpo = PreferSettings(method="dpo", policy="p", name="n", comparisons="desk")
    assert judgements.agreed(workspace, dpo).groups == weighed.groups


def test_whoever_is_quarantined_is_left_out_and_counted(workspace):
    team.quarantine(workspace, "eve", "ranks upside down", "me")
    found = judgements.agreed(workspace, settings())
    assert "eve" not in found.about["abilities"]
    assert found.about["quarantined"] == {"eve": sum(r.labeler == "eve" for r in workspace.rankings("desk"))}
    assert all("eve" not in g.labeler.split(",") for g in found.groups)
    team.lift(workspace, "eve", "talked it over", "me")
    assert "eve" in judgements.agreed(workspace, settings()).about["abilities"]
    without = judgements.agreed(workspace, settings(without=("eve",)))
    assert "eve" not in without.about["abilities"] and "quarantined" not in without.about


def test_if_only_quarantined_people_ranked_the_error_says_so(workspace):
    for who in KINDS:
        team.quarantine(workspace, who, "a test", "me")
    with pytest.raises(UserError, match="nobody has ranked a group of desk yet \\(left out: ann, bob"):
        judgements.agreed(workspace, settings())


def test_one_persons_verdicts_stay_as_they_are(tmp_path):
    workspace = Workspace.open(tmp_path)
    group = AnswerGroup(Prompt((Message("user", "q"),)), (Answer("a"), Answer("b")))
    workspace.add_groups("desk", [group])
    workspace.add_ranking(Ranking("1", group.id, "me", ((1,), (0,)), shown=(0, 1)))
    found = judgements.agreed(workspace, settings())
    assert [(g.tiers, g.pairs, g.weight, g.labeler) for g in found.groups] == [(((1,), (0,)), (), 1.0, "me")]


def test_test_questions_and_second_looks_do_not_train(workspace):
    before = judgements.agreed(workspace, settings()).groups
    group = workspace.groups("desk")[0]
    workspace.add_rankings([Ranking("g", group.id, "ann", ((2,), (1,), (0,)), (0, 1, 2), purpose="gold"),
                            Ranking("r", group.id, "bob", ((2,), (1,), (0,)), (0, 1, 2), purpose="repeat")])
    assert judgements.agreed(workspace, settings()).groups == before


def test_the_projects_cap_holds(workspace):
    set_project(workspace, "desk", Project(share_cap=0.13), "me")
    cut = judgements.agreed(workspace, settings(consensus="votes")).about["capped"]
    assert cut and all(0.8 < f < 1 for f in cut.values())


def test_label_noise_comes_from_second_looks_else_from_agreement(workspace):
    between = judgements.label_noise(workspace, settings(without=("eve", "fay")))
    assert 0.05 < between < 0.25
    workspace.add_rankings([Ranking(f"again {r.id}", r.group, r.labeler, r.tiers, r.shown, purpose="repeat")
                            for r in workspace.rankings("desk")[:40]])
    assert judgements.label_noise(workspace, settings()) == 0


def test_label_noise_without_anything_judged_twice_says_what_to_do(tmp_path):
    workspace = Workspace.open(tmp_path)
    group = AnswerGroup(Prompt((Message("user", "q"),)), (Answer("a"), Answer("b")))
    workspace.add_groups("desk", [group])
    workspace.add_ranking(Ranking("1", group.id, "me", ((1,), (0,)), shown=(0, 1)))
    with pytest.raises(UserError, match="nothing was judged twice; give a number instead"):
        judgements.label_noise(workspace, settings())


def test_leaving_out_somebody_who_judged_nothing_is_refused(workspace, tmp_path):
    with pytest.raises(UserError, match=r'"hall" has judged nothing of desk.*did you mean "hal"'):
        judgements.comparisons(workspace, "desk", ["eve", "hall"])
    rows = [AnswerGroup(Prompt((Message("user", "q"),)), (Answer("a"), Answer("b")), ((0,), (1,)), labeler=who)
            for who in ("ann", "bob")]
    workspace.add_dataset("pairs", "comparisons", rows)
    assert judgements.comparisons(workspace, "pairs", ["bob"]) == rows[:1]
    with pytest.raises(UserError, match='"cy" has judged nothing of pairs'):
        judgements.comparisons(workspace, "pairs", ["cy"])


def test_the_agreement_in_a_report_is_of_those_who_were_learned_from(workspace):
    said = [g for g in judgements.comparisons(workspace, "desk") if g.labeler not in ("eve", "fay")]
    by_hand = agreement(said).percent
    assert judgements.labelers_agreement(workspace, "desk", ("eve", "fay")) == by_hand
    assert judgements.labelers_agreement(workspace, "desk", ()) != by_hand
    for who in KINDS:
        team.quarantine(workspace, who, "a test", "me")
    assert judgements.labelers_agreement(workspace, "desk", ("eve",)).n == 0


def test_test_questions_never_train_whenever_they_were_made(workspace):
    first, *rest = {g.id: g for g in judgements.comparisons(workspace, "desk")}
    set_gold(workspace, "desk", first, ((0,), (1,), (2,)), "me")
    assert {g.id for g in judgements.comparisons(workspace, "desk")} == set(rest)
    set_gold(workspace, "desk", first, None, "me")
    assert {g.id for g in judgements.comparisons(workspace, "desk")} == {first, *rest}
