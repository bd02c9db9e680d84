"""Answers while one waits: write a question or take one, models answer it at once, the answers become a group to rank.

    /live                       the page; ?prompts=NAME takes a question from a dataset
    POST /api/live              server-sent events:
        {"answer": 0, "text": "..."}                a piece of an answer
        {"answer": 0, "end": true}                  it is finished
        {"group": "...", "next": "/rank/live"}      all are stored, ready to be ranked
        {"error": {"message": "..."}}               nothing is stored

Which model writes which answer is said to nobody before the ranking. Whoever may see figures chooses the models;
labelers get a mix of the workspace's own (endpoints only if it has none of its own) and always write into the set
"live". Closing the connection stops all generations, and nothing is stored.

Left out: the facts that a prompt of a dataset has for programmatic judges; what is asked here are its turns only.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from tunesmith.contracts import Sampling
from tunesmith.errors import NotFound, UserError, nearest
from tunesmith.records import Answer, AnswerGroup, Conversation, Prompt, conversation
from tunesmith.service.access import Labeler, Person, require
from tunesmith.service.hub import Ask
from tunesmith.service.pages import render
from tunesmith.service.refusals import Refusal, describe, log
from tunesmith.service.remote import RemoteEngine
from tunesmith.service.wire import EventStream
from tunesmith.store import work
from tunesmith.store.checks import valid_name
from tunesmith.store.endpoints import endpoints, find_endpoint
from tunesmith.store.fields import check_waiting, in_order, read_text

if TYPE_CHECKING:
    from tunesmith.service.hub import Hub
    from tunesmith.store.workspace import Workspace

SET = "live"
MIX = ""
LONGEST_TEXT = 20_000
MOST_TURNS = 40
MOST_TOKENS = 2048
TAKEN_FROM = 10_000
"""Rows of a dataset among which a question is taken."""
FIRST = 1000.0
"""The priority of a group that somebody waits for."""


class Turn(BaseModel):
    """One turn of the question."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Literal["system", "user", "assistant", "tool"]
    content: str = Field(max_length=LONGEST_TEXT)


class Question(BaseModel):
    """The body of POST /api/live. `models` are names of `writers`; none is a mix."""

    model_config = ConfigDict(strict=True, extra="forbid")

    messages: list[Turn] = Field(min_length=1, max_length=MOST_TURNS)
    answers: int = Field(4, ge=2, le=9)
    models: list[str] = Field(default=[], max_length=9)
    set: str = SET
    max_tokens: int = Field(256, ge=1, le=MOST_TOKENS)
    temperature: float = Field(1.0, gt=0, le=2)

    def prompt(self) -> Conversation:
        """
        Raises:
            DataError: an empty turn, turns out of order, nothing that waits for an answer.
        """
        for n, turn in enumerate(self.messages):
            read_text({"content": turn.content}, "content", f"messages[{n}]")
        messages = in_order(conversation([turn.model_dump() for turn in self.messages]), "messages")
        check_waiting(messages, "a question")
        return messages


@dataclass(frozen=True, slots=True)
class Writer:
    """A model that may answer. `own` ones are the workspace's, the others endpoints."""

    name: str
    own: bool


Pieces = AsyncGenerator[str | Answer, None]
Event = dict[str, Any]


def router(workspace: Workspace) -> APIRouter:
    """The page and what it sends."""
    routes = APIRouter(default_response_class=HTMLResponse)
    busy: set[str] = set()

    @routes.get("/live")
    def live(request: Request, who: Labeler, prompts: str = "") -> str:
        known = writers(workspace, request.app.state.hub, who)
        taken = _taken(workspace, prompts) if prompts else None
        return render("live.html", who=who, writers=known, chooses=who.may("viewer"), set=SET, longest=LONGEST_TEXT,
                      turns=taken.messages if taken else (), prompts=prompts,
                      datasets=[d.name for d in workspace.datasets() if d.kind == "prompts"][::-1])

    @routes.post("/api/live")
    async def ask(request: Request, body: Question,
                  who: Annotated[Person, Depends(require("labeler"))]) -> EventStream:
        hub = request.app.state.hub
        prompt = body.prompt()
        name = valid_name(body.set, "name of a set") if who.may("manager") else SET
        if body.models and not who.may("viewer"):
            raise Refusal("Who will rank must not choose who writes; leave models out.", status=403, param="models")
        streams = await run_in_threadpool(_streams, workspace, hub, who, body)
        if who.name in busy:
            raise _still_busy()
        how = [Sampling(body.max_tokens, body.temperature, seed=secrets.randbelow(2**31)) for _ in streams]

        async def frames() -> AsyncGenerator[str, None]:
            if who.name in busy:
                yield _failure(_still_busy())
                return
            busy.add(who.name)
            try:
                async with aclosing(_events(request, workspace, name, Prompt(prompt), streams, how)) as events:
                    async for event in events:
                        yield event
            finally:
                busy.discard(who.name)

        return EventStream(frames())

    return routes


def _still_busy() -> Refusal:
    return Refusal("Your last question is still being answered; wait for it, or stop it.", status=429)


# ---- who writes

def writers(workspace: Workspace, hub: Hub | None, who: Person) -> list[Writer]:
    """The models that this person may ask, the newest first; endpoints cost money, so labelers get them only where
    nothing else is."""
    own: list[Writer] = []
    if hub is not None:
        cards = hub.cards()
        own = [Writer(name, True) for name, card in cards.items() if name in (card.adapter, hub.base)][::-1]
    remote = [Writer(e.name, False) for e in endpoints(workspace)]
    return own + remote if who.may("manager") or not own else own


