"""A frozen base in 8 or 4 bits while adapters are trained on it, as in QLoRA (Dettmers et al. 2023).

bitsandbytes packs and unpacks, on CPUs and GPUs alike (int8: one scale per row; nf4: normal floats, a scale per 64
numbers, the scales in 8 bits too). A layer unpacks its weight for the moment of a product, in the forward and in the
backward pass, so gradients are those of the unpacked weights. To everything else it is a linear layer: LoRA attaches
to it. Output layer, embeddings and norms stay as they are. Left out: GPT-2's transposed layers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunesmith.errors import MissingExtra, ModelError
from tunesmith.model.base import Base
from tunesmith.model.lora import Dense

Kind = Literal["int8", "nf4"]


class Packed(Dense):
    """A linear layer whose weight exists only while it is multiplied. Takes over existing modules."""

    unpack: Callable[[], Tensor]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[out, in], unpacked anew each time."""
        return self.unpack()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Product.apply(x, self)
        return out if self.bias is None else out + self.bias


class _Product(torch.autograd.Function):
    """x W^T that keeps neither x, which a frozen weight's gradient does not need, nor the unpacked W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Packed) -> Tensor:  # type: ignore[override]
        ctx.layer = layer
        return F.linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad @ ctx.layer.weight.to(grad.dtype), None


def quantise(base: Base, kind: Kind) -> None:
    """Pack every linear layer of the blocks, one after the other; the base keeps its name and hash.

    Raises:
        MissingExtra: bitsandbytes is not installed.
        ModelError: adapters are attached already, or there is nothing to pack.
    """
    pack = _packer(kind)
    if base.peft is not None:
        raise ModelError(f"base {base.spec} carries adapters; quantise it before they are attached")
    dense = [m for m in base.model.base_model.modules() if type(m) is Dense]
    if not dense:
        raise ModelError(f"base {base.spec}: {type(base.model).__name__} has no layers of a kind that can be "
                         "quantised; train it without --quantise")
    for layer in dense:
        base.packed += layer.weight.numel()
        unpack = pack(layer.weight.data)
        del layer._parameters["weight"]
        layer.__class__ = Packed
        layer.unpack = unpack  # type: ignore[assignment]
    for p in base.model.parameters():
        p.data = p.data.clone()  # safetensors maps its whole file while one tensor of it is alive
    with suppress(OSError, AttributeError):  # what was freed goes back to the system, where glibc can
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def shapes(model: nn.Module) -> list[Tensor]:
    """The packed weights as tensors without numbers, [out, in], for who counts."""
    return [torch.empty(m.out_features, m.in_features, device="meta") for m in model.modules()
            if isinstance(m, Packed)]


def _packer(kind: Kind) -> Callable[[Tensor], Callable[[], Tensor]]:
    try:
        from bitsandbytes import functional as bnb
    except ImportError as e:
        raise MissingExtra("bitsandbytes", "quantised") from e

    def nf4(weight: Tensor) -> Callable[[], Tensor]:
        packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        return lambda: bnb.dequantize_4bit(packed, state)

    def int8(weight: Tensor) -> Callable[[], Tensor]:
        packed, scale, _ = bnb.int8_vectorwise_quant(weight.half())
        return lambda: bnb.int8_vectorwise_dequant(packed, scale)

    return nf4 if kind == "nf4" else int8
