"""`tunesmith data dedupe | decontaminate | health | generate | curve`, end to end on small data."""

import json
import random
import re

import pytest
import tiny

from tunesmith import cli, curation
from tunesmith.records import Answer, AnswerGroup, Demonstration, Message, Prompt
from tunesmith.store import desk

QUESTION = "what is the annual percentage rate of a loan of ten thousand euros over five years"


def told(question, answer, system=""):
    before = (Message("system", system),) if system else ()
    return Demonstration((*before, Message("user", question), Message("assistant", answer)))


def many(count=60, seed=1):
    draw = random.Random(seed)
    words = [f"word{n}" for n in range(200)]
    return [told(" ".join(draw.choices(words, k=12)), " ".join(draw.choices(words, k=12))) for _ in range(count)]


@pytest.fixture
def run(workspace, capsys):
    """A command's result; the workspace is the fixture's."""
    def run(*argv, fails=""):
        code = cli.main(["--workspace", str(workspace.root), *argv, "--json"])
        said = capsys.readouterr()
        if fails:
            assert code == 2 and re.search(fails, said.err), said.err
            return {}
        assert code == 0, said.err
        return json.loads(said.out)

    return run


# ---- duplicates and leaks

def test_dedupe_makes_a_dataset_that_says_why(workspace, run):
    rows = many()
    again = told(rows[3].messages[0].content.upper(), rows[3].messages[1].content)
    workspace.add_dataset("raw", "demonstrations", [*rows, again, rows[5]])
    out = run("data", "dedupe", "raw", "--name", "clean")
    assert out == {"name": "clean", "rows": 60, "skipped": {"says what another row says": 2}}
    made = workspace.dataset("clean")
    assert list(made.rows()) == rows
    assert made.skipped == out["skipped"]
    assert made.source == f"raw {workspace.dataset('raw').fingerprint}"
    assert run("data", "dedupe", "raw", "--name", "clean") == out  # once more: it is there already
    assert not list(workspace.root.glob(".curation-*"))


def test_dedupe_against_what_is_there_already(workspace, run):
    rows = many()
    workspace.add_dataset("old", "demonstrations", rows[:20])
    workspace.add_dataset("new", "demonstrations", [*rows[10:40], rows[30]])
    out = run("data", "dedupe", "new", "--name", "fresh", "--against", "old", "--threshold", "1")
    assert out["skipped"] == {"says what another row says": 1, "says what a row of --against says": 10}
    assert list(workspace.dataset("fresh").rows()) == rows[20:40]


def test_rows_of_against_count_though_they_repeat_each_other(workspace, run):
    """old ~ older, and the new row is like `old` alone."""
    said = [f"w{n}" for n in range(45)]
    older, old, new = (told("What?", " ".join(said[:k])) for k in (36, 40, 45))
    workspace.add_dataset("old", "demonstrations", [older, old])
    workspace.add_dataset("new", "demonstrations", [new, *many(3)])
    out = run("data", "dedupe", "new", "--name", "fresh", "--against", "old")
    assert out == {"name": "fresh", "rows": 3, "skipped": {"says what a row of --against says": 1}}


def test_a_mixture_is_cleaned_before_it_is_mixed(workspace, run, tmp_path):
    workspace.add_dataset("demos", "demonstrations", many(4))
    (tmp_path / "mix.toml").write_text('[tasks.desk]\ndata = "demos"\n')
    run("data", "mix", str(tmp_path / "mix.toml"), "--name", "blend")
    fails = "blend is a mixture, and would lose the rates .* clean the files and datasets"
    run("data", "dedupe", "blend", "--name", "out", fails=fails)
    run("data", "decontaminate", "blend", "--name", "out", "--against", "demos", fails=fails)
    assert run("data", "dedupe", "demos", "--name", "out", "--against", "blend", fails="would have no rows") == {}


