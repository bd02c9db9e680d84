"""The worked examples: the commands of each page run as they stand, on a few rows and a tiny base."""

import json

import pytest
import tiny

from benchmarks import worked
from tunesmith.quickstart import builtin

QUICK = ("radiology_reports", "marketing_voice", "email_summaries", "legal_to_health")
LONG = ("lender_desk", "staged_medicine", "climate_assistant")
SMALL = {
    "lead.py": "", "panel.py": "", ".py": "--small",
    "sft": "--epochs 0.1 --batch 3 --memory-mb 64", "reward": "--epochs 0.1 --batch 4",
    "collect": "--limit 8 --max-tokens 24",
    "ppo": "--updates 1 --episodes 4 --epochs 1 --minibatches 1 --max-tokens 4",
    "grpo": "--updates 1 --batch 1 --samples 2 --max-tokens 4", "dpo": "--batch 8",
    "transfer": "--limit 2", "evaluate": "--limit 2 --max-tokens 4",
}
"""Flags by the first of these that a command names."""


def smaller(words):
    return next((flags.split() for part, flags in SMALL.items() if part in words or words[1].endswith(part)), ())


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A tiny base with room for a thread of mails, letter by letter."""
    folder = tiny.save(tmp_path_factory.mktemp("base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    return folder


@pytest.mark.parametrize("page", [*QUICK, *(pytest.param(page, marks=pytest.mark.slow) for page in LONG)])
def test_a_page_runs_as_it_stands(page, base, tmp_path, monkeypatch):
    if page not in ("lender_desk", "climate_assistant"):  # whose answers must differ enough to be ranked
        monkeypatch.setitem(builtin.BASES, "loan-desk", str(base))
    monkeypatch.delenv("TUNESMITH_WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path)
    steps = list(worked.play(worked.PAGES / f"{page}.md", more=smaller))
    assert [step for step in steps if "adapter" in step.result], "nothing was trained"
    reports = [step.result for step in steps if "evaluate" in step.words]
    for report in reports:
        assert len(report["models"]) >= 2 and report["preferences"]
    rounds = [step.result["status"] for step in steps if "climate/loop.toml" in step.words]
    assert all(was == "waiting" and now in ("adopted", "refused") for was, now in zip(rounds[::2], rounds[1::2]))


@pytest.mark.slow
@pytest.mark.parametrize("page", [*QUICK, "lender_desk", "staged_medicine"])
def test_a_page_at_its_own_size_ends_with_a_model_that_beats_the_one_it_is_held_against(page):
    for evaluation in worked.measured(worked.PAGES / f"{page}.md", [0])["evaluations"].values():
        plainest, *_, newest = evaluation["models"]
        rates = {(p["model"], p["baseline"]): p for p in evaluation["preferences"]}
        assert rates[newest, plainest]["low"] > 0.5
