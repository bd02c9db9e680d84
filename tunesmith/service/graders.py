"""OpenAI's graders API, and whom model graders ask.

    POST /v1/fine_tuning/alpha/graders/run         grade one answer
    POST /v1/fine_tuning/alpha/graders/validate    only see whether the grader is one

`model` of a score_model or label_model grader is one of this server's own models, or an endpoint of the workspace: the
endpoint's name, or the name of its model, so that `gpt-4o-2024-08-06` goes where somebody said that it answers. Every
request to an endpoint obeys the rules of `outbound`. A grader brings no address of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from anyio import from_thread
from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.contracts import Sampling
from tunesmith.errors import GraderError, NotFound, UserError, nearest
from tunesmith.feedback import graders
from tunesmith.feedback.expressions import Ungraded
from tunesmith.feedback.grading import ERRORS, Ask, Graded, Grader, Question, Reply
from tunesmith.records import turns
from tunesmith.service import hub as hubs
from tunesmith.service import outbound
from tunesmith.service.access import program
from tunesmith.service.outbound import EndpointError, Exchange, Policy
from tunesmith.service.refusals import Refusal
from tunesmith.store.endpoints import Endpoint, check_endpoint, endpoints, key_of

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

AT_ONCE = 8
"""Answers that are graded at a time; the next one is told to come back."""
SECONDS = 60.0
LONGEST_SAMPLE = 1_000_000


# ---- whom graders ask

class RemoteModel:
    """`Ask` over an OpenAI-compatible endpoint.

    Raises:
        UserError: a bad address, model or key variable, or the key is missing.
    """

    def __init__(self, endpoint: Endpoint, policy: Policy | None = None, tries: int = 4,
                 pause: Callable[[float], None] = time.sleep):
        self.endpoint = endpoint
        self.target = outbound.parse(check_endpoint(endpoint).url)
        self.policy, self.tries, self._pause = policy or Policy(), tries, pause
        self._key = key_of(endpoint)
        self._schemas = True  # until it refuses one

    def __call__(self, question: Question) -> Reply:
        """
        Raises:
            Ungraded: the endpoint may not be asked, does not answer, or will not.
        """
        try:
            return self._read(outbound.patiently(lambda: self._once(question), self.tries, self._pause))
        except EndpointError as error:
            raise Ungraded("model_grader_server_error", str(error)) from error

    def _once(self, question: Question) -> Any:
        exchange = Exchange(self.target, self.policy, SECONDS)
        try:
            return exchange.post("/chat/completions", self._body(question), self._key)
        except EndpointError as error:
            if not self._schemas or error.code not in (400, 422) or "response_format" not in str(error):
                raise
            self._schemas = False
            return self._once(question)

    def _body(self, question: Question) -> dict[str, Any]:
        how = {("max_completion_tokens" if k == "max_completions_tokens" else k): v
               for k, v in question.sampling.items()}
        body = {"model": self.endpoint.model, "messages": turns(question.messages), **how}
        if not self._schemas:
            return {**body, "messages": turns(question.spelled_out)}
        return {**body, "response_format": {"type": "json_schema", "json_schema": {
            "name": "grade", "strict": True, "schema": question.schema}}}

    def _read(self, found: Any) -> Reply:
        try:
            message, used = found["choices"][0]["message"], (found.get("usage") or {}).get("total_tokens")
            text, refusal = message.get("content"), message.get("refusal")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise EndpointError(f"{self.target.authority} does not answer as an OpenAI-compatible server") from error
        if isinstance(refusal, str) and refusal:
            raise Ungraded("model_grader_refusal_error", f"{self.endpoint.model} will not: {refusal[:200]}")
        if not isinstance(text, str):
            raise EndpointError(f"{self.target.authority} answered without a text")
        model = found.get("model")
        return Reply(text, model if isinstance(model, str) else self.endpoint.model,
                     used if isinstance(used, int) and not isinstance(used, bool) else 0)


def endpoint_of(workspace: Workspace, model: str) -> Endpoint | None:
    """The endpoint that is called `model`, else the first whose model is."""
    known = endpoints(workspace)
    return next((e for e in known if e.name == model), next((e for e in known if e.model == model), None))


def of_workspace(workspace: Workspace, tries: int = 4) -> Callable[[str], RemoteModel]:
    """Finds the endpoint that answers for a model.

    Raises, when called:
        NotFound: there is none.
    """
    def find(model: str) -> RemoteModel:
        if (endpoint := endpoint_of(workspace, model)) is None:
            raise NotFound(f'nobody here answers for the model "{model}"')
        return RemoteModel(endpoint, tries=tries)

    return find


def asker(own: Mapping[str, Ask], find: Callable[[str], RemoteModel]) -> Ask:
    """Asks the model that a question names: one of `own`, or the endpoint that `find` finds."""
    remote: dict[str, RemoteModel] = {}

    def ask(question: Question) -> Reply:
        name = question.model
        if name in own:
            return own[name](question)
        try:
            if name not in remote:
                remote[name] = find(name)
        except UserError as error:
            raise Ungraded("model_grader_server_error", str(error)) from error
        return remote[name](question)

    return ask


def check_models(grader: Grader, workspace: Workspace, own: Iterable[str], where: str = "grader") -> None:
    """
    Raises:
        GraderError: it asks a model that nobody here answers for.
    """
    own = list(own)
    for model in sorted(grader.models()):
        if model not in own and endpoint_of(workspace, model) is None:
            known = [*own, *(e.name for e in endpoints(workspace))]
            raise GraderError(f'nobody here answers for the model "{model}"{nearest(model, known)}; an admin can name '
                              "a server that does under /sources", f"{where}.model")


def drawn(question: Question, longest: int, usual: int) -> Sampling:
    """How an own model answers: the likeliest words, unless the grader says otherwise; more than `longest` tokens, or
    no word about it, mean `usual`."""
    how = question.sampling
    tokens = how.get("max_completions_tokens", usual)
    return Sampling(tokens if tokens <= longest else usual, float(how.get("temperature", 0.0)),
                    float(how.get("top_p") or 1.0), seed=how.get("seed", 0) % 2**31)


# ---- the API

class Validation(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    grader: dict[str, Any]


class Run(Validation):
    model_sample: Annotated[str, Field(max_length=LONGEST_SAMPLE)]
    item: dict[str, Any] | None = None


def router(workspace: Workspace, hub: hubs.Hub) -> APIRouter:
    """The two routes. They are plain functions, so each request runs on a thread of its own."""
    routes = APIRouter(prefix="/v1/fine_tuning/alpha/graders", dependencies=[Depends(program("fine_tuning"))])
    places = threading.BoundedSemaphore(AT_ONCE)

    def own(name: str) -> Ask:
        return lambda question: from_thread.run(_of_hub, hub, name, question)

    def names(grader: Grader) -> Iterable[str]:
        return hub.cards() if grader.models() else ()

    def parsed(spec: Mapping[str, Any]) -> Grader:
        try:
            grader = graders.parse(spec)
            check_models(grader, workspace, names(grader))
        except GraderError as error:
            raise Refusal(str(error), param=error.param, code="invalid_grader") from error
        return grader

    @routes.post("/validate")
    def validate(body: Validation) -> dict[str, Any]:
        return {"grader": parsed(body.grader).spec}

    @routes.post("/run")
    def run(body: Run) -> dict[str, Any]:
        grader = parsed(body.grader)
        if not places.acquire(blocking=False):
            raise Refusal(f"{AT_ONCE} answers are being graded already; try again shortly.", status=429,
                          code="rate_limit_exceeded")
        start = time.perf_counter()
        try:
            ask = asker({name: own(name) for name in names(grader)}, of_workspace(workspace, tries=2))
            graded = grader.score(body.item or {}, body.model_sample, ask)
        finally:
            places.release()
        return _report(grader, graded, time.perf_counter() - start)

    return routes


async def _of_hub(hub: hubs.Hub, name: str, question: Question) -> Reply:
    """One of the server's own models grades.

    Raises:
        Ungraded: it cannot.
    """
    try:
        running = await hub.open(hubs.Ask(question.spelled_out, drawn(question, hubs.MAX_TOKENS, 0), hub.card(name)))
        try:
            ended = [piece.answer async for piece in running.pieces() if piece and piece.answer]
        finally:
            running.close()
    except UserError as error:
        raise Ungraded("model_grader_server_error", str(error)) from error
    return Reply(ended[0].text, running.ask.card.adapter or name, running.used + len(ended[0].tokens))


def _report(grader: Grader, graded: Graded, seconds: float) -> dict[str, Any]:
    """OpenAI's answer to `run`."""
    errors: dict[str, Any] = {flag: flag in graded.errors for flag in ERRORS}
    errors |= {"python_grader_server_error_type": None, "python_grader_runtime_error_details": None,
               "model_grader_server_error_details": graded.errors.get("model_grader_server_error")}
    return {
        "reward": graded.reward,
        "metadata": {
            "name": grader.name, "type": grader.type, "errors": errors, "execution_time": round(seconds, 6),
            "scores": dict(graded.sub_rewards) or {grader.name: graded.reward},
            "token_usage": sum(graded.tokens.values()) if graded.tokens else None,
            "sampled_model_name": next(iter(graded.tokens), None)},
        "sub_rewards": dict(graded.sub_rewards),
        "model_grader_token_usage_per_model": {m: {"total_tokens": n} for m, n in graded.tokens.items()}}
