"""Settings of the steps in which a language model helps people."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tunesmith.errors import SettingsError
from tunesmith.settings.common import Settings

CONSTITUTION = "a file of written principles, .toml or .md (docs/ai_help.md)"


class ReviseSettings(Settings):
    """drafts a model finds wanting -> better ones that wait on the review desk"""

    data: str = Field(..., description="a dataset of demonstrations, or of prompts (then --writer drafts the answers)")
    constitution: str = Field(..., description=CONSTITUTION)
    by: str = Field(..., description="who criticises and revises: model:NAME (an adapter or a base) or endpoint:NAME")
    name: str = Field(..., description="the desk that the drafts wait on, and the folder under reports/")
    writer: str = Field("", description="for prompts: model:NAME or endpoint:NAME that writes the first drafts")
    rules: str = Field("", description="a rubric's FILE.toml, without questions, that no revision may meet less")
    passes: int = Field(0, ge=0, description="principles that each draft is held against; 0: all")
    check: bool = Field(True, description="the critic sees each revision before it is taken")
    unchanged: bool = Field(False, description="drafts that break nothing go to the desk too (prompts: they always do)")
    limit: int = Field(0, ge=0, description="use only the first N rows; 0: all")
    max_tokens: int = Field(512, ge=1, description="of an answer")
    batch: int = Field(32, ge=1, description="drafts that are asked about together")
    seed: int = Field(0, ge=0, description="of the first drafts")


class JudgeSettings(Settings):
    """a set of answers -> a language model's preferences, held against people's"""

    groups: str = Field(..., description="the set whose answers are judged")
    by: str = Field(..., description="model:NAME, endpoint:NAME, checklist: before one of these, or a FILE.toml")
    constitution: str = Field("", description=CONSTITUTION + " that it goes by; for model: and endpoint:")
    asks: str = Field("", description="model:NAME or endpoint:NAME that answers the questions of a rubric")
    name: str = Field("", description="of the dataset of comparisons; default: the set's name with -judged")
    limit: int = Field(0, ge=0, description="judge only the first N groups; 0: all")

    @model_validator(mode="after")
    def _who_reads_it(self) -> Self:
        if self.constitution and not self.by.startswith(("model:", "endpoint:")):
            raise SettingsError("--constitution is read by model:NAME and endpoint:NAME; a rubric and a checklist have "
                                "words of their own")
        if self.asks and not self.by.endswith(".toml"):
            raise SettingsError("--asks answers the questions of a rubric: give --by its FILE.toml")
        return self
