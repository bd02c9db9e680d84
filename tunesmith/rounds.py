"""The story: one function per step, from demonstrations to a report. The command line and the quickstart call these.

Each step loads the base afresh and lets it go at the end, so a step in this process and the same step as a command
of its own are one and the same. Left out until rounds land: schedules, adoption and rollback.
"""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import library
from tunesmith.contracts import Engine, Progress, Sampling
from tunesmith.errors import DataError, NotFound, SettingsError, UserError
from tunesmith.feedback.consensus import agree
from tunesmith.feedback.expressions import Ungraded
from tunesmith.feedback.grading import Question, Reply
from tunesmith.judgements import agreed, comparisons, label_noise
from tunesmith.objectives import objective, rule_based
from tunesmith.records import AnswerGroup, Demonstration
from tunesmith.settings import (
    CollectSettings,
    ImportSettings,
    Lora,
    PpoSettings,
    PreferSettings,
    RewardSettings,
    Settings,
    SftSettings,
)
from tunesmith.shop import Shop, engine_of, limited
from tunesmith.store import desk, exchange, foreign, formats
from tunesmith.store.sets import differing, set_names
from tunesmith.store.workspace import Adapter, Dataset, Run, Workspace
from tunesmith.watching import monitor

if TYPE_CHECKING:
    from tunesmith.model.base import Base
    from tunesmith.service.graders import RemoteModel
    from tunesmith.train.grpo import Scoring


def import_file(shop: Shop, settings: ImportSettings) -> Dataset:
    """A file -> a dataset of the workspace."""
    if settings.kind == "answers" or settings.kind == "interactions":
        raise SettingsError(f"{settings.kind} make no dataset")
    found = formats.read(settings.file, settings.kind)
    return shop.workspace.add_dataset(settings.name, settings.kind, found.rows, source=settings.source or settings.file,
                                      licence=settings.licence, skipped=found.skipped)


def import_drafts(shop: Shop, settings: ImportSettings) -> tuple[int, dict[str, int]]:
    """A file of demonstrations -> drafts on a desk that wait for a reviewer: how many were new, what was left out."""
    if settings.kind != "demonstrations":
        raise SettingsError(f"--review is for --as demonstrations, not {settings.kind}")
    found = formats.read(settings.file, "demonstrations")
    rows = [replace(row, source=row.source or settings.source, licence=row.licence or settings.licence)
            for row in found.rows if isinstance(row, Demonstration)]
    return desk.add(shop.workspace, settings.name, rows, origin="imported"), found.skipped


def import_answers(shop: Shop, settings: ImportSettings) -> tuple[int, dict[str, int]]:
    """A file of prompts with several answers -> a set that waits for people to rank it: new groups, what was left
    out."""
    found = formats.read(settings.file, "answers")
    groups = [row for row in found.rows if isinstance(row, AnswerGroup)]
    others = differing(shop.workspace, groups)
    kept = {"here already with other details (it stays as it is)": others} if others else {}
    return shop.workspace.add_groups(settings.name, groups), {**found.skipped, **kept}


def import_judgements(shop: Shop, settings: ImportSettings) -> tuple[int, int, dict[str, int]] | None:
    """Another tool's export -> a set with its verdicts: new groups, new verdicts, what was left out.

    None where the file is no such export, so that it must be one of plain rows.
    """
    origin = foreign.detect_file(settings.file) if settings.origin == "auto" else settings.origin
    if origin in ("", "rows"):
        return None
    if settings.kind != "rankings":
        raise SettingsError(f"{settings.file} is an export of {origin}; import it with --as rankings")
    groups, verdicts, skipped = exchange.load(shop.workspace, settings.file, settings.name, origin)
    return groups, verdicts, dict(skipped)


