"""The table in the documentation is what was measured."""

import json
from pathlib import Path

from benchmarks import adapters

DOCS = Path(__file__).parents[2] / "docs"


def row(method, seed, loss, own, tune=False):
    about = {"core_seconds": 10.0 + seed, "peak_mb": 700.0, "trained_parameters": 50, "parameters": 1000}
    return {"job": {"method": method, "seed": seed, "lr": 0.003, "tune": tune}, "about": about, "exact": loss / 10,
            "before": {"held_out_loss": 6.0, "own_loss": 0.4}, "after": {"held_out_loss": loss, "own_loss": own},
            "disk_bytes": 4000}


def test_means_and_how_far_seeds_lie_from_them():
    found = adapters.summary([row("lora", 0, 1.0, 0.5), row("full", 0, 3.0, 0.7), row("lora", 1, 1.5, 0.9),
                              row("full", 0, 9.0, 9.0, tune=True)])
    assert list(found["methods"]) == ["lora", "full"] and found["methods"]["lora"]["seeds"] == 2
    assert adapters.table(found).splitlines()[2:] == [
        "| lora | 0.003 | 2 | 5% | 1.250 ± 0.250 | 12.5% ± 2.5 | 0.300 ± 0.200 | 10 ± 0 | 700 |",
        "| full | 0.003 | 1 | 5% | 3.000 ± 0.000 | 30.0% ± 0.0 | 0.300 ± 0.000 | 10 ± 0 | 700 |"]
    assert adapters.tried(found).splitlines()[2:] == ["| full | 0.003 | 50 | 9.000 | 90.0% | 8.600 | 10 | 700 | 4 |"]


def test_the_page_shows_the_recorded_runs():
    found = json.loads((DOCS / "results" / "adapters.json").read_text())
    page = (DOCS / "which_adapter.md").read_text()
    assert adapters.summary(found["runs"]) == found
    assert adapters.table(found) in page and adapters.tried(found) in page
    assert {*found["methods"], *(t["method"] for t in found["tuning"])} == set(adapters.METHODS)
