"""`revise` and `judge` from a dataset to the desk and to a reward model, with a simulated model behind an endpoint."""

import contextlib
import json
import re

import pytest
from endpoint_fake import endpoint, reply

from tunesmith import aihelp, cli
from tunesmith.errors import DataError, NotFound, SettingsError, UserError
from tunesmith.evaluate.judges import ModelJudge
from tunesmith.judgements import agreed
from tunesmith.records import Answer, AnswerGroup, Demonstration, Message, Prompt, Ranking
from tunesmith.settings import JudgeSettings, ReviseSettings, RewardSettings
from tunesmith.shop import Shop
from tunesmith.store import desk
from tunesmith.store import endpoints as stored
from tunesmith.store.workspace import Workspace

CONSTITUTION = '[[principle]]\nname = "calm"\ntext = "No exclamation marks."\n'


@pytest.fixture
def shop(workspace):
    return Shop(workspace, lambda _: contextlib.nullcontext(lambda *a: None))


def simulated(handler):
    """A model that likes long answers, dislikes exclamation marks and takes them out; drafts end with two."""
    messages = handler.server.asked[-1][2]["messages"]
    role, asked = messages[0]["content"], messages[-1]["content"]
    texts = re.findall(r"\[answer (?:[AB] )?\w{8}\]\n(.*?)\n\[end of answer", asked, re.DOTALL)
    if role.startswith("You compare"):
        return handler.json(reply(f"VERDICT: {'A' if len(texts[0]) > len(texts[1]) else 'B'}\nCONFIDENCE: 90"))
    if role.startswith("You revise"):
        return handler.json(reply(texts[0].replace("!", ".")))
    if role.startswith("You hold"):
        return handler.json(reply(f"CRITIQUE: it shouts\nVERDICT: {'BROKEN' if '!' in texts[0] else 'KEPT'}"))
    return handler.json(reply("a draft!!"))


@pytest.fixture
def model(shop, monkeypatch):
    """An endpoint of the workspace, called "big"."""
    monkeypatch.setattr("tunesmith.service.outbound.Policy.check", lambda self, target: ["127.0.0.1"])
    with endpoint() as server:
        server.say = simulated
        stored.add_endpoint(shop.workspace, stored.Endpoint("big", f"http://127.0.0.1:{server.port}/v1",
                                                            "simulated-1"), "boss")
        yield server


@pytest.fixture
def settings(shop, tmp_path):
    """`settings(**changes)`: a revision of three demonstrations, one of which shouts."""
    (tmp_path / "calm.toml").write_text(CONSTITUTION)
    shop.workspace.add_dataset("replies", "demonstrations", [
        Demonstration((Message("user", f"q{n}"), Message("assistant", text)), "written by hand", "CC0")
        for n, text in enumerate(["Hello.", "Buy now!", "Bye."])])
    return lambda **changes: ReviseSettings(**{**dict(
        data="replies", constitution=str(tmp_path / "calm.toml"), by="endpoint:big", name="calmer"), **changes})


def test_what_breaks_a_principle_waits_on_the_desk_beside_what_it_was(shop, model, settings):
    found = aihelp.revise(shop, settings())
    assert (found.drafts, found.changed, found.new) == (3, 1, 1)
    assert found.broken["calm"].value == pytest.approx(1 / 3) and found.refused == {} and found.unreadable.value == 0
    waiting, = desk.listed(shop.workspace, "calmer", "pending")
    draft = desk.draft(shop.workspace, waiting.id)
    assert draft.original.messages[-1].content == "Buy now!" and draft.current.messages[-1].content == "Buy now."
    assert draft.reviews[0].note == "calm: it shouts" and draft.reviews[0].reviewer == "simulated-1 behind big"
    assert draft.current.licence == "CC0"
    said = r"written by hand; revised by simulated-1 behind big for calm \w{8}: calm"
    assert re.fullmatch(said, draft.current.source)
    asked = len(model.asked)
    again = aihelp.revise(shop, settings())
    assert again.new == 0 and again.changed == 1 and len(model.asked) == asked  # what was said is kept
    decision = desk.Review("r1", "ann", "accepted")
    assert desk.review(shop.workspace, draft.id, decision, role="reviewer", seen=1)
    made, = desk.publish(shop.workspace, "calmer", "better").rows()
    assert made.messages[-1].content == "Buy now." and made.review == "accepted"


