"""GGUF files for llama.cpp: a whole model, or a LoRA adapter of one.

The `gguf` package knows llama.cpp's names and its layout of bytes; what the numbers must look like follows llama.cpp's
own converters (`convert_hf_to_gguf.py`, `convert_lora_to_gguf.py`). What llama.cpp would compute differently is
refused. Left out: mixtures of experts, images, sound, scaled positions other than linear and Llama 3's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft.utils.other import get_pattern_key
from torch import Tensor

from tunesmith.contracts import Progress
from tunesmith.errors import MissingExtra, ModelError
from tunesmith.model.chat import Chat

Precision = Literal["fp32", "fp16", "bf16", "q8_0"]
ELSEWHERE = "export it with --format merged, which transformers and vLLM load"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
          r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
SPLITS: dict[tuple[str, ...], str] = {
    ("words",): "gpt-2",
    ("digits", "words"): "smollm",
    (LLAMA3.replace("{1,3}", ""), "bytes"): "qwen2",
    (LLAMA3, "bytes"): "smaug-bpe",
    (LLAMA3, "bytes", "whole words first"): "llama-bpe",
    (TEKKEN, "bytes", "whole words first"): "tekken",
}
"""How a byte-level tokenizer cuts text before it merges, and llama.cpp's name for it."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One of transformers' as llama.cpp computes it.

    `neighbours`: rotary pairs are neighbouring rows of q and k, where transformers has them half a head apart.
    `norms_add_one`: transformers adds 1 to a norm's weight while computing, llama.cpp finds it added.
    """

    name: str
    activations: tuple[str, ...] = ("silu",)
    neighbours: bool = False
    norms_add_one: bool = False


GELU = ("gelu_pytorch_tanh", "gelu_new")
ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", neighbours=True),
    "MistralForCausalLM": Architecture("llama", neighbours=True),
    "Qwen2ForCausalLM": Architecture("qwen2"),
    "Qwen3ForCausalLM": Architecture("qwen3"),
    "Phi3ForCausalLM": Architecture("phi3"),
    "GemmaForCausalLM": Architecture("gemma", GELU, norms_add_one=True),
    "Gemma2ForCausalLM": Architecture("gemma2", GELU, norms_add_one=True),
    "GPT2LMHeadModel": Architecture("gpt2", GELU),
}


def architecture(config: Any) -> Architecture:
    """How llama.cpp computes this model.

    Raises:
        ModelError: it does not, or not with these settings; names the way that remains.
    """
    name = (config.architectures or ["unknown"])[0]
    if name not in ARCHITECTURES:
        raise ModelError(f"{name} is none of the architectures that Tunesmith writes as GGUF "
                         f"({', '.join(ARCHITECTURES)}); {ELSEWHERE}")
    found = ARCHITECTURES[name]
    activation = next(getattr(config, key) for key in ("hidden_activation", "hidden_act", "activation_function")
                      if getattr(config, key, None))
    scaling = _rope(config).get("rope_type", "default")
    lone = getattr(config, "tie_word_embeddings", True)
    problems = {
        f"activation {activation}": activation not in found.activations,
        f"positions scaled by {scaling}": scaling not in ("default", "linear", "llama3"),
        "an output layer of its own": found.norms_add_one and not lone,
        "cross-attention": bool(getattr(config, "add_cross_attention", False)),
        "attention scaled by layer": bool(getattr(config, "scale_attn_by_inverse_layer_idx", False)),
        "attention that is not scaled": getattr(config, "scale_attn_weights", True) is False,
        f"query_pre_attn_scalar {getattr(config, 'query_pre_attn_scalar', 0)}": found.name == "gemma2"
        and config.query_pre_attn_scalar != (config.hidden_size // config.num_attention_heads
                                             if config.num_hidden_layers == 46 else config.head_dim),
    }
    if problem := next((what for what, bad in problems.items() if bad), ""):
        raise ModelError(f"llama.cpp does not compute {name} with {problem}; {ELSEWHERE}")
    return found


def write_model(out: Path, model: Any, chat: Chat, precision: Precision, about: Mapping[str, str],
                progress: Progress | None = None) -> None:
    """A whole model with its tokenizer and chat template, one tensor at a time.

    Args:
        model: a transformers model without adapters.
        precision: of the matrices; vectors and norms are always float32.
        about: `name`, `description`, `licence` for the file's own card.

    Raises:
        ModelError: llama.cpp cannot compute or tokenize as this model does.
        MissingExtra: the `gguf` package is not installed.
    """
    gguf, found = _library(), architecture(model.config)
    writer = _writer(gguf, out, found, about)
    writer.add_type(gguf.GGUFType.MODEL)
    _shape(gguf, writer, model.config, found)
    _vocabulary(gguf, writer, chat, model.config.vocab_size)
    kinds = gguf.LlamaFileType
    writer.add_file_type({"fp32": kinds.ALL_F32, "fp16": kinds.MOSTLY_F16, "bf16": kinds.MOSTLY_BF16,
                          "q8_0": kinds.MOSTLY_Q8_0}[precision])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _write(gguf, writer, dict(_model_tensors(gguf, model, found)), precision, progress)


def write_lora(out: Path, config: Any, lora: Any, state: Mapping[str, Tensor], about: Mapping[str, str],
               progress: Progress | None = None) -> None:
    """A LoRA adapter in float32, for `llama-server --lora`.

    Args:
        config: the base's transformers configuration; its weights are not needed.
        lora: PEFT's configuration of the adapter.
        state: the adapter's tensors by their PEFT names.

    Raises:
        ModelError: llama.cpp cannot compute the base, or has no place for one of the adapter's tensors.
        MissingExtra: the `gguf` package is not installed.
    """
    gguf, found = _library(), architecture(config)
    writer = _writer(gguf, out, found, about)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(lora.lora_alpha))
    _write(gguf, writer, dict(_lora_tensors(gguf, config, lora, state, found)), "fp32", progress)


def _library() -> Any:
    try:
        import gguf
    except ImportError as e:
        raise MissingExtra("gguf", "gguf") from e
    return gguf


def _writer(gguf: Any, out: Path, found: Architecture, about: Mapping[str, str]) -> Any:
    writer = gguf.GGUFWriter(out, found.name)
    writer.add_name(about["name"])
    writer.add_description(about["description"])
    if about.get("licence"):
        writer.add_license(about["licence"])
    return writer


# ---- tensors

def _write(gguf: Any, writer: Any, tensors: Mapping[str, Tensor], precision: Precision,
           progress: Progress | None) -> None:
    """Announce all tensors, then convert and write them one after the other: no second model is in memory."""
    kinds = {name: _kind(gguf, name, tensor, precision) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        shape = gguf.quant_shape_to_byte_shape(tensor.shape, kinds[name])
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), math.prod(shape), kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for i, (name, tensor) in enumerate(tensors.items(), 1):
        data = gguf.quants.quantize(tensor.detach().float().cpu().contiguous().numpy(), kinds[name])
        writer.write_tensor_data(data)
        if progress:
            progress(i, len(tensors), {})
    writer.close()


def _kind(gguf: Any, name: str, tensor: Tensor, precision: Precision) -> Any:
    """What llama.cpp reads a tensor as: vectors, norms and learned positions are float32 whatever was asked for."""
    kinds = gguf.GGMLQuantizationType
    if tensor.ndim == 1 or name.endswith("_norm.weight") or name == "position_embd.weight":
        return kinds.F32
    if precision == "q8_0" and tensor.shape[-1] % 32:
        return kinds.F16
    return {"fp32": kinds.F32, "fp16": kinds.F16, "bf16": kinds.BF16, "q8_0": kinds.Q8_0}[precision]


def _model_tensors(gguf: Any, model: Any, found: Architecture) -> Iterator[tuple[str, Tensor]]:
    places = gguf.get_tensor_name_map(gguf.MODEL_ARCH[found.name.upper()], model.config.num_hidden_layers)
    tied = getattr(model.config, "tie_word_embeddings", True)
    for key, tensor in model.state_dict().items():
        if tied and key == "lm_head.weight":
            continue
        if found.name == "gpt2" and key.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            tensor = tensor.t()
        if found.norms_add_one and key.endswith("norm.weight"):
            tensor = tensor.float() + 1
        yield _place(places, key), _rows(key.rpartition(".")[0], tensor, model.config, found)
    if _rope(model.config).get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(model.config)


def _lora_tensors(gguf: Any, config: Any, lora: Any, state: Mapping[str, Tensor],
                  found: Architecture) -> Iterator[tuple[str, Tensor]]:
    """llama.cpp scales by alpha over the rank of each tensor; where PEFT scales otherwise, B makes up for it."""
    places = gguf.get_tensor_name_map(gguf.MODEL_ARCH[found.name.upper()], config.num_hidden_layers)
    patterns: dict[str, float] = lora.alpha_pattern or {}
    for key, first in state.items():
        if not key.endswith(".lora_A.weight"):
            continue
        module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        if module == "lm_head" and getattr(config, "tie_word_embeddings", True):
            raise ModelError("the adapter changes the output layer, which this base shares with its embeddings and "
                             "llama.cpp does not separate; export it with --format gguf")
        second, rank = state[key.replace(".lora_A.", ".lora_B.")].float(), len(first)
        alpha = patterns.get(get_pattern_key([*patterns], module), lora.lora_alpha)
        scaling = alpha / (math.sqrt(rank) if lora.use_rslora else rank)
        name = _place(places, f"{module}.weight")
        yield f"{name}.lora_a", first
        yield f"{name}.lora_b", _rows(module, second, config, found) * (scaling * rank / lora.lora_alpha)


def _place(places: Any, key: str) -> str:
    name: str | None = places.get_name(key, try_suffixes=(".weight", ".bias"))
    if name is None:
        raise ModelError(f"llama.cpp has no place for {key}; {ELSEWHERE}")
    return name


def _rows(module: str, tensor: Tensor, config: Any, found: Architecture) -> Tensor:
    """[out, ...] with the rows of q and k in llama.cpp's order; others as they are."""
    if not found.neighbours or not module.endswith(("q_proj", "k_proj")):
        return tensor
    heads = config.num_attention_heads if module.endswith("q_proj") else config.num_key_value_heads
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(tensor.shape)


