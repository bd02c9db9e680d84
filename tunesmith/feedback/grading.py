"""What OpenAI's graders do: compare texts, ask a model, or put a formula over several. `graders.parse` makes them.

A sample that cannot be graded earns 0 and says why under the name of OpenAI's boolean (`sample_parse_error`); grading
never raises. Whom model graders ask is handed in (`Ask`): an endpoint, an adapter, a test's fake.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tunesmith.feedback import similarity
from tunesmith.feedback.expressions import Case, Formula, Path, Template, Ungraded
from tunesmith.records import Conversation, Message

Spec = Mapping[str, Any]
ERRORS = ("formula_parse_error", "sample_parse_error", "truncated_observation_error", "unresponsive_reward_error",
          "invalid_variable_error", "other_error", "python_grader_server_error", "python_grader_runtime_error",
          "model_grader_server_error", "model_grader_refusal_error", "model_grader_parse_error")
"""The names under which OpenAI reports what went wrong with a sample."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a model grader asks. `sampling` holds only what its author wrote; `result` is the schema of the result."""

    model: str
    messages: Conversation
    sampling: Mapping[str, Any]
    result: Mapping[str, Any]

    @property
    def schema(self) -> dict[str, Any]:
        """OpenAI's form of the answer: some reasoning, then the result."""
        step = _object({"description": {"type": "string"}, "conclusion": {"type": "string"}})
        return _object({"steps": {"type": "array", "items": step}, "result": self.result})

    @property
    def spelled_out(self) -> Conversation:
        """The messages with the form of the answer in words, for a model that cannot be held to a schema."""
        wanted = (f"one of {json.dumps(self.result['enum'])}" if "enum" in self.result else
                  f"a number from {self.result['minimum']:g} to {self.result['maximum']:g}")
        says = ('Answer with JSON alone: {"steps": [{"description": "...", "conclusion": "..."}], "result": '
                f"{wanted}}}")
        first, *rest = self.messages
        if first.role == "system":
            return (Message("system", f"{first.content}\n\n{says}"), *rest)
        return (Message("system", says), *self.messages)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said, under which name, for how many tokens."""

    text: str
    model: str = ""
    tokens: int = 0


Ask = Callable[[Question], Reply]
"""Asks a model; raises `Ungraded("model_grader_server_error", ...)` or `..._refusal_error` where it gets no answer."""


def _nobody(question: Question) -> Reply:
    raise Ungraded("model_grader_server_error", f'nobody here answers for the model "{question.model}"')


@dataclass(frozen=True, slots=True)
class Graded:
    """The worth of one answer; of a `multi` also that of its parts. `errors`: flag -> what happened."""

    reward: float
    sub_rewards: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    """What model graders used, by model."""


@dataclass(frozen=True, slots=True)
class Grader(ABC):
    """`name` is its author's, `spec` what was parsed."""

    name: str
    spec: Spec = field(repr=False)
    type: ClassVar[str] = ""

    def score(self, item: Mapping[str, Any], sample: str, ask: Ask | None = None) -> Graded:
        """Grade one answer: `item` holds the fields of its row, `sample` is what the model wrote."""
        return self.grade(Case(item, sample), ask or _nobody)

    def grade(self, case: Case, ask: Ask) -> Graded:
        """A sample that cannot be graded earns 0 and says why."""
        try:
            return self._grade(case, ask)
        except Ungraded as error:
            return Graded(0.0, errors={error.flag: str(error)})

    @abstractmethod
    def _grade(self, case: Case, ask: Ask) -> Graded:
        """
        Raises:
            Ungraded: there is no reward.
        """

    def paths(self) -> frozenset[Path]:
        """Everything that the templates look at."""
        return frozenset()

    def models(self) -> frozenset[str]:
        """The models that it asks."""
        return frozenset()


@dataclass(frozen=True, slots=True)
class StringCheck(Grader):
    """1 or 0: equal, not equal, contains, contains whatever the case."""

    input: Template
    reference: Template
    operation: str
    type: ClassVar[str] = "string_check"

    def _grade(self, case: Case, ask: Ask) -> Graded:
        text, reference = self.input.render(case), self.reference.render(case)
        return Graded(float({"eq": lambda: text == reference, "ne": lambda: text != reference,
                             "like": lambda: reference in text,
                             "ilike": lambda: reference.casefold() in text.casefold()}[self.operation]()))

    def paths(self) -> frozenset[Path]:
        return frozenset(self.input.paths + self.reference.paths)


