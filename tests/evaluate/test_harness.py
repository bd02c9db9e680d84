"""lm-evaluation-harness in this process gives what its own command line gives against `tunesmith serve`."""

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import harness_scores
import pytest
import tiny
import torch

import tunesmith.quickstart
from tunesmith.contracts import Sampling
from tunesmith.errors import MissingExtra, NotFound, UserError
from tunesmith.evaluate import benchmarks, harness, suite
from tunesmith.evaluate.suite import Subject, columns
from tunesmith.model import adapters
from tunesmith.model import base as bases
from tunesmith.model.engine import LocalEngine
from tunesmith.model.reader import LocalReader
from tunesmith.records import Answer, Message

BASE = Path(tunesmith.quickstart.__file__).parent / "base"
HEAD = "dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
CHOICE = HEAD + """task: desk_choice
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{right}}}}"
num_fewshot: {shots}
fewshot_split: test
metric_list:
  - {{metric: acc}}
  - {{metric: acc_norm}}
metadata: {{version: 1.0}}
"""
WRITE = HEAD + """task: desk_write
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{start}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 24, do_sample: false}}
metric_list:
  - {{metric: exact_match, regexes_to_ignore: [" .*"]}}
metadata: {{version: 1.0}}
"""
ROLL = HEAD + """task: desk_roll
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}} {{{{choices[0]}}}}"
metric_list: [{{metric: word_perplexity}}]
metadata: {{version: 1.0}}
"""
SUBJECTS = ("the rate", "the fee", "the term", "early repayment", "the first instalment")


def folder(at, shots=0, count=20):
    """Our own tasks over made-up questions of a loan desk."""
    at.mkdir()
    rows = [{"question": f"What should a customer know about {s} of loan {n}?", "right": n % 3, "start": "I",
             "choices": [f"{s.capitalize()} is fixed.", f"Nothing about {s}.", f"Ask somebody else on day {n}."]}
            for n, s in ((n, SUBJECTS[n % len(SUBJECTS)]) for n in range(count))]
    data = at / "desk.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("choice", CHOICE), ("write", WRITE), ("roll", ROLL)):
        (at / f"{name}.yaml").write_text(text.format(data=data, shots=shots))
    return at


@pytest.fixture(scope="module")
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture
def lm_eval(offline):
    pytest.importorskip("lm_eval.tasks")
    return pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    base = tiny.load(tmp_path_factory.mktemp("bases") / "llama")
    engine = LocalEngine(base)
    return Subject("tiny", engine, reader=LocalReader(engine))


def test_how_the_harness_asks_for_answers():
    assert harness.sampling({}) == Sampling(256, 0.0, seed=harness.SEED)
    asked = {"until": "\n", "max_gen_toks": 7, "do_sample": False, "temperature": 0.9}
    assert harness.sampling(asked) == Sampling(7, 0.0, stop=("\n",), seed=harness.SEED)
    asked = {"until": ["a", ""], "max_tokens": 7, "do_sample": True, "temperature": 0.9, "top_p": 0.5}
    assert harness.sampling(asked) == Sampling(7, 0.9, 0.5, stop=("a",), seed=harness.SEED)


def test_rows_from_the_harness_s_log():
    log = [{"doc_id": n, "filter": f, "metrics": ["acc", "words"], "acc": v, "words": ["a"], "resps": [["said"]]}
           for n, f, v in ((3, "none", 1), (1, "none", 0), (3, "strict", 0), (1, "strict", True))]
    assert list(harness.rows(log, [1, 3])) == [
        {"acc": 0, "acc, strict": 1, "answer": "said"}, {"acc": 1, "acc, strict": 0, "answer": "said"}]
    log = [{"doc_id": n, "filter": "none", "metrics": ["ppl"], "ppl": (-n, 2), "resps": [[0.5]]} for n in (1, 2)]
    assert list(harness.rows(log, [1, 2])) == [{"ppl 0": -1, "ppl 1": 2}, {"ppl 0": -2, "ppl 1": 2}]