def sft(shop: Shop, settings: SftSettings, resume: Run | None = None) -> Adapter:
    """Demonstrations -> adapter."""
    from tunesmith.train import sft as trainer

    base = shop.base_of(settings.after, settings.base, settings)
    with shop.progress("sft") as progress:
        return trainer.train(shop.workspace, base, settings, resume=resume, progress=progress)


def collect(shop: Shop, settings: CollectSettings) -> int:
    """Prompts -> groups of answers that wait for a ranking; prompts that have answers in this set already are passed.

    Returns the number of new groups.
    """
    name = settings.name or settings.prompts
    have = {g.prompt.id for g in shop.workspace.groups(name)} if name in set_names(shop.workspace) else set()
    prompts = limited(shop.workspace.dataset(settings.prompts), settings.limit)
    engine = _remote(shop.workspace, settings) if settings.endpoint else engine_of(
        shop.base_of(settings.model, settings.base), shop.workspace, [settings.model])
    total = 0
    with shop.progress("collect") as progress:
        for start in range(0, len(prompts), settings.batch):
            part = [p for p in prompts[start:start + settings.batch] if p.id not in have]
            if not part:  # asked before this was stopped; each batch has a seed of its own, so the rest stays the same
                continue
            sampling = Sampling(settings.max_tokens, settings.temperature, settings.top_p, seed=settings.seed + start)
            answers = engine.sample([p.messages for p in part], sampling, n=settings.answers, model=settings.model)
            total += shop.workspace.add_groups(name, [AnswerGroup(p, tuple(a)) for p, a in zip(part, answers)])
            progress(min(start + settings.batch, len(prompts)), len(prompts), {})
    return total


def _remote(workspace: Workspace, settings: CollectSettings) -> Engine:
    """The endpoint of `collect`. An address typed at the shell may lie in private networks, as the shell does.

    Raises:
        UserError: a bad address, model or key variable, no key, an unknown name.
    """
    from tunesmith.service.outbound import Policy
    from tunesmith.service.remote import RemoteEngine
    from tunesmith.store.endpoints import Endpoint, check_endpoint, find_endpoint

    if settings.base:
        raise UserError("--base is for the workspace's own models; an endpoint knows its own")
    if "://" in settings.endpoint:
        typed = Endpoint("typed", settings.endpoint, settings.model, settings.key)
        return RemoteEngine(check_endpoint(typed), Policy(private=None))
    known = find_endpoint(workspace, settings.endpoint)
    return RemoteEngine(check_endpoint(replace(known, model=settings.model or known.model,
                                               key_variable=settings.key or known.key_variable)))


def reward(shop: Shop, settings: RewardSettings, resume: Run | None = None) -> Adapter:
    """Rankings -> reward model, its held-out accuracy beside the labelers' agreement."""
    from tunesmith.train import reward as trainer

    found = agreed(shop.workspace, settings)
    if settings.label_smoothing == "auto":
        settings = settings.model_copy(update={"label_smoothing": label_noise(shop.workspace, settings)})
    base = shop.base_of(settings.model, settings.base, settings)
    with shop.progress("reward") as progress:
        return trainer.train(shop.workspace, base, settings, found.groups, about=found.about, resume=resume,
                             progress=progress)


def ppo(shop: Shop, settings: PpoSettings, resume: Run | None = None) -> Adapter:
    """Reward model + policy -> a better policy."""
    from tunesmith.train import ppo as trainer

    base = shop.base_of(settings.policy, "", settings)
    watch = monitor(shop, base, settings)
    with shop.progress("ppo") as progress:
        return trainer.train(shop.workspace, base, settings, resume=resume, progress=progress, monitor=watch,
                             objective=objective(shop, base, settings))


