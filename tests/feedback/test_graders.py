"""OpenAI's graders: what each gives, what they say of bad samples and bad JSON, and what attackers write into them."""

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import DataError, GraderError, MissingExtra, UserError
from tunesmith.feedback import similarity
from tunesmith.feedback.expressions import Case, Ungraded, formula, template
from tunesmith.feedback.graders import GraderScorer, check_rows, item, parse
from tunesmith.feedback.grading import ERRORS, Reply
from tunesmith.records import Message, Prompt


def check(operation="eq", input="{{sample.output_text}}", reference="{{item.answer}}", **more):
    return {"type": "string_check", "name": "check", "operation": operation, "input": input, "reference": reference,
            **more}


def alike(metric, **more):
    return {"type": "text_similarity", "name": "alike", "input": "{{sample.output_text}}",
            "reference": "{{item.answer}}", "evaluation_metric": metric, **more}


def judge(**more):
    return {"type": "score_model", "name": "judge", "model": "m", "range": [0, 10],
            "input": [{"role": "developer", "content": "You grade."},
                      {"role": "user", "content": "{{item.answer}} or {{ sample.output_text }}"}], **more}


def labels(**more):
    return {"type": "label_model", "name": "label", "model": "m", "labels": ["good", "bad"],
            "passing_labels": ["good"], "input": [{"role": "user", "content": "{{sample.output_text}}"}], **more}


def multi(formula, **graders):
    return {"type": "multi", "name": "all", "graders": graders, "calculate_output": formula}


def reward(spec, sample, item=None, **said):
    graded = parse(spec).score(item or {"answer": "Paris"}, sample, **said)
    assert set(graded.errors) <= set(ERRORS)
    return graded.reward


# What each gives

@pytest.mark.parametrize(("operation", "sample", "expected"), [
    ("eq", "Paris", 1), ("eq", "paris", 0), ("eq", "Paris ", 0), ("ne", "Paris", 0), ("ne", "paris", 1),
    ("like", "It is Paris.", 1), ("like", "It is paris.", 0), ("like", "Par", 0),
    ("ilike", "it is PARIS", 1), ("ilike", "London", 0)])
def test_string_check(operation, sample, expected):
    assert reward(check(operation), sample) == expected


ROUGE_AND_BLEU = [  # text, reference, rouge-score 0.1.2 (1 to 5, L; no stemmer), sacreBLEU 2.6.0 (exp, effective order)
    ("The cat sat on the mat.", "A cat was sitting on the mat", .615385, .363636, .222222, 0, 0, .615385, .274825),
    ("fuzzy wuzzy was a bear", "fuzzy wuzzy had no hair", .4, .25, 0, 0, 0, .4, .213644),
    ("to be or not to be that is the question", "to be or not to be", .75, .714286, .666667, .6, .5, .75, .516973),
    ("nothing alike", "wholly different words", 0, 0, 0, 0, 0, 0, 0),
    ("Paris", "Paris", 1, 0, 0, 0, 0, 1, 1),
    ("a b c d e f g a b c", "a b c x e f g a", .777778, .625, .428571, .166667, 0, .777778, .379918)]


@pytest.mark.parametrize("row", ROUGE_AND_BLEU, ids=lambda row: row[0])
def test_rouge_and_bleu_are_those_of_their_reference_implementations(row):
    text, answer, *expected = row
    names = [*(f"rouge_{n}" for n in range(1, 6)), "rouge_l", "bleu"]
    found = [reward(alike(name), text, {"answer": answer}) for name in names]
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_other_similarities():
    wuzzy = {"answer": "fuzzy wuzzy had no hair"}
    assert reward(alike("cosine"), "Fuzzy wuzzy was a bear", wuzzy) == pytest.approx(2 / 5)
    assert reward(alike("cosine"), "b a a", {"answer": "a b b"}) == pytest.approx(4 / 5)
    # 5 + 4 + 3 + 2 = 14 n-grams each; 2 words and 1 pair are common
    assert reward(alike("gleu"), "fuzzy wuzzy was a bear", wuzzy) == pytest.approx(3 / 14)
    # one run of 2 of 5 words: F = 2/5, penalty 0.5 * (1/2)^3
    assert reward(alike("meteor"), "fuzzy wuzzy was a bear", wuzzy) == pytest.approx(0.4 * (1 - 0.5 / 8))
    assert reward(alike("meteor"), "loans", {"answer": "loan"}) == pytest.approx(0.5)  # by its stem
    assert reward(alike("fuzzy_match"), "new york mets", {"answer": "New York Mets!"}) == 1
    assert 0.5 < reward(alike("fuzzy_match"), "new york mets", {"answer": "new york yankees"}) < 1


