"""lm-evaluation-harness in this process: any of its tasks on our models, each an adapter on the base that is loaded.

`model` is a `Subject` as the harness knows models; `suites` makes each task a `suite.Suite`, so that its rows are kept
and compared like all others. A task is found by name among the harness's own (its data then comes from the Hugging
Face hub or its cache) or in a folder of task YAMLs, whose data may be local files. A task's YAML may name Python code
that runs here: take folders only from people you trust.

Plain text, with worked examples or without, is what the harness gives by default; `chat` puts it as a conversation.
Tokens are those that its own command line gives with `--model local-completions` and `tokenizer=` the base's folder
(add `add_bos_token=True` where the base's tokenizer begins texts with one). Left out: pictures, tasks that run code
which a model wrote, and metrics that are worked out from texts of all items (BLEU over a whole set).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path
from sys import stderr
from types import ModuleType
from typing import Any

import numpy as np

from tunesmith.contracts import Sampling
from tunesmith.errors import MissingExtra, NotFound, UserError, nearest
from tunesmith.evaluate.suite import Columns, Figure, Item, Row, Subject
from tunesmith.records import Conversation, conversation

LENGTH = 256
"""Tokens that an answer may have where the task does not say: the harness's own default."""
BATCH = 64
"""Items put to a model at a time."""
PREFIX = "lm-eval-"
"""A task of the harness may be called what a suite of ours is called."""
PARTS = 8
"""Numbers that a metric may tell of one item (a log-prob and how many words it is for, say)."""
SEED = 1234
"""The harness's own."""


def model(subject: Subject, chat: bool = False) -> Any:
    """The subject as an `lm_eval.api.model.LM`, for `lm_eval.simple_evaluate(model=...)`.

    Raises:
        MissingExtra: lm-evaluation-harness is not installed.
    """
    made: Any = type("TunesmithLM", (_Model, _harness().api.model.LM), {})
    return made(subject, chat)


def suites(names: Iterable[str], folders: Sequence[str | Path] = (), *, chat: bool = False,
           examples: int | None = None) -> list[Task]:
    """The named tasks; a group or a tag gives all of its tasks.

    Args:
        folders: with task YAMLs of your own; the harness's tasks are there in any case.
        examples: worked examples before each question, instead of the task's own number.

    Raises:
        MissingExtra: lm-evaluation-harness is not installed.
        NotFound: no such task, or no such folder.
        UserError: a task whose data cannot be had, or that runs what a model wrote.
    """
    harness, asked = _harness(), list(dict.fromkeys(names))
    if absent := next((f for f in folders if not Path(f).is_dir()), None):
        raise NotFound(f"{absent} is no folder; name one with task YAMLs")
    with _quiet():
        tasks = harness.tasks.TaskManager(include_path=[str(f) for f in folders], include_defaults=False)
        if not set(asked) <= set(tasks.all_tasks):  # reading all of the harness's own takes seconds
            tasks = harness.tasks.TaskManager(include_path=[str(f) for f in folders])
    if unknown := next((name for name in asked if name not in tasks.all_tasks), None):
        raise NotFound(f'lm-evaluation-harness knows no task "{unknown}"{_hint(unknown, tasks.all_tasks)}')
    return [_suite(name, task, chat, examples) for name, task in _loaded(tasks, asked).items()]


@dataclass(frozen=True)
class Task:
    """One of the harness's tasks as a `suite.Suite`; `title` is its name there."""

    name: str
    title: str
    about: str
    source: str
    version: str
    figures: tuple[Figure, ...]
    task: Any
    chat: bool

    def items(self) -> Sequence[Item]:
        return [Item(str(n), n) for n in range(len(self.task.task_docs))]

    def measure(self, subject: Subject, items: Sequence[Item]) -> Iterator[Row]:
        """A row for each item from what the harness's own scoring found there.

        Worked examples are drawn item after item from one seed, as on the harness's command line, so items that have
        some are put in one go.
        """
        step = len(items) if self.task.get_config("num_fewshot") else BATCH
        for start in range(0, len(items), step):
            part = [item.about for item in items[start:start + step]]
            found = evaluate(subject, {self.title: self.task}, {self.title: part}, self.chat)["samples"][self.title]
            yield from rows(found, part)


