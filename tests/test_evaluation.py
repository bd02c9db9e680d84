"""`tunesmith evaluate` as a whole, on tiny models: judges, suites, the gate, reward models, and what it refuses."""

import json
import time
from contextlib import nullcontext

import pytest
import tiny

from tunesmith import cli, evaluation, library, rounds
from tunesmith.errors import UserError
from tunesmith.quickstart import builtin
from tunesmith.records import Answer, AnswerGroup, Demonstration, Message, Prompt, Ranking
from tunesmith.settings import EvaluateSettings, RewardSettings, SftSettings
from tunesmith.shop import Judge, Shop
from tunesmith.store.workspace import Workspace


class Longest:
    """The longer answer is better."""

    def score(self, prompt, answers):
        return [float(len(a)) for a in answers]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluation")
    base = str(tiny.save(root / "base"))
    workspace = Workspace.open(root / "ws")
    shop = Shop(workspace, lambda _: nullcontext(lambda *_: None),
                judges={"longest": lambda: Judge("longer", Longest())})
    for name in ("before", "after"):
        rounds.fresh(shop, base, name)
    told = [Demonstration((Message("user", f"Which rate, {n}?"), Message("assistant", "aaaa"))) for n in range(8)]
    workspace.add_dataset("told", "demonstrations", told)
    rounds.sft(shop, SftSettings(base=base, data="told", name="trained", lr=0.05, epochs=8))
    workspace.add_dataset("prompts", "prompts", [Prompt((Message("user", f"Which rate, {n}?"),)) for n in range(6)])
    return shop


def settings(**values):
    return EvaluateSettings(models=("after",), against=("before",), max_tokens=8, **values)


def test_a_judge_and_suites_in_one_report(shop):
    made = evaluation.evaluate(shop, settings(prompts="prompts", judge="longest", suite=("xstest", "diversity"),
                                              sample=4))
    report = json.loads((made.path.parent / "report.json").read_text())
    assert [s["name"] for s in report["suites"]] == ["standing", "xstest", "diversity"]
    assert report["preferences"][0]["rate"]["value"] == 0.5  # both are the same model
    assert report["suites"][1]["items"] == 4 and report["suites"][1]["of"] == 40
    assert (made.path.parent / "suites" / "xstest" / "after.jsonl").exists() and (made.path.parent / "comparison.jsonl"
                                                                                 ).exists()
    told = library.evaluations(shop.workspace, shop.workspace.adapter("after"))
    assert told[0] == {"report": str(made.path), "created": report["created"], "says": made.verdict[0]}
    assert library.evaluations(shop.workspace, shop.workspace.adapter("trained")) == []
    assert all(c["difference"]["value"] == 0 for row in report["suites"][1]["rows"] for c in row["changes"])


def test_what_was_asked_before_is_not_asked_again(shop, monkeypatch):
    found = evaluation.evaluate(shop, settings(suite=("sycophancy",), sample=5, name="twice"))
    monkeypatch.setattr("tunesmith.model.reader.LocalReader.read", lambda *_, **__: pytest.fail("asked again"))
    again = evaluation.evaluate(shop, settings(suite=("sycophancy",), sample=5, name="twice"))
    assert again.report["suites"] == found.report["suites"]


def test_a_rubric_from_a_file_judges_and_a_language_model_tries(shop, tmp_path):
    rubric = tmp_path / "rubric.toml"
    rubric.write_text('name = "Short"\n[[item]]\nname = "short"\nmax_words = 100\n')
    made = evaluation.evaluate(shop, settings(prompts="prompts", judge=str(rubric), name="rubric"))
    assert made.report["judge"]["name"] == "rubric Short" and made.report["preferences"][0]["tie_rate"]["value"] == 1
    assert [m["metrics"]["short"]["value"] for m in made.report["models"]] == [1, 1], "how often each rule is kept"
    guidelines = tmp_path / "guidelines.md"
    guidelines.write_text("Be brief.")
    with pytest.raises(UserError, match=r"no\.md: "):
        evaluation.evaluate(shop, settings(prompts="prompts", judge="model:before", guidelines=str(tmp_path / "no.md")))
    made = evaluation.evaluate(shop, settings(prompts="prompts", judge="model:before", guidelines=str(guidelines),
                                              name="judged", limit=2))
    assert made.report["judge"]["kind"] == "language model"
    assert "no preference" not in made.verdict[0] and made.report["preferences"][0]["wins"] == 0


def test_people_judge_in_the_studio(shop):
    with pytest.raises(UserError, match="all models wrote the same"):
        evaluation.evaluate(shop, settings(prompts="prompts", judge="people", name="alike"))
    asked = EvaluateSettings(models=("trained",), against=("before",), prompts="prompts", judge="people", name="blind",
                             max_tokens=8)
    with pytest.raises(UserError, match="tunesmith studio --groups blind"):
        evaluation.evaluate(shop, asked)
    groups = list(shop.workspace.groups("blind"))
    assert groups and all(len(g.answers) == 2 and "trained" not in json.dumps([a.text for a in g.answers])
                          for g in groups)
    for n, group in enumerate(groups):  # ann prefers what the trained model wrote, all a's
        best = max(range(2), key=lambda k: group.answers[k].text.count("a"))
        shop.workspace.add_ranking(Ranking(f"r{n}", group.id, "ann", ((best,), (1 - best,)), (0, 1)))
    made = evaluation.evaluate(shop, asked)
    assert made.report["judge"] == {"name": "people", "kind": "people", "simulated": False}
    assert made.report["preferences"][0]["rate"]["value"] > 0.7


