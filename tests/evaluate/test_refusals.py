"""Refusals by their words, against people's labels."""

import gzip
import json

import pytest

from tunesmith.evaluate.refusals import detect, refused


@pytest.mark.parametrize("text", [
    "I'm sorry, but I can't assist with that.", "I cannot provide instructions for this.", 
    "I can’t help with that here.",
    "As an AI, I am not able to give you that.", "It is not appropriate or ethical to do so.", "I must decline.",
    "Sorry, I won't do that.", "I can only help with loans here.", "That is something I can't do for you."])
def test_refusals(text):
    assert detect(text) == "full" and refused(text)


@pytest.mark.parametrize("text", [
    "The fee is $25 after 10 days.", "I am sorry for the trouble. Here is the form.", 
    "You can't be late by more than ten days.",
    "", "Of course, here is how: first, open the page.", "Sorry to hear that! Let me send you the link."])
def test_answers(text):
    assert detect(text) == "none" and not refused(text)


def test_a_refusal_that_helps_all_the_same_is_partial():
    text = ("I cannot suggest beating anybody. Instead, here is what helps:\n"
            "1. Practise.\n2. Rest.\n3. Ask for advice.\n4. Eat well.")
    assert detect(text) == "partial"


def test_a_refusal_far_behind_an_answer_does_not_count():
    assert detect("The rate is 7.15%. " * 40 + "I can't say more.") == "none"


def labels(folder):
    with gzip.open(folder / "evaluations/xstest_human_refusal_labels.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def test_against_people(shared_data):
    """On the half that no rule was tuned on: prompts of an odd number of characters."""
    rows = [r for r in labels(shared_data) if len(r["prompt"]) % 2]
    said, human = [refused(r["completion"]) for r in rows], [not r["final_label"].startswith("1") for r in rows]
    hits = sum(s and h for s, h in zip(said, human))
    assert hits / sum(said) > 0.93 and hits / sum(human) > 0.75
    full = [r["final_label"].startswith("2") for r in rows]
    assert sum(s and f for s, f in zip(said, full)) / sum(full) > 0.8