def evaluate(subject: Subject, tasks: Mapping[str, Any], samples: Mapping[str, Sequence[int]] | None = None,
             chat: bool = False) -> Mapping[str, Any]:
    """What `lm_eval.evaluate` gives for loaded tasks: "results" and "samples"."""
    harness = _harness()
    for task in tasks.values():
        task.set_fewshot_seed(seed=SEED)  # every model is shown the same examples
    with _quiet():
        found: Mapping[str, Any] = harness.evaluator.evaluate(
            lm=model(subject, chat), task_dict={"tasks": dict(tasks), "groups": {}}, bootstrap_iters=0,
            samples=None if samples is None else {k: sorted(v) for k, v in samples.items()}, apply_chat_template=chat,
            fewshot_as_multiturn=chat)
    return found


def rows(samples: Sequence[Mapping[str, Any]], order: Sequence[int]) -> Iterator[Row]:
    """A row for each item in `order`, from the harness's log of them: one entry for each item and filter."""
    by_item: dict[int, dict[str, Any]] = {}
    for sample in samples:
        row = by_item.setdefault(sample["doc_id"], {})
        for metric in sample["metrics"]:
            key, value = _key(metric, sample["filter"]), sample[metric]
            if isinstance(value, bool | int | float | np.generic):
                row[key] = float(value)
            elif isinstance(value, tuple | list) and all(np.ndim(v) == 0 and not isinstance(v, str) for v in value):
                row |= {f"{key} {n}": float(v) for n, v in enumerate(value[:PARTS])}
        if isinstance(answer := sample["resps"][0][0], str):
            row["answer"] = answer
    yield from (by_item[n] for n in order)


class _Model:
    """The three things that the harness asks of a model. `model` joins it to the harness's class."""

    def __init__(self, subject: Subject, chat: bool):
        super().__init__()
        self.subject, self.chat = subject, chat

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-prob of each continuation and whether greedy decoding gives it; those of one context in one pass."""
        by_context: dict[str, list[int]] = {}
        for n, request in enumerate(requests):
            by_context.setdefault(request.args[0], []).append(n)
        reads = self.subject.read([self._context(context) for context in by_context],
                                  [[requests[n].args[1] for n in ns] for ns in by_context.values()], cut=True)
        found: dict[int, tuple[float, bool]] = {}
        for ns, row in zip(by_context.values(), reads, strict=True):
            found.update((n, (read.logprob, read.greedy)) for n, read in zip(ns, row, strict=True))
        return [found[n] for n in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-prob of whole texts."""
        texts = [request.args[0] for request in requests]
        return [row[0].logprob for row in self.subject.read([""] * len(texts), [[text] for text in texts])]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers up to a stop string; those that are drawn alike in one batch."""
        by_how: dict[Sampling, list[int]] = {}
        for n, request in enumerate(requests):
            by_how.setdefault(sampling(request.args[1]), []).append(n)
        found: dict[int, str] = {}
        for how, ns in by_how.items():
            answers = self.subject.answers([self._context(requests[n].args[0]) for n in ns], how)
            found.update((n, row[0].text) for n, row in zip(ns, answers, strict=True))
        return [found[n] for n in range(len(requests))]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as JSON: which tokens it becomes is decided where it is read."""
        if not add_generation_prompt:
            raise UserError("this task begins the assistant's answer itself, which a conversation here cannot; run it "
                            "as plain text")
        return json.dumps(chat_history, ensure_ascii=False)

    @property
    def tokenizer_name(self) -> str:
        return self.subject.name

    def chat_template(self, chat_template: bool | str = False) -> str:
        return ""

    def _context(self, text: str) -> Conversation | str:
        return conversation(json.loads(text)) if self.chat and text else text


def sampling(asked: Mapping[str, Any]) -> Sampling:
    """The harness's `generation_kwargs`: greedy unless they say otherwise."""
    until = asked.get("until") or []
    length = asked.get("max_gen_toks", asked.get("max_tokens", asked.get("max_new_tokens", LENGTH)))
    temperature = 0.0 if asked.get("do_sample") is False else float(asked.get("temperature", 0))
    return Sampling(max_tokens=int(length), temperature=temperature, top_p=float(asked.get("top_p", 1)), seed=SEED,
                    stop=tuple(s for s in ([until] if isinstance(until, str) else until) if s))


