"""What leaks is found, what only resembles it is not, and everything is counted."""

from dataclasses import dataclass

from tunesmith.data.leakage import Evaluations, Item, texts_in
from tunesmith.records import Message

QUESTION = "what is the annual percentage rate of a loan of ten thousand euros over five years"
FILLER = "thank you for your message we are glad to help you with this today"


def watch(*items, **how):
    return Evaluations([Item("exam", tuple(i) if isinstance(i, tuple | list) else (i,)) for i in items], **how)


def test_an_item_inside_a_row_is_found():
    exam = watch("something else entirely that nobody ever asks of a bank", QUESTION)
    assert exam.leaks([f"{FILLER} {QUESTION.upper()}?! {FILLER}"]) == [1]
    assert exam.leaks([FILLER]) == []
    assert exam.found.to_dict()["evaluations"]["exam"]["leaked"] == 1
    assert (exam.found.rows, exam.found.leaky) == (2, 1)
    assert exam.found.share("exam").value == 0.5


def test_most_of_an_item_is_enough_and_less_is_not():
    """16 words are 9 runs of eight; without the last three 6 of them are left, without the last two 7."""
    said = QUESTION.split()
    assert len(said) == 16
    assert watch(QUESTION).leaks([" ".join(said[:-2])]) == [0]  # 7 of 9 > 0.7
    assert watch(QUESTION).leaks([" ".join(said[:-3])]) == []  # 6 of 9
    assert watch(QUESTION, share=0.6).leaks([" ".join(said[:-3])]) == [0]
    assert watch(QUESTION, share=1.0).leaks([" ".join(said[:-2])]) == []


def test_a_run_does_not_reach_over_turns():
    half = QUESTION.split()
    assert watch(QUESTION).leaks([" ".join(half[:7]), " ".join(half[7:])]) == []


def test_a_short_item_must_be_a_whole_turn():
    exam = watch("Is seven prime?", "Thank you")
    assert exam.leaks(["is SEVEN prime"]) == [0]
    assert exam.leaks(["tell me: is seven prime?"]) == []
    assert exam.leaks(["Thank you"]) == []
    assert exam.found.too_short == {"exam": 1} and exam.found.looked_for == {"exam": 1}


def test_short_answers_beside_a_long_question_are_not_looked_for():
    assert watch((QUESTION, "it is not")).leaks(["it is not"]) == []


def test_several_items_in_one_row_and_one_item_in_several_rows():
    other = "please list every document that i need for a mortgage application"
    exam = watch(QUESTION, other)
    assert sorted(exam.leaks([QUESTION, other])) == [0, 1]
    assert exam.leaks([other]) == [1]
    assert (exam.found.leaky, exam.found.items) == (2, {"exam": {0, 1}})


def test_an_evaluation_of_nothing_finds_nothing():
    exam = Evaluations([])
    assert exam.leaks([QUESTION]) == [] and exam.leaks([]) == []


def test_texts_of_a_suites_item():
    @dataclass
    class About:
        messages: tuple
        options: dict
        number: int = 3

    about = About((Message("system", "rules"), Message("user", "which?")), {"a": ["one", ("two",)]})
    assert list(texts_in(about)) == ["which?", "one", "two"]
