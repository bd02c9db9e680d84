"""How much arithmetic a step cannot avoid, from the model's shape: the denominator of "fraction of the limit".

N counts the parameters that take part in a matrix product for every token. A forward pass costs 2N FLOPs a token,
the gradient to the input 2N, the gradient of the weights 2N: LoRA 4N, full fine-tuning 6N. A pass without the
vocabulary counts N without the output layer. Prompts count once for all their answers. Attention, LoRA's own factors
and everything that is not a product are left out, so a perfect program would still be a little below 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.data import SHAPES, linears


def products(shape: str, head: bool = True) -> int:
    """N: parameters in products, with or without the output layer."""
    s = SHAPES[shape]
    blocks = sum(a * b for a, b in linears(shape).values())
    return blocks + (s["hidden_size"] * s["vocab_size"] if head else 0)


def flops(workload: str, shape: str, tokens: int, options: Mapping[str, Any]) -> float:
    """FLOPs that one step of ours cannot avoid; `tokens` are those it really computed, prompts once."""
    whole, trunk = products(shape), products(shape, head=False)
    if workload == "sft":
        return 4.0 * whole * tokens
    if workload == "sft-full":
        return 6.0 * whole * tokens
    if workload in ("reward", "rankings-4", "rankings-9"):
        return 4.0 * trunk * tokens
    if workload == "dpo":
        return (4.0 + 2.0) * whole * tokens  # policy; reference
    if workload == "ppo":
        rollout_and_scores = 2.0 * whole + 2.0 * whole + 2 * 2.0 * trunk  # sampler; reference; value and reward
        training = 4.0 * whole + (4.0 * trunk if options.get("value", "adapter") == "adapter" else 0.0)
        return (rollout_and_scores + options.get("epochs", 4) * training) * tokens
    if workload in ("grpo", "rloo"):
        return (2.0 * whole + 2.0 * trunk + 4.0 * whole + (2.0 * whole if workload == "rloo" else 0.0)) * tokens
    return 2.0 * whole * tokens  # generate, adapters-8
