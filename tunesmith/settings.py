"""One small typed model per command; TOML file and flags fill it, flags win. Imports no torch.

A key that no field knows dies naming the nearest one. Nothing here rewrites another value:
derived numbers are plain functions next to their use.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tunesmith.errors import SettingsError, nearest

AdapterKind = Literal["lora", "dora", "ia3", "houlsby", "pfeiffer", "parallel", "prefix", "prompt", "full"]
READ_BY: dict[str, tuple[AdapterKind, ...]] = {
    "rank": ("lora", "dora", "full"), "alpha": ("lora", "dora", "full"), "rslora": ("lora", "dora", "full"),
    "targets": ("lora", "dora", "ia3", "full"), "bottleneck": ("houlsby", "pfeiffer", "parallel"),
    "virtual_tokens": ("prefix", "prompt"), "init_text": ("prefix", "prompt")}
"""Which adapters heed a setting; beside a full model lies a LoRA adapter to go on with."""
Consensus = Literal["ability", "votes", "none"]
WATCH = "ring when answers show signs of gaming the reward: length, repetition, boilerplate and the like"
GOLD = ("a judge that training does not read (a reward model taught other rankings, or loan-desk) sees held-out "
        "answers now and then; the version that it likes best is published")
GOLD_PROMPTS = "with --gold: a dataset of prompts to put to it; those that train too are left out"
EARLY_STOP = "with --gold: stop when it likes the policy less than the best version, for sure"
CONSENSUS = ("several labelers on one group: ability weighs votes by what the labelers are worth, where they overlap; "
             "votes counts each once; none keeps every ranking by itself")


class Settings(BaseModel):
    """What all commands share: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @classmethod
    def load(cls, flags: Mapping[str, Any], file: str | Path | None = None) -> Self:
        """Settings from a TOML file and flags.

        Raises:
            SettingsError: unknown key (naming the nearest), wrong type or range, unreadable file.
        """
        values = {**(_read_toml(Path(file)) if file else {}), **flags}
        where = f" in {file}" if file else ""
        for key in values:
            if key not in cls.model_fields:
                raise SettingsError(f'unknown key "{key}"{where}{nearest(key, cls.model_fields)}')
        try:
            return cls.model_validate(values)
        except ValidationError as e:
            first = e.errors()[0]
            name = ".".join(str(p) for p in first["loc"]) or "settings"
            if first["type"] == "missing":
                raise SettingsError(f'"{name}"{where} is required') from e
            raise SettingsError(f'"{name}"{where}: {first["msg"].lower()} (got {first.get("input")!r})') from e


class Lora(Settings):
    """The trained part: LoRA on all linear layers, as "LoRA without regret" recommends; another kind of adapter; or
    every weight of the base."""

    adapter: AdapterKind = Field("lora", description="docs/which_adapter.md compares them; full trains all of the "
                                 "base's weights and publishes a new base")
    lr: float = Field(0.0, ge=0, description="peak learning rate; 0: 1e-3 for LoRA, a tenth of it for full, as "
                      '"LoRA without regret" found; what docs/which_adapter.md says for others')
    rank: int = Field(16, ge=1, description="LoRA rank r")
    alpha: float = Field(32, gt=0, description="LoRA alpha; the update is scaled by alpha / rank")
    rslora: bool = Field(False, description="lora, dora: scaled by alpha / sqrt(rank), for large ranks")
    targets: tuple[str, ...] = Field((), description="lora, dora, ia3: the linear layers that are adapted, such as "
                                     "q_proj; all of the blocks if left out (ia3: keys, values and the MLP's last)")
    bottleneck: int = Field(64, ge=1, description="houlsby, pfeiffer, parallel: width between the two projections")
    virtual_tokens: int = Field(20, ge=1, description="prefix, prompt: how many")
    init_text: str = Field("", description="prefix, prompt: text that the virtual tokens start from")

    @model_validator(mode="after")
    def _of_one_adapter(self) -> Self:
        """An option that the adapter would not heed is a mistake."""
        for name, kinds in READ_BY.items():
            if self.adapter not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                raise SettingsError(f"--{name.replace('_', '-')} is for --adapter {' or '.join(kinds)}, not for "
                                    f"{self.adapter}")
        return self


