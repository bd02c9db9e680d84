"""`tunesmith data mix`, from the recipe that its page shows; and mistakes in one line."""

import csv
import json
import re
from pathlib import Path

import pytest

from tunesmith import cli
from tunesmith.records import Demonstration, Message
from tunesmith.store.workspace import Workspace

PAGE = (Path(__file__).parents[1] / "docs" / "mixtures.md").read_text(encoding="utf-8")
RECIPE = re.search(r"```toml\n(.*?)```", PAGE, re.S)[1]


@pytest.fixture
def desk(tmp_path, workspace, monkeypatch):
    """A folder with the page's recipe and its files, and a workspace with its dataset."""
    (tmp_path / "mix.toml").write_text(RECIPE)
    (tmp_path / "sums.jsonl").write_text("".join(
        json.dumps({"a": i, "b": 2, "sum": i + 2, "why": f"Two more than {i}."}) + "\n" for i in range(20)))
    with open(tmp_path / "reviews.csv", "w", newline="") as f:
        csv.writer(f).writerows([["text", "label"], *([f"It was {w}.", n] for n, w in enumerate(("bad", "fine")))])
    workspace.add_dataset("demos", "demonstrations", [
        Demonstration((Message("user", f"hi {i}"), Message("assistant", "hello"))) for i in range(5)] + [
        Demonstration((Message("user", "draft"), Message("assistant", "no")), review="pending")], licence="CC0-1.0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_WORKSPACE", str(workspace.root))
    return workspace


def test_the_recipe_of_the_page_makes_what_the_page_says(desk, capsys):
    assert cli.main(["data", "mix", "mix.toml", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {t["task"]: (t["cluster"], t["rows"]) for t in shown["tasks"]} == {
        "sums": ("arithmetic", 20), "desk": ("desk", 5)}
    assert [t["share"] for t in shown["tasks"]] == ["66.67%", "33.33%"]
    assert shown["tasks"][0]["views"] == "zero_shot 60% few_shot 20% thought 10% inverted 10%"
    assert [t["passes"] for t in shown["tasks"]] == ["0.833", "1.67"] and shown["size"] == 25
    data, held_out = desk.dataset("mix"), desk.dataset("mix-held-out")
    assert data.count == 4 * 20 + 5 and data.licence == "CC0-1.0"
    assert sorted(r.messages[-1].content for r in held_out.rows()) == ["happy", "unhappy"]
    said = {r.messages[-1].content for r in data.rows() if r.source == "sums/thought"}
    assert "Two more than 3. So it is 5." in said and "draft" not in str(list(data.rows()))


def test_the_code_of_the_page_runs():
    exec(re.search(r"```python\n(.*?)```", PAGE, re.S)[1], names := {})
    assert len(names["source"]) == len(names["row"]) == 4


def test_every_key_of_a_recipe_is_on_the_page():
    from tunesmith.settings.mixing import Recipe, TaskSettings, Views

    for model in (Recipe, TaskSettings, Views):
        assert not [key for key in model.model_fields if f"`{key}`" not in PAGE]


@pytest.mark.parametrize(("old", "new", "said"), [
    ("cap = 3000", "caps = 3000", 'unknown key "caps" in mix.toml; did you mean "cap"?'),
    ("{why}", "{reason}", 'sums.jsonl:1: no field "reason"; there is: a, b, sum, why'),
    ('"reviews.csv"', '"review.csv"', "review.csv: no such file"),
    ('data = "demos"', 'data = "demo"', 'no dataset "demo"; did you mean "demos"?'),
    ("temperature = 1.0", "temperature = 0", '"temperature" in mix.toml'),
    ('weight = 2 ', 'wait = 2 ', '"tasks.desk.wait" in mix.toml'),
    ("[tasks.sums]", "[tasks.sums", "mix.toml: ")])
def test_a_mistake_is_one_line_with_its_place(desk, capsys, old, new, said):
    Path("mix.toml").write_text(RECIPE.replace(old, new))
    assert cli.main(["data", "mix", "mix.toml"]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert [d.name for d in desk.datasets()] == ["demos"]


def test_what_was_left_out_is_kept_with_the_dataset(desk, capsys):
    with open("sums.jsonl", "a") as f:
        f.write(json.dumps({"a": 1, "b": 2, "sum": "", "why": "x"}) + "\n")
    assert cli.main(["data", "mix", "mix.toml"]) == 0
    assert "2 left out: empty question or answer" in capsys.readouterr().out
    assert cli.main(["data", "show", "mix", "--json"]) == 0
    assert [t["task"] for t in json.loads(capsys.readouterr().out)["tasks"]] == ["sums", "desk"]
    with Workspace.open(desk.root) as again:
        assert again.dataset("mix").skipped == {"empty question or answer": 2}
