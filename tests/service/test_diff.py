"""Diffs of edits: both texts can be read back from one, and phrases stay together."""

import time

from hypothesis import given
from hypothesis import strategies as st

from tunesmith.service.diff import changes

texts = st.text(st.sampled_from("ab \n.,é"), max_size=40)


def read(found, without):
    return "".join(text for kind, text in found if kind != without)


@given(texts, texts)
def test_both_texts_can_be_read_back(old, new):
    found = changes(old, new)
    assert read(found, "new") == old and read(found, "gone") == new


@given(texts)
def test_equal_texts_have_no_changes(text):
    assert changes(text, text) == ([("same", text)] if text else [])


def test_words_are_compared_and_phrases_stay_together():
    assert changes("The rate is 7.5 percent.", "The rate is 7.9 percent.") == [
        ("same", "The rate is "), ("gone", "7.5"), ("new", "7.9"), ("same", " percent.")]
    assert changes("You should pay it now.", "You must repay it now.") == [
        ("same", "You "), ("gone", "should pay"), ("new", "must repay"), ("same", " it now.")]
    assert changes("", "New.") == [("new", "New.")]


def test_long_texts_take_no_time():
    old = "\n".join(f"line {n} says {n * 7919 % 1000}" for n in range(20_000))
    new = "\n".join(f"line {n} tells {n * 104729 % 1000}" for n in range(20_000))
    start = time.perf_counter()
    found = changes(old, new)
    assert time.perf_counter() - start < 2
    assert read(found, "new") == old and read(found, "gone") == new
