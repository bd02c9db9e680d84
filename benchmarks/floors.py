"""How much arithmetic a step cannot avoid, from the model's shape: the denominator of "fraction of the limit".

N counts the parameters that take part in matrix products. A forward pass costs 2N FLOPs a token, the gradient to the
input 2N, the gradient of the weights 2N: LoRA 4N, full fine-tuning 6N. Prompts count once for all their answers. Two
denominators follow from it, and tables show both:

- "of the limit": only what cannot be avoided. The output layer, and in the last block all but keys and values, count
  for the tokens that a loss (or a sampler) reads; a reward model reads one token of each answer and no output layer.
- "at 4N or 6N a token": all of N for every real token, prompts included, as such figures are usually given; it is
  larger, and can pass 1 where answers are short. A pass without the vocabulary counts N without the output layer.

Attention, LoRA's own factors and everything that is not a product are left out of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.data import SHAPES, linears


def products(shape: str, head: bool = True) -> int:
    """N: parameters in products, with or without the output layer."""
    s = SHAPES[shape]
    blocks = sum(a * b for a, b in linears(shape).values())
    return blocks + (s["hidden_size"] * s["vocab_size"] if head else 0)


def skippable(shape: str) -> int:
    """Parameters of the last block that only the tokens need whose output is read: all but keys and values."""
    last = f"{SHAPES[shape]['num_hidden_layers'] - 1}."
    return sum(a * b for name, (a, b) in linears(shape).items()
               if name.startswith(last) and not name.endswith(("k_proj", "v_proj")))


def flops(workload: str, shape: str, tokens: int, read: int | None, options: Mapping[str, Any]) -> float:
    """FLOPs of one step of ours: `tokens` are those it really computed, prompts once, and `read` those of them whose
    output is read (of each pass). None: all of N counts for every token.
    """
    blocks, block_reads, heads = passes(workload, options)
    trunk, head = products(shape, head=False), products(shape) - products(shape, head=False)
    if read is None:
        return float((blocks * trunk + heads * head) * tokens)
    few = skippable(shape)
    return float(blocks * (trunk - few) * tokens + (block_reads * few + heads * head) * read)


def per_unit(workload: str, shape: str, steps: Sequence[Mapping[str, Any]],
             options: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """FLOPs per unit of each step of ours: those that cannot be avoided, and those at all of N a token."""
    return ([flops(workload, shape, s["tokens"], s["read"], options) / s["units"] for s in steps],
            [flops(workload, shape, s["tokens"], None, options) / s["units"] for s in steps])


def passes(workload: str, options: Mapping[str, Any]) -> tuple[float, float, float]:
    """FLOPs per parameter and token of a step: in the blocks, there for tokens that are read, in the output layer."""
    if workload == "sft":
        return 4, 4, 4
    if workload == "sft-full":
        return 6, 6, 6
    if workload in ("reward", "rankings-4", "rankings-9"):
        return 4, 4, 0
    if workload == "dpo":
        return 4 + 2, 4 + 2, 4 + 2  # policy; reference
    if workload == "ppo":  # sampler, reference, value and reward, which reads so little that it counts as nothing
        epochs, value = options.get("epochs", 4), 4 * (options.get("value", "adapter") == "adapter")
        return 8 + epochs * (4 + value), 6 + epochs * (4 + value), 4 + epochs * 4
    if workload in ("grpo", "rloo"):  # sampler, policy, reward; the reference, which RLOO's default asks
        reference = 2 * (workload == "rloo")
        return 8 + reference, 6 + reference, 6 + reference
    return 2, 2, 2  # generate, adapters-8
