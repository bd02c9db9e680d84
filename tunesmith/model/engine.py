"""The local engine: answers from the resident base with any attached adapter.

Rows are decoded together with a KV cache; a prompt is computed once for its n answers; rows that have finished
leave the batch. Every row draws from its own stream of random numbers, so an answer does not depend on what else
is in the batch. Left out for now: continuous batching over requests and several adapters in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from tunesmith.contracts import Sampling
from tunesmith.errors import UserError
from tunesmith.model import adapters
from tunesmith.model.base import Base
from tunesmith.records import Answer, Conversation

COMPACT = 0.75
"""When fewer than this share of the rows still write, the finished ones leave the batch."""


class LocalEngine:
    """`contracts.Engine` on one base; several adapters by name, one at a time."""

    def __init__(self, base: Base, rows: int = 64):
        self.base = base
        self.rows = rows
        self._slots: dict[str, str] = {}

    @property
    def context(self) -> int:
        """Tokens that prompt and answer share."""
        return self.base.context

    def load(self, name: str, folder: Path) -> None:
        """Attach the adapter in `folder` as `name`; a second call with the same name replaces it."""
        slot = self._slots.get(name) or f"served{len(self._slots)}"
        adapters.load(self.base, slot, folder)
        self._slots[name] = slot

    def use(self, name: str, slot: str) -> None:
        """Let `name` mean an adapter that is attached already (the trainer's policy, say)."""
        self._slots[name] = slot

    def models(self) -> list[str]:
        """The names that `sample` takes besides "" for the bare base."""
        return list(self._slots)

    def count(self, messages: Conversation) -> int:
        """Tokens of a prompt."""
        return len(self.base.chat.prompt(messages))

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token."""
        return [self.base.chat.text([t]) for t in tokens]

    def sample(self, prompts: Sequence[Conversation], sampling: Sampling, *, n: int = 1, model: str = "",
               progress: Callable[[int], None] | None = None) -> list[list[Answer]]:
        """n answers for each prompt; prompt i's seed is `(sampling.seed, i)`.

        Raises:
            UserError: a prompt leaves no room for an answer in the base's context.
        """
        encoded = [self.base.chat.prompt(p) for p in prompts]
        self._check(encoded)
        order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))  # alike lengths together: less padding
        out: list[list[Answer]] = [[] for _ in prompts]
        step = max(1, self.rows // n)
        for start in range(0, len(order), step):
            part = order[start:start + step]
            seeds = [(sampling.seed, i, k) for i in part for k in range(n)]
            rows = self.generate([encoded[i] for i in part], sampling, seeds, n=n, model=model)
            for j, i in enumerate(part):
                out[i] = [self._answer(*rows[j * n + k], sampling, model) for k in range(n)]
            if progress:
                progress(len(part))
        return out

    def stream(self, messages: Conversation, sampling: Sampling, *, model: str = "") -> Generator[str, None, Answer]:
        """One answer in pieces of text; the generator's return value is the whole `Answer`."""
        prompt = self.base.chat.prompt(messages)
        self._check([prompt])
        tokens: list[int] = []
        logprobs: list[float] = []
        sent = ""
        for chosen, logp in self._decode([prompt], sampling, [(sampling.seed, 0, 0)], 1, model):
            tokens.append(int(chosen[0]))
            logprobs.append(float(logp[0]))
            text, cut = cut_at_stop(self.base.chat.text(tokens), sampling.stop)
            ready = text if cut else _settled(text, sampling.stop)
            if len(ready) > len(sent):
                yield ready[len(sent):]
                sent = ready
            if cut:
                break
        answer = self._answer(tokens, logprobs, sampling, model)
        if len(answer.text) > len(sent):
            yield answer.text[len(sent):]
        return answer

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[tuple[int, ...]], *,
                 n: int = 1, model: str = "") -> list[tuple[list[int], list[float]]]:
        """Token-level `sample`: for each prompt n rows of (tokens with the end of turn if it came, log-probs).

        A log-prob is of the distribution at `temperature` over the whole vocabulary, before any top-p cut: what a
        fresh forward pass gives for that token.
        """
        rows: list[tuple[list[int], list[float]]] = [([], []) for _ in range(len(prompts) * n)]
        stopped = [False] * len(rows)
        end = self.base.chat.end
        steps = self._decode(prompts, sampling, seeds, n, model, stopped)
        for chosen, logp in steps:
            for i, (token, value) in enumerate(zip(chosen.tolist(), logp.tolist())):
                if stopped[i] or token < 0:
                    continue
                rows[i][0].append(token)
                rows[i][1].append(value)
                stopped[i] = token == end or (
                    bool(sampling.stop) and cut_at_stop(self.base.chat.text(rows[i][0]), sampling.stop)[1])
        return rows

    @torch.inference_mode()
    def _decode(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[tuple[int, ...]], n: int,
                model: str, stopped: list[bool] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (tokens, log-probs) of all rows step by step; -1 for rows that have left.

        The consumer may set `stopped[i]`: that row ends. Ends when every row has.
        """
        base, device = self.base, self.base.device
        total = len(prompts) * n
        stopped = [False] * total if stopped is None else stopped
        uniform = _uniforms(seeds, sampling.max_tokens)
        width = max(map(len, prompts))
        pad = base.pad
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        room = [min(sampling.max_tokens, base.context - len(p)) for p in prompts for _ in range(n)]
        cache = DynamicCache(config=base.model.config)
        slot = self.slot(model)
        alive = torch.arange(total, device=device)
        position = positions[:, -1:].repeat_interleave(n, 0)
        with adapters.active(base, slot):
            out = base.trunk(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                             use_cache=True)
        states = out.last_hidden_state[:, -1].repeat_interleave(n, 0)
        if n > 1:
            cache.batch_repeat_interleave(n)
            mask = mask.repeat_interleave(n, 0)
        for step in range(sampling.max_tokens):
            tokens, logp = _draw(base.logits(states), sampling, uniform[alive.cpu().numpy(), step])
            chosen = torch.full((total,), -1, device=device).index_copy_(0, alive, tokens)
            values = torch.zeros(total, device=device).index_copy_(0, alive, logp)
            yield chosen, values
            keep = [j for j, i in enumerate(alive.tolist())
                    if not (stopped[i] or int(tokens[j]) == base.chat.end or step + 1 >= room[i])]
            for i in set(alive.tolist()) - {int(alive[j]) for j in keep}:
                stopped[i] = True
            if not keep:
                return
            if len(keep) < COMPACT * len(alive):
                index = torch.tensor(keep, device=device)
                cache.batch_select_indices(index)
                alive, tokens, mask, position = alive[index], tokens[index], mask[index], position[index]
            position = (position + 1).clamp_max(base.context - 1)  # only rows that have ended reach it
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], 1)
            with adapters.active(base, slot):
                out = base.trunk(input_ids=tokens[:, None], attention_mask=mask, position_ids=position,
                                 past_key_values=cache, use_cache=True)
            states = out.last_hidden_state[:, -1]

    def slot(self, model: str) -> str:
        """The attached adapter that a model name means; "" for the bare base."""
        if not model:
            return ""
        if model not in self._slots:
            raise UserError(f'model "{model}" is not loaded')
        return self._slots[model]

    def _check(self, prompts: Sequence[Sequence[int]]) -> None:
        longest = max((len(p) for p in prompts), default=0)
        if longest >= self.base.context:
            raise UserError(f"a prompt of {longest} tokens leaves no room for an answer: base {self.base.spec} takes "
                            f"{self.base.context}; shorten or drop such prompts")

    def _answer(self, tokens: list[int], logprobs: list[float], sampling: Sampling, model: str) -> Answer:
        text, cut = cut_at_stop(self.base.chat.text(tokens), sampling.stop)
        finished = cut or tokens[-1:] == [self.base.chat.end]
        how = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        return Answer(text, model or self.base.spec, tuple(tokens), tuple(logprobs), finished, how)


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there was one."""
    found = [at for s in stop if (at := text.find(s)) >= 0]
    return (text[:min(found)], True) if found else (text, False)


def _settled(text: str, stop: Sequence[str]) -> str:
    """What may be sent already: nothing that could still become a stop string or half a character."""
    hold = max((k for s in stop for k in range(1, len(s)) if text.endswith(s[:k])), default=0)
    text = text[:len(text) - hold]
    return text[:-1] if text.endswith("\ufffd") else text


def _uniforms(seeds: Sequence[tuple[int, ...]], steps: int) -> np.ndarray:
    """One row of uniforms in [0, 1) per seed, [rows, steps]."""
    return np.stack([np.random.default_rng(seed).random(steps) for seed in seeds])


def _draw(logits_BV: Tensor, sampling: Sampling, uniform_B: np.ndarray) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probs at this temperature; temperature 0 takes the likeliest (log-prob at 1)."""
    logp_BV = (logits_BV.float() / (sampling.temperature or 1.0)).log_softmax(-1)
    if sampling.temperature == 0:
        token_B = logp_BV.argmax(-1)
    else:
        p_BV = logp_BV.exp() if sampling.top_p >= 1 else _nucleus(logp_BV.exp(), sampling.top_p)
        edges_BV = p_BV.double().cumsum(-1)
        u_B = torch.as_tensor(uniform_B, device=logits_BV.device, dtype=torch.float64) * edges_BV[:, -1]
        token_B = torch.searchsorted(edges_BV, u_B[:, None], right=True)[:, 0].clamp_max(logits_BV.shape[-1] - 1)
    return token_B, logp_BV.gather(-1, token_B[:, None])[:, 0]


def _nucleus(p_BV: Tensor, top_p: float) -> Tensor:
    """Zero outside the smallest set of likeliest tokens whose mass reaches top_p (arXiv 1904.09751)."""
    sorted_BV, index_BV = p_BV.sort(-1, descending=True)
    drop_BV = sorted_BV.cumsum(-1) - sorted_BV >= top_p
    return p_BV.masked_fill(torch.zeros_like(drop_BV).scatter(-1, index_BV, drop_BV), 0.0)
