"""Other tools' logs: rows in their own shapes, all written by hand here, and the interactions that come of them."""

import json
from collections import Counter

import pytest

from tunesmith.errors import DataError
from tunesmith.store import interactions, logs
from tunesmith.store.interactions import add

ASKED = {"role": "user", "content": "Which rate?"}
SAID = {"role": "assistant", "content": "7.5 percent"}
THEN = "2026-03-01T10:00:00.000Z"
OURS = {"id": "a", "messages": [ASKED], "answer": {"text": "7.5 percent"}}


def read(tmp_path, *rows, source=""):
    """(interactions, what was left out) of a file with these rows."""
    path, skipped = tmp_path / "log.jsonl", Counter()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(logs.read(path, skipped, source)), +skipped


def events(interaction):
    return [(e["type"], e["value"]) for e in interaction.events]


def test_stored_completions_of_openai(tmp_path):
    row = {"object": "chat.completion", "id": "chatcmpl-9", "model": "gpt-x", "created": 1772359200,
           "input_user": "ann", "metadata": {"conversation": "k7"}, "temperature": 0.3,
           "messages": [{"id": "m1", **ASKED, "name": None}],
           "choices": [{"index": 0, "message": {**SAID, "refusal": None}, "finish_reason": "stop"},
                       {"index": 1, "message": {**SAID, "content": "About 8"}, "finish_reason": "length"}]}
    for given in (row, {"object": "list", "data": [row], "has_more": False}):
        (one, two), left = read(tmp_path, given)
        assert (one.id, two.id, left) == ("openai-chatcmpl-9", "openai-chatcmpl-9.1", {})
        assert [m.content for m in one.messages] == ["Which rate?"] and one.answer.text == "7.5 percent"
        assert (one.answer.model, one.user, one.conversation, one.source, one.consent) == (
            "gpt-x", "ann", "k7", "openai", "imported")
        assert one.created == "2026-03-01T10:00:00.000000Z" and one.answer.sampling == {"temperature": 0.3}
        assert one.answer.finished and not two.answer.finished


def test_requests_and_responses_with_a_rating(tmp_path):
    row = {"request": {"messages": [ASKED], "model": "x"}, "user_id": "ann", "feedback": {"rating": False},
           "response": {"id": "r1", "model": "x", "choices": [{"message": SAID, "finish_reason": "stop"}]}}
    (one,), _ = read(tmp_path, row)
    assert events(one) == [("thumb", 0)] and one.user == "ann"


def score(name, value=None, source="API", **more):
    return {"id": f"s-{name}-{value}", "name": name, "value": value, "source": source, "timestamp": THEN, **more}


@pytest.mark.parametrize("input", ["Which rate?", [ASKED], {"messages": [ASKED]}, ASKED])
@pytest.mark.parametrize("output", ["7.5 percent", SAID, {"choices": [{"message": SAID}]}, [SAID]])
def test_traces_of_langfuse(tmp_path, input, output):
    row = {"id": "t1", "timestamp": THEN, "input": input, "output": output, "userId": "ann", "sessionId": "k7",
           "observations": [{"type": "SPAN"}, {"type": "GENERATION", "model": "m1"}], "scores": [
               score("user-feedback", 0, comment="too dear"), score("thumbs", stringValue="up", dataType="CATEGORICAL"),
               score("stars", 4), score("rating", 0.25), score("rating", 7), score("toxicity", 0.1, source="EVAL"),
               score("thumbs", 1, source="ANNOTATION")]}
    (one,), left = read(tmp_path, row)
    assert ([m.content for m in one.messages], one.answer.text) == (["Which rate?"], "7.5 percent")
    assert (one.id, one.user, one.conversation, one.answer.model) == ("langfuse-t1", "ann", "k7", "m1")
    assert events(one) == [("thumb", 0), ("complaint", "too dear"), ("thumb", 1), ("rating", 0.75), ("rating", 0.25)]
    assert left == {"a score that no user gave": 2,
                    "a score that is neither a thumb nor a rating whose scale is known": 1}


def test_a_trace_without_texts_takes_its_last_generation(tmp_path):
    rows = [{"id": "t1", "input": None, "output": None, "observations": [
                {"type": "GENERATION", "model": "m0", "input": [ASKED], "output": "first"},
                {"type": "GENERATION", "model": "m1", "input": [ASKED], "output": SAID}]},
            {"id": "t2", "input": None, "output": None}]
    (one,), left = read(tmp_path, *rows)
    assert one.answer.text == "7.5 percent" and left == {"no question or no answer": 1}


ANNOTATIONS = [{"name": "user_feedback", "annotator_kind": "HUMAN", "id": "a1", "created_at": THEN,
                "result": {"label": "thumbs-down", "explanation": "no"}},
               {"name": "helpful", "annotator_kind": "LLM", "result": {"score": 1}}]
SPANS = {
    "data frame": {"context.span_id": "s1", "span_kind": "LLM", "start_time": THEN, "attributes.user.id": "ann",
                   "attributes.session.id": "k7", "attributes.llm.model_name": "m1", "annotations": ANNOTATIONS,
                   "attributes.llm.input_messages": [{"message.role": "user", "message.content": "Which rate?"}],
                   "attributes.llm.output_messages": [{"message": SAID}]},
    "flat": {"id": "x", "context": {"trace_id": "t", "span_id": "s1"}, "span_kind": "LLM", "start_time": THEN,
             "annotations": ANNOTATIONS, "attributes": {
                 "llm.input_messages.0.message.role": "user", "llm.input_messages.0.message.content": "Which rate?",
                 "llm.output_messages.0.message.role": "assistant", "llm.model_name": "m1", "user.id": "ann",
                 "llm.output_messages.0.message.content": "7.5 percent", "session.id": "k7"}},
    "nested": {"context": {"span_id": "s1"}, "start_time": THEN, "annotations": ANNOTATIONS, "attributes": {
        "openinference": {"span": {"kind": "LLM"}}, "user": {"id": "ann"}, "session": {"id": "k7"},
        "llm": {"model_name": "m1", "input_messages": [{"message": ASKED}], "output_messages": [{"message": SAID}]}}}}