def test_verdicts_on_one_group_are_no_duplicates(workspace, run):
    group = AnswerGroup(Prompt((Message("user", "Q?"),)), (Answer("a"), Answer("b")), ((0,), (1,)), labeler="x")
    workspace.add_dataset("pairs", "comparisons", [group])
    run("data", "dedupe", "pairs", "--name", "out", fails="pairs holds comparisons: several verdicts")
    run("data", "dedupe", "pears", "--name", "out", fails='no dataset "pears"; did you mean "pairs"')


def test_decontaminate_removes_and_counts(workspace, run):
    rows = many()
    leaky = told(f"Hello! {QUESTION}? Thanks.", "It is 7.15%.")
    workspace.add_dataset("raw", "demonstrations", [*rows, leaky])
    exam = (QUESTION, "something else that nobody has ever asked us")
    workspace.add_dataset("exam", "prompts", [Prompt((Message("user", text),)) for text in exam])
    out = run("data", "decontaminate", "raw", "--name", "clean", "--against", "exam")
    assert (out["rows"], out["skipped"]) == (60, {"holds an evaluation item": 1})
    found = out["evaluations"]["exam"]
    assert (found["items"], found["leaked"], found["too_short"], found["share"]["value"]) == (2, 1, 0, 0.5)
    assert leaky not in list(workspace.dataset("clean").rows())
    run("data", "decontaminate", "raw", "--name", "none", "--against", "exam", "--ngram", "1", fails="ngram")
    run("data", "decontaminate", "raw", "--name", "none", "--against", "suite:nonsense", fails='no suite "nonsense"')


def test_decontaminate_against_a_built_in_suite(workspace, run):
    from tunesmith.data.leakage import texts_in
    from tunesmith.evaluate import suites

    name = next(iter(suites.safety.SUITES))
    items = suites.find([name], suites.Given())[0].items()
    text = max((t for item in items for t in texts_in(item.about)), key=len)
    workspace.add_dataset("raw", "demonstrations", [*many(5), told(text, "No.")])
    out = run("data", "decontaminate", "raw", "--name", "clean", "--against", f"suite:{name}")
    assert out["rows"] == 5 and sum(e["leaked"] for e in out["evaluations"].values()) >= 1


# ---- health

def test_health_finds_what_was_planted(workspace, run):
    rows = many(200)
    rows[7] = told("Please write to jane.doe@example.com about it today", rows[7].messages[1].content)
    workspace.add_dataset("raw", "demonstrations", [*rows, *rows[:30], told(f"Hello {QUESTION}", "7.15%")])
    workspace.add_dataset("exam", "prompts", [Prompt((Message("user", QUESTION),))])
    report = run("data", "health", "raw", "--against", "exam")
    found = report["health"]
    assert found["rows"] == 231
    assert found["duplicates"]["exact"]["value"] == pytest.approx(30 / 231)
    assert found["private"]["kinds"] == {"email": 1 + 1} and found["leakage"]["leaky"] == 1
    assert found["lengths"]["prompts"]["50%"] == 12
    said = [s["text"] for s in report["verdict"]]
    assert "found something to mend" in said[0]
    assert any("13.0% of the rows repeat another one" in s and "data dedupe raw" in s for s in said)
    assert any("1 evaluation items stand in 1" in s for s in said)
    page = (workspace.root / "reports/health-raw/report.html").read_text()
    assert "Data health: raw" in page and "Personal data" in page and "jane.doe" not in page


def test_health_of_clean_data_has_nothing_to_mend(workspace, run):
    workspace.add_dataset("clean", "demonstrations", many(100))
    report = run("data", "health", "clean")
    assert "nothing to mend" in report["verdict"][0]["text"]
    assert "leakage" not in report["health"]