def prefer(shop: Shop, settings: PreferSettings, resume: Run | None = None) -> Adapter:
    """Rankings or thumbs, or a reward model or a grader -> a better policy, without a value function."""
    from tunesmith.train import dpo, grpo, kto

    if settings.grader and not settings.grader.endswith(".toml"):  # the run must not depend on a file that may change
        settings = settings.model_copy(update={"grader": json.dumps(_grader_spec(settings.grader))})
    base = shop.base_of(settings.policy, "", settings)
    scoring = _scoring(shop, base, settings) if settings.grader else None
    watch = monitor(shop, base, settings) if settings.method in ("grpo", "rloo") else None
    with shop.progress(settings.method) as progress:
        if settings.method in ("grpo", "rloo"):
            return grpo.train(shop.workspace, base, settings, scoring=scoring, resume=resume, progress=progress,
                              monitor=watch, objective=objective(shop, base, settings))
        found = agreed(shop.workspace, settings)
        known: dict[str, Any] = {"about": found.about, "resume": resume, "progress": progress}
        if settings.method == "kto":
            return kto.train(shop.workspace, base, settings, found.groups, **known)
        unseen = agree(comparisons(shop.workspace, settings.valid), "none").groups if settings.valid else ()
        return dpo.train(shop.workspace, base, settings, found.groups, unseen=unseen, **known)


def _grader_spec(grader: str) -> Any:
    """The JSON of `--grader`: a file, or the JSON itself.

    Raises:
        DataError: not to be read, not JSON.
    """
    try:
        return json.loads(grader if grader.lstrip().startswith("{") else Path(grader).read_text(encoding="utf-8"))
    except OSError as e:
        raise DataError(f"cannot be read: {e.strerror}", grader) from e
    except (ValueError, RecursionError) as e:
        raise DataError(f"is not JSON: {e}", grader[:80]) from e


def _scoring(shop: Shop, base: Base, settings: PreferSettings) -> Scoring:
    """The judge of `prefer --grader`. Model graders ask adapters on the same base, or the bare base, or endpoints.

    Raises:
        GraderError: no grader, or a model that nobody here answers for.
        DataError: a row of the prompts lacks a field that the grader reads; or no rubric.
    """
    if settings.grader.endswith(".toml"):
        return rule_based(shop, settings)
    from tunesmith.feedback.graders import GraderScorer, check_rows, parse
    from tunesmith.service import graders
    from tunesmith.train.grpo import Scoring

    workspace = shop.workspace
    grader = parse(json.loads(settings.grader))
    check_rows(grader, limited(workspace.dataset(settings.prompts), 0), settings.prompts)
    served = {name for a in workspace.adapters() if a.role == "policy" and a.base["hash"] == base.hash
              for name in (a.name, str(a))}
    own = {name for name in grader.models() if name in (served | {"base", base.spec})}
    engine = engine_of(base, workspace, sorted(own & served))

    def answers(question: Question) -> Reply:
        name = question.model if question.model in served else ""
        try:
            said = engine.sample([question.spelled_out], graders.drawn(question, 256, 256), model=name)[0][0]
        except UserError as error:  # it does not fit
            raise Ungraded("model_grader_server_error", str(error)) from error
        return Reply(said.text, question.model, len(said.tokens))

    find = partial(_grading_endpoint, workspace, settings) if settings.endpoint else graders.of_workspace(workspace)
    for name in grader.models() - own:
        find(name)  # says now what is wrong with it
    ask = graders.asker({name: answers for name in own}, find)
    scorer = GraderScorer(grader, ask, at_once=graders.AT_ONCE if grader.models() and not own else 1)
    return Scoring(scorer, {"grader": grader.spec}, scorer.figures)


def _grading_endpoint(workspace: Workspace, settings: PreferSettings, model: str) -> RemoteModel:
    """`--endpoint` for one model. An address typed at the shell may lie in private networks, as the shell does."""
    from tunesmith.service.graders import RemoteModel
    from tunesmith.service.outbound import Policy
    from tunesmith.store.endpoints import Endpoint, find_endpoint

    if "://" in settings.endpoint:
        return RemoteModel(Endpoint("typed", settings.endpoint, model, settings.key), Policy(private=None))
    known = find_endpoint(workspace, settings.endpoint)
    return RemoteModel(replace(known, model=model, key_variable=settings.key or known.key_variable))


