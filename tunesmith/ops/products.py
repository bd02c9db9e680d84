"""Products with weights, written for the machine at hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FEW = 64
"""Up to this many rows, W x^T is faster on a CPU than x W^T (1.2 to 1.8 times with MKL)."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, [..., in] to [..., out]."""
    flat = x.reshape(-1, x.shape[-1])
    if not transposed(flat):
        return F.linear(x, weight, bias)
    out = weight @ flat.t() if bias is None else torch.addmm(bias[:, None], weight, flat.t())
    return out.t().reshape(*x.shape[:-1], -1)


def transposed(x: Tensor) -> bool:
    """Whether these rows [T, in] should go the other way round: few, while decoding (inference mode), no GPU.

    Scoring without gradients (`no_grad`) keeps the order of training, so that its log-probs equal training's to the
    bit.
    """
    return len(x) <= FEW and torch.is_inference_mode_enabled() and not x.is_cuda
