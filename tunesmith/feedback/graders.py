"""OpenAI's graders from their JSON.

    grader = parse({"type": "string_check", "name": "exact", "operation": "eq",
                    "input": "{{sample.output_text}}", "reference": "{{item.answer}}"})
    grader.score({"answer": "Paris"}, "Paris").reward    # 1.0

`parse` accepts what OpenAI's API does and names the field of what it refuses. `python` graders are refused: they are
somebody's code, and there is no sandbox here to run it in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from keyword import iskeyword
from typing import Any

from tunesmith.errors import DataError, GraderError, UserError, nearest
from tunesmith.feedback import similarity
from tunesmith.feedback.expressions import FUNCTIONS, Case, Template, Ungraded, formula, template
from tunesmith.feedback.grading import (
    Ask,
    Graded,
    Grader,
    LabelModel,
    Multi,
    ScoreModel,
    Spec,
    StringCheck,
    TextSimilarity,
    as_number,
)
from tunesmith.records import Prompt, turns

MOST_GRADERS = 32
MOST_LABELS = 100
MOST_MESSAGES = 32
LONGEST_NAME = 200


def parse(spec: Any, where: str = "grader") -> Grader:
    """A grader from its JSON.

    Args:
        where: how errors call it: `method.reinforcement.grader`.

    Raises:
        GraderError: naming the field that is missing, unknown or wrong.
        MissingExtra: a metric whose library is not installed.
    """
    return _parse(spec, where, nested=False)


def _parse(spec: Any, where: str, nested: bool) -> Grader:
    if not isinstance(spec, Mapping):
        raise GraderError("a grader is a JSON object", where)
    kind = _text(spec, "type", where)
    if kind == "python":
        raise GraderError("a python grader is code of its author's, and this server has no sandbox to run it in; use "
                          "string_check, text_similarity, score_model, label_model or multi", f"{where}.type")
    if kind == "multi" and nested:
        raise GraderError("a multi grader cannot stand inside another", f"{where}.type")
    if kind not in _PARSERS:
        raise GraderError(f'unknown type "{kind[:60]}"{nearest(kind, _PARSERS)}', f"{where}.type")
    fields, read = _PARSERS[kind]
    for key in spec:
        if key not in (*fields, "type", "name", "pass_threshold"):  # the last is for evals, and in the guide's examples
            raise GraderError(f"a {kind} grader has no such field{nearest(str(key), fields)}", f"{where}.{key}")
    return read(spec, where, _name(spec, where))


def _string_check(spec: Spec, where: str, name: str) -> Grader:
    return StringCheck(name, spec, _template(spec, "input", where), _template(spec, "reference", where),
                       _choice(spec, "operation", where, ("eq", "ne", "like", "ilike")))


def _text_similarity(spec: Spec, where: str, name: str) -> Grader:
    metric = _choice(spec, "evaluation_metric", where, similarity.METRICS)
    similarity.need(metric)
    return TextSimilarity(name, spec, _template(spec, "input", where), _template(spec, "reference", where), metric)


def _score_model(spec: Spec, where: str, name: str) -> Grader:
    low, high = _range(spec.get("range"), f"{where}.range")
    return ScoreModel(name, spec, _name(spec, where, "model"), _messages(spec, where), _sampling(spec, where), low,
                      high)


def _label_model(spec: Spec, where: str, name: str) -> Grader:
    labels, passing = (_labels(spec, key, where) for key in ("labels", "passing_labels"))
    for label in passing:
        if label not in labels:
            raise GraderError(f'"{label[:60]}" is not among the labels{nearest(label, labels)}',
                              f"{where}.passing_labels")
    return LabelModel(name, spec, _name(spec, where, "model"), _messages(spec, where), {}, labels, passing)


def _multi(spec: Spec, where: str, name: str) -> Grader:
    given = _need(spec, "graders", where)
    if isinstance(given, Mapping) and isinstance(given.get("type"), str):
        given = {str(given.get("name")): given}  # one grader itself, as the types of OpenAI's clients would have it
    if not isinstance(given, Mapping) or not 0 < len(given) <= MOST_GRADERS:
        raise GraderError(f"an object of 1 to {MOST_GRADERS} graders by name", f"{where}.graders")
    for key in given:
        if not isinstance(key, str) or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,63}", key) or key in FUNCTIONS \
                or iskeyword(key):
            raise GraderError(f"{str(key)[:60]!r} cannot stand in a formula: a name is of letters a to z, digits and "
                              "_, and no function's", f"{where}.graders")
    graders = {key: _parse(inner, f"{where}.graders.{key}", nested=True) for key, inner in given.items()}
    return Multi(name, spec, graders, formula(_text(spec, "calculate_output", where), graders,
                                              f"{where}.calculate_output"))


_PARSERS: dict[str, tuple[tuple[str, ...], Callable[[Spec, str, str], Grader]]] = {
    "string_check": (("input", "reference", "operation"), _string_check),
    "text_similarity": (("input", "reference", "evaluation_metric"), _text_similarity),
    "score_model": (("input", "model", "range", "sampling_params"), _score_model),
    "label_model": (("input", "model", "labels", "passing_labels"), _label_model),
    "multi": (("graders", "calculate_output"), _multi),
}


def _need(spec: Spec, key: str, where: str) -> Any:
    if spec.get(key) is None:
        raise GraderError("is required", f"{where}.{key}")
    return spec[key]


def _text(spec: Spec, key: str, where: str) -> str:
    value = _need(spec, key, where)
    if not isinstance(value, str):
        raise GraderError("must be a text", f"{where}.{key}")
    return value


def _name(spec: Spec, where: str, key: str = "name") -> str:
    value = _text(spec, key, where)
    if not value.strip() or not value.isprintable() or len(value) > LONGEST_NAME:
        raise GraderError(f"1 to {LONGEST_NAME} printable characters", f"{where}.{key}")
    return value


def _template(spec: Spec, key: str, where: str) -> Template:
    return template(_text(spec, key, where), f"{where}.{key}")


def _choice(spec: Spec, key: str, where: str, known: Any) -> str:
    value = _text(spec, key, where)
    if value not in known:
        raise GraderError(f'must be one of {", ".join(known)}, not "{value[:60]}"', f"{where}.{key}")
    return value


def _range(given: Any, where: str) -> tuple[float, float]:
    if given is None:
        return 0.0, 1.0
    numbers = [as_number(x) for x in given if not isinstance(x, str)] if isinstance(given, Sequence) else []
    if len(numbers) != 2 or None in numbers or not numbers[0] < numbers[1]:  # type: ignore[operator]
        raise GraderError("two numbers, the smaller first", where)
    return numbers[0], numbers[1]  # type: ignore[return-value]


def _labels(spec: Spec, key: str, where: str) -> tuple[str, ...]:
    given = _need(spec, key, where)
    fine = isinstance(given, list) and 0 < len(given) <= MOST_LABELS and all(
        isinstance(x, str) and x.strip() == x and 0 < len(x) <= LONGEST_NAME for x in given)
    if not fine or len(set(given)) != len(given):
        raise GraderError(f"1 to {MOST_LABELS} different texts without spaces around them", f"{where}.{key}")
    return tuple(given)


_SAMPLING: Mapping[str, tuple[Any, float, float]] = {
    "temperature": ((int, float), 0, 2), "top_p": ((int, float), 0, 1), "seed": (int, -2**63, 2**63 - 1),
    "max_completions_tokens": (int, 1, 10**6)}


def _sampling(spec: Spec, where: str) -> dict[str, Any]:
    given = spec.get("sampling_params") or {}
    where = f"{where}.sampling_params"
    if not isinstance(given, Mapping):
        raise GraderError("must be an object", where)
    for key, value in given.items():
        if key == "reasoning_effort" and (value is None or isinstance(value, str)):
            continue
        if key not in _SAMPLING:
            raise GraderError(f"unknown{nearest(str(key), (*_SAMPLING, 'reasoning_effort'))}", f"{where}.{key}")
        kind, low, high = _SAMPLING[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high):
            raise GraderError(f"must be {'a whole number' if kind is int else 'a number'} from {low} to {high}",
                              f"{where}.{key}")
    return {k: v for k, v in given.items() if v is not None}


def _messages(spec: Spec, where: str) -> tuple[tuple[str, Template], ...]:
    given = _need(spec, "input", where)
    if not isinstance(given, list) or not 0 < len(given) <= MOST_MESSAGES:
        raise GraderError(f"a list of 1 to {MOST_MESSAGES} messages", f"{where}.input")
    out = []
    for n, message in enumerate(given):
        here = f"{where}.input[{n}]"
        if not isinstance(message, Mapping):
            raise GraderError('must be an object with "role" and "content"', here)
        role = _choice(message, "role", here, ("user", "assistant", "system", "developer"))
        content = _need(message, "content", here)
        parts = content if isinstance(content, list) else [content]
        out.append((role, template("\n".join(_part(p, f"{here}.content") for p in parts), f"{here}.content")))
    return tuple(out)


def _part(part: Any, where: str) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") in ("input_text", "output_text") else part
    if not isinstance(text, str):
        raise GraderError("must be a text or a list of texts; pictures and sounds cannot be graded here", where)
    return text


# ---- as a judge of answers

class GraderScorer:
    """`contracts.Scorer`: a grader judges answers by the fields of their prompt's row. `at_once` answers at a time."""

    def __init__(self, grader: Grader, ask: Ask | None = None, at_once: int = 1):
        self.grader, self.ask, self.at_once = grader, ask, at_once
        self._graded: list[Graded] = []

    def score(self, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        """One reward per answer; one that cannot be graded earns 0.

        Raises:
            UserError: the model that a grader asks does not answer: nothing true can be learned from zeros.
        """
        row = item(prompt)
        with ThreadPoolExecutor(self.at_once) as pool:
            graded = list(pool.map(lambda text: self.grader.score(row, text, self.ask), answers))
        for one in graded:
            if why := one.errors.get("model_grader_server_error"):
                raise UserError(f"the grader {self.grader.name} got no answer: {why}")
        self._graded += graded
        return [one.reward for one in graded]

    def figures(self) -> dict[str, float]:
        """Of the answers judged since the last call: the share that could not be graded, by reason, and what the parts
        of a `multi` gave on average."""
        graded, self._graded = self._graded, []
        flags = Counter(flag for one in graded for flag in one.errors)
        parts = graded[0].sub_rewards if graded else {}
        return {"grader_errors": sum(bool(one.errors) for one in graded) / max(len(graded), 1),
                **{flag: count / len(graded) for flag, count in sorted(flags.items())},
                **{f"reward_{key}": sum(one.sub_rewards[key] for one in graded) / len(graded) for key in parts}}


def item(prompt: Prompt) -> dict[str, Any]:
    """What a grader reads as `item.*`: the fields of the row beside the messages, and the messages too."""
    return {"messages": turns(prompt.messages), **({"domain": prompt.domain} if prompt.domain else {}), **prompt.facts}


def check_rows(grader: Grader, prompts: Sequence[Prompt], name: str) -> None:
    """
    Raises:
        DataError: a row of the dataset `name` lacks what the grader reads.
    """
    paths = sorted((p for p in grader.paths() if p.steps[0] == "item"), key=str)
    for n, prompt in enumerate(prompts, 1):
        case = Case(item(prompt), "")
        for path in paths:
            try:
                case.look(path)
            except Ungraded as error:
                has = ", ".join(sorted(case.item))
                raise DataError(f'{error}, which the grader "{grader.name}" reads; it has {has}', name, n) from error
