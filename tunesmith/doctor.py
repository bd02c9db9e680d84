"""What this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def examine(workspace: str) -> list[dict[str, str]]:
    """One row per check: what, found, cure (empty if nothing is wrong)."""
    rows = [_row("python", platform.python_version()), _row("machine", f"{platform.machine()}, {os.cpu_count()} cores")]
    rows += [_package(name) for name in ("torch", "transformers", "peft")]
    if importlib.util.find_spec("torch"):
        rows += _torch()
    rows.append(_disk(Path(workspace)))
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("firefox")
    rows.append(_row("browser", browser or "none found", "" if browser else "any browser on this machine will do"))
    return rows


def _row(check: str, found: str, cure: str = "") -> dict[str, str]:
    return {"check": check, "found": found, "cure": cure}


def _package(name: str) -> dict[str, str]:
    try:
        return _row(name, version(name))
    except PackageNotFoundError:
        return _row(name, "missing", f"pip install {name}")


def _torch() -> list[dict[str, str]]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none; training runs on the CPU"
    return [_row("gpu", gpu), _row("fp32 products", f"{_gflops(torch.float32):.0f} GFLOP/s"),
            _row("bf16 products", f"{_gflops(torch.bfloat16):.0f} GFLOP/s")]


def _gflops(dtype: object, size: int = 1024) -> float:
    import torch

    a = torch.randn(size, size).to(dtype)  # type: ignore[call-overload]
    a @ a
    start = time.perf_counter()
    a @ a
    return 2 * size**3 / (time.perf_counter() - start) / 1e9


def _disk(folder: Path) -> dict[str, str]:
    here = folder.absolute()
    while not here.exists():
        here = here.parent
    free = shutil.disk_usage(here).free / 1e9
    return _row("disk", f"{free:.1f} GB free for {folder}", "" if free > 2 else "free some space: runs need about 2 GB")