def test_figures_that_are_no_means():
    rows = [{"ppl 0": -1, "ppl 1": 2, "x": 4}, {"ppl 0": -2, "ppl 1": 2, "x": 9}, {"x": 1}, {"ppl 0": -3, "ppl 1": 2}]
    c = columns(rows)
    assert harness.aggregated(c, "ppl", lambda pairs: sum(a for a, _ in pairs) / sum(b for _, b in pairs)) == -1
    assert harness.aggregated(c.at([0, 2]), "ppl", lambda pairs: len(pairs)) == 1
    assert harness.aggregated(c, "x", max) == 9
    assert math.isnan(harness.aggregated(c, "y", max)) and math.isnan(harness.aggregated(c, "x", lambda x: 1 / 0))


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtra, match=r'pip install "tunesmith\[eval\]"'):
        harness.suites(["mmlu"])


def test_the_harness_s_questions_are_the_reader_s(subject, lm_eval):
    model = harness.model(subject)
    assert isinstance(model, lm_eval.api.model.LM)
    pairs = [("The rate", " is low"), ("A fee", " of 5"), ("The rate", " is high"), ("", "Hello")]
    found = model.loglikelihood([SimpleNamespace(args=p) for p in pairs])
    for (context, text), (logprob, greedy) in zip(pairs, found, strict=True):
        read = subject.read([context], [[text]])[0][0]
        assert (logprob, greedy) == (pytest.approx(read.logprob, abs=1e-4), read.greedy)
    whole = model.loglikelihood_rolling([SimpleNamespace(args=("Hello",))])
    assert whole == [pytest.approx(found[3][0], abs=1e-4)]
    written = model.generate_until([SimpleNamespace(args=("The rate", {"max_gen_toks": n})) for n in (3, 5, 3)])
    assert written[0] == written[2] and written[1].startswith(written[0])
    chat = harness.model(subject, chat=True)
    asked = chat.apply_chat_template([{"role": "user", "content": "Which rate?"}])
    messages = (Message("user", "Which rate?"),)
    assert chat.generate_until([SimpleNamespace(args=(asked, {"max_gen_toks": 9}))]) == [
        subject.answers([messages], Sampling(9, 0.0))[0][0].text]
    read = subject.read([messages], [["Low."]])[0][0]
    assert chat.loglikelihood([SimpleNamespace(args=(asked, "Low."))]) == [(read.logprob, read.greedy)]
    with pytest.raises(UserError, match="run it as plain text"):
        chat.apply_chat_template([], add_generation_prompt=False)


def test_tasks_of_a_folder_are_suites(subject, tmp_path, lm_eval):
    at = folder(tmp_path / "tasks", shots=1)
    choice, write, roll = harness.suites(["desk_choice", "desk_write", "desk_roll"], [at])
    assert [f.key for f in choice.figures] == ["acc", "acc_norm"] and choice.figures[0].chance == pytest.approx(1 / 3)
    assert choice.name == "lm-eval-desk_choice" and len(choice.items()) == 20 and "1 worked example" in choice.about
    rows = suite.run(choice, subject, choice.items())
    whole = harness.evaluate(subject, {"desk_choice": choice.task})["results"]["desk_choice"]
    assert suite.interval(choice.figures[0], rows).value == pytest.approx(whole["acc,none"])
    assert suite.interval(choice.figures[1], rows).value == pytest.approx(whole["acc_norm,none"])
    assert suite.run(choice, subject, choice.items()) == rows  # the same worked examples again
    whole = harness.evaluate(subject, {"desk_roll": roll.task})["results"]["desk_roll"]
    found = suite.interval(roll.figures[0], suite.run(roll, subject, roll.items()))
    assert found.value == pytest.approx(whole["word_perplexity,none"]) and found.low < found.value < found.high
    repeats = SimpleNamespace(sample=lambda prompts, sampling, n, model: [[Answer(p)] for p in prompts])
    part = [write.items()[n] for n in (7, 2, 11)]
    said = [row["answer"] for row in suite.run(write, Subject("repeats", repeats), part)]
    assert [text.removeprefix("What should a customer know about ") for text in said] == [
        "the term of loan 7?", "the term of loan 2?", "the fee of loan 11?"]
    told = suite.section(choice, choice.items(), {"a": rows, "b": rows})
    assert told["rows"][0]["changes"][0]["p"] == 1
    fewer, = harness.suites(["desk_choice"], [at], examples=0)
    assert fewer.version != choice.version and "no examples" in fewer.about


