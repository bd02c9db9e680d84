"""What was trained at OpenAI comes here: files of every kind, jobs of every method, and what is wrong with the rest."""

import base64
import json
import shlex

import pytest
import tiny

from tunesmith import cli, migrate
from tunesmith.errors import DataError, SettingsError, UserError
from tunesmith.settings import MigrateSettings
from tunesmith.store.workspace import Workspace

ASK = {"role": "user", "content": "What is the rate?"}
CHAT = [{"messages": [ASK, {"role": "assistant", "content": f"It is {n} percent."}]} for n in range(8)]
PAIRS = [{"input": {"messages": [ASK], "tools": [], "parallel_tool_calls": True},
          "preferred_output": [{"role": "assistant", "content": f"{n} percent"}],
          "non_preferred_output": [{"role": "assistant", "content": "no idea"}]} for n in range(6)]
TASKS = [{"messages": [{"role": "user", "content": f"What is {n} + {n}?"}], "answer": str(2 * n)} for n in range(5)]
GRADER = {"type": "string_check", "name": "exact", "operation": "eq", "input": "{{sample.output_text}}",
          "reference": "{{item.answer}}"}
RESULTS = ("step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n"
           "1,2.5,0.1,,\n2,1.25,0.2,1.5,0.3\n3,0.75,1,,\n")


def file(id, filename, purpose="fine-tune"):
    return {"id": id, "object": "file", "bytes": 1, "created_at": 1, "filename": filename, "purpose": purpose,
            "status": "processed"}


def job(id, kind="supervised", model="gpt-4o-mini-2024-07-18", training="file-chat", status="succeeded", **more):
    hyper = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.8}
    inner = {"hyperparameters": hyper | ({"beta": 0.2} if kind == "dpo" else {})}
    if kind == "reinforcement":
        inner["grader"] = GRADER
    made = f"ft:gpt-4o-mini:acme:{id}-model:{id}" if status == "succeeded" else None
    return {"id": id, "object": "fine_tuning.job", "created_at": len(id), "model": model, "training_file": training,
            "validation_file": None, "status": status, "seed": 7, "fine_tuned_model": made, "organization_id": "org-1",
            "result_files": [], "trained_tokens": 1000, "hyperparameters": hyper, "method": {"type": kind, kind: inner},
            **more}


FILES = [file("file-chat", "faq bot.jsonl"), file("file-pairs", "tone.jsonl"), file("file-tasks", "sums.jsonl"),
         file("file-loose", "unused.jsonl"), file("file-res", "step_metrics.csv", "fine-tune-results"),
         file("file-batch", "b.jsonl", "batch")]
JOBS = [job("j1", validation_file="file-chat", result_files=["file-res"]),
        job("j22", "dpo", "ft:gpt-4o-mini:acme:j1-model:j1:ckpt-step-9", "file-pairs"),
        job("j333", "reinforcement", training="file-tasks"), job("j4444", status="failed")]


