"""Public benchmarks as suites over local files: nothing here downloads anything.

`KINDS` is what there is, `find` builds suites from the files in a folder, `overview` says which files are there. What
lm-evaluation-harness measures by name comes from `evaluate.harness`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tunesmith.errors import MissingExtra, NotFound, UserError, nearest
from tunesmith.evaluate.benchmarks import bbq, capability, crows_pairs, ifeval, real_toxicity, truthfulqa, winogender
from tunesmith.evaluate.benchmarks.common import Benchmark, Kind, nearest_file
from tunesmith.evaluate.benchmarks.real_toxicity import Judge

__all__ = ["ALL", "KINDS", "Benchmark", "Kind", "Present", "default_samples", "find", "overview"]

KINDS: dict[str, Kind] = {kind.name: kind for kind in (
    truthfulqa.KIND, bbq.KIND, crows_pairs.KIND, winogender.KIND, real_toxicity.KIND, ifeval.KIND, capability.MMLU,
    capability.BBH, capability.GSM8K)}
ALL = "all"
"""Every benchmark whose file is there."""


@dataclass(frozen=True, slots=True)
class Present:
    """A benchmark, its file if the folder has it, and what it lacks to be run ("": nothing)."""

    kind: Kind
    path: Path | None
    lacks: str = ""


def overview(folder: str | Path | None, judged: bool = False) -> list[Present]:
    """All benchmarks, with the file that the folder or one of its subfolders holds. `judged`: somebody judges toxicity.

    Raises:
        UserError: there is no such folder.
    """
    if folder is None:
        raise UserError("public benchmarks come from files on your disk; name their folder (--files)")
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name the one with the benchmarks' files")
    return [_present(kind, folder, judged) for kind in KINDS.values()]


def find(names: Iterable[str], folder: str | Path | None, *, judge: Judge | None = None,
         judged_by: str = "") -> list[Benchmark]:
    """The named benchmarks over the files in `folder`; "all" are those that lack nothing.

    Args:
        judge: the probability of each text to be toxic, for `real_toxicity`; `judged_by` says whose.

    Raises:
        NotFound: a name that no benchmark has, a file that is not there, no judge of toxicity.
        DataError: a file that is not what it should be; with line and field.
        MissingExtra: a benchmark that needs an extra.
        UserError: no such folder.
    """
    asked = list(dict.fromkeys(names))
    if unknown := next((name for name in asked if name != ALL and name not in KINDS), None):
        raise NotFound(f'no benchmark is called "{unknown}"{nearest(unknown, [ALL, *KINDS])}')
    there = {present.kind.name: present for present in overview(folder, judge is not None)}
    chosen = [name for name, present in there.items() if not present.lacks] if ALL in asked else asked
    if not chosen:
        raise NotFound(f"{folder} holds no benchmark that can be run; " + "; ".join(p.lacks for p in there.values()))
    return [_build(there[name], judge, judged_by) for name in chosen]


def _build(present: Present, judge: Judge | None, judged_by: str) -> Benchmark:
    kind = present.kind
    if present.path is None or (kind.scored and judge is None):
        raise NotFound(present.lacks)
    return kind.build(present.path, judge, judged_by=judged_by) if kind.scored else kind.build(present.path)


def _present(kind: Kind, folder: Path, judged: bool) -> Present:
    path, lacks = nearest_file(folder, kind.files), ""
    if path is None:
        lacks = f"{kind.title}: {folder} does not hold {' or '.join(kind.files[:2])}, which comes from {kind.where}"
    elif kind.extra and find_spec(kind.extra) is None:
        lacks = f"{kind.title}: {MissingExtra('lm-evaluation-harness', 'eval')}"
    elif kind.scored and not judged:
        lacks = f"{kind.title} needs a judge of toxicity; name one"
    return Present(kind, path, lacks)


def default_samples(suites: Sequence[Benchmark]) -> dict[str, int]:
    """How many items of each suite a quick look takes."""
    return {suite.name: KINDS[suite.name].sample for suite in suites}
