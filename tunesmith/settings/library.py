"""Settings of adapters among each other."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunesmith.errors import SettingsError
from tunesmith.settings.common import Settings


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