def test_health_of_comparisons_counts_disagreement(workspace, run):
    rows = []
    for n in range(40):
        prompt, answers = Prompt((Message("user", f"question number {n}"),)), (Answer(f"a{n}"), Answer(f"b{n}"))
        for labeler in ("ann", "bob"):
            order = ((0,), (1,)) if labeler == "ann" or n % 4 else ((1,), (0,))
            rows.append(AnswerGroup(prompt, answers, order, labeler=labeler))
    workspace.add_dataset("pairs", "comparisons", rows)
    labels = run("data", "health", "pairs")["health"]["labels"]
    assert labels["agreement"]["value"] == pytest.approx(0.75)
    assert labels["share"]["value"] == pytest.approx((1 - 0.5**0.5) / 2, abs=1e-6)  # 0.75 = (1 - e)^2 + e^2
    assert labels["share"]["low"] < labels["share"]["value"] < labels["share"]["high"]


# ---- Self-Instruct

SEEDS = [{"instruction": "Explain what an overdraft is.", "output": "Money lent on your account."},
         {"instruction": "Is the message angry or calm?", "input": "Where is it?!", "output": "angry",
          "is_classification": True}]


class Writer:
    """Makes up a new task at every request; stops the world when told to."""

    def __init__(self, stop_at=0):
        self.requests, self.stop_at = 0, stop_at

    def sample(self, prompts, sampling, *, n=1, model="", progress=None):
        return [[Answer(self.say(p))] for p in prompts]

    def say(self, prompt):
        if prompt.endswith("Is it classification?"):
            return " No"
        if prompt.endswith("\n"):
            return f"Input: about {prompt.rsplit('Task:', 1)[1].split()[-1]}\nOutput: done"
        self.requests += 1
        if self.requests == self.stop_at:
            raise KeyboardInterrupt
        draw = random.Random(f"{sum(map(ord, prompt))} {prompt}")
        return " Describe " + " ".join(f"w{draw.randrange(10**6)}" for _ in range(5))


@pytest.fixture
def seeds(tmp_path):
    path = tmp_path / "seeds.jsonl"
    path.write_text("".join(json.dumps(s) + "\n" for s in SEEDS))
    return str(path)


@pytest.fixture
def writer(monkeypatch):
    made = Writer()
    monkeypatch.setattr(curation, "asked", lambda shop, spec: (made, "", "tiny@1"))
    return made


def test_generated_tasks_wait_on_the_desk(workspace, run, seeds, writer):
    out = run("data", "generate", seeds, "--name", "ideas", "--writer", "model:tiny", "--tasks", "7", "--requests", "2")
    assert (out["tasks"], out["drafts"], out["new"], out["ended"]) == (7, 7, 7, "")
    drafts = desk.listed(workspace, "ideas")
    assert {(d.origin, d.state, d.author) for d in drafts} == {("generated", "pending", "tiny@1")}
    assert all(d.original.source.startswith("self-instruct by tiny@1 from ") for d in drafts)
    run("sft", "--base", "loan-desk", "--data", "ideas", "--name", "m", fails='no dataset "ideas"')


def test_it_goes_on_where_it_was_killed(workspace, run, seeds, writer):
    writer.stop_at = 4
    assert cli.main(["--workspace", str(workspace.root), "data", "generate", seeds, "--name", "ideas", "--writer",
                     "model:tiny", "--tasks", "6", "--requests", "1"]) == 130
    before = {d.id for d in desk.listed(workspace, "ideas")}
    assert len(before) == 3
    writer.stop_at = 0
    out = run("data", "generate", seeds, "--name", "ideas", "--writer", "model:tiny", "--tasks", "6", "--requests", "1")
    assert (out["tasks"], out["new"]) == (6, 3)
    assert before < {d.id for d in desk.listed(workspace, "ideas")}
    journal = (workspace.root / "reports/ideas/tasks.jsonl").read_text().splitlines()
    assert [json.loads(line)["request"] for line in journal] == list(range(6))


def test_unreviewed_drafts_are_published_only_when_asked(workspace, run, seeds, writer):
    argv = ("data", "generate", seeds, "--name", "ideas", "--writer", "model:tiny", "--tasks", "3")
    run(*argv)
    assert workspace.datasets() == []
    assert run(*argv, "--unreviewed", "all-ideas")["dataset"] == "all-ideas"
    made = workspace.dataset("all-ideas")
    assert made.count == 3 and made.source == "the desk ideas; nobody reviewed 3 of it"


