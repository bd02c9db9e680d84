"""The log by command line, and what was said in confidence: on no page of the disk, in no export, in no line."""

import json

import pytest
from canaries import CANARIES, planted, spilled, spilled_on_disk

from tunesmith.cli import main
from tunesmith.records import Answer, AnswerGroup, Prompt
from tunesmith.store import interactions as log
from tunesmith.store.audit import entries
from tunesmith.store.workspace import Workspace


@pytest.fixture
def run(tmp_path, capsys):
    """`run("import", ...)` -> (exit code, its JSON or its one line of error)."""
    def run(*argv):
        code = main(["--workspace", str(tmp_path / "ws"), *map(str, argv), "--json"])
        out, err = capsys.readouterr()
        return code, err.strip() if code else json.loads(out)

    return run


def trace(n, **more):
    return {"id": f"t{n}", "timestamp": f"2026-03-0{n}T10:00:00Z", "input": f"Question {n} of jo@example.com",
            "output": "7.5 percent", "userId": f"u{n % 2}", **more}


@pytest.fixture
def traces(tmp_path):
    path = tmp_path / "traces.jsonl"
    scores = [{"id": "s", "name": "thumbs", "value": 1, "source": "API"}]
    rows = [*(trace(n, scores=scores) for n in range(1, 5)), trace(5, output="")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_in_looked_at_out_and_gone(run, tmp_path, traces):
    assert run("interactions") == (0, {"interactions": [], "to_retrain": {"datasets": [], "runs": [], "adapters": []}})
    code, said = run("import", traces, "--as", "interactions", "--name", "helpdesk")
    assert (code, said) == (0, {"source": "helpdesk", "new": 4, "skipped": {"no question or no answer": 1}})
    assert run("import", traces, "--as", "interactions", "--name", "helpdesk", "--from", "langfuse")[1]["new"] == 0
    row, = run("interactions", "ls")[1]["interactions"]
    assert (row["source"], row["interactions"], row["users"], row["events"]) == ("helpdesk", 4, 2, 4)
    shown = run("interactions", "show", "langfuse-t1")[1]
    assert shown["messages"][0]["content"].startswith("Question 1 of [EMAIL_") and shown["events"][0]["type"] == "thumb"
    assert run("interactions", "export", "--out", tmp_path / "all.jsonl.gz")[1]["rows"] == 4
    one = tmp_path / "one.jsonl"
    assert run("interactions", "export", "--out", one, "--user", "u1", "--since", "2026-03-02")[1]["rows"] == 1
    assert json.loads(one.read_text())["id"] == "langfuse-t3"
    assert run("interactions", "forget", "u1")[1] == {"interactions": 2, "events": 2, "to_retrain": {
        "datasets": [], "runs": [], "adapters": []}}
    assert run("interactions", "purge")[1] == {"interactions": 0}
    assert run("interactions", "purge", "--days", 1)[1] == {"interactions": 2}
    with Workspace.open(tmp_path / "ws") as workspace:
        noted = entries(workspace)
    assert sorted(e.action for e in noted) == ["interactions.export"] * 2 + ["interactions.forget"]
    assert "u1" not in str(noted)


@pytest.mark.parametrize(("argv", "words"), [
    (["interactions", "show"], "needs an interaction's id"), (["interactions", "forget"], "needs a user"),
    (["interactions", "show", "x"], 'no interaction "x"'), (["interactions", "export"], "--out FILE.jsonl"),
    (["interactions", "drop"], '"action"'), (["interactions", "export", "--out", "x.csv"], ".jsonl.gz"),
    (["import", "TRACES", "--as", "interactions", "--name", "n", "--from", "argilla"], "not for --as interactions"),
    (["import", "TRACES", "--as", "rankings", "--name", "n", "--from", "phoenix"], "not for --as rankings"),
    (["serve", "--log", "some"], '"log"'), (["serve", "--feedback-origin", "example.com"], "no origin")])
def test_mistakes_are_said_in_a_line(run, traces, argv, words):
    code, said = run(*[traces if a == "TRACES" else a for a in argv])
    assert code == 2 and words in said and "\n" not in said


# ---- what was said in confidence

def test_canaries_are_on_no_page_of_the_disk_and_in_no_export(run, tmp_path, caplog):
    root = tmp_path / "ws"
    with Workspace.open(root) as workspace:
        log.add(workspace, [planted(n) for n in range(len(CANARIES))])
        kept = list(log.interactions(workspace))
        groups = [AnswerGroup(Prompt(i.messages), (i.answer, Answer(i.events[0]["value"])), ((1,), (0,))) for i in kept]
        workspace.add_dataset("mined", "comparisons", groups)
        workspace.add_groups("spot-checks", groups)
    assert len(kept) == len(CANARIES) and all(i.events[0]["value"].startswith("Noted: [") for i in kept)
    assert run("interactions", "export", "--out", root / "log.jsonl")[0] == 0
    for name, format in (("mined", "trl"), ("mined", "parquet"), ("spot-checks", "tunesmith")):
        assert run("data", "export", name, "--format", format, "--out", root / f"{name}-{format}")[0] == 0
    shown = [run("interactions", "show", i.id)[1] for i in kept]
    assert spilled(json.dumps(shown)) == spilled(caplog.text) == [] and spilled_on_disk(root) == {}
    (root / "control").write_text(f"so it would be found: {CANARIES[1]}")
    assert spilled_on_disk(root) == {"control": [CANARIES[1]]}
