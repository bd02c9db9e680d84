"""What chat and text completions share on the wire: sampling parameters, refusals, events, choices.

A parameter that would change the answer and that this engine cannot honour is refused by name, never ignored.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, cast

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from tunesmith import __version__
from tunesmith.contracts import Sampling, Token
from tunesmith.service.hub import Running
from tunesmith.service.refusals import Refusal, describe, log

T = TypeVar("T")
PULSE = 10.0
"""Seconds without an event after which a comment keeps the connection open."""

IGNORED = {"user", "metadata", "safety_identifier", "service_tier", "prompt_cache_key", "prompt_cache_options",
           "prompt_cache_retention", "parallel_tool_calls"}
"""OpenAI's parameters that do not change an answer here."""


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


Bias = Annotated[float, Field(ge=-100, le=100)]


class Sampled(BaseModel):
    """The parameters that both kinds of completion take."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str = Field(min_length=1, max_length=200)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=16)
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]] | None, Field(max_length=4),
                    BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = None
    seed: int | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Bias] | None = Field(None, max_length=1024)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def usage(self) -> bool:
        """Whether a stream shall end with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, length: int, alternatives: int = 0) -> Sampling:
        """How to draw; without a seed every request gets its own. `length` 0: as the context allows."""
        seed = secrets.randbelow(2**31) if self.seed is None else self.seed % 2**31
        return Sampling(length, 1.0 if self.temperature is None else self.temperature, self.top_p or 1.0,
                        tuple(self.stop or ()), seed, self.presence_penalty or 0.0, self.frequency_penalty or 0.0,
                        tuple((int(k), v) for k, v in (self.logit_bias or {}).items()), alternatives)


def refuse_unsupported(body: Sampled, neutral: dict[str, tuple[Any, ...]], vocabulary: int = 0) -> None:
    """
    Raises:
        Refusal: a parameter that this server does not know, or cannot honour unless its value is in `neutral`.
    """
    for name, value in (body.model_extra or {}).items():
        if name in IGNORED or value is None or value in neutral.get(name, ()):
            continue
        if name not in neutral:
            raise Refusal(f"Unrecognized request argument supplied: {name[:100]}", param=name[:100],
                          code="unknown_parameter")
        raise Refusal(f"Unsupported parameter: '{name}' is not supported by this server; leave it out.", param=name,
                      code="unsupported_parameter")
    if body.stream_options and not body.stream:
        raise Refusal("The 'stream_options' parameter is only allowed when 'stream' is enabled.",
                      param="stream_options", code="invalid_value")


# ---- answers

@dataclass(slots=True)
class Choice:
    """One answer that has ended. `count` is how many tokens it took; a guard may have replaced its text."""

    text: str = ""
    finish: str = "stop"
    tokens: list[Token] = field(default_factory=list)
    count: int = 0

    @property
    def mean_logprob(self) -> float:
        """Per token."""
        return sum(t.logprob or 0.0 for t in self.tokens) / max(1, len(self.tokens))


async def whole(request: Request, running: Running) -> list[Choice]:
    """All answers of a request; if its client leaves before, they are not written to the end."""
    return await unless_gone(request, collected(running))


async def collected(running: Running) -> list[Choice]:
    """All answers, once they have ended."""
    choices = [Choice(finish="length") for _ in range(running.ask.n)]
    try:
        async with aclosing(running.pieces()) as pieces:
            async for piece in pieces:
                if piece is not None:
                    choice = choices[piece.index]
                    choice.text += piece.text
                    choice.tokens += piece.tokens
                    if piece.answer is not None:
                        choice.count = len(piece.answer.tokens)
                        choice.finish = "stop" if piece.answer.finished else "length"
        return choices
    finally:
        running.close()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client has closed the connection."""
    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Refusal("The client has left.", status=499)
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


def usage(prompt: int, written: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def head(kind: str, model: str) -> dict[str, Any]:
    """The fields with which every reply begins."""
    return {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model,
            "system_fingerprint": f"tunesmith-{__version__}"}


# ---- events

def frame(value: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


DONE = "data: [DONE]\n\n"
COMMENT = ": still at it\n\n"


class EventStream(StreamingResponse):
    """Closes its generator when the client has gone, so that the generation stops; all of `closing` is called in any
    case."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[str, None], *closing: Callable[[], None]):
        super().__init__(frames, headers={"x-accel-buffering": "no"})
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for close in self._closing:
                close()

    async def stream_response(self, send: Send) -> None:
        async with aclosing(cast(AsyncGenerator[str, None], self.body_iterator)):
            await super().stream_response(send)


async def guarded(path: str, frames: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """Events whose headers are out, so that an error can only be a frame."""
    try:
        async with aclosing(frames):
            async for one in frames:
                yield one
        yield DONE
    except Exception as error:
        if not isinstance(error, Refusal):
            log.error("%s stopped while streaming", path, exc_info=error)
        yield frame({"error": describe(error)[1]})


def shown(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """Tokens as a chat completion's `logprobs.content` has them."""
    return [{**_shown(t), "top_logprobs": [_shown(a) for a in t.alternatives]} for t in tokens]


def _shown(token: Token) -> dict[str, Any]:
    logprob = token.logprob or 0.0
    return {"token": token.text, "bytes": list(token.bytes), "logprob": max(logprob, -9999.0)}