# ---- shape

def _shape(gguf: Any, writer: Any, config: Any, found: Architecture) -> None:
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(_context(config, found))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
                                   or 4 * config.hidden_size)
    writer.add_head_count(heads)
    writer.add_vocab_size(config.vocab_size)
    if found.name == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    rope = _rope(config)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(int(size * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if found.name == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)


def _context(config: Any, found: Architecture) -> int:
    """llama.cpp slides a window over Gemma 2 alone: for others the window is as far as both compute the same."""
    length = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None)
    if found.name == "gemma2" or not window or getattr(config, "use_sliding_window", True) is False:
        return length
    return min(length, int(window))


def _rope(config: Any) -> dict[str, Any]:
    return dict(getattr(config, "rope_parameters", None) or {})


def _llama3_factors(config: Any) -> Tensor:
    """What each rotary frequency is divided by: 1 for fast ones, `factor` for slow ones, smooth between (Llama 3.1)."""
    rope = _rope(config)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    waves = 2 * math.pi * rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    slow, fast, whole = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    share = ((whole / waves - slow) / (fast - slow)).clamp(0, 1)
    return 1 / ((1 - share) / rope["factor"] + share)


# ---- vocabulary

def _vocabulary(gguf: Any, writer: Any, chat: Chat, size: int) -> None:
    """The tokenizer, its special tokens and the chat template that the model was trained with."""
    tokenizer = chat.tokenizer
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    if spec["model"]["type"] != "BPE":
        raise ModelError(f"llama.cpp has no tokenizer of type {spec['model']['type']} here; {ELSEWHERE}")
    pieces = bool(spec["model"].get("byte_fallback"))
    texts, kinds = _tokens(gguf, spec, size, pieces)
    merges = [m.split(" ") if isinstance(m, str) else m for m in spec["model"]["merges"]]
    if pieces:  # SentencePiece: the earlier a merge, the higher its score
        rank = {first + second: -float(i) for i, (first, second) in reversed(list(enumerate(merges)))}
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([rank.get(text, -float(len(merges))) for text in texts])
        writer.add_add_space_prefix(_space_first(spec))
    elif not merges:
        raise ModelError(f"the tokenizer merges nothing, and llama.cpp reads no such file; {ELSEWHERE}")
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_splits(spec))
        writer.add_token_merges([" ".join(part.replace(" ", "Ġ") for part in pair) for pair in merges])
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    for what in ("bos", "eos", "unk", "pad"):
        if (id := getattr(tokenizer, f"{what}_token_id")) is not None:
            getattr(writer, f"add_{what}_token_id")(id)
    if chat.end != tokenizer.eos_token_id:
        writer.add_eot_token_id(chat.end)
    empty = tokenizer("")["input_ids"]
    writer.add_add_bos_token(bool(empty) and empty[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(bool(empty) and empty[-1] == tokenizer.eos_token_id != tokenizer.bos_token_id)
    writer.add_chat_template(re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", chat.template))  # marks that print nothing


def _tokens(gguf: Any, spec: Mapping[str, Any], size: int, pieces: bool) -> tuple[list[str], list[int]]:
    """Texts and kinds by id; rows of the embedding that no token has are unused."""
    kind = gguf.TokenType
    vocabulary, added = spec["model"]["vocab"], spec["added_tokens"]
    if (most := max([*vocabulary.values(), *(t["id"] for t in added)])) >= size:
        raise ModelError(f"the tokenizer has a token {most}, and the model {size} rows for tokens")
    texts, kinds = [f"[PAD{i}]" for i in range(size)], [int(kind.UNUSED)] * size
    unknown = spec["model"].get("unk_token")
    for text, id in vocabulary.items():
        byte = pieces and len(text) == 6 and text.startswith("<0x")
        texts[id] = text
        kinds[id] = int(kind.BYTE if byte else kind.UNKNOWN if text == unknown else kind.NORMAL)
    for token in added:
        special = token["special"] or (token["content"].startswith("<|") and token["content"].endswith("|>"))
        texts[token["id"]] = token["content"] if special else token["content"].replace("▁", " ")
        if token["content"] != unknown:
            kinds[token["id"]] = int(kind.CONTROL if special else kind.USER_DEFINED)
    return texts, kinds


def _splits(spec: Mapping[str, Any]) -> str:
    """llama.cpp's name for how this byte-level tokenizer cuts text into words."""
    outer = spec["pre_tokenizer"] or {}
    steps = []
    for step in outer.get("pretokenizers", [outer]):
        if step.get("type") == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            steps.append(step["pattern"].get("Regex", ""))
        elif step.get("type") == "Digits" and step["individual_digits"]:
            steps.append("digits")
        elif step.get("type") == "ByteLevel" and not step["add_prefix_space"]:
            steps.append("words" if step["use_regex"] else "bytes")
        else:
            steps.append(f"a {step.get('type', 'missing')} step")
    if spec["model"].get("ignore_merges"):
        steps.append("whole words first")
    if tuple(steps) not in SPLITS:
        raise ModelError(f"Tunesmith knows no name in llama.cpp for how this tokenizer cuts text ({', '.join(steps)}); "
                         f"{ELSEWHERE}, and try llama.cpp's own converter on that")
    return SPLITS[tuple(steps)]


def _space_first(spec: Mapping[str, Any]) -> bool:
    """Whether a SentencePiece tokenizer puts a space before the text."""
    outer, before = spec["normalizer"] or {}, spec["pre_tokenizer"] or {}
    prepends = any(step.get("type") == "Prepend" for step in outer.get("normalizers", [outer]))
    return prepends or (before.get("type") == "Metaspace" and before.get("prepend_scheme") != "never")
