"""Settings of mixtures: the command, and the recipe that it reads."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunesmith.errors import SettingsError
from tunesmith.settings.common import Settings

View = Literal["zero_shot", "few_shot", "thought", "inverted"]
Templates = tuple[tuple[str, str], ...]
"""Pairs of what is asked and what is to be answered."""


class MixSettings(Settings):
    """mix.toml -> a mixture of many tasks, to learn from by its name"""

    recipe: str = Field(..., description="a TOML file: docs/mixtures.md")
    name: str = Field("", description="the mixture's name; default: the recipe's file name without its ending")
    base: str = Field("", description="cut it into this base's tokens now, and not when training first reads it")
    max_tokens: int = Field(0, ge=0, description="with --base: the longest conversation, as training will ask for it; "
                            "0: what the base takes")


class Views(Settings):
    """How often a task is shown in which way; a task's shares are taken over the ways that it has templates for."""

    zero_shot: float = Field(1.0, ge=0, description="the question alone")
    few_shot: float = Field(0.0, ge=0, description="behind solved questions of the same task")
    thought: float = Field(0.0, ge=0, description="answered with the reasons first (chain of thought)")
    inverted: float = Field(0.0, ge=0, description="the question is what is asked for (input inversion)")


class TaskSettings(Settings):
    """One task, or with `by` all tasks of one file. Templates are pairs of prompt and answer with `{field}`s."""

    file: str = Field("", description="JSONL, JSON, CSV or Parquet, .gz too; beside the recipe")
    data: str = Field("", description="or a dataset of demonstrations, taken as they are")
    cluster: str = Field("", description="the group of alike tasks it belongs to; may hold a {field}, which is the "
                         "same in all of a task's rows; default: the task's name")
    by: str = Field("", description="a field: every value of it is a task of its own")
    where: dict[str, str] = Field({}, description="only rows whose fields are these")
    words: dict[str, dict[str, str]] = Field({}, description="for a field, what its values are called in templates")
    weight: float = Field(1.0, gt=0, description="times the rate that the size gives")
    licence: str = ""
    direct: Templates = Field((), description="question and answer, for zero_shot and few_shot")
    thought: Templates = Field((), description="question, and reasons with the answer")
    inverted: Templates = Field((), description="answer and question")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.file) == bool(self.data):
            raise SettingsError("a task needs either file or data")
        if self.data and (self.direct or self.thought or self.inverted or self.by or self.where or self.words):
            raise SettingsError(f"data = \"{self.data}\" is conversations already: templates, by, where and words are "
                                "for files")
        if self.file and not self.direct:
            raise SettingsError(f"file = \"{self.file}\" needs direct templates")
        return self


class Recipe(Settings):
    """What mix.toml says."""

    seed: int = Field(0, ge=0, description="of the rows, templates and examples that are chosen")
    rows: int = Field(30_000, ge=1, description="rows of a task at most; FLAN takes 30,000")
    cap: int = Field(3_000, ge=1, description="a task with more rows is drawn no more often; FLAN: 3,000")
    temperature: float = Field(1.0, gt=0, description="rates are taken to the power 1/T: 1 is in proportion, large "
                               "ones draw every task alike")
    shots: int = Field(3, ge=1, le=16, description="solved questions before a few_shot one: 1 to so many")
    held_out: tuple[str, ...] = Field((), description="clusters of which nothing is learned")
    held_out_rows: int = Field(100, ge=1, description="rows of each of their tasks that are kept to measure on")
    views: Views = Views()
    tasks: dict[str, TaskSettings] = Field(..., min_length=1)
