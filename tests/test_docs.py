"""Documents describe today: their commands parse, their links lead somewhere, and the tour in the README runs."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from tunesmith import cli
from tunesmith.errors import TunesmithError
from tunesmith.quickstart import builtin, story
from tunesmith.records import Ranking
from tunesmith.store import work
from tunesmith.store.workspace import Workspace

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")),
         *sorted((ROOT / "examples").rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
names = [page.relative_to(ROOT).as_posix() for page in PAGES]


def commands(page: str) -> Iterator[str]:
    """The lines of a page's console blocks, continued lines joined, prompts and comments taken off."""
    for block in re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", page, flags=re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.removeprefix("$ ").strip()


def calls(page: str) -> Iterator[list[str]]:
    """Every `tunesmith ...` as arguments, cut off at a pipe or a redirection."""
    for line in commands(page):
        words = shlex.split(line, comments=True)
        if words[:1] == ["tunesmith"]:
            end = next((i for i, word in enumerate(words) if re.match(r"[|<>&;]|2>", word)), len(words))
            yield words[1:end]


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_commands_name_real_verbs_and_flags(page):
    for argv in calls(page.read_text(encoding="utf-8")):
        try:
            given = vars(cli._parse(argv))
            if given["command"] in cli.FROM_SETTINGS:
                model, _ = cli.FROM_SETTINGS[given["command"]]
                model.load({k: v for k, v in given.items() if k in model.model_fields})
        except TunesmithError as e:
            pytest.fail(f"tunesmith {shlex.join(argv)}: {e}")


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`make ([a-z]+)", text) + [w.split()[1] for w in commands(text) if w.startswith("make ")]
    assert set(named) <= targets


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_readme_names_every_command():
    verbs = next(a for a in cli.parser()._actions if a.dest == "command").choices
    assert not [verb for verb in verbs if f"`tunesmith {verb}" not in README]


def test_readme_shows_every_part_of_the_package():
    tree = README.split("## What is where")[1].split("```")[1]
    parts = {p.parent.name + "/" for p in (ROOT / "tunesmith").glob("*/__init__.py")}
    parts |= {p.name for p in (ROOT / "tunesmith").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert not sorted(part for part in parts if part not in tree)


def test_readme_states_the_size_of_the_quickstart():
    plan = story.PLAN
    for number in (plan.demonstrations, plan.ranked, plan.held_out):
        assert f"{number:,}" in README


def rank_by_length(root: Path, groups: str, count: int) -> None:
    """What the person of the tour does in the studio: the shorter the better."""
    with Workspace.open(root) as workspace:
        for number in range(count):
            claim = work.claim(workspace, groups, "me")
            order = sorted(claim.shown, key=lambda i: len(claim.group.answers[i].text))
            ranking = Ranking(f"tour-{number}", claim.group.id, "me", tuple((i,) for i in order), claim.shown)
            work.submit(workspace, ranking, claim.token)


def test_the_tour_in_the_readme_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    """Every command of the tour, on a tiny base in place of the bundled one; servers are left out."""
    base = tiny.save(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}))
    monkeypatch.setitem(builtin.BASES, "loan-desk", str(base))
    monkeypatch.setenv("TUNESMITH_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(ROOT)
    tour = README.split("## Five minutes")[1].split("## Commands")[0]
    done = []
    for argv in calls(tour):
        if argv[0] == "studio":
            rank_by_length(tmp_path / "workspace", argv[argv.index("--groups") + 1], count=12)
        elif argv[0] != "serve":
            assert cli.main(argv) == 0, f"tunesmith {shlex.join(argv)}: {capsys.readouterr().err}"
        done.append(argv[0])
    assert done == ["doctor", "import", "sft", "import", "collect", "studio", "reward", "ppo", "import", "evaluate",
                    "serve", "round"]
    with Workspace.open(tmp_path / "workspace") as workspace:
        tuned = workspace.adapter("tuned")
        assert tuned.lineage["parents"] == {"policy": "assistant@1", "reward": "taste@1"}
        assert {run.status for run in workspace.runs()} == {"finished"}
    report = json.loads((tmp_path / "workspace/reports/first-look/report.json").read_text())
    assert [model["name"] for model in report["models"]] == ["base", "assistant", "tuned"]
