"""What users of served models say and do, on its way into the log.

Nothing is kept unless the server was started with a `Mode` other than off, and then only what a request agrees to:

    store: true                    keep it ("asked")
    store: false, or a header that declines (Tunesmith-Log: off, Sec-GPC: 1, DNT: 1)    do not
    neither                        keep it if the mode is "all" ("notice": the service tells its users)

A request is never slower or refused because of the log: `Exchange` gathers its answers on the event loop, a thread of
its own scrubs and stores them, and when too much waits for that, what comes is counted as dropped. Texts stand in no
log line, errors of the database (which quote what they could not store) included.

POST /v1/feedback takes what users did next, from the application's server or straight from a browser
(static/feedback.js): knowing a completion's id, 122 random bits, is what allows to say something of it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from tunesmith.errors import DataError
from tunesmith.records import Answer, Conversation, Interaction
from tunesmith.service.access import Id, address
from tunesmith.service.quotas import Rates
from tunesmith.service.refusals import Refusal, log
from tunesmith.service.wire import Choice, Strict
from tunesmith.store import erasure, interactions
from tunesmith.store.runs import now

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from tunesmith.service.metrics import Metrics
    from tunesmith.store.workspace import Workspace

Mode = Literal["off", "asked", "all"]
WAITING = 10_000
"""Exchanges that may wait to be stored."""
BATCH = 200
PAUSE = 0.2
"""Seconds in which exchanges gather before they are stored together."""
PURGE_EVERY = 3600.0
PER_MINUTE = 600
"""Calls of the feedback route from one address."""
DECLINES = {"tunesmith-log": {"off", "no", "0", "false"}, "sec-gpc": {"1"}, "dnt": {"1"}}


def consent(mode: Mode, headers: Headers, store: Any) -> str:
    """Why a request may be kept: "asked" or "notice"; "" if it may not."""
    declined = any(headers.get(name, "").strip().lower() in words for name, words in DECLINES.items())
    if mode == "off" or declined or store is False:
        return ""
    return "asked" if store is True else "notice" if mode == "all" else ""


class Exchange:
    """One request while it is answered. `heard` is called with every piece of text, `close` at the end in any case;
    a stream passes through `followed`, which notices that its reader leaves."""

    def __init__(self, keeper: Log, about: Interaction):
        self.keeper, self.about = keeper, about
        self._texts: dict[int, list[str]] = {}
        self._ends: dict[int, str] = {}
        self._left = False

    def heard(self, index: int, text: str, finish: str | None = None) -> None:
        """More of an answer; `finish` ("stop", "length") with the last of it."""
        self._texts.setdefault(index, []).append(text)
        if finish:
            self._ends[index] = finish

    async def followed(self, frames: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        """The events of a stream as they come. An error is the server's end; only a reader who leaves closes it."""
        try:
            async with aclosing(frames):
                async for one in frames:
                    yield one
        except (asyncio.CancelledError, GeneratorExit):
            self._left = True
            raise

    def whole(self, choices: Sequence[Choice]) -> None:
        """All answers at once."""
        for index, choice in enumerate(choices):
            self.heard(index, choice.text, choice.finish)
        self.close()

    def close(self) -> None:
        """Nothing more comes."""
        texts, self._texts = self._texts, {}
        self.keeper.put([self._interaction(n, "".join(texts[n])) for n in sorted(texts) if any(texts[n])])

    def _interaction(self, index: int, text: str) -> Interaction:
        about, end = self.about, self._ends.get(index)
        left = {"type": "abandon", "value": "disconnected", "at": about.created, "id": "disconnected"}
        return replace(about, id=f"{about.id}.{index}" if index else about.id,
                       events=(left,) if self._left and not end else (),
                       answer=replace(about.answer, text=text, finished=end == "stop"))


