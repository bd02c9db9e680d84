"""Written rubrics: a TOML file of items that an answer meets or does not, checked by rule or asked one by one.

    name = "Loan desk"

    [[item]]
    name = "states the rate"
    domains = ["rates"]          # leave out: every domain
    weight = 2
    contains_fact = "rate"       # the prompt's own fact must be in the answer

    [[item]]
    name = "keeps to the point"
    max_words = 60

    [[item]]
    name = "says what happens next"
    question = "Does the answer tell the customer what to do next?"

An item has one check. Rules know no language; a `question` goes to a language model, one question at a time (Cook et
al. 2024, 2410.03608; see `checklist`). The score is the weighted share of the items that apply and are met. Everything
in the file is parsed, nothing is evaluated; patterns are Python regular expressions, which their author must keep from
running wild.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError, nearest
from tunesmith.evaluate import text as texts
from tunesmith.records import Prompt

LONGEST_PATTERN = 1000
LONGEST_TEXT = 20_000
"""Characters of an answer that patterns look at."""
HIDDEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\U000e0000-\U000e007f]")
"""Zero-width and direction marks, and tag characters: nothing that an answer needs and people can see."""

Rule = Callable[[Prompt, str], bool | None]
"""Whether an answer meets an item; None where the item does not apply to the prompt."""


@dataclass(frozen=True, slots=True)
class RubricItem:
    """One thing that an answer should do. `kind` is the check's name in the file; a "question" has no rule."""

    name: str
    kind: str
    weight: float = 1.0
    domains: tuple[str, ...] = ()
    question: str = ""
    rule: Rule | None = None

    def applies(self, prompt: Prompt) -> bool:
        return not self.domains or prompt.domain in self.domains


@dataclass(frozen=True, slots=True)
class Rubric:
    """Items under a name."""

    name: str
    items: tuple[RubricItem, ...]

    @property
    def questions(self) -> bool:
        """Whether a language model has to be asked."""
        return any(i.kind == QUESTION for i in self.items)

    def kept(self, prompt: Prompt, answer: str) -> dict[str, bool | None]:
        """Each rule's item by name: whether the answer meets it, None where it does not apply. Questions are left
        out."""
        return {i.name: i.rule(prompt, answer) if i.applies(prompt) else None for i in self.items if i.rule}


# ---- the file

QUESTION = "question"


def _words_in(value: Any) -> list[str]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(x, str) and x for x in value):
        raise ValueError("a text or a list of texts")
    return value


def _contains(value: Any) -> Rule:
    wanted = [w.casefold() for w in _words_in(value)]
    return lambda prompt, answer: all(w in answer.casefold() for w in wanted)


def _contains_any(value: Any) -> Rule:
    wanted = [w.casefold() for w in _words_in(value)]
    return lambda prompt, answer: any(w in answer.casefold() for w in wanted)


def _not_contains(value: Any) -> Rule:
    unwanted = [w.casefold() for w in _words_in(value)]
    return lambda prompt, answer: not any(w in answer.casefold() for w in unwanted)


def _pattern(value: Any) -> re.Pattern[str]:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_PATTERN:
        raise ValueError(f"a regular expression of 1 to {LONGEST_PATTERN} characters")
    try:
        return re.compile(value)
    except re.error as e:
        raise ValueError(f"a regular expression ({e})") from e


def _regex(value: Any) -> Rule:
    pattern = _pattern(value)
    return lambda prompt, answer: pattern.search(answer[:LONGEST_TEXT]) is not None


def _not_regex(value: Any) -> Rule:
    pattern = _pattern(value)
    return lambda prompt, answer: pattern.search(answer[:LONGEST_TEXT]) is None


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a whole number of at least 0")
    return value


