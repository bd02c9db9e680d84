"""Settings of preference learning."""

from __future__ import annotations

from typing import Any, Literal, Self

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
    Optimization,
    check_gold,
)
from tunesmith.settings.objective import ALSO, ASKS, MULTIPLIER_RATE, SUBJECT_TO, check_objective


def _only(methods: str, default: Any, text: str = "", **limits: Any) -> Any:
    """A field that only some methods of `prefer` read; its help says which."""
    return Field(default, description=f"{methods}: {text}" if text else f"{methods} only",
                 json_schema_extra={"methods": [*methods.split(", ")]}, **limits)


class PreferSettings(Optimization):
    """policy + preferences (dpo, kto), or a reward model or grader (grpo, rloo) -> a better policy"""

    method: Literal["dpo", "kto", "grpo", "rloo"] = Field(..., description="how it learns")
    policy: str = Field(..., description="the adapter it starts from; its frozen copy is the reference")
    name: str = Field(..., description="the new adapter's name")
    lr: float = Field(1e-4, gt=0)
    batch: int = Field(16, ge=1, description="prompts per optimizer step (dpo, kto) or per update (grpo, rloo)")
    epochs: float = Field(1.0, gt=0, description="passes over the data, or over the answers of each update")
    snapshots: int = Field(0, ge=0, description="steps between versions of the adapter that are published on the way; "
                           "0: only the last")
    comparisons: str = _only("dpo, kto", "", "ranked answer groups, or a dataset of comparisons; kto takes thumbs too")
    without: tuple[str, ...] = _only("dpo, kto", (), "leave these labelers' judgements out")
    judged: tuple[str, ...] = _only("dpo", (), JUDGED)
    consensus: Consensus = _only("dpo, kto", "ability", CONSENSUS)
    held_out: float = _only("dpo, kto", 0.1, "share of the prompts kept for accuracy", ge=0, lt=1)
    valid: str = _only("dpo", "", "a dataset of comparisons to measure on, ten times in a run, not to learn from")
    longest: int = _only("dpo, kto", 0, "longest conversation in tokens; 0: what the base takes", ge=0)
    beta: float = _only("dpo, kto", 0.1, "how dear it is to stray from the reference; 2 or so with --per-token", gt=0)
    loss: Literal["sigmoid", "robust", "ipo"] = _only("dpo", "sigmoid", "robust and sigmoid heed --label-smoothing")
    label_smoothing: float = _only("dpo", 0.0, "share of the labels taken to be wrong: with sigmoid conservative DPO "
                                   "(cDPO), with robust the unbiased loss", ge=0, lt=0.5)
    per_token: bool = _only("dpo", False, "rewards by the mean log-probability of an answer's tokens, not the sum")
    reference_free: bool = _only("dpo", False, "no reference: rewards by the policy's log-probabilities alone")
    sft_coef: float = _only("dpo", 0.0, "weight of the best answers' negative log-likelihood per token (RPO)", ge=0)
    desirable_weight: float = _only("kto", 1.0, "lambda of good answers", ge=0)
    undesirable_weight: float = _only("kto", 1.0, "lambda of bad ones; balance the two if thumbs are uneven", ge=0)
    reward: str = _only("grpo, rloo", "", "a reward model on the same base")
    grader: str = _only("grpo, rloo", "", "instead of a reward model: a JSON file with a grader as OpenAI's "
                        "({{item.x}} is field x of the prompt's row), or a written rubric's FILE.toml")
    endpoint: str = _only("grpo, rloo", "", "the OpenAI-compatible server whose models a score_model or label_model "
                          "grader asks: its address (https://HOST/v1), or a name that the studio knows")
    key: str = _only("grpo, rloo", "", "the environment variable with that server's key, such as OPENAI_API_KEY")
    prompts: str = _only("grpo, rloo", "", "a dataset of prompts")
    updates: int = _only("grpo, rloo", 40, "rollout batches", ge=1)
    samples: int = _only("grpo, rloo", 8, "answers per prompt", ge=2)
    minibatches: int = _only("grpo, rloo", 1, "optimizer steps per pass; a prompt's answers stay together", ge=1)
    max_tokens: int = _only("grpo, rloo", 128, "longest answer", ge=1)
    temperature: float = _only("grpo, rloo", 1.0, gt=0)
    kl: float = _only("grpo, rloo", 0.04, "KL coefficient; 0 needs no reference", ge=0)
    kl_in: Literal["usual", "loss", "reward"] = _only(
        "grpo, rloo", "usual", "k3 in the loss (usual for grpo) or k1 in the reward (usual for rloo), never both")
    clip: float = _only("grpo, rloo", 0.2, "how far a ratio may fall below 1", gt=0, lt=1)
    clip_high: float = _only("grpo, rloo", 0.0, "how far it may rise (clip-higher, 0.28 in DAPO); 0: like clip", ge=0)
    average: Literal["tokens", "answers", "constant"] = _only(
        "grpo", "tokens", "tokens: all count alike (DAPO); answers: all answers do (the paper's); constant: tokens "
        "over --max-tokens (dr_grpo)")
    normalize_std: bool = _only("grpo", True, "divide advantages by their group's standard deviation; dr_grpo does not")
    no_eos: Literal["set", "subtract", "ignore"] = _only("grpo, rloo", "set", "what an unfinished answer's score is")
    no_eos_score: float = _only("grpo, rloo", -1.0)
    old_logprobs: Literal["sampler", "recompute"] = _only("grpo, rloo", "sampler")
    pessimism: float = _only("grpo, rloo", 0.0, "standard deviations between the heads of the reward model that are "
                             "taken off its scores", ge=0)
    max_kl: float = _only("grpo, rloo", 0.0, "stop when KL per answer passes this; 0: never", ge=0)
    also: tuple[str, ...] = _only("grpo, rloo", (), ALSO)
    subject_to: tuple[str, ...] = _only("grpo, rloo", (), SUBJECT_TO)
    multiplier_rate: float = _only("grpo, rloo", 0.5, MULTIPLIER_RATE, gt=0)
    asks: str = _only("grpo, rloo", "", ASKS)
    watch: bool = _only("grpo, rloo", True, WATCH)
    gold: str = _only("grpo, rloo", "", GOLD)
    gold_prompts: str = _only("grpo, rloo", "", GOLD_PROMPTS)
    gold_every: int = _only("grpo, rloo", 5, "updates between looks of --gold", ge=1)
    early_stop: bool = _only("grpo, rloo", True, EARLY_STOP)

    @model_validator(mode="after")
    def _of_one_method(self) -> Self:
        """An option that the method would not read is a mistake, and so is the lack of what it learns from."""
        for name, field in type(self).model_fields.items():
            methods: Any = (field.json_schema_extra or {}).get("methods")  # type: ignore[union-attr]
            if methods and self.method not in methods and getattr(self, name) != field.default:
                raise SettingsError(f"--{name.replace('_', '-')} is for {' and '.join(methods)}, not for --method "
                                    f"{self.method}")
        for name in ("comparisons",) if self.method in ("dpo", "kto") else ("prompts",):
            if not getattr(self, name):
                raise SettingsError(f"--method {self.method} needs --{name}")
        if self.method in ("grpo", "rloo") and bool(self.reward) == bool(self.grader):
            raise SettingsError(f"--method {self.method} needs --reward or --grader, one of them")
        for name, needed in (("endpoint", "grader"), ("key", "endpoint")):
            if getattr(self, name) and not getattr(self, needed):
                raise SettingsError(f"--{name} is for --{needed}")
        if self.loss == "ipo" and self.label_smoothing:
            raise SettingsError("--label-smoothing is for --loss sigmoid and robust, not for ipo")
        if self.max_kl and not self.kl:
            raise SettingsError("--max-kl needs --kl above 0: without a reference there is no KL to measure")
        if self.pessimism and not self.reward:
            raise SettingsError("--pessimism is for a reward model with several heads (--reward), not for --grader")
        check_gold(self.gold, self.gold_prompts, self.reward)
        check_objective(self.also, self.subject_to, self.asks, self.reward or self.grader)
        if self.method in ("grpo", "rloo") and self.epochs % 1:
            raise SettingsError(f"--epochs of {self.method} are whole passes over an update's answers, not "
                                f"{self.epochs}")
        return self
