"""The story: one function per step, from demonstrations to a report. The command line and the quickstart call these.

Each step loads the base afresh and lets it go at the end, so a step in this process and the same step as a command
of its own are one and the same. Left out until rounds land: schedules, adoption and rollback.
"""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import __version__
from tunesmith.contracts import Engine, Progress, Sampling, Scorer
from tunesmith.errors import DataError, NotFound, SettingsError, UserError, nearest
from tunesmith.evaluate import report as reports
from tunesmith.evaluate.compare import Checks, answer_all, compare, save
from tunesmith.evaluate.report import Metric
from tunesmith.feedback.agreement import agreement, self_consistency
from tunesmith.feedback.consensus import Agreed, agree, flip_rate
from tunesmith.feedback.expressions import Ungraded
from tunesmith.feedback.grading import Question, Reply
from tunesmith.feedback.groups import ranked
from tunesmith.records import Answer, AnswerGroup, Demonstration, Prompt
from tunesmith.settings import (
    CollectSettings,
    EvaluateSettings,
    ImportSettings,
    Lora,
    Optimization,
    PpoSettings,
    PreferSettings,
    RewardSettings,
    Settings,
    SftSettings,
)
from tunesmith.statistics import mean_interval
from tunesmith.store import desk, exchange, foreign, formats
from tunesmith.store.project import gold, project
from tunesmith.store.sets import differing, set_names
from tunesmith.store.team import quarantined
from tunesmith.store.workspace import Adapter, Dataset, Run, Workspace

if TYPE_CHECKING:
    from tunesmith.model.base import Base
    from tunesmith.model.engine import LocalEngine
    from tunesmith.service.graders import RemoteModel
    from tunesmith.train.grpo import Scoring

REWARD = Metric("reward", "Reward model's score", "", "higher", help="what training maximised; it does not judge")


