"""Settings of evaluation and the quickstart."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.settings.common import Settings


class EvaluateSettings(Settings):
    """a model against its baselines -> report"""

    models: tuple[str, ...] = Field(..., description="adapters, best guess first")
    against: tuple[str, ...] = Field(("base",), description="baselines; base is the bare base")
    prompts: str = Field("", description="a dataset of held-out prompts that all models answer and the judge compares")
    judge: str = Field("", description="people, a reward model, loan-desk for its rubric, a rubric's FILE.toml, "
                       "model:NAME, endpoint:NAME, or checklist: before one of the last two (docs/judges.md)")
    asks: str = Field("", description="model:NAME or endpoint:NAME that answers the questions of a rubric")
    guidelines: str = Field("", description="a file with what a language model judges by")
    subsets: str = Field("", description="for reward models: comparisons with a subset each, as in RewardBench")
    reward: str = Field("", description="a reward model whose scores are shown beside the judge's")
    name: str = Field("report", description="folder under reports/")
    limit: int = Field(0, ge=0)
    max_tokens: int = Field(128, ge=1)
    temperature: float = Field(1.0, gt=0)
    batch: int = Field(64, ge=1)
    suite: tuple[str, ...] = Field((), description="tests that all models take (docs/evaluation.md lists them)")
    files: str = Field("", description="the folder with the suites' own files, where they are not built in")
    sample: int = Field(0, ge=0, description="items of each suite, of every kind their share; 0: as many as a quick "
                        "look needs")
    whole: bool = Field(False, description="all items of each suite")
    references: str = Field("", description="for the suite diversity: a dataset of demonstrations, which people wrote")
    gate: str = Field("", description="a file of rules; where one is not kept, the command ends with exit code 1")
    seed: int = Field(0, ge=0)


class QuickstartSettings(Settings):
    """the whole loop on the built-in loan desk"""

    fast: bool = Field(False, description="a smoke version: seconds, not minutes, and no claims")
    rank_yourself: int = Field(0, ge=0, description="how many prompts you rank in the browser first")
    seed: int = Field(0, ge=0)
    split: Literal["dev", "test"] = Field("test", description="which held-out prompts the report uses")
