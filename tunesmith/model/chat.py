"""Conversations to tokens, and exactly which of them are learned.

A prompt's tokens are an exact prefix of prompt + answer: both are tokenised apart and joined, as they are when the
model itself writes the answer. Templates that rewrite earlier turns cannot do that and are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import DataError, ModelError
from tunesmith.records import Conversation, Message, fingerprint, turns

PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% else %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""For bases without a chat template (GPT-2, say)."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Tokens of a conversation and, for each, its weight in the loss (0: context only)."""

    tokens: tuple[int, ...]
    weight: tuple[float, ...]


class Chat:
    """A tokenizer with its template."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise ModelError("the tokenizer names no eos token; set eos_token in tokenizer_config.json")
        self.template = tokenizer.chat_template or PLAIN_TEMPLATE
        self.eos: int = tokenizer.eos_token_id
        self.end = self._end_of_turn()

    @property
    def fingerprint(self) -> str:
        """Names the tokens and the template: an adapter that learned with others reads something else here."""
        return fingerprint([self.template, self.end, sorted(self.tokenizer.get_vocab().items())])

    def prompt(self, messages: Conversation) -> list[int]:
        """Tokens up to where the assistant begins to write: exactly `render`'s tokens for the same turns."""
        text = self._text(messages, generation=True)
        try:
            tokens, _, rest = self._pieces(messages, text)
        except ModelError:  # the template rewrites earlier turns: there is no learned rendering to agree with
            return self._encode(text, first=True)
        return tokens + self._encode(rest, first=not tokens)

    def encode(self, text: str) -> list[int]:
        """The tokens of plain text from its beginning, without a template."""
        return self._encode(text, first=True)

    def answer(self, text: str) -> list[int]:
        """An assistant turn's tokens, end of turn included."""
        return [*self._encode(text), self.end]

    def render(self, messages: Conversation) -> Rendered:
        """The whole conversation; assistant turns of positive weight are learned, their end of turn included;
        a greeting before the first user turn is context only.

        Raises:
            DataError: not one token would be learned.
            ModelError: the template rewrites earlier turns.
        """
        tokens, weight, _ = self._pieces(messages, None)
        if not any(weight):
            raise DataError("no assistant turn to learn from (every message's weight is 0 or there is none)")
        return Rendered(tuple(tokens), tuple(weight))

    def _pieces(self, messages: Conversation, text: str | None) -> tuple[list[int], list[float], str]:
        """(tokens, weights) up to the last assistant turn, and what of `text` comes behind it.

        An assistant turn that opens the conversation answers nothing, so it is context, like a user turn.
        """
        tokens: list[int] = []
        weight: list[float] = []
        before, content = "", None
        for i, message in enumerate(messages):
            if message.role == "assistant" and i:
                start = self._text(messages[:i], generation=True)
                context = self._encode(self._behind(start, before, content), first=not tokens)
                answer = self.answer(message.content)
                tokens += context + answer
                weight += [0.0] * len(context) + [float(message.weight)] * len(answer)
                before, content = start, message.content
        return tokens, weight, "" if text is None else self._behind(text, before, content)

    def _behind(self, text: str, before: str, content: str | None) -> str:
        """What `text` says behind the assistant turn `content` that followed `before`; all of it without a turn.

        Many templates trim a turn or set spaces around it; that much is forgiven.
        """
        if content is None:
            return text
        if text.startswith(before):
            rest = text[len(before):].lstrip()
            if rest.startswith(content.strip()):
                rest = rest[len(content.strip()):]
                if (tail := rest.lstrip() if self._end_text else rest).startswith(self._end_text):
                    return tail[len(self._end_text):]
        raise ModelError("this base's chat template rewrites earlier turns, so its tokens cannot be learned turn by "
                         "turn; train on the last assistant turn only or use another template")

    def text(self, tokens: Sequence[int]) -> str:
        """The answer's text, without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True,
                                         clean_up_tokenization_spaces=False))

    def _text(self, messages: Sequence[Message], generation: bool) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(
                turns(tuple(messages)), chat_template=self.template, tokenize=False, add_generation_prompt=generation))
        except Exception as e:  # jinja raises many kinds; the template's own words matter
            raise ModelError(f"the base's chat template refuses this conversation: {e}") from e

    def _encode(self, text: str, first: bool = False) -> list[int]:
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        bos = self.tokenizer.bos_token_id
        if first and bos is not None and ids[:1] != [bos] and self.tokenizer("")["input_ids"][:1] == [bos]:
            ids.insert(0, bos)
        return ids

    def _end_of_turn(self) -> int:
        """The token that ends an assistant turn: the first special token behind its content, else eos."""
        text = self._text([Message("user", "a"), Message("assistant", "probe")], generation=False)
        _, _, tail = text.rpartition("probe")
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        end = next((i for i in self._encode(tail) if i in special), None) if tail != text else None
        self._end_text = "" if end is None else str(self.tokenizer.decode([end]))
        return self.eos if end is None else end
