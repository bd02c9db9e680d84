"""Rubrics: what the file may say, what each check finds, questions one at a time."""

from pathlib import Path

import numpy as np
import pytest

from tunesmith.errors import DataError, UserError
from tunesmith.evaluate.checklist import ChecklistJudge, RubricJudge, checked, written, yes_no
from tunesmith.evaluate.rubric import RULES, parse
from tunesmith.records import Answer, Message, Prompt

RATE = Prompt((Message("user", "What is the rate?"),), "rates",
              facts={"rate": "7.15", "both": ["7.15", "36 months"], "wrong": ["6.25", "5.85"]})
OTHER = Prompt((Message("user", "Hello"),), "smalltalk")


def rubric(tmp_path, text):
    (tmp_path / "rubric.toml").write_text(text, encoding="utf-8")
    return parse(tmp_path / "rubric.toml")


class Answering:
    """Says `say(question, answer)` to each yes-or-no question."""

    def __init__(self, say):
        self.say, self.asked = say, []

    def sample(self, prompts, sampling, *, n=1, model="", progress=None):
        self.asked += prompts
        return [[Answer(self.say(p[-1].content))] for p in prompts]


@pytest.mark.parametrize("check,meets,fails", [
    ('contains = ["APR", "%"]', "the apr is 7%", "the apr is 7"),
    ('contains = "APR"', "apr", "rate"),
    ('contains_any = ["yes", "no"]', "No.", "maybe"),
    ('not_contains = ["sorry"]', "fine", "I am SORRY"),
    ('contains_fact = "rate"', "It is 7.15%.", "It is 17.15% or 7.150."),
    ('contains_fact = "both"', "7.15% for 36 months", "7.15% for 360 months"),
    ('not_contains_fact = "wrong"', "It is 7.15%.", "It is 7.15% or 5.85%."),
    (r"regex = '\d+\.\d\d%'", "7.15% it is", "7.1%"),
    (r"not_regex = '(?i)guarantee'", "no promise", "Guaranteed!"),
    ("max_words = 3", "one two three", "one two three four"),
    ("min_words = 3", "one two three", "one two"),
    ("max_repetition = 0.2", "a b c d e f", "a b c a b c a b c"),
    ("json_valid = true", '{"a": [1, 2]}', '{"a": [1, 2'),
    ("no_hidden_characters = true", "plain", "plain\u200b"),
    ("not_empty = true", "x", " \n"),
])
def test_each_check_knows_good_from_bad(tmp_path, check, meets, fails):
    judge = RubricJudge(rubric(tmp_path, f"[[item]]\n{check}\n"))
    assert judge.score(RATE, [meets, fails]) == [1.0, 0.0]


def test_every_rule_is_tested_above():
    tested = {mark.args[1][n][0].split(" ")[0] for mark in test_each_check_knows_good_from_bad.pytestmark
              for n in range(len(mark.args[1]))}
    assert tested == set(RULES)


TWO = """
name = "Desk"
[[item]]
name = "rate"
domains = ["rates"]
weight = 3
contains_fact = "rate"
[[item]]
name = "short"
max_words = 5
"""


def test_weights_domains_and_facts(tmp_path):
    judge = RubricJudge(rubric(tmp_path, TWO))
    assert judge.name == "rubric Desk"
    long_right, short_wrong = "It is 7.15 percent at the moment", "Six percent"
    assert judge.score(RATE, [long_right, short_wrong, "7.15"]) == [0.75, 0.25, 1.0]
    assert judge.score(OTHER, [long_right, short_wrong]) == [0.0, 1.0]  # of another domain: only the second item
    verdicts = judge.compare([RATE, OTHER, RATE], [long_right, "hi", "a"], [short_wrong, "ho", "b"])
    assert [v.outcome for v in verdicts] == [1.0, 0.5, 0.5]
    assert verdicts[0].reason == "only the first: rate; only the second: short"
    assert np.isnan(judge.marks([OTHER], ["x"])[0, 0])


def test_which_rules_an_answer_keeps_is_said_without_asking_anybody(tmp_path):
    found = rubric(tmp_path, TWO + '[[item]]\nname = "kind"\nquestion = "Is it kind?"\n')
    assert found.kept(RATE, "Six percent") == {"rate": False, "short": True}
    assert found.kept(OTHER, "7.15") == {"rate": None, "short": True}


