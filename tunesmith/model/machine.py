"""What this machine can do, measured in a fraction of a second: products, memory, and how many threads help.

A run is held against these figures (`fraction of the limit`), and they choose precision and threads, so that nobody
has to be asked. The floor of a computation counts its products alone: 2N per token forward, 4N with a LoRA adapter's
backward pass, 6N with that of every weight, N the parameters that take part in a product (Kaplan et al., 2001.08361,
section 2.1). Attention's own products are left out, so a measured fraction is never flattered by long sequences.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

from tunesmith.model import quantised
from tunesmith.model.base import Base
from tunesmith.model.batch import Tree

BUDGET = 0.03
"""Seconds that each of the measurements below may take, about."""

AVAILABLE = torch.get_num_threads()
"""Threads that torch would use unasked: one per core, or OMP_NUM_THREADS."""

WORTH = 1.1
"""Twice the threads must be this many times as fast to be taken."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Rates of one device: GFLOP/s of square products by dtype, GB/s of a copy (read and written bytes)."""

    device: str
    threads: int
    fp32_gflops: float
    bf16_gflops: float
    bandwidth_gbps: float

    def gflops(self, dtype: torch.dtype) -> float:
        """The rate of products in `dtype`; float16 is taken to be as fast as bfloat16."""
        return self.fp32_gflops if dtype == torch.float32 else self.bf16_gflops


def measure(device: str = "cpu", threads: int = 0) -> Machine:
    """This machine's rates with `threads` threads (0: as many as torch uses now), measured once per process."""
    return _measure(device, threads or torch.get_num_threads())


@cache
def _measure(device: str, threads: int) -> Machine:
    with _threads(threads):
        found = Machine(device, threads, _gflops(device, torch.float32), _gflops(device, torch.bfloat16),
                        _bandwidth(device))
    if threads == 1 or device != "cpu":
        return found
    one = _measure(device, 1)  # a busy machine stalls several threads; its limit is still what one reaches
    return Machine(device, threads, *(max(getattr(m, f) for m in (found, one))
                                      for f in ("fp32_gflops", "bf16_gflops", "bandwidth_gbps")))


def precision(device: str = "cpu") -> torch.dtype:
    """bfloat16 where its products are at least twice as fast as float32's: GPUs, and CPUs with units for it."""
    here = measure(device)
    return torch.bfloat16 if here.bf16_gflops > 2 * here.fp32_gflops else torch.float32


@cache
def threads(width: int) -> int:
    """How many threads pay for products of a model of this width: doubled for as long as it helps.

    On a machine that is busy with other work two threads can be twenty times slower than one, because each waits for
    the other at the end of every small product. What OMP_NUM_THREADS says is left alone.
    """
    if "OMP_NUM_THREADS" in os.environ or AVAILABLE == 1:
        return AVAILABLE
    x, w = torch.randn(max(32, 2**17 // width), width), torch.randn(width, width)
    repeat = _repeats(lambda: x @ w)
    chosen, best = 1, _seconds(lambda: x @ w, 1, repeat)
    for more in sorted({*(2**i for i in range(1, AVAILABLE.bit_length()) if 2**i < AVAILABLE), AVAILABLE}):
        seconds = _seconds(lambda: x @ w, more, repeat, limit=best)
        if seconds * WORTH > best:
            break
        chosen, best = more, seconds
    return chosen


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens of one step: `forward` pass the blocks without a gradient, `trained` forward and backward.

    Of these, `forward_logits` and `trained_logits` meet the output layer too. A token that passes twice counts twice.
    """

    forward: int = 0
    forward_logits: int = 0
    trained: int = 0
    trained_logits: int = 0

    @property
    def tokens(self) -> int:
        """All that passed the blocks."""
        return self.forward + self.trained

    def __add__(self, other: Work) -> Work:
        return Work(self.forward + other.forward, self.forward_logits + other.forward_logits,
                    self.trained + other.trained, self.trained_logits + other.trained_logits)


def passes(trees: Sequence[Tree], *, forward: int = 0, forward_logits: int = 0, trained: int = 0,
           trained_logits: int = 0) -> Work:
    """All tokens of these trees so many times; at the output layer only those that a loss reads."""
    size = sum(t.size for t in trees)
    read = sum(sum(w > 0 for ws in t.weights for w in ws) if t.weights else sum(map(len, t.answers)) for t in trees)
    return Work(size * forward, read * forward_logits, size * trained, read * trained_logits)


Products = tuple[tuple[int, int], tuple[int, int]]


def flops(weights: Products, work: Work) -> float:
    """The least floating point operations that this work takes, `weights` being a base's `products`: 2 per weight and
    token forward, 2 for the gradient of what went in, and 2 more for the gradient of a weight that is itself trained.
    """
    (body, body_step), (head, head_step) = weights
    return float(2 * body * work.forward + body_step * work.trained
                 + 2 * head * work.forward_logits + head_step * work.trained_logits)


def products(base: Base) -> Products:
    """Weights that take part in products, and the operations per token of a step through them: (blocks, output layer).

    Adapters and embeddings are left out. It walks over every layer, so ask once.
    """
    output = base.model.get_output_embeddings().weight
    embedded = {id(m.weight) for m in base.model.modules() if isinstance(m, nn.Embedding)} | {id(output)}
    blocks = [p for name, p in base.model.named_parameters()
              if p.ndim > 1 and "lora_" not in name and id(p) not in embedded]
    return _weights([*blocks, *quantised.shapes(base.model)]), _weights([output])


def _weights(parameters: Sequence[Tensor]) -> tuple[int, int]:
    return sum(p.numel() for p in parameters), sum(p.numel() * (6 if p.requires_grad else 4) for p in parameters)


def _gflops(device: str, dtype: torch.dtype) -> float:
    """The best rate of square products whose size doubles while one of them stays within the budget.

    A CPU without units for a dtype can be a hundred times slower at it, hence the small start.
    """
    size, largest = 128, 4096 if device.startswith("cuda") else 1024
    while True:
        a = torch.randn(size, size, device=device).to(dtype)
        seconds = min(_timed(partial(torch.matmul, a, a), device) for _ in range(3))
        if size >= largest or 3 * 8 * seconds > BUDGET:
            return float(2 * size**3 / seconds / 1e9)
        size *= 2


def _bandwidth(device: str) -> float:
    """GB/s of copying 32 MB (1 GB on a GPU) to another place."""
    source = torch.ones(2**28 if device.startswith("cuda") else 2**23, device=device)
    target = torch.zeros_like(source)
    seconds = min(_timed(lambda: target.copy_(source), device) for _ in range(3))
    return float(2 * source.nbytes / seconds / 1e9)


def _timed(work: Callable[[], object], device: str) -> float:
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def _repeats(work: Callable[[], object]) -> int:
    """How many calls fill a third of the budget on one thread."""
    work()
    return max(3, int(BUDGET / 3 / max(_seconds(work, 1, 1), 1e-7)))


def _seconds(work: Callable[[], object], threads: int, repeat: int, limit: float = float("inf")) -> float:
    """Seconds for so many calls on so many threads, all of them: a stall counts. Gives up beyond `limit`."""
    with _threads(threads):
        start = time.perf_counter()
        for _ in range(repeat):
            work()
            if time.perf_counter() - start > limit:
                return float("inf")
        return time.perf_counter() - start


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
