"""All requests in one batch: they come in at any time, share the engine, and get what is written as it comes.

Everything that touches the engine runs on one worker thread, so the event loop stays free and nothing needs a lock.
Between two steps of the batch the worker takes orders: a new request, one that is no longer wanted. A request keeps the
version of the adapter with which it began; a name means the newest version from the moment that is published.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tunesmith.contracts import Sampling, Token, Written
from tunesmith.errors import ModelError, NotFound, UserError, nearest
from tunesmith.records import Conversation
from tunesmith.service.refusals import Refusal, log
from tunesmith.store import jobs, loops

if TYPE_CHECKING:
    from tunesmith.service.metrics import Metrics
    from tunesmith.store.workspace import Workspace

T = TypeVar("T")
MAX_TOKENS = 1024
"""The longest answer when the request names no length (less if the context ends before)."""

COME_BACK = {"retry-after": "2"}


class ServingEngine(Protocol):
    """What serving asks of an engine (`model.serving.Serving`); only the worker thread calls it."""

    @property
    def context(self) -> int:
        """Tokens that prompt and answer share."""
        ...

    @property
    def vocabulary(self) -> int:
        """Tokens that there are."""
        ...

    @property
    def busy(self) -> bool:
        """There is something to do for `step`."""
        ...

    @property
    def writing(self) -> int:
        """Answers in the batch."""
        ...

    def load(self, name: str, folder: Path) -> None:
        """Attach the adapter in `folder` as `name`."""
        ...

    def drop(self, name: str) -> None:
        """Forget an adapter."""
        ...

    def encode(self, prompt: Conversation | str) -> list[int]:
        """The tokens of a prompt."""
        ...

    def submit(self, tokens: Sequence[int], sampling: Sampling, n: int = 1, model: str = "", *, live: bool = False,
               detail: bool = False) -> Any:
        """A request; what comes back is its handle."""
        ...

    def cancel(self, job: Any) -> None:
        """Nothing more is wanted of a request."""
        ...

    def step(self) -> list[tuple[Any, Written | Exception]]:
        """All go on by one token: what there is to tell, by handle."""
        ...

    def prompt(self, tokens: Sequence[int], model: str = "", alternatives: int = 0) -> list[Token]:
        """A prompt's own tokens with their log-probs."""
        ...

    def score(self, folder: Path, prompt: Conversation, answers: Sequence[str]) -> list[float]:
        """What the reward model in `folder` thinks of answers."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as text."""
        ...


@dataclass(frozen=True, slots=True)
class Card:
    """One line of /v1/models. `adapter` is "" for the base, else `name@version`. Where a loop tries a candidate, `arm`
    says who of the two this is, and `propensity` how often it is chosen."""

    name: str
    adapter: str
    created: Any = None
    arm: str = ""
    propensity: float = 1.0

    @property
    def shown(self) -> str:
        """What a reply calls it: the exact version. The name of a job's model is exact."""
        return self.name if ":" in self.name else self.adapter or self.name


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for n answers to one prompt: a conversation, plain text or tokens.

    With `sampling.max_tokens` 0 an answer may take what the context leaves, at most MAX_TOKENS; `capped`: with any
    number it may, and at most that many. `live`: text is wanted as it comes. `detail`: tokens are wanted. `echo`: the
    prompt's own tokens are; `silent`: nothing but these.
    """

    prompt: Conversation | str | Sequence[int]
    sampling: Sampling
    card: Card
    n: int = 1
    live: bool = False
    detail: bool = False
    echo: bool = False
    silent: bool = False
    capped: bool = False

    @property
    def model(self) -> str:
        """What writes, by its full name."""
        return self.card.adapter or self.card.name


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes on."""

    requests: int = 256
    """Open at a time, those that wait included; one model may have half of them."""
    memory: int = 2**30
    """Bytes of adapters kept in memory; those in use are kept whatever they take."""
    seconds: float = 600.0
    """Until a request must be answered."""