@pytest.mark.parametrize("metric", similarity.METRICS)
def test_similarity_is_1_for_the_same_0_for_nothing_and_reads_every_script(metric):
    same = "the rate of this loan is seven and a half percent"
    assert reward(alike(metric), same, {"answer": same}) == pytest.approx(1, abs=1e-3)  # METEOR: 1 - 0.5 / 11^3
    chinese = "这 是 一 个 很 好 的 答案"
    assert reward(alike(metric), chinese, {"answer": chinese}) > 0.99
    for text, reference in (("", same), (same, ""), ("", ""), ("!?", same)):
        assert reward(alike(metric), text, {"answer": reference}) == 0


@given(st.text(max_size=60), st.text(max_size=60))
def test_similarity_stays_between_0_and_1(text, reference):
    for metric in similarity.METRICS.values():
        assert 0 <= metric(text, reference) <= 1


def test_a_metric_without_its_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(similarity, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "tunesmith\[graders\]"'):
        parse(alike("bleu"))
    assert parse(alike("cosine")) and parse(check())


def test_numbers_and_objects_are_compared_as_json():
    assert reward(check(reference="{{item.n}}"), "42", {"n": 42}) == 1
    assert reward(check(reference="{{item.n}}"), "1.0", {"n": 1.0}) == 1
    assert reward(check(reference="{{item.flag}}"), "true", {"flag": True}) == 1
    assert reward(check(input="{{sample.output_json.age}}", reference="{{item.age}}"), '{"age": 7}', {"age": "7"}) == 1
    assert reward(check(reference="{{item.a}}"), '{"b": ["é"]}', {"a": {"b": ["é"]}}) == 1


# Models as graders

def says(text, asked=None):
    def ask(question):
        if asked is not None:
            asked.append(question)
        return Reply(text, "m-2026", 7)
    return ask


@pytest.mark.parametrize(("said", "expected", "error"), [
    ('{"steps": [], "result": 7.5}', 7.5, False), ('{"result": 12}', 10, False), ('{"result": -3}', 0, False),
    ('Sure!\n```json\n{"result": 4}\n```', 4, False), ("6", 6, False), ('{"result": "3.5"}', 3.5, False),
    ('{"result": "good"}', 0, True), ("no idea", 0, True), ("", 0, True), ('{"result": true}', 0, True),
    ('{"result": NaN}', 0, True), ('{"result": 1e999}', 0, True), ('{"score": 5}', 0, True), ("{" * 5000, 0, True)])
def test_score_model_is_cut_to_its_range_and_0_without_a_number(said, expected, error):
    """As the guide has it: "truncated to the given range, and default to 0 for all non-numeric outputs"."""
    graded = parse(judge()).score({"answer": "x"}, "y", says(said))
    assert graded.reward == expected and bool(graded.errors) == error
    assert graded.tokens == {"m-2026": 7}
    assert not error or list(graded.errors) == ["model_grader_parse_error"]


def test_what_a_model_grader_asks():
    asked = []
    parse(judge(sampling_params={"temperature": 0, "seed": 3, "reasoning_effort": None})).score(
        {"answer": "{{sample.output_text}}"}, "y", says("1", asked))
    question = asked[0]
    assert question.messages == (Message("system", "You grade."), Message("user", "{{sample.output_text}} or y"))
    assert question.model == "m" and question.sampling == {"temperature": 0, "seed": 3}
    assert question.schema["properties"]["result"] == {"type": "number", "minimum": 0, "maximum": 10}
    assert question.spelled_out[0].content.startswith("You grade.\n\nAnswer with JSON")
    assert question.spelled_out[0].content.endswith('"result": a number from 0 to 10}')
    assert question.spelled_out[1:] == question.messages[1:]


def test_label_model_passes_or_not():
    for said, expected, errors in (('{"result": "good"}', 1, []), ("bad", 0, []),
                                   ('{"result": "Good"}', 0, ["model_grader_parse_error"])):
        graded = parse(labels()).score({}, "y", says(said))
        assert (graded.reward, list(graded.errors)) == (expected, errors)
    assert parse(labels()).models() == {"m"} and not parse(check()).models()


def test_a_model_that_does_not_answer_or_will_not_is_an_error_of_the_sample():
    def refuses(question):
        raise Ungraded("model_grader_refusal_error", "I would rather not")

    assert list(parse(judge()).score({"answer": ""}, "y", refuses).errors) == ["model_grader_refusal_error"]
    graded = parse(judge()).score({"answer": ""}, "y")
    assert graded.reward == 0 and '"m"' in graded.errors["model_grader_server_error"]


# Several together

PERSON = multi("(name + email) / 2",
               name=alike("fuzzy_match", input="{{sample.output_json.name}}", reference="{{item.name}}",
                          pass_threshold=0.9),
               email=check(input="{{sample.output_json.email}}", reference="{{item.email}}"))
JOHN = {"name": "John Doe", "email": "john@x.org"}


def test_multi_is_its_formula_over_its_parts():
    graded = parse(PERSON).score(JOHN, json.dumps(JOHN))
    assert (graded.reward, graded.sub_rewards, graded.errors) == (1, {"name": 1, "email": 1}, {})
    graded = parse(PERSON).score(JOHN, json.dumps({"name": "Jon Doe", "email": "john@y.org"}))
    assert graded.sub_rewards["email"] == 0 and 0.4 < graded.reward < 0.5


def test_a_part_that_cannot_be_graded_counts_nothing_and_says_so():
    graded = parse(PERSON).score(JOHN, '{"name": "John Doe"}')
    assert graded.reward == 0.5
    assert graded.errors == {"sample_parse_error": "email: the model's output has no sample.output_json.email"}
    graded = parse(PERSON).score(JOHN, "John Doe")
    assert graded.reward == 0 and "not JSON" in graded.errors["sample_parse_error"]


def test_tokens_of_several_model_graders_add_up():
    spec = multi("a + b / 10 + c", a=judge(), b=judge(), c=check())
    graded = parse(spec).score({"answer": "y"}, "y", says("1"))
    assert graded.reward == pytest.approx(2.1) and graded.tokens == {"m-2026": 14}
    assert parse(spec).models() == {"m"} and {str(p) for p in parse(spec).paths()} == {"item.answer",
                                                                                      "sample.output_text"}


def test_one_grader_in_the_place_of_many_is_named_by_its_name():
    """The clients' types have one grader under "graders", the guide has several by name: both are taken."""
    spec = {"type": "multi", "name": "all", "graders": check(), "calculate_output": "check / 2"}
    assert reward(spec, "Paris") == 0.5


# Formulas

@pytest.mark.parametrize(("text", "expected"), [
    ("0.5 * a + 0.5 * b", 0.75), ("a ^ 2", 0.25), ("2 ^ 3 ^ 2", 512), ("-a ^ 2", -0.25), ("2 ** 3", 8),
    ("a + b ^ 2", 1.5), ("min(a, b)", 0.5), ("max(a, b, 3)", 3), ("abs(a - b)", 0.5), ("floor(a) + ceil(a)", 1),
    ("exp(0) + log(1) + sqrt(4)", 3), (" ( a ) ", 0.5), ("+a", 0.5), ("1e-3 * a", 0.0005), ("a/b", 0.5)])
def test_formulas(text, expected):
    assert formula(text, ("a", "b"), "f").value({"a": 0.5, "b": 1.0}) == pytest.approx(expected)


HOSTILE = [
    "__import__('os').system('true')", "().__class__.__bases__[0].__subclasses__()", "a.__class__", "a.real", "a[0]",
    "(lambda: a)()", "[x for x in (a, b)]", "{a}", "{'a': a}", "'a' * 10", "f'{a}'", "a if a else b", "a or b", "not a",
    "a < b", "(x := 3)", "a @ b", "a % b", "a // b", "a << 99999999", "a | b", "~a", "1j", "None", "True", "...", "*a",
    "min(*a)", "min(a, key=b)", "min()", "sqrt(a, b)", "pow(a, b)", "eval('1')", "open(a)", "max", "print(a)", "c",
    "min(min)", "(min)(a).real", "(a)(b)", "a; b", "a\n+ b", "import os", "", "a +", "((((", "1e999", "9" * 400,
    "ａ", "а + 1", "𝐦𝐢𝐧(a)", "a\u200b", "a # b\u2028", "\0", "a" * 1001, "+".join(["a"] * 200), "-" * 900 + "a",
    "(" * 300 + "a" + ")" * 300, "abs(" * 60 + "a" + ")" * 60, "await a", "yield a", "__debug__", "a if", "0x", "1_",
    "NotImplemented", "a.b.c", "\\", "$a", "`a`", "a ? b : c"]


@pytest.mark.parametrize("text", HOSTILE, ids=[f"{n} {t[:20]!r}" for n, t in enumerate(HOSTILE)])
def test_a_formula_holds_numbers_names_and_a_few_functions_and_nothing_else(text):
    with pytest.raises(GraderError, match=r"^grader\.calculate_output: ") as caught:
        formula(text, ("a", "b"), "grader.calculate_output")
    assert caught.value.param == "grader.calculate_output" and len(str(caught.value)) < 400


@pytest.mark.parametrize("text", [
    "a / 0", "log(0)", "log(-1)", "sqrt(-1)", "exp(1000)", "9 ^ 9 ^ 9 ^ 9", "10 ^ 400", "0 ^ -1", "(-1) ^ 0.5",
    "1e308 * 10", "1e308 * 10 - 1e308 * 10", "floor(1e308 * 10)", "9^9^9^9^9^9^9^9^9^9^9^9", "-(1e308 * 10)"])
def test_what_has_no_finite_value_is_an_error_of_the_sample_at_once(text):
    found, start = formula(text, ("a",), "f"), time.perf_counter()
    with pytest.raises(Ungraded) as caught:
        found.value({"a": 1.0})
    assert caught.value.flag == "formula_parse_error" and time.perf_counter() - start < 0.1
    graded = parse(multi(text, a=check())).score({"answer": "Paris"}, "Paris")
    assert graded.reward == 0 and list(graded.errors) == ["formula_parse_error"] and graded.sub_rewards == {"a": 1}


@given(st.text("ab0123456789.+-*/^(), minmaxabsexplogsqrt_[]{}'\"=<>:", max_size=60))
def test_any_text_is_a_formula_with_a_finite_value_or_refused(text):
    try:
        value = formula(text, ("a", "b"), "f").value({"a": 0.5, "b": 2.0})
    except (GraderError, Ungraded):
        return
    assert isinstance(value, float) and math.isfinite(value)


# Templates

def rendered(text, item=None, sample="out"):
    return template(text, "t").render(Case(item or {}, sample))


ROW = {"answer": "Paris", "lines": [{"unit price": 3, "it's": 4}, "two"], "nested": {"a": {"b": None}}}


@pytest.mark.parametrize(("text", "expected"), [
    ("", ""), ("plain { } }} {% if %} {# #}", "plain { } }} {% if %} {# #}"), ("{{item.answer}}", "Paris"),
    ("{{ item . answer }}!", "Paris!"), ("{{item['answer']}}", "Paris"), ('{{item["answer"]}}', "Paris"),
    ("{{item.lines[1]}}", "two"), ('{{item.lines[0]["unit price"]}}', "3"), ('{{item.lines[0]["it\'s"]}}', "4"),
    ("{{item.nested.a.b}}", "null"), ("{{item.nested}}", '{"a": {"b": null}}'),
    ('{"smiles": "{{item.answer}}"}', '{"smiles": "Paris"}'), ("{{sample.output_text}}{{item.answer}}", "outParis"),
    ("{{\n item.answer\n}}", "Paris")])
def test_templates(text, expected):
    assert rendered(text, ROW) == expected


def test_what_is_filled_in_is_not_read_again():
    assert rendered("{{item.answer}}", {"answer": "{{sample.output_text}}"}) == "{{sample.output_text}}"
    assert rendered("{{sample.output_text}}", {"secret": 1}, "{{item.secret}}") == "{{item.secret}}"


@pytest.mark.parametrize("text", [
    "{{", "{{item.a", "{{}}", "{{ }}", "{{item}}", "{{sample}}", "{{item.}}", "{{item..a}}", "{{.a}}", "{{a}}",
    "{{items.a}}", "{{config.a}}", "{{item.a|upper}}", "{{item.a + 1}}", "{{item.a()}}", "{{item.a b}}", "{{item[a]}}",
    "{{item[-1]}}", "{{item[0:2]}}", "{{item.a['b]}}", '{{item["a\\"b"]}}', "{{7*7}}", "{{item.__class__()}}",
    "{{ ''.__class__ }}", "{{{item.a}}}", "{{sample.output}}", "{{sample.output_tools[0]}}", "{{sample.output_audio}}",
    "{{sample.choices[0].message}}", "{{sample.output_text.x}}", "{{sample[0]}}", "{{item.1a}}", "{{item.a-b}}",
    "{{item" + ".a" * 20 + "}}", "{{item.a}}" * 101, "x" * 50_001, "{{" * 20_000, "{{item[" + "9" * 50 + "]}}",
    "{{item.a\0}}", "{% raw %}{{ x }}{% endraw %}", "{{range.constructor}}"])
def test_a_placeholder_is_a_path_and_nothing_else(text):
    start = time.perf_counter()
    with pytest.raises(GraderError, match=r"grader\.input: ") as caught:
        template(text, "grader.input")
    assert time.perf_counter() - start < 0.5
    assert caught.value.param == "grader.input" and len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["{{item.missing}}", "{{item.__class__}}", "{{item.answer.x}}", "{{item.lines[2]}}",
                                  "{{item.lines.0x}}".replace("0x", "x"), "{{item.answer[0]}}", "{{item.nested[0]}}",
                                  "{{item.lines[0].__len__}}", "{{item.keys}}", "{{item.nested.a.b.c}}"])
