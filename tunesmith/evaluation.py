"""Models against their baselines: answers, judges, suites -> a report, and the gate that is held against it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import __version__, judging
from tunesmith.contracts import Sampling
from tunesmith.errors import UserError
from tunesmith.evaluate import canaries, outcomes, overoptimisation, rewardmodel, suites
from tunesmith.evaluate import gate as gates
from tunesmith.evaluate import report as reports
from tunesmith.evaluate import suite as one_suite
from tunesmith.evaluate.compare import Comparison, answer_all, compare, save
from tunesmith.evaluate.diversity import human_answers
from tunesmith.evaluate.report import Metric, Report
from tunesmith.evaluate.standing import standing
from tunesmith.evaluate.suite import Row, Section, Subject, Suite, sample, section
from tunesmith.evaluate.watch import same_measure
from tunesmith.feedback.consensus import is_held_out
from tunesmith.judgements import comparisons, labelers_agreement
from tunesmith.records import Answer, Prompt
from tunesmith.settings import EvaluateSettings
from tunesmith.shop import Judge, Shop, counted, engine_of, judge, limited
from tunesmith.statistics import mean_interval
from tunesmith.store.workspace import Run, Workspace

Alarm = dict[str, str]
"""{"text", "where"}"""
REWARD = Metric("reward", "Reward model's score", "", "higher", help="what training maximised; it does not judge")


@dataclass(frozen=True, slots=True)
class Made:
    """A report: where it is, what it says first, and all of it."""

    path: Path
    verdict: list[str]
    report: Mapping[str, Any]


def answers(shop: Shop, settings: EvaluateSettings, prompts: Sequence[Prompt]) -> dict[str, list[Answer]]:
    """One answer per prompt from every baseline and model, one base resident at a time; the plainest first."""
    names = _in_order(settings)
    sampling = Sampling(settings.max_tokens, settings.temperature, seed=settings.seed)
    drawn: dict[str, list[Answer]] = {}
    with shop.progress("answers") as progress:
        count = counted(progress, len(prompts) * len(names))
        for spec, same in _by_base(shop.workspace, names, settings.models[0]).items():
            adapters = [n for n in same if n != "base"]
            engine = engine_of(shop.base_of(adapters[0] if adapters else "", spec), shop.workspace, adapters)
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
    """Models against baselines, on held-out prompts or suites or both -> report.json and report.html under
    reports/NAME.

    Raises:
        UserError: bad names, files or gate; said before anything is asked of a model.
    """
    rules = gates.read(settings.gate) if settings.gate else None
    folder = shop.workspace.root / "reports" / settings.name
    if {shop.workspace.adapter(n).role for n in settings.models} == {"reward"}:
        report = _benched(shop, settings)
    else:
        report = _report(shop, settings, folder)
    if rules:
        report["gate"] = gates.judge(rules, report)
    path = reports.write(folder, report)
    return Made(path, [s["text"] for s in report.get("verdict", [])], report)


def _report(shop: Shop, settings: EvaluateSettings, folder: Path) -> Report:
    """Policies: judged answers to the prompts, and what the suites find."""
    names = _in_order(settings)
    prompts = limited(shop.workspace.dataset(settings.prompts), settings.limit) if settings.prompts else []
    wanted = suites.find(settings.suite, _given(shop, settings, prompts))
    if not prompts and not wanted:
        raise UserError("evaluate needs --prompts for a judge to compare on, or --suite, or both")
    compares = prompts and (settings.judge or not wanted)
    comparison, about = _compared(shop, settings, prompts, folder) if compares else (None, {})
    sections, noticed = _measured(shop, settings, wanted, folder / "suites")
    newest = settings.models[0]
    if comparison:
        sections.insert(0, standing(comparison, settings.seed))
        noticed += _canaries(comparison)
        folder.mkdir(parents=True, exist_ok=True)
        save(folder / "comparison.jsonl", comparison)
    return reports.build(
        comparison, title=f"{newest} against {', '.join(n for n in names if n != newest)}", models=names,
        suites=sections, alarms=[*alarms(shop.workspace, newest), *noticed], curves=curves(shop.workspace, newest),
        retention=retained(shop, newest), how=provenance(shop.workspace, settings, prompts), seed=settings.seed,
        **about)


def _benched(shop: Shop, settings: EvaluateSettings) -> Report:
    """Reward models: held-out accuracy, calibration, and what moves them that should not."""
    from tunesmith.model.scorer import RewardModel

    if settings.suite or settings.prompts:
        raise UserError(f"{settings.models[0]} is a reward model: it is held against the comparisons that it did not "
                        "learn from, without --prompts and --suite")
    subsets = rewardmodel.read_subsets(settings.subsets) if settings.subsets else None
    sections, rung = [], []
    for name in settings.models:
        adapter = shop.workspace.adapter(name)
        learned = adapter.lineage.get("settings", {})
        groups = [g for g in comparisons(shop.workspace, learned["comparisons"], learned.get("without", ()))
                  if is_held_out(g, learned["held_out"])] if "comparisons" in learned else []
        model = RewardModel.load(shop.base_of(name), adapter.path)
        found, loud = rewardmodel.report(name, model, groups, scale=float(model.head.gain.mean()), subsets=subsets,
                                         title=str(adapter), seed=settings.seed)
        sections.append(found)
        rung += loud
    newest = settings.models[0]
    return reports.build(None, title=f"Reward model {newest}", models=settings.models, suites=sections, alarms=rung,
                         curves=curves(shop.workspace, newest), how=provenance(shop.workspace, settings, ()),
                         seed=settings.seed)


def _compared(shop: Shop, settings: EvaluateSettings, prompts: Sequence[Prompt], folder: Path
              ) -> tuple[Comparison, dict[str, Any]]:
    """Every model's judged answers to the prompts, and what the report has to say of how they were judged."""
    guidelines = _text(settings.guidelines) if settings.guidelines else ""
    who = judging.find(shop, settings.judge, asks=settings.asks, guidelines=guidelines) or judge(shop, settings.judge)
    if isinstance(who, Judge):
        who.scorer.score(prompts[0], ["a judge that cannot judge these prompts says so before anything is sampled"])
    drawn = answers(shop, settings, prompts)
    rewarded = _rewards(shop, settings.reward, prompts, drawn)

    def checks(prompt: Prompt, answer: str) -> Mapping[str, float | bool | None]:
        if isinstance(who, Judge):
            found = dict(who.checks(prompt, answer)) if who.checks else {}
        else:
            found = who.checks(prompt, answer)
        return {**found, "reward": rewarded[prompt.id, answer]} if rewarded else found

    notes = ["KL is in nats per answer from the model that training began from, on the model's own answers."]
    with shop.progress("judging") as progress:
        if isinstance(who, Judge):
            comparison = compare(prompts, drawn, who.scorer, checks=checks, progress=counted(progress, len(prompts)))
        else:
            pairs = len(prompts) * len(drawn) * (len(drawn) - 1) // 2
            found, more = judging.outcomes(shop, who, prompts, drawn, name=settings.name, folder=folder,
                                           seed=settings.seed, progress=counted(progress, pairs))
            comparison, notes = outcomes.comparison(prompts, drawn, found, checks), [*more, *notes]
    notes += [text for m in settings.models for run in _runs(shop.workspace, m)
              if (text := same_measure(settings.judge, run.settings))]
    kl = {m: mean_interval(divergence(shop, m, prompts, drawn[m], settings.temperature), seed=settings.seed)
          for m in drawn if m != "base"}
    return comparison, {
        "judge": {"name": who.label, "kind": who.kind, "simulated": who.simulated}, "notes": notes, "kl": kl,
        "metrics": (*who.metrics, REWARD)}


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: {e}") from e


