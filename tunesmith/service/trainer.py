"""What a child process does for one fine-tuning job: validate its files, or train and publish its model.

It holds the job's lease, renews it while it lives, and looks between two steps whether somebody paused or cancelled
the job. Everything it makes has a name of the job's own and everything it says is stored once, so a child that takes
over where another died repeats nothing. Training itself is handed in from above.
"""

from __future__ import annotations

import csv
import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunesmith.contracts import Progress
from tunesmith.errors import DataError, Interrupted, NotFound, StorageError, TunesmithError, UserError
from tunesmith.feedback import graders
from tunesmith.records import AnswerGroup, Prompt, fingerprint
from tunesmith.service import recipes
from tunesmith.service.recipes import Stage
from tunesmith.settings import Settings
from tunesmith.store import blobs, formats, jobs
from tunesmith.store.failpoints import failpoint
from tunesmith.store.jobs import Job

if TYPE_CHECKING:
    from tunesmith.store.workspace import Adapter, Run, Workspace

Train = Callable[[str, Settings, "Run | None", Progress], "Adapter"]
"""A training step by its command, or going on with a run of it."""
Fresh = Callable[[str, str, int], "Adapter"]
"""An adapter of this name that changes nothing, on a base."""

FOLDER = "jobs"
FLUSH = 0.5
"""Seconds between two writes of events, however fast the steps are."""
BUSY = 5.0
"""Seconds until the next try while another process still executes the run."""
COLUMNS = {"step": "step", "train_loss": "train_loss", "train_mean_token_accuracy": "train_accuracy",
           "valid_loss": "valid_loss", "valid_mean_token_accuracy": "valid_mean_token_accuracy"}
"""Our metrics, and what OpenAI's result files call them."""


@dataclass(frozen=True)
class Hands:
    """Who trains."""

    train: Train
    fresh: Fresh


class Refused(Exception):
    """The job has failed for a reason that its owner can mend: `param` is the field of the job it is about."""

    def __init__(self, message: str, param: str | None, code: str = "invalid_file"):
        super().__init__(message)
        self.param, self.code = param, code


def work(workspace: Workspace, id: str, token: int, hands: Hands) -> str:
    """Do what a job waits for, as the holder of this token; the status that it has afterwards.

    Raises:
        StorageError: no space; the job stays where it is, and is tried again.
    """
    try:
        with beating(workspace, id, token):
            job = jobs.find(workspace, id)
            if job.status == "validating_files":
                _guarded(workspace, job, token, lambda: validate(workspace, job, token))
            elif job.status in ("queued", "running"):
                _guarded(workspace, job, token, lambda: train(workspace, job, token, hands))
    except jobs.Lost:
        pass
    except Interrupted:
        jobs.release(workspace, id, token)
    return jobs.find(workspace, id).status


@contextmanager
def beating(workspace: Workspace, id: str, token: int) -> Iterator[None]:
    """Renew the lease while the block runs. A lost lease is noticed by the next write, not here."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(jobs.LEASE / 3):
            with suppress(TunesmithError):
                jobs.renew(workspace, id, token)

    jobs.renew(workspace, id, token)
    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _guarded(workspace: Workspace, job: Job, token: int, do: Callable[[], None]) -> None:
    """Run `do`; a job that cannot succeed fails, saying why."""
    try:
        do()
    except (Interrupted, StorageError):
        raise
    except Refused as e:
        fail(workspace, job, token, str(e), e.param, e.code)
    except UserError as e:
        fail(workspace, job, token, str(e), None, "invalid_job")
    except TunesmithError as e:
        fail(workspace, job, token, str(e), None, "training_stopped")
    except Exception as e:
        fail(workspace, job, token, f"training broke: {type(e).__name__}: {e}", None, "server_error")
        raise


def fail(workspace: Workspace, job: Job, token: int, message: str, param: str | None, code: str) -> None:
    """Let the job fail, unless somebody has cancelled or paused it."""
    status = jobs.find(workspace, job.id).status
    if status in jobs.OPEN:
        jobs.move(workspace, job.id, token, status, "failed", message,
                  error={"code": code, "message": message, "param": param})
    jobs.release(workspace, job.id, token)


# ---- files

def validate(workspace: Workspace, job: Job, token: int) -> None:
    """Read the job's files into datasets, settle its hyperparameters, and put it into the queue."""
    body, method = job.body, job.body["method"]
    kind = method["type"]
    if recipes.is_set(job):
        rows = _of_set(workspace, job)
    else:
        rows = _import(workspace, job, "training_file", recipes.train_set(job), recipes.KINDS[kind])
    if body["validation_file"]:
        _import(workspace, job, "validation_file", recipes.valid_set(job), recipes.KINDS[kind])
    asked = method[kind].get("hyperparameters") or {}
    method = {**method, kind: {**method[kind], "hyperparameters": recipes.resolved(kind, asked, rows)}}
    failpoint("job-validated")
    jobs.move(workspace, job.id, token, "validating_files", "queued", "Files validated, moving job to queued state",
              body={**body, "method": method}, progress={"validated": True, "rows": rows})
    jobs.release(workspace, job.id, token)


