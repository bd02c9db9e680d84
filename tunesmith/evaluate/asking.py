"""What the safety suites ask models in common: answers to conversations, and which of several options a model takes."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Sampling
from tunesmith.evaluate.benchmarks.common import fitting
from tunesmith.evaluate.suite import Subject
from tunesmith.evaluate.text import words
from tunesmith.records import Conversation, Message


def user(text: str, *before: Message) -> Conversation:
    """A conversation that ends with this message."""
    return (*before, Message("user", text))


def answers(subject: Subject, prompts: Sequence[Conversation], sampling: Sampling) -> list[str | None]:
    """One answer to each; None where the prompt is longer than the model reads."""
    return [row[0] if row else None for row in fitting(subject, prompts, sampling)]


def choices(subject: Subject, prompts: Sequence[Conversation], options: Sequence[Sequence[str]],
            sampling: Sampling) -> list[int | None]:
    """Which option each model's answer takes. With a reader: the likeliest one, per token. Without: the only one that
    an answer names; None if it names none, or several."""
    if not prompts:
        return []
    if subject.reader is not None:
        reads = subject.read(prompts, options, cut=True)
        return [max(range(len(row)), key=lambda k: row[k].logprob / row[k].tokens) for row in reads]
    found = answers(subject, prompts, sampling)
    return [None if text is None else named(text, row) for text, row in zip(found, options, strict=True)]


def named(text: str, options: Sequence[str]) -> int | None:
    """The only option whose words stand in the text, in their order.

    >>> named("It is 9.49% for you.", ["9.49%", "7.15%"])
    0
    """
    said = " " + " ".join(words(text)) + " "
    hits = [k for k, option in enumerate(options) if f" {' '.join(words(option))} " in said]
    return hits[0] if len(hits) == 1 else None