def _measured(shop: Shop, settings: EvaluateSettings, wanted: Sequence[Suite], folder: Path
              ) -> tuple[list[Section], list[Alarm]]:
    """What the suites found in every model, and what is alarming in the newest: one base resident at a time, rows kept
    so that a stopped run goes on."""
    if not wanted:
        return [], []
    from tunesmith.model.reader import LocalReader

    names = _in_order(settings)
    items = {s.name: sample(s.items(), 0 if settings.whole else suites.size(s, settings.sample), settings.seed)
             for s in wanted}
    rows: dict[str, dict[str, list[Row]]] = {s.name: {} for s in wanted}
    with shop.progress("tests") as progress:
        count = counted(progress, len(names) * sum(map(len, items.values())))
        for spec, same in _by_base(shop.workspace, names, settings.models[0]).items():
            adapters = [n for n in same if n != "base"]
            base = shop.base_of(adapters[0] if adapters else "", spec)
            engine = engine_of(base, shop.workspace, adapters)
            for name in same:
                model = "" if name == "base" else name
                made = f"{base.hash} {shop.workspace.adapter(model)}" if model else base.hash
                subject = Subject(name, engine, model, LocalReader(engine), f"{made} seed {settings.seed}")
                for suite in wanted:
                    rows[suite.name][name] = one_suite.run(suite, subject, items[suite.name],
                                                 folder / suite.name / f"{name}.jsonl", count)
    sections: list[Section] = []
    noticed: list[Alarm] = []
    for suite in wanted:
        found = {n: rows[suite.name][n] for n in names}
        sections.append(section(suite, items[suite.name], found, notes=suites.notes(suite, found), seed=settings.seed))
        noticed += [{"text": text, "where": suite.title} for text in suites.alarms(suite, found)]
    return sections, noticed


