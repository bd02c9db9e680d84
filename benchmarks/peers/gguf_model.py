"""The benchmark's random Llama as a GGUF file in fp32, for llama.cpp. Needs `gguf` and numpy only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

from benchmarks.data import COMMON, SHAPES

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def written(folder: Path, shape: str) -> Path:
    """model.gguf beside the prepared data, made if it is not there."""
    file = folder / "model.gguf"
    if not file.is_file():
        aside = folder / f".model.{os.getpid()}.gguf"
        _write(aside, folder / "model" / "model.safetensors", shape)
        aside.rename(file)
    return file


def _write(file: Path, weights: Path, shape: str) -> None:
    s = SHAPES[shape]
    w = gguf.GGUFWriter(str(file), "llama")
    w.add_context_length(COMMON["max_position_embeddings"])
    w.add_embedding_length(s["hidden_size"])
    w.add_block_count(s["num_hidden_layers"])
    w.add_feed_forward_length(s["intermediate_size"])
    w.add_head_count(s["num_attention_heads"])
    w.add_head_count_kv(s["num_key_value_heads"])
    w.add_layer_norm_rms_eps(COMMON["rms_norm_eps"])
    w.add_rope_dimension_count(s["hidden_size"] // s["num_attention_heads"])
    w.add_rope_freq_base(COMMON["rope_theta"])
    w.add_vocab_size(s["vocab_size"])
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_tokenizer_model("gpt2")  # tokens come in as numbers; the words only have to be there
    w.add_tokenizer_pre("default")
    w.add_token_list([f"t{i}".encode() for i in range(s["vocab_size"])])
    w.add_token_types([gguf.TokenType.NORMAL] * s["vocab_size"])
    w.add_token_merges(["t 1"])
    w.add_eos_token_id(COMMON["eos_token_id"])
    for name, tensor in _tensors(weights):
        if (placed := _place(name)) is not None:
            heads = {"q_proj": s["num_attention_heads"], "k_proj": s["num_key_value_heads"]}.get(name.split(".")[-2])
            w.add_tensor(placed, np.ascontiguousarray(_pairwise(tensor, heads) if heads else tensor))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def _place(name: str) -> str | None:
    """transformers' name of a tensor as GGUF's."""
    if name in ("model.embed_tokens.weight", "model.norm.weight"):
        return "token_embd.weight" if "embed" in name else "output_norm.weight"
    if not name.startswith("model.layers."):
        return None
    _, _, block, rest = name.split(".", 3)
    return f"blk.{block}.{NAMES[rest.removesuffix('.weight')]}.weight"


def _pairwise(tensor: np.ndarray, heads: int) -> np.ndarray:
    """Rotary halves of each head to neighbouring pairs, llama.cpp's order."""
    return tensor.reshape(heads, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)


def _tensors(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    for name, about in json.loads(raw[8:8 + size]).items():
        if name != "__metadata__":
            begin, end = (8 + size + at for at in about["data_offsets"])
            yield name, np.frombuffer(raw[begin:end], dtype=np.float32).reshape(about["shape"])
