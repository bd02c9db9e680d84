"""The section on preference: raw and at equal length, the ladder, what is said when one order does not fit."""

import json

import numpy as np

from tunesmith.evaluate import report as reports
from tunesmith.evaluate.compare import Comparison, Judged
from tunesmith.evaluate.standing import standing
from tunesmith.records import Answer, Message, Prompt

N = 300


def compared(models=("base", "sft", "ppo")):
    """Each model writes 6 words more than the one before, and a judge that likes length; otherwise they are alike."""
    rng = np.random.default_rng(0)
    prompts = tuple(Prompt((Message("user", f"q{n}"),)) for n in range(N))
    judged = {}
    for k, model in enumerate(models):
        words = rng.normal(40 + 6 * k, 12, N).clip(3).astype(int)
        judged[model] = tuple(Judged(Answer("word " * int(w), model), float(w / 12 + rng.gumbel())) for w in words)
    return Comparison(prompts, judged)


def rows(section):
    return {row["key"]: row for row in section["rows"]}


def test_what_length_bought_is_shown_beside_the_rate(tmp_path):
    section = standing(compared())
    found = rows(section)
    assert list(found)[:2] == ["over_sft", "over_sft_at_equal_length"]  # the one before comes first
    raw, level = (found[key]["models"]["ppo"] for key in ("over_base", "over_base_at_equal_length"))
    assert raw["low"] > 0.6 and level["low"] < 0.5 < level["high"] and found["over_base"]["measurable"]
    assert not found["over_base_at_equal_length"]["measurable"]
    strength = found["strength"]["models"]
    assert strength["base"]["value"] < strength["sft"]["value"] < strength["ppo"]["value"]
    assert found["place"]["models"]["ppo"]["value"] == 1
    assert section["notes"][0].startswith("300 prompts: ±") and "needs" in section["notes"][0] and len(
        section["notes"]) == 1
    page = reports.write(tmp_path, reports.build(compared(), title="x", suites=[section])).read_text()
    assert "Preferred over base, at equal length" in page
    json.dumps(section, allow_nan=False)


def test_two_models_need_no_ladder():
    assert [key for key in rows(standing(compared(("base", "sft")))) if "over" not in key] == []


def test_models_that_beat_each_other_in_a_ring_are_named():
    prompts = tuple(Prompt((Message("user", f"q{n}"),)) for n in range(N))
    same = tuple(Judged(Answer("a"), 0.0) for _ in range(N))
    ring = Comparison(prompts, {"a": same, "b": same, "c": same}, verdicts={
        ("a", "b"): (1.0,) * N, ("b", "c"): (1.0,) * N, ("a", "c"): (0.0,) * N})
    assert "One order does not describe these models" in standing(ring)["notes"][-1]


def test_without_verdicts_the_section_still_stands():
    nothing = (float("nan"),) * 3
    prompts = tuple(Prompt((Message("user", f"q{n}"),)) for n in range(3))
    one = tuple(Judged(Answer("a"), float("nan")) for _ in range(3))
    silent = Comparison(prompts, {"a": one, "b": one, "c": one},
                        verdicts={("a", "b"): nothing, ("a", "c"): nothing, ("b", "c"): nothing})
    section = standing(silent)
    assert section["notes"][-1].startswith("No ladder: nobody compared")
    json.dumps(section, allow_nan=False)