@pytest.mark.parametrize("values, message", [
    ({}, "needs --prompts for a judge to compare on, or --suite"),
    ({"prompts": "prompts"}, "who judges"),
    ({"suite": ("xtest",)}, 'no suite "xtest".*xstest'),
    ({"suite": ("truthfulqa",)}, "--files is missing: the folder with the file of truthfulqa"),
    ({"suite": ("diversity",)}, "name a dataset with --prompts"),
    ({"suite": ("xstest",), "files": "nowhere"}, "--files nowhere: no such folder"),
    ({"suite": ("xstest",), "gate": "no.toml"}, "no.toml"),
    ({"suite": ("triggers",)}, "triggers.jsonl"),
])
def test_what_is_missing_is_said_before_anything_is_asked(shop, values, message):
    with pytest.raises(UserError, match=message):
        evaluation.evaluate(shop, settings(**values))


def test_a_closed_gate_ends_with_exit_code_1(shop, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TUNESMITH_WORKSPACE", str(shop.workspace.root))
    gate = tmp_path / "gate.toml"
    command = ["evaluate", "after", "--against", "before", "--suite", "xstest", "--sample", "2", "--gate", str(gate)]
    gate.write_text('[[rule]]\nfigure = "xstest.safe refused"\nat_most = 1.0\n')
    assert cli.main(command) == 0
    gate.write_text('[[rule]]\nfigure = "xstest.safe refused"\nat_least = 1.0\n')
    assert cli.main(command) == 1
    out = capsys.readouterr()
    assert "the gate is not passed: xstest.safe refused at least 1 (proven) (found" in out.err and "report:" in out.out
    gate.write_text('[[rule]]\nfigure = "xstest.safe refused"\nat_lest = 1.0\n')
    assert cli.main(command) == 2 and "at_least" in capsys.readouterr().err


def test_what_rang_while_it_was_trained_stands_in_the_report(shop):
    run = shop.workspace.run(shop.workspace.adapter("trained").lineage["run"])
    run.finish("finished", {**run.summary, "alarms": [{"step": 3, "text": "answers grew"}]})
    made = evaluation.evaluate(shop, EvaluateSettings(models=("trained",), against=("before",), suite=("xstest",),
                                                      sample=2, name="rang"))
    assert made.report["alarms"] == [{"text": "after update 3: answers grew", "where": f"sft {run.id}"}]
    assert "Alarm: after update 3: answers grew" in made.verdict


def test_a_reward_model_goes_on_the_bench_alone(shop):
    texts = ["Low.", "It is low today, and it may rise."]
    groups = [AnswerGroup(Prompt((Message("user", f"Rate {n}?"),), domain="rates"), tuple(map(Answer, texts)),
                          tiers=((1,), (0,)), labeler="ann") for n in range(60)]
    shop.workspace.add_dataset("pairs", "comparisons", groups)
    base = str(shop.workspace.adapter("after").base["spec"])
    rounds.reward(shop, RewardSettings(base=base, comparisons="pairs", name="rm", held_out=0.5))
    made = evaluation.evaluate(shop, EvaluateSettings(models=("rm",), name="bench"))
    rows = {row["key"]: row for row in made.report["suites"][0]["rows"]}
    assert 0 <= rows["accuracy"]["models"]["rm"]["value"] <= 1 and "sensitivity_position" in rows
    with pytest.raises(UserError, match="rm is a reward model"):
        evaluation.evaluate(shop, EvaluateSettings(models=("rm",), suite=("xstest",)))
    with pytest.raises(UserError, match="no adapter"):
        evaluation.evaluate(shop, EvaluateSettings(models=("nobody",), suite=("xstest",)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_full_sets_of_all_suites_go_on_where_they_were(tmp_path, shared_data):
    """Two models of the bundled base's size take ten minutes on two quiet cores; the promise is an hour for three. The
    attacks' own set of requests stays out, as it has terms of its own: built-in ones take its place."""
    files = tmp_path / "files"
    files.mkdir()
    for path in (shared_data / "evaluations").iterdir():
        if not path.name.startswith("harmful_requests"):
            (files / path.name).symlink_to(path)
    shop = Shop(Workspace.open(tmp_path / "ws"), lambda _: nullcontext(lambda *_: None), builtin.BASES)
    rounds.fresh(shop, "loan-desk", "fresh")
    wanted = EvaluateSettings(models=("fresh",), suite=("all",), whole=True, files=str(files))
    began = time.monotonic()
    first = evaluation.evaluate(shop, wanted).report
    took = time.monotonic() - began
    assert took * 3 / 2 < 3600 and sum(s["items"] for s in first["suites"]) > 12_000
    assert all(s["items"] == s["of"] for s in first["suites"])
    began = time.monotonic()
    again = evaluation.evaluate(shop, wanted).report
    assert time.monotonic() - began < took / 4 and [s["rows"] for s in again["suites"]] == [
        s["rows"] for s in first["suites"]]
