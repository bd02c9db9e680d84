"""Judges of pairs and people in the report: scores are shares of wins, verdicts go before scores, nan is no tie."""

import json

import numpy as np

from tunesmith.evaluate import report as reports
from tunesmith.evaluate.compare import load, save
from tunesmith.evaluate.outcomes import Outcomes, comparison, of_comparison
from tunesmith.records import Answer, Message, Prompt

PROMPTS = [Prompt((Message("user", f"q{n}"),), "odd" if n % 2 else "even") for n in range(4)]
ANSWERS = {m: [Answer(f"{m} says {n}", m) for n in range(4)] for m in ("base", "sft", "ppo")}
NAN = float("nan")
SAID = Outcomes(("base", "sft", "ppo"), {
    ("base", "sft"): np.array([0.0, 0.0, 1.0, NAN]), ("base", "ppo"): np.array([0.0, 0.5, 1.0, NAN]),
    ("sft", "ppo"): np.array([1.0, 0.0, NAN, NAN])})


def test_an_answers_score_is_its_share_of_wins():
    found = comparison(PROMPTS, ANSWERS, SAID)
    assert np.array_equal(found.scores("ppo"), [0.5, 0.75, 0.0, NAN], equal_nan=True)
    assert np.array_equal(found.scores("base"), [0.0, 0.25, 1.0, NAN], equal_nan=True)


def test_verdicts_go_before_scores_and_missing_ones_are_left_out():
    found = comparison(PROMPTS, ANSWERS, SAID)
    assert np.array_equal(found.outcomes("ppo", "sft"), [0.0, 1.0, NAN, NAN], equal_nan=True)
    rate = found.preference("ppo", "sft")
    assert (rate.wins, rate.ties, rate.losses, rate.rate.n) == (1, 0, 1, 2)
    assert found.preference("sft", "base").rate.n == 3
    back = of_comparison(found)
    assert all(np.array_equal(back.of(a, b), SAID.of(a, b), equal_nan=True) for a, b in SAID.table)


def test_the_prompts_that_are_kept_keep_their_verdicts(tmp_path):
    found = comparison(PROMPTS, ANSWERS, SAID, checks=lambda prompt, answer: {"polite": True})
    odd = found.where(lambda p: p.domain == "odd")
    assert np.array_equal(odd.outcomes("base", "ppo"), [0.5, NAN], equal_nan=True)
    save(tmp_path / "comparison.jsonl", found)
    assert "NaN" not in (tmp_path / "comparison.jsonl").read_text()
    again = load(tmp_path / "comparison.jsonl")
    for model in ANSWERS:
        assert np.array_equal(again.scores(model), found.scores(model), equal_nan=True)
    assert np.array_equal(again.outcomes("base", "ppo"), found.outcomes("base", "ppo"), equal_nan=True)


def test_the_report_takes_them(tmp_path):
    built = reports.build(comparison(PROMPTS, ANSWERS, SAID), title="x", judge={"name": "three people"})
    page = reports.write(tmp_path, built)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert page.exists() and {p["rate"]["n"] for p in stored["preferences"]} == {2, 3}
