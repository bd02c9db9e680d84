"""What this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def examine(workspace: str) -> list[dict[str, str]]:
    """One row per check: what, found, cure (empty if nothing is wrong)."""
    rows = [_row("python", platform.python_version()), _row("machine", f"{platform.machine()}, {os.cpu_count()} cores")]
    rows += [_package(name) for name in ("torch", "transformers", "peft")]
    if importlib.util.find_spec("torch"):
        rows += _torch()
    rows.append(_disk(Path(workspace)))
    rows += _doors(Path(workspace))
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
    """What runs are held against, and what is chosen from it."""
    import torch

    from tunesmith.model import machine

    gpus = torch.cuda.device_count()
    torch.set_num_threads(threads := machine.threads(width=512))
    rows = [_row("gpu", torch.cuda.get_device_name() if gpus else "none; training runs on the CPU"),
            _row("threads", f"{threads} of {machine.AVAILABLE} pay at a width of 512")]
    for device in ("cpu", *(("cuda",) if gpus else ())):
        here, chosen = machine.measure(device), str(machine.precision(device)).removeprefix("torch.")
        rows += [_row(f"{device}: fp32 products", f"{here.fp32_gflops:,.0f} GFLOP/s"),
                 _row(f"{device}: bf16 products", f"{here.bf16_gflops:,.0f} GFLOP/s; auto takes {chosen}"),
                 _row(f"{device}: memory", f"{here.bandwidth_gbps:,.0f} GB/s")]
    return [*rows, *_energy(gpus)]


def _energy(gpus: int) -> list[dict[str, str]]:
    """Whether energy is measured or estimated."""
    from tunesmith.train import cost

    def row(name: str, counter: cost.Counter, cure: str) -> dict[str, str]:
        return _row(name, "measured") if counter.joules() is not None else _row(name, "estimated from seconds", cure)

    locked = f"sudo chmod a+r {cost.RAPL}/intel-rapl:*/energy_uj" if cost.rapl_zones() else ""
    rows = [row("cpu energy", cost.cpu_counter(), locked)]
    return [*rows, *([row("gpu energy", cost.gpu_counter(gpus), 'pip install "tunesmith[energy]"')] if gpus else [])]


def _disk(folder: Path) -> dict[str, str]:
    here = folder.absolute()
    while not here.exists():
        here = here.parent
    free = shutil.disk_usage(here).free / 1e9
    return _row("disk", f"{free:.1f} GB free for {folder}", "" if free > 2 else "free some space: runs need about 2 GB")


def _doors(folder: Path) -> list[dict[str, str]]:
    """Who may come in: accounts, and whether the API asks for a key. Nothing where there is no workspace yet."""
    from tunesmith.errors import TunesmithError
    from tunesmith.store import keys, team
    from tunesmith.store.workspace import DATABASE, Workspace

    if not (folder / DATABASE).exists():
        return []
    try:
        with Workspace.open(folder) as workspace:
            people, closed = len(team.accounts(workspace)), keys.any_key(workspace)
    except TunesmithError as error:
        return [_row("workspace", "cannot be opened", str(error))]
    return [_row("accounts", str(people)),
            _row("/v1 (API)", "asks for a key") if closed else
            _row("/v1 (API)", "open to every program on this machine", "tunesmith keys create NAME --scopes chat")]
