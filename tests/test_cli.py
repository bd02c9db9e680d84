"""The command line as a person types it: the whole loop on a tiny base, and every mistake gets one clear line."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import tiny

from tunesmith import cli
from tunesmith.commands import steps
from tunesmith.records import Ranking
from tunesmith.store.workspace import Workspace


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("base"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; the workspace is `workspace` below it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(path: Path, rows: list[object]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def demonstrations(folder: Path, n: int = 12) -> str:
    return lines(folder / "demos.jsonl", [{"messages": [{"role": "user", "content": f"say {i}"},
                                                        {"role": "assistant", "content": f"aa{i}"}]} for i in range(n)])


def test_the_whole_loop_by_commands(base: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> dict:
        assert cli.main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    run("import", demonstrations(root), "--as", "demonstrations", "--name", "demos")
    prompts = lines(root / "prompts.jsonl", [{"prompt": f"say {i}"} for i in range(12)])
    run("import", prompts, "--as", "prompts", "--name", "asks")
    assert run("sft", "--base", str(base), "--data", "demos", "--name", "m")["adapter"] == "m@1"
    assert run("collect", "--model", "m", "--prompts", "asks", "--answers", "3", "--max-tokens", "8")["groups"] == 12
    assert run("collect", "--model", "m", "--prompts", "asks", "--answers", "3", "--max-tokens", "8")["groups"] == 0
    with Workspace.open("workspace") as workspace:
        for i, group in enumerate(workspace.groups("asks")):
            workspace.add_ranking(Ranking(str(i), group.id, "me", tiers=((2,), (0, 1)), shown=(0, 1, 2), seconds=30))
    made = run("reward", "--model", "m", "--comparisons", "asks", "--name", "taste", "--held-out", "0.3")
    assert made["held_out"]["pairs"] == 2 * made["held_out_groups"]  # ties make no pair
    run("ppo", "--policy", "m", "--reward", "taste", "--prompts", "asks", "--name", "p", "--updates", "2", "--episodes",
        "4", "--max-tokens", "8")
    report = run("evaluate", "p", "--against", "base", "m", "--prompts", "asks", "--judge", "taste", "--max-tokens",
                 "8")
    assert [m["name"] for m in report["models"]] == ["base", "m", "p"]
    assert (root / "workspace/reports/report/report.html").is_file()
    assert {r["status"] for r in run("runs")["runs"]} == {"finished"}
    lineage = run("adapters", "show", "p")["lineage"]
    assert lineage["parents"] == {"policy": "m@1", "reward": "taste@1"}
    whole = run("adapters", "show", "p")["cost of it and all that it was made from"]
    assert whole == report["how"]["p@1, with all that it was made from"]
    assert (whole["runs"], whole["label_minutes"], made["label_minutes"]) == (3, 6, 6)
    assert whole["tokens"] > lineage["cost"]["tokens"] > 0 and whole["kwh"] > made["kwh"] > 0
    assert {d["name"] for d in run("data")["data"]} == {"demos", "asks"}


def test_preferences_by_commands_and_resumed(base: Path, root: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> dict:
        assert cli.main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    run("import", demonstrations(root), "--as", "demonstrations", "--name", "demos")
    run("import", lines(root / "asks.jsonl", [{"prompt": f"say {i}"} for i in range(12)]), "--as", "prompts", "--name",
        "asks")
    pairs = [{"prompt": f"say {i}", "chosen": f"aa{i}", "rejected": "bb"} for i in range(40)]
    run("import", lines(root / "pairs.jsonl", pairs), "--as", "comparisons", "--name", "pairs")
    run("sft", "--base", str(base), "--data", "demos", "--name", "m")
    run("reward", "--model", "m", "--comparisons", "pairs", "--name", "taste")
    small = ("--policy", "m", "--batch", "8", "--checkpoint-every", "1")
    for method in ("dpo", "kto"):
        made = run("prefer", "--method", method, *small, "--comparisons", "pairs", "--name", method)
        assert made["adapter"] == f"{method}@1" and 0 <= made["held_out"]["accuracy"]["value"] <= 1
    for method in ("grpo", "rloo"):
        run("prefer", "--method", method, *small, "--reward", "taste", "--prompts", "asks", "--updates", "2",
            "--samples", "3", "--max-tokens", "6", "--name", method)
    run("evaluate", "dpo", "grpo", "--against", "m", "--prompts", "asks", "--judge", "taste", "--max-tokens", "6")
    page = (root / "workspace/reports/report/report.html").read_text()
    assert "Margin of implicit rewards" in page

    from tunesmith.train import dpo

    learn, left = dpo.forward_backward, iter(range(2))

    def interrupted(*given: object) -> dict[str, float]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return learn(*given)

    monkeypatch.setattr(dpo, "forward_backward", interrupted)
    again = ("prefer", "--method", "dpo", *small, "--comparisons", "pairs", "--name", "again")
    assert cli.main([*again]) == 130
    monkeypatch.undo()
    monkeypatch.chdir(root)
    capsys.readouterr()
    broken = next(r["run"] for r in run("runs")["runs"] if r["command"] == "prefer" and r["status"] != "finished")
    assert run("runs", "resume", broken)["adapter"] == "again@1"
    with Workspace.open("workspace") as workspace:
        first, second = (workspace.adapter(n).path / "adapter_model.safetensors" for n in ("dpo", "again"))
        assert first.read_bytes() == second.read_bytes()
    assert cli.main(["runs", "show", broken]) == 0
    assert cli.main([*again, "--loss", "ipo"]) == 0
    assert "held-out pairs ranked right: " in capsys.readouterr().out


def mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a person sees; nothing on stdout, exit code 2."""
    assert cli.main(list(words)) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    told = [line for line in seen.err.splitlines() if line.startswith("tunesmith: ")]
    assert len(told) == 1 and "Traceback" not in seen.err
    return told[0]


