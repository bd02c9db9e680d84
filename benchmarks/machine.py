"""What the figures were measured on, and the rate of products that bounds them."""

from __future__ import annotations

import os
from typing import Any

import torch

from benchmarks.quickstart import machine
from tunesmith.model.machine import measure

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def describe() -> dict[str, Any]:
    """Processor, threads and versions."""
    found: dict[str, Any] = {**machine(), "cores": os.cpu_count()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def gemm(device: str, dtype: str) -> float:
    """GFLOP/s of square products in this precision on all threads."""
    return measure(device).gflops(DTYPES[dtype])
