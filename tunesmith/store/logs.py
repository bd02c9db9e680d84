"""Logs that other tools wrote -> interactions, still unscrubbed (`interactions.add` scrubs).

    tunesmith   what `tunesmith interactions export` writes
    openai      stored completions with their "messages" beside them; {"request", "response"} pairs, as of Helicone
    langfuse    traces or generations, with their "scores"
    phoenix     LLM spans, as rows of a data frame or as the API gives them, with their "annotations"
    wildchat  lmsys   conversations: each answer is an interaction, linked to the next
    arena       battles: two answers shown together, of which one was chosen

Only what users themselves did becomes an event: scores of judges and of labelers in those tools do not. What cannot be
said in our words is counted by reason, never guessed: a rating without a scale, a battle of several turns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tunesmith.errors import DataError
from tunesmith.records import Answer, Conversation, Interaction, Message, fingerprint, turns
from tunesmith.store.fields import Skip, read_list, read_speaker, short
from tunesmith.store.files import Row, read_rows
from tunesmith.store.interactions import moment
from tunesmith.store.runs import now

Events = list[dict[str, Any]]
UP = {"up", "thumbs up", "thumbs-up", "thumbs_up", "positive", "good", "like", "liked", "helpful", "yes", "true", "👍"}
DOWN = {"down", "thumbs down", "thumbs-down", "thumbs_down", "negative", "bad", "dislike", "disliked", "unhelpful",
        "not helpful", "no", "false", "👎"}
_OURS = TypeAdapter(Interaction)
_THUMBS = re.compile(r"thumb|feedback|like|helpful|satisf", re.IGNORECASE)


def read(path: str | Path, skipped: Counter[str], source: str = "", name: str = "") -> Iterator[Interaction]:
    """The exchanges of a file, one row in memory at a time.

    Args:
        skipped: counts what is left out, by reason.
        source: whose log it is; "" finds out from the first row.
        name: what `Interaction.source` says; the tool's name if empty.

    Raises:
        DataError: the first bad row, with file and line; or a file of something else.
    """
    for line, row in read_rows(Path(path), skipped):
        try:
            source = source or detect(row)
            if source not in READERS:
                raise DataError(f"this is no log of {', '.join(READERS)}")
            for one in row["data"] if row.get("object") == "list" else (row,):
                yield from _named(READERS[source](one, skipped), name or source)
        except Skip as e:
            skipped[str(e)] += 1
        except DataError as e:
            raise DataError(str(e), path, line) from e
        except KeyError as e:
            raise DataError(f'not a row of {source}: "{e.args[0]}" is missing', path, line) from e
        except (TypeError, IndexError, AttributeError, ValueError) as e:
            raise DataError(f"not a row of {source}: {e}", path, line) from e


def detect(row: Row) -> str:
    """Whose log a row is from; "" for something else."""
    keys = set(row)
    if {"messages", "answer", "id"} <= keys:
        return "tunesmith"
    if "conversation_a" in keys and "winner" in keys:
        return "arena"
    if "conversation" in keys:
        return "wildchat" if "conversation_hash" in keys else "lmsys"
    if "span_kind" in keys or "attributes" in keys or any(k.startswith("attributes.") for k in keys):
        return "phoenix"
    if "choices" in keys or {"request", "response"} <= keys or row.get("object") == "list":
        return "openai"
    return "langfuse" if {"input", "output"} <= keys else ""


def _named(found: Iterable[Interaction], source: str) -> Iterator[Interaction]:
    for one in found:
        yield Interaction.from_dict({**one.to_dict(), "source": one.source or source,
                                     "consent": one.consent or "imported"})


# ---- what all need

def _message(turn: Any, where: str) -> Message:
    role, key = read_speaker(turn, where)
    text = turn.get(key)
    if isinstance(text, list):
        parts = [p.get("text") if isinstance(p, Mapping) else None for p in text]
        text = "\n".join(p for p in parts if isinstance(p, str)) if all(isinstance(p, str) for p in parts) else None
    if role == "tool" or turn.get("tool_calls"):
        raise Skip("a tool was used")
    if not isinstance(text, str):
        raise Skip("a turn is no plain text")
    return Message(role, text)


def _messages(value: Any, where: str) -> Conversation:
    if isinstance(value, str):
        return (Message("user", value),)
    if isinstance(value, Mapping):
        value = value.get("messages") or value.get("data") or [value]
    return tuple(_message(turn, f"{where}[{n}]") for n, turn in enumerate(read_list(value, where)))


def _exchanges(messages: Conversation, id: str, model: str, times: Sequence[Any] = (),
               **more: Any) -> Iterator[Interaction]:
    """One interaction for each answer of a conversation."""
    for n, message in enumerate(messages):
        if message.role == "assistant" and n and messages[n - 1].role == "user":
            yield Interaction(f"{id}-{n}", messages[:n], Answer(message.content, model),
                              created=_when(times[n] if times else ""), **more)


def _when(value: Any) -> str:
    return moment(value, "time") if value not in (None, "") else ""


def _id(source: str, *parts: Any) -> str:
    """The tool's own id, or one of the content where it is too long."""
    text = "-".join(str(p) for p in parts)
    plain = len(text) <= 80 and text.isprintable()
    return f"{source}-{text if plain else fingerprint(text)}"


