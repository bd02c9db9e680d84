"""One engine for many requests: built on first use, one generation at a time, adapters loaded when first asked for.

Everything that touches the engine runs on one worker thread, so the event loop stays free and nothing needs a lock.
Left out: batching over requests, and dropping adapters that nobody asks for any more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tunesmith.contracts import Engine, Sampling
from tunesmith.errors import ModelError, NotFound, nearest
from tunesmith.records import Answer, Conversation
from tunesmith.service.refusals import Refusal

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

T = TypeVar("T")
WAITING = 64
"""Requests that may wait for the engine; the next one is told to come back."""


class ServingEngine(Engine, Protocol):
    """What serving asks of an engine beyond `sample`."""

    @property
    def context(self) -> int:
        """Tokens that prompt and answer share."""
        ...

    def models(self) -> Sequence[str]:
        """The adapters that are loaded."""
        ...

    def load(self, name: str, folder: Path) -> None:
        """Attach the adapter in `folder` as `name`."""
        ...

    def count(self, messages: Conversation) -> int:
        """Tokens of a prompt."""
        ...

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token."""
        ...

    def stream(self, messages: Conversation, sampling: Sampling, *, model: str = "") -> Any:
        """A generator of pieces of text whose return value is the whole `Answer`."""
        ...


@dataclass(frozen=True, slots=True)
class Card:
    """One line of /v1/models. `adapter` is "" for the base, else `name@version`."""

    name: str
    adapter: str
    created: Any = None


class Hub:
    """The models of a workspace on one base.

    `base` is the base's name, and the `spec` that an adapter must have been trained on.
    """

    def __init__(self, workspace: Workspace, make_engine: Callable[[], ServingEngine], base: str = "base"):
        self.workspace, self.base = workspace, base
        self._make = make_engine
        self._engine: ServingEngine | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._waiting = 0
        self._closed = threading.Event()

    def cards(self) -> dict[str, Card]:
        """Every name that a request may use: the base, `adapter@version`, and `adapter` for its newest version."""
        cards = {self.base: Card(self.base, "")}
        for adapter in sorted(self.workspace.adapters(), key=lambda a: (a.name, a.version)):
            if adapter.role == "policy" and adapter.base.get("spec", self.base) == self.base:
                cards[str(adapter)] = Card(str(adapter), str(adapter), adapter.created)
                cards[adapter.name] = Card(adapter.name, str(adapter), adapter.created)
        return cards

    def card(self, name: str) -> Card:
        """
        Raises:
            NotFound: no adapter of this base, naming the nearest.
        """
        cards = self.cards()
        if name not in cards:
            raise NotFound(f"The model '{name}' does not exist{nearest(name, cards)}")
        return cards[name]

    async def prepare(self, adapter: str, prompt: Conversation) -> tuple[int, int]:
        """Load what the request needs; (tokens of the prompt, tokens of the context).

        Raises:
            ModelError: the adapter cannot be loaded.
        """
        return await self._run(self._prepare, adapter, prompt)

    async def sample(self, prompt: Conversation, sampling: Sampling, n: int, adapter: str) -> list[Answer]:
        """n answers."""
        return (await self._run(lambda: self.engine.sample([prompt], sampling, n=n, model=adapter)))[0]

    async def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token."""
        return await self._run(lambda: self.engine.pieces(tokens))

    async def stream(self, prompt: Conversation, sampling: Sampling,
                     adapter: str) -> AsyncGenerator[str | Answer, None]:
        """Pieces of text, then the whole `Answer`. Closing the iterator stops the generation."""
        loop, gone = asyncio.get_running_loop(), threading.Event()
        queue: asyncio.Queue[str | Answer | None] = asyncio.Queue()

        def put(item: str | Answer | None) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, item)

        def generate() -> None:
            if gone.is_set():
                return
            pieces: Generator[str, None, Answer] = self.engine.stream(prompt, sampling, model=adapter)
            try:
                while not (gone.is_set() or self._closed.is_set()):
                    put(next(pieces))
            except StopIteration as end:
                put(end.value)
            finally:
                pieces.close()

        work = asyncio.ensure_future(self._run(generate))
        work.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (item := await queue.get()) is not None:
                yield item
            await work  # raises what the generation raised
        finally:
            gone.set()
            work.cancel()

    @property
    def engine(self) -> ServingEngine:
        """Only for the worker thread: builds the engine on first use."""
        if self._engine is None:
            self._engine = self._make()
        return self._engine

    def close(self) -> None:
        """Stop after the token that is being written."""
        self._closed.set()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, adapter: str, prompt: Conversation) -> tuple[int, int]:
        if adapter and adapter not in self.engine.models():
            found = self.workspace.adapter(adapter)
            if found.base.get("spec", self.base) != self.base:
                raise ModelError(f"{adapter} was trained on {found.base['spec']}, this server runs {self.base}")
            self.engine.load(adapter, found.path)
        return self.engine.count(prompt), self.engine.context

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        if self._waiting >= WAITING:
            raise Refusal(f"{WAITING} requests are waiting already; try again shortly.", status=429,
                          code="rate_limit_exceeded")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, function, *args)
        finally:
            self._waiting -= 1
