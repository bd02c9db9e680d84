"""What people write into graders: templates and formulas. Parsed into data here and walked, never evaluated.

    {{ item.answer }}   {{ sample.output_text }}   {{ sample.output_json.lines[0]["unit price"] }}
    0.5 * name + 0.5 * max(email, 1 - abs(length) ^ 2)

A template knows nothing but paths; a formula nothing but numbers, the graders' names, + - * / ^ and a few functions.
Both have a largest size, and neither can take long: what does not fit into them is refused when the grader is made.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tunesmith.errors import GraderError, nearest

LONGEST_TEMPLATE = 50_000
LONGEST_TEXT = 100_000
"""Characters of a template with everything filled in."""
MOST_PATHS = 100
DEEPEST = 16
"""Steps of a path."""
LONGEST_FORMULA = 1000
MOST_NODES = 300
NESTED = 40
"""Levels of a formula."""


class Ungraded(Exception):
    """One sample that could not be graded: `flag` is the name of OpenAI's boolean for it, the message says why."""

    def __init__(self, flag: str, message: str):
        super().__init__(message)
        self.flag = flag


# ---- templates

SAMPLE = ("output_text", "output_json")
_STEP = re.compile(r"""\s*(?:\.\s*([^\W\d]\w*)|\[\s*([0-9]{1,6})\s*\]|\[\s*"([^"\\]{1,200})"\s*\]|"""
                   r"""\[\s*'([^'\\]{1,200})'\s*\])""")


@dataclass(frozen=True, slots=True)
class Path:
    """`item.lines[0]` is `("item", "lines", 0)`."""

    steps: tuple[str | int, ...]

    def __str__(self) -> str:
        first, *rest = self.steps
        return str(first) + "".join(
            f"[{s}]" if isinstance(s, int) else f".{s}" if s.isidentifier() else f"[{json.dumps(s)}]" for s in rest)


