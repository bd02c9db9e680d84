"""How likely given texts are: log-probs of continuations, each prompt computed once for all of its continuations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tunesmith.contracts import Read
from tunesmith.errors import DataError, TooLong
from tunesmith.model import adapters
from tunesmith.model.batch import Tree, build, hidden, split
from tunesmith.model.engine import LocalEngine
from tunesmith.model.scorer import BUDGET
from tunesmith.ops import logprobs
from tunesmith.records import Conversation

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens of a context and of what follows it."""


class LocalReader:
    """`contracts.Reader` on an engine's resident base: the models are those that the engine has loaded."""

    def __init__(self, engine: LocalEngine):
        self.engine = engine
        self._cut = "", 1  # the newest plain context, and how many tokens it is

    @torch.no_grad()
    def read(self, contexts: Sequence[Conversation | str], texts: Sequence[Sequence[str]], *, model: str = "",
             cut: bool = False, progress: Callable[[int], None] | None = None) -> list[list[Read]]:
        """A text behind nothing may be as long as it likes: what the model cannot read at once is read in parts.

        Raises:
            DataError: an empty text.
            TooLong: a context with a text is longer than the model reads (with `cut`: a text alone is).
        """
        base, slot = self.engine.base, self.engine.slot(model)
        if not all(map(all, texts)):
            raise DataError("an empty text has no likelihood")
        room = adapters.room(base, slot)
        pairs = [[_fitting(self._pair(context, text), room, cut, rolling=context == "") for text in row]
                 for context, row in zip(contexts, texts, strict=True)]
        trees, places = _trees(pairs)
        out = [[Read(0.0, 0, True) for _ in row] for row in texts]
        left = [sum(map(len, row)) for row in pairs]
        for part in split(trees, BUDGET):
            batch = build([trees[i] for i in part], base.device)
            with adapters.active(base, slot):
                states = hidden(base, batch, at=batch.source_N)
                logp_N, right_N = logprobs.judged(states, base.head, batch.target_N)
            mask_AT = batch.mask()
            sums, counts = batch.table(logp_N).sum(1).tolist(), mask_AT.sum(1)
            greedy = (batch.table(right_N).sum(1) == counts).tolist()
            done = 0
            for (n, k), logprob, count, is_greedy in zip((p for i in part for p in places[i]), sums, counts.tolist(),
                                                         greedy, strict=True):
                before = out[n][k]
                out[n][k] = Read(before.logprob + logprob, before.tokens + count, before.greedy and is_greedy)
                left[n] -= 1
                done += not left[n]
            if progress and done:
                progress(done)
        return out

    @torch.no_grad()
    def divergence(self, ones: Sequence[Conversation], others: Sequence[Conversation], texts: Sequence[str], *,
                   first: int = 32, model: str = "") -> list[float]:
        """How differently the model goes on behind two contexts: KL(one | other) + KL(other | one) of the next-token
        distributions over the whole vocabulary (Jeffreys 1946), along the `first` tokens of each text (fewer if there
        is no room for them) and its end, in nats per token.

        Raises:
            TooLong: a context leaves no room for a token.
        """
        base, slot, chat = self.engine.base, self.engine.slot(model), self.engine.base.chat
        room = adapters.room(base, slot)
        prompts = [[tuple(chat.prompt(c)) for c in contexts] for contexts in (ones, others)]
        answers = [tuple(chat.answer(text)[:max(0, min(first, room - max(len(one), len(other))))])
                   for one, other, text in zip(*prompts, texts, strict=True)]
        if not all(answers):
            raise TooLong(f"a context leaves no room for a token: the model reads {room}")
        sides = [[Tree(p, (a,)) for p, a in zip(side, answers, strict=True)] for side in prompts]
        out: list[float] = []
        for part in split(sides[0], BUDGET):
            batches = [build([trees[i] for i in part], base.device) for trees in sides]
            with adapters.active(base, slot):
                one, other = (hidden(base, b, at=b.source_N) for b in batches)
                kl_N = (logprobs.kl_from_hidden(one, other, base.head)
                        + logprobs.kl_from_hidden(other, one, base.head))
            table_AT = batches[0].table(kl_N)
            out += (table_AT.sum(1) / batches[0].mask().sum(1)).tolist()
        return out

    def _pair(self, context: Conversation | str, text: str) -> Pair:
        """A plain text is tokenised with its context, as lm-evaluation-harness does: spaces at the end of the context
        go to the text, and the cut lies behind as many tokens as the context has alone."""
        chat = self.engine.base.chat
        if not isinstance(context, str):
            return tuple(chat.prompt(context)), tuple(chat.answer(text)[:-1])
        kept = context.rstrip() if context.strip() else ""
        whole = chat.encode(context + text)
        if not kept and (len(whole) < 2 or whole[0] != chat.tokenizer.bos_token_id):
            bos = chat.tokenizer.bos_token_id  # the model begins from nothing, but something must stand first
            whole.insert(0, chat.eos if bos is None else bos)
        if kept != self._cut[0]:
            self._cut = kept, len(chat.encode(kept)) if kept else 1
        cut = min(self._cut[1], len(whole) - 1)
        return tuple(whole[:cut]), tuple(whole[cut:])


def _fitting(pair: Pair, room: int, cut: bool, rolling: bool) -> list[Pair]:
    """The pair as the model can read it. In parts (`rolling`), each token is told once, and the last part has as much
    before it as there is room for: lm-evaluation-harness's disjoint windows."""
    prompt, text = pair
    if len(prompt) + len(text) <= room:
        return [pair]
    if rolling:
        whole, ends = (*prompt, *text), range(len(prompt), len(prompt) + len(text), room - 1)
        return [(whole[max(0, min(at + room - 1, len(whole)) - room):at], whole[at:at + room - 1]) for at in ends]
    if cut and len(text) < room:
        return [(prompt[len(prompt) + len(text) - room:], text)]
    raise TooLong(f"a context with its continuation is longer than the {room} tokens that the model reads")


def _trees(pairs: Sequence[Sequence[Sequence[Pair]]]) -> tuple[list[Tree], list[list[tuple[int, int]]]]:
    """One tree per context (or per its ways of being cut), the longest first, and where each of its answers belongs."""
    found: list[tuple[Tree, list[tuple[int, int]]]] = []
    for n, row in enumerate(pairs):
        by_prompt: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
        for k, parts in enumerate(row):
            for prompt, text in parts:
                by_prompt.setdefault(prompt, []).append((k, text))
        for prompt, answers in by_prompt.items():
            found.append((Tree(prompt, tuple(text for _, text in answers)), [(n, k) for k, _ in answers]))
    found.sort(key=lambda pair: -pair[0].size)
    return [tree for tree, _ in found], [where for _, where in found]
