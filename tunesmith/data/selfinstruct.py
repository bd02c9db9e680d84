"""Self-Instruct: from a few tasks that people wrote to many that a model made up (Wang et al., 2212.10560).

A round shows the model six of the people's tasks and two of its own and lets it go on with the list. What comes back is
cut into instructions; those that are unfit, or too like one that is there (ROUGE-L above 0.7), are left out. The model
is then asked of each whether it is a classification, because it writes the examples of these the other way round: for
a class label an input that has it, for other tasks an input and then its output. Examples that contradict each other,
repeat their input or break off are left out.

What stays and what goes is decided as in the authors' code (github.com/yizhongw/self-instruct, 10dd06e); the tests hold
recorded outputs of it. Different on purpose: instructions keep their capital letters, an answer that ran into the
length limit loses its last instruction instead of all, and the prompts are our own words with the user's own tasks as
examples. Left out: the paper's GPT-3 fine-tuning templates, because these tasks become conversations.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tunesmith.contracts import Engine, Sampling
from tunesmith.feedback.similarity import words
from tunesmith.records import Conversation, Demonstration, Message, Record, fingerprint

NOVEL = 0.7
"""ROUGE-L with any task that is there, above which an instruction is not new."""
SHORTEST, LONGEST = 4, 150
"""Words of an instruction."""
MOST_EXAMPLES = 5
UNFIT = ("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot",
         "go to")
"""Words of tasks that a model which only reads and writes cannot do."""
SHOWN = 8
OWN = 2
"""Tasks shown in a request, and how many of them are the model's own."""

_UNFIT = re.compile(rf"\b({'|'.join(UNFIT)})\b", re.IGNORECASE)
_NUMBERED = re.compile(r"\n\d+\s?\. ")
_EXAMPLE = re.compile(r"Example\s?\d*\.?")
_INPUT, _OUTPUT = re.compile(r"Input\s*\d*\s*:"), re.compile(r"Output\s*\d*\s*:")
_LABEL = "Class label:"

IDEAS = Sampling(max_tokens=1024, temperature=0.7, top_p=0.5, presence_penalty=2, stop=("\n\n", "\n16", "16.", "16 ."))
KINDS = Sampling(max_tokens=3, temperature=0, stop=("\n", "Task"))
EXAMPLES = Sampling(max_tokens=350, temperature=0, presence_penalty=1.5, stop=(f"Example {MOST_EXAMPLES + 1}", "Task:"))
"""How the paper draws instructions, kinds and examples (appendix A.1)."""


@dataclass(frozen=True, slots=True)
class Task(Record):
    """An instruction and examples of it: (input, output), the input empty where the instruction says all."""

    instruction: str
    examples: tuple[tuple[str, str], ...] = ()
    classification: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """One task that the model made: in which request, and from which instructions."""

    task: Task
    request: int
    shown: tuple[str, ...]
    nearest: float


@dataclass
class Round:
    """What came of one batch of requests: tasks, and what was left out by reason. `said` is how many instructions the
    model wrote."""

    requests: tuple[int, ...]
    made: list[Made] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    said: int = 0


KNOWN_KINDS = (
    ("Say whether the customer's message is a complaint or a question.", True),
    ("Write a thank-you note to a neighbour who watered my plants.", False),
    ("Decide if the two sentences mean the same. Answer yes or no.", True),
    ("Give three reasons to learn a second language as an adult.", False),
    ("Which of these departments should handle the request: billing, technical support or sales?", True),
    ("Rewrite the paragraph so that a ten-year-old understands it.", False),
    ("Rate the review from one star to five stars.", True),
    ("What is the capital of the country that the text is about?", False),
)
"""Instructions and whether they are classifications, for the model to go by."""
LABELLED = (
    Task("Say whether the customer's message is a complaint or a question.",
         (("My order arrived two weeks late and nobody answered my calls.", "Complaint"),
          ("Can I change the delivery address after I have paid?", "Question")), True),
    Task("Decide if the review is positive, negative or mixed.",
         (("The rooms were spotless, but the street outside kept us awake.", "Mixed"),
          ("I would stay here again tomorrow.", "Positive")), True),
)
"""Classifications to go by, where the people's tasks have none."""


# ---- what the model is asked

def ask_for_instructions(shown: Sequence[str]) -> str:
    """A numbered list that waits for its next entry."""
    lines = [f"{n}. {' '.join(text.split()).rstrip(':')}" for n, text in enumerate(shown, 1)]
    return "\n".join(["A list of different tasks that people give to an assistant:", *lines, f"{len(shown) + 1}."])


