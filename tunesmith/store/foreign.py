"""Judgements as Argilla, Label Studio and Tunesmith itself write them down -> groups and the verdicts on them.

    argilla      records of its Python client's `to_json` (2.x) or of a 1.x export: ranking, rating and label questions
    labelstudio  JSON export of a project with Ranker, Pairwise or Rating
    tunesmith    {"group": ..., "rankings": [...]}, every field (`tunesmith data export --format tunesmith`)

What a row cannot say in our words is counted by reason, never guessed: buckets of Label Studio whose names are no
numbers, suggestions of models (`predictions`), drafts. Left out: spans, relations, images.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError
from tunesmith.records import (
    Answer,
    AnswerGroup,
    Conversation,
    Message,
    Prompt,
    Ranking,
    Tiers,
    fingerprint,
)
from tunesmith.store.checks import valid_labeler
from tunesmith.store.fields import check_waiting, read_group, read_messages, read_text, short
from tunesmith.store.files import Row, read_rows
from tunesmith.store.verdicts import check_fit, check_ranking

PROMPTS = ("prompt", "instruction", "question", "messages", "conversation", "chat", "input", "query", "context", "text")
"""Names of the field that holds what is answered, the most telling first."""
MOST_ANSWERS = 9


@dataclass
class Judged:
    """Groups, the verdicts on them with the lines where they stand, and what was left out, by reason; `quarantined`
    are labelers whose verdicts did not count where they come from."""

    format: str
    groups: dict[str, AnswerGroup] = field(default_factory=dict)
    rankings: list[Ranking] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    quarantined: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)


def detect(row: Row) -> str:
    """"argilla", "labelstudio", "tunesmith" or "" for a row of something else."""
    if "group" in row and "rankings" in row:
        return "tunesmith"
    if isinstance(row.get("fields"), Mapping) and ("responses" in row or "suggestions" in row):
        return "argilla"
    if isinstance(row.get("data"), Mapping) and ("annotations" in row or "completions" in row):
        return "labelstudio"
    return ""


def detect_file(path: str | Path) -> str:
    """What `detect` says of the first row of a file; "" where it cannot be read."""
    try:
        return next((detect(row) for _, row in read_rows(Path(path), Counter())), "")
    except DataError:
        return ""


def read(path: str | Path, source: str = "") -> Judged:
    """All judgements of a file.

    Args:
        source: argilla, labelstudio or tunesmith; "" finds out from the first row.

    Raises:
        DataError: the first bad row, with file and line; or a file that has none.
    """
    path = Path(path)
    found: Judged | None = None
    skipped: Counter[str] = Counter()
    for line, row in read_rows(path, skipped):
        name = source or detect(row)
        try:
            if not name:
                raise DataError("this is no export of Argilla, Label Studio or Tunesmith")
            found = found or Judged(name, skipped=skipped)
            _check_whole(row)
            _READERS[name](row, found)
            for ranking in found.rankings[len(found.lines):]:
                check_ranking(ranking)
                check_fit(ranking, len(found.groups[ranking.group].answers))
                found.lines.append(line)
        except DataError as e:
            raise DataError(str(e), path, line) from e
        except KeyError as e:
            raise DataError(f'not a row of {name}: "{e.args[0]}" is missing', path, line) from e
        except (TypeError, IndexError, AttributeError, ValueError) as e:
            raise DataError(f"not a row of {name}: {e}", path, line) from e
        except RecursionError as e:
            raise DataError("nested too deeply", path, line) from e
    if found is None or not found.groups:
        left = ", ".join(f"{n} x {why}" for why, n in skipped.items())
        raise DataError("no answers to rank" + (f" left ({left})" if left else ""), path)
    return found


def _check_whole(row: Row) -> None:
    """
    Raises:
        DataError: half a surrogate pair somewhere, which no page and no UTF-8 file can hold.
    """
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise DataError(f"a text holds half a character (\\u{ord(text[e.start]):04x} without its partner)") from e


# ---- Tunesmith

def _tunesmith(row: Row, found: Judged) -> None:
    group = read_group(row["group"])
    found.groups[group.id] = group
    held = row.get("quarantined", [])
    if not isinstance(held, list) or not all(isinstance(name, str) for name in held):
        raise DataError(f'"quarantined" must be a list of names, got {short(held)}')
    found.quarantined |= set(held)
    for ranking in row["rankings"]:
        ranking = Ranking.from_dict(ranking)
        if ranking.group != group.id:
            raise DataError(f"a verdict on {ranking.group} stands beside the group {group.id}")
        found.rankings.append(ranking)


# ---- Argilla

def _argilla(row: Row, found: Judged) -> None:
    group, names = _split_fields(row["fields"])
    if not _rankable(group, found):
        return
    for user, values in _responses(row.get("responses") or {}, found.skipped):
        ranking, ratings = _argilla_values(values, names)
        _add(found, group, f"argilla-{user}", ranking, ratings)


def _responses(responses: Any, skipped: Counter[str]) -> list[tuple[str, dict[str, Any]]]:
    """(user, question -> value) of everybody who submitted; both generations of the format."""
    users: dict[str, dict[str, Any]] = defaultdict(dict)
    if isinstance(responses, list):  # 1.x: one object per user
        for one in responses:
            if one.get("status", "submitted") != "submitted":
                skipped[f"a response that is {short(one.get('status'))}"] += 1
                continue
            users[_short_id(one.get("user_id"))].update({q: v["value"] for q, v in one.get("values", {}).items()})
    else:  # 2.x: one list per question
        for question, given in responses.items():
            for one in given:
                if one.get("status") not in (None, "submitted"):
                    skipped[f"a response that is {short(one['status'])}"] += 1
                    continue
                users[_short_id(one.get("user_id"))][question] = one.get("value")
    return list(users.items())


def _argilla_values(values: Mapping[str, Any], names: Sequence[str]) -> tuple[Tiers, dict[int, float]]:
    """Tiers from a ranking or a preference, ratings from rating questions."""
    tiers: Tiers = ()
    ratings: dict[int, float] = {}
    for question, value in values.items():
        if isinstance(value, list) and value:
            tiers = _ordered(value, names) or tiers
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if (index := _index(question, names)) is not None:
                ratings[index] = float(value)
        elif isinstance(value, str) and not tiers:
            best = _index(value, names, loosely=False)
            if best is not None:
                tiers = ((best,), tuple(i for i in range(len(names)) if i != best))
            elif value.strip().lower() in ("tie", "equal", "both", "same"):
                tiers = (tuple(range(len(names))),)
    return tiers, ratings


def _ordered(value: Sequence[Any], names: Sequence[str]) -> Tiers:
    """`["b", "a"]` or `[{"value": "b", "rank": 1}, ...]`; a list that names other things is no ranking."""
    placed = []
    for n, one in enumerate(value):
        option = one.get("value") if isinstance(one, Mapping) else one
        rank = one.get("rank", n) if isinstance(one, Mapping) else n
        index = _index(str(option), names)
        if index is None:
            return ()
        placed.append((n if rank is None else rank, index))
    placed.sort()
    return tuple(tuple(i for _, i in tied) for _, tied in groupby(placed, key=lambda p: p[0]))


def _short_id(user: Any) -> str:
    """A user's id; a whole UUID is longer than anybody wants to read."""
    return re.sub(r"[^A-Za-z0-9]", "", str(user or "unknown"))[:12] or "unknown"


