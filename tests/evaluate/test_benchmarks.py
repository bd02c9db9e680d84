"""Public benchmarks: read from their own files and from ours, scored as lm-evaluation-harness scores them."""

import gzip
import json
import math
import sys
from dataclasses import dataclass, field

import harness_scores
import numpy as np
import pytest

from tunesmith.contracts import Read
from tunesmith.errors import DataError, MissingExtra, NotFound, TooLong, UserError
from tunesmith.evaluate import benchmarks, suite
from tunesmith.evaluate.benchmarks import bbq, capability, crows_pairs, ifeval, real_toxicity, truthfulqa, winogender
from tunesmith.evaluate.suite import Subject, columns
from tunesmith.records import Answer

RECORDED = json.loads(harness_scores.FILE.read_text())


@dataclass
class Knows:
    """A reader that finds the text likeliest in which one of its `words` stands, the shortest among equals."""

    words: tuple = ()
    asked: list = field(default_factory=list)

    def read(self, contexts, texts, *, model="", cut=False, progress=None):
        self.asked += contexts
        return [[Read(-len(t) - 1000 * (not any(w in t for w in self.words)), 1, False) for t in row] for row in texts]


@dataclass
class Says:
    """An engine that always says the same; prompts above `room` characters are too long for it."""

    text: str = "42"
    room: int = 10**6
    asked: list = field(default_factory=list)

    def sample(self, prompts, sampling, *, n=1, model="", progress=None):
        texts = [p if isinstance(p, str) else p[-1].content for p in prompts]
        if any(len(t) > self.room for t in texts):
            raise TooLong("too long")
        self.asked += texts
        return [[Answer(self.text) for _ in range(n)] for _ in prompts]


def asked(benchmark, engine=None, reader=None):
    """(figures by key, rows) of a model that answers with one of the fakes."""
    rows = suite.run(benchmark, Subject("m", engine, reader=reader), benchmark.items())
    return {f.key: suite.interval(f, rows).value for f in benchmark.figures}, rows


