"""The nouns: immutable records that every floor shares. No torch, no database, no HTTP.

Human rankings, implicit feedback, judges and imported pairs all become `AnswerGroup`s before any learner
sees them: a pair is K = 2, a thumb is K = 1.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Self

Role = Literal["system", "user", "assistant", "tool"]
Split = Literal["train", "dev", "test"]
Source = Literal["human", "implicit", "judge", "imported", "simulated"]
Tiers = tuple[tuple[int, ...], ...]
"""Answer indices best to worst; answers in one tier are tied. `((2,), (0, 3), (1,))`"""


def fingerprint(value: Any) -> str:
    """16 hex digits that name a JSON-able value by its content."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Record:
    """JSON in both directions for the frozen dataclasses below."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict; fields at their default are left out."""
        return {name: _plain(value) for name, default in _fields(type(self))  # type: ignore[arg-type]
                if (value := getattr(self, name)) != default}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The record back from `to_dict`'s result."""
        return cls(**{name: _READ.get(name, _identity)(data[name]) for name, _ in _fields(cls)  # type: ignore[arg-type]
                      if name in data})


@dataclass(frozen=True, slots=True)
class Message(Record):
    """One turn. `weight` 0 keeps an assistant turn out of the loss (OpenAI's per-message weight)."""

    role: Role
    content: str
    weight: float = 1


Conversation = tuple[Message, ...]


def conversation(turns: Sequence[Mapping[str, Any]]) -> Conversation:
    """OpenAI-style dicts to a `Conversation`."""
    return tuple(Message.from_dict(t) for t in turns)


def turns(messages: Conversation) -> list[dict[str, str]]:
    """A `Conversation` as the plain dicts that chat templates and the API take."""
    return [{"role": m.role, "content": m.content} for m in messages]


@dataclass(frozen=True, slots=True)
class Demonstration(Record):
    """A conversation whose last assistant turn is the desired behaviour."""

    messages: Conversation
    source: str = ""
    licence: str = ""
    review: Literal["accepted", "pending", "rejected"] = "accepted"


@dataclass(frozen=True, slots=True)
class Prompt(Record):
    """A conversation that waits for an assistant turn.

    `facts` is what a programmatic judge may need (the loan desk keeps its scenario there); models never see it.
    """

    messages: Conversation
    domain: str = ""
    split: Split = "train"
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return fingerprint(turns(self.messages))


@dataclass(frozen=True, slots=True)
class Answer(Record):
    """One assistant turn for a prompt. `finished` is False when it ran into the length limit."""

    text: str
    model: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finished: bool = True
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pair(Record):
    """Answer `better` beats answer `worse` with probability `p`, and counts `weight` in the loss."""

    better: int
    worse: int
    p: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class AnswerGroup(Record):
    """The waist of the hourglass: one prompt, K >= 1 answers and what is known about their order.

    `tiers` is empty before anyone ranked. Answers left out of the tiers are unranked (partial ranking):
    they are no better than any tier. `pairs` are soft; when present they take precedence over `tiers`.
    `labels` are per-answer (a thumb 0/1 or a rating), empty if none.
    """

    prompt: Prompt
    answers: tuple[Answer, ...]
    tiers: Tiers = ()
    pairs: tuple[Pair, ...] = ()
    labels: tuple[float, ...] = ()
    labeler: str = ""
    shown: tuple[int, ...] = ()
    source: Source = "imported"
    weight: float = 1.0

    @property
    def id(self) -> str:
        return fingerprint([self.prompt.id, [a.text for a in self.answers]])