def _scores(scores: Iterable[Mapping[str, Any]], skipped: Counter[str]) -> Events:
    """Events of scores as {"name", "value" (a number or a word), "comment", "at", "id"}."""
    found: Events = []
    for score in scores:
        name, value = str(score["name"]), score["value"]
        event = {"at": _when(score.get("at")), "id": str(score["id"])}
        if (thumb := _thumb(name, value)) is not None:
            found.append({"type": "thumb", "value": thumb, **event})
            if not thumb and isinstance(comment := score.get("comment"), str) and comment.strip():
                found.append({"type": "complaint", "value": comment, **event, "id": f"{event['id']}-comment"})
        elif re.search("star", name, re.IGNORECASE) and _number(value) and 1 <= value <= 5:
            found.append({"type": "rating", "value": (value - 1) / 4, **event})
        elif re.search("rating", name, re.IGNORECASE) and _number(value) and 0 <= value <= 1:
            found.append({"type": "rating", "value": value, **event})
        else:
            skipped["a score that is neither a thumb nor a rating whose scale is known"] += 1
    return found


def _thumb(name: str, value: Any) -> int | None:
    """0 or 1 if a score is a thumb: by its words, or by its name with 0 and 1 or -1 and 1."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        word = value.strip().lower()
        return 1 if word in UP else 0 if word in DOWN else None
    return int(value > 0) if _THUMBS.search(name) and value in (-1, 0, 1) else None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---- the tools

def _tunesmith(row: Row, skipped: Counter[str]) -> Iterator[Interaction]:
    try:
        yield _OURS.validate_python(row)
    except ValidationError as e:
        first = e.errors()[0]
        raise DataError(f'"{".".join(map(str, first["loc"]))}": {first["msg"].lower()}') from e


def _openai(row: Row, skipped: Counter[str]) -> Iterator[Interaction]:
    asked, made = (row["request"], row["response"]) if "request" in row else (row, row)
    if not made.get("choices"):
        raise Skip("no answer")
    messages = _messages(asked.get("messages") or asked["input"], "messages")
    more = {**(asked.get("metadata") or {}), **{k: row[k] for k in ("user_id", "feedback") if row.get(k) is not None}}
    user = made.get("input_user") or asked.get("user") or asked.get("safety_identifier") or more.get("user_id") or (
        more.get("user") or "")
    sampling = {k: asked[k] for k in ("temperature", "top_p", "seed") if asked.get(k) is not None}
    id = _id("openai", made["id"])
    for n, choice in enumerate(made["choices"]):
        answer = _message(choice["message"], f"choices[{n}].message")
        yield Interaction(
            f"{id}.{n}" if n else id, messages, Answer(answer.content, str(made.get("model", "")), sampling=sampling,
                                                       finished=choice.get("finish_reason") != "length"),
            tuple(_feedback(more.get("feedback"), id, skipped)) if n == 0 else (), conversation=str(
                more.get("conversation") or ""), user=str(user), created=_when(made.get("created")))


def _feedback(value: Any, id: str, skipped: Counter[str]) -> Events:
    rating = value.get("rating") if isinstance(value, Mapping) else value
    given = [] if rating is None else [{"name": "feedback", "value": rating, "id": f"{id}-feedback"}]
    return _scores(given, skipped)


def _langfuse(row: Row, skipped: Counter[str]) -> Iterator[Interaction]:
    made = [o for o in row.get("observations") or () if isinstance(o, Mapping) and o.get("type") == "GENERATION"]
    whole = row if row.get("input") and row.get("output") else made[-1] if made else row
    if not whole.get("input") or not whole.get("output"):
        raise Skip("no question or no answer")
    messages, answer = _messages(whole["input"], "input"), _answer(whole["output"])
    if messages[-1].role != "user":
        raise Skip("nobody asks anything")
    model = row.get("model") or next((o["model"] for o in made if o.get("model")), "")
    scores = [{**s, "value": s.get("stringValue", s.get("string_value")) if s.get("value") is None else s["value"],
               "at": s.get("timestamp")} for s in row.get("scores") or () if _by_user(s, skipped)]
    yield Interaction(
        _id("langfuse", row["id"]), messages, Answer(answer, str(model)), tuple(_scores(scores, skipped)),
        conversation=str(row.get("sessionId") or row.get("session_id") or ""),
        user=str(row.get("userId") or row.get("user_id") or ""),
        created=_when(row.get("timestamp") or row.get("startTime")))


def _by_user(score: Any, skipped: Counter[str]) -> bool:
    """Applications send what users said as API scores; evaluations and annotation queues are somebody else's."""
    if not isinstance(score, Mapping):
        skipped["a score that is only named by its id"] += 1
        return False
    mine = score.get("source", "API") == "API"
    skipped["a score that no user gave"] += not mine
    return mine


