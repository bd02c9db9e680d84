"""The quickstart as a command, small; and a person's rankings in the middle of it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import httpx
import pytest

from tunesmith import cli
from tunesmith.quickstart import story
from tunesmith.quickstart.builtin import Gold, checks, to_prompt
from tunesmith.quickstart.customers import sample
from tunesmith.records import Answer, AnswerGroup
from tunesmith.store.workspace import Workspace
from tunesmith.terminal import Terminal


def test_the_fast_quickstart_runs_the_whole_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["quickstart", "--fast", "--json", "--workspace", str(tmp_path / "w")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [m["name"].split("-")[-1] for m in report["models"]] == ["base", "sft", "ppo"]
    assert report["judge"]["simulated"] is True
    assert set(report["curves"]) == {"sft", "reward", "ppo"}
    assert len(report["curves"]["ppo"]) == story.FAST.updates
    with Workspace.open(tmp_path / "w") as workspace:
        assert [r.command for r in workspace.runs() if r.status == "finished"] == ["sft", "reward", "ppo"]
        assert all(labeler.simulated for labeler in workspace.labelers())
        page = (workspace.root / "reports/desk-fast-0/report.html").read_text()
    assert "simulated" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_held_out_customers_share_no_prompt_with_training(workspace: Workspace) -> None:
    story.prepare(workspace, story.FAST, "d", 0, "test")
    seen = {p.id for name in ("d-prompts", "d-customers") for p in workspace.dataset(name).rows()}
    assert seen.isdisjoint(p.id for p in workspace.dataset("d-test").rows())


def test_your_own_rankings_are_taken_before_the_panel_goes_on(workspace: Workspace) -> None:
    prompts = [to_prompt(s) for s in sample("train", 3, 1)]
    workspace.add_groups("g", [AnswerGroup(p, (Answer("Thank you. One moment."), Answer("No."))) for p in prompts])
    said: list[str] = []

    class Heard(Terminal):
        def say(self, text: str) -> None:
            said.append(text)

    person = threading.Thread(target=story.rank_yourself, args=(workspace, "g", 2, Heard()), daemon=True)
    person.start()
    while not said:
        time.sleep(0.01)
    page = next(word for word in said[0].split() if word.startswith("http"))
    origin = page.split("/enter")[0]
    browser = httpx.Client(headers={"origin": origin, "sec-fetch-site": "none"}, follow_redirects=True)
    assert browser.get(page).url.path == "/rank/g"  # the printed link signs in
    for number in range(2):
        claim = browser.post(f"{origin}/api/sets/g/claims", json={}).json()["claim"]
        body = {"id": f"your-{number:04}", "group": claim["group"], "token": claim["token"], "shown": claim["shown"],
                "tiers": [[0], [1]], "seconds": 3.5}
        answer = browser.post(f"{origin}/api/rankings", json=body)
        assert answer.status_code == 201, answer.text
    person.join(timeout=10)
    assert not person.is_alive()
    story.rank(workspace, "g", story.FAST, 0)
    rankings = workspace.rankings("g")
    assert [r.labeler for r in rankings if not r.simulated] == [story.YOU] * 2
    assert {r.group for r in rankings} == {g.id for g in workspace.groups("g")}


def test_the_rubric_judges_through_the_prompt_alone() -> None:
    prompt = to_prompt(sample("dev", 1, 5)[0])
    good, bad = Gold().score(prompt, ["Thank you for asking. One moment please.", "You idiot, go away"])
    assert good > bad
    assert checks(prompt, "You idiot, go away")["rude"] is True