# ---- Label Studio

def _labelstudio(row: Row, found: Judged) -> None:
    data = row["data"]
    items = next((v for v in data.values() if isinstance(v, list) and v and all(
        isinstance(i, Mapping) and "id" in i for i in v)), None)
    if items is None:
        group, names = _split_fields(data)
    else:
        group = AnswerGroup(_prompt(data), tuple(Answer(_item_text(i)) for i in items))
        names = [str(i["id"]) for i in items]
    if not _rankable(group, found):
        return
    if row.get("predictions"):
        found.skipped["a prediction of a model"] += len(row["predictions"])
    for annotation in row.get("annotations") or row.get("completions") or []:
        tiers, ratings, why = _labelstudio_values(annotation.get("result") or [], names)
        cancelled = bool(annotation.get("was_cancelled"))
        if not (tiers or ratings or cancelled):
            found.skipped[why or "an annotation without a ranking or rating"] += 1
            continue
        seconds = annotation.get("lead_time") or 0.0
        _add(found, group, f"labelstudio-{_completed_by(annotation)}", () if cancelled else tiers,
             {} if cancelled else ratings, seconds=float(seconds), mark=annotation.get("id"),
             skipped="skipped in Label Studio" if cancelled else "")


def _labelstudio_values(results: Sequence[Mapping[str, Any]],
                        names: Sequence[str]) -> tuple[Tiers, dict[int, float], str]:
    tiers: Tiers = ()
    ratings: dict[int, float] = {}
    why = ""
    for result in results:
        value, kind = result.get("value") or {}, result.get("type")
        if kind == "ranker":
            ranker = value.get("ranker")
            buckets = {"rank": ranker} if isinstance(ranker, list) else dict(ranker or {})
            rest = buckets.pop("_", [])  # what was left in the list, in no bucket
            if not buckets:
                buckets = {"rank": rest}
            if all(name.strip().isdecimal() for name in buckets):  # places: what shares one is tied
                ordered = sorted(buckets.items(), key=lambda b: int(b[0]))
                tiers = tuple(tuple(_known(o, names) for o in ids) for _, ids in ordered if ids)
            elif len(buckets) == 1:
                tiers = tuple((_known(o, names),) for o in next(iter(buckets.values())))
            else:
                why = "buckets whose names are no places"
        elif kind == "pairwise" and len(names) == 2:
            chosen = {"left": 0, "right": 1}.get(str(value.get("selected")))
            tiers = ((0, 1),) if chosen is None else ((chosen,), (1 - chosen,))
        elif kind == "rating":
            if (index := _index(str(result.get("to_name", "")), names)) is None:
                why = "a rating of something that is no answer"
            else:
                ratings[index] = float(value["rating"])
    return tiers, ratings, why


