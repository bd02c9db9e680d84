"""The interaction log: what goes in comes out scrubbed and linked, late or twice; what must go is gone."""

import json
from dataclasses import replace

import pytest
import sqlalchemy as sa

from tunesmith.errors import DataError, NotFound
from tunesmith.records import Answer, AnswerGroup, Interaction, Message, Prompt
from tunesmith.store import erasure, tables
from tunesmith.store import interactions as log
from tunesmith.store.interactions import Policy, add, interaction, interactions, react

pytestmark = pytest.mark.parametrize("workspace", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)],
                                     indirect=True)
NOON = "2026-11-21T12:00:00.000000Z"


def said(id, *texts, user="ann", answer="It is 7.5 percent.", minutes=0, **more):
    """An exchange: texts of user and assistant in turns, the last one a user's."""
    messages = tuple(Message("assistant" if n % 2 else "user", text) for n, text in enumerate(texts))
    return Interaction(id, messages, Answer(answer, "desk@1"), user=user, created=log.later(NOON, minutes=minutes),
                       **{"source": "serve", **more})


def event(type, value="", id="e1", **more):
    return {"type": type, "value": value, "id": id, **more}


def ids(found):
    return [i.id for i in found]


def kinds(workspace, id):
    return [(e["type"], e["value"]) for e in interaction(workspace, id).events]


def test_an_exchange_comes_back_as_it_was_but_for_whose_it_is(workspace):
    given = said("c1", "Which rate?", consent="asked", arm="champion", propensity=0.9, events=(
        event("thumb", 1, at="2026-11-21T13:00:00+01:00"),))
    given = replace(given, answer=replace(given.answer, tokens=(1, 2), logprobs=(-1.0, -0.5), sampling={
        "temperature": 0.5, "stop": ["my name"]}))
    assert add(workspace, [given]) == 1
    found, = interactions(workspace)
    assert found == replace(given, user=found.user, conversation=found.conversation, events=(
        event("thumb", 1, at=NOON),), answer=replace(given.answer, tokens=(), sampling={"temperature": 0.5}))
    assert found.user.startswith("user-") and "ann" not in found.user and found.conversation.startswith("talk-")
    assert Interaction.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_personal_data_is_gone_before_it_is_stored(workspace):
    secret = "jo.doe@example.com"
    add(workspace, [said("c1", f"I am {secret}", f"Hello {secret}", "and my card is 4111 1111 1111 1111?",
                         answer=f"No, {secret}.", user=secret, conversation=secret,
                         events=(event("complaint", f"ask {secret}"),))])
    react(workspace, [("c1", event("edit", f"Write to {secret}", "e2")), ("c1", event("report", secret, "e3"))])
    with workspace.database.read() as c:
        both = (tables.interactions, tables.interaction_events)
        rows = [str(tuple(row)) for table in both for row in c.execute(table.select())]
    assert len(rows) == 4 and not [row for row in rows if secret in row or "4111" in row]
    found = interaction(workspace, "c1")
    tag = found.messages[0].content.removeprefix("I am ")
    assert tag.startswith("[EMAIL_") and found.answer.text == f"No, {tag}."
    assert [e["value"] for e in found.events] == [f"ask {tag}", f"Write to {tag}", tag]  # one person, one name
    add(workspace, [said("c2", f"I am {secret}", user="somebody else")])
    assert tag not in interaction(workspace, "c2").messages[0].content


def test_events_come_late_twice_and_of_strangers(workspace):
    add(workspace, [said("c1", "Which rate?"), said("c2", "Why?", source="langfuse")])
    first = react(workspace, [("c1", event("thumb", True)), ("nobody", event("thumb", 1)),
                              ("c1", event("copy", 0.5, "e2"))])
    assert first == {"stored": 2, "unknown": 1}
    again = react(workspace, [("c1", event("thumb", 0)), ("c2", event("thumb", 1)), ("c1", event("rating", 1, "e3"))],
                  source="serve")
    assert again == {"known": 1, "stored": 1, "unknown": 1}
    assert kinds(workspace, "c1") == [("thumb", 1), ("copy", 0.5), ("rating", 1)]  # what was said first stands
    assert react(workspace, [("c1", event("dwell_ms", n, str(n))) for n in range(log.MOST_EVENTS)]) == {
        "stored": log.MOST_EVENTS - 3, "too_many": 3}
    assert react(workspace, []) == {}