def test_a_field_that_the_row_lacks_is_an_error_of_the_sample(text):
    graded = parse(check(reference=text)).score(ROW, "Paris")
    assert graded.reward == 0 and list(graded.errors) == ["invalid_variable_error"]
    assert "this row has no item." in graded.errors["invalid_variable_error"]


@pytest.mark.parametrize("sample", ["no json", "", "{'a': 1}", "[1, 2", "NaN", '{"b": 1}', "[]", "7", "[" * 100_000,
                                    '{"a": ' * 50_000, "1" * 5000])
def test_an_output_that_is_not_the_json_that_is_read_earns_nothing(sample):
    graded = parse(check("like", input="{{sample.output_json.a}}", reference="")).score({}, sample)
    assert graded.reward == 0 and list(graded.errors) == ["sample_parse_error"]


def test_texts_have_a_largest_size():
    long = "x " * 15_000
    graded = parse(alike("meteor")).score({"answer": long}, "x")
    assert graded.reward == 0 and list(graded.errors) == ["truncated_observation_error"]
    graded = parse(check("like", input="{{sample.output_text}}" * 4)).score({"answer": "x"}, long)
    assert list(graded.errors) == ["truncated_observation_error"]
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert list(parse(check()).score({"answer": deep}, "x").errors) == ["truncated_observation_error"]
    while deep:  # taken apart by hand: the interpreter's own way is recursive
        deep = deep[0]


