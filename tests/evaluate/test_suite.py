"""Suites: samples that nest, runs that go on, intervals by cluster, models side by side."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from tunesmith.contracts import Sampling
from tunesmith.errors import DataError, UserError
from tunesmith.evaluate import suite as suites
from tunesmith.evaluate.suite import Figure, Item, Subject
from tunesmith.records import Answer, Message


@dataclass
class Echo:
    """Answers with the model's name."""

    asked: list = field(default_factory=list)

    def sample(self, prompts, sampling, *, n=1, model="", progress=None):
        self.asked += prompts
        return [[Answer(f"{model} says {p[0].content}") for _ in range(n)] for p in prompts]


@dataclass
class Lengths:
    """How long answers are, one at a time; dies at the item `dies`."""

    count: int = 6
    dies: str = ""
    name: str = "lengths"
    title: str = "Lengths"
    about: str = "how long answers are"
    source: str = "ours"
    version: str = "1"
    figures: tuple = (Figure("length", "Length", "", ""), Figure("long", "Long answers", chance=0.5),
                      Figure("spread", "Spread", "", of=lambda c: float(np.std(c["length"]))))

    def items(self):
        return [Item(str(i), "x" * i, stratum="odd" if i % 2 else "even") for i in range(self.count)]

    def measure(self, subject, items):
        for item in items:
            if item.id == self.dies:
                raise RuntimeError("the power went")
            text = subject.answers([(Message("user", item.about),)], Sampling())[0][0].text
            yield {"length": len(text), "long": len(text) > 8, "answer": text}


def test_a_sample_takes_every_stratum_and_grows_without_changing():
    items = [Item(str(i), None, stratum="rare" if i < 3 else "common") for i in range(100)]
    small, large = suites.sample(items, 10), suites.sample(items, 40)
    assert {i.id for i in small} <= {i.id for i in large} and 9 <= len(small) <= 12
    assert {i.stratum for i in small} == {"rare", "common"}
    many = [Item(str(i), None, stratum="rare" if i < 50 else "common") for i in range(5000)]
    assert sum(i.stratum == "rare" for i in suites.sample(many, 100)) == 25
    assert suites.sample(items, 10) == small != suites.sample(items, 10, seed=1)
    assert suites.sample(items, 0) == items == suites.sample(items, 100)


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    kept, engine = tmp_path / "a" / "rows.jsonl", Echo()
    subject = Subject("m", engine, "m")
    whole = suites.run(Lengths(), subject, Lengths().items())
    with pytest.raises(RuntimeError):
        suites.run(Lengths(dies="3"), subject, Lengths().items(), kept)
    with kept.open("a") as f:
        f.write('{"item": "3", "row"')  # killed while it wrote
    engine.asked.clear()
    done = []
    assert suites.run(Lengths(), subject, Lengths().items(), kept, done.append) == whole
    assert len(engine.asked) == 3 and done == [3, 1, 1, 1]
    engine.asked.clear()
    assert suites.run(Lengths(), subject, Lengths().items(), kept) == whole and engine.asked == []
    assert all(map(json.loads, kept.read_text().splitlines()))


def test_rows_of_another_model_or_version_are_not_taken(tmp_path):
    kept, engine = tmp_path / "rows.jsonl", Echo()
    suites.run(Lengths(), Subject("m", engine, "m", fingerprint="1"), Lengths().items(), kept)
    for subject, version in ((Subject("m", engine, "m", fingerprint="2"), "1"), (Subject("m", engine, "m"), "2")):
        engine.asked.clear()
        suites.run(Lengths(version=version), subject, Lengths().items(), kept)
        assert len(engine.asked) == 6


def test_intervals_are_by_cluster():
    """Ten copies of each item are no more evidence than one."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=40)
    rows = [{"x": float(v)} for v in values]
    copies, clusters = [r for r in rows for _ in range(10)], [str(n) for n in range(40) for _ in range(10)]
    figure = Figure("x", "x", "")
    one, ten = suites.interval(figure, rows), suites.interval(figure, copies, clusters)
    assert ten.value == pytest.approx(one.value) and ten.high - ten.low == pytest.approx(one.high - one.low, rel=0.1)
    spread = Figure("x", "x", "", of=lambda c: float(c["x"].std()))
    one, ten = suites.interval(spread, rows), suites.interval(spread, copies, clusters)
    assert ten.high - ten.low == pytest.approx(one.high - one.low, rel=0.2)
    assert one.low < float(values.std()) < one.high
    difference, p = suites.change(figure, copies, [{"x": 0.0}] * 400, clusters)
    again, q = suites.change(figure, rows, [{"x": 0.0}] * 40)
    assert difference.value == pytest.approx(again.value) and p == pytest.approx(q, abs=0.05)


def test_models_side_by_side():
    suite, engine = Lengths(count=40), Echo()
    items = suite.items()
    rows = {name: suites.run(suite, Subject(name, engine, name), items) for name in ("a", "abc")}
    found = suites.section(suite, items, rows, notes=["one"])
    assert found["items"] == found["of"] == 40 and found["notes"] == ["one"] and len(found["samples"]) == 3
    length, long, spread = found["rows"]
    change = length["changes"][0]
    assert (change["model"], change["baseline"], change["difference"]["value"]) == ("abc", "a", 2.0)
    assert change["p"] < 0.001 and change["difference"]["low"] == 2.0
    assert spread["changes"][0]["difference"]["value"] == 0 and spread["changes"][0]["p"] == 1
    assert long["measurable"] and length["models"]["a"]["value"] == 7 + 19.5
    sample = found["samples"][0]
    assert set(sample["answers"]) == {"a", "abc"} and sample["answers"]["a"]["answer"].startswith("a says")
    json.dumps(found)


def test_what_lies_at_chance_is_not_measured():
    suite = Lengths(count=40)
    coin = [{"length": 1, "long": bool(i % 2)} for i in range(40)]
    rows = {"a": coin, "b": coin}
    long = suites.section(suite, suite.items(), rows)["rows"][1]
    assert not long["measurable"] and long["chance"] == 0.5


def test_a_figure_that_applies_nowhere_is_left_out():
    suite = Lengths(count=4)
    assert [r["key"] for r in suites.section(suite, suite.items(), {"a": [{"long": True}] * 4})["rows"]] == ["long"]


def test_bad_suites_and_subjects():
    engine = Echo()

    class Short(Lengths):
        def measure(self, subject, items):
            yield {"length": 1}

    with pytest.raises(DataError, match='lengths gave no row for the item "1"'):
        suites.run(Short(), Subject("m", engine), Lengths().items())
    with pytest.raises(DataError, match='two items are called "0"'):
        suites.run(Lengths(), Subject("m", engine), Lengths().items()[:1] * 2)
    with pytest.raises(UserError, match="m only writes"):
        Subject("m", engine).read(["a"], [["b"]])