@pytest.mark.parametrize("text,what", [
    ("[[item]]\nname = 'x'\ncontain = 'a'", 'item 1 ("x"): unknown check "contain"; did you mean "contains"?'),
    ("[[item]]\nmax_words = 3\n[[item]]\nmax_words = -1", 'item 2: "max_words" must be a whole number of at least 0'),
    ("[[item]]\nmax_words = true", 'item 1: "max_words" must be a whole number'),
    ("[[item]]\nregex = '('", 'item 1: "regex" must be a regular expression ('),
    ("[[item]]\nname = 'none'", 'item 1 ("none"): an item has exactly one check, this one has none'),
    ("[[item]]\nmax_words = 3\nmin_words = 1", "exactly one check, this one has max_words, min_words"),
    ("[[item]]\nmax_words = 3\nweight = 0", 'item 1: "weight" must be a number above 0'),
    ("[[item]]\nmax_words = 3\nweight = inf", 'item 1: "weight" must be a number above 0'),
    ("[[item]]\nmax_words = 3\ndomains = 'rates'", 'item 1: "domains" must be a list of texts'),
    ("[[item]]\ncontains = []", 'item 1: "contains" must be a text or a list of texts'),
    ("[[item]]\njson_valid = false", 'item 1: "json_valid" must be true'),
    ("[[item]]\nquestion = ''", 'item 1: "question" must be a question'),
    ("[[item]]\nname = 'a'\nmax_words = 3\n[[item]]\nname = 'a'\nmax_words = 4", 'two items are called "a"'),
    ("name = 'empty'", "at least one [[item]]"), ("nmae = 'x'", 'unknown key "nmae"; did you mean "name"?'),
    ("[[item", "not TOML"),
])
def test_errors_name_the_file_and_the_item(tmp_path, text, what):
    with pytest.raises(DataError) as error:
        rubric(tmp_path, text)
    assert what in str(error.value) and "rubric.toml:" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.toml: there is no such rubric"):
        parse(tmp_path / "nowhere.toml")


ASK = """
[[item]]
name = "next step"
question = "Does it say what happens next?"
[[item]]
name = "short"
max_words = 5
"""


def test_questions_are_asked_one_by_one(tmp_path):
    engine = Answering(lambda asked: "YES" if "then" in asked.split("[end of request")[1] else "no, it does not")
    judge = RubricJudge(rubric(tmp_path, ASK), engine)
    assert judge.score(RATE, ["wait, then call", "wait"]) == [1.0, 0.5] and len(engine.asked) == 2
    assert judge.compare([RATE], ["wait"], ["wait, then call"])[0].reason == "only the second: next step"
    with pytest.raises(UserError, match=r'asks questions .*"next step".*name a model'):
        RubricJudge(rubric(tmp_path, ASK))


def test_a_question_without_a_clear_answer_counts_for_neither(tmp_path):
    engine = Answering(lambda asked: "well ..." if "mumble" in asked else "YES")
    judge = RubricJudge(rubric(tmp_path, ASK), engine)
    assert judge.compare([RATE], ["mumble"], ["one two three four five six"])[0].outcome == 1.0  # by length alone
    assert (judge.unreadable().value, judge.unreadable().n) == (0.5, 2)
    only = RubricJudge(rubric(tmp_path, ASK.split("[[item]]\nname = \"short\"")[0]), engine)
    assert only.compare([RATE], ["mumble"], ["clear"])[0].outcome is None
    with pytest.raises(UserError, match="no item could be judged"):
        only.score(RATE, ["mumble"])


@pytest.mark.parametrize("reply,value", [("YES", 1), ("yes.", 1), ("**No**", 0), (" NO, because", 0),
                                         ("Yesterday", None), ("not really", None), ("", None)])
def test_yes_and_no(reply, value):
    assert yes_no(reply) == value if value is not None else np.isnan(yes_no(reply))


def test_the_question_stands_behind_the_marks():
    asked = checked(RATE.messages, "[end of answer] YES", "Is it kind?")[1].content
    assert asked.endswith("Is it kind?\nYES or NO?") and "What is the rate?" in asked


def test_checklists_by_a_model():
    says = "Here are some:\n1. Does it name the rate?\n- Is it polite?\n* Is it polite?\nThanks"
    engine = Answering(lambda asked: says)
    found = written(engine, [RATE, OTHER], count=2)
    assert [[i.question for i in r.items] for r in found] == [["Does it name the rate?", "Is it polite?"]] * 2
    assert RubricJudge(found[0], Answering(lambda asked: "YES")).score(RATE, ["x"]) == [1.0]
    assert written(Answering(lambda asked: "no idea"), [RATE])[0].items == ()


def test_each_prompt_is_judged_by_its_own_checklist():
    def say(asked):
        if asked.startswith("Write a checklist"):
            return "Does it name the rate?\nIs it kind?" if "rate" in asked else "nothing to ask"
        right = "7.15" in asked.split("[answer ")[1]
        return "YES" if right or asked.endswith("Is it kind?\nYES or NO?") else "NO"

    engine = Answering(say)
    judge = ChecklistJudge(engine)
    verdicts = judge.compare([RATE, RATE, OTHER], ["7.15", "six", "a"], ["nine", "six!", "b"])
    assert [v.outcome for v in verdicts] == [1.0, 0.5, None]
    assert verdicts[0].reason == "only the first: Does it name the rate?"
    assert sum(p[0].content.startswith("Write") for p in engine.asked) == 2  # once for each prompt
    assert judge.score(RATE, ["7.15", "six"]) == [1.0, 0.5]
    with pytest.raises(UserError, match="no item could be judged"):
        judge.score(OTHER, ["a"])


def test_the_rubric_in_the_documents_is_one_and_every_check_is_named(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "judges.md").read_text(encoding="utf-8")
    found = rubric(tmp_path, page.split("```toml\n")[1].split("```")[0])
    assert [i.kind for i in found.items] == ["contains_fact", "max_words", "question"]
    assert [check for check in RULES if f"`{check}`" not in page] == []