@dataclass(frozen=True, slots=True)
class Judge:
    """Who decides which answer is better: a scorer, what it is called, and what else it can check in an answer."""

    label: str
    scorer: Scorer
    kind: str = "reward model"
    checks: Checks | None = None
    metrics: tuple[Metric, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """A report: where it is, what it says first, and all of it."""

    path: Path
    verdict: list[str]
    report: Mapping[str, Any]


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
        if base.hash != adapter.base["hash"]:
            raise UserError(f"{adapter} was trained on another base: {adapter.base['spec']} had hash "
                            f"{adapter.base['hash']}, {base.spec} has {base.hash}; name the right one with --base")
        return base

    def _folder(self, spec: str) -> str:
        from tunesmith.train import full

        if "@" not in spec or Path(spec).exists():
            return self.bases.get(spec, spec)
        adapter = self.workspace.adapter(spec)
        if adapter.base.get("kind") != "full":
            raise UserError(f"--base {spec} is an adapter; its base is {adapter.base['spec']}")
        return str(adapter.path / full.FOLDER)


def import_file(shop: Shop, settings: ImportSettings) -> Dataset:
    """A file -> a dataset of the workspace."""
    if settings.kind == "answers":
        raise SettingsError("answers make a set, not a dataset")
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
    have = {g.prompt.id for g in shop.workspace.groups(name)} if name in _sets(shop.workspace) else set()
    prompts = [p for p in _limited(shop.workspace.dataset(settings.prompts), settings.limit) if p.id not in have]
    engine = _remote(shop.workspace, settings) if settings.endpoint else _engine(
        shop.base_of(settings.model, settings.base), shop.workspace, [settings.model])
    total = 0
    with shop.progress("collect") as progress:
        for start in range(0, len(prompts), settings.batch):
            part = prompts[start:start + settings.batch]
            sampling = Sampling(settings.max_tokens, settings.temperature, settings.top_p, seed=settings.seed + start)
            answers = engine.sample([p.messages for p in part], sampling, n=settings.answers, model=settings.model)
            total += shop.workspace.add_groups(name, [AnswerGroup(p, tuple(a)) for p, a in zip(part, answers)])
            progress(start + len(part), len(prompts), {})
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


def comparisons(workspace: Workspace, name: str, without: Sequence[str] = ()) -> list[AnswerGroup]:
    """What people said of a set's groups, or an imported dataset's rows: one group per ranking.

    Labelers named in `without` are left out, and so are, of a set, those in quarantine; test questions never train.

    Raises:
        NotFound: neither a set nor a dataset has this name.
        UserError: nobody has ranked yet, or only people who are left out; or `without` names somebody who did not.
    """
    if name in _sets(workspace):
        groups = _ranked(workspace, name, without)
        if not groups:
            out = {*without, *quarantined(workspace)}
            why = f" (left out: {', '.join(sorted(out))})" if out else ""
            raise UserError(f"nobody has ranked a group of {name} yet{why}; run: tunesmith studio --groups {name}")
        return groups
    dataset = workspace.dataset(name)
    if dataset.kind not in ("comparisons", "rankings"):
        raise UserError(f"{name} holds {dataset.kind}, not comparisons or rankings")
    rows = list(dataset.rows())
    _known_labelers(without, {g.labeler for g in rows}, name)
    return [g for g in rows if g.labeler not in without]


def _ranked(workspace: Workspace, name: str, without: Sequence[str]) -> list[AnswerGroup]:
    """What is said of a set's groups by those who are not left out; empty if that is nobody."""
    rankings, tests = workspace.rankings(name), gold(workspace, name)
    _known_labelers(without, {r.labeler for r in rankings}, name)
    groups = [g for g in workspace.groups(name) if g.id not in tests]
    return ranked(groups, rankings, without={*without, *quarantined(workspace)}, merged=False)


def _known_labelers(wanted: Sequence[str], known: set[str], name: str) -> None:
    """
    Raises:
        UserError: one of the names judged nothing of these data: leaving it out would change nothing, unnoticed.
    """
    if strange := [who for who in wanted if who not in known]:
        raise UserError(f'"{strange[0]}" has judged nothing of {name}, so nothing can be left out'
                        f"{nearest(strange[0], known)}")


def agreed(workspace: Workspace, settings: RewardSettings | PreferSettings) -> Agreed:
    """The comparisons as a model learns from them, and how they were made, for the run's summary.

    Raises:
        NotFound, UserError: as `comparisons`.
    """
    name = settings.comparisons
    held = sorted(quarantined(workspace) - set(settings.without))
    cap = project(workspace, name).share_cap if name in _sets(workspace) else 1.0
    found = agree(comparisons(workspace, name, settings.without), settings.consensus, cap=cap,
                  held_out=settings.held_out)
    if held and name in _sets(workspace):
        left = {who: count for who, count in Counter(r.labeler for r in workspace.rankings(name, latest=True)).items()
                if who in held}
        return Agreed(found.groups, {**found.about, "quarantined": left})
    return found


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


def label_noise(workspace: Workspace, settings: RewardSettings) -> float:
    """The share of wrong labels: from labelers' second looks, or without any from how far two labelers agree.

    Raises:
        UserError: nobody judged anything twice.
    """
    name = settings.comparisons
    if name in _sets(workspace):
        out = {*settings.without, *quarantined(workspace)}
        rankings = [r for r in workspace.rankings(name) if r.labeler not in out]
        looks = self_consistency({g.id: g for g in workspace.groups(name)}, rankings).values()
        if count := sum(i.n for i in looks):
            return round(flip_rate(sum(i.value * i.n for i in looks) / count), 4)
    found = agreement(comparisons(workspace, name, settings.without)).percent
    if not found.n:
        raise UserError(f"--label-smoothing auto: in {name} nothing was judged twice; give a number instead, such as "
                        "--label-smoothing 0.1")
    return round(flip_rate(found.value), 4)


def ppo(shop: Shop, settings: PpoSettings, resume: Run | None = None) -> Adapter:
    """Reward model + policy -> a better policy."""
    from tunesmith.train import ppo as trainer

    base = shop.base_of(settings.policy, "", settings)
    with shop.progress("ppo") as progress:
        return trainer.train(shop.workspace, base, settings, resume=resume, progress=progress)


def prefer(shop: Shop, settings: PreferSettings, resume: Run | None = None) -> Adapter:
    """Rankings or thumbs, or a reward model or a grader -> a better policy, without a value function."""
    from tunesmith.train import dpo, grpo, kto

    if settings.grader:  # the run must not depend on a file that may change
        settings = settings.model_copy(update={"grader": json.dumps(_grader_spec(settings.grader))})
    base = shop.base_of(settings.policy, "", settings)
    scoring = _scoring(shop.workspace, base, settings) if settings.grader else None
    with shop.progress(settings.method) as progress:
        if settings.method in ("grpo", "rloo"):
            return grpo.train(shop.workspace, base, settings, scoring=scoring, resume=resume, progress=progress)
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


def _scoring(workspace: Workspace, base: Base, settings: PreferSettings) -> Scoring:
    """The judge of `prefer --grader`. Model graders ask adapters on the same base, or the bare base, or endpoints.

    Raises:
        GraderError: no grader, or a model that nobody here answers for.
        DataError: a row of the prompts lacks a field that the grader reads.
    """
    from tunesmith.feedback.graders import GraderScorer, check_rows, parse
    from tunesmith.service import graders
    from tunesmith.train.grpo import Scoring

    grader = parse(json.loads(settings.grader))
    check_rows(grader, _limited(workspace.dataset(settings.prompts), 0), settings.prompts)
    served = {name for a in workspace.adapters() if a.role == "policy" and a.base["hash"] == base.hash
              for name in (a.name, str(a))}
    own = {name for name in grader.models() if name in (served | {"base", base.spec})}
    engine = _engine(base, workspace, sorted(own & served))

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
    learned = {d.name: d.licence for d in shop.workspace.datasets() if d.name in adapter.lineage.get("data", {})}
    job = exporter.Job(adapter, shop._folder(str(adapter.base["spec"])), format, precision,  # type: ignore[arg-type]
                       licence, learned)
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


def answers(shop: Shop, settings: EvaluateSettings, prompts: Sequence[Prompt]) -> dict[str, list[Answer]]:
    """One answer per prompt from every baseline and model, one base resident at a time; the plainest first."""
    names = list(dict.fromkeys([*settings.against, *reversed(settings.models)]))
    sampling = Sampling(settings.max_tokens, settings.temperature, seed=settings.seed)
    drawn: dict[str, list[Answer]] = {}
    with shop.progress("answers") as progress:
        count = _counted(progress, len(prompts) * len(names))
        for spec, same in _by_base(shop.workspace, names, settings.models[0]).items():
            adapters = [n for n in same if n != "base"]
            engine = _engine(shop.base_of(adapters[0] if adapters else "", spec), shop.workspace, adapters)
            drawn |= answer_all(engine, prompts, {n: "" if n == "base" else n for n in same}, sampling, count)
    return {n: drawn[n] for n in names}


def _by_base(workspace: Workspace, names: Sequence[str], newest: str) -> dict[str, list[str]]:
    """Models by the base they need; "base" is the one that the newest was trained on, or from."""
    out: dict[str, list[str]] = {}
    for name in names:
        about = workspace.adapter(newest if name == "base" else name).base
        out.setdefault(str((about.get("from", about) if name == "base" else about)["spec"]), []).append(name)
    return out


def evaluate(shop: Shop, settings: EvaluateSettings) -> Made:
    """Models against baselines on held-out prompts -> report.json and report.html under reports/NAME."""
    prompts = _limited(shop.workspace.dataset(settings.prompts), settings.limit)
    who = judge(shop, settings.judge)
    who.scorer.score(prompts[0], ["a judge that cannot judge these prompts says so before anything is sampled"])
    drawn = answers(shop, settings, prompts)
    rewarded = _rewards(shop, settings.reward, prompts, drawn)

    def checks(prompt: Prompt, answer: str) -> Mapping[str, float | bool | None]:
        found = dict(who.checks(prompt, answer)) if who.checks else {}
        return {**found, "reward": rewarded[prompt.id, answer]} if rewarded else found

    with shop.progress("judging") as progress:
        comparison = compare(prompts, drawn, who.scorer, checks=checks, progress=_counted(progress, len(prompts)))
    newest = settings.models[0]
    kl = {m: mean_interval(divergence(shop, m, prompts, drawn[m], settings.temperature), seed=settings.seed)
          for m in drawn if m != "base"}
    report = reports.build(
        comparison, title=f"{newest} against {', '.join(n for n in drawn if n != newest)}",
        judge={"name": who.label, "kind": who.kind, "simulated": True}, metrics=(*who.metrics, REWARD), kl=kl,
        curves=curves(shop.workspace, newest), retention=retained(shop, newest),
        how=provenance(shop.workspace, settings, prompts), seed=settings.seed,
        notes=["KL is in nats per answer from the model that training began from, on the model's own answers."])
    folder = shop.workspace.root / "reports" / settings.name
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "comparison.jsonl", comparison)
    path = reports.write(folder, report)
    return Made(path, [s["text"] for s in report.get("verdict", [])], report)