@pytest.mark.parametrize("words, says", [
    (["sft", "--rnk", "3"], 'did you mean "--rank"'),
    (["sft", "--data", "d"], '"name" is required'),
    (["sft", "--data", "d", "--name", "n", "--rank", "0"], "greater than or equal to 1"),
    (["sft", "--base", "loan-desk", "--data", "nothing", "--name", "n"], "nothing"),
    (["frobnicate"], "there is"),
    (["evalute"], 'did you mean "evaluate"'),
    (["sft", "--bas", "x"], 'did you mean "--base"'),
    (["import", "missing.jsonl", "--as", "prompts", "--name", "x"], "missing.jsonl"),
    (["collect", "--prompts", "d", "--answers", "1"], "greater than or equal to 2"),
    (["prefer", "--policy", "m", "--name", "n"], '"method" is required'),
    (["prefer", "--method", "dop", "--policy", "m", "--name", "n"], "'dpo', 'kto', 'grpo' or 'rloo'"),
    (["prefer", "--method", "dpo", "--policy", "m", "--name", "n"], "--method dpo needs --comparisons"),
    (["prefer", "--method", "dpo", "--policy", "m", "--name", "n", "--comparisons", "c", "--samples", "4"],
     "--samples is for grpo and rloo, not for --method dpo"),
    (["prefer", "--method", "dpo", "--policy", "m", "--name", "n", "--labl-smoothing", "0.1"],
     'did you mean "--label-smoothing"'),
    (["runs", "show"], "which one"),
    (["runs", "resume", "sft-1"], "sft-1"),
    (["adapters", "show", "ghost"], "ghost"),
    (["serve", "--host", "0.0.0.0"], "refusing to listen"),
    (["evaluate", "ghost", "--prompts", "p"], "p"),
])
def test_mistakes_on_the_command_line(words: list[str], says: str, root: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    assert says in mistake(capsys, *words)


@pytest.mark.parametrize("kind, row, says", [
    ("demonstrations", '{"messages": [{"role": "user"', ":2:"),
    ("demonstrations", '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}',
     "content"),
    ("rankings", '{"prompt": "q", "answers": ["only one"], "ranking": [[0]]}', "at least 2"),
    ("comparisons", '{"prompt": "q", "chosen": "a"}', "rejected"),
])
def test_a_malformed_row_names_file_line_and_field(kind: str, row: str, says: str, root: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    good = {"demonstrations": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "rankings": {"prompt": "q", "answers": ["a", "b"], "ranking": [[0], [1]]},
            "comparisons": {"prompt": "q", "chosen": "a", "rejected": "b"}}[kind]
    (root / "rows.jsonl").write_text(json.dumps(good) + "\n" + row + "\n")
    told = mistake(capsys, "import", "rows.jsonl", "--as", kind, "--name", "rows")
    assert "rows.jsonl:2" in told and says in told
    with Workspace.open("workspace") as workspace:
        assert workspace.datasets() == []


def test_mistakes_that_need_a_base(base: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["import", demonstrations(root), "--as", "demonstrations", "--name", "demos"]) == 0
    long = lines(root / "long.jsonl", [{"prompt": "x" * 400}])
    assert cli.main(["import", long, "--as", "prompts", "--name", "long"]) == 0
    capsys.readouterr()
    assert "config.json" in mistake(capsys, "sft", "--base", "./nowhere", "--data", "demos", "--name", "n")
    assert "which base" in mistake(capsys, "sft", "--data", "demos", "--name", "n")
    assert "not prompts" in mistake(capsys, "collect", "--base", str(base), "--prompts", "demos")
    told = mistake(capsys, "collect", "--base", str(base), "--prompts", "long", "--max-tokens", "8")
    assert "leaves no room" in told
    assert cli.main(["sft", "--base", str(base), "--data", "demos", "--name", "m"]) == 0
    capsys.readouterr()
    assert "who judges" in mistake(capsys, "evaluate", "m", "--prompts", "long")
    assert "no scenario" in mistake(capsys, "evaluate", "m", "--prompts", "long", "--judge", "loan-desk")
    assert "m@1" in mistake(capsys, "evaluate", "m", "--prompts", "long", "--judge", "m")
    assert "'lora', 'dora'" in mistake(capsys, "sft", "--base", str(base), "--data", "demos", "--name", "n",
                                       "--adapter", "loar")


def test_a_full_disk_is_one_clear_line_and_leaves_a_valid_workspace(base: Path, root: Path,
                                                                    monkeypatch: pytest.MonkeyPatch,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["import", demonstrations(root), "--as", "demonstrations", "--name", "demos"]) == 0
    capsys.readouterr()
    from tunesmith.store import publish

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publish.os, "fsync", full)
    assert "space" in mistake(capsys, "sft", "--base", str(base), "--data", "demos", "--name", "n")
    monkeypatch.undo()
    with Workspace.open(root / "workspace") as workspace:
        assert workspace.adapters() == []
        assert [d.name for d in workspace.datasets()] == ["demos"]


def test_settings_come_from_a_file_and_flags_win(base: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["import", demonstrations(root), "--as", "demonstrations", "--name", "demos"]) == 0
    (root / "sft.toml").write_text(f'base = "{base}"\ndata = "demos"\nname = "n"\nepochs = 9\n')
    capsys.readouterr()
    assert cli.main(["sft", "--config", "sft.toml", "--epochs", "1", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    with Workspace.open("workspace") as workspace:
        assert workspace.run(workspace.adapter("n").lineage["run"]).settings["epochs"] == 1
    assert made["adapter"] == "n@1"
    (root / "bad.toml").write_text('base = "x"\nepoch = 1\n')
    assert 'unknown key "epoch" in bad.toml; did you mean "epochs"?' in mistake(capsys, "sft", "--config", "bad.toml")


@pytest.mark.parametrize(("found", "says"), [
    ({"labels": 2}, "held-out: nothing to judge by"),
    ({"pairs": 0, "accuracy": {"value": None, "low": 0.0, "high": 1.0, "n": 0}}, "held-out: nothing to judge by"),
    ({"labels": 4, "auc": 0.75}, "held-out AUC: 0.750")])
def test_a_held_out_part_that_tells_nothing_says_so(found: dict, says: str) -> None:
    assert steps.held_out(found) == says
