"""Recipes: which rows, in which views, at which rates."""

import re
from collections import Counter

import pytest

from tunesmith.data import mixture
from tunesmith.data.mixture import EXAMPLES, Chosen, blend, render, survey
from tunesmith.errors import DataError, SettingsError
from tunesmith.records import Demonstration, Message
from tunesmith.settings.mixing import Recipe

SUM = {"file": "sum", "cluster": "arithmetic", "direct": [["{a} + {b}?", "{c}"], ["Add {a} and {b}.", "It is {c}."]],
       "thought": [["{a} + {b}? Explain.", "{why} So {c}."]], "inverted": [["Which sum gives {c}?", "{a} + {b}"]]}
MOOD = {"file": "mood", "cluster": "sentiment", "direct": [["{text} Good or bad?", "{label}"]],
        "words": {"label": {"0": "bad", "1": "good"}}}
CHAT = {"data": "chat"}
ROWS = {"sum": [{"a": i, "b": 1, "c": i + 1, "why": f"one more than {i}."} for i in range(200)],
        "mood": [{"text": f"text {i}.", "label": i % 2, "kind": f"k{i % 3}"} for i in range(50)],
        "chat": [Demonstration((Message("user", f"hi {i}"), Message("assistant", "hello"))) for i in range(7)]}


def read(spec):
    name = spec.file or spec.data
    return [(f"{name}:{i}", row) for i, row in enumerate(ROWS[name], 1)]


def make(tasks, held_out_part=False, **how):
    recipe = Recipe(tasks=tasks, **how)
    tasks, counts, skipped = survey(recipe, read), Counter(), Counter()
    rows = list(render(recipe, tasks, read, counts, skipped, held_out_part))
    return rows, blend(recipe, tasks, counts), skipped


def texts(rows):
    return [(r.source, *(m.content for m in r.messages)) for r in rows]


def test_every_row_is_shown_in_every_view_that_is_wanted():
    views = {"zero_shot": 1, "few_shot": 1, "thought": 1, "inverted": 1}
    rows, found, skipped = make({"sum": SUM, "mood": MOOD, "chat": CHAT}, views=views)
    assert not skipped
    assert {s.name: s.rows for s in found.sources} == Counter(r.source for r in rows) == {
        **dict.fromkeys(["sum/zero_shot", "sum/few_shot", "sum/thought", "sum/inverted"], 200),
        "mood/zero_shot": 50, "mood/few_shot": 50, "chat/zero_shot": 7}
    by = {source: [r for r in rows if r.source == source] for source in (s.name for s in found.sources)}
    assert {m.messages[0].content.split()[0] for m in by["sum/zero_shot"]} >= {"Add"}
    assert {re.sub(r"\d+", "N", r.messages[-1].content) for r in by["sum/zero_shot"]} == {"N", "It is N."}
    assert by["sum/thought"][4].messages[-1].content == "one more than 4. So 5."
    assert by["sum/inverted"][4].messages == (Message("user", "Which sum gives 5?"), Message("assistant", "4 + 1"))
    assert by["mood/zero_shot"][3].messages[-1].content == "good"
    assert by["chat/zero_shot"][0].messages == ROWS["chat"][0].messages


