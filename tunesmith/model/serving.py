"""Answers to many requests out of one batch, as text while it is written: what a server asks of the engine.

Requests come and go between steps. When a step fails, those that were in the batch are written again one by one, so
that only the one at fault gets the error; nobody sees a word twice, because an answer is a function of its seed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tunesmith.contracts import Sampling, Token, Written
from tunesmith.model import adapters
from tunesmith.model.batch import Tree, build, hidden
from tunesmith.model.chat import Chat
from tunesmith.model.engine import LocalEngine, cut_at_stop, settled
from tunesmith.model.sampler import likeliest
from tunesmith.model.scheduler import Request, Scheduler, Writing
from tunesmith.model.scorer import RewardModel
from tunesmith.ops import logprobs
from tunesmith.records import Conversation, Prompt

_BYTE = {character: value for value, character in bytes_to_unicode().items()}


@dataclass(eq=False, slots=True)
class Job:
    """One request. `detail`: its tokens are reported; `live`: its text is reported as it comes."""

    tokens: Sequence[int]
    sampling: Sampling
    n: int
    model: str
    live: bool
    detail: bool
    pens: list[Pen] = field(default_factory=list)
    request: Request | None = None


@dataclass(eq=False, slots=True)
class Pen:
    """How much of one answer has been reported.

    Text is decoded from `start` on, where the tokens that `text` ends with began: a token's text may depend on the one
    before, and a character may take several.
    """

    index: int
    start: int = 0
    read: int = 0
    text: str = ""
    sent: int = 0
    told: int = 0
    ended: bool = False


class Serving:
    """The engine as a server uses it. Not for several threads."""

    def __init__(self, engine: LocalEngine):
        self.engine = engine
        self._run: Scheduler | None = None
        self._jobs: list[Job] = []
        self._suspects: deque[Job] = deque()
        self._judges: dict[Path, RewardModel] = {}

    @property
    def context(self) -> int:
        """Tokens that prompt and answer share."""
        return self.engine.context

    @property
    def vocabulary(self) -> int:
        """Tokens that there are."""
        return int(self.engine.base.model.get_input_embeddings().num_embeddings)

    @property
    def writing(self) -> int:
        """Answers in the batch."""
        return self._run.writing if self._run else 0

    @property
    def busy(self) -> bool:
        """There is something to do for `step`."""
        return bool(self._jobs or self._suspects)

    def load(self, name: str, folder: Path) -> None:
        """Attach the adapter in `folder` as `name`.

        Raises:
            ModelError: it does not fit.
        """
        self.engine.load(name, folder)

    def drop(self, name: str) -> None:
        """Forget an adapter that no request uses."""
        self.engine.drop(name)

    def encode(self, prompt: Conversation | str) -> list[int]:
        """The tokens of a conversation that waits for an answer, or of plain text to be continued.

        Raises:
            ModelError: the chat template refuses the conversation.
        """
        chat = self.engine.base.chat
        return chat.encode(prompt) if isinstance(prompt, str) else chat.prompt(prompt)

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as text, special ones left out."""
        return self.engine.base.chat.text(tokens)

    def submit(self, tokens: Sequence[int], sampling: Sampling, n: int = 1, model: str = "", *, live: bool = False,
               detail: bool = False) -> Job:
        """A request for n answers; what is written of them comes from `step`.

        Raises:
            UserError: the prompt leaves no room for an answer, or the model is not loaded.
        """
        job = Job(tokens, sampling, n, model, live, detail, [Pen(k) for k in range(n)])
        if self._suspects:
            self._suspects.append(job)
        else:
            self._start(job)
        return job

    def cancel(self, job: Job) -> None:
        """Its answers end where they are, and nothing more is reported."""
        if job in self._suspects:
            self._suspects.remove(job)
        if job in self._jobs:
            self._jobs.remove(job)
            assert self._run is not None and job.request is not None
            self._run.cancel(job.request)

    def step(self) -> list[tuple[Job, Written | Exception]]:
        """Every answer in the batch goes on by one token; what there is to tell. An exception ends its request."""
        if not self._jobs:
            self._start(self._suspects.popleft())
        assert self._run is not None
        try:
            self._run.step()
        except Exception as error:
            return self._failed(error)
        return self._news()

    def score(self, folder: Path, prompt: Conversation, answers: Sequence[str]) -> list[float]:
        """What the reward model in `folder` thinks of answers; it stays loaded.

        Raises:
            ModelError: it is none, or does not fit.
        """
        if folder not in self._judges:
            self._judges[folder] = RewardModel.load(self.engine.base, folder, f"judge{len(self._judges)}")
        return self._judges[folder].score(Prompt(prompt), answers)

    def prompt(self, tokens: Sequence[int], model: str = "", alternatives: int = 0) -> list[Token]:
        """A prompt's own tokens with their log-probs at temperature 1."""
        base, chat = self.engine.base, self.engine.base.chat
        found = [Token(*token_text(chat, tokens[0]))]
        if len(tokens) == 1:
            return found
        batch = build([Tree((tokens[0],), (tuple(tokens[1:]),))], base.device)
        with torch.inference_mode(False), torch.no_grad(), adapters.active(base, self.engine.slot(model)):
            states = hidden(base, batch, "padded" if self.engine.padded else "tree", batch.source_N)
            chosen = logprobs.from_hidden(states, base.head, batch.target_N, 1.0).tolist()
            for token, logprob, state in zip(tokens[1:], chosen, states):
                top = likeliest(base.logits(state[None])[0], 1.0, alternatives) if alternatives else ()
                found.append(self._token(token, logprob, top))
        return found

    def _start(self, job: Job) -> None:
        if self._run is None:
            self._run = self.engine.scheduler()
        how = job.sampling
        job.request = self._run.submit(job.tokens, how, [(how.seed, 0, k) for k in range(job.n)], job.model)
        self._jobs.append(job)

    def _failed(self, error: Exception) -> list[tuple[Job, Written | Exception]]:
        """Everything that was in the batch is suspect, and goes on alone; what was alone is guilty."""
        jobs, self._jobs, self._run = self._jobs, [], None
        if len(jobs) == 1:
            return [(jobs[0], error)]
        self._suspects.extendleft(reversed(jobs))
        return []

    def _news(self) -> list[tuple[Job, Written | Exception]]:
        news: list[tuple[Job, Written | Exception]] = []
        for job in list(self._jobs):
            assert job.request is not None
            for pen, answer in zip(job.pens, job.request.answers):
                if not pen.ended and (answer.done or job.live) and (written := self._report(job, pen, answer)):
                    news.append((job, written))
            if job.request.done:
                self._jobs.remove(job)
        return news

    def _report(self, job: Job, pen: Pen, answer: Writing) -> Written | None:
        """What is new of an answer; None if it is nothing yet."""
        chat, tokens = self.engine.base.chat, answer.tokens
        whole = self.engine.answer(tokens, answer.logprobs, job.sampling, job.model) if answer.done else None
        if whole is not None:
            pen.text, pen.ended, ready = whole.text, True, len(whole.text)
        else:
            before, now = chat.text(tokens[pen.start:pen.read]), chat.text(tokens[pen.start:])
            if len(now) > len(before) and not now.endswith("\ufffd"):
                pen.text += now[len(before):]
                pen.start, pen.read = pen.read, len(tokens)
            ready = len(settled(cut_at_stop(pen.text, job.sampling.stop)[0], job.sampling.stop))
        if ready <= pen.sent and whole is None:
            return None
        text, pen.sent = pen.text[pen.sent:ready], max(ready, pen.sent)
        return Written(pen.index, text, self._tokens(job, pen, answer), whole)

    def _tokens(self, job: Job, pen: Pen, answer: Writing) -> tuple[Token, ...]:
        if not job.detail:
            return ()
        new = range(pen.told, len(answer.tokens))
        pen.told = len(answer.tokens)
        return tuple(self._token(answer.tokens[i], answer.logprobs[i],
                                 answer.alternatives[i] if answer.alternatives else ()) for i in new)

    def _token(self, token: int, logprob: float, alternatives: Sequence[tuple[int, float]]) -> Token:
        chat = self.engine.base.chat
        top = tuple(Token(*token_text(chat, t), p) for t, p in alternatives)
        return Token(*token_text(chat, token), logprob, top)


@lru_cache(maxsize=65536)
def token_text(chat: Chat, token: int) -> tuple[str, bytes]:
    """A token's text and bytes; half a character has bytes of its own where the tokenizer works on bytes."""
    text, raw = chat.text([token]), str(chat.tokenizer.convert_ids_to_tokens(token))
    if "\ufffd" in text and all(character in _BYTE for character in raw):
        return text, bytes(_BYTE[character] for character in raw)
    if raw.startswith("\u2581") and text and not text.startswith(" "):  # a decoder takes the first space away
        text = " " + text
    return text, text.encode()
