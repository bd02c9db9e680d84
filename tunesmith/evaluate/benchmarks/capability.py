"""What alignment must not cost: school arithmetic (GSM8K), knowledge (MMLU), reasoning (BIG-Bench Hard).

GSM8K, Cobbe et al. 2021 (2110.14168): word problems put as a user's turn; the last number of a greedy answer counts.
MMLU, Hendrycks et al. 2021 (2009.03300): four choices; the letters are read behind the question, as in
lm-evaluation-harness without examples. Chance is 25%, people who are no experts reach 34.5%, experts about 89.8%.
BIG-Bench Hard, Suzgun et al. 2022 (2210.09261): tasks with a closed list of answers, which are read behind
"Q: ...\\nA:"; the average person reaches 67.7% over all tasks.

They stand here to compare two models on the same items, without worked examples: for figures to compare with others',
run `gsm8k`, `mmlu` or `bbh` of lm-evaluation-harness by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.contracts import Read, Sampling
from tunesmith.errors import DataError
from tunesmith.evaluate.benchmarks.common import Benchmark, Kind, choosing, likeliest, load, texts, writing
from tunesmith.evaluate.suite import Figure, Item, Row
from tunesmith.records import Message
from tunesmith.store.fields import read_text

NUMBER = re.compile(r"-?\$?\d[\d,]*\.?\d*")
OPTION = re.compile(r"^(\([A-Z]\))|^- (.+)$", re.MULTILINE)
MOST_ANSWERS = 8
"""A task with more different answers than this is not one of choosing."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its choices, and which of them is right; `about` is its subject or task."""

    about: str
    text: str
    choices: tuple[str, ...]
    right: int


def choose(question: Question, reads: list[Read]) -> Row:
    """Whether the likeliest choice is the right one."""
    picked = likeliest(reads)
    return {"right": picked == question.right, "question": question.text, "answer": question.choices[picked]}


def mmlu(path: Path) -> Benchmark:
    """MMLU from Parquet or JSON Lines with the fields of the Hugging Face edition; answers are letters or numbers.

    Raises:
        DataError: with file, line and field.
    """
    questions = load(path, _mmlu, '"question", "choices", "answer" and "subject"', MMLU.where)
    figures = (Figure("right", "Right answers", chance=0.25, human=0.345, headline=True,
                      help="The human level is that of people who are no experts; experts reach about 89.8%"),)
    items = [Item(str(n), q, stratum=q.about) for n, q in enumerate(questions)]

    def ask(q: Question) -> tuple[str, list[str]]:
        listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", q.choices))
        subject = q.about.replace("_", " ")
        return (f"The following are multiple choice questions (with answers) about {subject}.\n\n"
                f"{q.text.strip()}\n{listed}\nAnswer:", [" A", " B", " C", " D"])

    return Benchmark(MMLU.name, MMLU.title, MMLU.about, MMLU.source, "1", figures, items, choosing(ask, choose))


def bbh(path: Path) -> Benchmark:
    """Tasks of BIG-Bench Hard from Parquet or JSON Lines with "task", "input" and "target".

    Raises:
        DataError: with file, line and field.
    """
    rows = load(path, lambda row: tuple(read_text(row, key) for key in ("task", "input", "target")),
                '"task", "input" and "target"', BBH.where)
    targets = {task: sorted({t for name, _, t in rows if name == task}) for task in {name for name, _, _ in rows}}
    questions = []
    for task, text, target in rows:
        choices = [a or b for a, b in OPTION.findall(text)] or targets[task]
        if target in choices and 2 <= len(choices) <= max(MOST_ANSWERS, len(OPTION.findall(text))):
            questions.append(Question(task, text, tuple(choices), choices.index(target)))
    if not questions:
        raise DataError("no task here has a closed list of answers", path)
    figures = (Figure("right", "Right answers", chance=float(np.mean([1 / len(q.choices) for q in questions])),
                      human=0.677, headline=True, help="The human level is that of all 23 tasks"),)
    items = [Item(str(n), q, stratum=q.about) for n, q in enumerate(questions)]
    return Benchmark(BBH.name, BBH.title, BBH.about, BBH.source, "1", figures, items,
                     choosing(lambda q: (f"Q: {q.text}\nA:", [f" {c}" for c in q.choices]), choose))


def gsm8k(path: Path) -> Benchmark:
    """GSM8K from test.jsonl (or train.jsonl): the last line of "answer" is #### and the number.

    Raises:
        DataError: with file, line and field.
    """
    problems = load(path, _problem, '"question" and "answer", which ends with #### and a number', GSM8K.where)
    figures = (Figure("right", "Right answers", chance=0.0, headline=True),)
    items = [Item(str(n), p) for n, p in enumerate(problems)]

    def judge(problem: tuple[str, str], answer: str) -> Row:
        return {"right": last_number(answer) == problem[1], "question": problem[0], "answer": answer}

    put = writing(lambda p: (Message("user", p[0]),), Sampling(max_tokens=256, temperature=0.0), judge)
    return Benchmark(GSM8K.name, GSM8K.title, GSM8K.about, GSM8K.source, "1", figures, items, put)


def last_number(text: str) -> str | None:
    """The last number of a text, without thousands' commas, a currency sign or zeros at its end."""
    found = NUMBER.findall(text)
    if not found:
        return None
    number = found[-1].replace(",", "").replace("$", "").rstrip(".")
    return number.rstrip("0").rstrip(".") if "." in number else number


def _problem(row: Mapping[str, Any]) -> tuple[str, str]:
    text, (_, mark, end) = read_text(row, "question"), read_text(row, "answer").rpartition("####")
    if not mark or (answer := last_number(end)) is None:
        raise DataError('"answer" must end with #### and a number')
    return text, answer


def _mmlu(row: Mapping[str, Any]) -> Question:
    choices, answer = texts(row, "choices"), row.get("answer")
    right = "ABCD".find(answer) if isinstance(answer, str) and len(answer) == 1 else answer
    if len(choices) != 4 or right not in (0, 1, 2, 3):
        raise DataError('there must be four "choices", and "answer" must be A to D or 0 to 3')
    return Question(read_text(row, "subject"), read_text(row, "question"), tuple(choices), int(right))


MMLU = Kind("mmlu", "MMLU", "Knowledge of 57 subjects", ("mmlu*.parquet", "mmlu*.jsonl.gz", "mmlu*.jsonl"),
            "github.com/hendrycks/test (huggingface.co/datasets/cais/mmlu)", "MIT", 171, mmlu)
BBH = Kind("bbh", "BIG-Bench Hard", "Reasoning, where answers can be chosen",
           ("bbh*.parquet", "bbh*.jsonl.gz", "bbh*.jsonl"), "github.com/suzgunmirac/BIG-Bench-Hard", "MIT", 200, bbh)
GSM8K = Kind("gsm8k", "GSM8K", "School arithmetic in words",
             ("grade_school_math/data/test.jsonl", "gsm8k*.jsonl", "gsm8k*.jsonl.gz"),
             "github.com/openai/grade-school-math", "MIT", 50, gsm8k)