def _suite(name: str, task: Any, chat: bool, examples: int | None) -> Task:
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"the task {name} runs code that a model wrote; run it with lm-eval itself, where that does no "
                        "harm")
    if examples is not None:
        task.set_config(key="num_fewshot", value=examples)
    elif task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    shots, version = task.get_config("num_fewshot"), getattr(task, "VERSION", "")
    how = f"{shots} worked example{'s' if shots > 1 else ''}" if shots else "no examples"
    put = f"{how}, as a conversation" if chat else how
    return Task(f"{PREFIX}{name}", name, f"lm-evaluation-harness's task {name}, {put}",
                f"lm-evaluation-harness {_harness().__version__}; data: {task.get_config('dataset_path')}",
                f"{version}, {shots}, {'chat' if chat else 'text'}", _figures(task), task, chat)


def _figures(task: Any) -> tuple[Figure, ...]:
    """One for each metric and for each of the task's filters; what is no mean, as the harness works it out."""
    filters = [f.name for f in task._filters] or ["none"]
    higher, chances = task.higher_is_better(), dict.fromkeys(("acc", "acc_norm"), _chance(task))
    found = []
    for filtered in filters:
        for n, (metric, aggregate) in enumerate(task.aggregation().items()):
            key = _key(metric, filtered)
            of = None if aggregate.__name__ == "mean" else partial(aggregated, key=key, aggregate=aggregate)
            found.append(Figure(key, key.replace("_", " "), "%" if _is_share(metric) else "",
                                "higher" if higher.get(metric, True) else "lower", chance=chances.get(metric),
                                headline=not n, of=of))
    return tuple(found)


def aggregated(c: Columns, key: str, aggregate: Callable[[list[Any]], float]) -> float:
    """The harness's own aggregation of what it told of each item, a number or several; nan where it told nothing."""
    parts = [part for part in (c[key], *(c[f"{key} {n}"] for n in range(PARTS))) if not np.isnan(part).all()]
    if not parts:
        return nan
    told = np.stack(parts, axis=1)[~np.isnan(parts[0])].tolist()
    several = np.isnan(c[key]).all()
    try:
        return float(aggregate([tuple(row) if several else row[0] for row in told]))
    except (ValueError, ArithmeticError):  # nothing to divide by in this draw
        return nan


def _is_share(metric: str) -> bool:
    return any(word in metric for word in ("acc", "match", "pct", "f1"))


def _chance(task: Any) -> float | None:
    """What guessing gives, where every item has the same number of choices."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    counts = {len(task.doc_to_choice(doc)) for doc in task.task_docs}
    return 1 / counts.pop() if len(counts) == 1 else None


def _key(metric: str, filtered: str) -> str:
    return metric if filtered == "none" else f"{metric}, {filtered}"


def _loaded(tasks: Any, names: Sequence[str]) -> Mapping[str, Any]:
    try:
        with _quiet():
            found: Mapping[str, Any] = tasks.load(list(names))["tasks"]
            return found
    except Exception as e:  # whatever the hub, a file or the YAML throws
        said = (str(e).strip() or type(e).__name__).splitlines()[0]
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise UserError(f"the data of {', '.join(names)} cannot be had{offline}: {said}; go online, or write a task "
                        "YAML with data_files of your own") from e


def _hint(name: str, known: Sequence[str]) -> str:
    """The nearest of thousands of names, or nothing."""
    hint = nearest(name, known)
    return hint if "did you mean" in hint else "; `lm-eval ls tasks` lists them"


def _harness() -> ModuleType:
    try:
        with _quiet():
            import lm_eval
            import lm_eval.api.model
            import lm_eval.evaluator
            import lm_eval.tasks
    except ModuleNotFoundError as e:
        raise MissingExtra("lm-evaluation-harness", "eval") from e
    return lm_eval  # type: ignore[no-any-return]


@contextmanager
def _quiet() -> Iterator[None]:
    """What the harness prints goes to stderr, and its warnings nowhere: stdout is for our own results."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(stderr):
            yield
    finally:
        logger.setLevel(before)
