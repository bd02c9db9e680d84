"""What a quantised base saves and costs: memory and time of LoRA steps on a random model of 100M parameters.

    python -m benchmarks.quantised [--steps N] [--tokens N] [--out FILE.json]

Each kind runs in a process of its own. Time is the processor's, so other programs hardly count. Memory is resident:
after the base was loaded and packed, and at its highest during the steps. Speed says nothing of quality; see
tests/model/test_quantised.py for how near the weights are.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KINDS = ("none", "int8", "nf4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=512, help="of a step")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(*chosen.one, chosen.steps, chosen.tokens)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make(folder)
        for kind in KINDS:
            command = [sys.executable, "-m", "benchmarks.quantised", "--steps", str(chosen.steps), "--tokens",
                       str(chosen.tokens), "--one", folder, kind]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    if chosen.out:
        chosen.out.write_text(json.dumps(rows, indent=1) + "\n")


def make(folder: str) -> None:
    """A random Llama of 100M parameters, nine tenths of them in its blocks."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tunesmith.quickstart import builtin

    tokenizer = AutoTokenizer.from_pretrained(builtin.BASES["loan-desk"])
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=768, intermediate_size=2304, num_hidden_layers=13,
                         num_attention_heads=12, num_key_value_heads=12, tie_word_embeddings=True)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(folder: str, kind: str, steps: int, tokens: int) -> dict[str, Any]:
    """One kind: megabytes and seconds."""
    import torch

    from tunesmith.model import adapters, quantised
    from tunesmith.model import base as bases
    from tunesmith.train import cost

    bases.keep_memory()  # as every run does
    base = bases.load(folder)
    started = time.process_time()
    if kind != "none":
        quantised.quantise(base, kind)  # type: ignore[arg-type]
    packing = time.process_time() - started
    resident = _resident()
    adapters.attach(base, "one", adapters.Method(rank=16, alpha=32), seed=0)
    optimizer = torch.optim.AdamW(adapters.trainable(base, "one").values(), lr=1e-3)
    ids = torch.randint(6, base.tokenizer.vocab_size, (4, tokens // 4), generator=torch.Generator().manual_seed(1))
    cost.forget_peak()
    seconds, losses = [], []
    for _ in range(steps):
        start = time.process_time()
        with adapters.active(base, "one"):
            logits = base.logits(base.trunk(input_ids=ids, use_cache=False).last_hidden_state)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - start)
        losses.append(float(loss))
    return {"quantise": kind, "parameters": base.parameters, "threads": torch.get_num_threads(),
            "cores": os.cpu_count(), "tokens": tokens, "core-seconds to pack": round(packing, 2),
            "MB after loading": resident, "peak MB of the steps": cost.peak_mb(),
            "core-seconds per step": round(statistics.median(seconds[1:]), 3), "first loss": round(losses[0], 4),
            "last loss": round(losses[-1], 4)}


def _resident() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 2**10, 1)


if __name__ == "__main__":
    main()