@pytest.mark.parametrize(("type", "value", "words"), [
    ("thumb", 2, "1 (up) or 0"), ("thumb", "up", "1 (up) or 0"), ("rating", 4, "0 (worst)"), ("copy", 0, "above 0"),
    ("edit", "", "as the user changed it"), ("select_variant", ["c1"], "2 to 16"), ("dwell_ms", float("nan"), "milli"),
    ("select_variant", ["a", "b"], "among the shown"), ("thumbs", 1, 'did you mean "thumb"'), ("complaint", 3, "text"),
    ("edit", "x" * 100_001, "as the user"), ("regenerate", "", "id of the new")])
def test_an_event_that_cannot_be_is_refused_whole(workspace, type, value, words):
    add(workspace, [said("c1", "Which rate?")])
    with pytest.raises(DataError) as error:
        react(workspace, [("c1", event("thumb", 1, "good")), ("c1", event(type, value))])
    assert words in str(error.value) and "'c1'" in str(error.value)
    assert kinds(workspace, "c1") == []


@pytest.mark.parametrize(("change", "words"), [
    ({"id": ""}, "the interaction's id"), ({"messages": (Message("assistant", "x"),)}, "must end with"),
    ({"propensity": 0.0}, "probability"), ({"created": "noon"}, "time such as"),
    ({"created": "0001-01-01T00:00:00Z"}, "from 1970 to 2099"), ({"events": ({"type": [], "id": "1"},)}, '"type"'),
    ({"source": "s" * 65}, "64"),
    ({"events": (event("thumb", 1, id=""),)}, '"id"'), ({"answer": Answer("x", logprobs=(float("nan"),))}, "stored")])
def test_an_exchange_that_cannot_be_is_refused(workspace, change, words):
    with pytest.raises(DataError, match=words.replace("(", r"\(")):
        add(workspace, [replace(said("c1", "Which rate?"), **change)])
    assert ids(interactions(workspace)) == []


def test_the_same_again_adds_only_what_is_new(workspace):
    add(workspace, [said("c1", "Which rate?", events=(event("thumb", 1),))])
    more = said("c1", "Another text", events=(event("thumb", 0), event("copy", 1, "e2")))
    assert add(workspace, [more, said("c2", "Why?")]) == 1
    assert interaction(workspace, "c1").messages[0].content == "Which rate?"
    assert kinds(workspace, "c1") == [("thumb", 1), ("copy", 1)]


# ---- links

def test_the_next_turn_follows_the_answer_that_it_was_behind(workspace):
    add(workspace, [said("c1", "Which rate?", answer="7.5"), said("c1.1", "Which rate?", answer="About 8")])
    add(workspace, [said("c2", "Which rate?", "About 8", "Why?", minutes=600)])
    assert kinds(workspace, "c1") == [] and kinds(workspace, "c1.1") == [("follow_up", "c2")]
    assert interaction(workspace, "c2").turn == 1
    talks = {id: interaction(workspace, id).conversation for id in ("c1", "c1.1", "c2")}
    assert talks["c1.1"] == talks["c2"] != talks["c1"]


def test_a_second_answer_to_the_same_question_is_a_regeneration(workspace):
    add(workspace, [said("c1", "Which rate?"), said("c1.1", "Which rate?", answer="other")])
    add(workspace, [said("c2", "Which rate?", minutes=1), said("other", "Which rate?", user="bob", minutes=2)])
    add(workspace, [said("much later", "Which rate?", minutes=62), said("anon1", "Which rate?", user=""),
                    said("anon2", "Which rate?", user="", minutes=1)])
    links = {id: kinds(workspace, id) for id in ("c1", "c1.1", "c2", "other", "much later", "anon1")}
    again = [("regenerate", "c2")]
    assert links == {"c1": again, "c1.1": again, "c2": [], "other": [], "much later": [], "anon1": []}
    done = react(workspace, [("c1", event("regenerate", "c2", "the page says so too"))])
    assert done == {"known": 1}  # one event, whoever noticed it


