"""What all benchmarks share: a file of items becomes a suite, and a model is asked a batch at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.contracts import Read, Sampling
from tunesmith.errors import DataError, TooLong
from tunesmith.evaluate.suite import Figure, Item, Row, Subject
from tunesmith.records import Conversation
from tunesmith.store.fields import Skip, read_list, read_raw, read_text
from tunesmith.store.files import read_rows

BATCH = 64
"""Items put to a model at a time: so many are lost when a run is stopped."""
LEFT_OUT = "left out: the prompt is longer than the model reads"

Parse = Callable[[Mapping[str, Any]], Any]
Measure = Callable[[Subject, Sequence[Item]], Iterable[Row]]


@dataclass(frozen=True)
class Benchmark:
    """`suite.Suite` over items that are in memory."""

    name: str
    title: str
    about: str
    source: str
    version: str
    figures: tuple[Figure, ...]
    all: Sequence[Item]
    put: Measure

    def items(self) -> Sequence[Item]:
        return self.all

    def measure(self, subject: Subject, items: Sequence[Item]) -> Iterable[Row]:
        return self.put(subject, items)


@dataclass(frozen=True)
class Kind:
    """A benchmark that can be built from a file.

    `files` are the names that the file may have, `sample` is how many items a quick look takes; `scored` ones take a
    judge of toxicity beside the file; `extra` is a module that not every installation has.
    """

    name: str
    title: str
    about: str
    files: tuple[str, ...]
    where: str
    licence: str
    sample: int
    build: Callable[..., Benchmark]
    scored: bool = False
    extra: str = ""

    @property
    def source(self) -> str:
        """Whose test it is, and the licence of its items."""
        return f"{self.where} (items: {self.licence})"


def nearest_file(folder: Path, patterns: Iterable[str]) -> Path | None:
    """A file of the first pattern that the folder, or one below it, has; the nearest to its top."""
    for pattern in patterns:
        if found := sorted(folder.rglob(pattern), key=lambda path: (len(path.parts), path)):
            return found[0]
    return None


def load(path: Path, parse: Parse, fields: str, where: str) -> list[Any]:
    """Every row of the file as `parse` reads it; rows that it skips are left out.

    Args:
        fields: what a row needs, said when one lacks it, together with `where` one gets a file that has it.

    Raises:
        DataError: with file, line and field.
    """
    found = []
    for line, row in read_rows(path, Counter()):
        try:
            found.append(parse(row))
        except Skip:
            continue
        except DataError as e:
            raise DataError(f"{e}; each row needs {fields}, as the file from {where} has them", path, line) from e
    if not found:
        raise DataError(f"holds no item; get the file from {where}", path)
    return found


def either(row: Mapping[str, Any], *keys: str) -> str:
    """The text under the first of these keys that the row has.

    Raises:
        DataError: it has none of them, or no text there.
    """
    return read_text(row, next((k for k in keys if k in row), keys[0]))


def texts(row: Mapping[str, Any], key: str) -> list[str]:
    """A list of texts.

    Raises:
        DataError: it is something else.
    """
    if key not in row:
        raise DataError(f'"{key}" is missing')
    found = read_list(row[key], key)
    return [read_raw({key: text}, key, f"{key}[{n}]") for n, text in enumerate(found)]


def parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """The items, a batch at a time."""
    return (items[start:start + BATCH] for start in range(0, len(items), BATCH))


def choosing(ask: Callable[[Any], tuple[str, Sequence[str]]], judge: Callable[[Any, list[Read]], Row]) -> Measure:
    """A measure that reads each text behind its context, and judges by how likely they are.

    A context that is too long for the model loses its beginning, as in lm-evaluation-harness.
    """
    def measure(subject: Subject, items: Sequence[Item]) -> Iterator[Row]:
        for part in parts(items):
            asked = [ask(item.about) for item in part]
            reads = subject.read([context for context, _ in asked], [choices for _, choices in asked], cut=True)
            yield from (judge(item.about, row) for item, row in zip(part, reads, strict=True))

    return measure


def writing(ask: Callable[[Any], Conversation | str], sampling: Sampling, judge: Callable[[Any, str], Row]) -> Measure:
    """A measure that has the model write an answer to each prompt, and judges what it wrote.

    A conversation that the model cannot take in whole is not put to it: nothing is known about that item.
    """
    def measure(subject: Subject, items: Sequence[Item]) -> Iterator[Row]:
        for part in parts(items):
            written = fitting(subject, [ask(item.about) for item in part], sampling)
            yield from (judge(item.about, found[0]) if found else {"answer": LEFT_OUT}
                        for item, found in zip(part, written, strict=True))

    return measure


def fitting(subject: Subject, prompts: Sequence[Conversation | str], sampling: Sampling, n: int = 1
            ) -> list[list[str]]:
    """n answers to each prompt, none to those that are too long for the model."""
    try:
        return [[answer.text for answer in row] for row in subject.answers(prompts, sampling, n)]
    except TooLong:
        if len(prompts) == 1:
            return [[]]
        half = len(prompts) // 2
        return fitting(subject, prompts[:half], sampling, n) + fitting(subject, prompts[half:], sampling, n)


def likeliest(reads: Sequence[Read]) -> int:
    """The choice with the largest log-prob, not normalised by length; the first of equal ones."""
    return max(range(len(reads)), key=lambda i: reads[i].logprob)
