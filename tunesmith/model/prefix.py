"""Prefix tuning (arXiv 2101.00190) and prompt tuning (arXiv 2104.08691), in PEFT's formats.

Both start from a real text: the fresh adapter computes exactly what the base computes behind that text. What that is
worth is in docs/results/prefix.md, how they compute in `model.virtual`. Left out: training a prefix through an MLP
(PEFT saves what its MLP gives, so such a folder loads).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PrefixTuningConfig, PromptTuningConfig
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DynamicCache

from tunesmith.errors import ModelError
from tunesmith.model.base import Base, said
from tunesmith.model.batch import TOLERANCE, Tree, build, hidden, words
from tunesmith.model.methods import WEIGHTS, Method
from tunesmith.model.virtual import Virtual

TEXT = ("You are a helpful, honest and careful assistant. Read the conversation and write the next reply: friendly, "
        "to the point, and only what you know to be true.")
KEY = "prompt_embeddings"
"""PEFT's name of the one tensor."""


def attach(base: Base, name: str, method: Method, seed: int) -> None:
    """A fresh adapter that starts from `method.init_text`, repeated or cut to `method.virtual_tokens`; no seed is
    used.

    Raises:
        ModelError: the base cannot take virtual tokens, or has no room for so many.
    """
    _check(base, method.kind == "prefix")
    text = base.tokenizer(method.init_text or TEXT)["input_ids"]
    if not text:
        raise ModelError(f"init_text {method.init_text!r} holds no token; give it a word, or leave it out")
    repeated = [text[i % len(text)] for i in range(method.virtual_tokens)]
    _put(base, name, _of(base, repeated, method.kind == "prefix"))


def load(base: Base, name: str, folder: Path) -> None:
    """The adapter saved in `folder`.

    Raises:
        ModelError: it does not fit the base, or the base cannot take virtual tokens.
    """
    config: Any = PeftConfig.from_pretrained(str(folder))
    state = load_file(folder / WEIGHTS)
    deep = config.peft_type == "PREFIX_TUNING"
    _check(base, deep)
    example = _of(base, words(base, 1), deep)
    wanted = [config.num_virtual_tokens, example.weight.shape[1]]
    if list(state) != [KEY] or list(state[KEY].shape) != wanted:
        found = {key: list(value.shape) for key, value in state.items()}
        raise ModelError(f"does not fit base {base.spec}: it holds {found}, and the base takes {KEY} of shape {wanted}")
    weight = nn.Parameter(state[KEY].to(base.device, torch.float32), requires_grad=False)
    own = _config(base, len(weight), example.config.token_dim, example.heads)
    _put(base, name, Virtual(own, weight, example.heads))


def copy(base: Base, source: str, target: str) -> None:
    """The same weights under another name, sharing no memory."""
    made: Virtual = base.virtual[source]
    weight = nn.Parameter(made.weight.detach().clone(), requires_grad=False)
    _put(base, target, Virtual(made.config, weight, made.heads))


def remove(base: Base, name: str) -> None:
    """Drop it from memory."""
    del base.virtual[name]


def names(base: Base) -> list[str]:
    """The attached adapters of the two methods."""
    return list(base.virtual)


def parameters(base: Base, name: str) -> dict[str, nn.Parameter]:
    """The one weight, by the name that it has inside of PEFT."""
    return {f"prompt_encoder.{name}.embedding.weight": base.virtual[name].weight}


def save(base: Base, name: str, folder: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` as PEFT reads them."""
    made: Virtual = base.virtual[name]
    save_file({KEY: made.weight.detach().cpu().contiguous()}, folder / WEIGHTS)
    made.config.save_pretrained(str(folder))


def _put(base: Base, name: str, made: Virtual) -> None:
    if made.tokens >= base.context:
        raise ModelError(f"{made.tokens} virtual tokens leave no room in the {base.context} of base {base.spec}; take "
                         "fewer with --virtual-tokens")
    base.virtual[name] = made


@torch.no_grad()
def _of(base: Base, tokens: list[int], deep: bool) -> Virtual:
    """Virtual tokens that do what these tokens would; `deep` ones are a prefix."""
    ids = torch.tensor([tokens], device=base.device)
    with _role(base, ""):
        if not deep:
            weight = base.model.get_input_embeddings()(ids)[0]
            heads, width = 0, weight.shape[1]
        else:
            cache: Any = DynamicCache()
            base.trunk(input_ids=ids, past_key_values=cache, use_cache=True)
            layers = [x for layer in cache.layers for x in (layer.keys[0], layer.values[0])]  # each [heads, P, D/H]
            if len({x.shape for x in layers}) != 1 or len(cache.layers) != base.model.config.num_hidden_layers:
                raise ModelError(f"base {base.spec} does not keep keys and values of one shape in every layer, as "
                                 "PEFT's format of a prefix wants; take --adapter prompt")
            weight = torch.stack(layers).permute(2, 0, 1, 3).flatten(1)
            heads, width = layers[0].shape[0], layers[0].shape[0] * layers[0].shape[2]
    start = nn.Parameter(weight.float().clone(), requires_grad=False)
    return Virtual(_config(base, len(tokens), width, heads), start, heads)


def _config(base: Base, tokens: int, width: int, heads: int) -> Any:
    """PEFT's description of so many virtual tokens; `width` is that of a key or an embedding, no `heads` prompt
    tuning."""
    shared: dict[str, Any] = dict(
        task_type="CAUSAL_LM", inference_mode=True, base_model_name_or_path=base.spec, num_virtual_tokens=tokens,
        token_dim=width, num_transformer_submodules=1)
    if not heads:
        return PromptTuningConfig(**shared)
    return PrefixTuningConfig(**shared, num_layers=base.model.config.num_hidden_layers, num_attention_heads=heads,
                              encoder_hidden_size=width)


@contextmanager
def _role(base: Base, role: str) -> Iterator[None]:
    outer, base.switch.role = base.switch.role, role
    try:
        yield
    finally:
        base.switch.role = outer


def _check(base: Base, deep: bool) -> None:
    """Virtual tokens made of a text must compute what the text does; tried once per base, on a few tokens.

    Raises:
        ModelError: they do not, so this architecture cannot take them.
    """
    if deep in base.takes_virtual:
        return
    tokens, probe = words(base, 18), " probe"
    text, tree = tokens[:4], Tree(tuple(tokens[4:9]), (tuple(tokens[9:12]), tuple(tokens[12:18])))
    behind, batch = build([Tree((*text, *tree.prompt), tree.answers)], base.device), build([tree], base.device)
    try:
        with torch.inference_mode(False), torch.no_grad():
            with _role(base, ""):
                want = hidden(base, behind, at=behind.source_N).float()
            base.virtual[probe] = _of(base, text, deep)
            with _role(base, probe):
                errors = [(hidden(base, batch, way, batch.source_N) - want).abs().max() for way in ("tree", "padded")]
    except ModelError:
        raise
    except Exception as e:  # whatever an unknown architecture throws
        raise ModelError(f"base {base.spec} cannot take virtual tokens ({type(e).__name__}: {said(e)}); take "
                         "--adapter lora") from e
    finally:
        base.virtual.pop(probe, None)
    error = float(max(errors) / want.abs().max().clamp_min(1e-6))
    if not error <= TOLERANCE[base.dtype]:
        raise ModelError(f"base {base.spec} does not see virtual tokens as it sees the text that they are made of (its "
                         f"hidden states differ by {error:.1e}); take --adapter lora")
    base.takes_virtual.add(deep)
