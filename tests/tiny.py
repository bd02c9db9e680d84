"""Tiny random bases of three architectures, saved as a user's model directory would be."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tunesmith.model import adapters
from tunesmith.model import base as bases

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
METHODS = {
    "usual": adapters.Method(rank=4, alpha=8),
    "rslora": adapters.Method(rank=4, alpha=8, rslora=True),
    "dora": adapters.Method("dora", rank=4, alpha=8),
    "ia3": adapters.Method("ia3"),
    "houlsby": adapters.Method("houlsby", bottleneck=8),
    "pfeiffer": adapters.Method("pfeiffer", bottleneck=8),
    "parallel": adapters.Method("parallel", bottleneck=8),
    "prefix": adapters.Method("prefix", virtual_tokens=4),
    "prompt": adapters.Method("prompt", virtual_tokens=4),
}
"""One of every kind of adapter, small."""
SPECIAL = ["<pad>", "<eos>", "<bos>", "<|im_start|>", "<|im_end|>"]


def tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Bytes and five special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tok = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>",
                                  additional_special_tokens=SPECIAL[3:])
    tok.chat_template = template
    return tok


def model(architecture: str, vocabulary: int) -> torch.nn.Module:
    """A random model that the tests can differentiate in milliseconds."""
    torch.manual_seed(7)
    shape = dict(vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                 num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.1)
    ids = dict(pad_token_id=256, eos_token_id=257, bos_token_id=258)
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape, **ids, tie_word_embeddings=True))
    if architecture == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**shape, **ids, head_dim=8))
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=256,
                                      initializer_range=0.1, **ids))


def save(folder: Path, architecture: str = "llama", template: str | None = CHATML) -> Path:
    """A model directory."""
    tok = tokenizer(template)
    model(architecture, len(tok)).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def load(folder: Path, architecture: str = "llama", template: str | None = CHATML) -> bases.Base:
    """The directory as a `Base`."""
    return bases.load(str(save(folder, architecture, template)))


def shake(base: bases.Base, name: str, seed: int = 1, size: float = 0.3) -> None:
    """Give an adapter weights that matter: a fresh one is an identity and would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapters.parameters(base, name).values():
            p.copy_(torch.randn(p.shape, generator=generator) * size)
