"""What all settings share, and what several of them have."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

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
JUDGED = ("datasets of tunesmith judge: language models' preferences, calibrated against what people say in "
          "--comparisons, and weighed by how far they agree with them")


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
                known = cls.model_fields.get(name)
                about = f": {known.description}" if known and known.description else ""
                raise SettingsError(f'"{name}"{where} is required{about}') from e
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


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise SettingsError(f"{path}: no such file") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise SettingsError(f"{path}: {e}") from e


def check_gold(gold: str, gold_prompts: str, reward: str) -> None:
    """A gold signal needs prompts, and a signal that the reward is not."""
    if bool(gold) != bool(gold_prompts):
        raise SettingsError("--gold and --gold-prompts go together: a judge, and held-out prompts to judge by")
    if gold and gold == reward:
        raise SettingsError(f"--gold {gold} is what training maximises: it cannot tell when that goes wrong; "
                            "take a reward model that was taught other rankings")