def export(folder, files=FILES, found=JOBS, **contents):
    """A folder as the script of the docs writes it."""
    folder.mkdir(exist_ok=True)
    (folder / "files.json").write_text(json.dumps(files))
    (folder / "jobs.json").write_text(json.dumps(found))
    rows = {"file-chat": CHAT, "file-pairs": PAIRS, "file-tasks": TASKS, "file-loose": CHAT[:3]} | contents
    for id, content in rows.items():
        if content is not None:
            (folder / f"{id}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (folder / "file-res.csv").write_bytes(base64.b64encode(RESULTS.encode()))
    return folder


def run(workspace, folder, **settings):
    return migrate.migrate(workspace, MigrateSettings(folder=str(folder), **settings))


def arguments(command):
    """The settings that a printed command means."""
    words = shlex.split(command)
    assert words[0] == "tunesmith"
    return cli._settings(cli._parse(words[1:]))


def test_every_file_becomes_a_dataset_of_the_right_kind_and_every_job_its_commands(workspace, tmp_path):
    found = run(workspace, export(tmp_path / "x"), base="B")
    assert {d.name: (d.kind, d.count) for d in found.datasets} == {
        "faq-bot": ("demonstrations", 8), "tone": ("comparisons", 6), "sums": ("prompts", 5),
        "unused": ("demonstrations", 3)}
    assert [p.facts for p in workspace.dataset("sums").rows()] == [{"answer": str(2 * n)} for n in range(5)]
    assert workspace.dataset("tone").source == "OpenAI file-pairs"
    plans = {p.id: p for p in found.plans}
    assert plans["j1"].used == {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.8, "seed": 7,
                                "tokens": 1000, "train_loss": 0.75, "valid_loss": 1.5}
    sft = arguments(*plans["j1"].commands("B"))
    assert (sft.base, sft.data, sft.valid, sft.name, sft.after) == ("B", "faq-bot", "faq-bot", "j1-model", "")
    assert (sft.epochs, sft.batch, sft.seed, sft.lr) == (2, 4, 7, pytest.approx(1.8e-3))
    dpo = arguments(*plans["j22"].commands("B"))
    assert (dpo.method, dpo.policy, dpo.comparisons, dpo.beta) == ("dpo", "j1-model", "tone", 0.2)
    assert dpo.name == "j22-model"
    fresh, grpo = plans["j333"].commands("B")
    assert fresh == "tunesmith adapters fresh j333-model-start --base B"
    grpo = arguments(grpo)
    assert (grpo.method, grpo.policy, grpo.prompts) == ("grpo", "j333-model-start", "sums")
    assert json.loads(grpo.grader) == GRADER
    assert plans["j4444"].stages == () and plans["j4444"].commands("B") == []
    assert dict(found.skipped) == {"files for batch": 1, "job j4444: it is failed": 1}


def test_twice_is_the_same(workspace, tmp_path):
    folder = export(tmp_path / "x")
    first, second = run(workspace, folder), run(workspace, folder)
    assert first.datasets == second.datasets and first.plans == second.plans
    assert len(workspace.datasets()) == 4


def test_printed_commands_mean_the_planned_settings(workspace, tmp_path):
    hostile = [job("j1", suffix="x", fine_tuned_model="ft:gpt:acme:$(reboot) `x` 'q':id", training="file-chat")]
    plan, = run(workspace, export(tmp_path / "x", found=hostile), base="my base; rm -rf /").plans
    assert plan.name == "reboot-x-q"
    settings = arguments(*plan.commands("ignored"))
    assert settings == plan.stages[0].settings and settings.base == "my base; rm -rf /"


@pytest.mark.parametrize("wrap", [
    lambda found: json.dumps({"data": found, "object": "list", "has_more": False}),
    lambda found: "\n".join(json.dumps({"data": [f], "has_more": True}) for f in found) + "\n",
    lambda found: "".join(json.dumps(f) + "\n" for f in found)], ids=["a page", "pages", "lines"])
def test_lists_as_the_api_gives_them(workspace, tmp_path, wrap):
    folder = export(tmp_path / "x")
    (folder / "files.json").write_text(wrap(FILES))
    (folder / "jobs.json").write_text(wrap(JOBS))
    assert len(run(workspace, folder).plans) == 4


def test_what_cannot_be_imported_is_counted_with_its_reason(workspace, tmp_path):
    bad = [*CHAT[:2], {"messages": [ASK, {"role": "assistant", "content": ""}]}]
    found = run(workspace, export(tmp_path / "x", **{"file-chat": bad, "file-tasks": None, "file-pairs": PAIRS * 2}))
    reasons = {k: n for k, n in found.skipped.items() if not k.startswith("files for")}
    folder = tmp_path / "x"
    assert reasons == {
        f'file faq bot.jsonl: {folder / "file-chat.jsonl"}:3: "content" is empty (messages[1])': 1,
        "file sums.jsonl: its content is not in the folder": 1, "rows of tone: exact duplicate": 6,
        "job j1: its training file was not imported: "
        f'{folder / "file-chat.jsonl"}:3: "content" is empty (messages[1])': 1,
        "job j22: it began on ft:gpt-4o-mini:acme:j1-model:j1:ckpt-step-9, which no job of the export made": 1,
        "job j333: its training file was not imported: its content is not in the folder": 1,
        "job j4444: it is failed": 1}
    assert [d.name for d in found.datasets] == ["tone", "unused"]


@pytest.mark.parametrize(("changes", "why"), [
    ({"method": {"type": "distillation"}}, "its method 'distillation' is unknown"),
    ({"status": "cancelled"}, "it is cancelled"), ({"training_file": None}, "its training file was not imported: it"),
    ({"method": {"type": "reinforcement", "reinforcement": {"grader": {
        "type": "python", "name": "p", "source": "x"}}}}, "sandbox"),
    ({"method": {"type": "reinforcement"}}, "a grader is a JSON object"),
    ({"model": "ft:other"}, "it began on ft:other")])
def test_jobs_that_cannot_be_trained_again(workspace, tmp_path, changes, why):
    plan, = run(workspace, export(tmp_path / "x", found=[{**job("j1"), **changes}])).plans
    assert why in plan.why and not plan.stages


def test_jobs_before_there_were_methods_and_files_of_completions(workspace, tmp_path):
    old = {k: v for k, v in job("j1").items() if k != "method"} | {"fine_tuned_model": "davinci:ft-x"}
    rows = [{"prompt": f"{n} ->", "completion": f" {n}"} for n in range(4)]
    plan, = run(workspace, export(tmp_path / "x", found=[old], **{"file-chat": rows})).plans
    settings = arguments(*plan.commands(""))
    assert (settings.epochs, settings.batch, settings.name, settings.base) == (2, 4, "j1", "BASE")


def test_auto_is_what_this_servers_own_api_makes_of_it(workspace, tmp_path):
    auto = job("j1", method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}},
               hyperparameters={"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": None})
    plan, = run(workspace, export(tmp_path / "x", found=[auto])).plans
    settings = arguments(*plan.commands(""))
    assert (settings.batch, settings.epochs, settings.lr) == (1, 10, 1e-3)


