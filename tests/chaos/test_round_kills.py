"""kill -9 anywhere in a round of a loop: begun again, it ends with the same adopted model, bit for bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import warm
from test_kill import aimed, prepared  # noqa: F401  (a fixture)

from tunesmith.records import Ranking
from tunesmith.store import loops
from tunesmith.store.workspace import Workspace

KILLS = int(os.environ.get("TUNESMITH_KILLS", "25"))
LOOP = """
name = "desk"
start = "start"
prompts = ["prompts"]
held_out = 0.3
labels = 12
overlap = 2
answers = 2
tests = 4
judge = "judge"
gate = "gate.toml"
ask = false

[collect]
max_tokens = 8
batch = 2

[reward]
epochs = 2
batch = 2
checkpoint_every = 2
held_out = 0.0
precision = "fp32"
micro_tokens = 256

[ppo]
updates = 3
episodes = 4
max_tokens = 8
checkpoint_every = 1
watch = false
precision = "fp32"
micro_tokens = 256

[evaluate]
max_tokens = 8
"""


class Loop:
    """A workspace with a loop whose people always do their part at once."""

    def __init__(self, folder: Path, workspace: Path):
        self.root, self.out = folder / "workspace", folder / "out"
        shutil.copytree(workspace, self.root)
        (folder / "gate.toml").write_text('[[rule]]\nfigure = "preference"\nagainst = "champion"\nat_least = 0.0\n')
        (folder / "loop.toml").write_text(LOOP.replace("gate.toml", str(folder / "gate.toml")))
        self.words = ["round", str(folder / "loop.toml"), "--workspace", str(self.root), "--json"]

    def call(self, death: warm.Death | None = None, seconds: float = 0.0) -> bool:
        """Begin the round or go on with it; whether it was killed."""
        process = warm.start(self.words, self.out, death)
        if seconds:
            time.sleep(seconds)
            process.kill()
        process.join(120)
        assert process.exitcode in (0, -9), self.out.with_suffix(".err").read_text()
        return process.exitcode == -9

    def rank(self) -> bool:
        """Everybody prefers the longer answer; whether anybody had something to do."""
        with Workspace.open(self.root) as w:
            if not any(s["name"] == "desk-1-answers" for s in w.group_sets()):
                return False
            groups, done = w.groups("desk-1-answers"), w.rankings("desk-1-answers")
            found = loops.rounds(w, "desk")
            if done or not found or "collect" not in found[-1].steps:
                return False
            w.add_rankings([Ranking(f"{who} {g.id}", g.id, who, tuple((i,) for i in sorted(
                range(2), key=lambda i: (-len(g.answers[i].text), i)))) for g in groups for who in ("ann", "bob")])
            return True

    def ended(self) -> bool:
        with Workspace.open(self.root) as w:
            found = loops.rounds(w, "desk")
            return bool(found) and not found[-1].open

    def result(self) -> dict[str, Any]:
        """What the round leaves behind."""
        with Workspace.open(self.root) as w:
            found, = loops.rounds(w, "desk")
            made = {f"{name}/{f.name}": f.read_bytes() for name in ("desk-1-reward", "desk-1-ppo")
                    for f in w.adapter(name).path.glob("*.safetensors")}
            return {**made, "status": found.status, "serves": [a.adapter for a in loops.adoptions(w, "desk")],
                    "adapters": sorted(map(str, w.adapters())), "figures": found.steps["evaluate"]["figures"],
                    **{name: w.dataset(f"desk-1-{name}").fingerprint
                       for name in ("prompts", "feedback", "practice", "tests")}}


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_killed_round_ends_with_the_same_model(prepared: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    whole = Loop(tmp_path / "whole", prepared[1])
    calls: Counter[str] = Counter()
    began = time.monotonic()
    while not whole.ended():
        whole.call()
        calls.update(json.loads(whole.out.with_suffix(".calls").read_text()))
        whole.rank()
    seconds, expected = time.monotonic() - began, whole.result()
    assert expected["status"] == "adopted" and expected["serves"] == ["start@1", "desk-1-ppo@1"]
    dice, died, trial = random.Random("round"), Counter[str](), 0
    while died.total() < KILLS:
        trial += 1
        loop = Loop(tmp_path / f"killed-{trial}", prepared[1])
        while not loop.ended():
            if died.total() < KILLS and dice.random() < 0.8:
                aim = aimed(dice, dict(calls)) if dice.random() < 0.7 else None
                if loop.call(aim, 0.0 if aim else 0.05 + dice.random() * seconds):
                    died[aim.point if aim else "anywhere"] += 1
            else:
                loop.call()
            loop.rank()
        assert loop.result() == expected, (trial, died)
        shutil.rmtree(tmp_path / f"killed-{trial}")
    print(f"\n{died.total()} kills in {trial} rounds, {time.monotonic() - began:.0f} s: {dict(died)}")