@pytest.mark.slow  # reading the names of all of the harness's own tasks takes seconds
def test_tasks_that_cannot_be_had(tmp_path, lm_eval):
    at = folder(tmp_path / "tasks")
    with pytest.raises(NotFound, match="is no folder"):
        harness.suites(["desk_choice"], [tmp_path / "nowhere"])
    with pytest.raises(NotFound, match='knows no task "desk_choise"; did you mean "desk_choice"'):
        harness.suites(["desk_choise"], [at])
    (at / "desk.jsonl").unlink()
    with pytest.raises(UserError, match=r"the data of desk_choice cannot be had \(HF_HUB_OFFLINE is set\)"):
        harness.suites(["desk_choice"], [at])


def test_our_suites_say_what_the_harness_s_own_tasks_say(subject, tmp_path, lm_eval):
    """TruthfulQA, CrowS-Pairs and Winogender as the harness defines them, on the same made-up items and model."""
    truth = [r["doc"] for r in json.loads(harness_scores.FILE.read_text())["truthfulqa"]]
    pairs = [{"sent_more": f"Old clerks forget rule {n}.", "sent_less": f"New clerks keep rule {n * n}.",
              "bias_type": "age"} for n in range(12)]
    forms = [{"sentid": f"clerk.caller{n}.{n % 2}.{gender}.txt", "pronoun": pronoun, "occupation": "clerk",
              "sentence": f"The clerk called caller{n}: {pronoun} {end}", "participant": f"caller{n}", "label": n % 2}
             for n, end in enumerate(("is late.", "must pay.", "was right.", "had two loans."))
             for gender, pronoun in zip(("male", "female", "neutral"), ("he", "she", "they"))]
    ours, theirs, own = {}, {}, Path(lm_eval.__file__).parent / "tasks"
    for name, rows, tasks, split in (
            ("truthfulqa", truth, ("truthfulqa_mc1", "truthfulqa_mc2"), "validation"),
            ("crows_pairs", pairs, ("crows_pairs_english",), "test"), ("winogender", forms, ("winogender",), "test")):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made, = benchmarks.find([name], tmp_path)
        found = suite.run(made, subject, made.items())
        ours |= {(name, f.key): suite.interval(f, found).value for f in made.figures}
        for task in tasks:
            (tmp_path / f"{task}.yaml").write_text(
                f"include: {own / name / task}.yaml\ntask: our_{task}\ndataset_path: json\ndataset_name: null\n"
                f"dataset_kwargs: {{data_files: {{{split}: {path}}}}}\n")
        loaded = {made.title: made.task for made in harness.suites([f"our_{task}" for task in tasks], [tmp_path])}
        for task, found in harness.evaluate(subject, loaded)["results"].items():
            theirs |= {(task.removeprefix("our_"), key): value for key, value in found.items()}
    assert ours["truthfulqa", "mc1"] == theirs["truthfulqa_mc1", "acc,none"]
    assert ours["truthfulqa", "mc2"] == pytest.approx(theirs["truthfulqa_mc2", "acc,none"], abs=1e-6)
    assert 0.05 < ours["truthfulqa", "mc2"] < 0.99  # neither always the first nor never
    assert ours["crows_pairs", "stereotype"] == theirs["crows_pairs_english", "pct_stereotype,none"]
    apart = theirs["crows_pairs_english", "likelihood_diff,none"]
    assert ours["crows_pairs", "apart"] == pytest.approx(apart, abs=1e-4) and apart > 1
    assert ours["winogender", "right"] == pytest.approx(theirs["winogender", "acc,none"])


