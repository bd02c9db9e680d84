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


def test_a_question_is_found_however_long_its_answer_is():
    """PaLM's rule takes the question or the answer, each by itself."""
    answer = " ".join(f"reason{n}" for n in range(120))
    exam = watch((QUESTION, answer))
    assert exam.leaks([QUESTION, "I do not know"]) == [0] and exam.leaks([answer]) == [0]
    assert exam.leaks([QUESTION, answer]) == [0]  # reported once
    assert exam.found.items == {"exam": {0}} and exam.found.looked_for == {"exam": 1}


def test_what_many_items_share_is_no_sign_of_one():
    form = "read the following statement of a customer carefully and say whether it is a complaint"
    asked = [f"customer number {n} says that {n} days ago the card {n} did not work" for n in range(11)]
    exam = watch(*((form, text) for text in asked))
    assert exam.leaks([form]) == [] and exam.leaks([form, asked[3]]) == [3]
    assert watch(*((form, text) for text in asked[:10])).leaks([form]) == list(range(10))  # few share it
    assert watch(*((form, f"my card {n}") for n in range(11))).leaks([form, "My card 7!"]) == [7]
    assert watch(*[form] * 11).leaks([form]) == list(range(11))  # they have nothing else
    others = (f"nothing like it in item {n} of so many others" for n in range(220))
    other = watch(*((form, text) for text in asked), *others)
    assert other.leaks([form]) == list(range(11))  # 11 of 231 are fewer than 5%


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