def test_two_files_of_one_name_and_two_jobs_of_one_name(workspace, tmp_path):
    files = [file("file-chat", "train.jsonl"), file("file-loose", "train.jsonl")]
    found = run(workspace, export(tmp_path / "x", files, [
        job("j1", fine_tuned_model="ft:a:b:bot:1"),
        job("j22", training="file-loose", fine_tuned_model="ft:a:b:bot:2")]))
    assert [d.name for d in found.datasets] == ["train", "train--loose"]
    assert [(p.name, p.data) for p in found.plans] == [("bot", "train"), ("bot-j22", "train--loose")]


def test_graders_that_ask_a_model_say_what_is_missing(workspace, tmp_path):
    judge = {"type": "score_model", "name": "j", "model": "gpt-4o", "input": [{"role": "user", "content": "x"}]}
    asks = job("j1", "reinforcement", training="file-tasks")
    asks["method"]["reinforcement"]["grader"] = judge
    folder = export(tmp_path / "x", found=[asks])
    plan, = run(workspace, folder).plans
    assert plan.stages and 'nobody here answers for the model "gpt-4o"' in plan.note and "--endpoint" in plan.note
    plan, = run(workspace, folder, endpoint="https://api.openai.com/v1", key="OPENAI_API_KEY").plans
    settings = arguments(plan.commands("")[1])
    assert (settings.endpoint, settings.key, plan.note) == ("https://api.openai.com/v1", "OPENAI_API_KEY", "")


def test_no_list_leads_out_of_the_folder(workspace, tmp_path):
    (tmp_path / "secret.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHAT))
    for id in ("../secret", "/etc/passwd", "../secret.jsonl"):
        found = run(workspace, export(tmp_path / "x", [file(id, "../secret.jsonl")], [job("j1", training=id)]))
        assert not found.datasets and found.plans[0].why.endswith("its content is not in the folder")
    (tmp_path / "x" / "file-link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    found = run(workspace, export(tmp_path / "x", [file("file-link", "a.jsonl")], []))
    assert not found.datasets


@pytest.mark.parametrize(("text", "said"), [
    ("{", "is not JSON"), ("[1]", 'objects with an "id"'), ('{"data": [{"id": 3}]}', 'objects with an "id"'),
    ("\xff\xfe", "is not JSON"), ("[" * 100_000, "is not JSON"), ('"x"', 'objects with an "id"')])
def test_a_list_that_is_none_is_refused(workspace, tmp_path, text, said):
    folder = export(tmp_path / "x")
    (folder / "jobs.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=said):
        run(workspace, folder)


def test_folders_without_an_export_are_refused(workspace, tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        run(workspace, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"docs/migrate.md has the script"):
        run(workspace, tmp_path)
    with pytest.raises(SettingsError, match="--run trains on a base"):
        MigrateSettings(folder="x", run=True)


def test_any_shape_of_a_job_is_a_plan_or_a_reason(workspace, tmp_path):
    shapes = [{"id": "a"}, {"id": "b", "method": 3, "status": "succeeded"},
              {"id": "c", "method": {"type": "dpo", "dpo": 1}},
              {**job("d"), "hyperparameters": [], "seed": "x", "created_at": None, "result_files": ["../x", 3]},
              {**job("e"), "method": {"type": "supervised", "supervised": {"hyperparameters": {
                  "n_epochs": 10**9, "batch_size": 1.5, "learning_rate_multiplier": float("inf")}}}},
              {**job("f", "dpo", training="file-pairs"), "fine_tuned_model": ":::::"}, {**job("g"), "seed": 2**70}]
    found = run(workspace, export(tmp_path / "x", found=shapes))
    assert len(found.plans) == len(shapes) and all(p.why or p.stages for p in found.plans)


def test_the_command_trains_it_all_and_goes_on_where_it_was_stopped(tmp_path, capsys, monkeypatch):
    base = tiny.save(tmp_path / "base")
    folder = export(tmp_path / "x", found=[job("j1"), job("j22", "dpo", training="file-pairs"), JOBS[3]])
    monkeypatch.setenv("TUNESMITH_WORKSPACE", str(tmp_path / "ws"))
    assert cli.main(["migrate", "openai", str(folder), "--base", str(base)]) == 0
    shown = capsys.readouterr().out
    assert "faq-bot: 8 demonstrations" in shown and "left out: job j4444: it is failed" in shown
    commands = [line for line in shown.splitlines() if line.startswith("tunesmith ")]
    assert len(commands) == 3
    assert cli.main(shlex.split(commands[0])[1:]) == 0  # one by hand
    capsys.readouterr()
    with Workspace.open(tmp_path / "ws") as workspace:
        first = str(workspace.adapter("j1-model"))
    assert cli.main(["migrate", "openai", str(folder), "--base", str(base), "--run", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["trained"][:2] == [first, "j22-model-start@1"] and made["trained"][2].startswith("j22-model@")
    assert made["jobs"][0]["commands"] == commands[:1] and made["jobs"][2]["why"] == "it is failed"
    with Workspace.open(tmp_path / "ws") as workspace:
        assert [r.command for r in workspace.runs()] == ["sft", "prefer"]
        assert workspace.adapter("j22-model").lineage["parents"] == {"policy": "j22-model-start@1"}