@pytest.mark.parametrize("metric", similarity.METRICS)
def test_the_largest_texts_take_no_time_to_speak_of(metric):
    a, b = ("".join(f"{chr(97 + n * k % 26)}{n * k % 977} " for n in range(4000))[:19_000] for k in (1, 7))
    start = time.perf_counter()
    similarity.METRICS[metric](a, b)
    assert time.perf_counter() - start < 3


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                    max_leaves=8), st.text(max_size=20))
def test_any_row_and_any_output_get_a_finite_reward(value, sample):
    for spec in (check(reference="{{item.v}}"), check(input="{{sample.output_json.v}}", reference="{{item.v[0]}}")):
        graded = parse(spec).score({"v": value}, sample)
        assert graded.reward in (0, 1) and set(graded.errors) <= set(ERRORS)


# What is refused

@pytest.mark.parametrize(("spec", "param", "said"), [
    (None, "grader", "JSON object"), ([], "grader", "JSON object"), ({}, "grader.type", "required"),
    ({"type": 3}, "grader.type", "text"), ({"type": "string_chek"}, "grader.type", 'did you mean "string_check"'),
    ({"type": "python", "name": "p", "source": "def grade(sample, item): return 1.0"}, "grader.type", "no sandbox"),
    (check(name=""), "grader.name", "1 to 200"), (check(name="a\nb"), "grader.name", "printable"),
    (check(name=None), "grader.name", "required"), (check(operation="neq"), "grader.operation", "eq, ne, like, ilike"),
    (check(input=3), "grader.input", "text"), (check(reference=None), "grader.reference", "required"),
    (check(pass_treshold=1), "grader.pass_treshold", "no such field"), (check(input="{{x}}"), "grader.input", "item."),
    (check(extra=1), "grader.extra", "no such field"), (alike("rouge_9"), "grader.evaluation_metric", "rouge_1"),
    (judge(range=[1, 0]), "grader.range", "smaller first"), (judge(range=[0]), "grader.range", "two numbers"),
    (judge(range=["0", "1"]), "grader.range", "two numbers"), (judge(range=[0, float("inf")]), "grader.range", "two"),
    (judge(range="01"), "grader.range", "two numbers"), (judge(model=" "), "grader.model", "characters"),
    (judge(input="grade"), "grader.input", "list"), (judge(input=[]), "grader.input", "list"),
    (judge(input=["x"]), "grader.input[0]", "object"),
    (judge(input=[{"role": "judge", "content": "x"}]), "grader.input[0].role", "one of"),
    (judge(input=[{"role": "user", "content": {"type": "input_image", "image_url": "file:///etc/passwd"}}]),
     "grader.input[0].content", "pictures"),
    (judge(input=[{"role": "user", "content": "{{item}}"}]), "grader.input[0].content", "needs a name"),
    (judge(sampling_params={"temperature": 3}), "grader.sampling_params.temperature", "from 0 to 2"),
    (judge(sampling_params={"seed": True}), "grader.sampling_params.seed", "whole number"),
    (judge(sampling_params={"top_k": 3}), "grader.sampling_params.top_k", "top_p"),
    (judge(sampling_params=[1]), "grader.sampling_params", "object"),
    (labels(labels=[]), "grader.labels", "different texts"), (labels(labels=["a", "a"]), "grader.labels", "different"),
    (labels(passing_labels=["goood"]), "grader.passing_labels", 'did you mean "good"'),
    (multi("a"), "grader.graders", "1 to 32"), (multi("a", **{"a b": check()}), "grader.graders", "formula"),
    (multi("a", **{"min": check()}), "grader.graders", "formula"),
    (multi("a", **{"None": check()}), "grader.graders", "formula"),
    (multi("a", **{"ａ": check()}), "grader.graders", "formula"),
    (multi("a", a=check(operation="x")), "grader.graders.a.operation", "one of"),
    (multi("a", a=multi("b", b=check())), "grader.graders.a.type", "inside another"),
    (multi("a + bb", a=check(), b=check()), "grader.calculate_output", 'no "bb"'),
    (multi("a", a={"type": "python", "name": "p", "source": ""}), "grader.graders.a.type", "no sandbox"),
    (multi("a", **{f"a{n}": check() for n in range(33)}), "grader.graders", "1 to 32")])
