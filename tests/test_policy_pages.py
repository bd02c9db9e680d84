"""The two policies of the AI-help pages: their commands run as they stand, with a simulated language model behind the
endpoint that they name, on a few rows and a tiny base."""

import json
import re

import pytest
import tiny
from endpoint_fake import endpoint, reply

from benchmarks import worked
from tunesmith.quickstart import builtin
from tunesmith.records import Ranking
from tunesmith.store import desk
from tunesmith.store import endpoints as stored
from tunesmith.store.workspace import Workspace

SMALL = {
    ".py": ["--small"], "sft": ["--epochs", "0.3", "--batch", "4"], "collect": ["--limit", "10"],
    "reward": ["--epochs", "0.3", "--batch", "4"],
    "grpo": ["--updates", "1", "--batch", "2", "--samples", "2", "--max-tokens", "4"],
    "ppo": ["--updates", "1", "--episodes", "4", "--epochs", "1", "--minibatches", "1", "--max-tokens", "4"],
    "evaluate": ["--limit", "2", "--max-tokens", "4"],
}


def simulated(handler):
    """A reader who finds that exclamation marks are not calm, and that shorter decisions are better."""
    system, asked = (m["content"] for m in handler.server.asked[-1][2]["messages"])
    texts = re.findall(r"\[answer (?:[AB] )?\w{8}\]\n(.*?)\n\[end of answer", asked, re.DOTALL)
    if system.startswith("You compare"):
        return handler.json(reply(f"VERDICT: {'A' if len(texts[0]) < len(texts[1]) else 'B'}"))
    if system.startswith("You revise"):
        return handler.json(reply(texts[0].replace("!", ".")))
    broken = "!" in texts[0] and '"calm"' in asked
    return handler.json(reply(f"CRITIQUE: it shouts\nVERDICT: {'BROKEN' if broken else 'KEPT'}"))


def reviewed(root):
    """What a person does in the studio: looks, accepts, publishes."""
    with Workspace.open(root) as workspace:
        for listed in desk.listed(workspace, "on-tone", "pending", limit=500):
            draft = desk.draft(workspace, listed.id)
            assert draft.original.messages[-1].content.count("!") and "!" not in draft.current.messages[-1].content
            desk.review(workspace, draft.id, desk.Review(f"ok-{draft.id}", "ann", "accepted"), role="reviewer",
                        seen=len(draft.reviews))
        desk.publish(workspace, "on-tone", "on-tone")


def ranked(root):
    """Two people for whom shorter is better too. (A simulated panel needs answers that differ more than a tiny base's.)
    """
    with Workspace.open(root) as workspace:
        workspace.add_rankings([
            Ranking(f"{name}-{g.id}", g.id, name, tuple((i,) for i in sorted(
                range(len(g.answers)), key=lambda i, g=g: len(g.answers[i].text))))
            for g in workspace.groups("proposals") for name in ("ann", "bob")])


@pytest.fixture
def played(tmp_path, monkeypatch):
    """`played(page)`: what every command of the page gave, by its verb."""
    base = tiny.save(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}))
    monkeypatch.setitem(builtin.BASES, "loan-desk", str(base))
    monkeypatch.setenv("TUNESMITH_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setattr("tunesmith.service.outbound.Policy.check", lambda self, target: ["127.0.0.1"])
    monkeypatch.chdir(tmp_path)

    def run(page):
        with endpoint() as server:
            server.say = simulated
            with Workspace.open(tmp_path / "workspace") as workspace:
                stored.add_endpoint(workspace, stored.Endpoint("helper", f"http://127.0.0.1:{server.port}/v1",
                                                               "simulated"), "boss")
            found = []
            for words in worked.commands((worked.PAGES / f"{page}.md").read_text()):
                more = next((flags for part, flags in SMALL.items() if part in words or words[1].endswith(part)), [])
                if words[1].endswith("panel.py"):
                    ranked(tmp_path / "workspace")
                elif words[0] == "python":
                    worked._script([*words[1:], *more])
                elif words[1] == "studio":
                    reviewed(tmp_path / "workspace")
                else:
                    found.append((words[1], worked._call([*words[1:], *more])))
        return found

    run.root = tmp_path / "workspace"
    return run


@pytest.mark.slow
def test_brand_tone(played):
    found = dict(played("brand_tone"))
    assert 0 < found["revise"]["changed"] == found["revise"]["new"] < found["revise"]["drafts"]
    assert found["revise"]["broken"]["calm"]["value"] > 0 and found["revise"]["unreadable"]["value"] == 0
    with Workspace.open(played.root) as workspace:
        run = workspace.run(workspace.adapter("tone-and-facts").lineage["run"])
        assert run.summary["bounds"]["facts"]["bound"] == ">= 0.9"
        sources = {row.source for row in workspace.dataset("on-tone").rows()}
    assert all(source.startswith("revised by simulated behind helper for Heron's tone") for source in sources)


@pytest.mark.slow
def test_content_moderation(played):
    found = dict(played("content_moderation"))
    assert found["judge"]["reliability"]["worth"] == 1.0 and found["judge"]["people"]["agreement"]["value"] == 1
    assert found["reward"]["judges"].keys() == {"simulated behind helper"}
    assert found["ppo"]["bounds"]["caught"]["bound"] == ">= 0.98"
