"""/v1/completions: plain text or tokens continued, without a chat template.

The first token of an echoed prompt has no log-prob: it is null, as OpenAI sends it.
Left out: `suffix` (no base here was trained to fill in), several prompts whose answers stream at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import Field, PlainValidator

from tunesmith.contracts import Token
from tunesmith.records import Message
from tunesmith.service import wire
from tunesmith.service.guard import Guard
from tunesmith.service.hub import Ask, Hub, Running
from tunesmith.service.openai import find
from tunesmith.service.refusals import Refusal
from tunesmith.service.wire import Choice, EventStream, Sampled, refuse_unsupported

DEFAULT = 16
"""OpenAI's `max_tokens` for text."""
MOST = 64
"""Prompts in one request."""

def _prompts(value: Any) -> list[str | tuple[int, ...]]:
    """A text, tokens, or a list of either, as a list."""
    if isinstance(value, list) and value and all(type(v) is int for v in value):
        return [tuple(value)]
    found = value if isinstance(value, list) else [value]
    if not 1 <= len(found) <= MOST:
        raise ValueError(f"there must be 1 to {MOST} prompts")
    for one in found:
        tokens = isinstance(one, list) and one and all(type(v) is int for v in one)
        if not tokens and not isinstance(one, str):
            raise ValueError("a prompt is a text or a list of tokens (whole numbers)")
    return [one if isinstance(one, str) else tuple(one) for one in found]


class CompletionRequest(Sampled):
    prompt: Annotated[list[str | tuple[int, ...]], PlainValidator(_prompts)]
    max_tokens: int | None = Field(None, ge=0)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    best_of: int | None = Field(None, ge=1, le=20)
    suffix: str | None = None

    def check(self) -> None:
        """
        Raises:
            Refusal: parameters that do not go together, or that this server cannot honour.
        """
        refuse_unsupported(self, {})
        if self.suffix:
            raise Refusal("Unsupported parameter: 'suffix' is not supported by this server: its models continue a "
                          "text, they do not fill in; leave it out.", param="suffix", code="unsupported_parameter")
        if self.best_of and self.best_of < (self.n or 1):
            raise Refusal("'best_of' must be at least 'n'.", param="best_of", code="invalid_value")
        if self.stream and (self.best_of or 1) > (self.n or 1):
            raise Refusal("'best_of' cannot be streamed: the best answer is known when all have ended.",
                          param="best_of", code="invalid_value")
        if self.max_tokens == 0 and not self.echo:
            raise Refusal("'max_tokens' 0 needs 'echo'.", param="max_tokens", code="invalid_value")
        if self.stream and len(self.prompt) > 1:
            raise Refusal("Several prompts cannot be streamed; send one request for each.", param="prompt",
                          code="unsupported_parameter")


def router(hub: Hub, guard: Guard | None = None) -> APIRouter:
    """POST /v1/completions."""
    routes = APIRouter(prefix="/v1")

    @routes.post("/completions")
    async def complete(body: CompletionRequest, request: Request) -> Any:
        body.check()
        card, n, best_of = find(hub, body.model), body.n or 1, body.best_of or body.n or 1
        route = guard.route(card.name, card.adapter) if guard else None
        samples = max(best_of, route.samples) if route else best_of
        length = DEFAULT if body.max_tokens is None else body.max_tokens
        asks = [Ask(prompt, body.sampling(length, body.logprobs or 0), card, samples,
                    live=bool(body.stream and not route), echo=bool(body.echo), silent=length == 0,
                    detail=body.logprobs is not None or best_of > n or route is not None) for prompt in body.prompt]
        reply = Reply(card.shown, body)
        if body.stream and not route:
            running = await wire.unless_gone(request, hub.open(asks[0]))
            return EventStream(wire.guarded(request.url.path, reply.frames(running)), running.close)
        runnings = await wire.unless_gone(request, _open_all(hub, asks))
        found = await wire.unless_gone(request, asyncio.gather(*(wire.collected(r) for r in runnings)))
        for i, running in enumerate(runnings):
            if guard and route and not running.ask.silent:
                said = (Message("user", await hub.text(running.ask.prompt)),)
                found[i] = await guard.judge(route, running.ask.model, said, found[i], hub.score)
        parts = [(running, best(choices, n)) for running, choices in zip(runnings, found)]
        if body.stream:
            return EventStream(wire.guarded(request.url.path, reply.replay(*parts[0])))
        return JSONResponse(reply.whole(parts, sum(c.count for choices in found for c in choices)))

    return routes