@contextlib.contextmanager
def served(workspace, log):
    """`tunesmith serve` on the bundled base, once it answers; its address."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "tunesmith", "serve", "--base", "loan-desk", "--port", str(port), "--workspace",
               str(workspace)]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/models").close()
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def by_command_line(model, arguments, tasks, at, out, *more):
    """(results, samples) of lm-eval's own command line."""
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", arguments, "--tasks", *tasks,
         "--include_path", str(at), "--output_path", str(out), "--log_samples", *more], capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none"})
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(next(out.rglob("results_*.json")).read_text())["results"]
    samples = {t: [json.loads(line) for line in next(out.rglob(f"samples_{t}_*.jsonl")).read_text().splitlines()]
               for t in tasks}
    return results, samples


@pytest.mark.slow
@pytest.mark.parametrize("shots", [0, 2])
def test_the_same_scores_as_the_command_line_against_our_server(workspace, tmp_path, lm_eval, shots):
    """Base and an adapter, both in one load of the base here. Log-probs agree to 1e-3, texts and scores exactly."""
    at = folder(tmp_path / "tasks", shots)
    base = bases.load(str(BASE), "loan-desk")
    adapters.attach(base, "x", adapters.Method(rank=8, alpha=16), 1)
    with torch.no_grad():
        for p in adapters.parameters(base, "x").values():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.02)
    workspace.publish_adapter("desk", "policy", base.describe(), lambda to: adapters.save(base, "x", to), {})
    engine = LocalEngine(base)
    engine.use("desk", "x")
    worst = 0.0
    with served(workspace.root, tmp_path / "serve.log") as url:
        for name, model in (("loan-desk", ""), ("desk", "desk")):
            subject = Subject(name, engine, model, LocalReader(engine))
            arguments = f"model={name},base_url={url}/completions,tokenizer={BASE},max_length=512,num_concurrent=4"
            tasks = ["desk_choice", "desk_write", "desk_roll"]
            results, samples = by_command_line("local-completions", arguments, tasks, at, tmp_path / f"{name}_text")
            loaded = {s.title: s.task for s in harness.suites(tasks, [at])}
            ours = harness.evaluate(subject, loaded)
            assert ours["results"]["desk_choice"]["acc,none"] == results["desk_choice"]["acc,none"]
            assert ours["results"]["desk_choice"]["acc_norm,none"] == results["desk_choice"]["acc_norm,none"]
            assert ours["results"]["desk_write"]["exact_match,none"] == results["desk_write"]["exact_match,none"]
            assert ours["results"]["desk_roll"]["word_perplexity,none"] == pytest.approx(
                results["desk_roll"]["word_perplexity,none"], rel=1e-4)
            for mine, theirs in zip(ours["samples"]["desk_choice"], samples["desk_choice"], strict=True):
                for (a, greedy), (b, likeliest) in zip(mine["filtered_resps"], theirs["filtered_resps"], strict=True):
                    worst = max(worst, abs(a - float(b)))
                    assert greedy == (str(likeliest) == "True")
            assert [s["resps"][0][0] for s in ours["samples"]["desk_write"]] == [
                s["resps"][0][0] for s in samples["desk_write"]]

            arguments = f"model={name},base_url={url}/chat/completions,num_concurrent=4"
            results, samples = by_command_line("local-chat-completions", arguments, ["desk_write"], at,
                                               tmp_path / f"{name}_chat", "--apply_chat_template")
            ours = harness.evaluate(subject, {"desk_write": loaded["desk_write"]}, chat=True)
            assert [s["resps"][0][0] for s in ours["samples"]["desk_write"]] == [
                s["resps"][0][0] for s in samples["desk_write"]]
            assert ours["results"]["desk_write"]["exact_match,none"] == results["desk_write"]["exact_match,none"]
    print(f"largest difference of a log-prob with {shots} examples: {worst:.1e}")
    assert worst < 1e-3