def test_a_barren_writer_ends_it(workspace, run, seeds, monkeypatch):
    monkeypatch.setattr(curation, "asked", lambda shop, spec: (Writer(), "", "tiny@1"))
    monkeypatch.setattr(Writer, "say", lambda self, prompt: " Explain what an overdraft is.")
    out = run("data", "generate", seeds, "--name", "ideas", "--writer", "model:tiny", "--patience", "2")
    assert out["ended"] == "nothing new in 2 rounds of 5 requests" and out["drafts"] == 0
    assert out["skipped"] == {"instruction: like one that is there": 10}


def test_generate_says_what_is_missing(run, seeds):
    run("data", "generate", seeds, "--name", "ideas", "--writer", "gpt", fails='"gpt" names no model')
    run("data", "generate", "nowhere", "--name", "ideas", "--writer", "model:x", fails='no dataset "nowhere"')


@pytest.mark.slow
def test_a_model_of_the_workspace_is_asked(workspace, run, seeds, tmp_path):
    """A random base writes no list: nothing comes of it, and nothing breaks."""
    base = tiny.save(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    out = run("data", "generate", seeds, "--name", "ideas", "--writer", f"model:{base}", "--patience", "1",
              "--requests", "2", "--max-tokens", "24")
    assert out["tasks"] == out["drafts"] == 0 and out["ended"]


# ---- the learning curve

def test_a_curve_measures_fits_and_goes_on(workspace, run, tmp_path, monkeypatch):
    rows = [told(f"What is {n % 7} plus one?", f"It is {n % 7 + 1}.") for n in range(40)]
    workspace.add_dataset("sums", "demonstrations", [told(f"{r.messages[0].content} ({n})", r.messages[1].content)
                                                     for n, r in enumerate(rows)])
    workspace.add_dataset("unseen", "demonstrations", [told("What is 3 plus one?", "It is 4.")])
    base = tiny.save(tmp_path / "base")
    argv = ("data", "curve", "sums", "--valid", "unseen", "--base", str(base), "--seeds", "1", "--epochs", "1",
            "--least-steps", "2", "--batch", "8", "--rank", "2")
    report = run(*argv, "--sizes", "8", "16", "99")
    losses = report["growth"]["losses"]
    assert list(losses) == ["8", "16", "40"] and all(len(of) == 1 and 0 < of[0] < 10 for of in losses.values())
    assert report["growth"]["advice"] in ("more", "better", "unclear")
    assert "<svg" in (workspace.root / "reports/curve-sums/report.html").read_text()
    assert workspace.runs() == [] and [d.name for d in workspace.datasets()] == ["sums", "unseen"]
    measured = []
    learned = curation._learned
    monkeypatch.setattr(curation, "_learned", lambda *known: measured.append(known[-2:]) or learned(*known))
    points = workspace.root / "reports/curve-sums/points.jsonl"
    points.write_bytes(points.read_bytes() + b'{"about": ["cut off')
    again = run(*argv, "--sizes", "8", "16", "24", "99")
    assert measured == [(24, 0)] and again["growth"]["losses"].items() >= losses.items()
    assert run(*argv, "--sizes", "8", "16", "24", "99")["growth"] == again["growth"] and measured == [(24, 0)]


def test_a_curve_says_what_is_wrong(workspace, run):
    workspace.add_dataset("few", "demonstrations", many(4))
    workspace.add_dataset("valid", "demonstrations", many(2, seed=9))
    run("data", "curve", "few", "--valid", "few", fails="--valid must be other demonstrations")
    run("data", "curve", "few", "--valid", "valid", "--sizes", "5", "6", "7", fails="few has 4 rows: a curve needs")
    run("data", "curve", "few", "--valid", "valid", "--sizes", "5", "6", fails="three different")


