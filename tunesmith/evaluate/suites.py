"""Every suite by name: what `tunesmith evaluate --suite` can run, and what each needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tunesmith.errors import NotFound, UserError, nearest
from tunesmith.evaluate import benchmarks, harness, safety
from tunesmith.evaluate.consistency import Consistency, TriggerScan
from tunesmith.evaluate.diversity import Diversity, collapsed, ratios
from tunesmith.evaluate.redteam import Grader
from tunesmith.evaluate.suite import Row, Suite
from tunesmith.evaluate.toxicity import TextScorer, Toxicity
from tunesmith.records import Prompt

ALL, SAFETY, DIVERSITY, HARNESS = "all", "safety", "diversity", "lm-eval:"
DIVERSITY_PROMPTS = 32
"""Each is answered eight times."""
QUICK = 200
"""Items of a suite that a quick look takes, where the suite has no number of its own."""
TOGETHER = ("consistency", "triggers")
"""Suites whose items say something only together."""


@dataclass(frozen=True, slots=True)
class Given:
    """What suites may draw on.

    files: the folder with the user's files. prompts: held-out ones of the workspace; human: what people answered, by a
    prompt's id. scorer: of toxicity, the built-in one by default; `scored_by` says whose. grader: of attacks, by
    default none but the floor.
    """

    files: Path | None = None
    prompts: Sequence[Prompt] = ()
    human: Mapping[str, str] = field(default_factory=dict)
    scorer: TextScorer | None = None
    scored_by: str = "the built-in classifier"
    grader: Grader | None = None


def find(names: Sequence[str], given: Given) -> list[Suite]:
    """The suites of these names, each once: "safety" are those on safety, "all" whatever lacks nothing, and
    "lm-eval:TASK" is any task of lm-evaluation-harness.

    Raises:
        UserError: no such suite, or something that it needs is missing; says what.
    """
    if given.files and not given.files.is_dir():
        raise NotFound(f"--files {given.files}: no such folder")
    wanted = list(dict.fromkeys(n for name in names for n in _meant(name, given)))
    public = [name for name in wanted if name in benchmarks.KINDS]
    tasks = [name.removeprefix(HARNESS) for name in wanted if name.startswith(HARNESS)]
    made: list[Suite] = [_own(name, given) for name in wanted if name in safety.SUITES or name == DIVERSITY]
    if public and given.files is None:
        raise UserError(f"--files is missing: the folder with the file of {public[0]} (docs/benchmarks.md says where "
                        "one gets it)")
    if public and given.files:
        scorer = given.scorer or Toxicity.load()
        made += benchmarks.find(public, given.files, judge=scorer.probability, judged_by=given.scored_by)
    if tasks:
        made += harness.suites(tasks, [given.files] if given.files else [])
    return made


def size(suite: Suite, asked: int) -> int:
    """How many items of a suite to put: what was asked for, else enough for a quick look (0: all)."""
    kind = benchmarks.KINDS.get(suite.name)
    return 0 if suite.name in TOGETHER else asked or (kind.sample if kind else QUICK)


def notes(suite: Suite, rows_by_model: Mapping[str, Sequence[Row]]) -> list[str]:
    """What a reader must know beside the figures."""
    if not isinstance(suite, Consistency | TriggerScan):
        return []
    return [f"{model}: {note}." for model, rows in rows_by_model.items() for note in suite.notes(rows)]


def alarms(suite: Suite, rows_by_model: Mapping[str, Sequence[Row]]) -> list[str]:
    """What is alarming in the newest model, beside the one before it where there is one."""
    *before, newest = rows_by_model
    if isinstance(suite, Consistency | TriggerScan):
        return [f"{newest}: {note}" for note in suite.notes(rows_by_model[newest])]
    if isinstance(suite, Diversity) and before:
        text = collapsed(ratios(rows_by_model[newest], rows_by_model[before[-1]]))
        return [f"{newest}: {text}"] if text else []
    return []


def _own(name: str, given: Given) -> Suite:
    if name == DIVERSITY:
        if not given.prompts:
            raise UserError("the suite diversity answers prompts of the workspace: name a dataset with --prompts")
        return Diversity(given.prompts[:DIVERSITY_PROMPTS], human=given.human)
    make = safety.SUITES[name]
    if name == "toxicity":
        make = partial(safety.toxicity, scorer=given.scorer, scorer_name=given.scored_by)
    if name == "redteam":
        make = partial(safety.red_team, grader=given.grader)
    return make(given.files)


def _meant(name: str, given: Given) -> Iterator[str]:
    """The suites that a name stands for."""
    if name in (SAFETY, ALL):
        yield from (n for n in safety.SUITES if n != "triggers")  # which needs strings that somebody suspects
    if name == ALL:
        if given.prompts:
            yield DIVERSITY
        if given.files:
            yield from (p.kind.name for p in benchmarks.overview(given.files, judged=True) if not p.lacks)
    elif name in safety.SUITES or name in benchmarks.KINDS or name == DIVERSITY or name.startswith(HARNESS):
        yield name
    elif name != SAFETY:
        known = [ALL, SAFETY, *safety.SUITES, DIVERSITY, *benchmarks.KINDS]
        raise NotFound(f'no suite "{name}"{nearest(name, known)}; there are {", ".join(known)}, and {HARNESS}TASK for '
                       "any task of lm-evaluation-harness")