@dataclass(frozen=True, slots=True)
class TextSimilarity(Grader):
    """How alike two texts are, 0 to 1."""

    input: Template
    reference: Template
    metric: str
    type: ClassVar[str] = "text_similarity"

    def _grade(self, case: Case, ask: Ask) -> Graded:
        texts = self.input.render(case), self.reference.render(case)
        if max(map(len, texts)) > similarity.LONGEST:
            raise Ungraded("truncated_observation_error", f"a text is longer than {similarity.LONGEST} characters")
        return Graded(similarity.METRICS[self.metric](*texts))

    def paths(self) -> frozenset[Path]:
        return frozenset(self.input.paths + self.reference.paths)


@dataclass(frozen=True, slots=True)
class ModelGrader(Grader):
    """Asks a model, which answers with `{"steps": [...], "result": ...}`."""

    model: str
    messages: tuple[tuple[str, Template], ...]
    sampling: Mapping[str, Any]

    def _ask(self, case: Case, ask: Ask, result: Mapping[str, Any]) -> tuple[Any, dict[str, int]]:
        """(the result in the model's reply, tokens by model)."""
        messages = tuple(Message("system" if role == "developer" else role, text.render(case))  # type: ignore[arg-type]
                         for role, text in self.messages)
        reply = ask(Question(self.model, messages, self.sampling, result))
        return _result(reply.text), {reply.model or self.model: reply.tokens}

    def paths(self) -> frozenset[Path]:
        return frozenset(path for _, text in self.messages for path in text.paths)

    def models(self) -> frozenset[str]:
        return frozenset({self.model})


@dataclass(frozen=True, slots=True)
class ScoreModel(ModelGrader):
    """A number that a model gives, cut to the range."""

    low: float
    high: float
    type: ClassVar[str] = "score_model"

    def _grade(self, case: Case, ask: Ask) -> Graded:
        said, tokens = self._ask(case, ask, {"type": "number", "minimum": self.low, "maximum": self.high})
        number = as_number(said)
        if number is None:
            why = f"the grader model answered without a number: {str(said)[:100]!r}"
            return Graded(0.0, errors={"model_grader_parse_error": why}, tokens=tokens)
        return Graded(min(max(number, self.low), self.high), tokens=tokens)


@dataclass(frozen=True, slots=True)
class LabelModel(ModelGrader):
    """1 if the label that a model chooses is one that passes."""

    labels: tuple[str, ...]
    passing: tuple[str, ...]
    type: ClassVar[str] = "label_model"

    def _grade(self, case: Case, ask: Ask) -> Graded:
        said, tokens = self._ask(case, ask, {"type": "string", "enum": list(self.labels)})
        label = str(said).strip()
        if label not in self.labels:
            why = f"the grader model chose none of the labels: {label[:100]!r}"
            return Graded(0.0, errors={"model_grader_parse_error": why}, tokens=tokens)
        return Graded(float(label in self.passing), tokens=tokens)


@dataclass(frozen=True, slots=True)
class Multi(Grader):
    """A formula over the rewards of other graders; one that could not grade counts 0 in it."""

    graders: Mapping[str, Grader]
    formula: Formula
    type: ClassVar[str] = "multi"

    def _grade(self, case: Case, ask: Ask) -> Graded:
        graded = {key: grader.grade(case, ask) for key, grader in self.graders.items()}
        rewards = {key: g.reward for key, g in graded.items()}
        errors = {flag: f"{key}: {why}" for key, g in graded.items() for flag, why in g.errors.items()}
        tokens: dict[str, int] = {}
        for g in graded.values():
            for model, count in g.tokens.items():
                tokens[model] = tokens.get(model, 0) + count
        try:
            return Graded(self.formula.value(rewards), rewards, errors, tokens)
        except Ungraded as error:
            return Graded(0.0, rewards, {**errors, error.flag: str(error)}, tokens)

    def paths(self) -> frozenset[Path]:
        return frozenset().union(*(g.paths() for g in self.graders.values()))

    def models(self) -> frozenset[str]:
        return frozenset().union(*(g.models() for g in self.graders.values()))


# ---- what a model said

def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    """A schema as OpenAI's strict mode wants it."""
    return {"type": "object", "properties": dict(properties), "required": list(properties),
            "additionalProperties": False}


def _result(text: str) -> Any:
    """`result` of the JSON object in a reply; the reply itself where there is none."""
    start = text.find("{")
    if start >= 0:
        try:
            found, _ = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            return text
        if isinstance(found, dict) and "result" in found:
            return found["result"]
    return text


def as_number(said: Any) -> float | None:
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        return None
    try:
        number = float(said)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
