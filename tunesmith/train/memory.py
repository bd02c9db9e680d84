"""What a run leaves to the machine is settled once, before it begins, and recorded: rate, precision, micro-batch.

A resumed run takes the recorded values, so it goes on to the same bits whatever is free by then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from tunesmith.errors import ModelError
from tunesmith.model import adapters, machine, recompute
from tunesmith.model.base import Base
from tunesmith.model.batch import Batch, Layout, Tree, build, hidden, split
from tunesmith.settings import AdapterKind, Lora, Optimization
from tunesmith.store.workspace import Run
from tunesmith.train.learner import BUDGET

Kind = TypeVar("Kind", bound=Optimization)

RATES: dict[AdapterKind, float] = {
    "lora": 1e-3, "dora": 1e-3, "houlsby": 1e-3, "pfeiffer": 1e-3, "parallel": 1e-3, "ia3": 1e-2, "prefix": 1e-2,
    "prompt": 1e-2, "full": 1e-4}
"""Peak learning rates where none is given. LoRA's is ten times full fine-tuning's ("LoRA without regret"). Like it, the
others are a third to a fifth of what was best on the small bundled base (docs/which_adapter.md): larger ones take less.
"""

ENOUGH = {"cuda": 16 * BUDGET}
"""Tokens at once beyond which nothing gets faster, where that is not `BUDGET`: a GPU wants more than a CPU's caches."""

PROBE = (48, 80)
"""Tokens of the probe's prompt and answer."""

COPIES = 3
"""Of the probe in the larger of two batches, whose difference is what a token costs."""

FEW = 64
"""Micro-batches below so many tokens are slow enough to be mentioned."""

MODEST = 512 * 2**20
"""Bytes that a CPU's step takes unless `memory_mb` says otherwise: with wide models more is hardly faster (135M
parameters, 384 tokens at once instead of 768: a fifth less memory, speed within the noise)."""

MARGIN = 1.3
"""Gradients of activations and scratch space come on top of what is kept for the backward pass."""

WIDE = 512
"""Below this width a CPU spends more on converting than it gains by products in bf16 (256: 0.9x, 576: 1.4x)."""

CGROUP = Path("/sys/fs/cgroup")


def settle(settings: Kind, base: Base, slot: str, resume: Run | None = None) -> Kind:
    """The settings with nothing left to choose: `lr`, `precision` and `micro_tokens` as this run will use them.

    Raises:
        ModelError: the base was loaded in another precision than the settings ask for.
    """
    if settings.precision not in ("auto", base.precision):
        raise ModelError(f"base {base.spec} is loaded in {base.precision}, and the run wants {settings.precision}")
    chosen: dict[str, Any] = {"precision": base.precision}
    if isinstance(settings, Lora) and not settings.lr:
        chosen["lr"] = RATES[settings.adapter]
    recompute.use(base, False)
    with adapters.active(base, slot), torch.no_grad():
        hidden(base, _probe(base, 1), settings.layout)  # what is found out on first use: does the base take trees?
    if resume:
        chosen["micro_tokens"] = resume.settings.get("micro_tokens") or BUDGET
    elif not settings.micro_tokens:
        free = available(base.device) // 2
        room = settings.memory_mb * 2**20 or (min(free, MODEST) if base.device.type == "cpu" else free)
        chosen["micro_tokens"] = micro_tokens(base, slot, room, settings.checkpoint_activations)
    recompute.use(base, settings.checkpoint_activations)
    return settings.model_copy(update=chosen)


def loaded(settings: Optimization) -> torch.dtype:
    """What to load the weights in for this run: bf16 only where they stay so for certain."""
    full = isinstance(settings, Lora) and settings.adapter == "full"
    return torch.bfloat16 if torch.cuda.is_available() and not full and _coarse(settings) else torch.float32


def set_precision(base: Base, settings: Optimization) -> None:
    """Give a base, freshly loaded for this run, the run's precision.

    A frozen base becomes bf16 altogether. Full fine-tuning keeps fp32 weights, because small steps vanish in bf16, and
    computes the products in bf16 (autocast).
    """
    if not _coarse(settings, base.width):
        return
    if isinstance(settings, Lora) and settings.adapter == "full":
        base.compute = torch.bfloat16
    else:
        for p in base.model.parameters():  # not .to(): the rotary frequencies are buffers and must stay fp32
            p.data = p.data.to(torch.bfloat16)