def test_examples_are_other_rows_of_the_task_in_the_same_words_and_nothing_is_learned_of_them():
    rows, *_ = make({"sum": SUM}, views={"zero_shot": 0, "few_shot": 1}, shots=3)
    shots = Counter()
    for r in rows:
        *before, ask, said = r.messages
        prompts = [ask.content, *(m.content for m in before[::2])]
        assert len(set(prompts)) == len(prompts)
        assert len({p.startswith("Add") for p in prompts}) == 1
        assert [m.weight for m in r.messages if m.role == "assistant"] == [0] * (len(before) // 2) + [1]
        for question, answer in zip([*before[::2], ask], [*before[1::2], said]):
            numbers = [int(n) for n in re.findall(r"\d+", question.content)]
            assert sum(numbers) == int(re.findall(r"\d+", answer.content)[0])
        shots[len(before) // 2] += 1
    assert set(shots) == {1, 2, 3} and min(shots.values()) > 40


def test_examples_are_kept_in_bounded_number():
    recipe = Recipe(tasks={"sum": SUM}, views={"few_shot": 1})
    kept = survey(recipe, read)["sum"].examples
    assert len(kept) == EXAMPLES and max(row["a"] for row in kept) > 150


def test_rates_are_those_of_t5():
    """min(rows, cap) ** (1 / T), shared among the views; a pass counts each task with its rows up to the cap."""
    tasks = {"sum": SUM, "mood": {**MOOD, "weight": 2.0}, "chat": CHAT}
    _, found, _ = make(tasks, cap=100, views={"zero_shot": 3, "few_shot": 1})
    whole = 100 + 2 * 50 + 7
    assert {s.name: pytest.approx(s.rate) for s in found.sources} == {
        "sum/zero_shot": 75 / whole, "sum/few_shot": 25 / whole, "mood/zero_shot": 75 / whole,
        "mood/few_shot": 25 / whole, "chat/zero_shot": 7 / whole}
    assert found.size == 157
    _, found, _ = make(tasks, cap=100, temperature=2.0)
    assert found.sources[0].rate / found.sources[2].rate == pytest.approx((100 / 7) ** 0.5)


def test_one_file_may_hold_many_tasks():
    rows, found, _ = make({"mood": {**MOOD, "by": "kind", "cluster": "feel {kind}"}})
    assert [(s.name, s.cluster, s.rows) for s in found.sources] == [
        (f"mood.k{i}/zero_shot", f"feel k{i}", n) for i, n in enumerate((17, 17, 16))]
    rows, found, _ = make({"one": {**MOOD, "where": {"kind": "k1"}}})
    assert len(rows) == 17 and all("text 1." in r.messages[0].content for r in rows[:1])


def test_a_large_task_gives_a_sample_of_all_its_rows():
    rows, found, _ = make({"sum": SUM}, rows=50)
    asked = [int(re.findall(r"\d+", r.messages[0].content)[0]) for r in rows]
    assert len(asked) == 50 == found.sources[0].rows and max(asked) > 180 and asked == sorted(set(asked))


def test_every_sample_is_alike():
    """Each of 6 rows is among the 2 chosen in a third of all cases."""
    found = Counter()
    for seed in range(6000):
        chosen = Chosen(6, 2, str(seed))
        hits = [i for i in range(6) if chosen.next()]
        assert len(hits) == 2
        found.update(hits)
    assert all(abs(n - 2000) < 5 * (6000 * 2 / 9) ** 0.5 for n in found.values())


def test_nothing_of_a_held_out_cluster_is_learned():
    how = dict(held_out=["sentiment"], held_out_rows=10, views={"zero_shot": 0, "few_shot": 1})
    rows, found, _ = make({"sum": SUM, "mood": MOOD}, **how)
    assert {r.source for r in rows} == {"sum/few_shot"} == {s.name for s in found.sources}
    kept, _, _ = make({"sum": SUM, "mood": MOOD}, held_out_part=True, **how)
    assert {r.source for r in kept} == {"mood/zero_shot"} and len(kept) == 10
    assert all(len(r.messages) == 2 for r in kept)


def test_a_recipe_gives_the_same_rows_again_and_another_seed_others():
    views = {"zero_shot": 1, "few_shot": 1}
    one, two, other = (texts(make({"sum": SUM}, views=views, seed=seed)[0]) for seed in (1, 1, 2))
    assert one == two != other


def test_rows_without_words_are_left_out_and_counted(monkeypatch):
    rows = [{"text": "a", "label": " "}, {"text": "b", "label": "1"}]
    monkeypatch.setitem(ROWS, "mood", rows)
    made, found, skipped = make({"mood": MOOD})
    assert len(made) == 1 == found.sources[0].rows and skipped == {"empty question or answer": 1}
    monkeypatch.setitem(ROWS, "mood", rows[1:])
    made, found, skipped = make({"mood": MOOD}, views={"few_shot": 1})
    assert {s.name for s in found.sources} == {"mood/zero_shot"} and skipped == {"no other row to be an example": 1}


@pytest.mark.parametrize(("tasks", "how", "said"), [
    ({"mood": {**MOOD, "direct": [["{txt}", "{label}"]]}}, {}, r'mood:1: no field "txt"; there is: text, label, kind'),
    ({"mood": {**MOOD, "by": "sort"}}, {}, r'mood:1: no field "sort"'),
    ({"mood": {**MOOD, "cluster": "{kind}"}}, {}, r'mood:2: task "mood" is in two clusters'),
    ({"mood": {**MOOD, "where": {"kind": "x"}}}, {}, r'task "mood" has no rows: mood where'),
    ({"mood": MOOD}, {"held_out": ["sentimant"]}, r'no task is in cluster "sentimant"; did you mean "sentiment"'),
    ({"mood": MOOD}, {"held_out": ["sentiment"]}, r"nothing is left to learn from"),
    ({"mood": MOOD}, {"views": {"zero_shot": 0, "thought": 1}}, r"templates for none of the views"),
    ({"mood": {**MOOD, "direct": [["{text", "x"]]}}, {}, r"template '{text'"),
])
def test_mistakes_say_what_where_and_how(tasks, how, said):
    with pytest.raises((DataError, SettingsError), match=said):
        make(tasks, **how)


@pytest.mark.parametrize(("task", "said"), [
    ({"direct": [["a", "b"]]}, "either file or data"), ({"file": "x"}, "needs direct templates"),
    ({"data": "x", "by": "y"}, "conversations already")])
def test_a_task_is_a_file_with_templates_or_a_dataset(task, said):
    with pytest.raises(SettingsError, match=said):
        Recipe(tasks={"t": task})


def test_a_mixture_is_read_back_from_beside_its_rows(workspace):
    rows, found, _ = make({"sum": SUM})
    made = [workspace.add_dataset(name, "demonstrations", iter(rows), beside=lambda text=text: {mixture.FILE: text})
            for name, text in (("one", found.dump(Recipe(tasks={"sum": SUM}))),
                               ("two", found.dump(Recipe(tasks={"sum": SUM}, seed=1))))]
    plain = workspace.add_dataset("plain", "demonstrations", rows)
    assert mixture.Mixture.of(made[0]) == found and mixture.Mixture.of(plain) is None
    assert len({d.fingerprint for d in (*made, plain)}) == 3
    assert list(made[0].rows()) == rows
    (made[0].path / mixture.FILE).write_text(found.dump(Recipe(tasks={"sum": SUM}, cap=1)))
    with pytest.raises(DataError, match=r"one is damaged: mixture\.json was altered"):
        mixture.Mixture.of(made[0])