@pytest.mark.parametrize("shape", SPANS)
def test_spans_of_phoenix(tmp_path, shape):
    chain = {"span_kind": "CHAIN", "attributes": {}}
    (one,), left = read(tmp_path, SPANS[shape], chain, source="phoenix")
    assert ([m.content for m in one.messages], one.answer.text) == (["Which rate?"], "7.5 percent")
    assert (one.id, one.user, one.conversation, one.answer.model) == ("phoenix-s1", "ann", "k7", "m1")
    assert events(one) == [("thumb", 0), ("complaint", "no")] and one.created == "2026-03-01T10:00:00.000000Z"
    assert left == {"a score that no user gave": 1, "a span that is no call of a model": 1}


def test_wildchat_turns_become_linked_interactions(tmp_path, workspace):
    turns = [{**ASKED, "hashed_ip": "f00", "timestamp": None, "language": "English", "toxic": False},
             {**SAID, "timestamp": "2026-03-01 10:00:00+00:00"}, {"role": "user", "content": "Why?"},
             {**SAID, "content": "Because.", "timestamp": "2026-03-01 10:01:00+00:00"}]
    row = {"conversation_hash": "abc", "model": "m1", "timestamp": "2026-03-01 10:02:00", "conversation": turns,
           "turn": 2, "toxic": False, "redacted": False}
    found, left = read(tmp_path, row)
    assert [i.id for i in found] == ["chat-abc-1", "chat-abc-3"] and left == {} and found[0].user == "f00"
    add(workspace, found)
    kept = list(interactions.interactions(workspace, source="wildchat"))
    assert events(kept[0]) == [("follow_up", "chat-abc-3")] and [i.turn for i in kept] == [0, 1]
    assert kept[0].conversation == kept[1].conversation and kept[1].messages[1].content == "7.5 percent"


def test_lmsys_and_what_cannot_be_told(tmp_path):
    row = {"conversation_id": "c1", "model": "m1", "conversation": [ASKED, SAID], "turn": 1, "language": "English",
           "openai_moderation": [], "redacted": False}
    tool = {**row, "conversation": [ASKED, {"role": "tool", "content": "x"}]}
    (one,), left = read(tmp_path, row, tool)
    assert one.id == "chat-c1-1" and one.source == "lmsys" and left == {"a tool was used": 1}


@pytest.mark.parametrize(("winner", "first", "second"), [
    ("model_a", [("select_variant", ["arena-q1-a", "arena-q1-b"])], []),
    ("model_b", [], [("select_variant", ["arena-q1-a", "arena-q1-b"])]),
    ("tie", [], []), ("tie (bothbad)", [("thumb", 0)], [("thumb", 0)])])
def test_battles_of_the_arena(tmp_path, workspace, winner, first, second):
    row = {"question_id": "q1", "model_a": "m1", "model_b": "m2", "winner": winner, "judge": "arena_user_7",
           "conversation_a": [ASKED, SAID], "conversation_b": [ASKED, {**SAID, "content": "8"}], "tstamp": 1772359200.5}
    later = {**row, "question_id": "q2", "conversation_a": [ASKED, SAID, ASKED, SAID]}
    found, left = read(tmp_path, row, later)
    assert [events(i) for i in found] == [first, second] and [i.answer.model for i in found] == ["m1", "m2"]
    assert left == {"a battle of several turns: its two answers reply to different things": 1}
    add(workspace, found)
    kept = [events(i) for i in interactions.interactions(workspace)]
    assert kept == [first, second]  # they were shown together, so neither is a regeneration of the other


def test_our_own_export_comes_back(tmp_path, workspace, other):
    found, _ = read(tmp_path, SPANS["nested"], source="phoenix")
    add(workspace, found)
    exported = [i.to_dict() for i in interactions.interactions(workspace)]
    again, _ = read(tmp_path, *exported)
    add(other, again)
    assert [i.to_dict() for i in interactions.interactions(other)] == exported


@pytest.mark.parametrize(("row", "words"), [
    ({"a": 1}, "no log of"), ({"conversation_id": "c", "conversation": "x"}, '"conversation"'),
    ({"conversation_id": "c", "conversation": [{"role": "queen", "content": "x"}]}, "queen"),
    ({"choices": [{"message": SAID}], "messages": [ASKED]}, '"id" is missing'),
    ({"conversation_a": [ASKED, SAID], "conversation_b": [ASKED, SAID], "winner": "me"}, '"winner"'),
    ({"id": "t", "input": "a", "output": "b", "timestamp": "yesterday"}, "time"),
    ({"id": "t", "input": "a", "output": "b", "scores": [{"value": 1, "id": "x"}]}, '"name" is missing'),
    ({**OURS, "user": None}, '"user": input should be a valid string'), ({**OURS, "events": ["x"]}, '"events.0"'),
    ({**OURS, "messages": [{"role": "user", "content": None}]}, '"messages.0.content"'),
    ({**OURS, "answer": {"text": "y", "sampling": None}}, '"answer.sampling"')])
def test_a_bad_row_is_named(tmp_path, row, words):
    with pytest.raises(DataError) as error:
        read(tmp_path, row)
    assert f"{tmp_path / 'log.jsonl'}:1:" in str(error.value) and words in str(error.value)