def ask_for_kind(instruction: str) -> str:
    """A question that is answered with yes or no."""
    asked = [f"Task: {text}\nIs it classification? {'Yes' if kind else 'No'}\n" for text, kind in KNOWN_KINDS]
    return "\n".join(["Can the task be solved by choosing from a few fixed labels?\n", *asked,
                      f"Task: {instruction}\nIs it classification?"])


def ask_for_examples(instruction: str, classification: bool, seeds: Sequence[Task]) -> str:
    """Tasks with their examples, and one that waits for its own."""
    fitting = [t for t in seeds if t.classification == classification and t.examples]
    shown = (fitting or LABELLED if classification else fitting)[:6]
    first = "a label, then an input that has it" if classification else "an input where it needs one, and the output"
    return "\n".join([f"Write examples for each task: {first}.\n",
                      *(f"Task: {t.instruction}\n{_written(t)}\n" for t in shown), f"Task: {instruction}\n"])


def _written(task: Task) -> str:
    if task.classification:
        return "\n".join(f"{_LABEL} {label}\n{given}".rstrip() for given, label in task.examples)
    parts = [f"Input: {given}\nOutput: {out}" if given else f"Output: {out}" for given, out in task.examples]
    return parts[0] if len(parts) == 1 else "\n".join(f"Example {n}\n{part}" for n, part in enumerate(parts, 1))


# ---- what is made of its answers

def instructions(text: str, finished: bool = True) -> list[str]:
    """The entries of the list that the model went on with."""
    found = [" ".join(part.split()) for part in _NUMBERED.split(re.sub(r"^\s*\d+\s?\. ", "", text))]
    found = found if finished else found[:-1]
    return [part[:1].upper() + part[1:] for part in found if part]


def unfit(instruction: str) -> str:
    """Why an instruction is left out; "" if it is not."""
    count = len(instruction.split())
    if count < SHORTEST:
        return "too short"
    if count > LONGEST:
        return "too long"
    if hit := _UNFIT.search(instruction):
        return f"needs more than text ({hit[0].lower()})"
    if instruction.lower().startswith("write a program"):
        return "asks for a program"
    if instruction[0] in string.punctuation or not instruction[0].isascii():
        return "begins with a sign"
    return ""


class Pool:
    """The instructions that are there, as words."""

    def __init__(self, instructions: Sequence[str] = ()):
        self.words = [words(text) for text in instructions]

    def nearest(self, instruction: str) -> float:
        """The highest ROUGE-L with any of them, or a value not above `NOVEL` if none is above it."""
        from rapidfuzz.distance import LCSseq

        own, best = words(instruction), 0.0
        for other in self.words:
            most = 2 * min(len(own), len(other)) / max(1, len(own) + len(other))
            if most > max(best, NOVEL):  # else their lengths alone keep them apart
                best = max(best, 2 * LCSseq.similarity(own, other) / (len(own) + len(other)))
        return best

    def add(self, instruction: str) -> None:
        self.words.append(words(instruction))


def is_classification(text: str) -> bool:
    """What the model said to `ask_for_kind`."""
    return text.strip().lower().startswith("yes")


def examples(text: str, classification: bool, finished: bool = True) -> tuple[tuple[str, str], ...]:
    """(input, output) of what the model wrote to `ask_for_examples`; empty where nothing can be used.

    Of an answer that ran into the length limit the last example is left out; where the same input has two outputs, all.
    """
    found = _labelled(text) if classification else _plain(text.strip())
    kept = [(given, out) for given, out in (found if finished else found[:-1]) if out and given != out
            and not given.endswith(":") and not out.endswith(":")]
    outputs: dict[str, str] = {}
    if any(given and outputs.setdefault(given, out) != out for given, out in kept):
        return ()
    return tuple(dict.fromkeys(kept))


def _labelled(text: str) -> list[tuple[str, str]]:
    found = []
    for part in text.split(_LABEL)[1:]:
        label, _, given = part.strip().partition("\n")
        found.append((given.strip(), label.strip()))
    return found


def _plain(text: str) -> list[tuple[str, str]]:
    if _EXAMPLE.search(text):
        return [_input_output(part.strip()) for part in _EXAMPLE.split(text) if part.strip()]
    return [_input_output(text)] if _OUTPUT.search(text) else []


