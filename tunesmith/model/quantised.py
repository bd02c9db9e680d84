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


Unpack = Callable[[Tensor | None], Tensor]
"""Gives the weight, [out, in]; in a tensor of that shape, if one is given and the library can."""


class Packed(Dense):
    """A linear layer whose weight exists only while it is multiplied. Takes over existing modules.

    Products unpack into `scratch`, which all layers of a base share: a new tensor for each, between activations that
    stay, would leave holes in memory that add up to more than was saved.
    """

    unpack: Unpack
    scratch: Tensor

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[out, in], unpacked anew each time."""
        return self.unpack(None)

    def momentary(self) -> Tensor:
        """The weight until any layer's next product."""
        shape = (self.out_features, self.in_features)
        return self.unpack(self.scratch[:self.out_features * self.in_features].view(shape))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Product.apply(x, self)
        return out if self.bias is None else out + self.bias


class _Product(torch.autograd.Function):
    """x W^T that keeps neither x, which a frozen weight's gradient does not need, nor the unpacked W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Packed) -> Tensor:  # type: ignore[override]
        ctx.layer = layer
        return F.linear(x, layer.momentary().to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad @ ctx.layer.momentary().to(grad.dtype), None


def quantise(base: Base, kind: Kind) -> None:
    """Pack every linear layer of the blocks, one after the other; the base keeps its name and hash.

    Raises:
        MissingExtra: bitsandbytes is not installed.
        ModelError: adapters are attached already, or there is nothing to pack.
    """
    pack = _packer(kind)
    if adapters := [*(base.peft.peft_config if base.peft else ())]:
        raise ModelError(f"base {base.spec} carries adapters ({', '.join(adapters)}); quantise it before they are "
                         "attached")
    dense = [m for m in base.model.base_model.modules() if type(m) is Dense]
    if not dense:
        raise ModelError(f"base {base.spec}: {type(base.model).__name__} has no layers of a kind that can be "
                         "quantised; train it without --quantise")
    scratch = torch.empty(max(m.weight.numel() for m in dense), dtype=base.model.dtype, device=base.device)
    for layer in dense:
        base.packed += layer.weight.numel()
        unpack = pack(layer.weight.data)
        del layer._parameters["weight"]
        layer.__class__ = Packed
        layer.unpack, layer.__dict__["scratch"] = unpack, scratch  # type: ignore[assignment]
    for p in base.model.parameters():
        p.data = p.data.clone()  # safetensors maps its whole file while one tensor of it is alive
    with suppress(OSError, AttributeError):  # what was freed goes back to the system, where glibc can
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def shapes(model: nn.Module) -> list[Tensor]:
    """The packed weights as tensors without numbers, [out, in], for who counts."""
    return [torch.empty(m.out_features, m.in_features, device="meta") for m in model.modules()
            if isinstance(m, Packed)]


def _packer(kind: Kind) -> Callable[[Tensor], Unpack]:
    try:
        from bitsandbytes import functional as bnb
    except ImportError as e:
        raise MissingExtra("bitsandbytes", "quantised") from e

    def nf4(weight: Tensor) -> Unpack:
        packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        return lambda out: bnb.dequantize_4bit(packed, state)  # it takes no `out` on a CPU

    def int8(weight: Tensor) -> Unpack:
        packed, largest, _ = bnb.int8_vectorwise_quant(weight.half())
        scale, dtype = largest[:, None] / 127, weight.dtype
        return lambda out: torch.mul(packed, scale, out=out) if out is not None else (packed * scale).to(dtype)

    return nf4 if kind == "nf4" else int8
