"""Full fine-tuning: the base's own weights are trained, and what is published is a new base.

The exception to one resident base: the trained base is another one from then on, so it must be the caller's own. Its
folder is `model/` inside the published version (config, safetensors, tokenizer: any tool of the field loads it),
and beside it lies an adapter that changes nothing, so that whatever starts from an adapter (collect, reward, ppo,
serve) starts from a full model too. Weights and moments are fp32; in bf16 only the products are (autocast).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.model import adapters
from tunesmith.model.base import Base
from tunesmith.settings import Lora, RewardSettings, SftSettings
from tunesmith.settings.common import READ_BY
from tunesmith.store.workspace import Adapter, Run

Chosen = TypeVar("Chosen", SftSettings, RewardSettings)

FOLDER = "model"


def start(base: Base, slot: str, settings: SftSettings | RewardSettings, parent: Adapter | None,
          head: bool = True) -> tuple[str, dict[str, nn.Parameter]]:
    """What `settings` want trained: the slot that is active meanwhile ("" is the base itself), and its weights.

    An adapter on a full model starts afresh, with the settings' own rank: the one beside the model changes nothing.

    Raises:
        ModelError: see `trainable`; or `parent` is an adapter, and a base is to be trained.
    """
    if settings.adapter != "full":
        if parent and parent.base.get("kind") != "full":
            adapters.load(base, slot, parent.path)  # its rank goes on
        else:
            adapters.attach(base, slot, method(settings), settings.seed)
        return slot, adapters.trainable(base, slot)
    if parent and parent.base.get("kind") != "full":
        raise ModelError(f"{parent} is an adapter, and --adapter full trains a base: start from its base, or from a "
                         "model that was itself trained with --adapter full")
    return "", trainable(base, head)


def inherit(settings: Chosen, parent: Adapter | None, resume: Run | None = None) -> Chosen:
    """The settings of a run that goes on with its parent's adapter: they say how that was made.

    Raises:
        ModelError: they ask for another kind or size than the parent's.
    """
    stacked = isinstance(settings, SftSettings) and settings.stack  # new ranks beside it
    if parent is None or parent.base.get("kind") == "full" or settings.adapter == "full" or stacked:
        return settings
    made = adapters.described(parent.path)
    unread = {name: type(settings).model_fields[name].default for name in READ_BY}
    own = {"adapter": made.kind, **unread, **{name: getattr(made, name) for name, kinds in READ_BY.items()
                                              if made.kind in kinds}}
    for name in sorted(settings.model_fields_set & own.keys()) if resume is None else ():
        asked = getattr(settings, name)
        if (tuple(sorted(asked)) or own[name] if name == "targets" else asked) != own[name]:
            raise ModelError(f"{parent} has --{name.replace('_', '-')} {_shown(own[name])}, and a run that starts from "
                             f"it goes on with it, so it cannot have {_shown(asked)}: leave that out, or start afresh")
    return settings.model_copy(update=own)


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def method(settings: Lora) -> adapters.Method:
    """The adapter that the settings describe; beside a full model lies LoRA."""
    kind = "lora" if settings.adapter == "full" else settings.adapter
    return adapters.Method(kind, settings.rank, settings.alpha, settings.rslora, settings.targets, settings.bottleneck,
                           settings.virtual_tokens, settings.init_text)


def finish(base: Base, slot: str, settings: SftSettings | RewardSettings) -> Callable[[Path], None]:
    """What writes the trained part into a folder. A base that was trained is another one from here on."""
    if slot:
        return lambda folder: adapters.save(base, slot, folder)
    base.became(settings.name)
    return lambda folder: save(base, folder, settings)


def trainable(base: Base, head: bool = True) -> dict[str, nn.Parameter]:
    """Every weight of the base by its name, with gradients on; the output layer only with `head`.

    Raises:
        ModelError: the base is in use (adapters are attached), or its weights are too coarse to train.
    """
    if there := adapters.names(base):
        raise ModelError(f"base {base.spec} carries adapters ({', '.join(there)}); full fine-tuning changes the base "
                         "itself and needs one of its own")
    if base.packed:
        raise ModelError("--quantise freezes the base in few bits, and --adapter full trains it: choose one of them")
    if base.model.dtype == torch.bfloat16:
        raise ModelError(f"base {base.spec} is loaded in bf16, too coarse to add small steps to; load it in fp32 (its "
                         "products may still be bf16)")
    tied = base.model.get_output_embeddings().weight is base.model.get_input_embeddings().weight
    unread = None if head or tied else base.model.get_output_embeddings().weight
    chosen = {name: p for name, p in base.model.named_parameters() if p is not unread}
    for p in chosen.values():
        p.requires_grad_(True)
    return chosen


def save(base: Base, folder: Path, settings: SftSettings | RewardSettings) -> None:
    """Write the base as a model directory, and a fresh adapter on it."""
    base.model.save_pretrained(folder / FOLDER)
    base.tokenizer.save_pretrained(folder / FOLDER)
    adapters.attach(base, "fresh", method(settings), settings.seed)
    adapters.save(base, "fresh", folder)
    adapters.remove(base, "fresh")
