"""How many parameters LoRA trains on a model of GPT-3's shape, counted on the layers themselves: no weight is made.

    python -m benchmarks.trainable

LoRA's abstract (arXiv 2106.09685) says 10,000 times fewer than full fine-tuning, and its section 4.2 counts r = 4 on
the query and value projections of GPT-3 175B. The shape is built on torch's meta device (with OPT's modules, which keep
queries, keys and values apart) and the adapter is attached as for any run. Gradients and Adam's two moments exist for
what is trained alone, hence the second figure.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import torch
from transformers import OPTConfig, OPTForCausalLM

from tunesmith.model import adapters, lora

GPT3: dict[str, Any] = dict(vocab_size=50257, hidden_size=12288, ffn_dim=49152, num_hidden_layers=96,
                            num_attention_heads=96, max_position_embeddings=2048, word_embed_proj_dim=12288)
"""Table 2.1 of the GPT-3 paper, arXiv 2005.14165."""


def count(shape: dict[str, Any], method: adapters.Method) -> dict[str, float]:
    """Parameters of the model, parameters trained, and how many times fewer they are."""
    with torch.device("meta"):
        model = OPTForCausalLM(OPTConfig(**shape)).requires_grad_(False)
    lora.take_over(model)
    model.name_or_path = "GPT-3"
    base: Any = SimpleNamespace(model=model, spec="GPT-3", device=torch.device("meta"), peft=None, switch=lora.Switch(),
                                virtual={}, vectors={}, bottlenecks={}, hooked=set())  # a base without weights
    whole = sum(p.numel() for p in model.parameters())
    adapters.attach(base, "policy", method, seed=0)
    trained = sum(p.numel() for p in adapters.trainable(base, "policy").values())
    return {"parameters": whole, "trained": trained, "times fewer": round(whole / trained),
            "full: GB of gradients and moments": round(12 * whole / 1e9),
            "adapter: GB of gradients and moments": round(12 * trained / 1e9, 3)}


if __name__ == "__main__":
    print(json.dumps(count(GPT3, adapters.Method(rank=4, alpha=4, targets=("q_proj", "v_proj"))), indent=1))