class Log:
    """Takes exchanges from the event loop; a thread of its own stores them, and deletes what is over every
    `PURGE_EVERY` seconds. A server starts it and closes it, which stores what waits."""

    def __init__(self, workspace: Workspace, mode: Mode = "all", policy: interactions.Policy | None = None,
                 waiting: int = WAITING):
        self.workspace, self.mode, self.policy = workspace, mode, policy or interactions.Policy()
        self.metrics: Metrics | None = None
        self._queue: queue.Queue[list[Interaction] | Future[None] | None] = queue.Queue(waiting)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._purge_at = 0.0

    def start(self) -> None:
        """Store and delete from now on; `put` does it too, if nobody has."""
        if self._thread is None:
            self._closed = False
            self._thread = threading.Thread(target=self._work, name="interactions", daemon=True)
            self._thread.start()

    def begin(self, request: Request, asked: Mapping[str, Any], messages: Conversation, model: str, id: str,
              arm: str = "", propensity: float = 1.0) -> Exchange | None:
        """The exchange that a request begins; None if it is not to be kept.

        Args:
            asked: the request's parameters: `store`, `safety_identifier` or `user`, `metadata.conversation`, and how
                the answer is drawn.
            arm: with its probability `propensity`, the part of a traffic split that answers.
        """
        if not (why := consent(self.mode, request.headers, asked.get("store"))):
            return None
        user = asked.get("safety_identifier") or asked.get("user")
        metadata = asked.get("metadata")
        talk = metadata.get("conversation") if isinstance(metadata, Mapping) else None
        drawn = {k: v for k in ("temperature", "top_p", "seed", "n") if isinstance(v := asked.get(k), int | float)}
        return Exchange(self, Interaction(
            id, messages, Answer("", model, sampling=drawn), user=user if isinstance(user, str) else "", source="serve",
            conversation=talk if isinstance(talk, str) else "", created=now(), consent=why, arm=arm,
            propensity=propensity))

    def put(self, exchanges: list[Interaction]) -> None:
        """Have exchanges stored soon; never waits."""
        if not exchanges:
            return
        if self._closed:  # a request that ended with the server: nobody stores any more
            return self._count("dropped", len(exchanges))
        self.start()
        try:
            self._queue.put_nowait(exchanges)
        except queue.Full:
            self._count("dropped", len(exchanges))

    async def stored(self) -> None:
        """Wait until all that was put before is stored."""
        if self._thread is not None:
            done: Future[None] = Future()
            await asyncio.to_thread(self._queue.put, done)
            await asyncio.wrap_future(done)

    def close(self) -> None:
        """Store what waits, and end the thread; what comes later is dropped and counted."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        while not self._queue.empty():  # what came behind the word to end
            self._turn()

    # ---- the thread's side

    def _work(self) -> None:
        while self._turn():
            if time.monotonic() >= self._purge_at:
                self._purge_at = time.monotonic() + PURGE_EVERY
                self._guarded(lambda: erasure.purge(self.workspace))

    def _turn(self) -> bool:
        """Store what comes until the next purge, and tell who waits for that; whether to go on."""
        batch, waiter, going = self._gather()
        if batch:
            self._store(batch)
        if waiter and waiter.set_running_or_notify_cancel():  # not if its request has been given up
            waiter.set_result(None)
        return going

    def _gather(self) -> tuple[list[Interaction], Future[None] | None, bool]:
        """What is to be stored together, who waits for that, and whether to go on after it."""
        batch: list[Interaction] = []
        until = self._purge_at
        while len(batch) < BATCH:
            try:
                item = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if not isinstance(item, list):
                return batch, item, item is not None
            until = until if batch else time.monotonic() + PAUSE
            batch += item
        return batch, None, True

    def _store(self, batch: list[Interaction]) -> None:
        try:
            self._guarded(lambda: self._count("stored", interactions.add(self.workspace, batch, self.policy)),
                          len(batch))
        except DataError:  # one of them cannot be stored
            for one in batch:
                with suppress(DataError):
                    self._guarded(lambda one=one: self._count("stored", interactions.add(  # type: ignore[misc]
                        self.workspace, [one], self.policy)), 1)

    def _guarded(self, work: Any, lost: int = 0) -> None:
        """Errors end neither the thread nor a request, and their words (which may quote a text) are not logged."""
        try:
            work()
        except DataError:
            if lost == 1:
                self._count("dropped", 1)
            raise
        except Exception as error:
            self._count("dropped", lost)
            log.error("%d exchanges could not be logged: %s", lost, type(error).__name__)

    def _count(self, outcome: str, exchanges: int) -> None:
        if self.metrics:
            self.metrics.interactions.labels(outcome).inc(exchanges)


# ---- feedback

class Reacted(Strict):
    completion: Annotated[Id, Field(min_length=1, max_length=interactions.LONGEST_ID)]
    type: str = Field(max_length=32)
    value: Any = ""
    at: str | None = None
    id: Annotated[Id, Field(min_length=1, max_length=interactions.LONGEST_ID)]


class Feedback(Strict):
    events: Annotated[list[Reacted], Field(min_length=1, max_length=interactions.MOST_EVENTS)]


def router(keeper: Log) -> APIRouter:
    """POST /v1/feedback."""
    routes, rates = APIRouter(prefix="/v1"), Rates(PER_MINUTE)

    @routes.post("/feedback")
    async def feedback(body: Feedback, request: Request) -> dict[str, Any]:
        rates.take(address(request))
        await keeper.stored()  # an event may be faster than the exchange that it is about
        events = [(e.completion, e.model_dump(exclude={"completion"})) for e in body.events]
        try:
            done = await asyncio.to_thread(interactions.react, keeper.workspace, events, keeper.policy.more, "serve")
        except DataError as error:
            raise Refusal(str(error), param="events", code="invalid_value") from error
        return {"object": "feedback", **{k: done[k] for k in ("stored", "known", "unknown", "too_many")}}

    return routes