def test_a_bad_grader_is_refused_by_the_name_of_the_field(spec, param, said):
    with pytest.raises(GraderError) as caught:
        parse(spec)
    assert caught.value.param == param and said in str(caught.value) and str(caught.value).startswith(param)


def test_errors_are_named_as_the_caller_calls_the_grader():
    with pytest.raises(GraderError) as caught:
        parse(check(operation="x"), "method.reinforcement.grader")
    assert caught.value.param == "method.reinforcement.grader.operation"


def test_text_parts_are_texts():
    spec = judge(input=[{"type": "message", "role": "user", "content": [
        "a", {"type": "input_text", "text": "{{item.x}}"}, {"type": "output_text", "text": "c"}]}])
    asked = []
    parse(spec).score({"x": 1}, "", says("1", asked))
    assert asked[0].messages == (Message("user", "a\n1\nc"),)


# As a judge of a prompt's answers

def test_a_scorer_gives_a_reward_per_answer_and_says_what_went_wrong():
    scorer = GraderScorer(parse(PERSON))
    prompt = Prompt((Message("user", "who?"),), facts=JOHN)
    assert scorer.score(prompt, [json.dumps(JOHN), "{}", "no"]) == [1, 0, 0]
    assert scorer.figures() == pytest.approx({"grader_errors": 2 / 3, "sample_parse_error": 2 / 3, "reward_name": 1 / 3,
                                              "reward_email": 1 / 3})
    assert scorer.figures() == {"grader_errors": 0}  # of the answers since