def test_a_named_conversation_links_strangers(workspace):
    add(workspace, [said("c1", "Hello", user="", conversation="k"), said("c2", "Hello", user="", conversation="k",
                                                                        minutes=1)])
    assert kinds(workspace, "c1") == [("regenerate", "c2")]
    one, two = (interaction(workspace, id).conversation for id in ("c1", "c2"))
    assert one == two != "k"


def test_links_are_found_within_and_across_batches(workspace, monkeypatch):
    monkeypatch.setattr(log, "CHUNK", 2)
    chat = ["q0"]
    exchanges = []
    for n in range(5):
        exchanges.append(said(f"c{n}", *chat, answer=f"a{n}", minutes=n))
        chat += [f"a{n}", f"q{n + 1}"]
    add(workspace, exchanges)
    assert [kinds(workspace, f"c{n}") for n in range(5)] == [[("follow_up", f"c{n + 1}")] for n in range(4)] + [[]]
    assert {i.conversation for i in interactions(workspace)} == {interaction(workspace, "c0").conversation}


# ---- reading

def test_pages_and_filters(workspace, monkeypatch):
    monkeypatch.setattr(log, "PAGE", 2)
    add(workspace, [said(f"c{n}", f"q{n}", user=f"u{n % 2}", source="serve" if n < 4 else "langfuse", minutes=n,
                         events=(event("thumb", n % 2),)) for n in range(5)])
    everything = list(interactions(workspace))
    assert ids(everything) == [f"c{n}" for n in range(5)]
    assert [i.events[0]["value"] for i in everything] == [0, 1, 0, 1, 0]
    assert ids(interactions(workspace, source="langfuse")) == ["c4"]
    assert ids(interactions(workspace, since="2026-11-21T13:03:00+01:00")) == ["c3", "c4"]
    assert ids(interactions(workspace, user="u1")) == ["c1", "c3"]
    assert ids(interactions(workspace, user=everything[0].user)) == ["c0", "c2", "c4"]
    with pytest.raises(NotFound, match="not logged"):
        interaction(workspace, "c9")
    serve, = (row for row in log.summary(workspace) if row["source"] == "serve")
    assert (serve["interactions"], serve["users"], serve["events"], serve["held out"]) == (4, 2, 4, 0)


def test_held_out_users_never_reach_training(workspace):
    add(workspace, [said(f"c{n}", "Which rate?", user=f"u{n % 200}") for n in range(300)], Policy(holdout=0.25))
    kept, held = list(interactions(workspace)), list(interactions(workspace, holdout=True))
    assert len(kept) + len(held) == 300 == len(ids(interactions(workspace, holdout=None)))
    assert not {i.user for i in kept} & {i.user for i in held}
    assert 25 <= len({i.user for i in held}) <= 75  # of 200, by hash; binomial: 50 +- 4 standard deviations
    assert all(i.holdout for i in held)


# ---- the end

def test_what_is_over_is_purged(workspace):
    add(workspace, [said("kept for ever", "q"), said("old", "q", user="bob", minutes=-60 * 24 * 400)])
    add(workspace, [said("promised", "q", user="cid", minutes=-60 * 24 * 31)], Policy(days=30))
    assert erasure.purge(workspace) == 1 and ids(interactions(workspace)) == ["kept for ever", "old"]
    assert erasure.purge(workspace, days=365) == 1 and erasure.purge(workspace, days=365) == 0
    assert ids(interactions(workspace)) == ["kept for ever"]


def trained(workspace, name, data, parents=None, settings=None):
    run = workspace.start_run("sft", {"data": data, **(settings or {})}, 0, {})
    adapter = workspace.publish_adapter(name, "policy", {"spec": "x", "hash": "0"}, lambda f: (f / "w").touch(), {
        "run": run.id, "data": {data: "0"} if data else {}, "parents": parents or {}})
    run.finish("finished", {})
    return str(adapter), run.id