class Optimization(Settings):
    """What every trainer shares."""

    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps with rising learning rate")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    weight_decay: float = Field(0.0, ge=0)
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="adamw8bit keeps the moments in 8 bits: it pays with --adapter full, not with LoRA")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of the products; what is trained, and the losses, stay fp32. auto: what this machine is "
        "fast at")
    quantise: Literal["none", "int8", "nf4"] = Field(
        "none", description="hold the frozen base's layers in 8 or 4 bits while adapters are trained on it (QLoRA)")
    micro_tokens: int = Field(0, ge=0, description="tokens computed at once; no result depends on it but for rounding. "
                              "0: what is fast and fits into --memory-mb")
    memory_mb: int = Field(0, ge=0, description="for the activations of tokens computed at once; 0: half of what is "
                           "free, on a CPU at most 512")
    checkpoint_activations: bool = Field(
        False, description="keep less in memory and compute it again in the backward pass, a third slower")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    seed: int = Field(0, ge=0, le=2**31 - 1)
    layout: Literal["tree", "padded"] = Field("tree", description="tree: prompt once, no padding; padded: plain rows")
    threads: int = Field(0, ge=0, description="of the processor; 0: OMP_NUM_THREADS, or what a short measurement finds "
                         "fastest")


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


class RewardSettings(Lora, Optimization):
    """rankings -> reward model"""

    model: str = Field("", description="the SFT adapter it starts from; fresh on the base if empty")
    base: str = Field("", description="needed only without a model")
    comparisons: str = Field(..., description="ranked answer groups, or a dataset of comparisons")
    without: tuple[str, ...] = Field((), description="leave these labelers' judgements out")
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
        _check_gold(self)
        return self


def _check_gold(settings: PpoSettings | PreferSettings) -> None:
    """A gold signal needs prompts, and a signal that the reward is not."""
    if bool(settings.gold) != bool(settings.gold_prompts):
        raise SettingsError("--gold and --gold-prompts go together: a judge, and held-out prompts to judge by")
    if settings.gold and settings.gold == settings.reward:
        raise SettingsError(f"--gold {settings.gold} is what training maximises: it cannot tell when that goes wrong; "
                            "take a reward model that was taught other rankings")


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
    grader: str = _only("grpo, rloo", "", "instead of a reward model: a JSON file with a grader as OpenAI's; "
                        "{{item.x}} is field x of the prompt's row")
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
        _check_gold(self)
        if self.method in ("grpo", "rloo") and self.epochs % 1:
            raise SettingsError(f"--epochs of {self.method} are whole passes over an update's answers, not "
                                f"{self.epochs}")
        return self


class MergeSettings(Settings):
    """adapters of one base -> one adapter"""

    adapters: tuple[str, ...] = Field(..., min_length=1, description="LoRA policies of one base")
    name: str = Field(..., description="the new adapter's name")
    how: Literal["sum", "ties", "dare", "dare-ties"] = Field(
        "sum", description="sum: exact; ties keeps the largest changes and elects signs; dare keeps random ones, "
        "scaled up; dare-ties does both")
    weights: tuple[float, ...] = Field((), description="one for each adapter; 1/n each if left out")
    fit: str = Field("", description="a dataset of demonstrations whose first --examples choose the weights (LoraHub)")
    examples: int = Field(16, ge=1)
    density: float = Field(0.5, gt=0, le=1, description="share of each change that ties and dare keep")
    rank: int = Field(0, ge=0, description="of the result, by SVD; 0: for sum what makes it exact, else the largest of "
                      "the adapters' ranks")
    seed: int = Field(0, ge=0, description="of dare's draws")

    @model_validator(mode="after")
    def _weighed_once(self) -> Self:
        if self.weights and self.fit:
            raise SettingsError("--weights says what --fit would find out; give one of them")
        if self.weights and len(self.weights) != len(self.adapters):
            raise SettingsError(f"--weights: {len(self.weights)} for {len(self.adapters)} adapters")
        return self


class TransferSettings(Settings):
    """adapters x datasets -> who helps where, and what a new adapter should start from"""

    adapters: tuple[str, ...] = Field((), description="policies of one base; all of it if left out")
    data: tuple[str, ...] = Field(..., description="datasets of demonstrations")
    base: str = Field("", description="default: the adapters' own; without adapters the newest one's")
    limit: int = Field(100, ge=1, description="demonstrations of each dataset")
    max_tokens: int = Field(0, ge=0, description="longer ones are left out; 0: what the base takes")
    seed: int = Field(0, ge=0, description="of the bootstrap")


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


