"""How an adapter is made: the method and its sizes. Which code computes a method is decided in `adapters`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

Kind = Literal["lora", "dora", "ia3", "houlsby", "pfeiffer", "parallel", "prefix", "prompt"]
PEFT_TYPE: dict[Kind, str] = {
    "lora": "LORA", "dora": "LORA", "ia3": "IA3", "houlsby": "BOTTLENECK", "pfeiffer": "BOTTLENECK",
    "parallel": "BOTTLENECK", "prefix": "PREFIX_TUNING", "prompt": "PROMPT_TUNING"}
"""What `adapter_config.json` calls it. PEFT has no bottleneck layers; the name is ours."""


@dataclass(frozen=True, slots=True)
class Method:
    """A fresh adapter. Fields that its kind does not name are not read.

    lora, dora: `rank`, `alpha` (the update is scaled by alpha / rank, with `rslora` by alpha / sqrt(rank)), `targets`.
    ia3: `targets`. houlsby, pfeiffer, parallel: `bottleneck`, the width between the two projections.
    prefix, prompt: `virtual_tokens`, `init_text`.
    """

    kind: Kind = "lora"
    rank: int = 16
    alpha: float = 32.0
    rslora: bool = False
    targets: tuple[str, ...] = ()
    """Names of linear layers, such as q_proj; all linear layers of the blocks if empty (ia3: the usual ones)."""
    bottleneck: int = 64
    virtual_tokens: int = 20
    init_text: str = ""

    @property
    def peft_type(self) -> str:
        """What `adapter_config.json` calls it."""
        return PEFT_TYPE[self.kind]


def described(folder: Path) -> Method:
    """How the adapter in a folder was made, as its `adapter_config.json` says; it must be one that loads."""
    said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    named = said.get("target_modules")
    targets = _short(named) if isinstance(named, list) else ()  # a regular expression has no names
    match said["peft_type"]:
        case "LORA":
            return Method("dora" if said.get("use_dora") else "lora", said["r"], said["lora_alpha"],
                          bool(said.get("use_rslora")), targets)
        case "IA3":
            return Method("ia3", targets=targets)
        case "BOTTLENECK":
            return Method(said["kind"], bottleneck=said["width"])
        case kind:
            return Method("prefix" if kind == "PREFIX_TUNING" else "prompt", virtual_tokens=said["num_virtual_tokens"])


def _short(layers: Sequence[str]) -> tuple[str, ...]:
    """The ends of the layers' names, if every block has the same; PEFT writes out "all linear layers" one by one."""
    inside: dict[int, set[str]] = {}
    for layer in layers:
        if (found := re.fullmatch(r".*?\.(\d+)\.(.+)", layer)) is None:
            return tuple(sorted(layers))
        inside.setdefault(int(found[1]), set()).add(found[2])
    alike = len(set(map(frozenset, inside.values()))) == 1 and sorted(inside) == list(range(len(inside)))
    return tuple(sorted({layer.rpartition(".")[2] for layer in layers} if alike and len(inside) > 1 else layers))


class Family(Protocol):
    """The code that computes adapters of some types: a module of `model` with these functions.

    Each sees its own adapters only; `adapters` asks the right one.
    """

    def attach(self, base: Any, name: str, method: Method, seed: int) -> None:
        """A fresh adapter that replaces what the family has under the name."""

    def load(self, base: Any, name: str, folder: Path) -> None:
        """The adapter saved in `folder`; ModelError, OSError, ValueError or RuntimeError where it does not fit."""

    def copy(self, base: Any, source: str, target: str) -> None:
        """The same weights under another name, sharing no memory."""

    def remove(self, base: Any, name: str) -> None:
        """Drop it from memory."""

    def names(self, base: Any) -> list[str]:
        """The attached adapters of the family."""

    def parameters(self, base: Any, name: str) -> dict[str, nn.Parameter]:
        """An adapter's weights by name, in a fixed order."""

    def save(self, base: Any, name: str, folder: Path) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors`."""
