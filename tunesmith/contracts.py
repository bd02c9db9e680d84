"""The verbs that cross floors, as Protocols: whoever has the verb fits, a fake fits in a test file. And what makes
tiers tiers, which `store` and `feedback` both have to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tunesmith.errors import DataError
from tunesmith.records import Answer, Conversation, Prompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw an answer. `seed` makes it reproducible whatever else shares the batch.

    The penalties and `logit_bias` (token, number) are OpenAI's: they change the logits before the temperature does.
    `alternatives` is how many of the likeliest tokens are noted beside each one that is drawn.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    alternatives: int = 0


@dataclass(frozen=True, slots=True)
class Token:
    """A token as people see it; `alternatives` are the likeliest at its place, perhaps itself among them. The first
    token of a prompt has no log-prob."""

    text: str
    bytes: bytes
    logprob: float | None = None
    alternatives: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What is new of the answer `index` of a request: text and its tokens, and `answer` once it has ended."""

    index: int
    text: str
    tokens: tuple[Token, ...] = ()
    answer: Answer | None = None


class Engine(Protocol):
    """Writes answers."""

    def sample(self, prompts: Sequence[Conversation | str], sampling: Sampling, *, n: int = 1, model: str = "",
               progress: Callable[[int], None] | None = None) -> list[list[Answer]]:
        """n answers for each prompt, from the adapter `model` (the bare base if empty): the assistant's turn behind a
        conversation, or what comes behind plain text without a template.

        `progress` is called with the number of prompts finished since the last call.
        """
        ...


@dataclass(frozen=True, slots=True)
class Read:
    """How likely a text is behind another: its log-prob in nats, over how many tokens, and whether each of them was
    the likeliest one at its place."""

    logprob: float
    tokens: int
    greedy: bool


class Reader(Protocol):
    """Says how likely given texts are; needs the weights, or a server that tells log-probs of a prompt."""

    def read(self, contexts: Sequence[Conversation | str], texts: Sequence[Sequence[str]], *, model: str = "",
             cut: bool = False, progress: Callable[[int], None] | None = None) -> list[list[Read]]:
        """Each of the texts behind its context: a conversation (the assistant's turn) or plain text without a
        template. `cut`: a context that is too long loses its beginning, instead of being refused. `progress` is called
        with the number of contexts done since the last call."""
        ...


class Scorer(Protocol):
    """Judges answers: a reward model, a rubric, a person's taste."""

    def score(self, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        """One number per answer, higher is better."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """What a training run shows to who watches it, after an update (or before the first one).

    `answers` and `scores` hold what the policy wrote to each of `prompts` in this update, before it learned from that;
    `spreads`, how far the heads of a reward model that has several disagree on each answer (else it is empty). `engine`
    writes as the policy that stands now, under the name `model`, as it does in training with `sampling`.
    """

    prompts: Sequence[Prompt]
    answers: Sequence[Sequence[Answer]]
    scores: Sequence[Sequence[float]]
    engine: Engine
    model: str
    sampling: Sampling
    spreads: Sequence[Sequence[float]] = ()


@dataclass(frozen=True, slots=True)
class Word:
    """What a monitor says: figures to log, alarms to ring, why to stop ("": go on), and whether the policy as it now
    stands is the best so far, so that it is kept."""

    figures: Mapping[str, float] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    stop: str = ""
    best: bool = False


class Monitor(Protocol):
    """Watches a training run from outside: may ring, may ask it to stop, may have a version of the policy kept."""

    def observe(self, step: int, metrics: Mapping[str, float], view: View) -> Word:
        """Called after each update, from 1; and before the first one as step 0, with all of the run's prompts and
        without answers, when the policy still is what it starts from. What it says must follow from what it is told
        and from `state` alone: a run that was killed says it again."""
        ...

    def state(self) -> Mapping[str, Any]:
        """What it remembers, as JSON; kept with every checkpoint."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Back to when `state` was called, in another process."""


class Executor(Protocol):
    """Runs a function on arguments, here or elsewhere."""

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The function's result."""
        ...


Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called with (steps done, steps in all, newest metrics)."""


def check_tiers(tiers: Sequence[Sequence[int]], answers: int) -> None:
    """Every index fits, none comes twice, no tier is empty; leaving answers out is allowed.

    Raises:
        DataError: says which.
    """
    seen: set[int] = set()
    for tier in tiers:
        if not tier:
            raise DataError("a tier is empty")
        for index in tier:
            if not 0 <= index < answers:
                raise DataError(f"answer {index} is ranked, but there are answers 0 to {answers - 1}")
            if index in seen:
                raise DataError(f"answer {index} is ranked twice")
            seen.add(index)
