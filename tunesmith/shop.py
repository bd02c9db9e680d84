"""What every step needs: the workspace, bases and judges by name, engines, and somebody to tell how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.contracts import Progress, Scorer
from tunesmith.errors import NotFound, UserError
from tunesmith.evaluate.compare import Checks
from tunesmith.evaluate.report import Metric
from tunesmith.records import Prompt
from tunesmith.settings import Optimization
from tunesmith.store.workspace import Dataset, Workspace

if TYPE_CHECKING:
    from tunesmith.model.base import Base
    from tunesmith.model.engine import LocalEngine


@dataclass(frozen=True, slots=True)
class Judge:
    """Who decides which answer is better: a scorer, what it is called, and what else it can check in an answer.
    `simulated`: no person was involved.
    """

    label: str
    scorer: Scorer
    kind: str = "reward model"
    checks: Checks | None = None
    metrics: tuple[Metric, ...] = ()
    simulated: bool = True


@dataclass(frozen=True, slots=True)
class Shop:
    """What every step needs: the workspace, the built-in names, and somebody to tell how far it is."""

    workspace: Workspace
    progress: Callable[[str], AbstractContextManager[Progress]]
    bases: Mapping[str, str] = field(default_factory=dict)
    judges: Mapping[str, Callable[[], Judge]] = field(default_factory=dict)

    def base(self, spec: str, training: Optimization | None = None) -> Base:
        """Load a base by directory, hub id, built-in name, or NAME@VERSION of a full fine-tuning.

        `training` are the settings of a run that will train on it; they say in which precision.

        Raises:
            UserError: no base is named.
        """
        import torch

        from tunesmith.model import base as bases
        from tunesmith.model import machine, quantised
        from tunesmith.train import memory

        if not spec:
            raise UserError("which base? give --base a model directory, a Hugging Face id or loan-desk")
        bases.keep_memory()
        base = bases.load(self._folder(spec), spec, dtype=memory.loaded(training) if training else None)
        if training:
            memory.set_precision(base, training)
            if training.quantise != "none":
                quantised.quantise(base, training.quantise)
        torch.set_num_threads(machine.threads(base.width))
        return base

    def base_of(self, name: str, spec: str = "", training: Optimization | None = None) -> Base:
        """The base that adapter `name` belongs to, or `spec` when there is no name.

        Raises:
            UserError: the base has changed since the adapter was trained.
        """
        if not name:
            return self.base(spec, training)
        adapter = self.workspace.adapter(name)
        base = self.base(spec or str(adapter.base["spec"]), training)
        if other := base.differs(adapter.base):
            raise UserError(f"{adapter} was trained on another base: {adapter.base['spec']} had another {other}; name "
                            "the right one with --base")
        return base

    def _folder(self, spec: str) -> str:
        from tunesmith.train import full

        if "@" not in spec or Path(spec).exists():
            return self.bases.get(spec, spec)
        adapter = self.workspace.adapter(spec)
        if adapter.base.get("kind") != "full":
            raise UserError(f"--base {spec} is an adapter; its base is {adapter.base['spec']}")
        return str(adapter.path / full.FOLDER)


def judge(shop: Shop, name: str) -> Judge:
    """A built-in judge, or a reward model of the workspace by name.

    Raises:
        NotFound: neither.
    """
    if not name:
        raise UserError(f"who judges? give --judge a reward model of the workspace, or {' or '.join(shop.judges)}")
    if name in shop.judges:
        return shop.judges[name]()
    from tunesmith.model.scorer import RewardModel

    try:
        adapter = shop.workspace.adapter(name)
    except NotFound as e:
        raise NotFound(f'no judge "{name}": give a reward model, or one of: {", ".join(shop.judges)} ({e})') from e
    return Judge(f"reward model {adapter}", RewardModel.load(shop.base_of(name), adapter.path))


def engine_of(base: Base, workspace: Workspace, names: Sequence[str]) -> LocalEngine:
    from tunesmith.model.engine import LocalEngine

    engine = LocalEngine(base)
    for name in names:
        if name:
            engine.load(name, workspace.adapter(name).path)
    return engine


def limited(dataset: Dataset, limit: int) -> list[Prompt]:
    if dataset.kind != "prompts":
        raise UserError(f"{dataset.name} holds {dataset.kind}, not prompts")
    prompts = list(dataset.rows())
    return prompts[:limit] if limit else prompts


def counted(progress: Progress, total: int) -> Callable[[int], None]:
    """A callback that takes how many more are done, for one that wants how many in all."""
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total, {})

    return advance
