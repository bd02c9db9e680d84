"""A recipe of many tasks -> demonstrations, and how often each kind of them is to be drawn.

A *source* is one task in one view: the question alone, behind solved examples, with reasons before the answer, or
inverted (FLAN 2021 and 2022, arXiv 2109.01652 and 2301.13688). Files are read twice and never held: the first look
counts the rows of each task and keeps a few as examples, the second writes every row in all of its views. A template,
its examples and which rows of a large task are taken follow from the recipe's seed.

Left out: a template per pass over a row. What is written once is cut into tokens once.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from tunesmith.contracts import Progress
from tunesmith.data.templates import Template, conversation, filled, pieces, plain
from tunesmith.errors import DataError, SettingsError, nearest
from tunesmith.records import Demonstration
from tunesmith.settings.mixing import Recipe, TaskSettings, View
from tunesmith.store.publish import read_manifest, sha256
from tunesmith.store.workspace import Dataset

FILE = "mixture.json"
"""Beside the rows of a dataset that is a mixture."""

EXAMPLES = 64
"""Rows of a task that are kept in memory, for few-shot questions to draw their examples from."""

Row = Mapping[str, Any] | Demonstration
Read = Callable[[TaskSettings], Iterable[tuple[str, Row]]]
"""A task's rows, each with the place it stands at; called twice."""


@dataclass(frozen=True, slots=True)
class Source:
    """One task in one view: how many rows it has, and the share of all draws that is its own."""

    name: str
    task: str
    view: str
    cluster: str
    rows: int
    rate: float


@dataclass(frozen=True, slots=True)
class Mixture:
    """What is drawn how often. `size` draws are one pass: each task counts with its rows, at most the cap."""

    sources: tuple[Source, ...]
    size: int

    def dump(self, recipe: Recipe) -> str:
        """As the file beside the rows."""
        return json.dumps({"format": 1, "size": self.size, "sources": [asdict(s) for s in self.sources],
                           "recipe": recipe.model_dump(mode="json")}, indent=1)

    @classmethod
    def of(cls, dataset: Dataset) -> Self | None:
        """The mixture that a dataset is; None if it is a plain one.

        Raises:
            DataError: the file was altered or lost.
        """
        expected = read_manifest(dataset.path)["files"].get(FILE)
        if expected is None:
            return None
        file = dataset.path / FILE
        if not file.is_file() or sha256(file) != expected["sha256"]:
            raise DataError(f"dataset {dataset.name} is damaged: {FILE} was altered or lost; mix it again under "
                            "another name")
        found = json.loads(file.read_text(encoding="utf-8"))
        return cls(tuple(Source(**s) for s in found["sources"]), found["size"])


@dataclass(slots=True)
class Task:
    """A task as the first look found it."""

    name: str
    cluster: str
    spec: TaskSettings
    rows: int = 0
    examples: list[Mapping[str, Any]] = field(default_factory=list)


def survey(recipe: Recipe, read: Read) -> dict[str, Task]:
    """The first look: every task with its rows counted and some kept as examples.

    Raises:
        DataError: a task without rows, or in two clusters.
        SettingsError: a task without templates for the views, a held-out cluster that no task belongs to, or nothing
            is left to learn from.
    """
    tasks: dict[str, Task] = {}
    rng = random.Random(recipe.seed)
    for entry, spec in recipe.tasks.items():
        if not _views(recipe, spec):
            raise SettingsError(f'task "{entry}" has templates for none of the views that are wanted')
        before = len(tasks)
        for name, cluster, where, row in _rows(entry, spec, read):
            task = tasks.get(name) or tasks.setdefault(name, Task(name, cluster, spec))
            if task.cluster != cluster or task.spec is not spec:
                raise DataError(f'{where}: task "{name}" is in two clusters or entries: "{task.cluster}" and '
                                f'"{cluster}"')
            if recipe.views.few_shot and not isinstance(row, Demonstration):
                _sample(task.examples, row, task.rows, rng)
            task.rows += 1
        if len(tasks) == before:
            raise DataError(f'task "{entry}" has no rows: {spec.file or spec.data}'
                            f'{f" where {spec.where}" if spec.where else ""}')
    clusters = {task.cluster for task in tasks.values()}
    for held in recipe.held_out:
        if held not in clusters:
            raise SettingsError(f'held_out: no task is in cluster "{held}"{nearest(held, clusters)}')
    if clusters <= set(recipe.held_out):
        raise SettingsError("held_out: nothing is left to learn from")
    return tasks


def render(recipe: Recipe, tasks: Mapping[str, Task], read: Read, counts: Counter[str], skipped: Counter[str],
           held_out: bool = False) -> Iterator[Demonstration]:
    """The second look: the rows of the tasks in all of their views, or those of the held-out clusters with their
    question alone. Each demonstration's `source` is the name of its source.

    Args:
        counts: becomes the number of demonstrations of each source.
        skipped: becomes the number of those left out, by reason.

    Raises:
        DataError: with its place, a row that lacks a field.
        SettingsError: a template that cannot be read.
    """
    for entry, spec in recipe.tasks.items():
        templates = {view: [Template.parse(*pair) for pair in pairs] for view, pairs in _views(recipe, spec).items()}
        if held_out:
            templates = {"zero_shot": templates.get("zero_shot") or [Template.parse(*pair) for pair in spec.direct]}
        chosen: dict[str, Chosen] = {}
        for name, cluster, where, row in _rows(entry, spec, read):
            if (cluster in recipe.held_out) != held_out:
                continue
            if name not in chosen:
                limit = recipe.held_out_rows if held_out else recipe.rows
                chosen[name] = Chosen(tasks[name].rows, limit, f"{recipe.seed}/{name}")
            if not chosen[name].next():
                continue
            for view in templates:
                rng = random.Random(f"{recipe.seed}/{name}/{view}/{chosen[name].left}")
                made = _demonstration(recipe, tasks[name], view, templates[view], row, rng, where)
                if isinstance(made, str):
                    skipped[made] += 1
                    continue
                counts[made.source] += 1
                yield made


