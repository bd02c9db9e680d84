"""Decisions are those of the authors' code (recorded); the loop asks, sorts out and remembers."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tunesmith.data import selfinstruct, taskfiles
from tunesmith.data.selfinstruct import Made, Pool, Task
from tunesmith.errors import DataError, NotFound, UserError
from tunesmith.records import Answer, Demonstration, Message

REFERENCE = json.loads(Path(__file__).with_name("curation_reference.json").read_text())
SEEDS = [Task("Explain what an overdraft is.", (("", "Money that the bank lends you on your account."),)),
         Task("Translate the sentence into German.", (("Good morning.", "Guten Morgen."),)),
         Task("Is the message angry or calm?", (("Where is my money?!", "angry"),), True)]


@pytest.mark.parametrize(("text", "kept"), REFERENCE["lists"])
def test_instructions_are_sorted_out_as_the_authors_do(text, kept):
    mine = [i for i in selfinstruct.instructions(text) if not selfinstruct.unfit(i)]
    assert [i.capitalize() for i in mine] == kept


@pytest.mark.parametrize(("text", "whole", "cut"), REFERENCE["generated"])
def test_examples_are_sorted_out_as_the_authors_do(text, whole, cut):
    assert sorted(map(list, selfinstruct.examples(text, False))) == whole
    assert sorted(map(list, selfinstruct.examples(text, False, finished=False))) == cut


@pytest.mark.parametrize(("text", "whole", "cut"), REFERENCE["labelled"])
def test_labelled_examples_are_sorted_out_as_the_authors_do(text, whole, cut):
    assert sorted(map(list, selfinstruct.examples(text, True))) == whole
    assert sorted(map(list, selfinstruct.examples(text, True, finished=False))) == cut


def test_the_reference_says_yes_and_no():
    """Else the tests above could not fail."""
    for name in ("generated", "labelled"):
        assert Counter(bool(row[1]) for row in REFERENCE[name]).keys() == {True, False}
    assert sum(len(kept) for _, kept in REFERENCE["lists"]) > 8


def test_what_is_new_is_what_rouge_score_says():
    """The pool of all texts but one: the highest score, and the decision."""
    for text, scores in zip(REFERENCE["said"], REFERENCE["rouge"]):
        if not text.isascii():
            continue  # rouge-score reads ASCII alone
        others = [(t, s) for t, s in zip(REFERENCE["said"], scores) if t != text and t.isascii()]
        highest = max(s for _, s in others)
        mine = Pool([t for t, _ in others]).nearest(text)
        assert (mine > 0.7) == (highest > 0.7)
        if highest > 0.7:
            assert mine == pytest.approx(highest, abs=1e-12)
    assert Pool(["Translate the sentence into French."]).nearest("Translate this sentence to French") == pytest.approx(
        6 / 10)


def test_an_answer_that_was_cut_loses_its_last_instruction():
    text = " Write a letter to my bank.\n10. Explain how"
    assert selfinstruct.instructions(text, finished=False) == ["Write a letter to my bank."]
    assert selfinstruct.instructions("9. Name the NATO members in order.") == ["Name the NATO members in order."]


def test_prompts_hold_the_tasks_and_wait():
    assert selfinstruct.ask_for_instructions(["Do  this:", "Do that."]).endswith("1. Do this\n2. Do that.\n3.")
    asked = selfinstruct.ask_for_examples("Sort these.", True, SEEDS)
    assert "Class label: angry\nWhere is my money?!" in asked and "overdraft" not in asked
    assert asked.endswith("Task: Sort these.\n")
    assert "Class label: Complaint" in selfinstruct.ask_for_examples("Sort these.", True, SEEDS[:2])
    plain = selfinstruct.ask_for_examples("Say it.", False, SEEDS)
    assert "Input: Good morning.\nOutput: Guten Morgen." in plain and "Where is my money" not in plain


class Writer:
    """Makes up tasks by rule; keeps what it was asked."""

    def __init__(self):
        self.asked, self.lists = [], 0

    def sample(self, prompts, sampling, *, n=1, model="", progress=None):
        self.asked.append((list(prompts), sampling))
        return [[Answer(self.say(p if isinstance(p, str) else p[0].content))] for p in prompts]

    def say(self, prompt):
        if prompt.endswith("Is it classification?"):
            return " Yes" if "Decide" in prompt.rsplit("Task:", 1)[1] else " No"
        if prompt.rsplit("\n", 1)[1] == "":
            last = prompt.rsplit("Task:", 1)[1]
            if "nothing" in last:
                return "I do not know."
            return "Class label: yes\nThe form is signed." if "Decide" in last else f"Input: {len(last)}\nOutput: done"
        self.lists += 1
        a, b = f"alpha{self.lists} beta{self.lists}", f"gamma{self.lists} delta{self.lists}"
        return (f" Describe {a} to {b}.\n10. Decide {b} whether {a} holds.\n11. Explain what an overdraft is!\n"
                f"12. Ask {a} for nothing {b} useful.\n13. Draw {a}, please, {b}.")


def test_a_round_asks_sorts_out_and_remembers():
    writer = Writer()
    rounds = selfinstruct.bootstrap(writer, SEEDS, requests=2, seed=7)
    first = next(rounds)
    assert [m.task.classification for m in first.made] == [False, True] * 2
    assert first.made[1].task.examples == (("The form is signed.", "yes"),)
    assert first.said == 10
    assert first.left_out == {"instruction: like one that is there": 2, "instruction: needs more than text (draw)": 2,
                              "task: no usable example": 2}
    assert [len(prompts) for prompts, _ in writer.asked] == [2, 6, 6]  # ideas; kinds; examples
    assert [m.request for m in first.made] == [0, 0, 1, 1]
    assert set(first.made[0].shown) == {t.instruction for t in SEEDS}
    second = next(rounds)
    own = {m.task.instruction for m in first.made}
    assert all(len(own & set(m.shown)) == 2 for m in second.made)  # two of its own among those shown
    assert second.requests == (2, 3)


def test_the_same_seed_and_pool_make_the_same_requests():
    def asked(start, pool, seed=7):
        writer = Writer()
        next(selfinstruct.bootstrap(writer, SEEDS, pool, requests=2, start=start, seed=seed))
        return writer.asked[0]

    pool = [Task(f"Count number {n} to number {n} in word{n}.") for n in range(9)]
    assert asked(4, pool) == asked(4, pool)
    assert asked(4, pool) != asked(6, pool)
    assert asked(4, pool, seed=8) != asked(4, pool)


def test_chat_asks_as_a_user():
    writer = Writer()
    next(selfinstruct.bootstrap(writer, SEEDS, requests=1, chat=True))
    assert all(p[0].role == "user" for prompts, _ in writer.asked for p in prompts)


def test_demonstrations_wait_for_a_review_and_say_where_they_come_from():
    made = Made(Task("Translate.", (("Hello", "Hallo"), ("", "Nichts"))), 3, ("a", "b"), 0.2)
    source = selfinstruct.provenance(made, "tiny@1", "seeds.jsonl")
    found = selfinstruct.demonstrations(made, source, "CC0")
    assert [[m.content for m in d.messages] for d in found] == [["Translate.\n\nHello", "Hallo"],
                                                                ["Translate.", "Nichts"]]
    assert {(d.review, d.licence) for d in found} == {("pending", "CC0")}
    assert found[0].source.startswith("self-instruct by tiny@1 from seeds.jsonl, request 3, shown ")


def test_seeds_from_files_and_datasets(tmp_path, workspace):
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"instruction": "Sort.", "instances": [{"input": "b", "output": "x"}, {"output": ""}], '
                    '"is_classification": true}\n{"instruction": "Say.", "output": "Hi"}\n')
    assert taskfiles.read(str(path), workspace) == [Task("Sort.", (("b", "x"),), True), Task("Say.", (("", "Hi"),))]
    workspace.add_dataset("mine", "demonstrations", [Demonstration((Message("user", "Q?"), Message("assistant", "A")))])
    assert taskfiles.read("mine", workspace) == [Task("Q?", (("", "A"),))]
    with pytest.raises(NotFound, match='did you mean "mine"'):
        taskfiles.read("mime", workspace)


@pytest.mark.parametrize(("line", "says"), [
    ('{"output": "x"}', '"instruction" is missing'), ('{"instruction": " "}', "missing or empty"),
    ('{"instruction": "a", "instances": "b"}', '"instances" must be a list'),
    ('{"instruction": "a", "output": 3}', "must be texts")])
def test_a_bad_seed_is_named(tmp_path, workspace, line, says):
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"instruction": "Fine.", "output": "x"}\n' + line + "\n")
    with pytest.raises(DataError, match=rf"seeds.jsonl:2: .*{says}"):
        taskfiles.read(str(path), workspace)


def test_seeds_must_be_demonstrations(workspace):
    from tunesmith.records import Prompt
    workspace.add_dataset("asked", "prompts", [Prompt((Message("user", "Q?"),))])
    with pytest.raises(UserError, match="holds prompts"):
        taskfiles.read("asked", workspace)


def test_the_journal_forgets_only_what_was_cut_off(tmp_path):
    path = tmp_path / "deep" / "tasks.jsonl"
    made = [Made(Task(f"Do {n}.", (("a", "b"),), n == 1), n, ("x",), 0.5) for n in range(3)]
    taskfiles.append(path, made[:2])
    path.write_bytes(path.read_bytes()[:-9])  # killed while it wrote
    assert taskfiles.journal(path) == made[:1]
    taskfiles.append(path, made[1:])
    assert taskfiles.journal(path) == made