def test_what_breaks_nothing_goes_to_the_desk_only_when_asked(shop, model, settings):
    assert aihelp.revise(shop, settings(unchanged=True)).new == 3
    texts = {d.current.messages[-1].content for d in desk.listed(shop.workspace, "calmer")}
    assert {"Hello.", "Bye."} <= texts


def test_prompts_get_drafts_by_a_writer_and_principles_their_domain(shop, model, settings, tmp_path):
    shop.workspace.add_dataset("asks", "prompts", [Prompt((Message("user", f"q{n}"),), domain)
                                                   for n, domain in enumerate(("mail", "chat"))])
    with pytest.raises(UserError, match="name who drafts the answers, such as --writer endpoint:big"):
        aihelp.revise(shop, settings(data="asks"))
    (tmp_path / "calm.toml").write_text(CONSTITUTION + 'domains = ["mail"]\n')
    found = aihelp.revise(shop, settings(data="asks", writer="endpoint:big"))
    assert (found.drafts, found.changed, found.new) == (2, 1, 2)
    texts = {d.id: desk.draft(shop.workspace, d.id).current for d in desk.listed(shop.workspace, "calmer")}
    assert {t.messages[-1].content for t in texts.values()} == {"a draft..", "a draft!!"}
    assert all("drafted by simulated-1 behind big" in t.source for t in texts.values())


def test_drafts_are_written_once_and_those_cut_off_are_left_out(shop, model, settings):
    shop.workspace.add_dataset("asks", "prompts", [Prompt((Message("user", f"q{n}"),)) for n in range(5)])
    drafted = []

    def say(handler):
        said = handler.server.asked[-1][2]["messages"][0]["content"]
        if not said.startswith("q"):
            return simulated(handler)
        drafted.append(said)
        if len(drafted) == 4:
            return handler.json({"error": {"message": "down"}}, 400)
        return handler.json(reply(f"draft {len(drafted)}", "length" if said == "q1" else "stop"))

    model.say = say
    how = settings(data="asks", writer="endpoint:big", batch=1)
    with pytest.raises(UserError):
        aihelp.revise(shop, how)
    for _ in range(2):
        found = aihelp.revise(shop, how)
        assert (found.drafts, found.unfinished, found.to_dict()["unfinished"]) == (4, 1, 1)
    assert drafted == ["q0", "q1", "q2", "q3", "q3", "q4"]
    texts = {d.current.messages[-1].content for d in desk.listed(shop.workspace, "calmer")}
    assert texts == {"draft 1", "draft 3", "draft 5", "draft 6"}


def test_more_tokens_ask_for_revisions_anew(shop, model, settings):
    model.say = lambda handler: handler.json(reply("half", "length")) if handler.server.asked[-1][2]["messages"][0][
        "content"].startswith("You revise") else simulated(handler)
    assert aihelp.revise(shop, settings(max_tokens=4)).refused == {"it ran into the token limit": 1}
    model.say = simulated
    assert aihelp.revise(shop, settings(max_tokens=99)).changed == 1


def test_a_bad_name_costs_no_question(shop, model, settings):
    with pytest.raises(UserError, match="name of a desk"):
        aihelp.revise(shop, settings(name="a/b"))
    assert model.asked == []


@pytest.mark.parametrize("changes,error,what", [
    ({"data": "nothing"}, NotFound, "nothing"), ({"constitution": "nowhere.md"}, DataError, "no such constitution"),
    ({"by": "big"}, UserError, "model:NAME or endpoint:NAME"), ({"writer": "endpoint:big"}, UserError, "--writer"),
    ({"name": "a/b"}, UserError, "cannot be a name of a desk")])
