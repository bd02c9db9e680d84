"""Settings of the steps that train."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tunesmith.errors import SettingsError
from tunesmith.settings.common import (
    CONSENSUS,
    EARLY_STOP,
    GOLD,
    GOLD_PROMPTS,
    JUDGED,
    WATCH,
    Consensus,
    Lora,
    Optimization,
    check_gold,
)
from tunesmith.settings.objective import ALSO, ASKS, MULTIPLIER_RATE, SUBJECT_TO, check_objective


class SftSettings(Lora, Optimization):
    """demonstrations -> adapter"""

    base: str = Field("", description="a directory, a hub id or loan-desk")
    data: str = Field(..., description="a dataset of demonstrations")
    after: str = Field("", description="a stage after this adapter: go on with it instead of with a fresh one")
    stack: bool = Field(False, description="with --after: keep its ranks as they are and learn new ones beside them")
    orthogonal: float = Field(0.0, ge=0, description="with --stack: weight of the penalty on new ranks that read what "
                              "the old ones read (O-LoRA)")
    replay: tuple[str, ...] = Field((), description="demonstrations of earlier stages that are mixed in")
    replay_share: float = Field(0.1, gt=0, lt=1, description="of each step's conversations")
    kl_to_start: float = Field(0.0, ge=0, description="weight of KL(before | now) per learned token: how dear it is to "
                               "leave what this stage started from")
    name: str = Field(..., description="the new adapter's name")
    epochs: float = Field(2.0, gt=0, description="passes over --data")
    batch: int = Field(16, ge=1, description="conversations per optimizer step")
    max_tokens: int = Field(0, ge=0, description="longest conversation; 0: what the base takes")
    valid: str = Field("", description="a dataset of demonstrations to measure the loss on, not to learn from")
    valid_every: int = Field(0, ge=0, description="steps between these measurements; 0: ten times in a run")
    snapshots: int = Field(0, ge=0, description="steps between versions of the adapter that are published on the way; "
                           "0: only the last")

    @model_validator(mode="after")
    def _stages(self) -> Self:
        if self.stack and not self.after:
            raise SettingsError("--stack needs an adapter to stack upon: --after NAME")
        if self.stack and (self.adapter != "lora" or self.weight_decay):
            raise SettingsError("--stack is for --adapter lora without --weight-decay: the old ranks must stay")
        if self.orthogonal and not self.stack:
            raise SettingsError("--orthogonal keeps new ranks from old ones: it needs --stack")
        if self.kl_to_start and self.adapter == "full":
            raise SettingsError("--kl-to-start needs what it started from beside it, which --adapter full has no room "
                                "for")
        if self.replay and self.batch < 2:
            raise SettingsError("--replay needs --batch 2 or more: one new conversation and one of old")
        return self


class RewardSettings(Lora, Optimization):
    """rankings -> reward model"""

    model: str = Field("", description="the SFT adapter it starts from; fresh on the base if empty")
    base: str = Field("", description="needed only without a model")
    comparisons: str = Field(..., description="ranked answer groups, or a dataset of comparisons")
    without: tuple[str, ...] = Field((), description="leave these labelers' judgements out")
    judged: tuple[str, ...] = Field((), description=JUDGED)
    name: str = Field(..., description="the new reward model's name")
    epochs: float = Field(1.0, gt=0)
    batch: int = Field(16, ge=1, description="prompts per optimizer step")
    consensus: Consensus = Field("ability", description=CONSENSUS)
    loss: Literal["pairs", "robust", "plackett-luce"] = Field(
        "pairs", description="robust: unbiased where --label-smoothing says how many labels are wrong")
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] | Literal["auto"] = Field(
        0.0, description="share of the labels taken to be wrong; auto: from how often labelers contradict themselves")
    margin: float = Field(0.0, ge=0, description="how far apart the rewards of a clear pair should be pushed at least")
    center: float = Field(0.001, ge=0, description="weight of the penalty on rewards far from zero")
    heads: int = Field(1, ge=1, le=16, description="several heads on one adapter, each taught its own bootstrap sample "
                       "of the prompts: their mean is the score, how far they disagree is shown")
    held_out: float = Field(0.1, ge=0, lt=1, description="share of the prompts kept for accuracy and calibration")
    max_tokens: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _pairs_only(self) -> Self:
        if self.loss == "plackett-luce" and (self.label_smoothing or self.margin):
            raise SettingsError("--label-smoothing and --margin are for --loss pairs and robust, not for plackett-luce")
        if self.loss == "plackett-luce" and self.judged:
            raise SettingsError("--judged brings probabilities of pairs, which --loss plackett-luce has no use for")
        return self


class PpoSettings(Optimization):
    """reward model + policy -> a better policy"""

    policy: str = Field(..., description="the adapter PPO starts from; its frozen copy is the reference")
    reward: str = Field(..., description="a reward model on the same base")
    prompts: str = Field(..., description="a dataset of prompts")
    name: str = Field(..., description="the new adapter's name")
    updates: int = Field(40, ge=1, description="rollout batches")
    episodes: int = Field(64, ge=1, description="answers per rollout batch")
    epochs: int = Field(4, ge=1, description="passes over a rollout batch")
    minibatches: int = Field(4, ge=1, description="optimizer steps per pass")
    max_tokens: int = Field(128, ge=1)
    temperature: float = Field(1.0, gt=0)
    lr: float = Field(2e-4, gt=0)
    value_lr: float = Field(1e-3, gt=0)
    value: Literal["adapter", "trunk", "shared"] = Field(
        "adapter", description="own adapter from the reward model; or a head on the policy's trunk, its gradient kept "
        "out of the policy (trunk) or not (shared)")
    kl: float = Field(0.05, ge=0, description="initial KL coefficient")
    kl_target: float = Field(0.0, ge=0, description="nats per answer for the adaptive controller; 0: fixed coefficient")
    kl_horizon: int = Field(10_000, ge=1)
    kl_final: float = Field(0.0, ge=0, description="the KL coefficient goes from --kl to this one on a straight line; "
                            "a higher one keeps variety; 0: it stays")
    pessimism: float = Field(0.0, ge=0, description="standard deviations between the heads of the reward model that "
                             "are taken off its scores")
    gamma: float = Field(1.0, gt=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    clip: float = Field(0.2, gt=0)
    value_clip: float = Field(0.2, gt=0)
    value_coef: float = Field(0.1, ge=0, description="weight of the value loss when it is shared")
    entropy_coef: float = Field(0.0, ge=0)
    no_eos: Literal["set", "subtract", "ignore"] = Field("set", description="what an unfinished answer's score becomes")
    no_eos_score: float = -1.0
    whiten_rewards: bool = False
    old_logprobs: Literal["sampler", "recompute"] = "sampler"
    ptx: str = Field("", description="demonstrations mixed in against forgetting (PPO-ptx)")
    ptx_coef: float = Field(0.0, ge=0)
    max_kl: float = Field(0.0, ge=0, description="stop when KL per answer passes this; 0: never")
    also: tuple[str, ...] = Field((), description=ALSO)
    subject_to: tuple[str, ...] = Field((), description=SUBJECT_TO)
    multiplier_rate: float = Field(0.5, gt=0, description=MULTIPLIER_RATE)
    asks: str = Field("", description=ASKS)
    watch: bool = Field(True, description=WATCH)
    gold: str = Field("", description=GOLD)
    gold_prompts: str = Field("", description=GOLD_PROMPTS)
    gold_every: int = Field(5, ge=1, description="updates between looks of --gold")
    early_stop: bool = Field(True, description=EARLY_STOP)
    snapshots: int = Field(0, ge=0, description="steps between versions of the adapter that are published on the way; "
                           "0: only the last")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kl_final and self.kl_target:
            raise SettingsError("--kl-final and --kl-target both say how the KL coefficient moves; give one of them")
        check_gold(self.gold, self.gold_prompts, self.reward)
        check_objective(self.also, self.subject_to, self.asks, self.reward)
        return self