class Case:
    """One sample and its row: everything that a template can see."""

    def __init__(self, item: Mapping[str, Any], text: str):
        self.item, self.text = item, text

    @cached_property
    def json(self) -> Any:
        """What the model wrote, read as JSON.

        Raises:
            Ungraded: it is none.
        """
        try:
            return json.loads(self.text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise Ungraded("sample_parse_error", f"the model's output is not JSON: {error}"[:300]) from error

    def look(self, path: Path) -> Any:
        """The value that a path leads to.

        Raises:
            Ungraded: the row or the sample has nothing there.
        """
        root, *steps = path.steps
        value: Any = self.item
        flag = "invalid_variable_error"
        if root == "sample":
            value, flag, steps = self.text if steps[0] == "output_text" else self.json, "sample_parse_error", steps[1:]
        for step in steps:
            there = step < len(value) if isinstance(value, list) and isinstance(step, int) else (
                isinstance(value, Mapping) and step in value)
            if not there:
                whose = "the model's output has" if root == "sample" else "this row has"
                raise Ungraded(flag, f"{whose} no {path}")
            value = value[step]
        return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


@dataclass(frozen=True, slots=True)
class Template:
    """Text with paths in it."""

    parts: tuple[str | Path, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(p for p in self.parts if isinstance(p, Path))

    def render(self, case: Case) -> str:
        """The text for one sample: strings as they are, everything else as JSON. What was filled in is not read again.

        Raises:
            Ungraded: a path leads nowhere, or the text is too long.
        """
        out, size = [], 0
        for part in self.parts:
            text = _written(case.look(part)) if isinstance(part, Path) else part
            out.append(text)
            size += len(text)
            if size > LONGEST_TEXT:
                raise Ungraded("truncated_observation_error", f"a text to grade is over {LONGEST_TEXT} characters")
        return "".join(out)


def _written(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError as error:
        raise Ungraded("truncated_observation_error", "a value to grade is nested too deeply") from error


def template(text: str, where: str) -> Template:
    """
    Raises:
        GraderError: naming `where`: braces that hold no path, an unknown name, too large.
    """
    if len(text) > LONGEST_TEMPLATE:
        raise GraderError(f"a text of a grader has at most {LONGEST_TEMPLATE} characters, this one {len(text)}", where)
    parts: list[str | Path] = []
    end = 0
    while (start := text.find("{{", end)) >= 0:
        close = text.find("}}", start)
        if close < 0:
            raise GraderError('"{{" has no "}}" behind it; a placeholder is {{item.NAME}} or {{sample.output_text}}',
                              where)
        parts += [text[end:start], _path(text[start + 2:close], where)]
        end = close + 2
        if len(parts) > 2 * MOST_PATHS:
            raise GraderError(f"more than {MOST_PATHS} placeholders in one text", where)
    return Template(tuple(p for p in (*parts, text[end:]) if p != ""))


def _path(text: str, where: str) -> Path:
    shown = f"{{{{{text[:60]}}}}}"
    inner = text.strip()
    root = inner.partition(".")[0].partition("[")[0].rstrip()
    if root not in ("item", "sample"):
        raise GraderError(f'{shown} begins neither with "item." nor with "sample."; filters and expressions are not '
                          "possible in a placeholder", where)
    steps: list[str | int] = [root]
    at = len(root)
    while at < len(inner):
        found = _STEP.match(inner, at)
        if not found:
            raise GraderError(f"{shown} is no path; write it like item.answer, item.lines[0] or "
                              'item["unit price"]', where)
        name, index, *quoted = found.groups()
        steps.append(int(index) if index else name or quoted[0] or quoted[1])
        at = found.end()
    if len(steps) < 2 or len(steps) > DEEPEST:
        raise GraderError(f"{shown} needs a name behind {root}, and at most {DEEPEST} steps", where)
    if root == "sample" and steps[1] not in SAMPLE:
        raise GraderError(f"{shown}: a sample has no {steps[1]!r}{nearest(str(steps[1]), SAMPLE)}", where)
    if steps[:2] == ["sample", "output_text"] and len(steps) > 2:
        raise GraderError(f"{shown}: output_text is a text and has nothing inside; did you mean output_json?", where)
    return Path(tuple(steps))


# ---- formulas

def _log(x: float) -> float:
    return math.log(x)


FUNCTIONS: dict[str, tuple[Callable[..., float], int]] = {
    "min": (min, 0), "max": (max, 0), "abs": (abs, 1), "floor": (math.floor, 1), "ceil": (math.ceil, 1),
    "exp": (math.exp, 1), "sqrt": (math.sqrt, 1), "log": (_log, 1)}
"""OpenAI's functions, and how many numbers each takes; 0: one or more."""
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b, ast.Pow: math.pow}  # math.pow: never an integer of a million digits, never complex


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula over the rewards of named graders."""

    text: str
    tree: ast.expr = field(compare=False, repr=False)

    def value(self, rewards: Mapping[str, float]) -> float:
        """
        Raises:
            Ungraded: no finite number comes out (division by zero, a logarithm of nothing, too large).
        """
        try:
            value = float(_value(self.tree, rewards))
        except (ArithmeticError, ValueError) as error:
            raise Ungraded("formula_parse_error", f"{self.text}: {error}") from error
        if not math.isfinite(value):
            raise Ungraded("formula_parse_error", f"{self.text} is not a finite number here")
        return value


def formula(text: str, names: Collection[str], where: str) -> Formula:
    """
    Raises:
        GraderError: naming `where`: not a formula, an unknown name or function, too large.
    """
    if not text.isascii() or not text.isprintable() or len(text) > LONGEST_FORMULA:
        raise GraderError(f"a formula is plain ASCII on one line, of at most {LONGEST_FORMULA} characters", where)
    try:
        tree = ast.parse(text.strip().replace("^", "**"), mode="eval").body  # "^" is a power, and binds like one
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise GraderError(f"{text[:80]!r} is no formula: {getattr(error, 'msg', None) or 'too deep'}; write it like "
                          "0.5 * name + 0.5 * max(a, b) ^ 2", where) from error
    if sum(1 for _ in ast.walk(tree)) > MOST_NODES:
        raise GraderError(f"the formula has more than {MOST_NODES} parts", where)
    _check(tree, names, where, 1)
    return Formula(text, tree)


def _check(node: ast.AST, names: Collection[str], where: str, level: int) -> None:
    """Everything that a formula may hold; whatever is not named here is refused."""
    if level > NESTED:
        raise GraderError(f"the formula is nested more than {NESTED} deep", where)
    inner: list[ast.expr] = []
    match node:
        case ast.Constant(value=bool()):
            raise GraderError("a formula holds numbers, not True or False", where)
        case ast.Constant(value=int() | float() as number):
            _number(number, where)
        case ast.Name(id=name):
            if name not in names:
                raise GraderError(f'the formula knows no "{name[:60]}"{nearest(name, names)}', where)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            inner = [operand]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            inner = [left, right]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            wanted = FUNCTIONS[name][1]
            if not args or (wanted and len(args) != wanted):
                raise GraderError(f"{name} takes {'one number' if wanted else 'numbers'}, not {len(args)}", where)
            inner = args
        case ast.Call(func=ast.Name(id=name)):
            raise GraderError(f'a formula knows no function "{name[:60]}"{nearest(name, FUNCTIONS)}', where)
        case _:
            raise GraderError(f"a formula may not hold {type(node).__name__}: numbers, graders' names, + - * / ^ and "
                              f"{', '.join(FUNCTIONS)} is all there is", where)
    for part in inner:
        _check(part, names, where, level + 1)


def _number(number: float, where: str) -> None:
    try:
        fine = math.isfinite(float(number))
    except OverflowError:
        fine = False
    if not fine:
        raise GraderError("a number of the formula is too large", where)


def _value(node: ast.expr, rewards: Mapping[str, float]) -> float:
    """The value of a part that `_check` has let through."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return rewards[name]
        case ast.UnaryOp(op=op, operand=operand):
            value = _value(operand, rewards)
            return -value if isinstance(op, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right):
            return OPERATORS[type(op)](_value(left, rewards), _value(right, rewards))
        case ast.Call(func=ast.Name(id=name), args=args):
            return float(FUNCTIONS[name][0](*[_value(a, rewards) for a in args]))
    raise AssertionError(f"{type(node).__name__} was let through")
