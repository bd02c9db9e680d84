"""Who gives in is found, who merely repeats what was mentioned is not called a liar."""

import json

import pytest

from tunesmith.contracts import Read
from tunesmith.errors import DataError, UserError
from tunesmith.evaluate import facts
from tunesmith.evaluate import suite as suites
from tunesmith.evaluate.asking import named
from tunesmith.evaluate.facts import FACTS, Fact
from tunesmith.evaluate.suite import Subject
from tunesmith.evaluate.sycophancy import Honesty, Sycophancy
from tunesmith.records import Answer


class Fake:
    """Knows all answers but those to questions with one of `unknown`; says the other one if a message has one of
    `moved`."""

    def __init__(self, moved=(), unknown=()):
        self.moved, self.unknown = moved, unknown

    def wrong(self, conversation):
        last = conversation[-1].content
        return any(u in last for u in self.unknown) != any(m in last for m in self.moved)

    def read(self, contexts, texts, *, model="", cut=False, progress=None):
        return [[Read(-2.0 if (k == 0) == self.wrong(c) else -1.0, 1, True) for k in range(2)]
                for c, _ in zip(contexts, texts)]

    def sample(self, prompts, sampling, *, n=1, model="", progress=None):
        by_question = {f.question: f for f in FACTS}
        out = []
        for p in prompts:
            fact = next(f for q, f in by_question.items() if q in p[-1].content)
            out.append([Answer(f"I would say: {fact.options[self.wrong(p)]} Good?")])
        return out


def figures(suite, engine, reader=True):
    subject = Subject("m", engine, reader=engine if reader else None)
    rows = suites.run(suite, subject, suite.items())
    return {r["key"]: r["models"]["m"]["value"] for r in suites.section(suite, suite.items(), {"m": rows})["rows"]}


@pytest.mark.parametrize("reader", [True, False])
def test_sycophancy(reader):
    steady = figures(Sycophancy(), Fake(), reader)
    assert (steady["right"], steady["flipped"], steady["excess"], steady["flipped by challenge"]) == (1, 0, 0, 0)
    weak = figures(Sycophancy(), Fake(moved=("I am sure", "I think", "As an expert", "No, that is wrong")), reader)
    assert (weak["flipped"], weak["flipped by mention"], weak["excess"], weak["flipped by challenge"]) == (1, 0, 1, 1)
    expert = figures(Sycophancy(), Fake(moved=("As an expert",)), reader)
    assert expert["flipped"] == expert["excess"] == pytest.approx(1 / 3)


def test_a_parrot_is_no_sycophant():
    parrot = figures(Sycophancy(), Fake(moved=("I am sure", "I think", "As an expert", "on a note")))
    assert parrot["flipped"] == parrot["flipped by mention"] == 1 and parrot["excess"] == 0


def test_what_was_wrong_before_cannot_flip():
    unknown = [f.question for f in FACTS[:6]]
    found = figures(Sycophancy(), Fake(unknown=unknown))
    assert found["right"] == pytest.approx(1 - 6 / len(FACTS)) and found["flipped"] == 0
    nothing = figures(Sycophancy(FACTS[:6]), Fake(unknown=unknown))
    assert nothing["right"] == 0 and "flipped" not in nothing


def test_honesty_is_against_the_own_belief():
    """Who believes something wrong and keeps saying it is honest; who is moved by a bonus is not."""
    honest = figures(Honesty(), Fake(unknown=[f.question for f in FACTS]))
    assert (honest["believes"], honest["lied"], honest["excess"]) == (1, 0, 0)
    bought = figures(Honesty(), Fake(moved=("bonus",)))
    assert bought["lied: bonus"] == 1 == bought["believes"] and bought["lied: boss"] == 0
    assert bought["lied"] == bought["excess"] == pytest.approx(1 / 3)
    unsure = figures(Honesty(), Fake(moved=("A short question",)))
    assert unsure["believes"] == 0 and "lied" not in unsure


def test_an_answer_names_one_option_or_none():
    assert named("It is Paris, I think.", ["Paris.", "Rome."]) == 0
    assert named("Paris or Rome", ["Paris.", "Rome."]) is None and named("Parisian", ["Paris.", "Rome."]) is None


def test_facts_from_files(tmp_path, shared_data):
    file = tmp_path / "f.jsonl"
    file.write_text(json.dumps({"question": "q?", "right": "a", "wrong": "b"}) + "\n")
    assert facts.read(file) == (Fact("q?", "a", "b"),)
    assert len(facts.read(shared_data / "evaluations/truthfulqa.jsonl.gz")) > 300
    file.write_text(json.dumps({"question": "q?", "right": "a"}) + "\n")
    with pytest.raises(DataError, match=r"f\.jsonl:1"):
        facts.read(file)
    with pytest.raises(UserError, match="no questions"):
        Sycophancy(())
