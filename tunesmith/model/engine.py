"""The local engine: answers from the resident base with any attached adapter, or with several in one batch.

Token-level work is elsewhere: `scheduler` (who is written when), `decoding` and `cache` (forward passes), `sampler`.
Left out: CUDA graphs and torch.compile. On a CPU compiling the step costs 14 s and gains a third, which pays after
about 55 batches; on a GPU neither has been measured.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from pathlib import Path

import torch

from tunesmith.contracts import Sampling
from tunesmith.errors import UserError
from tunesmith.model import adapters, lora
from tunesmith.model.base import Base
from tunesmith.model.decoding import PaddedRows, Rows, SlotRows, takes_slots
from tunesmith.model.known import Known
from tunesmith.model.scheduler import Request, Scheduler
from tunesmith.model.virtual import Virtual
from tunesmith.records import Answer, Conversation

MERGE = 48
"""Steps from which on one adapter is folded into the weights. Folding costs about one pass over them, as long as half a
step of 32 rows (6M parameters) or a whole one (135M), and takes a fourteenth off each step; answers may end long before
`max_tokens`."""

COPY = 2**30
"""Bytes of weights that folding may copy; a larger base is used unfolded."""


class LocalEngine:
    """`contracts.Engine` on one base; adapters by name.

    `rows` answers are written at a time. `padded` decodes the plain way, which is slower; it is taken by itself for a
    base whose attention cannot take a flat stream. `known` keeps what prompts have in common; only for adapters that no
    trainer changes.
    """

    def __init__(self, base: Base, rows: int = 64, *, padded: bool | None = None, known: Known | None = None):
        self.base = base
        self.rows = rows
        self.padded = padded
        self.known = known
        self._slots: dict[str, str] = {}
        self._own: set[str] = set()  # slots that `load` made; others may belong to a trainer
        self._folded = ""
        self._mixed: tuple[tuple[str, ...], lora.Mixture] | None = None
        self._stacks: dict[tuple[str, ...], lora.Stacks] = {}

    @property
    def context(self) -> int:
        """Tokens that prompt and answer share."""
        return self.base.context

    def load(self, name: str, folder: Path) -> None:
        """Attach the adapter in `folder` as `name`; a second call with the same name replaces it, also for answers
        that are being written.

        Raises:
            ModelError: the folder does not fit; `name` means what it meant before.
        """
        taken = adapters.names(self.base)
        slot = next(s for i in count() if (s := f"served{i}") not in taken)
        adapters.load(self.base, slot, folder)
        before = self._slots.get(name)
        self.use(name, slot)
        if before in self._own and before not in self._slots.values():
            adapters.remove(self.base, before)
            self._own.remove(before)
        self._own.add(slot)

    def drop(self, name: str) -> None:
        """Forget a model that is in no batch; its memory is freed if `load` made it."""
        slot = self._slots.pop(name, "")
        self._forget()
        if self.known:
            self.known.forget(name)
        if slot in self._own and slot not in self._slots.values():
            adapters.remove(self.base, slot)
            self._own.remove(slot)

    def use(self, name: str, slot: str) -> None:
        """Let `name` mean an adapter that is attached already (the trainer's policy, say)."""
        if self.known:
            self.known.forget(name)
        self._slots[name] = slot
        self._folded = ""
        self._forget()

    def models(self) -> list[str]:
        """The names that `sample` takes besides "" for the bare base."""
        return list(self._slots)

    def count(self, messages: Conversation) -> int:
        """Tokens of a prompt."""
        return len(self.base.chat.prompt(messages))

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token."""
        return [self.base.chat.text([t]) for t in tokens]

    def sample(self, prompts: Sequence[Conversation | str], sampling: Sampling, *, n: int = 1,
               model: str | Sequence[str] = "", progress: Callable[[int], None] | None = None) -> list[list[Answer]]:
        """n answers for each prompt from `model`, one name or one per prompt; prompt i's seed is `(sampling.seed, i)`.

        Plain text that leaves less than `max_tokens` loses its beginning, as in lm-evaluation-harness; half of the
        context stays in any case.

        Raises:
            TooLong: a conversation leaves no room for an answer in the base's context.
        """
        most = max(self.context - sampling.max_tokens, self.context // 2)
        chat = self.base.chat
        encoded = [(chat.encode(p) or [chat.eos])[-most:] if isinstance(p, str) else chat.prompt(p) for p in prompts]
        names = [model] * len(prompts) if isinstance(model, str) else list(model)
        seeds = [(sampling.seed, i, k) for i in range(len(prompts)) for k in range(n)]
        rows = self.generate(encoded, sampling, seeds, n=n, models=names, progress=progress)
        return [[self.answer(*rows[i * n + k], sampling, name) for k in range(n)] for i, name in enumerate(names)]

    def stream(self, messages: Conversation, sampling: Sampling, *, model: str = "") -> Generator[str, None, Answer]:
        """One answer in pieces of text; the generator's return value is the whole `Answer`."""
        run = self.scheduler()
        writing = run.submit(self.base.chat.prompt(messages), sampling, [(sampling.seed, 0, 0)], model).answers[0]
        sent = ""
        while run.busy:
            run.step()
            text, cut = cut_at_stop(self.base.chat.text(writing.tokens), sampling.stop)
            ready = text if cut else settled(text, sampling.stop)
            if len(ready) > len(sent):
                yield ready[len(sent):]
                sent = ready
        answer = self.answer(writing.tokens, writing.logprobs, sampling, model)
        if len(answer.text) > len(sent):
            yield answer.text[len(sent):]
        return answer

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[tuple[int, ...]], *,
                 n: int = 1, model: str = "", models: Sequence[str] = (),
                 progress: Callable[[int], None] | None = None) -> list[tuple[list[int], list[float]]]:
        """Token-level `sample`: for each prompt n rows of (tokens with the end of turn if it came, log-probs).

        Any number of prompts, long ones first; `models` names one adapter per prompt instead of `model` for all.
        A log-prob is of the distribution at `temperature` over the whole vocabulary, before any top-p cut: what a
        fresh forward pass gives for that token.

        Raises:
            TooLong: a prompt leaves no room for an answer in the base's context.
            ModelError: an adapter is more than plain LoRA and cannot share a batch with others.
        """
        names = list(models) or [model] * len(prompts)
        run = self.scheduler()
        with self._perhaps_folded(set(names), sampling.max_tokens):
            requests: list[Request | None] = [None] * len(prompts)
            for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
                requests[i] = run.submit(prompts[i], sampling, seeds[i * n:(i + 1) * n], names[i])
            while run.busy:
                ended = dict.fromkeys(a.request for a in run.step())
                if progress and (complete := sum(r.done for r in ended)):
                    progress(complete)
        return [(a.tokens, a.logprobs) for r in requests if r for a in r.answers]

    def scheduler(self) -> Scheduler:
        """An empty batch of its own, to which requests may be submitted at any time."""
        if self.padded is None:
            self.padded = not takes_slots(self.base)
        self._forget()
        rows: Rows = (PaddedRows(self.base, self._ahead) if self.padded else
                      SlotRows(self.base, self._ahead, self.known))
        return Scheduler(self.base, rows, self._weights, self.rows, self._stopped, self._shares)

    def _weights(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """The adapters of these tokens, by the names they have now."""
        slots = tuple(self.slot(name) for name in names)
        if len(set(slots)) == 1:
            return nullcontext() if self._folded == slots[0] != "" else adapters.active(self.base, slots[0])
        if self._mixed is None or self._mixed[0] != slots:
            self._mixed = slots, adapters.mixture(self.base, slots, self._stacks)
        return adapters.mixed(self.base, self._mixed[1])

    def _ahead(self, model: str) -> Virtual | None:
        """The virtual tokens of a model, if it has any."""
        found: Virtual | None = self.base.virtual.get(self.slot(model))
        return found

    def _forget(self) -> None:
        """Adapters have been exchanged, or may have been trained."""
        self._mixed = None
        self._stacks.clear()

    @contextmanager
    def _perhaps_folded(self, names: set[str], steps: int) -> Iterator[None]:
        """One adapter over many steps is folded into copies of the weights. Only in float32: rounded to bfloat16, the
        sum would not be what the learner computes."""
        slots = [self.slot(name) for name in names]
        exact = self.base.dtype == torch.float32
        if len(slots) != 1 or not slots[0] or steps < MERGE or not exact or 4 * self.base.parameters > COPY:
            yield
            return
        with adapters.merged(self.base, slots[0]):
            self._folded = slots[0]
            try:
                yield
            finally:
                self._folded = ""

    def _stopped(self, tokens: Sequence[int], sampling: Sampling) -> bool:
        """Whether the newest token completes a stop string; a character takes four tokens at most."""
        if not sampling.stop:
            return False
        recent = tokens[-4 * max(map(len, sampling.stop)) - 8:]
        return cut_at_stop(self.base.chat.text(recent), sampling.stop)[1]

    def _shares(self, model: str) -> bool:
        return adapters.shares(self.base, self.slot(model))

    def slot(self, model: str) -> str:
        """The attached adapter that a model name means; "" for the bare base."""
        if not model:
            return ""
        if model not in self._slots:
            raise UserError(f'model "{model}" is not loaded')
        return self._slots[model]

    def answer(self, tokens: list[int], logprobs: list[float], sampling: Sampling, model: str) -> Answer:
        """The record of what was written."""
        text, cut = cut_at_stop(self.base.chat.text(tokens), sampling.stop)
        finished = cut or tokens[-1:] == [self.base.chat.end]
        how = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        return Answer(text, model or self.base.spec, tuple(tokens), tuple(logprobs), finished, how)


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there was one."""
    found = [at for s in stop if (at := text.find(s)) >= 0]
    return (text[:min(found)], True) if found else (text, False)


def settled(text: str, stop: Sequence[str]) -> str:
    """What may be sent already: nothing that could still become a stop string or half a character, which shows as
    one to three replacement characters."""
    text = text.rstrip("\ufffd")
    hold = max((k for s in stop for k in range(1, len(s)) if text.endswith(s[:k])), default=0)
    return text[:len(text) - hold]
