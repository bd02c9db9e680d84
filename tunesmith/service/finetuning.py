"""OpenAI's /v1/fine_tuning/jobs, and DELETE /v1/models/{model} for what they made.

Methods `supervised`, `dpo`, `reinforcement`, and one of our own: `rlhf` learns a reward model from rankings (an
uploaded file, or `set:NAME` of the workspace as training_file) and then a policy by PPO. The routes only write down
what is asked for; `worker` and `trainer` do it. Left out: integrations, and sharing checkpoints between projects (a
workspace is one organisation).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tunesmith.errors import GraderError, NotFound, UserError
from tunesmith.feedback import graders
from tunesmith.service import recipes
from tunesmith.service.access import Caller, Id, program
from tunesmith.service.files import marked, page, seconds
from tunesmith.service.graders import check_models
from tunesmith.service.quotas import over_quota
from tunesmith.service.refusals import Refusal
from tunesmith.store import blobs, jobs
from tunesmith.store.audit import audit

if TYPE_CHECKING:
    from tunesmith.service.hub import Hub
    from tunesmith.store.workspace import Workspace

ORGANISATION = "tunesmith"
"""The third part of a model's name, where OpenAI puts the organisation."""
Jobs = Annotated[Caller, Depends(program("fine_tuning"))]


def _auto(low: float, high: float, whole: bool = True, above: bool = False) -> Any:
    """A hyperparameter: "auto", or a number from `low` (or above it) to `high`."""
    def check(value: Any) -> Any:
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if value != "auto" and not (number and (low < value if above else low <= value) and value <= high):
            raise ValueError(f"it must be 'auto' or a {'whole ' if whole else ''}number "
                             f"{'above' if above else 'from'} {low:g} {'and at most' if above else 'to'} {high:g}")
        return value

    return Annotated[Any, BeforeValidator(check)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Hyperparameters(Strict):
    batch_size: _auto(1, 256) = "auto"  # type: ignore[valid-type]
    learning_rate_multiplier: _auto(0, 1000, whole=False, above=True) = "auto"  # type: ignore[valid-type]
    n_epochs: _auto(1, 50) = "auto"  # type: ignore[valid-type]


class DpoHyperparameters(Hyperparameters):
    beta: _auto(0, 2, whole=False, above=True) = "auto"  # type: ignore[valid-type]


class ReinforcementHyperparameters(Hyperparameters):
    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"
    compute_multiplier: _auto(0.00001, 10, whole=False) = "auto"  # type: ignore[valid-type]
    eval_interval: _auto(1, 10_000) = "auto"  # type: ignore[valid-type]
    eval_samples: _auto(1, 100) = "auto"  # type: ignore[valid-type]


class RlhfHyperparameters(Hyperparameters):
    """`n_epochs` are the reward model's, `n_updates` PPO's rollout batches of four times `batch_size` answers."""

    n_updates: _auto(1, 10_000) = "auto"  # type: ignore[valid-type]
    kl: _auto(0, 100, whole=False) = "auto"  # type: ignore[valid-type]
    max_tokens: _auto(1, 8192) = "auto"  # type: ignore[valid-type]


class Supervised(Strict):
    hyperparameters: Hyperparameters | None = None


class Dpo(Strict):
    hyperparameters: DpoHyperparameters | None = None


class Reinforcement(Strict):
    grader: dict[str, Any]
    hyperparameters: ReinforcementHyperparameters | None = None


class Rlhf(Strict):
    hyperparameters: RlhfHyperparameters | None = None


class Method(Strict):
    type: Literal["supervised", "dpo", "reinforcement", "rlhf"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: Reinforcement | None = None
    rlhf: Rlhf | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [k for k in recipes.KINDS if getattr(self, k) is not None]
        if wrong := [k for k in given if k != self.type]:
            raise ValueError(f"the type is {self.type}, and there is something for {wrong[0]}")
        if self.type == "reinforcement" and not given:
            raise ValueError("reinforcement needs a grader")
        return self

    def body(self) -> dict[str, Any]:
        """As it is stored: hyperparameters filled with "auto"."""
        chosen: BaseModel | None = getattr(self, self.type)
        known: dict[str, type[Hyperparameters]] = {"supervised": Hyperparameters, "dpo": DpoHyperparameters,
                                                   "reinforcement": ReinforcementHyperparameters,
                                                   "rlhf": RlhfHyperparameters}
        inner = chosen.model_dump() if chosen else {}
        inner["hyperparameters"] = inner.get("hyperparameters") or known[self.type]().model_dump()
        return {"type": self.type, self.type: inner}


def _metadata(value: Any) -> Any:
    if isinstance(value, dict):
        if len(value) > 16:
            raise ValueError("it may have 16 pairs at most")
        for key, text in value.items():
            if not isinstance(text, str) or len(key) > 64 or len(text) > 512:
                raise ValueError("keys have 64 characters at most, values are texts of at most 512")
    return value


class NewJob(Strict):
    model: Id = Field(min_length=1, max_length=300)
    training_file: Id = Field(min_length=1, max_length=200)
    validation_file: Id | None = Field(None, max_length=200)
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    suffix: str | None = Field(None, min_length=1, max_length=64)
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    metadata: Annotated[dict[str, str] | None, BeforeValidator(_metadata)] = None
    integrations: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _deprecated(self) -> Self:
        """`hyperparameters` beside `method` is what clients sent before there were methods."""
        if self.hyperparameters:
            if self.method and (self.method.type != "supervised" or (
                    self.method.supervised and self.method.supervised.hyperparameters)):
                raise ValueError("hyperparameters stand in method; leave out the deprecated ones beside it")
            self.method = Method(type="supervised", supervised=Supervised(hyperparameters=self.hyperparameters))
        return self


def router(workspace: Workspace, hub: Hub) -> APIRouter:
    """The routes. `hub` knows the models."""
    routes = APIRouter(prefix="/v1")

    @routes.post("/fine_tuning/jobs")
    def create(body: NewJob, request: Request, who: Jobs) -> dict[str, Any]:
        asked = wanted(workspace, hub, body)
        said = json.dumps(body.model_dump(mode="json"), sort_keys=True)
        try:
            return shown(jobs.create(workspace, asked, who.account, who.key, mark=marked(request, who, said),
                                     most=request.app.state.quotas.unfinished_jobs))
        except blobs.OverQuota as error:
            raise over_quota(error) from error

    @routes.get("/fine_tuning/jobs")
    def listed(request: Request, who: Jobs, limit: Annotated[int, Query(ge=1, le=100)] = 20,
               after: Id = "") -> dict[str, Any]:
        found, more = _known(jobs.page, workspace, limit, after, _filter(request), param="after")
        return page([shown(j) for j in found], more, ends=False)

    @routes.get("/fine_tuning/jobs/{id}")
    def retrieve(id: Id, who: Jobs) -> dict[str, Any]:
        return shown(_known(jobs.find, workspace, id))

    def asks(verb: Callable[[Workspace, str], jobs.Job]) -> Callable[..., dict[str, Any]]:
        def ask(id: Id, who: Jobs) -> dict[str, Any]:
            return shown(_known(verb, workspace, id))

        return ask

    for name, verb in (("cancel", jobs.cancel), ("pause", jobs.pause), ("resume", jobs.resume)):
        routes.add_api_route(f"/fine_tuning/jobs/{{id}}/{name}", asks(verb), methods=["POST"], name=name)

    @routes.get("/fine_tuning/jobs/{id}/events")
    def events(id: Id, who: Jobs, limit: Annotated[int, Query(ge=1, le=100)] = 20,
               after: Id = "") -> dict[str, Any]:
        found, more = _known(jobs.events, workspace, id, limit, after)
        return page([event(e) for e in found], more, ends=False)

    @routes.get("/fine_tuning/jobs/{id}/checkpoints")
    def checkpoints(id: Id, who: Jobs, limit: Annotated[int, Query(ge=1, le=100)] = 10,
                    after: Id = "") -> dict[str, Any]:
        found, more = _known(jobs.checkpoints, workspace, id, limit, after)
        return page([checkpoint(id, c) for c in found], more)

    @routes.delete("/models/{name:path}")
    def delete(name: Id, who: Jobs) -> dict[str, Any]:
        if not jobs.delete_model(workspace, name):
            try:
                hub.card(name)
            except NotFound as error:
                raise Refusal(str(error), status=404, param="model", code="model_not_found") from error
            raise Refusal(f"'{name}' was not made by a fine-tuning job; only such models are deleted here.",
                          status=403, param="model", code="insufficient_permissions")
        audit(workspace, who.account, "model.delete", name)
        return {"id": name, "object": "model", "deleted": True}

    return routes


# ---- a request

def wanted(workspace: Workspace, hub: Hub, body: NewJob) -> dict[str, Any]:
    """What a job's row holds of a request.

    Raises:
        Refusal: an unknown model or file, or something that is not done here.
    """
    if body.integrations:
        raise Refusal("Integrations are not supported by this server; leave them out.", param="integrations",
                      code="unsupported_parameter")
    method = (body.method or Method(type="supervised")).body()
    kind = method["type"]
    try:
        card = hub.card(body.model)
    except NotFound as error:
        raise Refusal(str(error), param="model", code="model_not_found") from error
    if kind == "reinforcement":
        _check_grader(workspace, hub, method[kind]["grader"])
        _check_effortless(method[kind]["hyperparameters"])
    if body.validation_file and kind not in ("supervised", "dpo"):
        raise Refusal(f"A validation_file is for supervised and dpo, not for {kind}.", param="validation_file",
                      code="unsupported_parameter")
    if not (kind == "rlhf" and body.training_file.startswith("set:")):
        _check_file(workspace, body.training_file, "training_file")
    if body.validation_file:
        _check_file(workspace, body.validation_file, "validation_file")
    return {"model": body.model, "base": hub.base, "start": card.adapter, "training_file": body.training_file,
            "validation_file": body.validation_file, "method": method, "suffix": body.suffix,
            "seed": secrets.randbelow(2**31) if body.seed is None else body.seed, "metadata": body.metadata,
            "name": model_name(hub.base, body.suffix or "")}


def model_name(base: str, suffix: str) -> str:
    """`ft:<base>:<organisation>:<suffix>:<id>`; of a base that is a path or a hub id, its last part."""
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "-", part) for part in (base.rstrip("/").rpartition("/")[2], suffix)]
    return f"ft:{plain[0]}:{ORGANISATION}:{plain[1]}:{secrets.token_hex(4)}"


