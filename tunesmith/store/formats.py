"""Rows of every supported layout -> records.

    demonstrations  messages | prompt + completion | instruction + output (Alpaca, Dolly) | conversations (ShareGPT)
    prompts         messages | prompt | instruction | chat logs (conversations, conversation, mapping): see chatlogs.py
    answers         prompt + answers that nobody has ranked: see unranked.py
    comparisons     HH transcripts | prompt + chosen + rejected | chosen + rejected | input + preferred_output +
                    non_preferred_output (OpenAI) | prompt + completion + label (unpaired)
    rankings        prompt + answers + ranking, labeler (tiers best to worst; a flat list is an order without ties)

`prompt`, `completion`, `chosen` and `rejected` are texts or lists of messages. The first row decides the layout for
the whole file; the first malformed row ends the import with file, line and field. What is left out on purpose is
counted by reason. No token is counted here: rows too long for a model are the trainer's business.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunesmith.contracts import check_tiers
from tunesmith.errors import DataError
from tunesmith.records import (
    Answer,
    AnswerGroup,
    Conversation,
    Demonstration,
    Message,
    Prompt,
    Record,
    Role,
    Tiers,
)
from tunesmith.store import unranked
from tunesmith.store.chatlogs import read_export, read_log
from tunesmith.store.fields import (
    Skip,
    check_waiting,
    in_order,
    read_answer,
    read_group,
    read_instruction,
    read_labeler,
    read_list,
    read_messages,
    read_optional,
    read_raw,
    read_speaker,
    read_split,
    read_text,
    read_turns,
    read_weight,
    short,
)
from tunesmith.store.files import Row, kind_of, read_rows


@dataclass(frozen=True)
class Imported:
    """The records of a file, what was left out, and what was noticed (`{"exact tie": 28}`)."""

    rows: list[Record]
    format: str
    skipped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """One way to write rows down: which keys betray it, and how a row becomes a record."""

    name: str
    keys: tuple[str, ...]
    parse: Callable[[Row], Record]
    fits: Callable[[Row], bool] = lambda row: True
    more: tuple[str, ...] = ()  # keys that `fits` asks for, where errors should name them


def read(path: str | Path, kind: str, largest: int = 0) -> Imported:
    """All records of a file.

    Args:
        kind: demonstrations, prompts, comparisons, rankings or answers.
        largest: bytes that a packed file may unpack to; 0: what `files` allows.

    Raises:
        DataError: the first bad row, with file, line and field; or a file that has none.
    """
    path = Path(path)
    skipped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    rows: list[Record] = []
    seen: set[bytes] = set()
    newest: dict[tuple[str, str], int] = {}
    layout: Layout | None = None
    for line, row in read_rows(path, skipped, largest):
        row = {key: value for key, value in row.items() if value is not None}
        try:
            layout = layout or detect(row, kind)
            _require(row, layout.keys)
            record = layout.parse(row)
            mark = _digest(record)
        except Skip as e:
            skipped[str(e)] += 1
            continue
        except DataError as e:
            raise DataError(str(e), path, line) from e
        except RecursionError as e:
            raise DataError("nested too deeply", path, line) from e
        if mark in seen:
            skipped["exact duplicate"] += 1
            continue
        seen.add(mark)
        if row.get("id") and layout.name == "rankings" and isinstance(record, AnswerGroup) and record.labeler:
            place = newest.setdefault((record.id, record.labeler), len(rows))
            if place < len(rows):  # a table that Tunesmith wrote holds every state of a verdict; the last one counts
                skipped["a verdict that was revised"] += 1
                rows[place] = record
                continue
        rows.append(record)
        notes.update(_noticed(record, row))
    if layout is None or not rows:
        left = ", ".join(f"{n} x {reason}" for reason, n in skipped.items())
        raise DataError("no rows" + (f" left ({left})" if left else ""), path)
    return Imported(rows, layout.name, dict(skipped), dict(notes))


def _require(row: Row, keys: tuple[str, ...]) -> None:
    for key in keys:
        if key not in row:
            raise DataError(f'"{key}" is missing')


def detect(row: Row, kind: str) -> Layout:
    """The layout of a kind that a row fits.

    Raises:
        DataError: none does; names the kind that would.
    """
    for layout in LAYOUTS[kind]:
        if all(key in row for key in layout.keys) and layout.fits(row):
            return layout
    has = ", ".join(f'"{key}"' for key in list(row)[:12]) or "no fields"
    expected = " or ".join("+".join(f'"{key}"' for key in keys) for keys in dict.fromkeys(
        (*layout.keys, *layout.more) for layout in LAYOUTS[kind]))
    others = [k for k in LAYOUTS if k not in (kind, "prompts", "answers")
              and any(all(key in row for key in layout.keys) and layout.fits(row) for layout in LAYOUTS[k])]
    hint = f"; it looks like {others[0]}: try --as {others[0]}" if others else ""
    raise DataError(f"{kind} need {expected}; this row has {has}{hint}")


# ---- demonstrations

def _chat(row: Row) -> Demonstration:
    return _demonstration(read_messages(row["messages"], "messages"), row)


def _prompt_completion(row: Row) -> Demonstration:
    """Only the completion is learned: assistant turns of the prompt get weight 0."""
    prompt = read_turns(row, "prompt", "user")
    completion = read_turns(row, "completion", "assistant")
    before = tuple(Message(m.role, m.content, 0) if m.role == "assistant" else m for m in prompt)
    check_waiting(before, "prompt")
    return _demonstration(in_order(before + completion, "prompt and completion"), row)


def _alpaca(row: Row) -> Demonstration:
    answer = "output" if "output" in row else "response"
    messages = (*read_instruction(row), Message("assistant", read_text(row, answer)))
    return _demonstration(messages, row)


def _sharegpt(row: Row) -> Demonstration:
    turns = []
    for n, turn in enumerate(read_list(row["conversations"], "conversations")):
        role, text = read_speaker(turn, where := f"conversations[{n}]")
        turns.append(Message(role, read_text(turn, text, where)))
    if "system" in row and str(row["system"]).strip():
        turns.insert(0, Message("system", read_text(row, "system")))
    return _demonstration(in_order(tuple(turns), "conversations"), row)


def _demonstration(messages: Conversation, row: Row) -> Demonstration:
    if messages[-1].role != "assistant":
        raise DataError(f'a demonstration must end with an assistant turn, this one ends with "{messages[-1].role}"')
    if not any(m.role == "assistant" and m.weight > 0 for m in messages):
        raise DataError('no assistant turn has a "weight" above 0: nothing would be learned')
    review = row.get("review", "accepted")
    if review not in ("accepted", "pending", "rejected"):
        raise DataError(f'"review" must be accepted, pending or rejected, got {short(review)}')
    licence = read_optional(row, "licence") or read_optional(row, "license")
    return Demonstration(messages, read_optional(row, "source"), licence, review)


# ---- prompts

def _chat_prompt(row: Row) -> Prompt:
    return _with_fields(_prompt(read_messages(row["messages"], "messages"), row), row, "messages")


def _plain_prompt(row: Row) -> Prompt:
    return _with_fields(_prompt(read_turns(row, "prompt", "user"), row), row, "prompt")


def _with_fields(prompt: Prompt, row: Row, key: str) -> Prompt:
    """The other fields of a row are facts about it: what a grader reads as `item.x` (OpenAI's reinforcement rows).

    What no JSON holds becomes text (a Parquet file's dates) or null (not a number).
    """
    known = (key, "domain", "split", "facts", "tools", "parallel_tool_calls")
    fields = json.dumps({k: v for k, v in row.items() if k not in known}, default=str)
    return replace(prompt, facts={**json.loads(fields, parse_constant=lambda _: None), **prompt.facts})


def _instruction_prompt(row: Row) -> Prompt:
    return _prompt(read_instruction(row), row)


def _log(key: str) -> Callable[[Row], Prompt]:
    return lambda row: _prompt(read_log(row, key), row)


def _export(row: Row) -> Prompt:
    return _prompt(read_export(row), row)


def _prompt(messages: Conversation, row: Row) -> Prompt:
    check_waiting(messages, "a prompt")
    facts = row.get("facts", {})
    if not isinstance(facts, Mapping):
        raise DataError(f'"facts" must be an object, it is {kind_of(facts)}')
    return Prompt(messages, read_optional(row, "domain"), read_split(row), facts)


# ---- comparisons

def _preference(row: Row) -> AnswerGroup:
    """TRL preference with a prompt; `chosen` and `rejected` may repeat it."""
    prompt = read_turns(row, "prompt", "user")
    better, worse = (read_answer(row, key, prompt) for key in ("chosen", "rejected"))
    return _pair(_prompt(prompt, row), better, worse, row)


def _implicit_preference(row: Row) -> AnswerGroup:
    """TRL preference without a prompt: what both have in common is the prompt."""
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        common = _common_text(read_text(row, "chosen"), read_text(row, "rejected"))
        if not common.strip():
            raise DataError('"chosen" and "rejected" begin differently, so there is no prompt; add a "prompt" field')
        ends = {key: {"text": row[key][len(common):]} for key in ("chosen", "rejected")}
        return _pair(_prompt((Message("user", common.rstrip()),), row), read_text(ends["chosen"], "text", "chosen"),
                     read_text(ends["rejected"], "text", "rejected"), row)
    better, worse = read_messages(chosen, "chosen"), read_messages(rejected, "rejected")
    return _from_turns(better, worse, row)


def _openai_preference(row: Row) -> AnswerGroup:
    source = row["input"]
    if not isinstance(source, Mapping) or "messages" not in source:
        raise DataError('"input" must be an object with "messages"')
    prompt = read_messages(source["messages"], "input.messages")
    better, worse = (read_answer(row, key, prompt) for key in ("preferred_output", "non_preferred_output"))
    return _pair(_prompt(prompt, row), better, worse, row)


def _unpaired(row: Row) -> AnswerGroup:
    """A thumb or a rating: one answer with one label."""
    prompt = read_turns(row, "prompt", "user")
    label = row["label"]
    if not isinstance(label, bool | int | float) or not math.isfinite(label):
        raise DataError(f'"label" must be true, false or a number, got {short(label)}')
    return AnswerGroup(_prompt(prompt, row), (Answer(read_answer(row, "completion", prompt)),), labels=(float(label),),
                       labeler=read_labeler(row), weight=read_weight(row))


def _hh(row: Row) -> AnswerGroup:
    """Anthropic HH: two transcripts that differ in their last assistant turn."""
    before = row.get("prompt", "")
    if not isinstance(before, str):
        raise DataError(f'"prompt" must be a text beside transcripts, it is {kind_of(before)}')
    better, worse = (_transcript(before + read_raw(row, key), key) for key in ("chosen", "rejected"))
    if not all(m.content for m in (*better, *worse)):
        raise Skip("a turn is empty")
    if better[-1].role != "assistant" or worse[-1].role != "assistant":
        raise Skip("a transcript does not end with the assistant")
    if better[:-1] != worse[:-1]:
        raise Skip("the transcripts differ before the last turn")
    return _from_turns(better, worse, row)


def _is_hh(row: Row) -> bool:
    first = row.get("prompt") or row["chosen"]
    return all(isinstance(row[key], str) for key in ("chosen", "rejected")) and isinstance(first, str) \
        and first.lstrip().startswith("Human:")


def _transcript(text: str, where: str) -> Conversation:
    """`\\n\\nHuman: ...\\n\\nAssistant: ...` as turns; two turns of one speaker in a row become one."""
    opening, *parts = re.split(r"(?:^|\n\n)(Human|Assistant):", text.lstrip("\n"))
    if opening.strip() or not parts or parts[0] != "Human":
        raise DataError(f'"{where}" is not a transcript: it must begin with "Human:"')
    merged: list[Message] = []
    for speaker, said in zip(parts[::2], parts[1::2]):
        role: Role = "user" if speaker == "Human" else "assistant"
        said = said.strip()
        if merged and merged[-1].role == role:
            said = "\n\n".join(t for t in (merged.pop().content, said) if t)
        merged.append(Message(role, said))
    return tuple(merged)


def _from_turns(better: Conversation, worse: Conversation, row: Row) -> AnswerGroup:
    """A pair from two whole conversations."""
    if better[-1].role != "assistant" or worse[-1].role != "assistant":
        raise DataError('"chosen" and "rejected" must end with an assistant turn')
    if better[:-1] != worse[:-1]:
        raise DataError('"chosen" and "rejected" must be alike up to their last turn')
    return _pair(_prompt(better[:-1], row), better[-1].content, worse[-1].content, row)


def _pair(prompt: Prompt, better: str, worse: str, row: Row) -> AnswerGroup:
    """Two equal answers are a tie."""
    tiers: Tiers = ((0, 1),) if better == worse else ((0,), (1,))
    return AnswerGroup(prompt, (Answer(better), Answer(worse)), tiers, labeler=read_labeler(row),
                       weight=read_weight(row))


# ---- rankings

def _ranking(row: Row) -> AnswerGroup:
    """One verdict, or one row of a table that Tunesmith wrote: of that, what training would see."""
    if row.get("purpose") in ("gold", "repeat"):
        raise Skip("a verdict on a test question or a second look")
    for key, why in (("quarantined", "a verdict of a quarantined labeler"), ("skipped", "a skipped group")):
        if str(row.get(key, "")).lower() not in ("", "false"):
            raise Skip(why)
    prompt = _prompt(read_turns(row, "prompt", "user"), row)
    answers = read_list(row["answers"], "answers")
    said = {key: row[key] for key in ("labels", "pairs") if row.get(key)}  # of a dataset
    if not (row["ranking"] or said) and "id" in row:
        raise Skip("a group without an order")
    if len(answers) < 2 and not said:
        raise DataError(f'a ranking needs at least 2 answers, "answers" has {len(answers)}')
    texts = tuple(Answer(read_text({"answers": a}, "answers", f"answers[{n}]")) for n, a in enumerate(answers))
    tiers = () if said and not row["ranking"] else _tiers(row["ranking"], len(texts))
    group = AnswerGroup(prompt, texts, tiers, labeler=read_labeler(row), weight=read_weight(row))
    if any(row.get(key) for key in ("shown", "ratings", *said)) or str(row.get("all_bad", "")).lower() == "true":
        bad = [0.0] * len(texts) if str(row.get("all_bad", "")).lower() == "true" else []
        pairs = [dict(zip(("better", "worse", "p", "weight"), _pair_row(p))) for p in said.get("pairs", [])]
        found = read_group({**group.to_dict(), "pairs": pairs, "shown": row.get("shown") or [],
                            "labels": said.get("labels") or row.get("ratings") or bad})
        return replace(found, prompt=prompt)
    return group


def _pair_row(pair: Any) -> list[Any]:
    """[better, worse, p, weight] of a table, whose numbers are all floats."""
    if not isinstance(pair, list) or len(pair) != 4:
        raise DataError(f'"pairs" must hold lists of better, worse, probability, weight, got {short(pair)}')
    return [int(x) if n < 2 and isinstance(x, float) and x.is_integer() else x for n, x in enumerate(pair)]


def _tiers(ranking: Any, answers: int) -> Tiers:
    tiers = []
    for n, tier in enumerate(read_list(ranking, "ranking")):
        tier = tier if isinstance(tier, list) else [tier]
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in tier):
            raise DataError(f'"ranking[{n}]" must hold indices of answers, got {short(tier)}')
        tiers.append(tuple(tier))
    try:
        check_tiers(tiers, answers)
    except DataError as e:
        raise DataError(f'"ranking": {e}') from e
    return tuple(tiers)


def _group(row: Row) -> AnswerGroup:
    """An `AnswerGroup` as Tunesmith writes it."""
    check_waiting(read_messages(row["prompt"].get("messages"), "prompt.messages"), "a prompt")
    for n, answer in enumerate(read_list(row["answers"], "answers")):
        read_text(answer if isinstance(answer, Mapping) else {}, "text", f"answers[{n}]")
    return read_group(row)


# ---- answers

def _unranked(key: str) -> Callable[[Row], AnswerGroup]:
    return lambda row: AnswerGroup(_prompt(unranked.question(row), row), unranked.listed(row, key))


def _spread(row: Row) -> AnswerGroup:
    return AnswerGroup(_prompt(unranked.question(row), row), unranked.spread(row))


def _undecided(row: Row) -> AnswerGroup:
    prompt = unranked.question(row)
    return AnswerGroup(_prompt(prompt, row), unranked.pair(row, prompt))


def _forgotten(row: Row) -> AnswerGroup:
    """A group as Tunesmith writes it, without what anybody judged."""
    group = _group(row)
    return AnswerGroup(group.prompt, unranked.several(group.answers))


def _asks(row: Row) -> bool:
    return any(key in row for key in ("prompt", "messages", "instruction"))


# ---- what else is needed

def _common_text(a: str, b: str) -> str:
    """The longest common beginning that ends at a space."""
    n = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return a[:a.rfind(" ", 0, n) + 1]


def _digest(record: Record) -> bytes:
    """What tells two records apart.

    Raises:
        DataError: half a surrogate pair somewhere, which no UTF-8 file can hold.
    """
    text = json.dumps(record.to_dict(), sort_keys=True, ensure_ascii=False, default=str)
    try:
        return hashlib.sha256(text.encode()).digest()[:16]
    except UnicodeEncodeError as e:
        raise DataError(f"a text holds half a character (\\u{ord(text[e.start]):04x} without its partner)") from e


def _noticed(record: Record, row: Row) -> list[str]:
    tie = isinstance(record, AnswerGroup) and len(record.answers) == 2 and record.tiers == ((0, 1),)
    return [*(["exact tie"] if tie else []), *(['"tools" ignored'] if row.get("tools") else [])]


def _is_record(row: Row) -> bool:
    return isinstance(row["prompt"], Mapping) and isinstance(row["answers"], list)


_GROUP = Layout("Tunesmith answer groups", ("prompt", "answers"), _group, _is_record)
LAYOUTS: dict[str, list[Layout]] = {
    "demonstrations": [
        Layout("chat messages", ("messages",), _chat),
        Layout("prompt and completion", ("prompt", "completion"), _prompt_completion, lambda row: "label" not in row),
        Layout("Alpaca", ("instruction", "output"), _alpaca),
        Layout("Alpaca", ("instruction", "response"), _alpaca),
        Layout("ShareGPT", ("conversations",), _sharegpt)],
    "prompts": [
        Layout("chat messages", ("messages",), _chat_prompt),
        Layout("prompts", ("prompt",), _plain_prompt),
        Layout("instructions", ("instruction",), _instruction_prompt),
        Layout("ShareGPT log", ("conversations",), _log("conversations")),
        Layout("chat log", ("conversation",), _log("conversation")),
        Layout("ChatGPT export", ("mapping", "current_node"), _export)],
    "answers": [
        Layout("Tunesmith answer groups", ("prompt", "answers"), _forgotten, _is_record),
        *(Layout(f"unranked {key}", (key,), _unranked(key), _asks, ("prompt",)) for key in unranked.LISTS),
        Layout("unranked pairs", ("prompt", "chosen", "rejected"), _undecided),
        Layout("answers in columns", ("prompt",), _spread, lambda row: len(unranked.columns(row)) > 1,
               ("answer_1", "answer_2"))],
    "comparisons": [
        Layout("Anthropic HH transcripts", ("chosen", "rejected"), _hh, _is_hh),
        Layout("preference", ("prompt", "chosen", "rejected"), _preference),
        Layout("preference with implicit prompt", ("chosen", "rejected"), _implicit_preference),
        Layout("OpenAI preference", ("input", "preferred_output", "non_preferred_output"), _openai_preference),
        Layout("unpaired", ("prompt", "completion", "label"), _unpaired),
        _GROUP],
    "rankings": [
        _GROUP,
        Layout("rankings", ("prompt", "answers", "ranking"), _ranking)],
}
