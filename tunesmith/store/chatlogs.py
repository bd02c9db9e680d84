"""Chat logs -> what people asked: the last question of each conversation, with what was said before.

Logs are written by life and not by a format's makers, so a conversation that cannot be asked again is left out and
counted, and does not end the import. Known: ShareGPT (`conversations`), WildChat and LMSYS-Chat (`conversation`), and
ChatGPT's export of one's own chats (`mapping`: a tree, of which the branch last looked at is taken).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith.errors import DataError
from tunesmith.records import Conversation, Message, Role
from tunesmith.store.fields import SPEAKERS, Skip, read_list, read_speaker
from tunesmith.store.files import Row, kind_of

MOST_NODES = 100_000


def read_log(row: Row, key: str) -> Conversation:
    """The question of a list of turns: `from` and `value`, or `role` and `content`.

    Raises:
        DataError: no list of such turns.
        Skip: a conversation that cannot be asked again.
    """
    turns = []
    for n, turn in enumerate(read_list(row[key], key)):
        role, text = read_speaker(turn, f"{key}[{n}]")
        turns.append((role, turn.get(text)))
    return _question(turns)


def read_export(row: Row) -> Conversation:
    """The question of one conversation of a ChatGPT export.

    Raises:
        DataError: no tree of messages.
        Skip: a conversation that cannot be asked again.
    """
    return _question([*_branch(row)][::-1])


def _branch(row: Row) -> Iterator[tuple[Role, Any]]:
    """(role, text) from the last message back to the first."""
    nodes, here = row["mapping"], row["current_node"]
    if not isinstance(nodes, Mapping):
        raise DataError(f'"mapping" must be an object, it is {kind_of(nodes)}')
    for _ in range(MOST_NODES):
        node = nodes.get(here) if isinstance(here, str) else None
        if not isinstance(node, Mapping):
            return
        if isinstance(message := node.get("message"), Mapping):
            author, content = message.get("author"), message.get("content")
            role = SPEAKERS.get(str(author.get("role", "")) if isinstance(author, Mapping) else "")
            if role is None or not isinstance(content, Mapping):
                raise DataError('a "message" of "mapping" must have an "author" with a "role", and "content"')
            if role != "system":
                yield role, _text(content)
        here = node.get("parent")
    raise DataError('"mapping" goes in a circle')


def _text(content: Mapping[str, Any]) -> str | None:
    parts = content.get("parts")
    if content.get("content_type") != "text" or not isinstance(parts, list):
        return None
    return "\n".join(parts) if all(isinstance(part, str) for part in parts) else None


def _question(turns: list[tuple[Role, Any]]) -> Conversation:
    while turns and turns[-1][0] != "user":
        turns = turns[:-1]
    if not turns:
        raise Skip("nobody asks anything")
    found: list[Message] = []
    for role, text in turns:
        if role == "tool":
            raise Skip("a tool was used")
        if not isinstance(text, str):
            raise Skip("a turn is no plain text")
        if not text.strip():
            raise Skip("a turn is empty")
        if role == "system" and found:
            raise Skip("instructions in the middle")
        if found and found[-1].role == role:
            raise Skip("two turns of one speaker in a row")
        found.append(Message(role, text))
    return tuple(found)