def _given(shop: Shop, settings: EvaluateSettings, prompts: Sequence[Prompt]) -> suites.Given:
    """What the suites may draw on."""
    human = {}
    if settings.references:
        told = shop.workspace.dataset(settings.references)
        if told.kind != "demonstrations":
            raise UserError(f"--references {told.name} holds {told.kind}, not demonstrations")
        human = human_answers(list(told.rows()))
    return suites.Given(Path(settings.files) if settings.files else None, prompts, human)


def _in_order(settings: EvaluateSettings) -> list[str]:
    """Baselines and models in the order of training, the plainest first."""
    return list(dict.fromkeys([*settings.against, *reversed(settings.models)]))


def _canaries(comparison: Comparison) -> list[Alarm]:
    """What is strange about the newest model's answers beside those of the model before it."""
    *before, newest = comparison.models
    if not before:
        return []
    reference, now = ([canaries.see(p, [j.answer]) for p, j in zip(comparison.prompts, comparison.judged[m])]
                      for m in (before[-1], newest))
    return [{"text": str(found), "where": f"{newest} against {before[-1]}"}
            for found in canaries.compare(reference, now) if found.rings]


def alarms(workspace: Workspace, name: str) -> list[Alarm]:
    """What the runs behind an adapter warned of while it was trained."""
    return [{"text": f"after update {a['step']}: {a['text']}", "where": f"{run.command} {run.id}"}
            for run in _runs(workspace, name) for a in run.summary.get("alarms", ())]


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
    """The learning curves behind an adapter."""
    out: dict[str, Any] = {}
    for run in _runs(workspace, name):
        if run.command == "reward" and "reward" not in out:
            out["reward"] = {"training": run.metrics(), **run.summary.get("held_out", {}),
                             **_agreement(workspace, run.settings)}
        elif run.command not in out:
            out[run.command] = run.metrics()
            if "gold" in run.summary.get("start", {}):
                out["gold"] = _gold(run)
    return out


def _gold(run: Run) -> dict[str, Any]:
    """What an independent judge saw of a run while it trained, against KL."""
    points = overoptimisation.from_metrics(run.metrics(), run.summary["start"]["gold"])
    found = overoptimisation.section(
        points, "rl", title="Gold against KL", gold=run.settings["gold"], stopped=run.summary.get("stopped_by", ""),
        best_step=run.summary.get("best_step"))
    return {key: value for key, value in found.items() if key != "svg"}  # the page draws it


def _runs(workspace: Workspace, name: str) -> Iterator[Run]:
    """The runs that led to an adapter, found through its lineage, the last one first."""
    for adapter in workspace.ancestry(workspace.adapter(name)):
        if "run" in adapter.lineage:
            yield workspace.run(adapter.lineage["run"])


def _agreement(workspace: Workspace, settings: Mapping[str, Any]) -> dict[str, Any]:
    """How often two labelers of a reward model's comparisons agreed, if two ever judged the same group."""
    found = labelers_agreement(workspace, settings["comparisons"], settings.get("without", ()))
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
        if "run" not in adapter.lineage:
            out[str(adapter)] = {"run": None}
            continue
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
    slot = engine_of(base, shop.workspace, [start]).slot(start)
    reference = answer_logprobs(base, slot, prompts, answers, temperature)
    return [sum(a.logprobs) - r for a, r in zip(answers, reference)]