def _check_grader(workspace: Workspace, hub: Hub, spec: Mapping[str, Any]) -> None:
    where = "method.reinforcement.grader"
    try:
        check_models(graders.parse(spec, where), workspace, [n for n in hub.cards() if ":" not in n], where)
    except GraderError as error:
        raise Refusal(str(error), param=error.param, code="invalid_grader") from error


def _check_effortless(asked: Mapping[str, Any]) -> None:
    """What would change the result, and is not done here, is refused by name."""
    for name, neutral in (("reasoning_effort", "default"), ("eval_interval", "auto"), ("eval_samples", "auto")):
        if asked[name] != neutral:
            raise Refusal(f"'{name}' is not supported by this server; leave it out.", code="unsupported_parameter",
                          param=f"method.reinforcement.hyperparameters.{name}")


def _check_file(workspace: Workspace, id: str, param: str) -> None:
    try:
        found = blobs.file(workspace, id)
    except NotFound as error:
        raise Refusal(f"invalid {param}: {error}", param=param, code="invalid_file") from error
    if found.purpose != "fine-tune":
        raise Refusal(f"invalid {param}: {id} was sent for {found.purpose}; send it with the purpose fine-tune",
                      param=param, code="invalid_file")


def _filter(request: Request) -> dict[str, str] | None:
    """`metadata[key]=value` of the query."""
    pairs = {m[1]: v for k, v in request.query_params.multi_items() if (m := re.fullmatch(r"metadata\[(.{1,64})\]", k))}
    return pairs or None