def _share(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError("a number from 0 to 1")
    return float(value)


def _true(value: Any) -> None:
    if value is not True:
        raise ValueError("true; leave the item out instead of false")


def _max_words(value: Any) -> Rule:
    most = _count(value)
    return lambda prompt, answer: len(answer.split()) <= most


def _min_words(value: Any) -> Rule:
    least = _count(value)
    return lambda prompt, answer: len(answer.split()) >= least


def _max_repetition(value: Any) -> Rule:
    most = _share(value)
    return lambda prompt, answer: texts.repetition(answer) <= most


def _json_valid(value: Any) -> Rule:
    _true(value)

    def valid(prompt: Prompt, answer: str) -> bool:
        try:
            json.loads(answer)
        except (ValueError, RecursionError):
            return False
        return True

    return valid


def _no_hidden(value: Any) -> Rule:
    _true(value)
    return lambda prompt, answer: HIDDEN.search(answer) is None


def _not_empty(value: Any) -> Rule:
    _true(value)
    return lambda prompt, answer: bool(answer.strip())


def _fact(value: Any, wanted: bool) -> Rule:
    """Whether every text of a prompt's fact (one, or a list) is in the answer; or, not `wanted`, none of them."""
    if not isinstance(value, str) or not value:
        raise ValueError("the name of a fact of the prompts")

    def holds(prompt: Prompt, answer: str) -> bool | None:
        fact = prompt.facts.get(value)
        if fact in (None, "", []):
            return None
        each = fact if isinstance(fact, list) else [fact]
        whole = (rf"(?<!\w){re.escape(str(text).casefold())}(?!\w)" for text in each)  # 7.1 is not in 17.15
        return all((re.search(pattern, answer.casefold()) is not None) == wanted for pattern in whole)

    return holds


def _contains_fact(value: Any) -> Rule:
    return _fact(value, wanted=True)


def _not_contains_fact(value: Any) -> Rule:
    return _fact(value, wanted=False)


RULES: dict[str, tuple[Callable[[Any], Rule], str]] = {
    "contains": (_contains, "all of these texts, whatever the case"),
    "contains_any": (_contains_any, "at least one of these texts"),
    "not_contains": (_not_contains, "none of these texts"),
    "contains_fact": (_contains_fact, "the value of this fact of the prompt, or each of a list; does not apply where "
                      "the prompt has none"),
    "not_contains_fact": (_not_contains_fact, "not the value of this fact of the prompt, nor one of a list"),
    "regex": (_regex, "a place that matches"),
    "not_regex": (_not_regex, "no place that matches"),
    "max_words": (_max_words, "at most so many words"),
    "min_words": (_min_words, "at least so many words"),
    "max_repetition": (_max_repetition, "at most this share of repeated word triples"),
    "json_valid": (_json_valid, "the whole answer is JSON"),
    "no_hidden_characters": (_no_hidden, "no zero-width, direction or tag characters"),
    "not_empty": (_not_empty, "something"),
}
"""The checks by rule: what makes one, and what an answer must have."""
BESIDE = ("name", "weight", "domains")


def parse(path: str | Path) -> Rubric:
    """A rubric from its TOML file.

    Raises:
        DataError: naming the file, the item and what is wrong with it.
    """
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise DataError("there is no such rubric", path) from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise DataError(f"not TOML: {e}", path) from e
    if unknown := [key for key in found if key not in ("name", "item")]:
        raise DataError(f'unknown key "{unknown[0]}"{nearest(unknown[0], ("name", "item"))}', path)
    rows = found.get("item")
    if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) for r in rows):
        raise DataError("a rubric has at least one [[item]]", path)
    items = []
    for n, row in enumerate(rows, 1):
        try:
            items.append(_item(row, n))
        except ValueError as e:
            named = f' ("{row["name"]}")' if isinstance(row.get("name"), str) else ""
            raise DataError(f"item {n}{named}: {e}", path) from e
    if len({i.name for i in items}) < len(items):
        twice = next(i.name for n, i in enumerate(items) if i.name in [j.name for j in items[:n]])
        raise DataError(f'two items are called "{twice}"', path)
    return Rubric(str(found.get("name") or Path(path).stem), tuple(items))


def _item(row: Mapping[str, Any], number: int) -> RubricItem:
    """
    Raises:
        ValueError: what is wrong with it.
    """
    known = (*RULES, QUESTION)
    checks = [key for key in row if key not in BESIDE]
    if unknown := [key for key in checks if key not in known]:
        raise ValueError(f'unknown check "{unknown[0]}"{nearest(unknown[0], (*known, *BESIDE))}')
    if len(checks) != 1:
        raise ValueError(f"an item has exactly one check, this one has {', '.join(checks) or 'none'}; there is: "
                         f"{', '.join(known)}")
    kind, weight, domains = checks[0], row.get("weight", 1), row.get("domains", [])
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not (isfinite(weight) and weight > 0):
        raise ValueError('"weight" must be a number above 0')
    if not isinstance(domains, list) or not all(isinstance(d, str) for d in domains):
        raise ValueError('"domains" must be a list of texts')
    name = row.get("name", f"{kind} {number}")
    if not isinstance(name, str) or not name:
        raise ValueError('"name" must be a text')
    if kind == QUESTION:
        if not isinstance(row[kind], str) or not row[kind].strip():
            raise ValueError('"question" must be a question that yes or no answers')
        return RubricItem(name, kind, float(weight), tuple(domains), row[kind].strip())
    try:
        return RubricItem(name, kind, float(weight), tuple(domains), rule=RULES[kind][0](row[kind]))
    except ValueError as e:
        raise ValueError(f'"{kind}" must be {e}') from e
