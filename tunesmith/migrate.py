"""What an organisation has trained at OpenAI -> datasets here, and the commands that train the same on another base.

The folder holds what docs/migrate.md's script writes with OpenAI's own client: `files.json` and `jobs.json` as the
lists of the API, and beside them each file, named by its id. Hyperparameters go the way that a job of this server's
own API goes (`service.recipes`), so a multiplier means the same in both. Nothing is trained here: `Plan.stages` are
for whoever trains. Left out: fine-tuned weights, which OpenAI does not give away; files for other purposes.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import DataError, TunesmithError, UserError
from tunesmith.feedback import graders
from tunesmith.service import recipes
from tunesmith.service.graders import check_models
from tunesmith.service.recipes import Stage
from tunesmith.settings import MigrateSettings, PreferSettings, Settings
from tunesmith.store import formats, jobs

if TYPE_CHECKING:
    from tunesmith.store.workspace import Dataset, Workspace

BASE = "BASE"
"""Stands in commands for a base that nobody has named."""
LARGEST_LIST = 64 * 2**20
LARGEST_RESULTS = 16 * 2**20
METHODS = ("supervised", "dpo", "reinforcement")


@dataclass(frozen=True, slots=True)
class Plan:
    """One job: what it used there, and how to train the same here; `why` says why not."""

    id: str
    method: str
    model: str
    made: str
    status: str
    name: str
    used: Mapping[str, Any]
    data: str = ""
    valid: str = ""
    stages: tuple[Stage, ...] = ()
    why: str = ""
    note: str = ""

    def commands(self, base: str) -> list[str]:
        """The shell commands, in order."""
        return [_fresh(stage.name, base) if stage.settings is None else command_line(stage.command, stage.settings)
                for stage in self.stages]


@dataclass(slots=True)
class Migration:
    """What came of a folder. `skipped`: reason -> how many files, rows or jobs."""

    datasets: list[Dataset] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def migrate(workspace: Workspace, settings: MigrateSettings) -> Migration:
    """Import every training file of an export, and plan its jobs.

    Raises:
        UserError: no such folder, or neither list is in it.
        DataError: a list that cannot be read.
    """
    folder = Path(settings.folder)
    found = Export(folder)
    out = Migration()
    sets: dict[tuple[str, str], Dataset | str] = {}
    wanted = dict.fromkeys((id, recipes.KINDS[_method(job)]) for job in found.jobs if _method(job) in METHODS
                           for id in (_text(job, "training_file"), _text(job, "validation_file")) if id)
    known = {id for id, _ in wanted}
    loose = [(id, "") for id, file in found.files.items() if file.get("purpose") == "fine-tune" and id not in known]
    for id, kind in [*wanted, *loose]:
        sets[id, kind] = take(workspace, found, id, kind)
    for (id, _), data in sets.items():
        if isinstance(data, str):
            out.skipped[f"file {found.shown(id)}: {data}"] += 1
        elif data not in out.datasets:
            out.datasets.append(data)
            out.skipped.update({f"rows of {data.name}: {why}": count for why, count in data.skipped.items()})
    for file in found.files.values():
        if (purpose := str(file.get("purpose"))) not in ("fine-tune", "fine-tune-results"):
            out.skipped[f"files for {purpose[:40]}"] += 1
    made: dict[str, str] = {}
    for job in sorted(found.jobs, key=lambda job: _whole(job.get("created_at"))):
        plan = _plan(workspace, settings, found, job, sets, made, {p.name for p in out.plans})
        out.plans.append(plan)
        if plan.why:
            out.skipped[f"job {plan.id}: {plan.why}"] += 1
        elif plan.made:
            made[plan.made] = plan.name
    return out


# ---- what was exported

class Export:
    """The lists and files of a folder. Files are found by looking, never by a path made of what a list says."""

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; docs/migrate.md has the script that makes one")
        self.paths = {p.name: p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()}
        if not {"files.json", "jobs.json"} & set(self.paths):
            raise UserError(f"{folder} holds neither files.json nor jobs.json; docs/migrate.md has the script that "
                            "writes them")
        self.files = {_text(f, "id"): f for f in self._listed("files.json")}
        self.jobs = self._listed("jobs.json")

    def _listed(self, name: str) -> list[Mapping[str, Any]]:
        """The objects of a list: a JSON array, a page of the API, or a page or an object per line."""
        if name not in self.paths:
            return []
        path = self.paths[name]
        try:
            if path.stat().st_size > LARGEST_LIST:
                raise DataError(f"is larger than {LARGEST_LIST // 2**20} MB", path)
            text = path.read_text(encoding="utf-8")
            try:
                values = [json.loads(text)]
            except ValueError:
                values = [json.loads(line) for line in text.split("\n") if line.strip()]
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"is not JSON: {error}", path) from error
        found = [item for value in values for item in _unpacked(value)]
        if not all(isinstance(item, Mapping) and isinstance(item.get("id"), str) for item in found):
            raise DataError('must hold objects with an "id", as client.files.list() and client.fine_tuning.jobs.list() '
                            "give them", path)
        return found

    def path(self, id: str) -> Path | None:
        """A file by its id, with or without an ending; else by the name that it had."""
        names = [n for n in self.paths if n == id or n.startswith(f"{id}.")]
        return self.paths[names[0]] if names else self.paths.get(_text(self.files.get(id, {}), "filename"))

    def shown(self, id: str) -> str:
        """A file as messages call it."""
        return _text(self.files.get(id, {}), "filename") or id

    def losses(self, job: Mapping[str, Any]) -> dict[str, float]:
        """The last losses of a job's result file, a CSV that OpenAI also serves in base64; {} if there is none."""
        for id in job.get("result_files") or ():
            path = self.path(str(id))
            if path is None or path.stat().st_size > LARGEST_RESULTS:
                continue
            raw = path.read_bytes()
            with suppress(binascii.Error, ValueError):
                raw = base64.b64decode(raw, validate=True)
            lines = list(csv.DictReader(io.StringIO(raw.decode("utf-8", "replace"))))
            last = {key: row[key] for row in lines for key in ("train_loss", "valid_loss") if row.get(key)}
            with suppress(ValueError):
                return {key: round(float(text), 4) for key, text in last.items()}
        return {}


