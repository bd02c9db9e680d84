"""Every figure against its definition, a library or a case whose answer is known."""

import math

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from tunesmith.contracts import Read, Sampling
from tunesmith.errors import DataError
from tunesmith.evaluate import diversity, suite
from tunesmith.evaluate.diversity import Diversity, bleu, ead, similarities, vendi
from tunesmith.evaluate.suite import Subject
from tunesmith.evaluate.text import words
from tunesmith.records import Answer, Demonstration, Message, Prompt
from tunesmith.statistics import Interval

TEXTS = ["the cat sat on the mat", "a dog sat on the mat today", "the cat sat on the mat",
         "rates start at seven percent", "please send the form and we will look at it", "no", "the the the the",
         "on the mat the cat sat on"]


def prompts(count):
    return [Prompt((Message("user", f"say {i}"),)) for i in range(count)]


class Writer:
    """Draws words from a vocabulary of a given size; the narrower, the more alike its answers."""

    def __init__(self, size, logprob=-1.0):
        self.size, self.logprob = size, logprob

    def sample(self, asked, sampling, *, n=1, model="", progress=None):
        rng = np.random.default_rng((sampling.seed, len(asked)))
        vocabulary = [f"w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(self.size)]
        return [[Answer(" ".join(rng.choice(vocabulary, 12)), model, tuple(range(12)), (self.logprob,) * 12)
                 for _ in range(n)] for _ in asked]


class Likes:
    def read(self, contexts, texts, *, model="", cut=False, progress=None):
        return [[Read(-2.0 * len(t.split()), len(t.split()), False) for t in row] for row in texts]


def test_bleu_is_nltks():
    tokens = [words(t) for t in TEXTS]
    for i, hypothesis in enumerate(tokens):
        others = tokens[:i] + tokens[i + 1:]
        want = sentence_bleu(others, hypothesis, smoothing_function=SmoothingFunction().method1)
        assert bleu(hypothesis, others) == pytest.approx(want, abs=1e-12)
        assert bleu(hypothesis, others[:1]) == pytest.approx(sentence_bleu(
            others[:1], hypothesis, smoothing_function=SmoothingFunction().method1), abs=1e-12)
    assert diversity.self_bleu(["one two three four five"] * 4) == pytest.approx(1.0)
    assert bleu([], [["a"]]) == 0.0


def test_vendi_counts_what_is_different():
    assert vendi(np.eye(8)) == pytest.approx(8) and vendi(np.ones((8, 8))) == pytest.approx(1)
    blocks = np.kron(np.eye(2), np.ones((4, 4)))  # two kinds, four times each
    assert vendi(blocks) == pytest.approx(2)
    uneven = np.kron(np.diag([1.0, 0.0]), np.ones((6, 6)))[:8, :8]
    uneven[6:, 6:] = 1.0
    p = np.array([0.75, 0.25])
    assert vendi(uneven) == pytest.approx(math.exp(-(p * np.log(p)).sum()))


def test_distinct_words_over_what_chance_gives():
    """A writer who draws at random from the vocabulary has 1, however much it writes; plain shares fall."""
    rng = np.random.default_rng(0)
    vocabulary = [f"{a}{b}{c}" for a in "abcdefghij" for b in "abcdefghij" for c in "abcdefghij"]
    for length in (20, 200, 2000):
        found = np.mean([ead([" ".join(rng.choice(vocabulary, length))], 1, 1000) for _ in range(30)])
        assert found == pytest.approx(1.0, abs=0.02)
    assert ead(["a b", "a b"], 1, 4) == pytest.approx(2 / (4 * (1 - 0.75 ** 4)))
    assert ead(["a b", "a b"], 2, 4) == pytest.approx(1 / (16 * (1 - (15 / 16) ** 2)))
    assert math.isnan(ead(["a"], 2))


def test_embeddings_tell_texts_apart_and_need_no_order_of_calls():
    kernel = similarities(TEXTS)
    assert np.allclose(np.diag(kernel), 1) and kernel[0, 2] == pytest.approx(1) and kernel[0, 3] < 0.3
    assert kernel[0, 1] > kernel[0, 4]
    assert np.linalg.eigvalsh(kernel).min() > -1e-9
    assert np.allclose(similarities(TEXTS[:2]), kernel[:2, :2])
    assert similarities(["", ""])[0, 1] == pytest.approx(1)


def rows(writer, count=24, **how):
    tests = Diversity(prompts(count), sampling=Sampling(seed=1), **how)
    return suite.run(tests, Subject("m", writer, "m", Likes()), tests.items())


def test_a_narrow_writer_is_told_from_a_wide_one():
    wide, narrow, alike = rows(Writer(400)), rows(Writer(3, -0.2)), rows(Writer(400))
    found = diversity.ratios(narrow, wide)
    assert found["vendi"].high < 0.5 and found["distinct_2"].high < 0.5 and found["self_bleu"].low > 2
    assert found["entropy"].value == pytest.approx(0.2)
    assert diversity.collapsed(found).startswith("variety has collapsed: ")
    same = diversity.ratios(alike, wide)
    assert all(i.low <= 1 <= i.high for k, i in same.items()) and diversity.collapsed(same) == ""
    told = diversity.section({"base": wide, "ppo": narrow}, "base")
    assert told["models"]["ppo"]["collapsed"] and told["reference"] == "base"


def test_what_people_wrote_is_read_where_somebody_can():
    demonstrations = [Demonstration((*p.messages, Message("assistant", "four words of answer"))) for p in prompts(5)]
    human = diversity.human_answers(demonstrations)
    found = rows(Writer(50), 8, human=human)
    assert [r["human"] for r in found] == [2.0] * 5 + [None] * 3
    assert diversity.ratios([{**r, "human": r["human"] and 3.0} for r in found], found)["human"].value == pytest.approx(
        math.exp(-1.0))
    assert "0.37 times as likely" in diversity.collapsed({"human": Interval(0.37, 0.3, 0.45, 9)})
    assert not diversity.collapsed({"human": Interval(0.45, 0.3, 0.55, 9), "vendi": Interval(0.3, 0.2, 0.4, 9)})
    tests = Diversity(prompts(2), human=human)
    assert all(r["human"] is None for r in tests.measure(Subject("m", Writer(50)), tests.items()))
    with pytest.raises(DataError, match="at least 2"):
        Diversity(prompts(2), samples=1)


def test_the_suite_makes_a_section_with_intervals_and_changes():
    tests = Diversity(prompts(12), sampling=Sampling(seed=1))
    found = {name: suite.run(tests, Subject(name, Writer(size)), tests.items()) for name, size in (("base", 300),
                                                                                                    ("ppo", 4))}
    told = suite.section(tests, tests.items(), found)
    by_key = {r["key"]: r for r in told["rows"]}
    assert by_key["vendi"]["changes"][0]["difference"]["high"] < 0 and by_key["vendi"]["changes"][0]["p"] < 0.01
    assert "human" not in by_key