def test_answers_judged_at_once_keep_their_order():
    def slow_for_short(question):
        time.sleep(0.02 / len(question.messages[-1].content))
        return Reply(question.messages[-1].content)

    grader = parse(judge(input=[{"role": "user", "content": "{{sample.output_text}}"}]))
    prompt = Prompt((Message("user", "?"),))
    assert GraderScorer(grader, slow_for_short, at_once=4).score(prompt, ["1", "2.00000", "3", "4"]) == [1, 2, 3, 4]


def test_no_answer_from_the_graders_model_is_no_zero():
    with pytest.raises(UserError, match="judge got no answer"):
        GraderScorer(parse(judge())).score(Prompt((Message("user", "?"),), facts={"answer": ""}), ["a"])


def test_the_rows_are_checked_before_anything_is_written():
    rows = [Prompt((Message("user", "?"),), facts={"answer": "a"}), Prompt((Message("user", "!"),), "loans")]
    check_rows(parse(check()), rows[:1], "data")
    check_rows(parse(check(reference="{{item.messages[0].content}}")), rows, "data")
    with pytest.raises(DataError, match=r'data:2: this row has no item.answer, which the grader "check" reads; it has '
                                        "domain, messages"):
        check_rows(parse(check()), rows, "data")
    assert item(rows[1]) == {"messages": [{"role": "user", "content": "!"}], "domain": "loans"}