def expected(recipe: Recipe, tasks: Mapping[str, Task], held_out: bool = False) -> int:
    """How many demonstrations `render` gives, if it leaves none out."""
    return sum(min(t.rows, recipe.held_out_rows) if held_out else min(t.rows, recipe.rows) * len(_views(recipe, t.spec))
               for t in tasks.values() if (t.cluster in recipe.held_out) == held_out)


def blend(recipe: Recipe, tasks: Mapping[str, Task], counts: Mapping[str, int]) -> Mixture:
    """The rates: `min(rows, cap) ** (1 / temperature)` for a task (T5, arXiv 1910.10683, section 3.5.2), times its
    weight, shared among its views."""
    sizes, rates, views = {}, {}, {}
    for name, task in tasks.items():
        there = {view: counts[f"{name}/{view}"] for view in _views(recipe, task.spec) if counts.get(f"{name}/{view}")}
        if there:
            views[name], sizes[name] = there, min(max(there.values()), recipe.cap)
            rates[name] = task.spec.weight * sizes[name] ** (1 / recipe.temperature)
    whole = sum(rates.values())
    sources = []
    for name, there in views.items():
        shares = {view: getattr(recipe.views, view) or 1.0 for view in there}  # 0: conversations as they are
        sources += [Source(f"{name}/{view}", name, view, tasks[name].cluster, rows,
                           rates[name] / whole * shares[view] / sum(shares.values())) for view, rows in there.items()]
    return Mixture(tuple(sources), sum(sizes.values()))


def told(rows: Iterable[Demonstration], total: int, progress: Progress) -> Iterator[Demonstration]:
    """The rows, with word now and then of how many have passed; `total` of them, or fewer where some are left out."""
    number = 0
    for number, row in enumerate(rows, 1):
        if number % 1000 == 0:
            progress(number, total, {})
        yield row
    progress(number, number, {})


class Chosen:
    """Which of `total` rows that pass by are in a sample of `wanted`, every sample alike (Knuth 3.4.2, Algorithm S)."""

    def __init__(self, total: int, wanted: int, seed: str):
        self.left, self.wanted, self.rng = total, wanted, random.Random(seed)

    def next(self) -> bool:
        hit = self.rng.random() * self.left < self.wanted
        self.left -= 1
        self.wanted -= hit
        return hit


def _sample(kept: list[Mapping[str, Any]], row: Mapping[str, Any], number: int, rng: random.Random) -> None:
    """Keep `EXAMPLES` of the rows that pass by (Algorithm R); this is row number `number` from 0."""
    if number < EXAMPLES:
        kept.append(row)
    elif (place := rng.randrange(number + 1)) < EXAMPLES:
        kept[place] = row


def _rows(entry: str, spec: TaskSettings, read: Read) -> Iterator[tuple[str, str, str, Row]]:
    """(task, cluster, place, row) of one entry of the recipe."""
    cluster, value = pieces(spec.cluster), (("", spec.by),)
    fixed = spec.cluster if not any(name for _, name in cluster) else ""
    for where, row in read(spec):
        if isinstance(row, Demonstration):
            yield entry, fixed or entry, where, row
            continue
        if spec.where and any(plain(row.get(key)) != wanted for key, wanted in spec.where.items()):
            continue
        try:
            name = f"{entry}.{filled(value, row)}" if spec.by else entry
            yield name, fixed or (cluster and filled(cluster, row)) or name, where, row
        except DataError as e:
            raise DataError(f"{where}: {e}") from e


def _views(recipe: Recipe, spec: TaskSettings) -> dict[View, tuple[tuple[str, str], ...]]:
    """The ways to show a task that are wanted and that it has templates for."""
    have: dict[View, tuple[tuple[str, str], ...]] = {
        "zero_shot": spec.direct, "few_shot": spec.direct, "thought": spec.thought, "inverted": spec.inverted}
    if spec.data:
        return {"zero_shot": ()}
    return {view: pairs for view, pairs in have.items() if pairs and getattr(recipe.views, view) > 0}


def _demonstration(recipe: Recipe, task: Task, view: View, templates: list[Template], row: Row, rng: random.Random,
                   where: str) -> Demonstration | str:
    """The row in this view, or why it has none."""
    source = f"{task.name}/{view}"
    if isinstance(row, Demonstration):
        return replace(row, source=source)
    template = rng.choice(templates)
    rows = [row]
    if view == "few_shot":
        others = [example for example in task.examples if example != row]
        rows += rng.sample(others, min(rng.randint(1, recipe.shots), len(others)))
        if len(rows) == 1:
            return "no other row to be an example"
    try:
        (prompt, answer), *solved = (template.fill(_named(r, task.spec)) for r in rows)
    except DataError as e:
        raise DataError(f"{where}: {e}") from e
    if not prompt or not answer:
        return "empty question or answer"
    return Demonstration(conversation(prompt, answer, solved), source, task.spec.licence)


def _named(row: Mapping[str, Any], spec: TaskSettings) -> Mapping[str, Any]:
    """The row with its fields' values called what the recipe calls them."""
    called = {key: names.get(plain(row.get(key)), row.get(key)) for key, names in spec.words.items()}
    return {**row, **called} if called else row