def _import(workspace: Workspace, job: Job, param: str, name: str, kind: str) -> int:
    """A file as a dataset of the workspace; how many rows it has.

    Raises:
        Refused: naming line and field.
    """
    id = job.body[param]
    try:
        file = blobs.file(workspace, id)
        path = blobs.path(workspace, file)
        kinds = ("rankings", "comparisons") if kind == "rankings" else (kind,)
        found, kind = _read(path, kinds)
    except NotFound as e:
        raise Refused(f"{param} {id} was deleted before the job could read it", param) from e
    except DataError as e:
        raise Refused(f"{file.filename}{str(e).removeprefix(str(path))}", param) from e
    if kind == "comparisons" and not any(isinstance(r, AnswerGroup) and (r.tiers or r.pairs) for r in found.rows):
        raise Refused(f"{file.filename}: these are thumbs, not preferences", param)
    if grader := job.body["method"].get("reinforcement", {}).get("grader"):
        try:
            graders.check_rows(graders.parse(grader), [r for r in found.rows if isinstance(r, Prompt)], file.filename)
        except DataError as e:
            raise Refused(str(e), param) from e
    data = workspace.add_dataset(name, kind, found.rows, source=file.filename, skipped=found.skipped)  # type: ignore[arg-type]
    if recipes.KINDS[job.body["method"]["type"]] == "rankings" and param == "training_file":
        _prompts(workspace, job, [r for r in found.rows if isinstance(r, AnswerGroup)])
    for reason, count in data.skipped.items():
        jobs.say(workspace, job.id, f"{param}: {count} rows left out: {reason}", level="warn", key=f"{param} {reason}")
    return data.count


def _read(path: Any, kinds: tuple[str, ...]) -> tuple[formats.Imported, str]:
    """The rows as the first kind that the file is."""
    for kind in kinds[:-1]:
        with suppress(DataError):
            return formats.read(path, kind), kind
    return formats.read(path, kinds[-1]), kinds[-1]


def _of_set(workspace: Workspace, job: Job) -> int:
    name = str(job.body["training_file"]).removeprefix("set:")
    try:
        groups = workspace.groups(name)
    except NotFound as e:
        raise Refused(str(e), "training_file", "not_found") from e
    if not workspace.rankings(name):
        raise Refused(f"nobody has ranked a group of the set {name} yet", "training_file")
    _prompts(workspace, job, groups)
    return len(groups)


def _prompts(workspace: Workspace, job: Job, groups: list[AnswerGroup]) -> None:
    prompts = {g.prompt.id: g.prompt for g in groups}
    workspace.add_dataset(recipes.prompt_set(job), "prompts", prompts.values(), source=job.body["training_file"])


# ---- training

def train(workspace: Workspace, job: Job, token: int, hands: Hands) -> None:
    """Every step that has not been made yet, then the model's name, the result file and the end."""
    if job.status == "queued" and not jobs.move(workspace, job.id, token, "queued", "running",
                                                "Fine-tuning job started"):
        raise Interrupted("somebody paused or cancelled the job")
    rows = int(job.progress["rows"])
    adapter, main = None, None
    for stage in recipes.stages(job, rows):
        adapter, run = _made(workspace, job, token, stage, hands)
        main = run if stage.main else main
    assert adapter is not None and main is not None
    _settle(workspace, job, token, adapter, main)


def _made(workspace: Workspace, job: Job, token: int, stage: Stage, hands: Hands) -> tuple[Adapter, Run | None]:
    """What a stage makes: found, gone on with, or begun."""
    if stage.settings is None:
        with suppress(NotFound):
            return workspace.adapter(stage.name), None
        return hands.fresh(job.body["base"], stage.name, job.body["seed"]), None
    run = next((r for r in reversed(workspace.runs())
                if r.command == stage.command and r.settings.get("name") == stage.name), None)
    if run and run.status == "finished":
        return workspace.adapter(run.summary["adapter"]), run
    if run and run.alive:
        jobs.release(workspace, job.id, token, wait=BUSY)
        raise jobs.Lost(f"run {run.id} is still executed by another process")
    telling = Telling(workspace, job, token, stage)
    if run:
        telling.again(run)
    adapter = hands.train(stage.command, stage.settings, run, telling)
    telling.flush()
    return adapter, workspace.run(adapter.lineage["run"])


