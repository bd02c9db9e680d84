"""Settings of mining: logged reactions -> preferences."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunesmith.errors import SettingsError
from tunesmith.settings.common import Settings


class Logged(Settings):
    """Which of the logged interactions are meant."""

    since: str = Field("", description="only interactions logged at or after this time, such as 2026-11-14")
    until: str = Field("", description="only what was logged before this time, so that a second try finds the same")
    source: str = Field("", description="only interactions logged by this source, such as serve or langfuse")


class MineSettings(Logged):
    """logged reactions of users -> comparisons to train on, weighed by what people say of the same answers"""

    name: str = Field(..., description="the new dataset of comparisons; NAME-thumbs holds single thumbs for prefer "
                      "--method kto, and the set NAME-spots the pairs to check")
    ranked: tuple[str, ...] = Field((), description="sets that people ranked and whose answers were served too: they "
                                    "say what a reaction is worth (tunesmith mine overlap makes one)")
    weights: Literal["calibrated", "fixed"] = Field(
        "calibrated", description="fixed: take guesses for what reactions are worth; docs/results/auto_rlhf.md shows "
        "what that costs")
    with_ranked: bool = Field(False, description="put people's own rankings of --ranked in too; where a person judged "
                              "an answer, no reaction to it counts")
    user_share: float = Field(0.01, gt=0, le=1, description="the largest share of a kind of reaction that one user may "
                              "have a say in")
    min_users: int = Field(20, ge=1, description="a kind of reaction that fewer users showed is not heeded")
    veto: str = Field("toxicity", description="no answer that this finds unsafe is preferred: toxicity, or a reward "
                      "model of safety; none switches it off")
    veto_below: float = Field(0.0, description="with a reward model as --veto: answers with a lower score are unsafe")
    spots: int = Field(50, ge=0, description="mined pairs that are put before people, to check")
    spots_set: str = Field("", description="the set of these pairs; default: NAME-spots")
    require_spots: int = Field(0, ge=0, description="publish nothing before people judged so many of them")
    seed: int = Field(0, ge=0, le=2**31 - 1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.require_spots > self.spots:
            raise SettingsError(f"--require-spots {self.require_spots} asks for more than the {self.spots} of --spots")
        if self.weights == "calibrated" and not self.ranked:
            raise SettingsError("--ranked SET: what is a reaction worth? Name a set that people ranked and whose "
                                "answers were served (tunesmith mine overlap makes one), or guess with --weights fixed")
        if self.with_ranked and not self.ranked:
            raise SettingsError("--with-ranked puts the rankings of --ranked in; name them")
        return self

    @property
    def checks(self) -> str:
        """The name of the set of pairs to check."""
        return self.spots_set or f"{self.name}-spots"


class OverlapSettings(Logged):
    """logged answers beside fresh ones to the same prompts -> a set to rank, which says what reactions are worth"""

    name: str = Field(..., description="the set")
    model: str = Field("", description="the adapter that writes the fresh answers; the bare base if empty")
    base: str = Field("", description="needed only without a model")
    count: int = Field(100, ge=1, description="logged answers that are taken, rare reactions first")
    answers: int = Field(4, ge=2, le=9, description="answers per prompt, the logged one among them")
    pairs_alone: bool = Field(True, description="two answers that a user chose between are ranked by themselves, which "
                              "is quick; no: among fresh ones, which teaches a reward model more")
    max_tokens: int = Field(128, ge=1)
    temperature: float = Field(1.0, gt=0)
    seed: int = Field(0, ge=0, le=2**31 - 1)