async def _open_all(hub: Hub, asks: Sequence[Ask]) -> list[Running]:
    runnings: list[Running] = []
    try:
        for ask in asks:
            runnings.append(await hub.open(ask))
    except BaseException:
        for running in runnings:
            running.close()
        raise
    return runnings


def best(choices: Sequence[Choice], n: int) -> list[Choice]:
    """The n answers whose tokens were likeliest on average; all of them in their order if there are no more."""
    return list(choices) if len(choices) <= n else sorted(choices, key=lambda c: -c.mean_logprob)[:n]


class Reply:
    """One text_completion, whole or in chunks."""

    def __init__(self, model: str, body: CompletionRequest):
        self.body = body
        self._head = {**wire.head("cmpl", model), "object": "text_completion"}

    def whole(self, parts: Sequence[tuple[Running, Sequence[Choice]]], written: int) -> dict[str, Any]:
        """The body of an unstreamed reply: the answers to the first prompt, then those to the second."""
        made: list[dict[str, Any]] = []
        for running, choices in parts:
            echo, tokens = self._echo(running)
            made += [self._choice(len(made) + i, echo + c.text, [*tokens, *c.tokens], 0, c.finish)
                     for i, c in enumerate(choices)]
        return {**self._head, "choices": made, "usage": wire.usage(sum(r.used for r, _ in parts), written)}

    async def frames(self, running: Running) -> AsyncGenerator[str, None]:
        """Chunks as they are written."""
        echo, tokens = self._echo(running)
        at = [len(echo)] * running.ask.n
        written = 0
        if running.ask.echo:
            for i in range(running.ask.n):
                yield self._event([self._choice(i, echo, tokens, 0, "length" if running.ask.silent else None)])
        async with aclosing(running.pieces(wire.PULSE)) as pieces:
            async for piece in pieces:
                if piece is None:
                    yield wire.COMMENT
                    continue
                finish = None
                if piece.answer is not None:
                    written += len(piece.answer.tokens)
                    finish = "stop" if piece.answer.finished else "length"
                yield self._event([self._choice(piece.index, piece.text, piece.tokens, at[piece.index], finish)])
                at[piece.index] += len(piece.text)
        if self.body.usage:
            yield self._event([], wire.usage(running.used, written))

    async def replay(self, running: Running, choices: Sequence[Choice]) -> AsyncGenerator[str, None]:
        """Answers that are known already, as a stream."""
        echo, tokens = self._echo(running)
        for i, choice in enumerate(choices):
            yield self._event([self._choice(i, echo + choice.text, [*tokens, *choice.tokens], 0, choice.finish)])
        if self.body.usage:
            yield self._event([], wire.usage(running.used, sum(c.count for c in choices)))

    def _echo(self, running: Running) -> tuple[str, list[Token]]:
        """The prompt's own text and tokens, nothing unless it is asked for."""
        tokens, prompt = running.echoed, running.ask.prompt
        text = prompt if isinstance(prompt, str) else b"".join(t.bytes for t in tokens).decode("utf-8", "replace")
        return (text, tokens) if running.ask.echo else ("", [])

    def _choice(self, index: int, text: str, tokens: Sequence[Token], at: int, finish: str | None) -> dict[str, Any]:
        logprobs = None if self.body.logprobs is None else self._logprobs(tokens, at)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, tokens: Sequence[Token], at: int) -> dict[str, Any]:
        """`at`: where in the whole text the first of these tokens stands."""
        offsets = []
        for token in tokens:
            offsets.append(at)
            at += len(token.text)
        top = [{a.text: a.logprob for a in t.alternatives} if t.logprob is not None else None for t in tokens]
        return {"tokens": [t.text for t in tokens], "token_logprobs": [t.logprob for t in tokens],
                "top_logprobs": top if self.body.logprobs else None, "text_offset": offsets}

    def _event(self, choices: list[dict[str, Any]], used: dict[str, Any] | None = None) -> str:
        return wire.frame({**self._head, "choices": choices, **({"usage": used} if self.body.usage else {})})
