"""Settings of what comes in and waits for people."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunesmith.errors import SettingsError
from tunesmith.settings.common import Settings

LOGS = ("openai", "langfuse", "phoenix", "wildchat", "lmsys", "arena")


class ImportSettings(Settings):
    """a file -> a dataset of the workspace"""

    file: str = Field(..., description="JSONL, JSON, CSV or Parquet, .gz too")
    kind: Literal["demonstrations", "prompts", "answers", "comparisons", "rankings", "interactions"] = Field(
        ..., alias="as")
    name: str = Field(..., description="of the dataset; of the set that answers wait in, or rankings of another tool; "
                      "with --review of the desk; where interactions come from")
    source: str = ""
    licence: str = ""
    review: bool = Field(False, description="demonstrations go to the desk: a reviewer accepts them first")
    origin: Literal["auto", "rows", "tunesmith", "argilla", "labelstudio", "openai", "langfuse", "phoenix", "wildchat",
                    "lmsys", "arena"] = Field(
        "auto", alias="from", description="whose export of rankings, or log of interactions, it is; rows: a dataset of "
        "plain rows")

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        known = LOGS if self.kind == "interactions" else ("rows", "argilla", "labelstudio")
        if self.origin not in ("auto", "tunesmith", *known):
            raise SettingsError(f"--from {self.origin} is not for --as {self.kind}; it may be auto, tunesmith, "
                                f"{', '.join(known)}")
        return self


class CollectSettings(Settings):
    """prompts -> answers waiting for a ranking"""

    model: str = Field("", description="the adapter that answers; the bare base if empty")
    base: str = Field("", description="needed only without a model")
    endpoint: str = Field("", description="an OpenAI-compatible server whose --model answers: its address "
                          "(https://HOST/v1), or the name of one that the studio knows")
    key: str = Field("", description="the environment variable with the endpoint's key, such as OPENAI_API_KEY")
    prompts: str = Field(..., description="a dataset of prompts")
    name: str = Field("", description="name of the set of answer groups; default: the prompts' name")
    answers: int = Field(4, ge=2, le=9, description="answers per prompt")
    limit: int = Field(0, ge=0, description="use only the first N prompts; 0: all")
    max_tokens: int = Field(128, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    batch: int = Field(32, ge=1, description="prompts generated at once")
    seed: int = Field(0, ge=0)


class MigrateSettings(Settings):
    """what was trained at OpenAI -> datasets here, and the commands that train the same"""

    folder: str = Field(..., description="files.json, jobs.json and the files, as the script of docs/migrate.md "
                        "exports them")
    base: str = Field("", description="what to train on here: a directory, a hub id or loan-desk")
    run: bool = Field(False, description="train them all, one after the other; without, nothing is trained")
    endpoint: str = Field("", description="the OpenAI-compatible server whose models the jobs' graders ask")
    key: str = Field("", description="the environment variable with that server's key, such as OPENAI_API_KEY")

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.run and not self.base:
            raise SettingsError("--run trains on a base: name it with --base")
        if self.key and not self.endpoint:
            raise SettingsError("--key is for --endpoint")
        return self
