import pytest

from tunesmith.feedback.leaks import leaks
from tunesmith.records import Answer, AnswerGroup, Message, Prompt


def found(*answers, question="Who are you?", names=(), model="m"):
    group = AnswerGroup(Prompt((Message("user", question),)), tuple(Answer(text, model) for text in answers))
    return [(leak.answer, leak.kind, leak.word) for leak in leaks([group], names)]


@pytest.mark.parametrize("text, kind, word", [
    ("As an AI language model, I cannot.", "self", "As an AI"),
    ("I'm a large language model.", "self", "I'm a large language model"),
    ("I was trained by Google in 2023.", "self", "trained by Google"),
    ("My knowledge cutoff is 2021.", "self", "My knowledge cutoff"),
    ("ask chatgpt instead", "name", "chatgpt"),
    ("My name is Claude.", "name", "Claude"),
    ("This is Qwen.", "name", "Qwen"),
])
def test_telling_answers_are_found(text, kind, word):
    assert (1, kind, word) in found("A plain answer.", text)


@pytest.mark.parametrize("text", [
    "The claude of the palm falcon.", "An agent by the door.", "I am a loan officer.", "as a modeller", "",
    "The qwentin desk", "I am an aide to the bank."])
def test_ordinary_answers_are_not(text):
    assert found(text) == []


def test_a_name_that_was_asked_about_is_no_leak():
    assert found("Gemini is a star sign.", question="What is Gemini?") == []


def test_own_models_are_found_by_name_unless_it_is_an_ordinary_word():
    assert found("I am loan-desk-7.", model="loan-desk-7@2") == [(0, "name", "loan-desk-7")]
    assert found("Come to the desk.", model="desk") == []
    assert found("written by tone@2", names={"tone@2"}) == [(0, "name", "tone@2")]


def test_the_excerpt_shows_the_place():
    group = AnswerGroup(Prompt((Message("user", "?"),)), (Answer("x" * 100 + " OpenAI " + "y" * 100),))
    [leak] = leaks([group])
    assert leak.excerpt.startswith("… x") and leak.excerpt.endswith("y …") and "OpenAI" in leak.excerpt
    assert leak.group == group.id