def _known(option: Any, names: Sequence[str]) -> int:
    index = _index(str(option), names)
    if index is None:
        raise DataError(f"{short(option)} is ranked, but no answer has that id")
    return index


def _item_text(item: Mapping[str, Any]) -> str:
    return read_text({"text": item.get("body") or item.get("text") or item.get("title")}, "text", f"item {item['id']}")


def _completed_by(annotation: Mapping[str, Any]) -> str:
    who = annotation.get("completed_by")
    return _short_id(who.get("id") if isinstance(who, Mapping) else who)


# ---- what both need

def _split_fields(fields: Mapping[str, Any]) -> tuple[AnswerGroup, list[str]]:
    """The prompt and the answers of a row whose answers are fields of their own; and those fields' names."""
    key = _prompt_key(fields)
    answers = {name: value for name, value in fields.items() if name != key and isinstance(value, str) and value.strip()
               and _plain(name) not in ("system", "reference", "id", "source", "category", "domain", "split")}
    return AnswerGroup(_prompt(fields), tuple(Answer(text) for text in answers.values())), list(answers)


def _prompt_key(fields: Mapping[str, Any]) -> str:
    known = {_plain(name): name for name in fields}
    key = next((known[p] for p in PROMPTS if p in known), None)
    if key is None:
        raise DataError(f"no prompt: a field must be named {', '.join(PROMPTS[:-1])} or {PROMPTS[-1]}, "
                        f"there is {', '.join(map(short, fields)) or 'none'}")
    return key


def _prompt(fields: Mapping[str, Any]) -> Prompt:
    key = "messages" if isinstance(fields.get("messages"), list) else _prompt_key(fields)
    value = fields[key]
    messages: Conversation
    if isinstance(value, list):
        messages = read_messages(value, key)
    else:
        messages = (Message("user", read_text(fields, key)),)
    system = fields.get("system")
    if isinstance(system, str) and system.strip() and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    check_waiting(messages, "a prompt")
    return Prompt(messages)


def _rankable(group: AnswerGroup, found: Judged) -> bool:
    if 2 <= len(group.answers) <= MOST_ANSWERS:
        found.groups[group.id] = group
        return True
    found.skipped[f"{len(group.answers)} answer{'' if len(group.answers) == 1 else 's'} to rank"] += 1
    return False


def _index(option: str, names: Sequence[str], loosely: bool = True) -> int | None:
    """Which answer an option or a question means: by name, else by the number at its end."""
    if option in names:
        return names.index(option)
    plain = [_plain(name) for name in names]
    if _plain(option) and plain.count(_plain(option)) == 1:
        return plain.index(_plain(option))
    if not loosely:
        number = re.fullmatch(r"(?:response|answer|reply|completion|model|option)?[ _-]?(\d+)", option.strip().lower())
    else:
        number = re.search(r"(\d+)\D*$", option)
    if number is None:
        return None
    ends = [m[1] if (m := re.search(r"(\d+)\D*$", name)) else "" for name in names]
    return ends.index(number[1]) if ends.count(number[1]) == 1 else None


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _add(found: Judged, group: AnswerGroup, labeler: str, tiers: Tiers, ratings: Mapping[int, float],
         seconds: float = 0.0, mark: Any = None, skipped: str = "") -> None:
    """One verdict. Ratings of all answers rank them where no ranking does; 1 to 7 are kept as they are."""
    whole = len(ratings) == len(group.answers)
    if not tiers and whole:
        order = sorted(range(len(group.answers)), key=lambda i: -ratings[i])
        tiers = tuple(tuple(tied) for _, tied in groupby(order, key=lambda i: ratings[i]))
    if not (tiers or skipped):
        found.skipped["ratings of some answers only" if ratings else "a response without a ranking or rating"] += 1
        return
    scale = tuple(ratings[i] for i in range(len(group.answers))) if whole else ()
    if not all(1 <= r <= 7 for r in scale):
        scale = ()
        found.skipped["ratings outside 1 to 7 (their order is kept)"] += 1
    ranking = Ranking("", group.id, valid_labeler(labeler), tiers, ratings=scale, seconds=seconds, skipped=skipped)
    id = fingerprint([ranking.to_dict(), mark])
    found.rankings.append(replace(ranking, id=f"{found.format}-{id}"))


_READERS: dict[str, Callable[[Row, Judged], None]] = {
    "tunesmith": _tunesmith, "argilla": _argilla, "labelstudio": _labelstudio}
SOURCES = tuple(_READERS)
