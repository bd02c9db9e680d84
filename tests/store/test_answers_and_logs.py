"""Answers that wait to be ranked, and chat logs as questions."""

import json

import pytest

from tunesmith.errors import DataError
from tunesmith.records import Message
from tunesmith.store import formats


def read(folder, kind, *rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return formats.read(path, kind)


TWO = [("It is 7.5.", ""), ("It is 8.", "")]


@pytest.mark.parametrize(("row", "answers"), [
    ({"prompt": "Rate?", "answers": ["It is 7.5.", "It is 8."]}, TWO),
    ({"prompt": [{"role": "user", "content": "Rate?"}], "responses": [{"response": "It is 7.5."}, "It is 8."]}, TWO),
    ({"instruction": "Rate?", "completions": [{"model": "m", "response": "It is 7.5."}, {"text": "It is 8."}]},
     [("It is 7.5.", "m"), ("It is 8.", "")]),
    ({"messages": [{"role": "user", "content": "Rate?"}], "outputs": ["It is 7.5.", "It is 8."], "models": ["a", "b"]},
     [("It is 7.5.", "a"), ("It is 8.", "b")]),
    ({"prompt": "Rate?", "chosen": "It is 7.5.", "rejected": "It is 8."}, TWO),
    ({"prompt": "Rate?", "response_a": "It is 7.5.", "response_b": "It is 8.", "model_a": "x", "model_b": "y"},
     [("It is 7.5.", "x"), ("It is 8.", "y")]),
    ({"prompt": "Rate?", "answers": ["It is 7.5.", "It is 8.", "It is 7.5."]}, TWO),
    ({"prompt": {"messages": [{"role": "user", "content": "Rate?"}]},
      "answers": [{"text": "It is 7.5."}, {"text": "It is 8."}], "tiers": [[1], [0]], "labeler": "ann"}, TWO),
])
def test_answers_without_a_ranking(tmp_path, row, answers):
    group, = read(tmp_path, "answers", row).rows
    assert group.prompt.messages == (Message("user", "Rate?"),)
    assert [(a.text, a.model) for a in group.answers] == answers
    assert (group.tiers, group.labeler) == ((), "")


def test_answers_in_the_columns_of_a_table(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,answer 1,answer 2,answer 3,model 3\nRate?,7.5,8,,\nWhen?,now,later,never,m\n")
    found = formats.read(path, "answers")
    assert found.format == "answers in columns"
    assert [[(a.text, a.model) for a in g.answers] for g in found.rows] == [
        [("7.5", ""), ("8", "")], [("now", ""), ("later", ""), ("never", "m")]]


@pytest.mark.parametrize(("row", "message"), [
    ({"prompt": "Rate?"}, r'"prompt"\+"answer_1"\+"answer_2"; this row has "prompt"'),
    ({"prompt": "Rate?", "answers": ["one"]}, "1 answers; 2 to 9"),
    ({"prompt": "Rate?", "answers": [str(n) for n in range(10)]}, "10 answers; 2 to 9"),
    ({"prompt": "Rate?", "answers": ["a", ""]}, r'"answers\[1\]" is empty'),
    ({"prompt": "Rate?", "answers": ["a", 7]}, r'"answers\[1\]" must be a text or an object with "text"'),
    ({"prompt": "Rate?", "answers": ["a", {"html": "<b>"}]}, r'"text" is missing \(answers\[1\]\)'),
    ({"prompt": "Rate?", "answers": ["a", "b"], "models": ["m"]}, '"models" must be a list as long as "answers"'),
    ({"prompt": "", "answers": ["a", "b"]}, '"prompt" is empty')])
def test_bad_answers(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, "answers", row)


def test_answers_all_alike_are_left_out(tmp_path):
    rows = ({"prompt": "Rate?", "answers": ["a", "a"]}, {"prompt": "x", "answers": ["a", "b"]})
    found = read(tmp_path, "answers", *rows)
    assert len(found.rows) == 1 and found.skipped == {"all answers are alike": 1}


SAID = [("user", "Hi"), ("assistant", "Hello!"), ("user", "Rate?"), ("assistant", "7.5")]
ASKED = (Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "Rate?"))


def node(role, text, parent):
    return {"message": {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}},
            "parent": parent}


@pytest.mark.parametrize("row", [
    {"conversations": [{"from": {"user": "human", "assistant": "gpt"}[r], "value": t} for r, t in SAID]},
    {"conversation": [{"role": r, "content": t, "language": "English", "toxic": False} for r, t in SAID], "turn": 2},
    {"title": "Rates", "current_node": "d", "mapping": {
        "r": {"message": None, "parent": None}, "s": node("system", "", "r"), "a": node("user", "Hi", "s"),
        "x": node("assistant", "a branch left behind", "a"), "b": node("assistant", "Hello!", "a"),
        "c": node("user", "Rate?", "b"), "d": node("assistant", "7.5", "c")}}])
def test_a_log_becomes_its_last_question(tmp_path, row):
    assert [p.messages for p in read(tmp_path, "prompts", row).rows] == [ASKED]


def test_logs_that_cannot_be_asked_again_are_counted(tmp_path):
    def log(*turns):
        return {"conversation": [{"role": role, "content": text} for role, text in turns]}

    found = read(tmp_path, "prompts", log(*SAID), log(("user", " ")), log(("assistant", "Hi")), log(("user", None)),
                 log(("user", "a"), ("user", "b")), log(("user", "a"), ("tool", "b"), ("user", "c")),
                 log(("user", "a"), ("system", "b"), ("user", "c")), log(*SAID, ("tool", "x")))
    assert len(found.rows) == 1
    assert found.skipped == {
        "a turn is empty": 1, "nobody asks anything": 1, "a turn is no plain text": 1, "a tool was used": 1,
        "two turns of one speaker in a row": 1, "instructions in the middle": 1, "exact duplicate": 1}


@pytest.mark.parametrize(("row", "message"), [
    ({"conversation": "Hi"}, '"conversation" must be a list, it is a text'),
    ({"conversation": ["Hi"]}, r'"conversation\[0\]" must be an object'),
    ({"conversations": [{"from": "alien", "value": "x"}]}, r"got 'alien' \(conversations\[0\]\)"),
    ({"mapping": [], "current_node": "a"}, '"mapping" must be an object'),
    ({"mapping": {"a": {"message": {}, "parent": None}}, "current_node": "a"}, '"author"'),
    ({"mapping": {"a": {"parent": "a"}}, "current_node": "a"}, "goes in a circle")])
def test_bad_logs(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, "prompts", row)
