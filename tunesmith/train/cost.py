"""What a run used: processor and GPU time, tokens, energy, carbon, and the minutes of the people who ranked.

After every step a run appends what this execution of it has used so far (`usage.jsonl`), so that an execution which
was killed counts too, and steps that had to be made again count twice. Energy is measured where a counter can be
read (RAPL for processors, NVML for GPUs: the extra `energy`) and otherwise estimated from time, and says so.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from tunesmith.errors import SettingsError
from tunesmith.store.sets import set_names
from tunesmith.store.workspace import Adapter, Workspace

WATTS_PER_CORE = 10.0
"""For a busy core with its share of memory and power supply: servers draw 200 to 350 W for 32 to 56 cores."""

WATTS_PER_GPU = 400.0
"""For a GPU that is held, busy or not."""

GRAMS_PER_KWH = 473.0
"""Of CO2: the world's mean in 2024 (Ember, Global Electricity Review 2025). TUNESMITH_GRAMS_PER_KWH overrides it."""

RAPL = Path("/sys/class/powercap")

Usage = Mapping[str, Any]
"""What one execution used: seconds, core_seconds, gpu_seconds, cpu_joules and gpu_joules (None: no counter)."""


class Counter(Protocol):
    """Counts energy from its making on."""

    def joules(self) -> float | None:
        """Joules so far; None if nothing can be read."""
        ...


class NoCounter:
    """Where there is nothing to read."""

    def joules(self) -> float | None:
        return None


class Rapl:
    """Linux's energy counters of whole processors and their memory; other programs' use is in them."""

    def __init__(self, zones: Sequence[Path]):
        self.zones = list(zones)
        self.ranges = [_micro(z / "max_energy_range_uj") for z in zones]
        self.last = [_micro(z / "energy_uj") for z in zones]
        self.total = 0

    def joules(self) -> float | None:
        now = [_micro(z / "energy_uj") for z in self.zones]
        # a counter wraps around at its range
        self.total += sum((n - before) % (r + 1) for n, before, r in zip(now, self.last, self.ranges))
        self.last = now
        return self.total / 1e6


class Nvml:
    """NVIDIA's energy counter of the GPUs that this process sees."""

    def __init__(self, library: Any, handles: Sequence[Any]):
        self.library, self.handles = library, list(handles)
        self.start = self._millijoules()

    def joules(self) -> float | None:
        return (self._millijoules() - self.start) / 1e3

    def _millijoules(self) -> int:
        return sum(self.library.nvmlDeviceGetTotalEnergyConsumption(h) for h in self.handles)


def rapl_zones(root: Path = RAPL) -> list[Path]:
    """The counters of packages, and of the memory beside them; cores and graphics are inside their package."""
    return [z for z in sorted(root.glob("intel-rapl:*"))
            if (z / "name").is_file() and (z / "name").read_text().startswith(("package", "dram"))]


def cpu_counter(root: Path = RAPL) -> Counter:
    """RAPL where this user may read it."""
    zones = rapl_zones(root)
    try:
        return Rapl(zones) if zones else NoCounter()
    except OSError:
        return NoCounter()


def gpu_counter(gpus: int) -> Counter:
    """NVML where there are GPUs and the library is installed."""
    if not gpus:
        return NoCounter()
    try:
        import pynvml

        pynvml.nvmlInit()
        counter = Nvml(pynvml, [pynvml.nvmlDeviceGetHandleByUUID(name) for name in _uuids(gpus)])
    except ImportError:
        return NoCounter()
    except pynvml.NVMLError:  # a driver without the counter
        return NoCounter()
    return counter


def _uuids(gpus: int) -> list[str]:
    """The names of the GPUs that torch sees: NVML's own numbers know nothing of CUDA_VISIBLE_DEVICES."""
    import torch

    return [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in range(gpus)]


class Meter:
    """Measures one execution from its making on.

    Raises:
        SettingsError: see `grams_per_kwh`; said now, not when hours of training are over.
    """

    def __init__(self, gpus: int = 0, cpu: Counter | None = None, gpu: Counter | None = None):
        grams_per_kwh()
        self.gpus = gpus
        self.cpu, self.gpu = cpu or cpu_counter(), gpu or gpu_counter(gpus)
        self.seconds, self.core_seconds = time.monotonic(), core_seconds()

    def read(self) -> dict[str, Any]:
        """What was used so far. GPU time is the time for which the GPUs were held."""
        seconds = time.monotonic() - self.seconds
        return {"seconds": round(seconds, 3), "core_seconds": round(core_seconds() - self.core_seconds, 3),
                "gpu_seconds": round(seconds * self.gpus, 3), "cpu_joules": self.cpu.joules(),
                "gpu_joules": self.gpu.joules()}