def test_mistakes_are_named(shop, model, settings, changes, error, what):
    with pytest.raises(error, match=what):
        aihelp.revise(shop, settings(**changes))


# ---- preferences

@pytest.fixture
def ranked(shop):
    """Forty groups of three answers; two people who like length rank the first thirty."""
    groups = [AnswerGroup(Prompt((Message("user", f"q{n}"),)),
                          tuple(Answer("ab" * (1 + (n + k) % 3)) for k in range(3))) for n in range(40)]
    shop.workspace.add_groups("answers", groups)
    orders = [sorted(range(3), key=lambda i, g=g: -len(g.answers[i].text)) for g in groups[:30]]
    shop.workspace.add_rankings([Ranking(f"{name}{n}", groups[n].id, name, tuple((i,) for i in order))
                                 for n, order in enumerate(orders) for name in ("ann", "bob")])
    return groups


def test_a_judges_preferences_are_a_dataset_held_against_people(shop, model, ranked):
    found = aihelp.judge(shop, JudgeSettings(groups="answers", by="endpoint:big"))
    rows = list(found.dataset.rows())
    assert found.dataset.name == "answers-judged" and len(rows) == found.groups == 40
    assert {g.source for g in rows} == {"judge"} and {g.labeler for g in rows} == {"simulated-1 behind big"}
    assert {round(p.p, 9) for g in rows for p in g.pairs} == {0.9} and rows[0].tiers == ((2,), (1,), (0,))
    assert found.reliability.worth == 1.0 and found.reliability.votes == 180 and found.people.kappa.value == 1
    assert found.behaviour["asked"] == 120 and found.behaviour["first"]["value"] == 0.5
    kept = json.loads((shop.workspace.root / "reports/answers-judged/judge.json").read_text())
    assert kept["reliability"]["worth"] == 1.0
    labeler, = [one for one in shop.workspace.labelers() if one.role == "judge"]
    assert labeler.simulated and labeler.name == found.judge
    asked = len(model.asked)
    aihelp.judge(shop, JudgeSettings(groups="answers", by="endpoint:big"))
    assert len(model.asked) == asked == 240  # every pair in both orders, once


def test_labels_train_beside_peoples_at_their_worth(shop, model, ranked):
    aihelp.judge(shop, JudgeSettings(groups="answers", by="endpoint:big"))
    learned = agreed(shop.workspace, RewardSettings(base="b", comparisons="answers", judged=("answers-judged",),
                                                    name="rm", held_out=0.2))
    by = learned.about["judges"]["simulated-1 behind big"]
    labels = [g for g in learned.groups if g.source == "judge"]
    held = sum(int(g.prompt.id[:8], 16) < 0.2 * 2**32 for g in ranked)
    assert by["groups"] == len(labels) == 40 - held and by["worth"] == 1.0
    assert {p.p > 0.9 for g in labels for p in g.pairs} == {True}  # people never disagreed with it
    with pytest.raises(UserError, match="no labels by a language model"):
        shop.workspace.add_dataset("others", "comparisons", [g for g in learned.groups if g.source != "judge"])
        agreed(shop.workspace, RewardSettings(base="b", comparisons="answers", judged=("others",), name="rm"))
    with pytest.raises(SettingsError, match="plackett-luce"):
        RewardSettings(base="b", comparisons="answers", judged=("answers-judged",), name="rm", loss="plackett-luce")


def test_principles_are_what_a_judge_goes_by(shop, model, ranked, tmp_path):
    (tmp_path / "calm.toml").write_text(CONSTITUTION)
    aihelp.judge(shop, JudgeSettings(groups="answers", by="endpoint:big", limit=1, name="one",
                                     constitution=str(tmp_path / "calm.toml")))
    assert "1. calm: No exclamation marks." in model.asked[0][2]["messages"][0]["content"]
    with pytest.raises(SettingsError, match="words of their own"):
        JudgeSettings(groups="answers", by="checklist:endpoint:big", constitution="calm.toml")