def _coarse(settings: Optimization, width: int = 0) -> bool:
    """Whether products are bf16, by name or because that is faster here."""
    if settings.precision != "auto":
        return settings.precision == "bf16"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return (device != "cpu" or width >= WIDE) and machine.precision(device) == torch.bfloat16


def micro_tokens(base: Base, slot: str, room: int, checkpointed: bool) -> int:
    """As many tokens at once as are fast, if what training keeps of them fits into `room` bytes; at least 1."""
    fixed, each = activation_bytes(base, slot)
    if checkpointed:  # every block's input, and one block whole
        count = len(recompute.blocks(base))
        each = each / count + count * base.width * base.dtype.itemsize
    found = max(1, min(ENOUGH.get(base.device.type, BUDGET), int((room / MARGIN - fixed) / each)))
    if found < FEW:
        print(f"warning: {room / 2**20:,.0f} MB of memory hold {found} tokens at once, which is slow; free some, "
              "or give more with --memory-mb or --checkpoint-activations", file=sys.stderr)
    return found


def activation_bytes(base: Base, slot: str) -> tuple[float, float]:
    """(bytes that do not depend on the batch, bytes per token) that a forward pass through the trunk keeps for its
    backward pass, counted on two small batches. The former are copies of weights in the products' precision.
    """
    small, large = (_kept_bytes(base, slot, copies) for copies in (1, COPIES))
    each = (large - small) / (sum(PROBE) * (COPIES - 1))
    return max(0.0, small - each * sum(PROBE)), each


def micro_batches(base: Base, trees: Sequence[Tree], budget: int, way: Layout = "tree") -> Iterator[list[int]]:
    """`split`, where padded rows count with their prompts and their padding: that is what is computed and kept."""
    if way == "tree" and base.takes_trees is not False:
        yield from split(trees, budget)
        return
    part: list[int] = []
    rows = width = 0
    for i, tree in enumerate(trees):
        longest = len(tree.prompt) + max(map(len, tree.answers))
        if part and (rows + len(tree.answers)) * max(width, longest) > budget:
            yield part
            part, rows, width = [], 0, 0
        part.append(i)
        rows, width = rows + len(tree.answers), max(width, longest)
    if part:
        yield part


def _probe(base: Base, copies: int) -> Batch:
    words = [i % base.model.get_input_embeddings().num_embeddings for i in range(sum(PROBE))]
    return build([Tree(tuple(words[:PROBE[0]]), (tuple(words[PROBE[0]:]),))] * copies, base.device)


def _kept_bytes(base: Base, slot: str, copies: int) -> int:
    batch = _probe(base, copies)
    with adapters.active(base, slot), torch.no_grad():
        hidden(base, batch)  # whatever is found out on first use
    with adapters.active(base, slot), _kept(base) as sizes:
        hidden(base, batch)
    return sum(sizes.values())


@contextmanager
def _kept(base: Base) -> Iterator[dict[int, int]]:
    """The bytes of every block of memory that autograd keeps, weights left out."""
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # an address is used again once its tensor is gone
    held = [p for name in adapters.names(base) for p in adapters.parameters(base, name).values()]
    weights = {p.untyped_storage().data_ptr() for p in (*base.model.parameters(), *held)}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(x.detach())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield sizes


def available(device: torch.device) -> int:
    """Bytes that a process may still take on this device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # where the system does not say
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
    with suppress(OSError, ValueError):  # a container's limit; "max" is none
        limit, used = (int((CGROUP / f"memory.{f}").read_text()) for f in ("max", "current"))
        free = min(free, max(0, limit - used + _idle_cache()))
    return free


def _idle_cache() -> int:
    """Bytes of files that the container holds in memory and gives up when memory is wanted."""
    with suppress(OSError, StopIteration):
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("inactive_file ")).split()[1])
    return 0
