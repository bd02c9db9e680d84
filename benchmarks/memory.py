"""Peak memory of each training step on the loan desk, every step a process of its own.

    python -m benchmarks.memory --out docs/results

PPO holds a policy, its reference, a reward model and a value on one resident base; the figure that matters is its
peak against that of SFT on the same base. "idle" is the same process with the base loaded and nothing trained.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.quickstart import machine
from tunesmith.quickstart import story
from tunesmith.quickstart.builtin import BASES
from tunesmith.store.workspace import Workspace

IDLE = ("import sys; from tunesmith.model import base; from tunesmith.train.cost import peak_mb; "
        "import tunesmith.train.ppo; base.load(sys.argv[1]); print(peak_mb())")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--updates", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peaks = measure(Path(folder), arguments.updates)
    result = {"machine": machine(), "peak_mb": peaks, "ppo against sft": round(peaks["ppo"] / peaks["sft"], 2)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "memory.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


def measure(folder: Path, updates: int) -> dict[str, float]:
    """Peak resident megabytes by step."""
    root = folder / "workspace"
    with Workspace.open(root) as workspace:
        story.prepare(workspace, story.PLAN, "d", 0, "dev")
    peaks = {"idle": float(_python("-c", IDLE, BASES["loan-desk"]))}
    steps = {
        "sft": ["sft", "--base", "loan-desk", "--data", "d-demonstrations", "--name", "m", "--lr", "2e-3"],
        "collect": ["collect", "--model", "m", "--prompts", "d-prompts", "--name", "a", "--max-tokens", "96"],
        "reward": ["reward", "--model", "m", "--comparisons", "a", "--name", "r"],
        "ppo": ["ppo", "--policy", "m", "--reward", "r", "--prompts", "d-customers", "--name", "p", "--updates",
                str(updates), "--max-tokens", "96"],
        "ppo, value on the trunk": ["ppo", "--policy", "m", "--reward", "r", "--prompts", "d-customers", "--name", "t",
                                    "--updates", str(updates), "--max-tokens", "96", "--value", "trunk"],
    }
    for name, words in steps.items():
        made: dict[str, Any] = json.loads(_python("-m", "tunesmith", *words, "--workspace", str(root), "--json"))
        if name == "collect":
            with Workspace.open(root) as workspace:
                story.rank(workspace, "a", story.PLAN, 0)
        else:
            peaks[name] = made["peak_mb"]
    return peaks


def _python(*words: str) -> str:
    return subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
