"""The ways in and out by command line: the desk, other tools' exports, `data export`; and what training then sees."""

import json

import pytest

from tunesmith.cli import main
from tunesmith.store import desk
from tunesmith.store.audit import entries
from tunesmith.store.desk import Review
from tunesmith.store.workspace import Workspace


@pytest.fixture
def run(tmp_path, capsys):
    """`run("import", ...)` -> (exit code, its JSON or its one line of error)."""
    def run(*argv):
        code = main(["--workspace", str(tmp_path / "ws"), *map(str, argv), "--json"])
        out, err = capsys.readouterr()
        return code, err.strip() if code else json.loads(out)

    return run


def write(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return path


def chat(question, answer, **rest):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **rest}


ARGILLA = {"id": "1", "fields": {"prompt": "Why?", "response-1": "A", "response-2": "B"}, "suggestions": {},
           "responses": {"ranking": [{"value": ["response-2", "response-1"], "user_id": "u-1"}]}}


def test_only_what_a_reviewer_accepted_is_learned(run, tmp_path):
    from tunesmith.model import base as bases
    from tunesmith.quickstart import builtin
    from tunesmith.train import sft

    rows = [chat(f"Question {n}?", f"Answer {n}.", review="accepted") for n in range(3)]
    code, said = run("import", write(tmp_path / "demos.jsonl", *rows), "--as", "demonstrations", "--review",
                     "--name", "loans", "--licence", "MIT")
    assert (code, said) == (0, {"desk": "loans", "new": 3, "skipped": {}})
    with Workspace.open(tmp_path / "ws") as workspace:
        assert workspace.datasets() == []  # nothing to train on yet
        waiting = desk.listed(workspace, "loans")[::-1]
        assert [d.current.review for d in waiting] == ["pending"] * 3
        desk.review(workspace, waiting[0].id, Review("review-1", "me", "accepted"), role="admin", seen=0)
        desk.review(workspace, waiting[1].id, Review("review-2", "me", "rejected", ("toxic",)), role="admin", seen=0)
        made = desk.publish(workspace, "loans", "loans-1")
        found = list(made.rows())
        assert [r.messages[0].content for r in found] == ["Question 0?"] and made.licence == "MIT"
        drafts = [d.current for d in waiting]  # even if somebody brought them past the desk
        base = bases.load(builtin.BASES["loan-desk"])
        trees, skipped = sft.encode(base, [*found, *drafts], 10_000)
        assert len(trees) == 1 and skipped == {"not accepted": 3}


def test_an_export_of_another_tool_becomes_a_set_with_its_verdicts(run, tmp_path):
    file = write(tmp_path / "records.jsonl", ARGILLA)
    assert run("import", file, "--as", "rankings", "--name", "theirs") == (
        0, {"set": "theirs", "groups": 1, "verdicts": 1, "skipped": {}})
    code, said = run("data", "export", "theirs", "--format", "tunesmith", "--out", tmp_path / "all.jsonl")
    assert (code, said["rows"]) == (0, 1)
    assert run("import", tmp_path / "all.jsonl", "--as", "rankings", "--name", "theirs")[1]["verdicts"] == 0
    with Workspace.open(tmp_path / "ws") as workspace:
        assert [r.tiers for r in workspace.rankings("theirs")] == [((1,), (0,))]
        assert "data.export" in [entry.action for entry in entries(workspace)]


def test_plain_rows_still_become_a_dataset(run, tmp_path):
    file = write(tmp_path / "rows.jsonl", {"prompt": "Why?", "answers": ["a", "b"], "ranking": [0, 1]})
    assert run("import", file, "--as", "rankings", "--name", "rows")[1]["kind"] == "rankings"


@pytest.mark.parametrize(("argv", "why"), [
    (["import", "FILE", "--as", "prompts", "--name", "x", "--review"], "--review is for --as demonstrations"),
    (["import", "FILE", "--as", "comparisons", "--name", "x"], "an export of argilla; import it with --as rankings"),
    (["import", "FILE", "--as", "rankings", "--from", "labelstudio", "--name", "x"], '"data" is missing'),
    (["data", "export", "x"], "needs --out PATH"),
    (["data", "export", "x", "--out", "y"], 'no set and no dataset "x"')])
def test_mistakes_are_named(run, tmp_path, argv, why):
    file = str(write(tmp_path / "records.jsonl", ARGILLA))
    code, said = run(*[file if a == "FILE" else a for a in argv])
    assert code == 2 and why in said and "\n" not in said