def _unpacked(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping) and isinstance(value.get("data"), list):
        yield from value["data"]
    elif isinstance(value, list):
        yield from value
    else:
        yield value


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


# ---- files

def take(workspace: Workspace, found: Export, id: str, kind: str) -> Dataset | str:
    """A file as a dataset, or why not. With no `kind`, what its rows look like. Taken again, it is the same dataset."""
    path = found.path(id)
    if path is None:
        return "its content is not in the folder"
    try:
        rows, kind = _read(path, kind)
    except DataError as error:
        return str(error)
    stem = _name(Path(found.shown(id)).stem) or _name(id)
    problem = ""
    for name in (stem, f"{stem}-{_name(id)[-6:]}"):  # another file may have had this name, or this one another kind
        try:
            return workspace.add_dataset(name, kind, rows.rows, source=f"OpenAI {id}",  # type: ignore[arg-type]
                                         skipped=rows.skipped)
        except UserError as error:
            problem = str(error)
    return problem


def _read(path: Path, kind: str) -> tuple[formats.Imported, str]:
    kinds = [kind] if kind else ["demonstrations", "comparisons", "prompts"]
    problem: DataError | None = None
    for kind in kinds:
        try:
            return formats.read(path, kind), kind
        except DataError as error:
            problem = problem or error
    raise problem or DataError("cannot be read", path)


def _name(text: str) -> str:
    """Something that can be a dataset's or adapter's name."""
    return re.sub("[^A-Za-z0-9._-]+", "-", text).strip(".-")[:50]


# ---- jobs

def _method(job: Mapping[str, Any]) -> str:
    method = job.get("method")
    return _text(method, "type") if isinstance(method, Mapping) else "supervised"


def _plan(workspace: Workspace, settings: MigrateSettings, found: Export, job: Mapping[str, Any],
          sets: Mapping[tuple[str, str], Dataset | str], made: Mapping[str, str], names: set[str]) -> Plan:
    """One job. `made`: the models of earlier jobs, and what they are called here."""
    kind, model = _method(job), _text(job, "model")
    name = _title(job)
    name = name if name not in names else f"{name}-{_name(_text(job, 'id'))[-6:]}"
    asked, grader = _asked(job, kind)
    used = {**asked, "seed": _whole(job.get("seed")), "tokens": _whole(job.get("trained_tokens")), **found.losses(job)}
    plan = Plan(_text(job, "id"), kind, model, _text(job, "fine_tuned_model"), _text(job, "status"), name, used)
    start = made.get(model.partition(":ckpt-step-")[0], "")
    if why := _why_not(job, kind, grader, start):
        return replace(plan, why=why)
    data, valid = (sets.get((_text(job, key), recipes.KINDS[kind]), "") for key in ("training_file", "validation_file"))
    if isinstance(data, str):
        return replace(plan, why=f"its training file was not imported: {data or 'it names none'}")
    plan = replace(plan, data=data.name, valid="" if isinstance(valid, str) else valid.name)
    how = {"hyperparameters": recipes.resolved(kind, asked, data.count), "grader": grader}
    body = {"base": settings.base or BASE, "start": start, "seed": used["seed"] % 2**31, "training_file": "there",
            "validation_file": plan.valid, "method": {"type": kind, kind: how}}
    job_here = jobs.Job(0, name, "", "", body, "", "", "", {}, "", None, (), {}, 0, "", "", 0)
    called = {recipes.train_set(job_here): plan.data, recipes.valid_set(job_here): plan.valid}
    try:
        stages = tuple(_adapted(stage, called, settings) for stage in recipes.stages(job_here, data.count))
    except (TunesmithError, ValueError) as error:  # a hyperparameter that we do not take
        return replace(plan, why=" ".join(str(error).split())[:200])
    return replace(plan, stages=stages, note=_asks(workspace, settings, grader))


