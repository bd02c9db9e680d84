"""kill -9 at random moments of sft, reward and ppo, then `runs resume`: the adapter is the same, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from tunesmith.records import Answer, AnswerGroup, Demonstration, Message, Prompt
from tunesmith.store.workspace import Workspace

KILLS = 10
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

COMMANDS = {
    "sft": ["sft", "--base", "{base}", "--data", "demos", "--name", "out", "--epochs", "12", "--batch", "4",
            "--checkpoint-every", "3"],
    "reward": ["reward", "--model", "start", "--comparisons", "taste", "--name", "out", "--epochs", "16", "--batch",
               "4", "--checkpoint-every", "3"],
    "ppo": ["ppo", "--policy", "start", "--reward", "judge", "--prompts", "prompts", "--name", "out", "--updates", "12",
            "--episodes", "8", "--max-tokens", "12", "--kl-target", "2", "--checkpoint-every", "2"],
}


def tunesmith(workspace: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tunesmith", *words, "--workspace", str(workspace), "--json"],
                          capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


def prepare(folder: Path) -> tuple[Path, Path]:
    """A tiny base and a workspace with data, an SFT adapter `start` and a reward model `judge`."""
    base = tiny.save(folder / "base")
    with Workspace.open(folder / "workspace") as workspace:
        prompts = [Prompt((Message("user", f"say {i}"),)) for i in range(24)]
        workspace.add_dataset("demos", "demonstrations",
                              [Demonstration((*p.messages, Message("assistant", "aa" + str(i))))
                               for i, p in enumerate(prompts)])
        workspace.add_dataset("prompts", "prompts", prompts)
        workspace.add_dataset("taste", "comparisons",
                              [AnswerGroup(p, (Answer("aaa"), Answer("b"), Answer("aab")), tiers=((0,), (2,), (1,)))
                               for p in prompts])
    root = folder / "workspace"
    for words in (["sft", "--base", str(base), "--data", "demos", "--name", "start"],
                  ["reward", "--model", "start", "--comparisons", "taste", "--name", "judge"]):
        done = tunesmith(root, *words)
        assert done.returncode == 0, done.stderr
    return base, root


def weights(workspace: Path, adapter: str) -> dict[str, bytes]:
    with Workspace.open(workspace) as opened:
        folder = opened.adapter(adapter).path
    return {f.name: f.read_bytes() for f in sorted(folder.glob("*.safetensors"))}


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", list(COMMANDS))
def test_killed_runs_resume_to_the_same_bits(step: str, tmp_path: Path) -> None:
    base, workspace = prepare(tmp_path)
    words = [w.format(base=base) for w in COMMANDS[step]]
    whole = tunesmith(workspace, *words)
    assert whole.returncode == 0, whole.stderr
    made = json.loads(whole.stdout)
    expected = weights(workspace, made["adapter"])
    with Workspace.open(workspace) as opened:
        steps = len(opened.run(opened.adapter(made["adapter"]).lineage["run"]).metrics())
    dice = random.Random(step)
    for _ in range(KILLS):
        killed = kill_at(workspace, words, dice.randrange(1, steps), dice.random() * 0.05)
        resumed = tunesmith(workspace, "runs", "resume", killed)
        assert resumed.returncode == 0, resumed.stderr
        assert weights(workspace, json.loads(resumed.stdout)["adapter"]) == expected


def kill_at(workspace: Path, words: list[str], step: int, later: float) -> str:
    """Start the command, kill -9 it some seconds after it logged a step; the run that it leaves unfinished."""
    runs = workspace / "runs"
    before = set(os.listdir(runs))
    process = subprocess.Popen([sys.executable, "-m", "tunesmith", *words, "--workspace", str(workspace)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    while not (new := set(os.listdir(runs)) - before) or logged(runs / min(new)) < step:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    time.sleep(later)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return min(new)


def logged(run: Path) -> int:
    """Steps in the run's log so far."""
    file = run / "metrics.jsonl"
    return len(file.read_bytes().splitlines()) if file.exists() else 0