def export(shop: Shop, name: str, format: str, out: str, precision: str = "bf16", licence: str = "") -> Path:
    """Adapter -> a folder or file that another program loads."""
    from tunesmith.model import export as exporter

    adapter = shop.workspace.adapter(name)
    job = exporter.Job(adapter, shop._folder(str(adapter.base["spec"])), format, precision,  # type: ignore[arg-type]
                       licence, library.licences(shop.workspace, adapter))
    with shop.progress("export") as progress:
        return exporter.export(job, Path(out), progress)


def import_adapter(shop: Shop, folder: str, name: str, spec: str = "") -> Adapter:
    """A PEFT folder from elsewhere -> adapter, after it was held against its base (`spec`, or what the folder says)."""
    from tunesmith.model import export as exporter

    found = exporter.read(Path(folder))
    base = shop.base(spec or found.spec)
    inputs = {"base": base.hash, "weights": found.fingerprint}
    check = exporter.checked(found, base)
    run = shop.workspace.start_run("import", {"folder": folder, "name": name}, 0, inputs)
    lineage = {"run": run.id, "data": {}, "parents": {}, "settings": {}, "imported": {**found.told, **inputs}}
    adapter = shop.workspace.publish_adapter(name, found.role, base.describe(), check, lineage)
    run.finish("finished", {"adapter": str(adapter)})
    return adapter


def resume(shop: Shop, run: Run) -> Adapter:
    """Go on with a run that was interrupted.

    Raises:
        UserError: nothing to resume in this kind of run.
    """
    if run.command not in STEPS:
        raise UserError(f"run {run.id} is a {run.command}; only sft, reward, ppo and prefer runs can be resumed")
    step, settings = STEPS[run.command]
    adapter: Adapter = step(shop, settings.model_validate(run.settings), run)
    return adapter


STEPS: dict[str, tuple[Any, type[Settings]]] = {
    "sft": (sft, SftSettings), "reward": (reward, RewardSettings), "ppo": (ppo, PpoSettings),
    "prefer": (prefer, PreferSettings)}
"""The steps that are runs, by their command, with their settings."""


def train(shop: Shop, command: str, settings: Settings, run: Run | None, progress: Progress) -> Adapter:
    """Any step that is a run, or going on with it; `progress` hears of every step."""
    told = replace(shop, progress=lambda _: nullcontext(progress))
    if run:
        return resume(told, run)
    adapter: Adapter = STEPS[command][0](told, settings)
    return adapter


def fresh(shop: Shop, spec: str, name: str, seed: int = 0) -> Adapter:
    """A LoRA adapter that changes nothing, for methods that start from an adapter, on a bare base."""
    from tunesmith.model import adapters
    from tunesmith.train import full

    base = shop.base(spec)
    adapters.attach(base, "policy", full.method(Lora()), seed)
    return shop.workspace.publish_adapter(
        name, "policy", base.describe(), lambda folder: adapters.save(base, "policy", folder),
        {"data": {}, "parents": {}, "seed": seed})


def once(shop: Shop, spec: str, command: str, name: str, settings: Settings | None) -> Adapter:
    """A step of that name, unless it was made before: then what it made, or going on where it was stopped.

    Without settings, a fresh adapter on the base `spec`.
    """
    if settings is None:
        with suppress(NotFound):
            return shop.workspace.adapter(name)
        return fresh(shop, spec, name)
    runs = [r for r in shop.workspace.runs() if r.command == command and r.settings.get("name") == name]
    if runs and runs[-1].status == "finished":
        return shop.workspace.adapter(str(runs[-1].summary["adapter"]))
    if runs:
        return resume(shop, runs[-1])
    adapter: Adapter = STEPS[command][0](shop, settings)
    return adapter