class Shelf:
    """The adapters in memory: the ones used last, as far as they fit into `limit` bytes, and all that are in use."""

    def __init__(self, load: Callable[[str, Path], None], drop: Callable[[str], None], limit: int,
                 metrics: Metrics | None = None):
        self.load, self.drop, self.limit, self.metrics = load, drop, limit, metrics
        self.sizes: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._stamps: dict[str, Any] = {}
        self._uses: Counter[str] = Counter()

    def hold(self, name: str, stamp: Any, find: Callable[[], Path]) -> None:
        """Have the adapter in memory until it is released as often as it was held. `stamp` tells an adapter from
        another that had its name before.

        Raises:
            Refusal: the other one is still in use.
        """
        if name in self.sizes and self._stamps[name] != stamp:
            if self._uses[name]:
                raise Refusal(f"{name} was deleted and made anew, and the old one is still answering; try again "
                              "shortly.", status=503)
            self._remove(name)
        if name not in self.sizes:
            folder, begun = find(), time.perf_counter()
            size = sum(f.stat().st_size for f in folder.iterdir() if f.suffix == ".safetensors")
            self._make_room(size)
            self.load(name, folder)
            self.sizes[name], self._stamps[name] = size, stamp
            if self.metrics:
                self.metrics.loaded.observe(time.perf_counter() - begun)
        elif self.metrics:
            self.metrics.hits.inc()
        self.sizes.move_to_end(name)
        self._uses[name] += 1

    def release(self, name: str) -> None:
        """One use less."""
        self._uses[name] -= 1
        self._make_room(0)

    def _make_room(self, size: int) -> None:
        for name in list(self.sizes):
            if sum(self.sizes.values()) + size <= self.limit:
                return
            if not self._uses[name]:
                self._remove(name)
                if self.metrics:
                    self.metrics.evicted.inc()

    def _remove(self, name: str) -> None:
        self.drop(name)
        del self.sizes[name], self._stamps[name]


@dataclass(eq=False)
class Running:
    """A request that the engine has accepted. Iterate over what is written; `close` when done, in any case."""

    hub: Hub
    ask: Ask
    loop: asyncio.AbstractEventLoop
    deadline: float
    used: int = 0
    """Tokens of the prompt."""
    echoed: list[Token] = field(default_factory=list)
    begun: float = 0.0
    closed: bool = False
    _job: Any = None
    _first: float = 0.0
    _held: bool = False
    _left: int = 0
    _inbox: asyncio.Queue[Written | Exception | None] = field(default_factory=asyncio.Queue)

    async def pieces(self, pulse: float | None = None) -> AsyncGenerator[Written | None, None]:
        """What is written, until all answers have ended; None whenever nothing came for `pulse` seconds.

        Raises:
            Exception: what ended the request.
        """
        left = 0 if self.ask.silent else self.ask.n
        while left:
            try:
                item = await asyncio.wait_for(self._inbox.get(), pulse)
            except TimeoutError:
                yield None
                continue
            if isinstance(item, Exception):
                raise item
            assert item is not None
            left -= item.answer is not None
            yield item

    def close(self) -> None:
        """Nothing more is wanted; its places become free."""
        if not self.closed:
            self.closed = True
            self.hub.leave(self)