class ImportSettings(Settings):
    """a file -> a dataset of the workspace"""

    file: str = Field(..., description="JSONL, JSON, CSV or Parquet, .gz too")
    kind: Literal["demonstrations", "prompts", "answers", "comparisons", "rankings"] = Field(..., alias="as")
    name: str = Field(..., description="of the dataset; of the set that answers wait in, or rankings of another tool; "
                      "with --review of the desk")
    source: str = ""
    licence: str = ""
    review: bool = Field(False, description="demonstrations go to the desk: a reviewer accepts them first")
    origin: Literal["auto", "rows", "tunesmith", "argilla", "labelstudio"] = Field(
        "auto", alias="from", description="whose export of rankings it is; rows: a dataset of plain rows")


class Served(Settings):
    """What all servers share."""

    host: str = Field("127.0.0.1", description="the address to listen on; one that other machines reach needs "
                      "--allow-host")
    labeler: str = Field("me", description="your account, made as an admin if it is new; your judgements have its name")
    allow_host: tuple[str, ...] = Field((), description="names that people may call this server by, beside localhost")
    https: bool = Field(False, description="a proxy in front of this server encrypts: cookies are for https only")

    oidc_issuer: str = Field("", description="where people may sign in with OpenID Connect (https://...), beside "
                             "passwords; the client's secret is read from TUNESMITH_OIDC_SECRET")
    oidc_client_id: str = Field("", description="the name that the OpenID Connect provider gave this studio")
    oidc_domain: str = Field("", description="everybody with a verified e-mail address of this domain may come in; "
                             "default: only addresses that were invited")
    oidc_role: str = Field("labeler", description="what they are then: labeler, viewer or reviewer")

    @field_validator("allow_host")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]", name):
                raise ValueError(f"{name!r} is no host name: give it without http:// and without a port")
        return names


class StudioSettings(Served):
    """rank in the browser"""

    port: int = Field(8400, ge=0, le=65535)
    groups: str = Field("", description="the set to rank; default: the newest")


class ServeSettings(Served):
    """OpenAI-compatible API + studio"""

    port: int = Field(8000, ge=0, le=65535)
    base: str = Field("", description="default: the base of the newest adapter")
    engine: str = Field("", description="another server that writes: vllm=URL or llamacpp=URL (default: this process)")
    rows: int = Field(64, ge=1, description="answers that are written at a time")
    waiting: int = Field(256, ge=1, description="requests that may be open, those that wait included")
    seconds: float = Field(600.0, gt=0, description="within which a request must be answered")
    adapter_mb: int = Field(1024, ge=1, description="of adapters that stay in memory")
    guard: str = Field("", description="a file that says which answers are kept back (docs/serving.md)")
    train: bool = Field(True, description="work on fine-tuning jobs too; without, start tunesmith work beside it")
    requests_per_minute: int = Field(0, ge=0, description="that each key may make under /v1; 0: any number")
    storage_mb: int = Field(10_240, ge=0, description="of files that each key may store; 0: any number")
    unfinished_jobs: int = Field(100, ge=0, description="that each key may have; 0: any number")
    webhook: tuple[str, ...] = Field((), description="addresses (https://HOST/PATH) that hear when a fine-tuning job "
                                     "has ended")
    webhook_secret: str = Field("TUNESMITH_WEBHOOK_SECRET", description="the environment variable with the secret that "
                                "signs: whsec_ and base64")


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


class WorkSettings(Settings):
    """work on fine-tuning jobs, without a server"""

    until_idle: bool = Field(False, description="end when no job is unfinished")
    once: str = Field("", description="work on this job alone, in this process; for the worker itself")
    token: int = Field(0, ge=0, description="with --once: the token of the claim")


class QuickstartSettings(Settings):
    """the whole loop on the built-in loan desk"""

    fast: bool = Field(False, description="a smoke version: seconds, not minutes, and no claims")
    rank_yourself: int = Field(0, ge=0, description="how many prompts you rank in the browser first")
    seed: int = Field(0, ge=0)
    split: Literal["dev", "test"] = Field("test", description="which held-out prompts the report uses")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise SettingsError(f"{path}: no such file") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise SettingsError(f"{path}: {e}") from e