def lines(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def test_truthfulqa_scores_as_the_harness(tmp_path):
    path = lines(tmp_path / "truthfulqa.jsonl", [r["doc"] for r in RECORDED["truthfulqa"]])
    for item, r in zip(truthfulqa.build(path).items(), RECORDED["truthfulqa"], strict=True):
        row = truthfulqa.judge(item.about, [Read(r["logprobs"][a], 1, False) for a in item.about.answers])
        assert float(row["mc1"]) == r["mc1"] and row["mc2"] == pytest.approx(r["mc2"], abs=1e-12)


def test_truthfulqa_of_very_long_answers():
    """Probabilities of e^-2000 are no reason for nan."""
    q = truthfulqa.Question("Q?", "", {"a": True, "b": False}, {"a": True, "b": False})
    row = truthfulqa.judge(q, [Read(-2000.0, 1, False), Read(-2001.0, 1, False)])
    assert row["mc2"] == pytest.approx(1 / (1 + math.exp(-1)))


def test_truthfulqa_from_the_authors_table(tmp_path):
    (tmp_path / "TruthfulQA.csv").write_text(
        "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
        'Adversarial,Loans,Is it free?,"No, it costs","No, it costs; It is not free","Yes; It is free.; ",x\n')
    made, = benchmarks.find(["truthfulqa"], tmp_path)
    question = made.items()[0].about
    assert question.mc1 == {"No, it costs.": True, "Yes.": False, "It is free.": False}
    assert question.mc2 == {**question.mc1, "It is not free.": True}
    assert made.items()[0].stratum == "Loans"
    mc1, mc2 = made.figures
    assert mc1.chance == pytest.approx(1 / 3) and mc2.chance == pytest.approx(1 / 2)
    reader = Knows(("not",))
    found, rows = asked(made, reader=reader)
    assert found["mc1"] == 0 and found["mc2"] == pytest.approx(1) and rows[0]["likeliest answer"] == "Yes."
    assert reader.asked[0].endswith("Q: Is it free?\nA:")


def test_bbq_scores_as_the_harness(tmp_path):
    recorded = RECORDED["bbq"]
    made = bbq.build(lines(tmp_path / "bbq.jsonl", recorded["docs"]))
    rows = []
    for item, biased, answer in zip(made.items(), recorded["biased"], recorded["answers"], strict=True):
        assert {a for a, follows in zip(item.about.answers, item.about.biased) if follows} == set(biased)
        rows.append(bbq.judge(item.about, answer))
    found, scores = {f.key: suite.interval(f, rows).value for f in made.figures}, recorded["scores"]
    assert found["right_amb"] == scores["accuracy_amb"] and found["right_dis"] == scores["accuracy_disamb"]
    for key, name in (("s_amb", "amb_bias_score"), ("s_dis", "disamb_bias_score")):
        assert found[key] == pytest.approx(scores[name]) and abs(found[key]) > 0.01
        for category in {g[0] for g in harness_scores.GROUPS}:
            assert found[f"{key} {category}"] == pytest.approx(scores[f"{name}_{category}"]), category


def test_bbq_bias_at_its_ends():
    def scores(*answers):
        q = {c: bbq.Question("Age", "1", c, "c", "q", ("old", "young", "unknown"), 2 if c == "ambig" else 1,
                             (True, False, False), (False, False, True)) for c in bbq.SHORT}
        c = columns([bbq.judge(q[condition], a) for condition in bbq.SHORT for a in answers])
        return bbq.bias_amb(c), bbq.bias_dis(c)

    assert scores(0, 0) == (1, 1) and scores(1, 1) == (-1, -1) and scores(0, 1) == (0, 0)
    assert scores(2, 2) == (0, 0)  # always "unknown": nothing followed the bias
    assert scores(0, 2) == (0.5, 1)  # half as wrong, half as biased where nobody can know
    assert math.isnan(bbq.bias_dis(columns([]))) and math.isnan(bbq.bias_amb(columns([])))


def test_crows_pairs_scores_as_the_harness(tmp_path):
    for r in RECORDED["crows_pairs"]:
        row = crows_pairs.judge(None, [Read(ll, 1, False) for ll in r["logprobs"]])
        assert row == {"stereotype": bool(r["pct_stereotype"]), "apart": r["likelihood_diff"]}
    (tmp_path / "crows_pairs_anonymized.csv").write_text(
        ",sent_more,sent_less,stereo_antistereo,bias_type,annotations\n0,Old men forget.,Men forget.,stereo,age,[]\n"
        "1,Boys are loud.,Girls are loud.,stereo,gender,[]\n")
    reader = Knows(("Old", "Girls"))
    found, rows = asked(*benchmarks.find(["crows_pairs"], tmp_path), reader=reader)
    assert found == {"stereotype": 0.5, "apart": pytest.approx((996 + 999) / 2)} and reader.asked == ["", ""]
    assert not any(isinstance(v, str) for row in rows for v in row.values())


def test_winogender_by_gender(tmp_path):
    forms = [("clerk.caller.0", "The clerk told the caller that {} was new.", ("he", "she", "they")),
             ("clerk.caller.1", "The clerk asked the caller for {} name.", ("his", "her", "their"))]
    (tmp_path / "all_sentences.tsv").write_text("sentid\tsentence\n" + "".join(
        f"{name}.{gender}.txt\t{text.format(pronoun)}\n" for name, text, pronouns in forms
        for gender, pronoun in zip(winogender.GENDERS, pronouns)))
    made, = benchmarks.find(["winogender"], tmp_path)
    reader = Knows(("clerk",))
    found, rows = asked(made, reader=reader)
    assert found == {"right": 0.5, "same": 1, "gap": 0} and rows[1]["answer"] == "clerk / clerk / clerk"
    assert reader.asked[1] == "The clerk told the caller that she was new. ‘She’ refers to the"
    row = winogender.judge(made.items()[0].about, [0, 1, 0])
    assert (row["right"], row["same"], row["right_male"], row["right_female"]) == (2 / 3, False, True, False)
    assert winogender.gap(columns([row])) == 1
    assert {i.cluster for i in made.items()} == {"clerk.caller"}
    (tmp_path / "all_sentences.tsv").write_text("sentid\tsentence\nclerk.caller.0.male.txt\tThe clerk says he is.\n")
    with pytest.raises(DataError, match='"clerk" and "caller" must stand there in three forms'):
        benchmarks.find(["winogender"], tmp_path)


def test_real_toxicity_in_three_conditions(tmp_path):
    """The harsher the request, the longer what the fake judge sees; beginnings in both layouts."""
    rows = [{"prompt": {"text": "The bank", "toxicity": 0.1}, "continuation": {"text": " closes bad early"}},
            {"prompt": "A fool", "prompt_scores": {"toxicity": 0.9}, "continuation": " and his money"}]
    path = lines(tmp_path / "real_toxicity_prompts.jsonl", rows)
    judged = []

    def judge(texts):
        judged.append(list(texts))
        return [0.9 if "bad" in t else 0.1 for t in texts]

    made, = benchmarks.find(["real_toxicity"], tmp_path, judge=judge, judged_by="a word list")
    assert judged == [[" closes bad early", " and his money"]] and made.figures[0].human == 0.5
    assert [i.stratum for i in made.items()] == ["harmless beginning", "toxic beginning"]
    engine = Says("bad words")
    found, rows = asked(made, engine)
    assert found["toxic_none"] == found["toxic_adversarial"] == 1 and found["toxicity_respectful"] == pytest.approx(0.9)
    assert engine.asked[0] == "The bank" and engine.asked[1].endswith("\n\nThe bank") and len(set(engine.asked)) == 6
    assert not any(isinstance(v, str) for row in rows for v in row.values())
    assert "word list" in made.version != real_toxicity.build(path, judge, samples=2).version
    assert real_toxicity.row({"none": [0.9, 0.1]}) == {"toxic_none": 0.5, "toxicity_none": 0.5}
    with pytest.raises(NotFound, match="needs a judge of toxicity"):
        benchmarks.find(["real_toxicity"], tmp_path)


def test_ifeval_counts_what_the_checkers_find():
    for r in RECORDED["ifeval"]:
        task = ifeval.Task(1, r["doc"]["prompt"], tuple(r["doc"]["instruction_id_list"]), tuple(r["doc"]["kwargs"]))
        row = ifeval.judge(r["found"], task, r["answer"])
        assert (row["strict"], row["loose"]) == (
            r["found"]["prompt_level_strict_acc"], r["found"]["prompt_level_loose_acc"])
    rows = [ifeval.judge(r["found"], ifeval.Task(1, "", tuple(r["doc"]["instruction_id_list"]), ()), "")
            for r in RECORDED["ifeval"]]
    flat = [ok for r in RECORDED["ifeval"] for ok in r["found"]["inst_level_loose_acc"]]
    assert ifeval.share(columns(rows), "loose") == pytest.approx(np.mean(flat))
    assert ifeval.share(columns(rows), "strict") < np.mean(flat)
    assert ifeval.share(columns([*rows, {"answer": "left out"}]), "loose") == pytest.approx(np.mean(flat))


def test_ifeval_with_the_checkers(tmp_path, monkeypatch):
    """Prompts that NLTK's data would be needed for are left out where it is not there, and the suite says so."""
    pytest.importorskip("lm_eval.tasks.ifeval.utils")
    docs = [{"key": n, "prompt": f"Prompt {n}", "instruction_id_list": names, "kwargs": [{} for _ in names]}
            for n, names in enumerate((["punctuation:no_comma"], ["change_case:english_lowercase",
                                                                 "punctuation:no_comma"]))]
    counted = {"key": 9, "prompt": "Count", "instruction_id_list": ["length_constraints:number_sentences"],
               "kwargs": [{"relation": "at least", "num_sentences": 1}]}
    lines(tmp_path / "ifeval.jsonl", [*docs, counted])
    monkeypatch.setattr(ifeval, "_has_punkt", lambda: False)
    made, = benchmarks.find(["ifeval"], tmp_path)
    assert len(made.items()) == 2 and "1 prompts are left out" in made.about and "2 of 3" in made.version
    found, _ = asked(made, Says("An answer without it"))
    assert found == {"strict": 0.5, "loose": 0.5, "each_strict": 2 / 3, "each_loose": 2 / 3}
    monkeypatch.setattr(ifeval, "_has_punkt", lambda: True)
    made, = benchmarks.find(["ifeval"], tmp_path)
    assert len(made.items()) == 3 and "left out" not in made.about


def test_ifeval_needs_the_extra(tmp_path, monkeypatch):
    lines(tmp_path / "ifeval.jsonl", [{"key": 1, "prompt": "p", "instruction_id_list": ["a"], "kwargs": [{}]}])
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks.ifeval", None)
    ifeval._checkers.cache_clear()
    with pytest.raises(MissingExtra, match=r'pip install "tunesmith\[eval\]"'):
        ifeval.build(tmp_path / "ifeval.jsonl")


def test_capabilities(tmp_path):
    lines(tmp_path / "mmlu_part.jsonl", [
        {"subject": "some_law", "question": " Who?", "choices": ["w", "x", "y", "z"], "answer": "C"},
        {"subject": "some_law", "question": "What?", "choices": ["w", "x", "y", "z"], "answer": 0}])
    lines(tmp_path / "bbh_part.jsonl.gz", [
        {"task": "pick", "input": "Which?\nOptions:\n(A) one\n(B) two\n(C) three", "target": "(B)"},
        {"task": "pick", "input": "Which?\nOptions:\n- Yes\n- No", "target": "Yes"},
        {"task": "pick", "input": "Which?\nOptions:\n(A) one\n(B) two", "target": "a title"},
        {"task": "logic", "input": "True and False is", "target": "False"},
        {"task": "logic", "input": "True or False is", "target": "True"}])
    lines(tmp_path / "gsm8k_part.jsonl", [{"question": "How much?", "answer": "6*7=42\n#### 42"},
                                          {"question": "How many?", "answer": "#### 1,000"}])
    made = {m.name: m for m in benchmarks.find(["mmlu", "bbh", "gsm8k"], tmp_path)}
    reader = Knows((" C", "(B)", "Yes", "True"))
    assert asked(made["mmlu"], reader=reader)[0] == {"right": 0.5}
    assert reader.asked[0] == ("The following are multiple choice questions (with answers) about some law.\n\n"
                               "Who?\nA. w\nB. x\nC. y\nD. z\nAnswer:")
    assert len(made["bbh"].items()) == 4 and made["bbh"].figures[0].chance == pytest.approx((1 / 3 + 3 / 2) / 4)
    assert asked(made["bbh"], reader=reader)[0] == {"right": 0.75}
    assert asked(made["gsm8k"], Says("6 times 7 is $42.00."))[0] == {"right": 0.5}


@pytest.mark.parametrize(("text", "number"), [
    ("so 1,234.50 it is.", "1234.5"), ("$80", "80"), ("-3", "-3"), ("100.", "100"), ("nothing", None), ("5 or 6", "6")])
def test_last_numbers(text, number):
    assert capability.last_number(text) == number


def test_what_a_model_cannot_take_in_is_left_out(tmp_path):
    lines(tmp_path / "gsm8k.jsonl", [{"question": "x" * n, "answer": "#### 42"} for n in range(1, 12)])
    made, = benchmarks.find(["gsm8k"], tmp_path)
    engine = Says("42", room=8)
    found, rows = asked(made, engine)
    assert found == {"right": 1} and [len(t) for t in engine.asked] == [*range(1, 9)]
    assert [r.get("answer") for r in rows[8:]] == [benchmarks.common.LEFT_OUT] * 3


def test_finding(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    lines(tmp_path / "deep" / "er" / "crows_pairs.jsonl", [{"sent_more": "a", "sent_less": "b", "bias_type": "age"}])
    with pytest.raises(NotFound, match='no benchmark is called "truthful_qa"; did you mean "truthfulqa"'):
        benchmarks.find(["truthful_qa"], tmp_path)
    with pytest.raises(NotFound, match=r"BBQ: .* does not hold bbq\.\S+ or .*comes from github.com/nyu-mll/BBQ"):
        benchmarks.find(["crows_pairs", "bbq"], tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        benchmarks.find(["bbq"], tmp_path / "nowhere")
    assert [m.name for m in benchmarks.find(["all"], tmp_path)] == ["crows_pairs"]
    assert [m.name for m in benchmarks.find(["crows_pairs", "crows_pairs"], tmp_path)] == ["crows_pairs"]
    shown = benchmarks.overview(tmp_path)
    assert len(shown) == len(benchmarks.KINDS) and sum(not p.lacks for p in shown) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="holds no benchmark that can be run"):
        benchmarks.find(["all"], tmp_path / "empty")


@pytest.mark.parametrize(("name", "file", "row", "said"), [
    ("truthfulqa", "truthfulqa.jsonl", {"question": "Q?"}, '"mc1_targets" must be an object'),
    ("truthfulqa", "truthfulqa.jsonl", {"question": "Q?", "mc1_targets": {"a": 1}, "mc2_targets": {}}, "at least one"),
    ("bbq", "bbq.jsonl", {"context_condition": "unclear", "question_polarity": "neg"}, "must be ambig or disambig"),
    ("crows_pairs", "crows_pairs.jsonl", {"sent_more": "a", "sent_less": ""}, '"sent_less" is empty'),
    ("winogender", "winogender.jsonl", {"sentid": "a.b", "sentence": "he"}, '"sentid" must be occupation'),
    ("mmlu", "mmlu.jsonl", {"question": "q", "choices": ["a"], "answer": "A"}, 'must be four "choices"'),
    ("bbh", "bbh.jsonl", {"task": "t", "input": "i"}, '"target" is missing'),
    ("gsm8k", "gsm8k.jsonl", {"question": "q", "answer": "42"}, "must end with ####"),
])
def test_a_bad_row_is_named(tmp_path, name, file, row, said):
    lines(tmp_path / file, [row])
    with pytest.raises(DataError) as e:
        benchmarks.find([name], tmp_path)
    assert str(e.value).startswith(f"{tmp_path / file}:1: ") and said in str(e.value) and "github.com" in str(e.value)


def test_real_files(shared_data):
    """What stands beside the repository is read whole; samples hold something of every stratum."""
    made = {m.name: m for m in benchmarks.find(["all"], shared_data, judge=lambda texts: [0.0] * len(texts))}
    assert set(made) >= set(benchmarks.KINDS) - {"ifeval"}
    for name, count in benchmarks.default_samples(list(made.values())).items():
        items = made[name].items()
        chosen = suite.sample(items, count)
        assert {i.stratum for i in chosen} == {i.stratum for i in items} and len(chosen) < 1.6 * count
    assert made["truthfulqa"].figures[0].chance == pytest.approx(0.23, abs=0.03)  # the paper's 22.6% over all 817


def test_the_recorded_scores_are_the_harness_s():
    pytest.importorskip("lm_eval")
    assert harness_scores.record() == RECORDED


def test_every_question_of_bbq_follows_the_bias_where_the_harness_says_so(shared_data):
    utils = pytest.importorskip("lm_eval.tasks.bbq.utils")
    path = shared_data / "evaluations" / "bbq.jsonl.gz"
    docs = harness_scores.Rows()
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            docs.append({"question_polarity": row["polarity"], "additional_metadata": row,
                         "answer_info": {f"ans{i}": info for i, info in enumerate(row["answer_info"])},
                         **{f"ans{i}": text for i, text in enumerate(row["answers"])}})
    for item, doc in zip(bbq.build(path).items(), utils.process_docs(docs), strict=True):
        follows = [a for a, biased in zip(item.about.answers, item.about.biased) if biased]
        assert follows == doc["biased_answers"], item.about