def _rewards(shop: Shop, name: str, prompts: Sequence[Prompt],
             drawn: Mapping[str, Sequence[Answer]]) -> dict[tuple[str, str], float]:
    """The reward model's score of every answer, by prompt and text; empty without a reward model."""
    if not name:
        return {}
    from tunesmith.model.scorer import RewardModel

    model = RewardModel.load(shop.base_of(name), shop.workspace.adapter(name).path)
    texts = [[a[n].text for a in drawn.values()] for n in range(len(prompts))]
    scores = model.score_all(prompts, texts)
    return {(p.id, text): score for p, row, marks in zip(prompts, texts, scores) for text, score in zip(row, marks)}


def curves(workspace: Workspace, name: str) -> dict[str, Any]:
    """The learning curves behind an adapter, found through its lineage."""
    out: dict[str, Any] = {}
    pending = [name]
    while pending:
        adapter = workspace.adapter(pending.pop())
        run = workspace.run(adapter.lineage["run"])
        pending += adapter.lineage.get("parents", {}).values()
        if run.command == "reward" and "reward" not in out:
            out["reward"] = {"training": run.metrics(), **run.summary.get("held_out", {}),
                             **_agreement(workspace, run.settings["comparisons"], run.settings.get("without", ()))}
        elif run.command not in out:
            out[run.command] = run.metrics()
    return out


