"""OpenAI's API, as far as chat goes: /v1/models and /v1/chat/completions (`completions` has /v1/completions).

Every policy adapter of the workspace is a model: `desk` is its newest version, `desk@2` that one, the base has its own
name. Left out: tools, structured output, reading stored completions back (`store` feeds the interaction log, if there
is one), content that is not text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Field, model_validator

from tunesmith.contracts import Token
from tunesmith.errors import NotFound
from tunesmith.records import Conversation, Message
from tunesmith.service import wire
from tunesmith.service.guard import Guard
from tunesmith.service.hub import Ask, Card, Hub, Running
from tunesmith.service.interactions import Log
from tunesmith.service.pages import moment
from tunesmith.service.refusals import Refusal
from tunesmith.service.wire import Choice, EventStream, Sampled, Strict, refuse_unsupported

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "store": (False,), "response_format": ({"type": "text"},), "modalities": (["text"],), "tools": ([],),
    "functions": ([],), "tool_choice": ("none", "auto"), "function_call": ("none", "auto"), "audio": (),
    "prediction": (), "reasoning_effort": ("none",), "verbosity": (), "web_search_options": (), "moderation": (),
}
"""OpenAI's parameters that would change the answer, and the values under which they do not; null is always one."""


class TextPart(Strict):
    type: Literal["text"]
    text: str


def _parts(value: Any) -> Any:
    return [] if value is None else [{"type": "text", "text": value}] if isinstance(value, str) else value


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[TextPart], BeforeValidator(_parts)] = []

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        """Clients send a reply back whole: `refusal: null`, `tool_calls: []` and the like say nothing."""
        return {k: v for k, v in value.items() if v not in (None, [])} if isinstance(value, dict) else value

    def record(self) -> Message:
        """The same as a record; parts are joined by line breaks."""
        return Message("system" if self.role == "developer" else self.role, "\n".join(p.text for p in self.content))


class ChatRequest(Sampled):
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def conversation(self) -> Conversation:
        return tuple(m.record() for m in self.messages)

    @property
    def asked(self) -> dict[str, Any]:
        """How it is asked for, and by whom."""
        return {**(self.model_extra or {}), "temperature": self.temperature, "top_p": self.top_p, "seed": self.seed,
                "n": self.n}

    @property
    def length(self) -> int:
        """The asked-for number of tokens, under the new name or the old; 0 if there is none."""
        return self.max_completion_tokens or self.max_tokens or 0


