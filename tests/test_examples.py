"""The examples run on tiny slices of the real data and write sane results. Their full results: docs/results."""

import importlib
import json
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path, request):
    """Runs an example's `main`, as its command line would; returns the file it wrote."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(name, *flags, data=None):
        monkeypatch.setattr(sys, "argv", [f"examples/{name}.py", "--fast"])
        data = data or request.getfixturevalue("shared_data")
        out = tmp_path / "results.json"
        importlib.import_module(name).main(["--fast", "--data", str(data), "--workspace", str(tmp_path / "workspace"),
                                            "--out", str(out), *flags])
        return json.loads(out.read_text())

    return run


def check_interval(found, low=0.0, high=1.0):
    assert found["n"] > 0
    assert low <= found["low"] <= found["value"] <= found["high"] <= high


def check_about(found):
    assert found["seconds"] > 0
    assert found["about"]["fast"] and found["about"]["seed"] == 0 and found["about"]["processor"]


@pytest.mark.slow
def test_hh_reward_model(run):
    found = run("hh_reward_model")
    check_about(found)
    results = found["results"]
    for name in ("model", "length_only", "in_training"):
        check_interval(results[name])
    assert results["coin"] == 0.5 and results["length_rule"] in ("the longer reply", "the shorter reply")
    assert results["model"]["n"] == results["length_only"]["n"] == results["held_out"]["pairs"]
    observed = [b["observed"]["value"] for b in results["held_out"]["calibration"]]
    assert any(v < 1 for v in observed), "calibration counts in an order that knows which reply was chosen"
    assert results["cost"]["groups"] > results["model"]["n"]


@pytest.mark.slow
def test_service_sft(run):
    found = run("service_sft")
    check_about(found)
    results = found["results"]
    nll = {}
    for name in ("unigram", "base", "sft"):
        check_interval(results[name]["accuracy"])
        check_interval(results[name]["nll"], 0.5, 9.0)
        nll[name] = results[name]["nll"]["value"]
    assert nll["sft"] - 0.05 < nll["base"] < nll["unigram"] - 1
    difference = results["sft_minus_base"]["nll"]["value"]
    assert difference == pytest.approx(nll["sft"] - nll["base"], abs=1e-9)
    assert results["tokens"] > 10 * results["dialogues"] > 0


@pytest.mark.slow
def test_coffee_agent(run):
    found = run("coffee_agent")
    check_about(found)
    results = found["results"]
    for domain in ("coffee_ordering", "movie_tickets"):
        model = results["reward_model"][domain]
        assert 0 < model["approved"] < model["rows"], "both kinds of thumbs are needed"
        for name in ("model", "length_only", "words_or_call"):
            check_interval(model[name])
    policy = results["policy"]
    assert set(policy) == {f"{who} {way}" for who in ("sft", "ppo", "ppo - sft") for way in ("sampled", "greedy")}
    for name in ("sft sampled", "ppo greedy"):
        for key in ("calls", "action_as_approved", "call_as_approved", "finished"):
            check_interval(policy[name][key])
        check_interval(policy[name]["tokens"], 1, 12)
    assert policy["ppo - sft sampled"]["reward"]["value"] == pytest.approx(
        policy["ppo sampled"]["reward"]["value"] - policy["sft sampled"]["reward"]["value"], abs=1e-9)
    assert abs(policy["ppo sampled"]["kl"]["value"]) < 5


def test_the_message_format_of_the_coffee_agent(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    coffee = importlib.import_module("coffee_turns")
    chat = coffee.turns([{"role": "agent", "text": "Hi."}, {"role": "user", "text": "tea"},
                         {"role": "user", "text": "hot"}, {"role": "agent", "api": {"find_item": {"q": "tea"}}},
                         {"role": "api", "response": {"items": [{"id": "t-1"}]}}])
    assert chat[2]["content"] == "(find item: (q: tea))"
    assert [t["role"] for t in chat] == ["assistant", "user", "assistant", "tool"]
    assert chat[1]["content"] == "tea\nhot"
    call = ("call", {"find item": {"q": "tea"}})
    assert coffee.parsed(chat[2]["content"]) == call == coffee.parsed('(find item:( q:tea))')
    assert coffee.parsed("Hot  Tea?") == ("words", "hot tea?")
    assert coffee.parsed("(a: (b: [(c: d), (c: e)]))") == ("call", {"a": {"b": [{"c": "d"}, {"c": "e"}]}})
    for broken in ("(find: (q: ", "(find: (q))", "(find: tea)", "(a: (), b: ())", "()", "(a: (b: c)) d"):
        assert coffee.parsed(broken)[0] == "broken"


def test_a_missing_folder_of_data_is_named(run, tmp_path):
    from tunesmith.errors import UserError

    with pytest.raises(UserError, match=r"no-such-folder.*TUNESMITH_DATA"):
        run("hh_reward_model", data=tmp_path / "no-such-folder")
