"""Settings of looking after data: duplicates, leaks, health, new tasks, learning curves."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tunesmith.errors import SettingsError
from tunesmith.settings.common import Settings

_SUITES = ("datasets, or suite:NAME of `evaluate --suite` (suite:all: whatever lacks nothing)")
_FILES = "the folder with the suites' own files, where they are not built in"


class DedupeSettings(Settings):
    """a dataset -> one without rows that say the same"""

    data: str = Field(..., description="a dataset of demonstrations or prompts")
    name: str = Field(..., description="of the new dataset")
    against: tuple[str, ...] = Field((), description="datasets that are there already: what repeats their rows goes "
                                     "too")
    threshold: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of runs of five words from which two "
                             "rows say the same; 1: word for word alone")


class DecontaminateSettings(Settings):
    """a dataset -> one without rows that hold evaluation items"""

    data: str = Field(..., description="a dataset of demonstrations, prompts or comparisons")
    name: str = Field(..., description="of the new dataset")
    against: tuple[str, ...] = Field(..., min_length=1, description=_SUITES)
    files: str = Field("", description=_FILES)
    ngram: int = Field(8, ge=2, le=50, description="words of a run that is looked for")
    share: float = Field(0.7, gt=0, le=1, description="of an item's runs that a row must hold to leak it")


class HealthSettings(Settings):
    """a dataset -> a report on what is wrong with it"""

    data: str = Field(..., description="a dataset")
    name: str = Field("", description="folder under reports/; default: health-DATA")
    against: tuple[str, ...] = Field((), description="evaluations that must not be in it: " + _SUITES)
    files: str = Field("", description=_FILES)
    reference: str = Field("", description="a dataset of what people really ask, to see which topics are missing")
    threshold: float = Field(0.8, gt=0, le=1, description="from which similarity on two rows say the same")
    sample: int = Field(2000, ge=50, description="rows that are looked at closely")
    seed: int = Field(0, ge=0)


class GenerateSettings(Settings):
    """a few tasks by people -> many drafts by a model, for the review desk (Self-Instruct)"""

    seeds: str = Field(..., description="tasks by people: a file (instruction, input, output, and is_classification or "
                       "instances if there are), or a dataset of demonstrations")
    name: str = Field(..., description="the desk that the drafts wait on, and the folder under reports/")
    writer: str = Field(..., description="who makes them up: model:NAME (an adapter or a base) or endpoint:NAME")
    tasks: int = Field(100, ge=1, description="tasks on the desk at the end, those of earlier runs included")
    requests: int = Field(5, ge=1, description="requests for new tasks that are asked together")
    patience: int = Field(10, ge=1, description="rounds without a new task after which it gives up")
    chat: bool = Field(False, description="ask as a user's message, for models and servers that only answer")
    max_tokens: int = Field(0, ge=0, description="of an answer; 0: the paper's 1,024 for tasks, 350 for examples")
    licence: str = Field("", description="of what the writer wrote, for the card")
    unreviewed: str = Field("", description="also publish all of it, reviewed or not, as a dataset of this name")
    seed: int = Field(0, ge=0)


class CurveSettings(Settings):
    """a dataset -> how much more data would help: loss against the number of examples"""

    data: str = Field(..., description="a dataset of demonstrations to learn from")
    valid: str = Field(..., description="demonstrations to measure the loss on")
    base: str = Field("", description="a directory, a hub id or loan-desk")
    name: str = Field("", description="folder under reports/; default: curve-DATA")
    sizes: tuple[int, ...] = Field((100, 300, 1000, 3000), description="numbers of examples; larger than the dataset: "
                                   "all of it")
    seeds: int = Field(3, ge=1, description="training runs of each size, each on other examples")
    epochs: float = Field(3.0, gt=0, description="passes over the examples")
    least_steps: int = Field(60, ge=1, description="small sizes get more passes, until so many steps are done")
    batch: int = Field(16, ge=1)
    lr: float = Field(0.0, ge=0, description="0: what sft takes")
    rank: int = Field(16, ge=1, description="LoRA rank")
    max_tokens: int = Field(0, ge=0, description="longest conversation; 0: what the base takes")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.data == self.valid:
            raise SettingsError("--valid must be other demonstrations than the ones that are learned from")
        if len(set(self.sizes)) < 3 or min(self.sizes) < 1:
            raise SettingsError("--sizes needs at least three different numbers of examples")
        return self
