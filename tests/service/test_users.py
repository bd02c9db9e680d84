"""Users who know nothing of Tunesmith: the page that tells how to move over, and OpenAI's client for node."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from shop_floor import Floor

from tunesmith.records import Answer, AnswerGroup, Message, Prompt, Ranking
from tunesmith.store import jobs

ROOT = Path(__file__).parents[2]
NODE = "TUNESMITH_NODE_MODULES"
"""A folder with `openai` from npm, if it need not be installed anew."""


@pytest.fixture(scope="module")
def floor(tmp_path_factory):
    with Floor(tmp_path_factory.mktemp("floor")).open() as floor:
        yield floor


def test_the_script_of_the_page_runs(floor, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    rows, = re.findall(r"^```json\n(.*?)^```", page, flags=re.M | re.S)
    move, rlhf = re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)
    (tmp_path / "train.jsonl").write_text(rows, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{floor.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-unused")
    known = {}
    exec(move.replace('"loan-desk"', repr(floor.base)), known)
    assert known["job"].status == "succeeded" and known["reply"].model == known["job"].fine_tuned_model
    assert "The job has successfully completed" in capsys.readouterr().out
    groups = [AnswerGroup(Prompt((Message("user", f"say {n}"),)), (Answer("a"), Answer("b"))) for n in range(2)]
    floor.workspace.add_groups("desk", groups)
    floor.workspace.add_rankings([Ranking(f"r{n}", g.id, "ann", tiers=((0,), (1,))) for n, g in enumerate(groups)])
    exec(rlhf, known)
    jobs.cancel(floor.workspace, known["job"].id)
    assert known["job"].training_file == "set:desk"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_openais_client_for_node(floor, tmp_path):
    if not shutil.which("node") or not (os.environ.get(NODE) or shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    modules = Path(os.environ.get(NODE) or tmp_path / "node_modules")
    if not (modules / "openai").is_dir():
        got = subprocess.run(["npm", "install", "--no-save", "--prefix", str(modules.parent), "openai"],
                             capture_output=True, text=True)
        if got.returncode:
            pytest.skip(f"npm could not install openai: {got.stderr[-300:]}")
    client = next(p for p in (modules / "openai/index.mjs", modules / "openai/index.js") if p.exists())
    done = subprocess.run(["node", str(Path(__file__).with_name("client.mjs")), str(client), f"{floor.url}/v1",
                           floor.base], capture_output=True, text=True, timeout=500)
    assert done.stdout.strip() == "all of it", done.stdout + done.stderr
