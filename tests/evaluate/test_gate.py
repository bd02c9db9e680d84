"""The gate: rules on report.json, what was not measured holds none, and a bad file says where it is bad."""

import pytest

from tunesmith.errors import SettingsError
from tunesmith.evaluate import gate
from tunesmith.evaluate.gate import Gate, Rule


def interval(value, low=None, high=None):
    return {"value": value, "low": value if low is None else low, "high": value if high is None else high, "n": 100}


REPORT = {
    "models": [{"name": "sft", "metrics": {"words": interval(20.0)}},
               {"name": "ppo", "metrics": {"words": interval(24.0, 23, 25), "kl": interval(8.0, 7, 9)}}],
    "metrics": [{"key": "words", "better": ""}, {"key": "kl", "better": "lower"}],
    "preferences": [{"model": "ppo", "baseline": "sft", "rate": interval(0.6, 0.52, 0.68)},
                    {"model": "sft", "baseline": "base", "rate": interval(0.4, 0.3, 0.45)}],
    "changes": [{"key": "words", "model": "ppo", "baseline": "sft", "difference": interval(4.0, 3, 5),
                 "relative": interval(0.2, 0.15, 0.25)}],
    "suites": [{"name": "truthfulqa", "rows": [
        {"key": "mc1", "better": "higher",
         "models": {"sft": interval(0.30, 0.25, 0.35), "ppo": interval(0.27, 0.22, 0.32)},
         "changes": [{"model": "ppo", "baseline": "sft", "difference": interval(-0.03, -0.06, 0.0)}]}]}],
}


def kept(**rule):
    return gate.judge(Gate(rule=(Rule(**rule),)), REPORT)["passed"]


@pytest.mark.parametrize("rule, passed", [
    ({"figure": "preference", "at_least": 0.5}, True),
    ({"figure": "preference", "at_least": 0.55}, False),
    ({"figure": "preference", "at_least": 0.55, "proven": False}, True),
    ({"figure": "preference", "against": "sft", "at_least": 0.5}, True),
    ({"figure": "kl", "at_most": 10}, True),
    ({"figure": "kl", "at_most": 8}, False),
    ({"figure": "words", "changed_by_at_most": 0.2}, True),
    ({"figure": "words", "changed_by_at_most": 0.1}, False),
    ({"figure": "words", "changed_by_at_most": 0.2, "proven": True}, False),
    ({"figure": "truthfulqa.mc1", "worse_by_at_most": 0.0}, True),
    ({"figure": "truthfulqa.mc1", "worse_by_at_most": 0.05, "proven": True}, False),
    ({"figure": "truthfulqa.mc1", "worse_by_at_most": 0.06, "proven": True}, True),
    ({"figure": "truthfulqa.mc1", "at_least": 0.25}, False),
    ({"figure": "truthfulqa.mc1", "changed_by_at_most": 0.2, "proven": True}, True),
    ({"figure": "truthfulqa.mc1", "changed_by_at_most": 0.19, "proven": True}, False),
    ({"figure": "alarms", "at_most": 0}, True),
])
def test_rules(rule, passed):
    assert kept(**rule) is passed


@pytest.mark.parametrize("figure", ["toxicity.mean", "truthfulqa.mc3", "score"])
@pytest.mark.parametrize("bound", ["at_least", "at_most", "worse_by_at_most", "changed_by_at_most"])
def test_what_was_not_measured_holds_no_rule(figure, bound):
    found = gate.judge(Gate(rule=(Rule(figure=figure, **{bound: 0.0}),)), REPORT)
    assert not found["passed"] and found["rules"][0]["found"] == "not measured"


def test_a_rule_against_a_baseline_that_is_not_there_does_not_hold():
    assert not kept(figure="preference", against="sfx", at_least=0.0)


def test_an_alarm_closes_the_gate():
    alarmed = {**REPORT, "alarms": [{"text": "answers grew"}]}
    assert not gate.judge(Gate(rule=(Rule(figure="alarms", at_most=0),)), alarmed)["passed"]


def test_a_lower_figure_may_be_better():
    report = {**REPORT, "changes": [{"key": "kl", "model": "ppo", "baseline": "sft", "difference": interval(2, 1, 3)}]}
    rule = Rule(figure="kl", worse_by_at_most=0.5)
    assert not gate.judge(Gate(rule=(rule,)), report)["passed"]


def test_the_file(tmp_path):
    path = tmp_path / "gate.toml"
    path.write_text('[[rule]]\nfigure = "preference"\nat_least = 0.5\n[[rule]]\nfigure = "kl"\nat_most = 10\n')
    assert [str(r) for r in gate.read(path).rule] == ["preference at least 0.5 (proven)", "kl at most 10 (proven)"]


@pytest.mark.parametrize("written, message", [
    ("rule = 3", "a list of"), ("", "a list of"), ("[[rules]]\nfigure='a'\nat_least=1", "a list of"),
    ("[[rule", "gate.toml"),
    ("[[rule]]\nfigure='a'", "rule 1: .*needs one of at_least"),
    ("[[rule]]\nfigure='a'\nat_least=1\nat_most=2", "needs one of"),
    ("[[rule]]\nfigure='a'\nat_least=1\n[[rule]]\nfigure='a'\natleast=1", 'rule 2: unknown key "atleast".*at_least'),
    ("[[rule]]\nfigure='a'\nat_least='much'", 'rule 1: "at_least"'), ("[[rule]]\nat_least=1", 'rule 1: "figure"'),
])
def test_a_bad_file_says_where_it_is_bad(tmp_path, written, message):
    path = tmp_path / "gate.toml"
    path.write_text(written)
    with pytest.raises(SettingsError, match=message):
        gate.read(path)
    with pytest.raises(SettingsError, match=r"gate\.toml"):
        gate.read(tmp_path / "no" / "gate.toml")