def choose(known: Sequence[Writer], names: Sequence[str], count: int) -> list[Writer]:
    """Who writes each of `count` answers: the named models in turns, or a mix at random.

    Raises:
        Refusal: nobody can write.
        NotFound: an unknown model.
    """
    if not known:
        raise Refusal("There is no model here that could answer. Start this server with tunesmith serve, or let an "
                      "admin add a server under Sources.", status=409)
    by_name = {w.name: w for w in known}
    for name in names:
        if name not in by_name:
            raise NotFound(f'no model "{name}"{nearest(name, by_name)}')
    pool = [by_name[name] for name in dict.fromkeys(names)] or [w for w in known if w.own] or list(known)
    order = secrets.SystemRandom().sample(pool, len(pool))
    return list(itertools.islice(itertools.cycle(order), count))


Stream = Callable[[Conversation, Sampling], Pieces]


def _streams(workspace: Workspace, hub: Hub | None, who: Person, body: Question) -> list[Stream]:
    """What writes each answer; it reads the database, so it is no work for the event loop."""
    chosen = choose(writers(workspace, hub, who), body.models, body.answers)
    return [_own(hub, w) if w.own and hub else _remote(workspace, w) for w in chosen]


def _own(hub: Hub, writer: Writer) -> Stream:
    card = hub.card(writer.name)

    async def stream(prompt: Conversation, sampling: Sampling) -> Pieces:
        running = await hub.open(Ask(prompt, sampling, card, live=True, capped=True))
        try:
            async with aclosing(running.pieces()) as pieces:
                async for piece in pieces:
                    if piece is not None and piece.text:
                        yield piece.text
                    if piece is not None and piece.answer is not None:
                        yield piece.answer
        finally:
            running.close()

    return stream


def _remote(workspace: Workspace, writer: Writer) -> Stream:
    """
    Raises:
        UserError: the endpoint has no key, or is no longer there.
    """
    engine = RemoteEngine(find_endpoint(workspace, writer.name))

    async def stream(prompt: Conversation, sampling: Sampling) -> Pieces:
        loop, exchange = asyncio.get_running_loop(), engine.exchange()
        queue: asyncio.Queue[str | Answer | Exception] = asyncio.Queue()

        def put(item: str | Answer | Exception) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def read() -> None:
            pieces = engine.stream(prompt, sampling, exchange=exchange)
            try:
                while True:
                    put(next(pieces))
            except StopIteration as end:
                put(end.value)
            except Exception as error:
                put(error)

        threading.Thread(target=read, name="endpoint", daemon=True).start()
        try:
            while not isinstance(item := await queue.get(), Answer):
                if isinstance(item, Exception):
                    raise item
                yield item
            yield item
        finally:
            exchange.cancel()

    return stream


# ---- writing

async def _events(request: Request, workspace: Workspace, name: str, prompt: Prompt, streams: Sequence[Stream],
                  how: Sequence[Sampling]) -> AsyncGenerator[str, None]:
    """The events of one question; when it is closed, no generation goes on."""
    try:
        answers: dict[int, Answer] = {}
        async with aclosing(_merged([s(prompt.messages, h) for s, h in zip(streams, how)])) as pieces:
            async for n, piece in pieces:
                if isinstance(piece, Answer):
                    answers[n] = piece
                    yield _frame({"answer": n, "end": True})
                else:
                    yield _frame({"answer": n, "text": piece})
        yield _frame(await run_in_threadpool(_store, workspace, name, prompt, [answers[n] for n in sorted(answers)]))
    except Exception as error:  # the headers are out: the error can only be a frame
        if not isinstance(error, UserError):
            log.error("%s stopped", request.url.path, exc_info=error)
        yield _failure(error)


async def _merged(streams: Sequence[Pieces]) -> AsyncGenerator[tuple[int, str | Answer], None]:
    """(which, piece) of several streams as they come; the first error ends them all."""
    queue: asyncio.Queue[tuple[int, str | Answer | Exception | None]] = asyncio.Queue()

    async def pump(n: int, stream: Pieces) -> None:
        try:
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    queue.put_nowait((n, piece))
            queue.put_nowait((n, None))
        except Exception as error:
            queue.put_nowait((n, error))

    tasks = [asyncio.create_task(pump(n, stream)) for n, stream in enumerate(streams)]
    open_streams = len(tasks)
    try:
        while open_streams:
            n, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                open_streams -= 1
            else:
                yield n, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _store(workspace: Workspace, name: str, prompt: Prompt, answers: Sequence[Answer]) -> Event:
    """Put the answers into the set, before everything else that waits there.

    Raises:
        Refusal: there are not two different answers.
    """
    different = tuple({a.text: a for a in answers}.values())
    if len(different) < 2:
        raise Refusal("All answers came out alike, so there is nothing to rank. Ask for more variety, or something "
                      "else.", status=409)
    group = AnswerGroup(prompt, different)
    workspace.add_groups(name, [group])
    work.priorities(workspace, name, {group.id: FIRST})
    return {"group": group.id, "set": name, "answers": len(different), "next": f"/rank/{quote(name)}"}


def _taken(workspace: Workspace, name: str) -> Prompt:
    """A question of a dataset, at random; not one that is kept for measuring, if there are others.

    Raises:
        UserError: it holds no prompts.
    """
    dataset = workspace.dataset(name)
    if dataset.kind != "prompts":
        raise UserError(f"{name} holds {dataset.kind}, not prompts")
    rows: list[Prompt] = list(itertools.islice(dataset.rows(), TAKEN_FROM))
    return secrets.choice([row for row in rows if row.split == "train"] or rows)


def _failure(error: Exception) -> str:
    return _frame({"error": describe(error)[1]})


def _frame(value: Event) -> str:
    return f"data: {json.dumps(value, ensure_ascii=True, separators=(',', ':'))}\n\n"