def _answer(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and value.get("choices"):
        value = value["choices"][0]["message"]
    return _messages(value, "output")[-1].content


def _phoenix(row: Row, skipped: Counter[str]) -> Iterator[Interaction]:
    facts = _attributes(row)
    if str(row.get("span_kind") or facts.get("openinference.span.kind") or "LLM").upper() != "LLM":
        raise Skip("a span that is no call of a model")
    asked, said = (_spoken(facts, f"llm.{side}_messages") for side in ("input", "output"))
    if not asked or not said or asked[-1].role != "user":
        raise Skip("no question or no answer")
    span = row.get("context.span_id") or (row.get("context") or {}).get("span_id") or row["id"]
    given = [a for a in row.get("annotations") or row.get("span_annotations") or ()]
    human = [a for a in given if str(a.get("annotator_kind", "")).upper() == "HUMAN"]
    skipped["a score that no user gave"] += len(given) - len(human)
    scores = []
    for a in human:
        result = a.get("result") or a
        value = result.get("label") if isinstance(result.get("label"), str) else result.get("score")
        scores.append({"name": a["name"], "value": value, "comment": result.get("explanation"),
                       "id": a.get("id") or _id("phoenix", span, a["name"], a.get("identifier", "")),
                       "at": a.get("created_at")})
    yield Interaction(
        _id("phoenix", span), asked, Answer(said[-1].content, str(facts.get("llm.model_name") or "")),
        tuple(_scores(scores, skipped)), conversation=str(facts.get("session.id") or ""),
        user=str(facts.get("user.id") or ""), created=_when(row.get("start_time")))


def _attributes(row: Row) -> dict[str, Any]:
    """A span's attributes under dotted names, however deep they lie."""
    flat = {k.removeprefix("attributes."): v for k, v in row.items() if k.startswith("attributes.")}

    def walk(value: Any, name: str) -> None:
        flat[name] = value
        for key, inner in (value.items() if isinstance(value, Mapping) else enumerate(value)
                           if isinstance(value, list) else ()):
            walk(inner, f"{name}.{key}" if name else str(key))

    for name, value in [*flat.items(), ("", row.get("attributes") or {})]:
        walk(value, name)
    return flat


def _spoken(facts: Mapping[str, Any], name: str) -> Conversation:
    """`llm.input_messages.0.message.role` and the like, as messages."""
    found: dict[int, dict[str, Any]] = {}
    for key, value in facts.items():
        if m := re.fullmatch(rf"{re.escape(name)}\.(\d+)\.message\.(role|content|tool_calls)", key):
            found.setdefault(int(m[1]), {})[m[2]] = value
    return tuple(_message(found[n], f"{name}[{n}]") for n in sorted(found))


def _chat(row: Row, skipped: Counter[str]) -> Iterator[Interaction]:
    """WildChat and LMSYS-Chat."""
    said = read_list(row["conversation"], "conversation")
    messages = _messages(said, "conversation")
    name = row.get("conversation_hash") or row.get("conversation_id") or fingerprint(turns(messages))
    user = row.get("hashed_ip") or next((t["hashed_ip"] for t in said if t.get("hashed_ip")), "")
    times = [t.get("timestamp") or row.get("timestamp") or row.get("tstamp") for t in said]
    yield from _exchanges(messages, _id("chat", name), str(row.get("model", "")), times, conversation=str(name),
                          user=str(user))


def _arena(row: Row, skipped: Counter[str]) -> Iterator[Interaction]:
    sides = {name: _messages(row[f"conversation_{name}"], f"conversation_{name}") for name in "ab"}
    if any(len(m) < 2 or m[-1].role != "assistant" for m in sides.values()):
        raise Skip("an answer is missing")
    if sides["a"][:-1] != sides["b"][:-1]:
        raise Skip("a battle of several turns: its two answers reply to different things")
    said = fingerprint([turns(m) for m in sides.values()])
    winner, stem = row["winner"], _id("arena", row.get("question_id") or said)
    ids = {name: f"{stem}-{name}" for name in "ab"}
    user, created = str(row.get("judge") or row.get("judge_hash") or ""), _when(row.get("tstamp")) or now()
    if winner not in ("model_a", "model_b", "tie", "tie (bothbad)"):
        raise DataError(f'"winner" must be model_a, model_b, tie or tie (bothbad), got {short(winner)}')
    for name, messages in sides.items():
        events: Events = []
        if winner == f"model_{name}":
            events = [{"type": "select_variant", "value": list(ids.values()), "id": f"{stem}-vote"}]
        elif winner == "tie (bothbad)":
            events = [{"type": "thumb", "value": 0, "id": f"{stem}-vote"}]
        yield Interaction(ids[name], messages[:-1], Answer(messages[-1].content, str(row.get(f"model_{name}", ""))),
                          tuple(events), conversation=stem, user=user, created=created)


READERS: dict[str, Callable[[Row, Counter[str]], Iterator[Interaction]]] = {
    "tunesmith": _tunesmith, "openai": _openai, "langfuse": _langfuse, "phoenix": _phoenix, "wildchat": _chat,
    "lmsys": _chat, "arena": _arena}
