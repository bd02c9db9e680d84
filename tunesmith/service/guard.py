"""What must not go out unseen: per model, an answer that looks risky is replaced by an approved reply.

    tunesmith serve --guard guard.toml

    [[route]]
    models = ["desk", "desk@*"]           # which models; the first route that fits decides
    reply = "I pass this on to a colleague, who will call you back today."
    action = "person"                     # "reply": log it; "person": it also waits under /handovers in the studio
    patterns = ["(?i)guaranteed? return"] # in the question or the answer (Python's regular expressions)
    scorer = "judge@1"                    # a reward model of the workspace ...
    lowest_score = -2.0                   # ... and the score below which an answer is risky
    uncertainty = "disagreement"          # or "logprob"
    most_uncertain = 0.6
    samples = 3                           # answers that disagreement compares

Uncertainty by "logprob" is the mean of -log p per token, in nats. By "disagreement" it is how little the words of
several answers to the same question have in common: 1 minus the mean F1 of all pairs, from 0 (alike) to 1. Streamed
answers are held back until they are judged. Everything replaced is in `handovers.jsonl` of the workspace, with the
answer that was withheld.

Known limits: text completions are judged as one question from a user; patterns are tried on at most 20,000 characters,
and one that backtracks without end would hold the server up: test what you write.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import tomllib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tunesmith.errors import NotFound, SettingsError, nearest
from tunesmith.records import Conversation, turns
from tunesmith.service.access import Reviewer
from tunesmith.service.pages import render
from tunesmith.service.refusals import log
from tunesmith.store.runs import now

if TYPE_CHECKING:
    from tunesmith.service.wire import Choice
    from tunesmith.store.workspace import Workspace

LOG = "handovers.jsonl"
LONGEST = 20_000
SHOWN = 200

Score = Callable[[str, Conversation, Sequence[str]], Awaitable[list[float]]]
"""What a reward model of the workspace thinks of answers: (its name, the question, the answers)."""


class Route(BaseModel):
    """One [[route]] of the file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    models: list[str] = Field(min_length=1)
    reply: str = Field(min_length=1, max_length=LONGEST)
    action: Literal["reply", "person"] = "reply"
    patterns: list[str] = []
    scorer: str = ""
    lowest_score: float | None = None
    uncertainty: Literal["", "logprob", "disagreement"] = ""
    most_uncertain: float | None = Field(None, ge=0)
    samples: int = Field(1, ge=1, le=16)

    @field_validator("patterns")
    @classmethod
    def _compile(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        return patterns

    @model_validator(mode="after")
    def _complete(self) -> Route:
        if bool(self.scorer) != (self.lowest_score is not None):
            raise ValueError("scorer and lowest_score go together")
        if bool(self.uncertainty) != (self.most_uncertain is not None):
            raise ValueError("uncertainty and most_uncertain go together")
        if (self.uncertainty == "disagreement") != (self.samples > 1):
            raise ValueError('uncertainty = "disagreement" needs samples of 2 or more, and nothing else uses them')
        if not (self.patterns or self.scorer or self.uncertainty):
            raise ValueError("it judges nothing: give patterns, a scorer or uncertainty")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    route: list[Route] = Field(min_length=1)


def load(path: str | Path, workspace: Workspace) -> Guard:
    """The guard that a file describes.

    Raises:
        SettingsError: says where and what.
        NotFound: a scorer that the workspace does not have.
    """
    try:
        found = _File.model_validate(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    except ValidationError as error:
        raise SettingsError(f"{path}: {_first(error)}") from error
    for number, route in enumerate(found.route, 1):
        if route.scorer and (judge := workspace.adapter(route.scorer)).role != "reward":
            raise SettingsError(f"{path}: route {number}: {judge} is no reward model; make one with: tunesmith reward")
    return Guard(found.route, workspace.root / LOG)


def _first(error: ValidationError) -> str:
    """The first problem as `route 2: models: ...`."""
    first = error.errors()[0]
    place = [str(p) for p in first["loc"]]
    if place[:1] == ["route"] and len(place) > 1:
        place = [f"route {int(place[1]) + 1}", *place[2:]]
    if first["type"] == "extra_forbidden":
        known = Route.model_fields if len(place) > 1 else _File.model_fields
        return f"{': '.join(place[:-1] or ['the file'])}: unknown key {place[-1]}{nearest(place[-1], known)}"
    said: str = first["msg"].removeprefix("Value error, ")
    return f"{': '.join(place) or 'the file'}: {said}"


class Guard:
    """Routes, and the log of what they replaced."""

    def __init__(self, routes: Sequence[Route], log_file: Path):
        self.routes, self.log_file = list(routes), log_file
        self.count: Callable[[str], None] = lambda model: None
        """Called with the model of each answer that is kept back."""
        self._lock = threading.Lock()

    def route(self, *names: str) -> Route | None:
        """The first route for a model that has these names; None if there is none."""
        return next((r for r in self.routes if any(fnmatchcase(n, p) for n in names for p in r.models)), None)

    async def judge(self, route: Route, model: str, prompt: Conversation, choices: Sequence[Choice],
                    score: Score) -> list[Choice]:
        """The choices; a risky one has the approved reply for a text, and says `content_filter`.

        A scorer that fails counts as risky: what cannot be judged does not go out.
        """
        question = "\n".join(m.content for m in prompt)
        shared = ""
        if route.uncertainty == "disagreement" and (found := disagreement([c.text for c in choices])) > (
                route.most_uncertain or 0):
            shared = f"disagreement {found:.3f}"
        try:
            scores = await score(route.scorer, prompt, [c.text for c in choices]) if route.scorer else []
        except Exception as error:
            log.error("the guard's scorer %s failed", route.scorer, exc_info=error)
            shared = shared or "its scorer failed"
            scores = []
        out = []
        for i, choice in enumerate(choices):
            why = shared or self._why(route, question, choice, scores[i] if scores else None)
            if why:
                self._note(route, model, prompt, choice.text, why)
                choice = replace(choice, text=route.reply, finish="content_filter", tokens=[])
            out.append(choice)
        return out

    def _why(self, route: Route, question: str, choice: Choice, score: float | None) -> str:
        for pattern in route.patterns:
            for where, text in (("question", question), ("answer", choice.text)):
                if re.search(pattern, text[-LONGEST:]):
                    return f"pattern {pattern} in the {where}"
        if score is not None and not score >= (route.lowest_score or 0):
            return f"score {score:.3f}"
        if route.uncertainty == "logprob" and not -choice.mean_logprob <= (route.most_uncertain or 0):
            return f"uncertainty {-choice.mean_logprob:.3f}"
        return ""

    def _note(self, route: Route, model: str, prompt: Conversation, withheld: str, why: str) -> None:
        self.count(model)
        self._append({"id": secrets.token_hex(8), "time": now(), "model": model, "why": why, "action": route.action,
                      "messages": turns(prompt), "withheld": withheld, "reply": route.reply})

    def done(self, id: str, who: str) -> None:
        """A person has taken care of it.

        Raises:
            NotFound: no such entry.
        """
        if id not in {entry["id"] for entry in self.entries()}:
            raise NotFound(f'no handover "{id}"')
        self._append({"done": id, "by": who, "time": now()})

    def entries(self) -> list[dict[str, Any]]:
        """What was replaced, newest first; `done` says by whom it was taken care of, "" if by nobody yet."""
        if not self.log_file.exists():
            return []
        lines = [json.loads(line) for line in self.log_file.read_text(encoding="utf-8").split("\n") if line]
        done = {line["done"]: line["by"] for line in lines if "done" in line}
        return [{**line, "done": done.get(line["id"], "")} for line in reversed(lines) if "id" in line]

    def _append(self, entry: Mapping[str, Any]) -> None:
        with self._lock, open(self.log_file, "a", encoding="utf-8") as f:
            f.write(json.dumps(entry, ensure_ascii=False) + "\n")


def disagreement(texts: Sequence[str]) -> float:
    """1 minus the mean F1 of the words of all pairs of texts: 0 if all are alike, 1 if they share no word."""
    words = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    shared = [2 * (a & b).total() / max(1, a.total() + b.total()) if a or b else 1.0
              for a, b in combinations(words, 2)]
    return 1.0 - sum(shared) / len(shared) if shared else 0.0


def router(guard: Guard) -> APIRouter:
    """The page of what was handed over."""
    routes = APIRouter(default_response_class=HTMLResponse)

    @routes.get("/handovers")
    def page(who: Reviewer) -> str:
        entries = sorted(guard.entries(), key=lambda e: bool(e["done"]) or e["action"] != "person")
        return render("handovers.html", who=who, entries=entries[:SHOWN], all=len(entries))

    @routes.post("/handovers/{id}/done")
    def done(id: str, who: Reviewer) -> RedirectResponse:
        guard.done(id, who.name)
        return RedirectResponse("/handovers", 303)

    return routes
