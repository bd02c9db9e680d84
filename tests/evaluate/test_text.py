from math import isnan

import numpy as np
import pytest

from tunesmith.evaluate import text
from tunesmith.records import Answer

VOCABULARY = [f"w{n}" for n in range(400)]


def speak(length, answers, seed=0, vocabulary=VOCABULARY):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(vocabulary, length)) for _ in range(answers)]


def test_words():
    assert text.words("It's 7.15% APR, isn't it? Naïve.") == ["it's", "7", "15", "apr", "isn't", "it", "naïve"]


def test_distinct_by_hand():
    assert text.distinct(["a b a b"], 1) == 0.5
    assert text.distinct(["a b a b"], 2) == pytest.approx(2 / 3)
    assert text.distinct(["a b", "a b"], 2) == 0.5           # no bigram across two answers
    assert isnan(text.distinct(["", "one"], 2))


def test_distinct_does_not_punish_length():
    short, long = speak(10, 300), speak(40, 300)
    size = text.common_sample([short, long], 1)
    assert size == 2000
    assert text.distinct(short, 1, sample=size) == pytest.approx(text.distinct(long, 1, sample=size), rel=0.03)
    plain = [text.distinct(t, 1, sample=10**9) for t in (short, long)]
    assert plain[0] > 3 * plain[1]                            # what the correction is for
    assert text.distinct(speak(10, 300, vocabulary=VOCABULARY[:40]), 1, sample=size) < 0.03


def test_common_sample_is_what_every_model_reaches():
    assert text.common_sample([["a b c", "d e"], ["a b c d e f"]], 2) == 3
    assert text.common_sample([[""]], 1) == 1


def test_repetition():
    assert text.repetition("a b c d e f") == 0
    assert text.repetition("a b c a b c") == pytest.approx(1 / 4)    # abc bca cab abc
    assert text.repetition("no " * 12) == pytest.approx(0.9)
    assert text.repetition("two words") == 0


def test_duplicates_ignore_case_and_marks():
    assert text.duplicates(["Yes.", "yes", "No!", "maybe"]) == 0.5
    assert isnan(text.duplicates([]))


def test_figures_of_one_answer_and_of_all():
    long = Answer("one two three four", tokens=(1, 2, 3), finished=False)
    assert {k: f(long) for k, f in text.PER_ANSWER.items()} == {"words": 4, "tokens": 3, "repetition": 0,
                                                                "unfinished": True}
    assert text.PER_ANSWER["tokens"](Answer("one")) is None and text.PER_ANSWER["unfinished"](Answer("one")) is False
    whole = text.of_all(["one two", "one two three four"])
    assert whole["distinct_1"] == pytest.approx(4 / 6) and whole["duplicates"] == 0 and len(whole) == 4
