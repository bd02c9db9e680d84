"""Small bases as llama.cpp and vLLM know them, each with an adapter in a workspace: for the tests of exports."""

from __future__ import annotations

import json
from pathlib import Path

import tiny
import torch
import transformers as hf
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tunesmith.model import adapters, gguf
from tunesmith.model import base as bases
from tunesmith.model.heads import ScalarHead
from tunesmith.store.workspace import Adapter, Workspace

TEXTS = ("Hello there, world!", " two  spaces\nand 12345 lines\n\n", "l'été d'un naïf — 😀", "don't we'll THEY'RE",
         "<|im_start|>user\nhi<|im_end|>\n", "tab\tand   trailing   ")
CORPUS = [*TEXTS, "the loan of the customer is the loan of the world", "hello hello there there lines and spaces"] * 4
WIDE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=32, max_position_embeddings=256, initializer_range=0.1)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
NARROW = WIDE | dict(head_dim=16)
CONFIGS = {
    "llama": hf.LlamaConfig(**WIDE, tie_word_embeddings=True),
    "llama-3": hf.LlamaConfig(**WIDE, rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True),
    "llama-linear": hf.LlamaConfig(**WIDE, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}),
    "mistral": hf.MistralConfig(**WIDE, sliding_window=128),
    "qwen2": hf.Qwen2Config(**{k: v for k, v in WIDE.items() if k != "head_dim"}),
    "qwen3": hf.Qwen3Config(**WIDE, tie_word_embeddings=True),
    "phi3": hf.Phi3Config(**{k: v for k, v in WIDE.items() if k != "head_dim"}, sliding_window=None),
    "gemma": hf.GemmaConfig(**WIDE),
    "gemma2": hf.Gemma2Config(**WIDE, query_pre_attn_scalar=32, sliding_window=8, attn_logit_softcapping=5.0,
                              final_logit_softcapping=3.0),
    "gpt2": hf.GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=256, initializer_range=0.1),
}


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(cut: pre_tokenizers.PreTokenizer | None = None) -> hf.PreTrainedTokenizerFast:
    """Byte-level BPE with merges; it cuts text as GPT-2 does, or as `cut` says."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = cut or pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=360, special_tokens=tiny.SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return _fast(inner)


def whole_words_first() -> hf.PreTrainedTokenizerFast:
    """Llama 3's: a word that is a token is one, whatever the merges would make of it."""
    spec = json.loads(byte_level(split(gguf.LLAMA3)).backend_tokenizer.to_str())
    spec["model"]["ignore_merges"] = True
    spec["model"]["vocab"]["Ġcustomers"] = len(spec["model"]["vocab"])
    return _fast(Tokenizer.from_str(json.dumps(spec)))


def pieces(space_first: bool = True) -> hf.PreTrainedTokenizerFast:
    """What a SentencePiece BPE looks like after its conversion: bytes for what it does not know, spaces as ▁."""
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    trained = Tokenizer(models.BPE())
    replace = normalizers.Replace(" ", "▁")
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if space_first else replace
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", *tiny.SPECIAL, *byte_tokens], show_progress=False))
    spec = json.loads(trained.to_str())
    spec["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    # a SentencePiece merge is known by what it makes: every way to make it has its rank
    merged = ["".join(m) for m in spec["model"]["merges"]]
    vocabulary = spec["model"]["vocab"]
    spec["model"]["merges"] = [[text[:i], text[i:]] for text in merged for i in range(1, len(text))
                               if text[:i] in vocabulary and text[i:] in vocabulary]
    spec["added_tokens"] = [t for t in spec["added_tokens"] if not t["content"].startswith("<0x")]
    inner = Tokenizer.from_str(json.dumps(spec))
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                       *([decoders.Strip(" ", 1, 0)] if space_first else [])])
    return _fast(inner)


def _fast(inner: Tokenizer) -> hf.PreTrainedTokenizerFast:
    tok = hf.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>",
                                     additional_special_tokens=tiny.SPECIAL[3:])
    tok.chat_template = tiny.CHATML
    return tok


def save(folder: Path, architecture: str, tokenizer: hf.PreTrainedTokenizerFast | None = None) -> Path:
    """A model directory with a random model."""
    tok = tokenizer or byte_level()
    config = CONFIGS[architecture].__class__.from_dict(CONFIGS[architecture].to_dict())
    config.vocab_size = len(tok) + 4  # some rows have no token, as in many real models
    for what in ("pad", "eos", "bos"):
        setattr(config, f"{what}_token_id", getattr(tok, f"{what}_token_id"))
    torch.manual_seed(7)
    model = hf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # norms and biases that matter
        for _, p in model.named_parameters():
            if p.ndim == 1:
                p.add_(torch.randn(p.shape) * 0.1)
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def publish(workspace: Workspace, folder: Path, method: adapters.Method | None = None, name: str = "m",
            head: bool = False, size: float = 0.1) -> tuple[Adapter, bases.Base]:
    """An adapter whose weights matter, and its base with the adapter attached as `one`."""
    base = bases.load(str(folder))
    adapters.attach(base, "one", method or adapters.Method(rank=4, alpha=8), seed=0)
    tiny.shake(base, "one", size=size)

    def write(into: Path) -> None:
        adapters.save(base, "one", into)
        if head:
            ScalarHead(base.width, torch.Generator().manual_seed(5)).save(into)

    lineage = {"run": "sft-1", "parents": {"after": "older@1"}, "data": {"demos": "f00d"}, "settings": {"rank": 4}}
    return workspace.publish_adapter(name, "reward" if head else "policy", base.describe(), write, lineage), base


def logits(base: bases.Base, ids: torch.Tensor, role: str = "one") -> torch.Tensor:
    """What the base computes with the adapter, [T, V]."""
    with torch.no_grad(), adapters.active(base, role):
        return base.logits(base.trunk(input_ids=ids, use_cache=False).last_hidden_state)[0]


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    return float((a - b).abs().max() / b.abs().max())