@dataclass
class Telling:
    """A `Progress` that turns steps into events and checkpoints of the job, and stops where somebody asks for it."""

    workspace: Workspace
    job: Job
    token: int
    stage: Stage
    lines: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)
    last: float = 0.0
    began: tuple[int, float] = (-1, 0.0)

    def __call__(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """
        Raises:
            Interrupted: the job was paused, cancelled or claimed by somebody else.
        """
        now = time.monotonic()
        if self.began[0] < 0:
            self.began = (step - 1, now)
        self._line(step, total, metrics)
        if now - self.last >= FLUSH or step == total or self._keeps(step):
            left = (now - self.began[1]) / max(1, step - self.began[0]) * (total - step)
            self.flush({"step": step, "total": total, "estimated_finish": int(time.time() + left)})
            self._checkpoint(step, total, metrics)
            self.last = now
        failpoint("job-step")
        self._look()

    def again(self, run: Run) -> None:
        """Say what the run had logged when it was interrupted, as far as it is not said yet."""
        found = run.latest()
        lines = [line for line in run.metrics() if found and line["step"] <= found[0]]
        total = int(self.job.progress.get("total", 0))
        for line in lines:
            self._line(line["step"], total, line)
        self.flush()
        for line in lines:
            self._checkpoint(line["step"], total, line)

    def flush(self, progress: Mapping[str, Any] | None = None) -> None:
        """Write what waits."""
        lines, self.lines = self.lines, []
        jobs.advance(self.workspace, self.job.id, self.token, (progress or {}) if self.stage.main else {}, lines)

    def _line(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        shown = named(step, metrics)
        loss = f": training loss={shown['train_loss']:.4f}" if "train_loss" in shown else ""
        what = "" if self.stage.main else f" of the {self.stage.command} model"
        told = f", validation loss={shown['valid_loss']:.4f}" if "valid_loss" in shown else ""
        of = f"/{total}" if total else ""
        self.lines.append((f"{self.stage.name} step {step}", f"Step {step}{of}{what}{loss}{told}",
                           {**shown, **({"total_steps": total} if total else {})}))

    def _keeps(self, step: int) -> bool:
        every = getattr(self.stage.settings, "snapshots", 0)
        return bool(every) and step % every == 0

    def _checkpoint(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Note the version of the adapter that was published at this step, if one was."""
        if not (self.stage.main and self._keeps(step)) or step == total:
            return
        name = f"{self.job.body['name']}:ckpt-step-{step}"
        for adapter in self.workspace.adapters():
            if adapter.name == self.stage.name and adapter.lineage.get("step") == step:
                jobs.add_checkpoint(self.workspace, self.job.id, self.token, step, name, str(adapter),
                                    of_checkpoint(step, metrics))

    def _look(self) -> None:
        job = jobs.find(self.workspace, self.job.id)
        if job.token != self.token:
            raise jobs.Lost(f"job {job.id} is another worker's now")
        if job.status != "running":
            raise Interrupted(f"job {job.id} is {job.status}")


def named(step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
    """Our metrics under OpenAI's names; ours that they have no name for keep theirs."""
    names = {"loss": "train_loss", "token_accuracy": "train_mean_token_accuracy",
             "valid_token_accuracy": "valid_mean_token_accuracy", "valid_accuracy": "valid_mean_token_accuracy"}
    return {"step": step, **{names.get(k, k): v for k, v in metrics.items() if k != "step" and v is not None}}


def of_checkpoint(step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
    """A checkpoint's metrics. The validation file is always measured whole, so `full_` is the same."""
    shown = {k: v for k, v in named(step, metrics).items() if k in COLUMNS}
    return {**shown, **{f"full_{k}": v for k, v in shown.items() if k.startswith("valid_")}}


def _settle(workspace: Workspace, job: Job, token: int, adapter: Adapter, run: Run) -> None:
    """The model gets its name, the metrics become a file, the job has succeeded."""
    lines = run.metrics()
    results = blobs.add(workspace, io.BytesIO(table(lines)), blobs.Sender(job.account, job.key_id),
                        "step_metrics.csv", "fine-tune-results", id=f"file-{fingerprint(job.id)}")
    failpoint("job-results")
    last = lines[-1]["step"], of_checkpoint(lines[-1]["step"], lines[-1])
    if not jobs.succeed(workspace, job.id, token, job.body["name"], str(adapter), [results.id],
                        int(run.summary.get("tokens", 0)), last):
        jobs.release(workspace, job.id, token)  # paused or cancelled in its very last moment


def table(lines: list[dict[str, Any]]) -> bytes:
    """The result file: a line per step, in OpenAI's columns."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(COLUMNS.values()), lineterminator="\n")
    writer.writeheader()
    for line in lines:
        shown = named(line["step"], line)
        writer.writerow({column: shown.get(key, "") for key, column in COLUMNS.items()})
    return out.getvalue().encode()