@dataclass(frozen=True, slots=True)
class Ranking(Record):
    """One labeler's verdict on one group; append-only. `id` is made by the client, so that a retry is stored once.

    `shown` is the order on the page: `shown[0]` is the index of the answer shown first.
    `all_bad` keeps the ranking and says that even the best is not acceptable. `skipped` is the reason, if skipped.
    `ratings` are 1 to 7 per answer; `margin` is how clearly the best tier wins, 1 (hardly) to 4 (far better), 0 unsaid.
    `flags` name what is wrong with an answer, by its index as text: `{"2": ["harmful", "private data"]}`.
    `purpose` is "" for ordinary work; "gold" a test question, "repeat" the labeler's second look at a group, "review" a
    reviewer's verdict on a contested one. `revises` is the id of the labeler's own verdict that this one replaces.
    `trace` is how it came about: `moves`, `first_seconds`, `focus_losses`, `device` and the like.
    """

    id: str
    group: str
    labeler: str
    tiers: Tiers = ()
    shown: tuple[int, ...] = ()
    all_bad: bool = False
    skipped: str = ""
    flags: Mapping[str, Any] = field(default_factory=dict)
    ratings: tuple[float, ...] = ()
    seconds: float = 0.0
    simulated: bool = False
    margin: int = 0
    rationale: str = ""
    purpose: Literal["", "gold", "repeat", "review"] = ""
    revises: str = ""
    guidelines: int = 0
    trace: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Labeler(Record):
    """A person who judges, or a simulated one, always marked so."""

    name: str
    simulated: bool = False
    role: str = "labeler"


Reaction = Literal["thumb", "rating", "copy", "regenerate", "edit", "select_variant", "follow_up", "abandon",
                   "complaint", "report", "dwell_ms", "code_run_ok", "ticket_resolved"]
"""What a user may do with an answer, and the value that says it:

    thumb           1 up, 0 down
    rating          0 (worst) to 1 (best)
    copy            the share of the answer that was copied, above 0 up to 1
    regenerate      the id of the interaction whose answer took this one's place
    edit            the answer as the user changed it
    select_variant  ids of the interactions that were shown together, in the order on the page; this one was chosen
    follow_up       the id of the interaction that continues the conversation behind this answer
    abandon         "", or how: "disconnected" while it was being written
    complaint  report   the user's words, or ""
    dwell_ms        how long the answer was looked at
    code_run_ok  ticket_resolved   1 yes, 0 no
"""


@dataclass(frozen=True, slots=True)
class Interaction(Record):
    """One logged exchange with a served model and what the user did next. Texts are scrubbed of personal data.

    `events` are `{"type", "value", "at", "id"}` in the order they were stored: the type is a `Reaction`, `at` when it
    happened, `id` the client's own, so that one sent twice counts once.
    `conversation` and `turn` (answers before this one) say where it belongs, `user` is a pseudonym, "" if unknown.
    `source` is where it was logged: "serve", "langfuse" and the like. `consent` is why it may be kept: "asked" (the
    request said so), "notice" (the service logs unless one declines), "imported", "simulated".
    `holdout` traffic never feeds training. `propensity` is the probability with which traffic was given to `arm`, the
    part of a split that `answer.model` stands for ("" without a split).
    """

    id: str
    messages: Conversation
    answer: Answer
    events: tuple[Mapping[str, Any], ...] = ()
    conversation: str = ""
    turn: int = 0
    user: str = ""
    source: str = ""
    created: str = ""
    consent: str = ""
    holdout: bool = False
    propensity: float = 1.0
    arm: str = ""


@cache
def _fields(kind: Any) -> tuple[tuple[str, Any], ...]:
    """The names of a record type's fields with their defaults; kept, for files hold millions of records."""
    return tuple((f.name, _default(f)) for f in dataclasses.fields(kind))


def _identity(x: Any) -> Any:
    return x


def _plain(x: Any) -> Any:
    if isinstance(x, Record):
        return x.to_dict()
    if isinstance(x, tuple | list):
        return [_plain(v) for v in x]
    return dict(x) if isinstance(x, Mapping) else x


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


_READ: dict[str, Any] = {
    "messages": lambda x: tuple(Message.from_dict(m) for m in x),
    "prompt": Prompt.from_dict,
    "answer": Answer.from_dict,
    "answers": lambda x: tuple(Answer.from_dict(a) for a in x),
    "tiers": lambda x: tuple(tuple(t) for t in x),
    "pairs": lambda x: tuple(Pair.from_dict(p) for p in x),
    "labels": tuple, "shown": tuple, "ratings": tuple, "tokens": tuple, "logprobs": tuple, "events": tuple,
}
