"""The message format of `coffee_agent.py`: Taskmaster's messages as chat turns, and an action read back.

The agent's turn is either words or one API call; the API's response is a `tool` turn. Calls and responses are written
for a small model: JSON without quotes and underscores, in round brackets, as in (get menu items: (query: mocha)).
Curly brackets never occurred in the bundled base's pretraining, so their frozen embeddings are one and the same vector,
which no adapter can tell apart.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tunesmith.model.base import Base

ROLES = {"user": "user", "agent": "assistant", "api": "tool"}
ROUND, CURLY = str.maketrans("{}", "()"), str.maketrans("()", "{}")
MARKS = 8
"""Tokens around a turn's text, at most."""

Turns = list[dict[str, str]]
Row = dict[str, Any]


def turns(messages: Sequence[Row]) -> Turns:
    """Taskmaster's messages as chat turns; neighbours of one role become one turn."""
    out: Turns = []
    for m in messages:
        text = m.get("text") or written(m.get("api") or m.get("response"))
        if out and out[-1]["role"] == ROLES[m["role"]]:
            out[-1]["content"] += "\n" + text
        else:
            out.append({"role": ROLES[m["role"]], "content": text})
    return out


def written(call: Any) -> str:
    """A call or a response without quotes; marks of the format inside a name or value become spaces."""
    return re.sub(r'"([^"]*)"', lambda m: re.sub(r"[^\w.&'%$/-]|_", " ", m[1]), json.dumps(call)).translate(ROUND)


def demonstrations(base: Base, dialogues: Sequence[Sequence[Row]], room: int, seed: int,
                   left_out: Counter[str]) -> list[Row]:
    """From each dialogue one of the agent's turns, drawn at random, with the newest turns before it."""
    out = []
    for i, dialogue in enumerate(dialogues):
        chat = turns(dialogue)
        actions = [j for j, turn in enumerate(chat) if turn["role"] == "assistant" and j]
        if not actions or any(b["role"] == "tool" and a["role"] != "assistant" for a, b in pairwise(chat)):
            left_out["demonstrations: a response without a call"] += 1
            continue
        action = random.Random(seed + i).choice(actions)
        if context := window(base, chat[:action], room, left_out, "demonstrations"):
            out.append({"messages": [*context, chat[action]]})
    return out


def thumbs(base: Base, feedback: Sequence[Row], split: str, domain: str, count: int, room: int,
           left_out: Counter[str]) -> list[Row]:
    """Rows in the unpaired layout: prompt, completion, label."""
    rows = [r for r in feedback if (r["domain"], r["split"]) == (domain, split)]
    random.Random(len(rows)).shuffle(rows)
    out = []
    for r in rows[:count]:
        what = f"{split} {domain}"
        context, action = turns(r["context"]), turns([r["generation"]])[0]["content"]
        if not context or context[-1]["role"] == "assistant" or not action.strip():
            left_out[f"{what}: nothing before the action, or the agent itself"] += 1
        elif prompt := window(base, context, room, left_out, what):
            out.append({"prompt": prompt, "completion": action, "label": bool(r["reward"]), "domain": domain})
    return out


def window(base: Base, chat: Turns, room: int, left_out: Counter[str], what: str) -> Turns:
    """The newest turns that fit into `room` tokens, from a turn of the customer's or the agent's on."""
    start, used = len(chat), 0
    for i in reversed(range(len(chat))):
        used += len(base.tokenizer(chat[i]["content"], add_special_tokens=False)["input_ids"]) + MARKS
        if used > room:
            break
        start = i if chat[i]["role"] != "tool" else start
    if start:
        left_out[f"{what}: {'oldest turns cut' if start < len(chat) else 'newest turns too long'}"] += 1
    return chat[start:]


def parsed(action: str) -> tuple[str, Any]:
    """("call", {function: arguments}), ("words", ...) or ("broken", ...), such that equal actions are equal."""
    if not action.lstrip().startswith("("):
        return "words", " ".join(action.lower().split())
    try:
        call = json.loads(re.sub(r"[^()\[\]:,]+", quoted, action).translate(CURLY))
    except json.JSONDecodeError:
        return "broken", action
    return ("call", call) if len(call) == 1 and isinstance(next(iter(call.values())), dict) else ("broken", action)


def quoted(text: re.Match[str]) -> str:
    """What stands between brackets, colons and commas, as a JSON string."""
    return json.dumps(text[0].strip()) if text[0].strip() else ""
