"""Regenerates fixtures/bottleneck_*.safetensors: what the `adapters` library computes.

It needs a library and a transformers of its own, which the tests' environment does not have:

    python -m venv /tmp/adapters && /tmp/adapters/bin/pip install adapters==1.3.0 torch
    /tmp/adapters/bin/python tests/model/record_bottleneck.py

Recorded with adapters 1.3.0, transformers 4.57.6, torch 2.13.0. Each file holds a tiny random base (`base/NAME`), and
for each method the adapter's weights (`KIND/weight/NAME`, the library's names), the logits for `ids` and the gradients
of `loss` (`KIND/gradient/NAME`).
"""

from pathlib import Path

import adapters
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).parent / "fixtures"
CONFIGS = {"houlsby": adapters.DoubleSeqBnConfig, "pfeiffer": adapters.SeqBnConfig, "parallel": adapters.ParBnConfig}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, initializer_range=0.3, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.3, bos_token_id=0,
        eos_token_id=1)),
}


def loss(logits):
    return (logits.log_softmax(-1).sin() * torch.linspace(-1, 2, logits.shape[-1])).sum()


def record(name):
    torch.manual_seed(5)
    plain = MODELS[name]().eval()
    with torch.no_grad():
        for p in plain.parameters():
            if p.ndim == 1:  # biases and norms start at 0 and 1, which would hide mistakes
                p.add_(0.2 * torch.randn_like(p))
    found = {f"base/{k}": v for k, v in plain.state_dict().items() if k != "lm_head.weight"}  # tied
    found["ids"] = torch.randint(0, 40, (2, 9))
    with torch.no_grad():
        found["logits"] = plain(input_ids=found["ids"]).logits
    for kind, config in CONFIGS.items():
        model = MODELS[name]().eval()
        model.load_state_dict(plain.state_dict())
        adapters.init(model)
        model.add_adapter(kind, config=config(reduction_factor=4))
        model.train_adapter(kind)  # activates it and freezes the rest
        model.eval()
        mine = {k: p for k, p in model.named_parameters() if f"adapters.{kind}." in k}
        with torch.no_grad():
            for p in mine.values():
                p.copy_(0.3 * torch.randn_like(p))
        logits = model(input_ids=found["ids"]).logits
        loss(logits).backward()
        found[f"{kind}/logits"] = logits
        for k, p in mine.items():
            found[f"{kind}/weight/{k}"], found[f"{kind}/gradient/{k}"] = p, p.grad
    save_file({k: v.detach().clone().contiguous() for k, v in found.items()}, FOLDER / f"bottleneck_{name}.safetensors")


if __name__ == "__main__":
    for name in MODELS:
        record(name)
