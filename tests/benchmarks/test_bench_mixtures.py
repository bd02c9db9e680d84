"""The mixtures' benchmark: what it compares, and in small what it shows of memory."""

import random
import tomllib

import numpy as np
import pytest

from benchmarks import mixtures


def cell(model, seed, shift, right):
    rng = random.Random(1)
    questions = [10 + rng.random() for _ in range(40)]
    return {"model": model, "seed": seed, "clusters": {name: {
        "nats": [q + shift for q in questions], "tokens": [5] * 40, "right": [int(i < right) for i in range(40)],
        "labels": ["yes"] * 30 + ["no"] * 10} for name in mixtures.CLUSTERS}}


def test_the_mixture_is_held_against_all_single_tasks_on_the_same_questions():
    cells = [cell("base", 0, 0.0, 20), cell("ecqa", 0, -1.0, 20), cell("boolqa", 0, -3.0, 22),
             *(cell(f"mixture without {name}", 0, -3.0, 24) for name in mixtures.CLUSTERS)]
    for cluster in cells[3:]:
        cluster["clusters"] = {cluster["model"].split()[-1]: cluster["clusters"]["inference"]}
    found = mixtures.compared(cells)["sentiment"]
    assert found["runs"] == {"base": 1, "single task": 2, "mixture": 1} and found["commonest_label"] == 0.75
    assert found["mixture_minus"]["base"]["nats_per_token"].value == pytest.approx(-0.6)
    assert found["mixture_minus"]["single task"]["nats_per_token"].value == pytest.approx(-0.2)
    assert found["mixture_minus"]["single task"]["right"].value == pytest.approx(3 / 40)
    assert found["right"]["mixture"].value == 0.6
    assert mixtures.each(cells)["sentiment"]["boolqa"] == [pytest.approx(
        found["nats_per_token"]["base"].value - 0.6, abs=1e-4)]


def test_recipes_are_toml():
    value = {"a": [["{x}\n\"y\"", "z"]], "b": {"c": 1.5}}
    assert tomllib.loads(f"v = {mixtures.toml(value)}") == {"v": value}


@pytest.mark.slow
def test_twenty_times_the_rows_take_the_same_memory_and_any_step_is_found_again(tmp_path):
    cells = list(mixtures.scale([5_000, 100_000], ["mix", "cut", "draw"], tmp_path, []))
    peak = {(c["rows_asked"], c["stage"]): c["peak_mb"] for c in cells}
    for stage in ("mix", "cut", "draw"):
        assert peak[100_000, stage] < 1.1 * peak[5_000, stage]
    assert all(c["identical"] for c in cells if c["stage"] == "draw")
    assert np.array_equal([c["rows"] for c in cells if c["stage"] == "cut"], [5_000, 100_000])