def _title(job: Mapping[str, Any]) -> str:
    """What to call the model here: the suffix that it has there, else the job's id."""
    parts = _text(job, "fine_tuned_model").split(":")
    suffix = parts[3] if len(parts) > 4 else _text(job, "user_provided_suffix")
    return _name(suffix or _text(job, "id"))


def _asked(job: Mapping[str, Any], kind: str) -> tuple[dict[str, Any], Any]:
    """(hyperparameters, grader), from where they stand today or stood before there were methods."""
    method = job.get("method")
    inner = method.get(kind) if isinstance(method, Mapping) else None
    inner = inner if isinstance(inner, Mapping) else {}
    asked = {**_numbers(job.get("hyperparameters")), **_numbers(inner.get("hyperparameters"))}
    return asked, inner.get("grader")


def _numbers(given: Any) -> dict[str, Any]:
    """The hyperparameters that are numbers."""
    known = ("n_epochs", "batch_size", "learning_rate_multiplier", "beta", "compute_multiplier")
    given = given if isinstance(given, Mapping) else {}
    return {k: v for k in known if isinstance(v := given.get(k), int | float) and not isinstance(v, bool) and v > 0}


def _why_not(job: Mapping[str, Any], kind: str, grader: Any, start: str) -> str:
    """Why a job cannot be trained again, "" if it can."""
    if kind not in METHODS:
        return f"its method {kind[:40]!r} is unknown"
    if (status := _text(job, "status")) != "succeeded":
        return f"it is {status or 'of no known status'}"
    if _text(job, "model").startswith("ft:") and not start:
        return f"it began on {_text(job, 'model')}, which no job of the export made"
    if kind == "reinforcement":
        try:
            graders.parse(grader)
        except UserError as error:
            return str(error)
    return ""


def _adapted(stage: Stage, called: Mapping[str, str], settings: MigrateSettings) -> Stage:
    """A step of the recipe with the datasets' own names, and whom a grader asks."""
    if stage.settings is None:
        return stage
    changes: dict[str, Any] = {key: called[value] for key in type(stage.settings).model_fields
                               if isinstance(value := getattr(stage.settings, key), str) and value in called}
    if isinstance(stage.settings, PreferSettings) and stage.settings.grader and settings.endpoint:
        changes |= {"endpoint": settings.endpoint, "key": settings.key}
    return Stage(stage.command, stage.name, stage.settings.model_copy(update=changes), stage.main)


def _asks(workspace: Workspace, settings: MigrateSettings, grader: Any) -> str:
    """What is still missing for a grader that asks a model, "" if nothing."""
    if grader is None or settings.endpoint:
        return ""
    try:
        check_models(graders.parse(grader), workspace, ["base"])
    except UserError as error:
        return f"{error}, or give --endpoint URL --key VARIABLE"
    return ""


# ---- commands

def _fresh(name: str, base: str) -> str:
    return shlex.join(["tunesmith", "adapters", "fresh", name, "--base", base])


def command_line(command: str, settings: Settings) -> str:
    """The shell command with these settings; what is at its default is left out."""
    words = ["tunesmith", command]
    for name, about in type(settings).model_fields.items():
        value = getattr(settings, name)
        if not about.is_required() and value == about.get_default(call_default_factory=True):
            continue
        flag = f"--{(about.alias or name).replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return shlex.join(words)


def rows(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """A line of the table for each job."""
    shown = ("n_epochs", "batch_size", "learning_rate_multiplier", "beta", "train_loss", "valid_loss", "tokens")
    return [{"job": p.id, "method": p.method, "base there": p.model, "status": p.status, "data": p.data,
             **{key.replace("learning_rate_multiplier", "lr x"): p.used.get(key, "") for key in shown},
             "name here": "" if p.why else p.name} for p in plans]