def listing(hub: Hub) -> APIRouter:
    """The routes of /v1/models."""
    routes = APIRouter(prefix="/v1")

    @routes.get("/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_card(c) for c in hub.cards().values()]}

    @routes.get("/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        return model_card(find(hub, name))

    return routes


def router(hub: Hub, guard: Guard | None = None, keeper: Log | None = None) -> APIRouter:
    """The routes under /v1; `keeper` logs what users agree to."""
    routes = listing(hub)
    neutral = {**NEUTRAL, "store": (False, True)} if keeper else NEUTRAL

    @routes.post("/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Any:
        refuse_unsupported(body, neutral)
        if body.top_logprobs and not body.logprobs:
            raise Refusal("The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
                          param="top_logprobs", code="invalid_value")
        card, n = find(hub, body.model, body.asked), body.n or 1
        route = guard.route(card.name, card.adapter) if guard else None
        ask = Ask(body.conversation(), body.sampling(body.length, body.top_logprobs or 0), card,
                  max(n, route.samples) if route else n, live=bool(body.stream and not route),
                  detail=bool(body.logprobs or route))
        running = await wire.unless_gone(request, hub.open(ask))
        reply = Reply(card.shown, running.used, bool(body.logprobs), body.usage)
        exchange = keeper.begin(request, body.asked, body.conversation(), card.shown, reply.id, card.arm,
                                card.propensity) if keeper else None
        if guard and route:
            choices = await wire.whole(request, running)
            choices = (await guard.judge(route, ask.model, body.conversation(), choices, hub.score))[:n]
        elif body.stream:
            frames = reply.frames(running, exchange.heard if exchange else None)
            return EventStream(wire.guarded(request.url.path, exchange.followed(frames) if exchange else frames),
                               running.close, *([exchange.close] if exchange else []))
        else:
            choices = await wire.whole(request, running)
        if exchange:
            exchange.whole(choices)
        if body.stream:
            return EventStream(wire.guarded(request.url.path, reply.replay(choices)))
        return JSONResponse(reply.whole(choices))

    return routes


class Reply:
    """One chat.completion, whole or in chunks."""

    def __init__(self, model: str, prompt_tokens: int, logprobs: bool, usage: bool):
        self.prompt_tokens, self.logprobs, self.usage = prompt_tokens, logprobs, usage
        self._head = wire.head("chatcmpl", model)
        self.id: str = self._head["id"]

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The body of an unstreamed reply."""
        made: list[dict[str, Any]] = []
        for i, choice in enumerate(choices):
            message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None, "annotations": []}
            made.append({"index": i, "message": message, "logprobs": self._logprobs(choice.tokens),
                         "finish_reason": choice.finish})
        return {**self._head, "object": "chat.completion", "choices": made,
                "usage": wire.usage(self.prompt_tokens, sum(c.count for c in choices))}

    async def frames(self, running: Running,
                     heard: Callable[[int, str, str | None], None] | None = None) -> AsyncGenerator[str, None]:
        """Chunks as they are written; several answers take turns. `heard` is told (answer, text, how it ended)."""
        written = 0
        for i in range(running.ask.n):
            yield self._chunk(i, {"role": "assistant", "content": "", "refusal": None})
        async with aclosing(running.pieces(wire.PULSE)) as pieces:
            async for piece in pieces:
                if piece is None:
                    yield wire.COMMENT
                    continue
                finish = None if piece.answer is None else "stop" if piece.answer.finished else "length"
                if heard:
                    heard(piece.index, piece.text, finish)
                if piece.text or (self.logprobs and piece.tokens):
                    yield self._chunk(piece.index, {"content": piece.text}, None, piece.tokens)
                if piece.answer is not None:
                    written += len(piece.answer.tokens)
                    yield self._chunk(piece.index, {}, finish)
        if self.usage:
            yield self._event([], {"usage": wire.usage(self.prompt_tokens, written)})

    async def replay(self, choices: Sequence[Choice]) -> AsyncGenerator[str, None]:
        """Answers that are known already, as a stream."""
        for i, choice in enumerate(choices):
            yield self._chunk(i, {"role": "assistant", "content": "", "refusal": None})
            yield self._chunk(i, {"content": choice.text}, None, choice.tokens)
            yield self._chunk(i, {}, choice.finish)
        if self.usage:
            yield self._event([], {"usage": wire.usage(self.prompt_tokens, sum(c.count for c in choices))})

    def _chunk(self, index: int, delta: dict[str, Any], finish: str | None = None, tokens: Sequence[Token] = ()) -> str:
        """One server-sent event, with the null usage that clients expect before the last one."""
        choice = {"index": index, "delta": delta, "logprobs": self._logprobs(tokens) if tokens else None,
                  "finish_reason": finish}
        return self._event([choice], {"usage": None} if self.usage else {})

    def _event(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> str:
        return wire.frame({**self._head, "object": "chat.completion.chunk", "choices": choices, **more})

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        return {"content": wire.shown(tokens), "refusal": None} if self.logprobs else None


def model_card(card: Card) -> dict[str, Any]:
    """A line of /v1/models."""
    created = moment(card.created)
    return {"id": card.name, "object": "model", "created": int(created.timestamp()) if created else 0,
            "owned_by": "tunesmith"}


def find(hub: Hub, name: str, asked: Mapping[str, Any] | None = None) -> Card:
    """The model of a name, for the user whom a request names, if it does.

    Raises:
        Refusal: 404 in OpenAI's words.
    """
    try:
        return hub.card(name, str((asked or {}).get("safety_identifier") or (asked or {}).get("user") or ""))
    except NotFound as error:
        raise Refusal(str(error), status=404, param="model", code="model_not_found") from error
