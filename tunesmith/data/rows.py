"""What a record says, as texts: the same view for duplicates, leaks and health."""

from __future__ import annotations

import re
import unicodedata

from tunesmith.records import AnswerGroup, Conversation, Demonstration, Prompt, Record, fingerprint

_WORD = re.compile(r"[぀-ヿ㐀-鿿豈-﫿]|[^\W_]+|[-+*/=<>^%$€£]")


def words(text: str) -> list[str]:
    """Lower-case words, and the signs that change what a sum or a price means; a Chinese or Japanese letter is a word.

    >>> words("Is 2+2 = 4? It's 5%!")
    ['is', '2', '+', '2', '=', '4', 'it', 's', '5', '%']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def asked(record: Record) -> Conversation:
    """The turns that a model is given."""
    if isinstance(record, Demonstration):
        return record.messages[:-1]
    if isinstance(record, Prompt):
        return record.messages
    assert isinstance(record, AnswerGroup)
    return record.prompt.messages


def answered(record: Record) -> tuple[str, ...]:
    """What is there to learn from: the demonstrated answer, or those that were compared; none of a prompt."""
    if isinstance(record, Demonstration):
        return (record.messages[-1].content,)
    return tuple(a.text for a in record.answers) if isinstance(record, AnswerGroup) else ()


def question(record: Record) -> str:
    """What the person asked last."""
    said = [m.content for m in asked(record) if m.role == "user"]
    return said[-1] if said else ""


def texts(record: Record) -> list[str]:
    """All turns and answers but the system's, which rows share."""
    return [m.content for m in asked(record) if m.role != "system"] + list(answered(record))


def whole(record: Record) -> str:
    """All that was said, with who said it, as one text; of a system turn, which rows share, a fingerprint: its length
    must not make rows alike."""
    turns = [f"{m.role}: {fingerprint(m.content)[:8] if m.role == 'system' else m.content}" for m in asked(record)]
    return "\n".join([*turns, *(f"assistant: {text}" for text in answered(record))])