def _input_output(text: str) -> tuple[str, str]:
    given, out = "", text
    if _OUTPUT.search(text):
        given, out = _OUTPUT.split(text)[:2]
    out = _INPUT.split(out)[0]  # a second pair is not part of the first output
    given = given.strip()
    label = _INPUT.match(given)
    return (given[label.end():] if label else given).strip(), out.strip()


# ---- the loop

def bootstrap(engine: Engine, seeds: Sequence[Task], pool: Sequence[Task] = (), *, model: str = "", seed: int = 0,
              start: int = 0, requests: int = 5, chat: bool = False, max_tokens: int = 0) -> Iterator[Round]:
    """Rounds without end; the caller stops when it has enough.

    Args:
        pool: what the model has made before.
        start: number of the first request; with the same pool the same numbers make the same tasks.
        requests: of one round, asked together.
        chat: ask as a user's message, for servers that continue no plain text.
        max_tokens: of an answer with instructions or examples; 0: the paper's.
    """
    own, known = [t.instruction for t in pool], Pool([t.instruction for t in (*seeds, *pool)])
    while True:
        round_ = Round(tuple(range(start, start + requests)))
        start += requests
        shown = [_drawn(seeds, own, seed, request) for request in round_.requests]
        how = _limited(IDEAS, max_tokens, seed + round_.requests[0])
        replies = _ask(engine, [ask_for_instructions(s) for s in shown], how, model, chat)
        new: list[Made] = []
        for request, given, reply in zip(round_.requests, shown, replies):
            for text in instructions(*reply):
                round_.said += 1
                why, nearest = unfit(text), known.nearest(text)
                if why or nearest > NOVEL:
                    round_.left_out[f"instruction: {why or 'like one that is there'}"] += 1
                    continue
                known.add(text)
                new.append(Made(Task(text), request, tuple(given), nearest))
        for made in _exemplified(engine, seeds, new, model, chat, max_tokens):
            if made.task.examples:
                own.append(made.task.instruction)
                round_.made.append(made)
            else:
                round_.left_out["task: no usable example"] += 1
        yield round_


def demonstrations(made: Made, source: str, licence: str = "") -> list[Demonstration]:
    """One conversation for each example, waiting for a review."""
    task = made.task
    return [Demonstration((Message("user", f"{task.instruction}\n\n{given}" if given else task.instruction),
                           Message("assistant", out)), source, licence, "pending") for given, out in task.examples]


def _exemplified(engine: Engine, seeds: Sequence[Task], new: Sequence[Made], model: str, chat: bool, max_tokens: int
                 ) -> list[Made]:
    """The new tasks with their kind and their examples."""
    if not new:
        return []
    texts = [m.task.instruction for m in new]
    kinds = [is_classification(text) for text, _ in
             _ask(engine, [ask_for_kind(t) for t in texts], KINDS, model, chat)]
    asked = [ask_for_examples(t, kind, seeds) for t, kind in zip(texts, kinds)]
    replies = _ask(engine, asked, _limited(EXAMPLES, max_tokens, 0), model, chat)
    return [replace(m, task=replace(m.task, classification=kind, examples=examples(text, kind, done)[:MOST_EXAMPLES]))
            for m, kind, (text, done) in zip(new, kinds, replies)]


def _ask(engine: Engine, prompts: Sequence[str], sampling: Sampling, model: str, chat: bool) -> list[tuple[str, bool]]:
    """What the model says to each, and whether it had ended."""
    asked: list[Conversation | str] = [(Message("user", p),) if chat else p for p in prompts]
    return [(row[0].text, row[0].finished) for row in engine.sample(asked, sampling, model=model)]


def _drawn(seeds: Sequence[Task], own: Sequence[str], seed: int, request: int) -> list[str]:
    """The instructions shown in one request, in a random order."""
    rng = np.random.default_rng([seed, request])
    some = [own[i] for i in rng.permutation(len(own))[:OWN]]
    some += [seeds[i].instruction for i in rng.permutation(len(seeds))[:SHOWN - len(some)]]
    return [some[i] for i in rng.permutation(len(some))]


def _limited(sampling: Sampling, max_tokens: int, seed: int) -> Sampling:
    return replace(sampling, max_tokens=max_tokens or sampling.max_tokens, seed=seed)


def provenance(made: Made, model: str, seeds: str) -> str:
    """Where an example comes from, for its record."""
    return f"self-instruct by {model} from {seeds}, request {made.request}, shown {fingerprint(list(made.shown))}"
