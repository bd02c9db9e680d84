"""Conversations to tokens, and exactly which of them are learned.

A prompt's tokens are an exact prefix of prompt + answer: both are tokenised apart and joined, as they are when the
model itself writes the answer. Templates that rewrite earlier turns cannot do that and are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        bos = tokenizer.bos_token_id
        self._bos = [bos] if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else []
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
        return _learned(tokens, weight)

    def render_all(self, conversations: Sequence[Conversation]) -> list[Rendered]:
        """What `render` gives for each, with one call of the tokenizer for all of them.

        Raises:
            DataError: as `render`, for the first such conversation.
            ModelError: the template rewrites earlier turns.
        """
        parts = [self._parts(messages, None)[0] for messages in conversations]
        ids = iter(self._ids_of_all([text for turns in parts for text, _ in turns]))
        return [_learned(*self._join((next(ids), weight) for _, weight in turns)) for turns in parts]

    def _pieces(self, messages: Conversation, text: str | None) -> tuple[list[int], list[float], str]:
        """(tokens, weights) up to the last assistant turn, and what of `text` comes behind it."""
        parts, rest = self._parts(messages, text)
        return *self._join((self._ids(part), weight) for part, weight in parts), rest

    def _parts(self, messages: Conversation, text: str | None) -> tuple[list[tuple[str, float | None]], str]:
        """The texts that are tokenised apart, up to the last assistant turn, each with its weight (None: context), and
        what of `text` comes behind them.

        An assistant turn that opens the conversation answers nothing, so it is context, like a user turn.
        """
        parts: list[tuple[str, float | None]] = []
        before, content = "", None
        for i, message in enumerate(messages):
            if message.role == "assistant" and i:
                start = self._text(messages[:i], generation=True)
                parts += [(self._behind(start, before, content), None), (message.content, float(message.weight))]
                before, content = start, message.content
        return parts, "" if text is None else self._behind(text, before, content)

    def _join(self, parts: Iterable[tuple[list[int], float | None]]) -> tuple[list[int], list[float]]:
        """Tokens of `_parts` as one conversation, with the ends of assistant turns, and each token's weight."""
        tokens: list[int] = []
        weights: list[float] = []
        for ids, weight in parts:
            new = self._begun(ids, first=not tokens) if weight is None else [*ids, self.end]
            tokens += new
            weights += [weight or 0.0] * len(new)
        return tokens, weights

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
        return self._begun(self._ids(text), first)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _ids_of_all(self, texts: list[str]) -> list[list[int]]:
        """`_ids` of each, but quicker: once where texts are alike, as labels are, and a fast tokenizer's core need not
        say where in the text a token stands."""
        once = list(dict.fromkeys(texts))
        if self.tokenizer.is_fast:
            encoded = self.tokenizer.backend_tokenizer.encode_batch_fast(once, add_special_tokens=False)
            known = {text: e.ids for text, e in zip(once, encoded)}
        else:
            known = {text: self._ids(text) for text in once}
        return [known[text] for text in texts]

    def _begun(self, ids: list[int], first: bool) -> list[int]:
        """With the token that begins a text, if this begins one and the tokenizer has it so."""
        return self._bos + ids if first and ids[:1] != self._bos else ids

    def _end_of_turn(self) -> int:
        """The token that ends an assistant turn: the first special token behind its content, else eos."""
        text = self._text([Message("user", "a"), Message("assistant", "probe")], generation=False)
        _, _, tail = text.rpartition("probe")
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        end = next((i for i in self._encode(tail) if i in special), None) if tail != text else None
        self._end_text = "" if end is None else str(self.tokenizer.decode([end]))
        return self.eos if end is None else end


def _learned(tokens: list[int], weight: list[float]) -> Rendered:
    if not any(weight):
        raise DataError("no assistant turn to learn from (every message's weight is 0 or there is none)")
    return Rendered(tuple(tokens), tuple(weight))
