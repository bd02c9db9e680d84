"""Answers that tell who wrote them: a labeler who reads "as a model made by ..." no longer judges blindly.

A search by words, for a manager to look at: it neither hides nor changes an answer, and an answer that talks about a
vendor because it was asked to is found too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from tunesmith.records import AnswerGroup

VENDORS = (
    "OpenAI", "ChatGPT", "GPT-3", "GPT-4", "GPT-4o", "GPT-5", "Anthropic", "Claude", "DeepMind", "Gemini", "Gemma",
    "PaLM",
    "LLaMA", "Llama", "Mistral", "Mixtral", "Qwen", "Tongyi", "DeepSeek", "Cohere", "Command R", "Vicuna", "Alpaca",
    "Koala", "Dolly", "Falcon", "Bard", "Grok", "xAI", "Phi-3", "Phi-4", "Zephyr", "Kimi", "Moonshot", "ChatGLM",
    "GLM-4",
    "Baichuan", "Yi-34B", "StableLM", "OpenAssistant", "SmolLM", "Nemotron")
_ORDINARY = {"bard", "falcon", "koala", "alpaca", "dolly", "gemini", "phi-3", "phi-4", "zephyr", "mistral", "claude",
             "moonshot", "cohere", "grok", "palm", "llama", "gemma", "vicuna", "mixtral"}
_SELF = re.compile(
    r"\b(?:I\s*am|I'm|I’m|as)\s+(?:just\s+|only\s+)?(?:an?|the)\s+(?:[\w-]+\s+){0,3}?"
    r"(?:AI|language\s+model|LLM|chat\s?bot|artificial\s+intelligence)\b"
    r"|\b(?:trained|developed|created|made|built)\s+by\s+(?:OpenAI|Anthropic|Google|Meta|Microsoft|Mistral|Alibaba)\b"
    r"|\bmy\s+(?:training\s+data|knowledge\s+cut-?off)\b", re.IGNORECASE)
_AROUND = 40  # characters of context on either side


@dataclass(frozen=True, slots=True)
class Leak:
    """What was found in one answer: `kind` is "name" (a model or vendor) or "self" (it speaks of itself as a model)."""

    group: str
    answer: int
    kind: str
    word: str
    excerpt: str


def leaks(groups: Iterable[AnswerGroup], names: Iterable[str] = ()) -> list[Leak]:
    """The telling places of all answers, the first of each kind per answer.

    Args:
        names: the workspace's own models; those of the answers themselves are added.
    """
    found = []
    for group in groups:
        own = {*names, *(a.model for a in group.answers)}
        name = _names(frozenset(n for model in own for n in (model, model.partition("@")[0]) if _telling(n)))
        asked = " ".join(m.content for m in group.prompt.messages).lower()
        for index, answer in enumerate(group.answers):
            hits = [("self", _SELF.search(answer.text)),
                    ("name", next((m for m in name.finditer(answer.text) if m[0].lower() not in asked), None))]
            found += [Leak(group.id, index, kind, hit[0], _excerpt(answer.text, hit)) for kind, hit in hits if hit]
    return found


def _telling(name: str) -> bool:
    """Whether an own model's name is more than an ordinary word such as "desk"."""
    return len(name) > 3 and bool(re.search(r"[\d@./_-]|[a-z][A-Z]", name))


@lru_cache(maxsize=64)
def _names(own: frozenset[str]) -> re.Pattern[str]:
    """Vendors' names; those that are ordinary words too only with their capital letter."""
    loose = [re.escape(n) for n in {*own, *(v for v in VENDORS if v.lower() not in _ORDINARY)}]
    strict = [re.escape(v) for v in VENDORS if v.lower() in _ORDINARY]
    return re.compile(rf"(?<![\w])(?:(?i:{'|'.join(sorted(loose))})|{'|'.join(sorted(strict))})(?![\w])")


def _excerpt(text: str, hit: re.Match[str]) -> str:
    start, end = max(hit.start() - _AROUND, 0), min(hit.end() + _AROUND, len(text))
    return ("… " if start else "") + text[start:end].strip() + (" …" if end < len(text) else "")
