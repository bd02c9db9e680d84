"""How likely given texts are: log-probs of continuations, each prompt computed once for all of its continuations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tunesmith.contracts import Read
from tunesmith.errors import DataError
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

    @torch.no_grad()
    def read(self, contexts: Sequence[Conversation | str], texts: Sequence[Sequence[str]], *, model: str = "",
             progress: Callable[[int], None] | None = None) -> list[list[Read]]:
        """
        Raises:
            DataError: an empty text, or a context with a text that is longer than the model reads.
        """
        base, slot = self.engine.base, self.engine.slot(model)
        if not all(map(all, texts)):
            raise DataError("an empty text has no likelihood")
        pairs = [[self._pair(context, text) for text in row] for context, row in zip(contexts, texts, strict=True)]
        trees, places = _trees(pairs)
        room = adapters.room(base, slot)
        for tree in trees:
            if len(tree.prompt) + max(map(len, tree.answers)) > room:
                raise DataError(f"a context with its continuation is longer than the {room} tokens that the model "
                                "reads")
        out: list[list[Read | None]] = [[None] * len(row) for row in texts]
        left = [len(row) for row in texts]
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
                out[n][k] = Read(logprob, count, is_greedy)
                left[n] -= 1
                done += not left[n]
            if progress and done:
                progress(done)
        return [[read for read in row if read] for row in out]

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
        cut = min(len(chat.encode(kept)) if kept else 1, len(whole) - 1)
        return tuple(whole[:cut]), tuple(whole[cut:])


def _trees(pairs: Sequence[Sequence[Pair]]) -> tuple[list[Tree], list[list[tuple[int, int]]]]:
    """One tree per context (or per its ways of being cut), and where each of its answers belongs."""
    trees, places = [], []
    for n, row in enumerate(pairs):
        by_prompt: dict[tuple[int, ...], list[int]] = {}
        for k, (prompt, _) in enumerate(row):
            by_prompt.setdefault(prompt, []).append(k)
        for prompt, ks in by_prompt.items():
            trees.append(Tree(prompt, tuple(row[k][1] for k in ks)))
            places.append([(n, k) for k in ks])
    return trees, places
