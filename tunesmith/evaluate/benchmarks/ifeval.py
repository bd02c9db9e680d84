"""IFEval: does the model follow instructions that a program can check (no commas, three bullets, all in capitals)?

Zhou et al. 2023 (2311.07911): 541 prompts with one to three instructions of 25 kinds. Strict looks at the answer as it
stands, loose also without its first or last line and without asterisks. An instruction counts as followed by no empty
answer. The checkers are those of lm-evaluation-harness (extra `eval`), which are the authors'; there is no copy of them
here. Two kinds count sentences or words with NLTK's "punkt_tab": where that is not installed
(`python -m nltk.downloader punkt_tab`), prompts with them are left out, and the suite says so.

Prompts are put as a user's turn, answered greedily with at most 1,280 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from sys import stderr
from typing import Any

import numpy as np

from tunesmith.contracts import Sampling
from tunesmith.errors import DataError, MissingExtra
from tunesmith.evaluate.benchmarks.common import Benchmark, Kind, load, texts, writing
from tunesmith.evaluate.suite import Columns, Figure, Item, Row
from tunesmith.records import Message
from tunesmith.store.fields import read_text

SAMPLING = Sampling(max_tokens=1280, temperature=0.0)
PUNKT = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}


def share(c: Columns, way: str) -> float:
    """Instructions followed, over all instructions."""
    asked = np.where(np.isnan(c[f"followed_{way}"]), np.nan, c["instructions"])
    return float(np.nansum(c[f"followed_{way}"]) / np.nansum(asked)) if np.nansum(asked) else float("nan")


FIGURES = (
    Figure("strict", "All instructions followed (strict)", headline=True),
    Figure("loose", "All instructions followed (loose)"),
    Figure("each_strict", "Instructions followed (strict)", of=lambda c: share(c, "strict")),
    Figure("each_loose", "Instructions followed (loose)", of=lambda c: share(c, "loose")),
)


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt and what a program checks; `kwargs[i]` belongs to `instruction_id_list[i]`."""

    key: int
    prompt: str
    instruction_id_list: tuple[str, ...]
    kwargs: tuple[Mapping[str, Any], ...]


def build(path: Path) -> Benchmark:
    """The suite over input_data.jsonl of google-research/instruction_following_eval, or the same fields elsewhere.

    Raises:
        DataError: with file, line and field.
        MissingExtra: lm-evaluation-harness is not installed.
    """
    check = _checkers()
    tasks = load(path, _task, '"key", "prompt", "instruction_id_list" and "kwargs"', KIND.where)
    kept = tasks if _has_punkt() else [t for t in tasks if not PUNKT & set(t.instruction_id_list)]
    about = KIND.about if len(kept) == len(tasks) else (
        f"{KIND.about} ({len(tasks) - len(kept)} prompts are left out, whose sentences or words NLTK would have to "
        "count: python -m nltk.downloader punkt_tab)")
    items = [Item(f"{n}", t, t.instruction_id_list[0].partition(":")[0]) for n, t in enumerate(kept)]
    put = writing(lambda t: (Message("user", t.prompt),), SAMPLING,
                  lambda t, answer: judge(check(asdict(t), [answer]), t, answer))
    return Benchmark(KIND.name, KIND.title, about, KIND.source, f"1, {len(kept)} of {len(tasks)}", FIGURES, items, put)


def judge(found: Mapping[str, Any], task: Task, answer: str) -> Row:
    """The row of an answer from what lm-evaluation-harness's checkers found."""
    return {"strict": bool(found["prompt_level_strict_acc"]), "loose": bool(found["prompt_level_loose_acc"]),
            "followed_strict": sum(found["inst_level_strict_acc"]), "instructions": len(task.instruction_id_list),
            "followed_loose": sum(found["inst_level_loose_acc"]), "prompt": task.prompt, "answer": answer}


@cache
def _checkers() -> Callable[[Mapping[str, Any], list[str]], Mapping[str, Any]]:
    """The harness's function from a task and an answer to what was followed. What it says goes to stderr."""
    try:
        with redirect_stdout(stderr):
            import langdetect
            from lm_eval.tasks.ifeval import utils
    except ModuleNotFoundError as e:
        raise MissingExtra("lm-evaluation-harness", "eval") from e
    langdetect.DetectorFactory.seed = 0  # else it guesses anew in each process
    check: Callable[[Mapping[str, Any], list[str]], Mapping[str, Any]] = utils.process_results
    return check


def _has_punkt() -> bool:
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return False
    return True


def _task(row: Mapping[str, Any]) -> Task:
    names, kwargs, key = texts(row, "instruction_id_list"), row.get("kwargs"), row.get("key")
    if not isinstance(kwargs, list) or len(kwargs) != len(names) or not all(isinstance(k, Mapping) for k in kwargs):
        raise DataError('"kwargs" must be a list with an object for each instruction')
    if not isinstance(key, int):
        raise DataError('"key" must be a number')
    return Task(key, read_text(row, "prompt"), tuple(names), tuple(kwargs))


KIND = Kind(
    "ifeval", "IFEval", "Whether instructions are followed that a program can check",
    ("instruction_following_eval/data/input_data.jsonl", "ifeval*.jsonl", "ifeval*.jsonl.gz"),
    "github.com/google-research/google-research (instruction_following_eval)", "Apache-2.0", 60, build,
    extra="lm_eval")
