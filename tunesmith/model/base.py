"""The one resident base: frozen weights that every role and every task shares.

Left out: several devices.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tunesmith.errors import ModelError
from tunesmith.model import attention, lora, narrow
from tunesmith.model.chat import Chat
from tunesmith.ops.logprobs import Head

HEAD_TOLERANCE = 1e-2
"""Largest difference between our logits and the model's own, as a share of the largest: the rounding of bfloat16."""


class Base:
    """A frozen causal language model, its tokenizer and the adapters attached to it.

    `trunk` gives hidden states, `logits` the vocabulary from them; no call computes both unasked.
    """

    def __init__(self, model: Any, tokenizer: Any, spec: str):
        self.model = model.eval()
        self.model.requires_grad_(False)
        lora.take_over(model)
        self.spec = spec
        model.name_or_path = spec  # what PEFT writes into adapter_config.json
        self.tokenizer = tokenizer
        self.chat = Chat(tokenizer)
        self.peft: Any = None  # this and the next belong to model.adapters
        self.switch = lora.Switch()
        self.virtual: dict[str, Any] = {}  # by adapter; this and the next belong to model.prefix
        self.takes_virtual: set[bool] = set()
        self.vectors: dict[str, Any] = {}  # IA3, by adapter; this and the next two belong to model.ia3 and .bottleneck
        self.bottlenecks: dict[str, Any] = {}
        self.hooked: set[str] = set()
        narrow.install(model.base_model, self.switch)
        self.takes_trees: bool | None = None  # this and the next are found out by model.batch on first use
        self.kernel: attention.Kernel = "blocks"
        self.compute: torch.dtype | None = None  # of the products, where the weights' own is finer (autocast)
        self.origin: dict[str, Any] | None = None  # the base that this one was before its weights were trained
        self.packed = 0  # numbers that model.quantised has packed, which are no parameters any more
        self.hash = _weights_hash(model)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What products are computed in."""
        return self.compute or next(self.model.parameters()).dtype

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """`dtype` as the settings spell it."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    @property
    def width(self) -> int:
        """D, the size of a hidden state."""
        return int(self.model.get_input_embeddings().embedding_dim)

    @property
    def context(self) -> int:
        """The longest sequence in tokens."""
        config = self.model.config
        return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", 0) or 2**20)

    @property
    def pad(self) -> int:
        """Fills unused places; never eos. No mask is ever read off tokens, so any other token of the vocabulary will
        do, and the embedding keeps its size (an added row can outweigh every real logit, in GPT-2 it does).
        """
        pad, eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        if pad is not None and pad != eos and pad < self.model.get_input_embeddings().num_embeddings:
            return int(pad)
        return int(eos == 0)

    @property
    def parameters(self) -> int:
        """How many numbers the base holds, adapters left out."""
        return self.packed + sum(p.numel() for name, p in self.model.named_parameters() if "lora_" not in name)

    def trunk(self, **inputs: Any) -> Any:
        """transformers' output without the vocabulary; `last_hidden_state` is [rows, T, D]."""
        with self._computing():
            return self.model.base_model(**inputs)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] to [..., V], with the soft-cap or scale of those architectures that have one."""
        logits: Tensor = self.head(hidden)
        return logits

    @property
    def head(self) -> Head:
        """The output layer, for `ops.logprobs`."""
        config, layer = self.model.config, self.model.get_output_embeddings()
        if self.compute:
            layer = partial(self._compute, layer)
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        return Head(layer, scale, getattr(config, "final_logit_softcapping", None))

    def describe(self) -> dict[str, Any]:
        """What an adapter's manifest says of its base."""
        origin = {"kind": "full", "from": self.origin} if self.origin else {}
        return {"spec": self.spec, "hash": self.hash, "chat": self.chat.fingerprint,
                "architecture": type(self.model).__name__, "parameters": self.parameters, **origin}

    def differs(self, about: Mapping[str, Any]) -> str:
        """What is not as in the base that an adapter's manifest describes; "" if it belongs here."""
        if about["hash"] != self.hash:
            return f"weights (hash {about['hash']}, here {self.hash})"
        own = self.chat.fingerprint
        return "" if about.get("chat", own) == own else "tokenizer or chat template"

    def became(self, spec: str) -> None:
        """Its weights have been trained: from here on it is another base, which knows where it came from."""
        self.origin = self.describe()
        self.spec = spec
        self.model.requires_grad_(False)
        self.hash = _weights_hash(self.model)

    def _computing(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.compute, enabled=self.compute is not None)

    def _compute(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with self._computing():
            return layer(x)


def load(path: str, spec: str = "", device: str | None = None, dtype: torch.dtype | None = None) -> Base:
    """A base from a local directory or a Hugging Face model id.

    `spec` is the name that lineage records (default: `path`). float32 on a CPU, bfloat16 on a GPU.

    Raises:
        ModelError: nothing there, no safetensors weights, or not a causal language model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    local = Path(path).expanduser()
    if path.startswith((".", "/", "~")) and not (local / "config.json").is_file():
        raise ModelError(f"base {path}: no config.json there; --base takes a model directory, a Hugging Face id or "
                         "loan-desk")
    source = str(local) if local.is_dir() else path
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError) as e:
        raise ModelError(f"base {path}: cannot be loaded as a causal language model from a directory or the Hugging "
                         f"Face hub: {said(e)}") from e
    # Ours is transformers' SDPA outside of a layout, so it may take its place; it can also cap scores, SDPA cannot.
    if model.config._attn_implementation == "sdpa" or getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation(attention.NAME)
    base = Base(model.to(device), tokenizer, spec or path)
    _check_head(base)
    return base


@torch.no_grad()
def _check_head(base: Base) -> None:
    """Hold `Base.head` against the model's own logits: architectures give one name to different scales."""
    ids = torch.arange(4, device=base.device)[None]
    own = base.model(input_ids=ids, use_cache=False).logits.float()
    ours = base.logits(base.trunk(input_ids=ids, use_cache=False).last_hidden_state).float()
    error = float((own - ours).abs().max() / own.abs().max().clamp_min(1e-6))
    if error > HEAD_TOLERANCE:
        raise ModelError(f"base {base.spec}: {type(base.model).__name__} scales its logits in a way of its own (they "
                         f"differ by {error:.1e} from what Tunesmith computes), so it cannot be used here")


def said(e: Exception) -> str:
    """The first line of what an exception of another library says, or its kind if it says nothing."""
    return next(iter(str(e).strip().splitlines()), type(e).__name__)


def keep_memory() -> None:
    """Tell glibc to keep freed blocks: training frees and asks for the same large tensors every step.

    Measured 1.1 to 1.6 times faster steps on a CPU; elsewhere than glibc it does nothing.
    """
    import ctypes

    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def _weights_hash(model: Any) -> str:
    """Names the base: configuration-free, from every tensor's name, shape and first 16,384 numbers.

    They are rounded to bfloat16, so that a base has one name whatever precision it is loaded in.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(json.dumps([name, list(tensor.shape)]).encode())
        head = tensor.detach().flatten()[:16384].bfloat16().float().cpu().contiguous()
        digest.update(head.numpy().tobytes())
    return digest.hexdigest()[:16]