def _agreement(workspace: Workspace, name: str, without: Sequence[str]) -> dict[str, Any]:
    """How often two labelers of these comparisons agreed, if two ever judged the same group; nothing, where all are in
    quarantine by now."""
    of_set = name in _sets(workspace)
    found = agreement(_ranked(workspace, name, without) if of_set else comparisons(workspace, name, without)).percent
    return {"agreement": found.to_dict()} if found.n else {}


def provenance(workspace: Workspace, settings: EvaluateSettings,
               prompts: Sequence[Prompt]) -> dict[str, dict[str, Any]]:
    """How the models came about: settings, seeds, data, machine, cost."""
    import torch
    import transformers

    from tunesmith.train import cost as costs

    out: dict[str, dict[str, Any]] = {}
    for name in settings.models:
        adapter = workspace.adapter(name)
        run = workspace.run(adapter.lineage["run"])
        cost = {k: v for k, v in run.summary.items() if isinstance(v, int | float | str)}
        out[str(adapter)] = {"run": run.id, "seed": run.seed, **cost,
                             **{f"input: {k}": v for k, v in run.inputs.items()},
                             **{f"--{k.replace('_', '-')}": v for k, v in run.settings.items()}}
        out[f"{adapter}, with all that it was made from"] = costs.lineage(workspace, adapter)
    out["Evaluation"] = {**settings.model_dump(mode="json"), "prompts, distinct": len({p.id for p in prompts})}
    out["Machine"] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                      "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
                      "python": platform.python_version(), "torch": torch.__version__,
                      "transformers": transformers.__version__, "tunesmith": __version__}
    return out


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


def retained(shop: Shop, name: str) -> list[dict[str, Any]]:
    """What a model kept of the stages that led to it, for the report."""
    from tunesmith.train import transfer

    adapter = shop.workspace.adapter(name)
    return [row.to_dict() for row in transfer.retention(shop.workspace, shop.base_of(name), adapter)]


def divergence(shop: Shop, model: str, prompts: Sequence[Prompt], answers: Sequence[Answer],
               temperature: float) -> list[float]:
    """KL from the model that this one's training began from, in nats per answer (k1 on the model's own answers)."""
    from tunesmith.model.scorer import answer_logprobs

    adapter = shop.workspace.adapter(model)
    parents = adapter.lineage.get("parents", {})
    start = parents.get("policy") or parents.get("after") or ""
    base = shop.base_of(start) if start else shop.base(str(adapter.base.get("from", adapter.base)["spec"]))
    slot = _engine(base, shop.workspace, [start]).slot(start)
    reference = answer_logprobs(base, slot, prompts, answers, temperature)
    return [sum(a.logprobs) - r for a, r in zip(answers, reference)]


def _counted(progress: Progress, total: int) -> Callable[[int], None]:
    """A callback that takes how many more are done, for one that wants how many in all."""
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total, {})

    return advance


def _engine(base: Base, workspace: Workspace, names: Sequence[str]) -> LocalEngine:
    from tunesmith.model.engine import LocalEngine

    engine = LocalEngine(base)
    for name in names:
        if name:
            engine.load(name, workspace.adapter(name).path)
    return engine


def _sets(workspace: Workspace) -> set[str]:
    return set(set_names(workspace))


def _limited(dataset: Dataset, limit: int) -> list[Prompt]:
    if dataset.kind != "prompts":
        raise UserError(f"{dataset.name} holds {dataset.kind}, not prompts")
    prompts = list(dataset.rows())
    return prompts[:limit] if limit else prompts
