"""Continuous batching: answers are written together, and a waiting prompt takes the place of an answer that has ended.

A step either reads waiting prompts or writes one token of every answer in the batch. Requests may be submitted and
cancelled between steps, and adapters exchanged. Every answer draws from its own stream of random numbers, so it does
not depend on what else is in the batch. Models take turns for free places, so one that is asked a lot cannot keep the
others waiting; one that cannot share a batch gets it for itself when its turn comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tunesmith.contracts import Sampling
from tunesmith.errors import TooLong
from tunesmith.model.base import Base
from tunesmith.model.decoding import Prompt, Rows, Weights
from tunesmith.model.sampler import draw, likeliest, uniforms, weighed

REFILL = 1 / 8
"""Share of the places that must be free before a prompt is read while others write: reading costs about one step."""

READ = 2048
"""Prompt tokens that one step reads at most (a longer prompt is read alone)."""

PLACES = 2**17
"""Answers in the batch times tokens of the longest, prompt and room: more wait (a longer one is written alone).

Every row of the cache is as long as the longest. 46 kB a token (135M parameters in fp32) make 6 GB; while its length
doubles the block may be twice that."""


@dataclass(eq=False, slots=True)
class Writing:
    """One answer: its tokens, with the end of turn if it came, and their log-probs."""

    request: Request
    uniform: np.ndarray
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    alternatives: list[list[tuple[int, float]]] = field(default_factory=list)
    done: bool = False


@dataclass(eq=False, slots=True)
class Request:
    """A prompt and its answers, from adapter `model`."""

    prompt: Sequence[int]
    sampling: Sampling
    model: str
    room: int
    ahead: int = 0
    """Virtual tokens before the prompt."""
    answers: list[Writing] = field(default_factory=list)
    waiting: int = 0
    read: Prompt | None = None

    @property
    def longest(self) -> int:
        """Tokens of the prompt, virtual ones too, and of the longest answer that it leaves room for."""
        return self.ahead + len(self.prompt) + self.room

    @property
    def done(self) -> bool:
        """Every answer has ended."""
        return all(a.done for a in self.answers)


class Scheduler:
    """At most `limit` answers are written at a time, those of a model in the order in which they were submitted.

    `shares` says which models may share a batch with others.
    """

    def __init__(self, base: Base, rows: Rows, weights: Weights, limit: int,
                 stopped: Callable[[Sequence[int], Sampling], bool], shares: Callable[[str], bool]):
        self.base, self.rows, self.weights, self.limit = base, rows, weights, limit
        self._stopped, self._shares = stopped, shares
        self._broken = False
        self._sociable: dict[str, bool] = {}
        self._waiting: dict[str, deque[Writing]] = {}  # by model; the first has the next turn
        self._live: list[Writing] = []

    @property
    def busy(self) -> bool:
        """Answers are waiting or being written."""
        return bool(self._waiting or self._live)

    @property
    def writing(self) -> int:
        """Answers in the batch."""
        return len(self._live)

    def submit(self, prompt: Sequence[int], sampling: Sampling, seeds: Sequence[tuple[int, ...]],
               model: str = "") -> Request:
        """One answer per seed; their tokens grow with every `step`.

        Raises:
            TooLong: the prompt leaves no room for an answer.
        """
        assert not self._broken, "an error has ended this scheduler"
        virtual = self.rows.ahead(model)
        ahead = virtual.tokens if virtual else 0
        room = self.base.context - ahead - len(prompt)
        if room < 1:
            less = f", {ahead} of them virtual ones of the adapter" if ahead else ""
            raise TooLong(f"a prompt of {len(prompt)} tokens leaves no room for an answer: base {self.base.spec} "
                          f"takes {self.base.context}{less}; shorten or drop such prompts")
        self._sociable[model] = self._shares(model)
        request = Request(prompt, sampling, model, min(sampling.max_tokens, room), ahead, waiting=len(seeds))
        request.answers = [Writing(request, uniforms(seed, request.room)) for seed in seeds]
        self._waiting.setdefault(model, deque()).extend(request.answers)
        return request

    @torch.inference_mode()
    def cancel(self, request: Request) -> None:
        """Its answers end where they are."""
        for answer in request.answers:
            answer.done = True
        left = {model: deque(a for a in queue if not a.done) for model, queue in self._waiting.items()}
        self._waiting = {model: queue for model, queue in left.items() if queue}
        self._retire()

    @torch.inference_mode()
    def step(self) -> list[Writing]:
        """Go on by one token; the answers that ended with it.

        An exception ends the scheduler: rows and answers may no longer agree, and what was submitted stays unfinished.
        """
        try:
            chosen = self._go_on()
        except BaseException:
            self._broken = True
            self._waiting.clear()
            self._live.clear()
            raise
        self._retire()
        return [a for a in chosen if a.done]

    def _go_on(self) -> list[Writing]:
        """Read or write, and give every answer concerned its next token."""
        # Products by adapter like the answers of one adapter together.
        if self._reads() and (chosen := sorted(self._next(), key=lambda a: a.request.model)):
            states = self.rows.read(list(self._prompts(chosen)), self.weights)
            self._live += chosen
        else:
            chosen = list(self._live)
            states = self.rows.write([a.tokens[-1] for a in chosen], [a.request.model for a in chosen], self.weights)
        self._record(chosen, states)
        return chosen

    def _reads(self) -> bool:
        """Whether it is time for waiting prompts."""
        free = self.limit - len(self._live)
        room = self.rows.refills and free >= max(1, REFILL * self.limit)
        return bool(self._waiting) and (room or not self._live)

    def _next(self) -> Iterator[Writing]:
        """Take from the queues what fits into the free places, into one step's reading and into memory."""
        rows, tokens = len(self._live), 0
        read: set[Request] = set()
        models = {a.request.model for a in self._live}
        longest = max((a.request.longest for a in self._live), default=0)
        while self._waiting and rows < self.limit:
            model, queue = next(iter(self._waiting.items()))
            request, models = queue[0].request, models | {model}
            if len(models) > 1 and not all(self._sociable[m] for m in models):
                return
            longest = max(longest, request.longest)
            if rows and (rows + 1) * longest > PLACES:
                return
            if request not in read:
                tokens += len(request.prompt)
                if read and tokens > READ:
                    return
                read.add(request)
            rows, request.waiting = rows + 1, request.waiting - 1
            yield queue.popleft()
            del self._waiting[model]
            if queue:
                self._waiting[model] = queue

    def _prompts(self, chosen: Sequence[Writing]) -> Iterator[Prompt]:
        """The chosen answers' prompts, each once."""
        for request in dict.fromkeys(a.request for a in chosen):
            if request.read is None:
                request.read = Prompt(request.prompt, request.model)
            request.read.copies = sum(a.request is request for a in chosen)
            request.read.keep = request.waiting > 0
            yield request.read

    def _record(self, chosen: Sequence[Writing], states: Tensor) -> None:
        """Draw a token for each answer from its row's hidden state."""
        with self.weights([a.request.model for a in chosen]):  # an adapter may be on the output layer too
            logits = self.base.logits(states)
        samplings = [a.request.sampling for a in chosen]
        logits = weighed(logits, samplings, [a.tokens for a in chosen])
        for row, (answer, how) in enumerate(zip(chosen, samplings)):
            if how.alternatives:
                answer.alternatives.append(likeliest(logits[row], how.temperature, how.alternatives))
        tokens, logprobs = draw(logits, samplings, [a.uniform[len(a.tokens)] for a in chosen])
        for answer, token, logprob in zip(chosen, tokens.tolist(), logprobs.tolist()):
            answer.tokens.append(token)
            answer.logprobs.append(logprob)
            request = answer.request
            answer.done = (token == self.base.chat.end or len(answer.tokens) == request.room
                           or self._stopped(answer.tokens, request.sampling))

    def _retire(self) -> None:
        if gone := [i for i, a in enumerate(self._live) if a.done]:
            self._live = [self._live[i] for i in self.rows.leave(gone)]
