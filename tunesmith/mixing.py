"""Instruction data at scale: a recipe of tasks and templates -> a dataset that training draws from at its rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from tunesmith.data import mixture
from tunesmith.data.mixture import Mixture, Row
from tunesmith.errors import UserError
from tunesmith.settings import MixSettings
from tunesmith.settings.mixing import Recipe, TaskSettings
from tunesmith.shop import Shop
from tunesmith.store.files import read_rows
from tunesmith.store.workspace import Dataset, Workspace

HELD_OUT = "-held-out"
"""Behind a mixture's name: the dataset of the clusters that it leaves out."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """What `mix` made. `held_out` has rows of every held-out task, to measure on; None without such tasks."""

    dataset: Dataset
    mixture: Mixture
    held_out: Dataset | None


def mix(shop: Shop, settings: MixSettings) -> Mixed:
    """Publish a recipe's mixture as a dataset of demonstrations, and its held-out clusters as another.

    Memory does not grow with the rows: files are read twice, a row at a time.

    Raises:
        SettingsError: a recipe that cannot be used; DataError: a row that does not fit its templates, with its place.
        UserError: no row is left, or the name is taken by other rows.
    """
    recipe, path = Recipe.load({}, settings.recipe), Path(settings.recipe)
    name = settings.name or path.stem
    read = partial(_rows, shop.workspace, path.parent)
    tasks = mixture.survey(recipe, read)
    counts, skipped = Counter[str](), Counter[str]()
    blended: list[Mixture] = []

    def beside() -> dict[str, str]:
        blended.append(mixture.blend(recipe, tasks, counts))
        return {mixture.FILE: blended[0].dump(recipe)}

    def publish(name: str, held_out: bool, **how: Any) -> Dataset:
        licences = {_licence(shop.workspace, t.spec) for t in tasks.values()
                    if (t.cluster in recipe.held_out) == held_out}
        rows = mixture.render(recipe, tasks, read, Counter() if held_out else counts, skipped, held_out)
        with shop.progress(name) as progress:
            rows = mixture.told(rows, mixture.expected(recipe, tasks, held_out), progress)
            return shop.workspace.add_dataset(name, "demonstrations", rows, source=f"mixture {path.name}",
                                              licence=", ".join(sorted(filter(None, licences))), skipped=skipped, **how)

    made = publish(name, False, beside=beside)
    skipped = Counter()
    held_out = publish(name + HELD_OUT, True) if recipe.held_out else None
    if settings.base:
        cut(shop, name, settings.base, settings.max_tokens)
    return Mixed(made, blended[0], held_out)


def cut(shop: Shop, name: str, base: str, max_tokens: int = 0) -> int:
    """Cut a mixture into a base's tokens, as training with LoRA will ask for them; how many conversations fit.

    Raises:
        UserError: the dataset is no mixture.
    """
    from tunesmith.train import material

    data, held = shop.workspace.dataset(name), shop.base(base)
    found = Mixture.of(data)
    if found is None:
        raise UserError(f"{name} is a plain dataset; tunesmith data mix makes mixtures")
    with shop.progress("tokens") as progress:
        longest = min(max_tokens or held.context, held.context)
        return len(material.cut(shop.workspace, held, data, found, longest, progress))


def table(found: Mixture) -> list[dict[str, Any]]:
    """A row for each task: its rows in each view, its share of the draws, and how often one pass of the mixture sees
    each of its rows."""
    rows = []
    for task, sources in ((t, list(s)) for t, s in groupby(found.sources, attrgetter("task"))):
        share = sum(s.rate for s in sources)
        most = max(s.rows for s in sources)
        rows.append({"cluster": sources[0].cluster, "task": task, "rows": most, "share": f"{share:.2%}",
                     "views": " ".join(f"{s.view} {s.rate / share:.0%}" for s in sources),
                     "passes": f"{share * found.size / most:.3g}"})
    return rows


def _rows(workspace: Workspace, folder: Path, task: TaskSettings) -> Iterator[tuple[str, Row]]:
    """A task's rows with the place each stands at; of a dataset those that were accepted."""
    if task.data:
        for number, row in enumerate(_dataset(workspace, task.data).rows(), 1):
            if row.review == "accepted":
                yield f"{task.data}, row {number}", row
        return
    path = str(folder / task.file)
    for line, row in read_rows(Path(path), Counter()):
        yield f"{path}:{line}", row


def _dataset(workspace: Workspace, name: str) -> Dataset:
    found = workspace.dataset(name)
    if found.kind != "demonstrations":
        raise UserError(f"{name} holds {found.kind}, and a mixture takes demonstrations")
    return found


def _licence(workspace: Workspace, task: TaskSettings) -> str:
    return task.licence or (_dataset(workspace, task.data).licence if task.data else "")
