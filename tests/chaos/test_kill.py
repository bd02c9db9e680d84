"""kill -9 at 200 random moments of sft, reward, ppo and prefer, then `runs resume`: the same result, bit for bit.

The same result: the adapter's files, the last checkpoint (weights, value head, optimizer moments, KL coefficient,
reference log-probs) and every line of the log. Moments are drawn in two ways: anywhere in a run's time, or at a random
call of something that must not be torn apart (rollouts, gradients, checkpoints, the publishing of the adapter).
`warm.py` says how two hundred kills take minutes.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import warm
from warm import Death

from tunesmith.records import Answer, AnswerGroup, Demonstration, Message, Prompt
from tunesmith.store.workspace import Run, Workspace

KILLS = int(os.environ.get("TUNESMITH_KILLS", "25"))
"""Per command; eight commands make 200."""

SHARED = ["--precision", "fp32", "--micro-tokens", "256"]
ONLINE = ["--reward", "judge", "--prompts", "prompts", "--max-tokens", "12", "--updates", "6", "--checkpoint-every",
          "2"]
COMMANDS = {
    "sft": ["sft", "--base", "{base}", "--data", "demos", "--epochs", "2", "--batch", "4", "--checkpoint-every", "3"],
    "reward": ["reward", "--model", "start", "--comparisons", "taste", "--epochs", "3", "--batch", "4",
               "--checkpoint-every", "3"],
    "ppo": ["ppo", "--policy", "start", *ONLINE, "--episodes", "8", "--kl-target", "2", "--epochs", "2",
            "--minibatches", "2"],
    "ppo trunk": ["ppo", "--policy", "start", *ONLINE, "--episodes", "6", "--value", "trunk", "--old-logprobs",
                  "recompute", "--ptx", "demos", "--ptx-coef", "0.5", "--epochs", "1"],
    "dpo": ["prefer", "--method", "dpo", "--policy", "start", "--comparisons", "taste", "--epochs", "3", "--batch",
            "4", "--checkpoint-every", "3"],
    "kto": ["prefer", "--method", "kto", "--policy", "start", "--comparisons", "taste", "--epochs", "3", "--batch",
            "4", "--checkpoint-every", "3"],
    "grpo": ["prefer", "--method", "grpo", "--policy", "start", *ONLINE, "--batch", "3", "--samples", "4"],
    "rloo": ["prefer", "--method", "rloo", "--policy", "start", *ONLINE, "--batch", "3", "--samples", "4", "--epochs",
             "2"],
}


@dataclass
class Place:
    """A workspace, and the command that is killed in it."""

    root: Path
    words: list[str]

    def start(self, *words: str, death: Death | None = None) -> Any:
        return warm.start([*words, "--workspace", str(self.root), "--json"], self.root.parent / "out", death)

    def finish(self, *words: str) -> dict[str, Any]:
        """Run a command to its end; what it printed."""
        process = self.start(*words)
        process.join(120)
        assert process.exitcode == 0, (words, (self.root.parent / "out.err").read_text())
        return json.loads((self.root.parent / "out").read_text())

    def calls(self) -> dict[str, int]:
        return json.loads((self.root.parent / "out.calls").read_text())

    def newest(self, before: set[str]) -> Run | None:
        """The run that is not among those before."""
        with Workspace.open(self.root) as w:
            return next((r for r in w.runs() if r.id not in before), None)

    def runs(self) -> set[str]:
        with Workspace.open(self.root) as w:
            return {r.id for r in w.runs()}

    def result(self, id: str) -> dict[str, Any]:
        """All that a run leaves behind, as bytes."""
        with Workspace.open(self.root) as w:
            run = w.run(id)
            made, = (a for a in w.adapters() if a.lineage["run"] == id)  # published once
            step, checkpoint = run.latest() or (0, Path())
            assert run.status == "finished" and not run.alive
            return {"log": (run.folder / "metrics.jsonl").read_bytes(), "steps": step,
                    **{f"adapter/{f.name}": f.read_bytes() for f in made.path.glob("*.safetensors")},
                    **{f"checkpoint/{f.name}": f.read_bytes() for f in checkpoint.iterdir()
                       if f.name != "manifest.json"}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny base and a workspace with data, an SFT adapter `start` and a reward model `judge`."""
    folder = tmp_path_factory.mktemp("chaos")
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
    place = Place(folder / "workspace", [])
    place.finish("sft", "--base", str(base), "--data", "demos", "--name", "start", *SHARED)
    place.finish("reward", "--model", "start", "--comparisons", "taste", "--name", "judge", *SHARED)
    return base, folder / "workspace"


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", list(COMMANDS))
def test_killed_runs_resume_to_the_same_bits(command: str, prepared: tuple[Path, Path]) -> None:
    base, workspace = prepared
    place = Place(workspace, [*(w.format(base=base) for w in COMMANDS[command]), "--name", "out", *SHARED])
    started = time.monotonic()
    whole = place.finish(*place.words)
    seconds, calls = time.monotonic() - started, place.calls()
    with Workspace.open(workspace) as w:
        expected = place.result(w.adapter(whole["adapter"]).lineage["run"])
    assert any(name.startswith("checkpoint/policy") or name.startswith("checkpoint/reward") for name in expected)
    dice, died = random.Random(command), Counter[str]()
    while died.total() < KILLS:
        run = kill(place, place.words, died, dice, calls, seconds)
        if run is None:  # it died before it had begun
            continue
        while died.total() < KILLS and dice.random() < 0.3 and run.status != "finished":
            run = kill(place, ["runs", "resume", run.id], died, dice, calls, seconds, run)
        if run.status != "finished":
            place.finish("runs", "resume", run.id)
        assert place.result(run.id) == expected, (run.id, died)
    print(f"\n{command}: {died.total()} kills in {time.monotonic() - started:.0f} s: {dict(died)}")


def kill(place: Place, words: list[str], died: Counter[str], dice: random.Random, calls: dict[str, int],
         seconds: float, run: Run | None = None) -> Run | None:
    """Run a command (one that resumes `run`, perhaps) and kill it somewhere; the run as it is then."""
    before = place.runs()
    death = aimed(dice, calls) if dice.random() < 0.7 else None
    process = place.start(*words, death=death)
    if death is None:
        while not run and process.exitcode is None and len(os.listdir(place.root / "runs")) == len(before):
            time.sleep(0.001)
        time.sleep(dice.random() * seconds)
        process.kill()
    process.join(120)
    if process.exitcode == -9:
        died[death.point if death else "anywhere"] += 1
    else:  # it was quicker: a resumed run passes fewer points
        assert process.exitcode == 0, (place.root.parent / "out.err").read_text()
    if run is None:
        return place.newest(before)
    with Workspace.open(place.root) as w:
        return w.run(run.id)


def aimed(dice: random.Random, calls: dict[str, int]) -> Death:
    """A random call of a random point."""
    point = dice.choice(sorted(calls))
    return Death(point, dice.randint(1, calls[point]), dice.choice(["before", "during", "after"]), dice.random() * 0.01)