class Hub:
    """The models of a workspace on one base.

    `base` is the base's name, and the `spec` that an adapter must have been trained on.
    """

    def __init__(self, workspace: Workspace, make_engine: Callable[[], ServingEngine], base: str = "base",
                 limits: Limits | None = None):
        from tunesmith.service.metrics import Metrics

        self.workspace, self.base, self.limits = workspace, base, limits or Limits()
        self.metrics = Metrics()
        self._make = make_engine
        self._engine: ServingEngine | None = None
        self._shelf: Shelf
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._open: Counter[str] = Counter()  # requests by model, for the event loop; what follows is the worker's
        self._jobs: dict[Any, Running] = {}

    # ---- names

    def cards(self) -> dict[str, Card]:
        """Every name that a request may use: the base, `adapter@version`, and `adapter` for its newest version; what a
        fine-tuning job made has the names that the job gave it, and only these; a loop's name is what it has adopted.
        """
        cards = {self.base: Card(self.base, "")}
        cards |= {loop: Card(loop, adapter) for loop, adapter in loops.names(self.workspace).items()}
        names = jobs.model_names(self.workspace)
        for adapter in sorted(self.workspace.adapters(), key=lambda a: (a.name, a.version)):
            if adapter.role == "policy" and adapter.base.get("spec", self.base) == self.base:
                known = names.get(str(adapter), []) if adapter.name.startswith(jobs.PREFIX) else (
                    str(adapter), adapter.name, *names.get(str(adapter), []))
                cards |= {name: Card(name, str(adapter), adapter.created) for name in known}
        return cards

    def card(self, name: str, who: str = "") -> Card:
        """What a name means now; as quick with a thousand adapters as with one. `who` asks: the same one meets the same
        model while a loop tries a candidate.

        Raises:
            NotFound: no adapter of this base, naming the nearest.
        """
        if name == self.base:
            return Card(name, "")
        try:
            known = jobs.adapter_named(self.workspace, name) if ":" in name else name
            found = None if name.startswith(jobs.PREFIX) else self.workspace.find_adapter(known)
        except UserError:  # what follows an @ is no number
            found = None
        if found is None and (split := loops.split(self.workspace, name)):
            adapter, arm, share = split.pick(who)
            return replace(self.card(adapter), name=name, arm=arm, propensity=share)
        if found is None or found.role != "policy" or found.base.get("spec", self.base) != self.base:
            raise NotFound(f"The model '{name}' does not exist{nearest(name, self.cards())}")
        return Card(name, str(found), found.created)

    # ---- the event loop's side

    async def open(self, ask: Ask) -> Running:
        """Hand a request to the engine; when this returns it is accepted, and waits for a place or is being written.

        Raises:
            Refusal: too many requests, or the prompt does not fit.
            ModelError: the adapter or the base cannot be loaded.
        """
        self._admit(ask.model)
        now = time.monotonic()
        running = Running(self, ask, asyncio.get_running_loop(), now + self.limits.seconds, begun=now)
        self._open[ask.model] += 1
        accepted: asyncio.Future[None] = running.loop.create_future()
        self._tell(partial(self._start, running, accepted))
        try:
            await accepted
        except BaseException:
            running.close()
            raise
        return running

    def leave(self, running: Running) -> None:
        """A request is over, or nobody waits for it any more."""
        name = running.ask.model
        self._open[name] -= 1
        if not self._open[name]:
            del self._open[name]
        self._tell(partial(self._end, running))

    async def score(self, judge: str, prompt: Conversation, answers: Sequence[str]) -> list[float]:
        """What a reward model of the workspace thinks of answers."""
        folder = self.workspace.adapter(judge).path
        return await self._ask(lambda: self.engine.score(folder, prompt, answers))

    async def text(self, prompt: Conversation | str | Sequence[int]) -> str:
        """A prompt as text."""
        if isinstance(prompt, str):
            return prompt
        return await self._ask(lambda: self.engine.text(prompt))  # type: ignore[arg-type]

    async def _ask(self, work: Callable[[], T]) -> T:
        """What the worker finds out between two steps."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[T] = loop.create_future()

        def order() -> None:
            try:
                _call(loop, _settle, found, work())
            except Exception as error:
                _call(loop, _settle, found, error)

        self._tell(order)
        return await found

    def close(self) -> None:
        """Stop after the step that is being computed."""
        self._closed = True
        self._orders.put(lambda: None)

    def _admit(self, model: str) -> None:
        most, waiting = self.limits.requests, self._open.total()
        if waiting >= most or self._open[model] >= max(1, most // 2):
            who = "requests" if waiting >= most else f"requests for {model}"
            self.metrics.refused.inc()
            raise Refusal(f"{self._open[model] if waiting < most else waiting} {who} are waiting already; try again "
                          "shortly.", status=429, code="rate_limit_exceeded", headers=COME_BACK)

    def _tell(self, order: Callable[[], None]) -> None:
        self._orders.put(order)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
            self._thread.start()

    # ---- the worker's side

    @property
    def engine(self) -> ServingEngine:
        """Only for the worker thread: builds the engine on first use."""
        if self._engine is None:
            self._engine = self._make()
            self._shelf = Shelf(self._engine.load, self._engine.drop, self.limits.memory, self.metrics)
        return self._engine

    def _work(self) -> None:
        while not self._closed:
            busy = self._engine is not None and self._engine.busy
            with suppress(queue.Empty):
                order = self._orders.get(block=not busy)
                while not self._closed:
                    order()
                    order = self._orders.get_nowait()
            if self._engine is not None and not self._closed:
                self._expire()
                if self._engine.busy:
                    self._go_on()

    def _go_on(self) -> None:
        begun = time.perf_counter()
        news = self.engine.step()
        self.metrics.stepped(time.perf_counter() - begun, self.engine.writing, len(self._jobs))
        now, out = time.monotonic(), []
        for job, item in news:
            if (running := self._jobs.get(job)) is None:
                continue
            if isinstance(item, Exception):
                log.error("a request to %s failed", running.ask.model, exc_info=item)
                self._forget(running)
            else:
                self._note(running, item, now)
            out.append((running, item))
        _deliver(out)

    def _start(self, running: Running, accepted: asyncio.Future[None]) -> None:
        if running.closed:
            return
        try:
            self._submit(running)
        except Exception as error:
            self._forget(running)
            _call(running.loop, _settle, accepted, error)
        else:
            _call(running.loop, _settle, accepted, None)

    def _submit(self, running: Running) -> None:
        ask, engine = running.ask, self.engine
        tokens = ask.prompt if _is_tokens(ask.prompt) else engine.encode(ask.prompt)  # type: ignore[arg-type]
        running.used = len(tokens)
        _check_tokens(tokens, engine.vocabulary)
        how = ask.sampling
        named = 0 if ask.capped else how.max_tokens
        _refuse_too_long(running.used, named or (0 if ask.silent else 1), engine.context, bool(named))
        self._hold(running)
        if ask.echo:
            running.echoed = engine.prompt(tokens, ask.card.adapter, how.alternatives)  # type: ignore[arg-type]
        if ask.silent:
            self._forget(running)
            return
        length = named or min(engine.context - running.used, how.max_tokens or MAX_TOKENS)
        running._left = ask.n
        running._job = engine.submit(tokens, replace(how, max_tokens=length), ask.n,  # type: ignore[arg-type]
                                     ask.card.adapter, live=ask.live, detail=ask.detail)
        self._jobs[running._job] = running
        self.metrics.started(ask.model, running.used)

    def _hold(self, running: Running) -> None:
        card = running.ask.card

        def find() -> Path:
            found = self.workspace.adapter(card.adapter)
            if found.base.get("spec", self.base) != self.base:
                raise ModelError(f"{card.adapter} was trained on {found.base['spec']}, this server runs {self.base}")
            return found.path

        if card.adapter:
            self._shelf.hold(card.adapter, card.created, find)
            running._held = True

    def _note(self, running: Running, item: Written, now: float) -> None:
        if not running._first:
            running._first = now
            if running.ask.live:
                self.metrics.first.observe(now - running.begun)
        if item.answer is None:
            return
        running._left -= 1
        self.metrics.ended(running.ask.model, len(item.answer.tokens),
                           now - running._first if running.ask.live else 0.0)
        if not running._left:
            self.metrics.seconds.observe(now - running.begun)
            self._forget(running)

    def _end(self, running: Running) -> None:
        if running._job in self._jobs:
            self.engine.cancel(running._job)
            self.metrics.cancelled.inc()
        self._forget(running)

    def _forget(self, running: Running) -> None:
        self._jobs.pop(running._job, None)
        if running._held:
            running._held = False
            self._shelf.release(running.ask.card.adapter)

    def _expire(self) -> None:
        now = time.monotonic()
        for running in [r for r in self._jobs.values() if r.deadline < now]:
            self.engine.cancel(running._job)
            self._forget(running)
            _deliver([(running, _too_late(running._first, self.limits.seconds))])


def _too_late(first: float, seconds: float) -> Refusal:
    if not first:
        return Refusal(f"No answer within {seconds:.0f} s: too many requests were before this one.", status=503,
                       headers=COME_BACK)
    return Refusal(f"The answer took longer than {seconds:.0f} s; ask for fewer tokens.", status=504,
                   headers={"x-should-retry": "false"})


def _refuse_too_long(used: int, asked: int, context: int, named: bool) -> None:
    """
    Raises:
        Refusal: prompt and answer do not fit in the context; `named`: the request said how long the answer may be.
    """
    if used + asked > context:
        completion = f" and {asked} in the completion" if named else ""
        raise Refusal(f"This model's maximum context length is {context} tokens. However, you requested {used} tokens "
                      f"in the messages{completion}. Please shorten the messages or the completion.", param="messages",
                      code="context_length_exceeded")


def _check_tokens(tokens: Any, vocabulary: int) -> None:
    if not len(tokens):
        raise Refusal("The prompt is empty, and this model has no token that begins a text.", param="prompt",
                      code="invalid_value")
    if wrong := next((t for t in tokens if not 0 <= t < vocabulary), None):
        raise Refusal(f"The prompt has token {wrong}; this model's tokens are 0 to {vocabulary - 1}.", param="prompt",
                      code="invalid_value")


def _is_tokens(prompt: Any) -> bool:
    return not isinstance(prompt, str) and len(prompt) > 0 and isinstance(prompt[0], int)


def _deliver(news: Iterable[tuple[Running, Written | Exception]]) -> None:
    """One call into each event loop (there is one, but for tests)."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Running, Written | Exception]]] = {}
    for running, item in news:
        by_loop.setdefault(running.loop, []).append((running, item))

    def put(items: list[tuple[Running, Written | Exception]]) -> None:
        for running, item in items:
            running._inbox.put_nowait(item)

    for loop, items in by_loop.items():
        _call(loop, put, items)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *args: Any) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody listens any more
        loop.call_soon_threadsafe(function, *args)


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if not future.done():
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