def _known(function: Any, *args: Any, param: str | None = None) -> Any:
    try:
        return function(*args)
    except NotFound as error:
        code = "fine_tune_not_found" if str(error).startswith("Could not find fine tune") else None
        param = param or ("fine_tune_id" if code else "after")
        raise Refusal(str(error), status=404, param=param, code=code) from error
    except UserError as error:
        raise Refusal(str(error), code="invalid_state") from error


# ---- OpenAI's objects

def shown(job: jobs.Job) -> dict[str, Any]:
    """OpenAI's fine_tuning.job."""
    body, method = job.body, job.body["method"]
    how = method[method["type"]]["hyperparameters"]
    running = job.status == "running"
    return {
        "id": job.id, "object": "fine_tuning.job", "created_at": seconds(job.created), "error": job.error or None,
        "fine_tuned_model": job.model or None, "finished_at": seconds(job.finished),
        "hyperparameters": {k: how[k] for k in ("batch_size", "learning_rate_multiplier", "n_epochs")},
        "model": body["model"], "organization_id": ORGANISATION, "result_files": list(job.results),
        "seed": body["seed"], "status": job.status, "trained_tokens": job.trained_tokens,
        "training_file": body["training_file"], "validation_file": body["validation_file"],
        "estimated_finish": job.progress.get("estimated_finish") if running else None, "integrations": [],
        "metadata": body["metadata"], "method": method}


def event(e: jobs.Event) -> dict[str, Any]:
    """OpenAI's fine_tuning.job.event."""
    return {"id": e.id, "object": "fine_tuning.job.event", "created_at": seconds(e.created), "level": e.level,
            "message": e.message, "type": e.kind, "data": e.data}


def checkpoint(job: str, c: jobs.Checkpoint) -> dict[str, Any]:
    """OpenAI's fine_tuning.job.checkpoint."""
    return {"id": c.id, "object": "fine_tuning.job.checkpoint", "created_at": seconds(c.created),
            "fine_tuning_job_id": job, "fine_tuned_model_checkpoint": c.model, "step_number": c.step,
            "metrics": c.metrics}
