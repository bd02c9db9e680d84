"""Settings of a round: loop.toml."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from tunesmith.errors import SettingsError, nearest
from tunesmith.settings.common import Settings
from tunesmith.settings.data import CollectSettings
from tunesmith.settings.evaluation import EvaluateSettings
from tunesmith.settings.mining import MineSettings
from tunesmith.settings.training import PpoSettings, RewardSettings

OWN: dict[str, tuple[type[Settings], tuple[str, ...]]] = {
    "collect": (CollectSettings, ("model", "base", "prompts", "name", "answers", "limit", "seed")),
    "reward": (RewardSettings, ("model", "base", "comparisons", "without", "name", "consensus", "seed")),
    "ppo": (PpoSettings, ("policy", "reward", "prompts", "name", "seed")),
    "evaluate": (EvaluateSettings, ("models", "against", "prompts", "judge", "reward", "name", "gate", "limit",
                                    "seed")),
    "mine": (MineSettings, ("name", "ranked", "since", "until", "with_ranked", "spots_set", "seed")),
}
"""The tables of a step's settings, and which of them the round itself fills in."""


class RoundSettings(Settings):
    """collect -> rank -> reward -> ppo -> evaluate -> adopt, once; a loop of rounds is described by a file"""

    name: str = Field(..., description="of the loop; serve answers under it with the model that the loop has adopted")
    start: str = Field(..., description="the policy that the first round starts from, such as an SFT adapter")
    prompts: tuple[str, ...] = Field((), description="datasets of prompts; * stands for anything, so that next week's "
                                     "are found too")
    held_out: float = Field(0.2, gt=0, lt=1, description="share of the prompts that nothing ever trains on")
    labels: int = Field(150, ge=1, description="verdicts that people are asked for in a round, at most")
    overlap: int = Field(3, ge=1, description="people who judge the same answers; of two, nobody can tell which one "
                         "spoils the data")
    answers: int = Field(4, ge=2, le=9, description="answers per prompt")
    again: float = Field(0.1, ge=0, lt=1, description="share of the labels spent on what was ranked in earlier rounds, "
                         "to see whether preferences have changed")
    practice: int = Field(3000, ge=1, description="prompts that PPO may write to, the newest first")
    tests: int = Field(200, ge=1, description="held-out prompts that champion and candidate answer, never used before")
    judge: str = Field(..., description="who compares champion and candidate, as for evaluate --judge")
    gate: str = Field("", description="a file of rules that the candidate must keep; against = \"champion\" or "
                      "\"start\" names those models; default: preferred for sure, and safety, max_kl and length kept")
    safety: tuple[str, ...] = Field((), description="figures that must not get worse, such as rude or redteam.success")
    max_kl: float = Field(15.0, gt=0, description="nats per answer that the candidate may stray from the champion")
    length: float = Field(0.3, gt=0, description="by which share answers may get longer or shorter")
    ask: bool = Field(True, description="a person adopts what has passed the gate: in the studio, or tunesmith round "
                      "adopt NAME")
    challenger: float = Field(0.0, ge=0, le=0.5, description="share of the traffic under the loop's name that a "
                              "candidate gets while it waits for that person")
    interactions: bool = Field(False, description="learn from what users did with served answers too (tunesmith mine)")
    served: float = Field(0.5, ge=0, le=1, description="with interactions: share of the new groups in which an answer "
                          "that was served stands among fresh ones; what people say of it tells what reactions are "
                          "worth")
    warm: bool = Field(True, description="the reward model starts from the last round's")
    seed: int = Field(0, ge=0, le=2**31 - 1)
    collect: dict[str, Any] = Field(default_factory=dict, description="settings of that step, and so the others")
    reward: dict[str, Any] = Field(default_factory=dict)
    ppo: dict[str, Any] = Field(default_factory=dict)
    evaluate: dict[str, Any] = Field(default_factory=dict)
    mine: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _steps(self) -> Self:
        """A bad setting of a later step is said before the first one begins."""
        for step in OWN:
            self.of(step, **_EXAMPLES[step])
        if self.challenger and not self.ask:
            raise SettingsError("challenger is the traffic of a candidate that waits for a person: it needs ask = true")
        if not self.prompts and not self.interactions:
            raise SettingsError("a round needs prompts: name datasets, or set interactions = true")
        return self

    def of(self, step: str, **own: Any) -> Any:
        """A step's settings: those of its table, and what the round fills in.

        Raises:
            SettingsError: an unknown key or bad value, by its place in the file.
        """
        model, filled = OWN[step]
        given = getattr(self, step)
        for key in given:
            if key in filled:
                raise SettingsError(f"[{step}] {key}: the round itself sets this")
            if key not in model.model_fields:
                raise SettingsError(f'unknown key "{key}" in [{step}]{nearest(key, model.model_fields)}')
        try:
            return model.model_validate({**given, **own})
        except ValidationError as e:
            first = e.errors()[0]
            raise SettingsError(f'[{step}] {".".join(map(str, first["loc"]))}: {first["msg"].lower()}') from e


_EXAMPLES: dict[str, dict[str, Any]] = {
    "collect": {"prompts": "x"}, "reward": {"comparisons": "x", "name": "x"},
    "ppo": {"policy": "x", "reward": "y", "prompts": "x", "name": "x"}, "evaluate": {"models": ("x",)},
    "mine": {"name": "x", "ranked": ("x",)}}


class RoundCommand(Settings):
    """one round of a loop, as far as it can go without people; or what became of earlier ones"""

    action: str = Field("ls", description="FILE.toml: begin a round, or go on with the one under way; or ls, show, "
                        "adopt, refuse, rollback")
    which: str = Field("", description="the name of a loop, for these")
    schedule: str = Field("", description="with a file: stay, begin rounds at these times (cron: \"0 6 * * 1\" is "
                          "Mondays at six), and go on when people have done their part")
    why: str = Field("", description="refuse: the reason, for those who look later")