def test_judges_that_cannot_be(shop, model, ranked, monkeypatch):
    with pytest.raises(UserError, match="is no judge of pairs"):
        aihelp.judge(shop, JudgeSettings(groups="answers", by="people"))
    with pytest.raises(NotFound, match="nowhere"):
        aihelp.judge(shop, JudgeSettings(groups="nowhere", by="endpoint:big"))
    monkeypatch.setattr(ModelJudge, "_ask", lambda self, questions, progress: ["I like both"] * len(questions))
    with pytest.raises(UserError, match="gave no verdict that can be read, but: 'I like both'"):
        aihelp.judge(shop, JudgeSettings(groups="answers", by="endpoint:big"))


def test_what_a_judge_said_is_kept_whatever_the_name(shop, model, ranked):
    how = dict(groups="answers", by="endpoint:big")
    aihelp.judge(shop, JudgeSettings(**how))
    asked = len(model.asked)
    other = stored.Endpoint("other", f"http://127.0.0.1:{model.port}/v1", "other-1")
    stored.add_endpoint(shop.workspace, other, "boss")
    with pytest.raises(UserError, match="already a dataset named answers-judged"):
        aihelp.judge(shop, JudgeSettings(groups="answers", by="endpoint:other"))
    shop.workspace.add_groups("answers", [AnswerGroup(Prompt((Message("user", "new"),)), (Answer("a"), Answer("bb")))])
    with pytest.raises(UserError, match="judged all of these answers; datasets never change"):
        aihelp.judge(shop, JudgeSettings(**how))
    assert len(model.asked) == asked  # both were told before they paid
    assert aihelp.judge(shop, JudgeSettings(**how, name="more")).groups == 41 and len(model.asked) == asked + 2
    aihelp.judge(shop, JudgeSettings(groups="answers", by="endpoint:other", limit=1, name="others"))
    again = len(model.asked)
    assert aihelp.judge(shop, JudgeSettings(**how, name="most")).groups == 41 and len(model.asked) == again


def test_a_judge_is_asked_nothing_in_vain(shop, model, ranked):
    with pytest.raises(UserError, match="cannot be a dataset name"):
        aihelp.judge(shop, JudgeSettings(groups="answers", by="endpoint:big", name="a/b"))
    shop.workspace.add_groups("alone", [AnswerGroup(Prompt((Message("user", "q"),)), (Answer("a"),))])
    with pytest.raises(UserError, match="alone has no group of two or more answers"):
        aihelp.judge(shop, JudgeSettings(groups="alone", by="endpoint:big"))
    shop.workspace.add_rankings([Ranking("r", ranked[0].id, "simulated-1 behind big", ((0,), (1,), (2,)))])
    with pytest.raises(DataError, match="taken by another labeler"):
        aihelp.judge(shop, JudgeSettings(groups="answers", by="endpoint:big"))
    assert model.asked == []


def test_the_commands_say_what_a_person_does_next(shop, model, settings, ranked, capsys):
    folder = str(shop.workspace.root)
    wanted = settings()
    assert cli.main(["revise", "replies", "--constitution", wanted.constitution, "--by", "endpoint:big", "--name",
                     "calmer", "--workspace", folder]) == 0
    said = capsys.readouterr().out
    assert "1 of 3 drafts written anew; 1 new on the desk calmer" in said and '"calm" broken by 33.3%' in said
    assert cli.main(["judge", "answers", "--by", "endpoint:big", "--workspace", folder]) == 0
    said = capsys.readouterr().out
    assert "its labels count 1.00 of a person's vote" in said and "--judged answers-judged" in said
    with Workspace.open(folder) as workspace:
        assert workspace.dataset("answers-judged").count == 40
    assert cli.main(["judge", "answers", "--by", "people", "--workspace", folder]) == 2
