"""OpenAI's API, as far as a chat model goes: /v1/models and /v1/chat/completions.

Every policy adapter of the workspace is a model: `desk` is its newest version, `desk@2` that one, the base has its own
name. A parameter that would change the answer and that this engine cannot honour is refused by name, never ignored.
Left out: tools, structured output, log-probs of alternatives, /v1/completions, limits per key.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from starlette.types import Send

from tunesmith import __version__
from tunesmith.contracts import Sampling
from tunesmith.errors import NotFound
from tunesmith.records import Answer, Conversation, Message
from tunesmith.service.hub import Card, Hub
from tunesmith.service.pages import moment
from tunesmith.service.refusals import Refusal, describe, log

MAX_TOKENS = 1024
"""The longest answer when the request names no length (less if the context ends before)."""

IGNORED = {"user", "metadata", "safety_identifier", "service_tier", "prompt_cache_key", "prompt_cache_options",
           "prompt_cache_retention", "parallel_tool_calls"}
"""OpenAI's parameters that do not change an answer here."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "store": (False,), "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "top_logprobs": (0,),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "tools": ([],), "functions": ([],),
    "tool_choice": ("none", "auto"), "function_call": ("none", "auto"), "audio": (), "prediction": (),
    "reasoning_effort": ("none",), "verbosity": (), "web_search_options": (), "moderation": (),
}
"""OpenAI's parameters that would change the answer, and the values under which they do not; null is always one."""


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


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


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    model: str = Field(min_length=1)
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=16)
    stop: Annotated[list[Annotated[str, Field(min_length=1)]] | None, Field(max_length=4),
                    BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None

    def conversation(self) -> Conversation:
        return tuple(m.record() for m in self.messages)

    def sampling(self, room: int) -> Sampling:
        """How to draw, within `room` tokens; without a seed every request gets its own."""
        seed = secrets.randbelow(2**31) if self.seed is None else self.seed % 2**31
        return Sampling(max_tokens=self.length or min(room, MAX_TOKENS),
                        temperature=1.0 if self.temperature is None else self.temperature,
                        top_p=self.top_p or 1.0, stop=tuple(self.stop or ()), seed=seed)

    @property
    def length(self) -> int | None:
        """The asked-for number of tokens, under the new name or the old."""
        return self.max_completion_tokens or self.max_tokens


def router(hub: Hub) -> APIRouter:
    """The routes under /v1."""
    routes = APIRouter(prefix="/v1")

    @routes.get("/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [_card(c) for c in hub.cards().values()]}

    @routes.get("/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        return _card(_find(hub, name))

    @routes.post("/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Any:
        refuse_unsupported(body)
        card = _find(hub, body.model)
        prompt = body.conversation()
        used, context = await hub.prepare(card.adapter, prompt)
        refuse_too_long(used, body.length, context)
        reply = Reply(card.adapter or card.name, used)
        sampling, n = body.sampling(context - used), body.n or 1
        if body.stream:
            frames = _stream(hub, reply, prompt, sampling, n, card.adapter, body, request)
            return EventStream(frames, headers={"x-accel-buffering": "no"})
        answers = await hub.sample(prompt, sampling, n, card.adapter)
        logprobs = [await _logprobs(hub, a) if body.logprobs else None for a in answers]
        return JSONResponse(reply.whole(answers, logprobs))

    return routes


def refuse_unsupported(body: ChatRequest) -> None:
    """
    Raises:
        Refusal: a parameter that this server does not know, or cannot honour.
    """
    for name, value in (body.model_extra or {}).items():
        if name in IGNORED or value is None or value in NEUTRAL.get(name, ()):
            continue
        if name not in NEUTRAL:
            raise Refusal(f"Unrecognized request argument supplied: {name}", param=name, code="unknown_parameter")
        raise Refusal(f"Unsupported parameter: '{name}' is not supported by this server; leave it out.", param=name,
                      code="unsupported_parameter")
    if body.stream_options and not body.stream:
        raise Refusal("The 'stream_options' parameter is only allowed when 'stream' is enabled.",
                      param="stream_options", code="invalid_value")


def refuse_too_long(used: int, asked: int | None, context: int) -> None:
    """
    Raises:
        Refusal: prompt and answer do not fit in the context.
    """
    if used + (asked or 1) > context:
        completion = f" and {asked} in the completion" if asked else ""
        raise Refusal(f"This model's maximum context length is {context} tokens. However, you requested {used} tokens "
                      f"in the messages{completion}. Please shorten the messages or the completion.", param="messages",
                      code="context_length_exceeded")


class EventStream(StreamingResponse):
    """Closes its generator when the client has gone, so that the generation stops."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        async with aclosing(cast(AsyncGenerator[str, None], self.body_iterator)):
            await super().stream_response(send)


class Reply:
    """One chat.completion, whole or in chunks."""

    def __init__(self, model: str, prompt_tokens: int):
        self.prompt_tokens = prompt_tokens
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model,
                      "system_fingerprint": f"tunesmith-{__version__}"}

    def whole(self, answers: Sequence[Answer], logprobs: Sequence[Any]) -> dict[str, Any]:
        """The body of an unstreamed reply."""
        choices = [{"index": i, "message": {"role": "assistant", "content": a.text, "refusal": None, "annotations": []},
                    "logprobs": p, "finish_reason": _finish(a)} for i, (a, p) in enumerate(zip(answers, logprobs))]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": self.usage(answers)}

    def chunk(self, index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None, *,
              usage: bool = False) -> str:
        """One server-sent event; `usage` adds the null that clients expect before the last one."""
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._event([choice], {"usage": None} if usage else {})

    def last(self, answers: Sequence[Answer]) -> str:
        """The chunk with no choices that carries the usage."""
        return self._event([], {"usage": self.usage(answers)})

    def usage(self, answers: Sequence[Answer]) -> dict[str, Any]:
        written = sum(len(a.tokens) for a in answers)
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": written,
                "total_tokens": self.prompt_tokens + written}

    def _event(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> str:
        return _frame({**self._head, "object": "chat.completion.chunk", "choices": choices, **more})


async def _stream(hub: Hub, reply: Reply, prompt: Conversation, sampling: Sampling, n: int, adapter: str,
                  body: ChatRequest, request: Request) -> AsyncGenerator[str, None]:
    """Server-sent events; the n answers follow one another, answer i from seed + i."""
    usage = bool(body.stream_options and body.stream_options.include_usage)
    answers: list[Answer] = []
    try:
        for i in range(n):
            yield reply.chunk(i, {"role": "assistant", "content": "", "refusal": None}, usage=usage)
            how = Sampling(sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.stop, sampling.seed + i)
            async with aclosing(hub.stream(prompt, how, adapter)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, str):
                        yield reply.chunk(i, {"content": piece}, usage=usage)
                    else:
                        answers.append(piece)
            logprobs = await _logprobs(hub, answers[i]) if body.logprobs else None
            yield reply.chunk(i, {}, _finish(answers[i]), logprobs, usage=usage)
        if usage:
            yield reply.last(answers)
        yield "data: [DONE]\n\n"
    except Exception as error:  # the headers are out: the error can only be a frame
        log.error("%s stopped while streaming", request.url.path, exc_info=error)
        yield _frame({"error": describe(error)[1]})


async def _logprobs(hub: Hub, answer: Answer) -> dict[str, Any]:
    pieces = await hub.pieces(answer.tokens[:len(answer.logprobs)])
    return {"content": [{"token": piece, "bytes": list(piece.encode()), "logprob": logprob, "top_logprobs": []}
                        for piece, logprob in zip(pieces, answer.logprobs)], "refusal": None}


def _finish(answer: Answer) -> str:
    return "stop" if answer.finished else "length"


def _frame(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _card(card: Card) -> dict[str, Any]:
    created = moment(card.created)
    return {"id": card.name, "object": "model", "created": int(created.timestamp()) if created else 0,
            "owned_by": "tunesmith"}


def _find(hub: Hub, name: str) -> Card:
    try:
        return hub.card(name)
    except NotFound as error:
        raise Refusal(str(error), status=404, param="model", code="model_not_found") from error
