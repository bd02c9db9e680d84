"""Drawing tokens: exact and reproducible, at a few passes over the vocabulary.

A token is where the cumulative distribution passes a uniform number. The sum runs over blocks first and then inside
one block, so that no table of cumulative sums over the vocabulary is ever written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tunesmith.contracts import Sampling

BLOCK = 128
LIKELY = 512
"""A nucleus of so many tokens is found without sorting the whole vocabulary."""


def uniforms(seed: tuple[int, ...], steps: int) -> np.ndarray:
    """An answer's own stream of random numbers in [0, 1), one per token."""
    return np.random.default_rng(seed).random(steps)


def weighed(logits_BV: Tensor, samplings: Sequence[Sampling], written: Sequence[Sequence[int]]) -> Tensor:
    """The logits, changed in place, with each row's biases and its penalties for tokens that it has `written`:
    presence once, frequency for every time."""
    for row, (how, tokens) in enumerate(zip(samplings, written)):
        change = Counter(dict(how.logit_bias))
        for token, times in Counter(tokens).items() if how.presence_penalty or how.frequency_penalty else ():
            change[token] -= how.presence_penalty + how.frequency_penalty * times  # type: ignore[assignment]
        if change:
            logits_BV[row, list(change)] += logits_BV.new_tensor(list(change.values()))
    return logits_BV


def likeliest(logits_V: Tensor, temperature: float, count: int) -> list[tuple[int, float]]:
    """The `count` likeliest tokens of one row and their log-probs at its temperature (0: at 1)."""
    found = (logits_V.float() / (temperature or 1.0)).log_softmax(-1).topk(min(count, len(logits_V)))
    return list(zip(found.indices.tolist(), found.values.tolist()))


def draw(logits_BV: Tensor, samplings: Sequence[Sampling], uniform_B: Sequence[float]) -> tuple[Tensor, Tensor]:
    """A token per row and its log-prob at the row's temperature, before any top-p cut.

    Temperature 0 takes the likeliest token and reports its log-prob at temperature 1.
    """
    logits_MNB = _blocks(logits_BV.float())
    if any(s.temperature not in (0, 1) for s in samplings):
        logits_MNB /= logits_MNB.new_tensor([s.temperature or 1.0 for s in samplings])
    peak_MB = logits_MNB.amax(1)
    greedy_B = [s.temperature == 0 for s in samplings]
    best_B = _likeliest(logits_MNB, peak_MB) if any(greedy_B) else None
    mass_MNB = logits_MNB.sub_(peak_MB.amax(0)).exp_()
    edges_BM = _edges(mass_MNB)
    total_B = edges_BM[:, -1]
    if best_B is not None and all(greedy_B):
        return best_B, -total_B.log().float()
    kept_MNB, cut = mass_MNB, [i for i, s in enumerate(samplings) if s.top_p < 1 and s.temperature]
    if cut:
        top_p_B1 = peak_MB.new_tensor([[samplings[i].top_p] for i in cut])
        p_BV = (mass_MNB[..., cut].flatten(0, 1) / total_B[cut].float()).t().contiguous()
        kept_MNB = mass_MNB.clone()
        kept_MNB[..., cut] = _nucleus(p_BV, top_p_B1).t().unflatten(0, (-1, BLOCK))
        edges_BM = _edges(kept_MNB)
    token_B = _where(kept_MNB, edges_BM, torch.tensor(uniform_B, dtype=torch.float64, device=edges_BM.device))
    token_B = token_B.clamp_max(logits_BV.shape[1] - 1)  # weights that became NaN give any token, and the loss tells
    if best_B is not None:
        token_B = torch.where(torch.tensor(greedy_B, device=token_B.device), best_B, token_B)
    chosen_B = mass_MNB.flatten(0, 1).gather(0, token_B[None])[0]
    return token_B, (chosen_B.double() / total_B).log().float()


def _blocks(logits_BV: Tensor) -> Tensor:
    """M blocks of N tokens, filled up with -inf. Reductions over N are fast both for rows and for columns in memory."""
    lacking = -logits_BV.shape[1] % BLOCK
    logits_VB = torch.nn.functional.pad(logits_BV.t(), (0, 0, 0, lacking), value=-torch.inf)
    return logits_VB.unflatten(0, (-1, BLOCK))


def _likeliest(logits_MNB: Tensor, peak_MB: Tensor) -> Tensor:
    """The argmax over both, block first: an argmax over the whole vocabulary is 20 times slower on a CPU."""
    block_B = peak_MB.argmax(0)
    return block_B * BLOCK + _block(logits_MNB, block_B).argmax(-1)


def _block(x_MNB: Tensor, block_B: Tensor) -> Tensor:
    """One block per row, [B, N]."""
    return x_MNB[block_B, :, torch.arange(len(block_B), device=block_B.device)]


def _edges(mass_MNB: Tensor) -> Tensor:
    """The running sum of the blocks' mass, [B, M]."""
    return mass_MNB.sum(1).double().cumsum(0).t().contiguous()


def _where(mass_MNB: Tensor, edges_BM: Tensor, uniform_B: Tensor) -> Tensor:
    """The token at which the running sum of the mass first exceeds this share of the total."""
    aim_B1 = (uniform_B * edges_BM[:, -1])[:, None]
    block_B1 = _passes(edges_BM, aim_B1)
    before_B1 = torch.nn.functional.pad(edges_BM, (1, 0)).gather(1, block_B1)
    inside_BN = _block(mass_MNB, block_B1[:, 0]).double().cumsum(-1)
    return (block_B1 * BLOCK + _passes(inside_BN, aim_B1 - before_B1))[:, 0]


def _passes(edges: Tensor, aim_B1: Tensor) -> Tensor:
    """The first place whose running sum exceeds the aim; if rounding leaves none, the last that holds any mass."""
    place_B1 = torch.minimum(torch.searchsorted(edges, aim_B1, right=True),
                             torch.searchsorted(edges, edges[:, -1:].contiguous()))
    return place_B1.clamp_max(edges.shape[1] - 1)


def _nucleus(p_BV: Tensor, top_p_B1: Tensor) -> Tensor:
    """Zero outside the smallest set of likeliest tokens whose mass reaches top_p (arXiv 1904.09751)."""
    sorted_BV, index_BV = p_BV.topk(min(LIKELY, p_BV.shape[1]))
    if bool((sorted_BV.sum(1, keepdim=True) < top_p_B1).any()):
        sorted_BV, index_BV = p_BV.sort(-1, descending=True)
    keep_BV = sorted_BV.cumsum(-1) - sorted_BV < top_p_B1
    return torch.zeros_like(p_BV).scatter(-1, index_BV, sorted_BV * keep_BV)