def grams_per_kwh() -> float:
    """Of CO2, here.

    Raises:
        SettingsError: TUNESMITH_GRAMS_PER_KWH is no number, or less than 0.
    """
    text = os.environ.get("TUNESMITH_GRAMS_PER_KWH") or str(GRAMS_PER_KWH)
    try:
        grams = float(text)
    except ValueError:
        grams = math.nan
    if not 0 <= grams < math.inf:
        raise SettingsError(f"TUNESMITH_GRAMS_PER_KWH is a number of grams, such as {GRAMS_PER_KWH}, not {text!r}")
    return grams


def core_seconds() -> float:
    """Processor time of this process and its finished children, all cores together."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def forget_peak() -> None:
    """Start `peak_mb` anew, where the system can: a process may execute several runs."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Peak resident memory of this process in MB since `forget_peak` (on macOS: since it began)."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def total(executions: Sequence[Usage]) -> dict[str, Any]:
    """Several executions as one cost: seconds, core and GPU seconds, kWh, grams of CO2, and where the energy figure
    comes from (`energy`).
    """
    joules = sum(map(_joules, executions))
    grams = grams_per_kwh()
    assumed = [*([f"{WATTS_PER_CORE:.0f} W per busy core"] if any(u["cpu_joules"] is None for u in executions) else []),
               *([f"{WATTS_PER_GPU:.0f} W per GPU held"]
                 if any(u["gpu_joules"] is None and u["gpu_seconds"] for u in executions) else [])]
    return {**{k: round(sum(u[k] for u in executions), 2) for k in ("seconds", "core_seconds", "gpu_seconds")},
            "kwh": _digits(joules / 3.6e6), "co2_grams": _digits(joules / 3.6e6 * grams),
            "energy": (f"estimated: {', '.join(assumed)}" if assumed else
                       "measured: whole processor, other programs included")
            + f"; {grams:.0f} g CO2 per kWh"}


def _joules(used: Usage) -> float:
    """Energy of one execution, measured where it was."""
    cpu, gpu = used["cpu_joules"], used["gpu_joules"]
    guessed = used["core_seconds"] * WATTS_PER_CORE, used["gpu_seconds"] * WATTS_PER_GPU
    return float((guessed[0] if cpu is None else cpu) + (guessed[1] if gpu is None else gpu))


def label_minutes(workspace: Workspace, names: Sequence[str], without: Sequence[str] = ()) -> dict[str, float]:
    """Minutes that people spent ranking these sets of answers, and that simulated labelers would have spent.

    Empty where no name is a set: imported comparisons do not say how long they took.
    """
    sets = {*set_names(workspace)} & {*names}
    rankings = [r for name in sorted(sets) for r in workspace.rankings(name) if r.labeler not in without]
    return {key: round(sum(r.seconds for r in rankings if r.simulated == simulated) / 60, 2)
            for key, simulated in (("label_minutes", False), ("label_minutes_simulated", True)) if sets}


SUMMED = ("tokens", "seconds", "core_seconds", "gpu_seconds", "kwh", "co2_grams", "label_minutes",
          "label_minutes_simulated")


def lineage(workspace: Workspace, adapter: Adapter) -> dict[str, Any]:
    """The cost of an adapter and of everything that it was made from, each run once.

    Minutes spent on one set of answers count once, however many runs learned from it. What the ancestors' files hold
    by now is of no interest here.
    """
    known = {str(a): a for a in workspace.adapters()}
    costs, seen, judged, pending = [], set(), set(), [adapter]
    while pending:
        one = pending.pop()
        pending += [known[name] for name in one.lineage.get("parents", {}).values() if name in known]
        cost = one.lineage.get("cost")
        if cost is None or one.lineage["run"] in seen:
            continue
        seen.add(one.lineage["run"])
        ranked = one.lineage.get("settings", {}).get("comparisons")
        fresh = ranked and ranked not in judged
        costs.append({k: v for k, v in cost.items() if fresh or not k.startswith("label_")})
        judged.add(ranked)
    sources = sorted({c["energy"] for c in costs})
    return {"runs": len(costs), **{k: _digits(sum(c[k] for c in costs if k in c)) for k in SUMMED
                                   if any(k in c for c in costs)},
            "energy": " and ".join(sources)}


def _micro(file: Path) -> int:
    return int(file.read_text())


def _digits(value: float, digits: int = 4) -> float:
    """Rounded to so many leading digits: energy of a small run is a small number."""
    return round(value, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0.0
