from math import log

from tunesmith.feedback.features import style, words


def test_words_are_whole_small_and_without_marks():
    assert words("It's 3.5% — the rate, THE rate_card!") == {"it's", "3", "5", "the", "rate", "card"}


def test_style_counts_what_is_marked_up():
    text = "# Rates\n- **fixed** rate\n* floating\n1. call us\nnot - a list, 2 * 3"
    assert style(text) == {"length": log(1 + 17), "lists": 3.0, "headings": 1.0, "bold": 1.0}
    assert style("") == {"length": 0.0, "lists": 0.0, "headings": 0.0, "bold": 0.0}