def test_forgetting_a_user_erases_and_lists_what_learned(workspace):
    canary = "the purple giraffe"
    add(workspace, [said("c1", canary, events=(event("thumb", 1), event("edit", canary, "e2"))),
                    said("c2", "other", user="bob", events=(event("thumb", 1),))])
    group = AnswerGroup(Prompt((Message("user", "q"),)), (Answer("a"), Answer("b")))
    workspace.add_groups("spot-checks", [group])
    for name in ("mined", "of-bob"):
        workspace.add_dataset(name, "comparisons", [group])
    assert erasure.used(workspace, "mined", ["c1", "c2", "c1"]) == 2 and erasure.used(workspace, "mined", ["c1"]) == 0
    erasure.used(workspace, "spot-checks", ["c1"])
    erasure.used(workspace, "of-bob", ["c2"])
    parent, run1 = trained(workspace, "m", "mined")
    child, run2 = trained(workspace, "child", "", {"policy": parent})
    trained(workspace, "clean", "of-bob")
    unfinished = workspace.start_run("reward", {"comparisons": "mined"}, 0, {})
    expected = erasure.Learned(("mined", "spot-checks"), (run1, run2, unfinished.id), (parent, child))

    found = erasure.forget(workspace, "ann")
    assert found == erasure.Forgotten(1, 2, expected)
    assert ids(interactions(workspace)) == ["c2"] and kinds(workspace, "c2") == [("thumb", 1)]
    assert erasure.to_retrain(workspace) == expected
    assert erasure.forget(workspace, "ann") == erasure.Forgotten(0, 0, erasure.Learned())
    with workspace.database.read() as c:
        assert c.scalar(sa.select(sa.func.count()).select_from(tables.audit)) == 1
    for path in workspace.root.glob("tunesmith.db*"):
        assert canary.encode() not in path.read_bytes(), path.name


def test_who_comes_after_retention_is_still_told_what_learned(workspace):
    group = AnswerGroup(Prompt((Message("user", "q"),)), (Answer("a"), Answer("b")))
    add(workspace, [said("c1", "q", minutes=-60 * 24 * 40), said("c2", "q", user="bob", minutes=-60 * 24 * 40)],
        Policy(days=30))
    for name, ids in (("mined", ["c1"]), ("of-bob", ["c2"])):
        workspace.add_dataset(name, "comparisons", [group])
        erasure.used(workspace, name, ids)
    assert erasure.purge(workspace) == 2
    workspace.add_dataset("feedback", "comparisons", [group])
    erasure.used(workspace, "feedback", erasure.uses(workspace, "mined"))  # made when the exchange was gone
    expected = erasure.Learned(("feedback", "mined"))
    assert erasure.forget(workspace, "ann") == erasure.Forgotten(0, 0, expected)
    assert erasure.to_retrain(workspace) == expected
    with workspace.database.read() as c:
        users = c.scalars(sa.select(tables.interaction_uses.c.user)).all()
        assert c.scalar(sa.select(sa.func.count()).select_from(tables.audit)) == 1
    assert sorted(bool(user) for user in users) == [False, False, True]  # nothing of ann, bob may still come
    assert erasure.forget(workspace, "ann").learned == erasure.Learned()
    workspace.add_dataset("later", "comparisons", [group])
    erasure.used(workspace, "later", erasure.uses(workspace, "feedback"))  # the next round's, of the same old set
    assert erasure.to_retrain(workspace).datasets == ("feedback", "later", "mined")


def test_a_span_of_centuries_deletes_nothing(workspace):
    """The year 932 is before 2026, also as a text."""
    add(workspace, [said("c1", "q")])
    assert erasure.purge(workspace, days=400_000) == 0


def test_the_bytes_were_there_before(workspace):
    """Without which the test above would pass for the wrong reason."""
    add(workspace, [said("c1", "the purple giraffe")])
    if not workspace.database.sqlite:
        pytest.skip("its files are the server's")
    assert b"the purple giraffe" in b"".join(p.read_bytes() for p in workspace.root.glob("tunesmith.db*"))
