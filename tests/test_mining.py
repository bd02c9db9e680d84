"""Reactions in a workspace's log become datasets; what they are worth is tested in tests/feedback."""

import json
import shutil

import numpy as np
import pytest

from tunesmith import cli, mining
from tunesmith.errors import SettingsError, UserError
from tunesmith.feedback import overlap
from tunesmith.records import Answer, AnswerGroup, Interaction, Message, Prompt, Ranking
from tunesmith.settings import MineSettings
from tunesmith.shop import Judge, Shop
from tunesmith.store import interactions as log
from tunesmith.store.erasure import forget
from tunesmith.store.workspace import Workspace

RUDE = "Shut up, you stupid idiot."


class Nothing:
    def __enter__(self):
        return lambda done, total, metrics: None

    def __exit__(self, *error):
        return None


def asked(n):
    return (Message("user", f"question number {n} about a loan"),)


def logged(n, good):
    """Two answers shown together: the user took the good one, and said that it helped."""
    texts = {True: f"A careful answer {n}.", False: f"A careless answer {n}."}
    at = f"2026-11-02T10:{n // 60:02d}:{n % 60:02d}Z"
    shown = [f"r{n}", f"r{n}.1"] if n % 2 else [f"r{n}.1", f"r{n}"]
    chosen = [("select_variant", shown), ("ticket_resolved", int(good)), ("thumb", int(good))]
    events = tuple({"type": kind, "value": value, "at": at, "id": f"{n}/{kind}"} for kind, value in chosen)
    kept = {"user": f"user {n % 40}", "conversation": f"c{n}", "created": at, "source": "serve", "consent": "asked"}
    return [Interaction(f"r{n}", asked(n), Answer(texts[good], "m"), events, **kept),
            Interaction(f"r{n}.1", asked(n), Answer(texts[not good], "m"), **kept)]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """200 pairs of answers; users took the better one 9 times in 10, and people ranked 120 of the pairs."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("log")
    by_prompt: dict = {}
    with Workspace.open(root) as workspace:
        log.add(workspace, [i for n in range(200) for i in logged(n, bool(rng.random() < 0.9))])
        for i in log.interactions(workspace):
            by_prompt.setdefault(i.messages, []).append(i.answer)
        groups = [AnswerGroup(Prompt(messages), tuple(sorted(answers, key=lambda a: "careless" in a.text)))
                  for messages, answers in list(by_prompt.items())[:120]]
        workspace.add_groups("ranked", groups)
        workspace.add_rankings([Ranking(f"v{g.id}", g.id, "ann", ((0,), (1,))) for g in groups])
    return root


@pytest.fixture
def shop(template, tmp_path):
    return Shop(Workspace.open(shutil.copytree(template, tmp_path / "workspace")), lambda _: Nothing())


def settings(**known):
    return MineSettings(**{"name": "mined", "ranked": ("ranked",), "user_share": 0.1, "veto": "none"} | known)


def test_reactions_become_comparisons_thumbs_and_pairs_to_check(shop):
    made = mining.mine(shop, settings(spots=30))
    assert (made.comparisons, made.thumbs, made.spots, made.refused) == ("mined", "mined-thumbs", "mined-spots", "")
    rows = list(shop.workspace.dataset("mined").rows())
    pairs = [g for g in rows if g.pairs]
    assert len(pairs) == made.figures["pairs"] == 200 and made.figures["users"] == 40
    assert np.mean(["careful" in g.answers[p.better].text for g in pairs for p in g.pairs]) > 0.84
    assert all(0.75 < g.prompt.facts["mined"]["p"] < 0.95 and 0.4 < g.weight < 1.1 for g in pairs)
    labels = {g.answers[0].text.split()[1]: g.labels[0] for g in rows if not g.pairs}
    assert labels == {"careful": 1.0, "careless": 0.0}
    thumbs = list(shop.workspace.dataset("mined-thumbs").rows())
    assert len(thumbs) == 200 and {x for g in thumbs for x in g.labels} == {0.0, 1.0}
    assert len(shop.workspace.groups("mined-spots")) == 30
    assert mining.mine(shop, settings(spots=30)) == made  # the same log gives the same rows


def test_what_was_made_of_a_users_reactions_is_known_when_they_want_to_be_forgotten(shop):
    mining.mine(shop, settings())
    assert set(forget(shop.workspace, "user 3").learned.datasets) == {"mined", "mined-spots", "mined-thumbs"}


def test_people_who_contradict_what_was_mined_stop_it(shop):
    first = mining.mine(shop, settings(require_spots=12))
    assert first.comparisons == "" and "0 of 12" in first.refused and first.spots == "mined-spots"
    groups = shop.workspace.groups("mined-spots")

    def verdict(g, agrees):
        better = g.prompt.facts["mined"]["better"] if agrees else 1 - g.prompt.facts["mined"]["better"]
        return Ranking(f"check{g.id}", g.id, "bo", ((better,), (1 - better,)))

    shop.workspace.add_rankings([verdict(g, False) for g in groups[:11]])
    shop.workspace.add_rankings([verdict(g, True) for g in groups[11:15]])
    refused = mining.mine(shop, settings())
    assert "27% agreed" in refused.refused and refused.comparisons == ""
    assert [d.name for d in shop.workspace.datasets()] == []
    shop.workspace.add_rankings([verdict(g, True) for g in groups[15:]])
    assert mining.mine(shop, settings(require_spots=12)).comparisons == "mined"


class Harsh:
    def score(self, prompt, answers):
        return [-1.0 if "question number 7 " in prompt.messages[-1].content else 1.0 for _ in answers]


def test_what_the_veto_finds_unsafe_is_never_preferred(shop):
    guarded = Shop(shop.workspace, shop.progress, judges={"safe": lambda: Judge("safe", Harsh())})
    made = mining.mine(guarded, settings(veto="safe"))
    rows = list(shop.workspace.dataset("mined").rows())
    assert made.figures["unsafe"] == 1 and made.figures["pairs"] == 199
    assert not any("number 7 " in g.prompt.messages[-1].content for g in rows if g.pairs)


def test_the_built_in_veto_knows_insults(shop):
    log.add(shop.workspace, [Interaction("rude", asked(999), Answer(RUDE, "m"), (
        {"type": "ticket_resolved", "value": 1, "at": "", "id": "x"},), user="user 1", source="serve")])
    made = mining.mine(shop, settings(veto="toxicity"))
    assert made.figures["unsafe"] >= 1
    assert not any(RUDE in a.text for g in shop.workspace.dataset("mined").rows() for a in g.answers)


def test_people_can_be_put_in_and_are_right(shop):
    mining.mine(shop, settings(with_ranked=True))
    rows = list(shop.workspace.dataset("mined").rows())
    people = [g for g in rows if g.labeler == "ann"]
    assert len(people) == 120 and {g.source for g in people} == {"human"}
    judged = {g.prompt.id for g in people}
    assert not any(g.prompt.id in judged for g in rows if g.labeler != "ann") and len(rows) > 200


def test_holdout_traffic_and_other_sources_stay_out(tmp_path):
    workspace = Workspace.open(tmp_path)
    log.add(workspace, [i for n in range(200) for i in logged(n, True)], log.Policy(holdout=0.5))
    shop = Shop(workspace, lambda _: Nothing())
    made = mining.mine(shop, MineSettings(name="mined", weights="fixed"))
    assert 4 < made.figures["users"] < 36
    with pytest.raises(UserError, match="no reaction"):
        mining.mine(shop, MineSettings(name="other", weights="fixed", source="langfuse"))


def test_mistakes_are_said_with_their_cure(shop):
    with pytest.raises(SettingsError, match="tunesmith mine overlap"):
        MineSettings(name="mined")
    groups = [AnswerGroup(Prompt(asked(n + 500)), (Answer("a"), Answer("b"))) for n in range(3)]
    shop.workspace.add_groups("elsewhere", groups)
    shop.workspace.add_rankings([Ranking(f"e{g.id}", g.id, "ann", ((0,), (1,))) for g in groups])
    with pytest.raises(UserError, match="none of elsewhere"):
        mining.mine(shop, settings(ranked=("elsewhere",)))
    shop.workspace.add_groups("ranked", [])
    with pytest.raises(UserError, match="none says for sure"):
        mining.mine(shop, settings(min_users=1000))


def test_the_overlap_takes_rare_reactions_and_choices(shop):
    found = mining._found(shop.workspace, settings())
    chosen = overlap.choose(found, 60, seed=0)
    assert len({e.prompt.id for e in chosen}) == 60 and sum(len(e.answers) == 2 for e in chosen) == 20
    assert sum(e.signals.get("resolved", 0) < 0 for e in chosen) >= 8  # one in ten of the log
    fresh = [Answer("f"), Answer("f"), Answer("g")]
    two, one = (overlap.group(next(e for e in found if len(e.answers) == k), fresh, 4) for k in (2, 1))
    choice = next(e for e in found if len(e.answers) == 2)
    assert [a.text for a in overlap.group(choice, fresh, 4, pairs_alone=False).answers[2:]] == ["f", "g"]
    assert len(two.answers) == 2 and [a.text for a in one.answers[1:]] == ["f", "g"]


def test_the_command_says_what_reactions_are_worth(shop, capsys):
    root = str(shop.workspace.root)
    shop.workspace.close()
    common = ["mine", "--ranked", "ranked", "--veto", "none", "--workspace", root]
    assert cli.main([*common, "--name", "mined"]) == 0
    out = capsys.readouterr().out
    assert "200 pairs" in out and "chosen" in out and "tunesmith studio --groups mined-spots" in out
    assert cli.main([*common, "--name", "mined", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparisons"] == "mined"
    assert cli.main([*common, "--name", "late", "--require-spots", "9", "--spots-set", "new"]) == 2
    assert "0 of 9 checks" in capsys.readouterr().err
