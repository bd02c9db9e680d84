"""Log-probabilities of chosen tokens without ever holding [tokens, vocabulary] at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

CHUNK = 512
"""Rows of the vocabulary that live at once."""


def chosen(logits_NV: Tensor, target_N: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) at the targets, in float32, shape [N]."""
    logits_NV = _tempered(logits_NV, temperature)
    return _softmax(logits_NV, target_N)[0]


def entropy(logits_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy in nats of softmax(logits / temperature), shape [N]."""
    logp_NV = _tempered(logits_NV, temperature).log_softmax(-1)
    return -(logp_NV.exp() * logp_NV).sum(-1)


@dataclass(frozen=True, slots=True)
class Head:
    """The output layer: hidden [..., D] to logits [..., V], scaled and soft-capped (cap * tanh(x / cap), Gemma 2)."""

    layer: Any
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        raw: Tensor = self.layer(hidden)
        scaled = raw if self.scale == 1.0 else raw * self.scale
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap

    @property
    def frozen(self) -> bool:
        """One plain matrix that is not trained: then the gradient needs no second pass over the vocabulary."""
        return isinstance(self.layer, nn.Linear) and not any(p.requires_grad for p in self.layer.parameters())


def from_hidden(hidden_ND: Tensor, head: Callable[[Tensor], Tensor], target_N: Tensor, temperature: float = 1.0,
                chunk: int = CHUNK) -> Tensor:
    """`chosen(head(hidden), target)` in chunks of rows, shape [N]; at most `chunk` rows of the vocabulary live at once.

    A frozen `Head` gives the gradient in the same pass; any other head computes each chunk's logits a second time in
    the backward pass.
    """
    return judged(hidden_ND, head, target_N, temperature, chunk)[0]


def judged(hidden_ND: Tensor, head: Callable[[Tensor], Tensor], target_N: Tensor, temperature: float = 1.0,
           chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """`from_hidden`, and whether each target was the likeliest token (1.0 or 0.0, no gradient), both [N]."""
    def part(hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits_NV = _tempered(head(hidden), temperature)
        logp_N, numerator_NV, _ = _softmax(logits_NV, target)
        return logp_N, _right(numerator_NV, target)

    if isinstance(head, Head) and head.frozen and torch.is_grad_enabled():
        found: tuple[Tensor, Tensor] = _Chosen.apply(hidden_ND, head, target_N, temperature, chunk)
        return found
    if len(target_N) <= chunk:
        return part(hidden_ND, target_N)
    pairs = [checkpoint(part, h, t, use_reentrant=False) if torch.is_grad_enabled() else part(h, t)
             for h, t in _chunks(hidden_ND, target_N, chunk)]
    return _cat([p for p, _ in pairs], hidden_ND), _cat([r for _, r in pairs], hidden_ND)


class _Chosen(torch.autograd.Function):
    """d log p(target) / d hidden is one row per token whatever loss follows, so the forward pass can leave it ready."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head: Head, target_N: Tensor, temperature: float,
                chunk: int) -> tuple[Tensor, Tensor]:
        logps, slopes, right = [], [], []
        for hidden, target in _chunks(hidden_ND, target_N, chunk):
            logits_NV = _tempered(head(hidden), temperature)
            logp_N, slope_NV, total_N = _softmax(logits_NV, target)
            logps.append(logp_N)
            right.append(_right(slope_NV, target))
            slope_NV *= -1 / total_N[:, None]
            slope_NV.scatter_add_(1, target[:, None], torch.ones_like(total_N)[:, None])
            if head.cap is not None:
                slope_NV *= 1 - (logits_NV * (temperature / head.cap)).square()
            slopes.append(slope_NV.to(hidden.dtype) @ head.layer.weight * (head.scale / temperature))
        ctx.save_for_backward(_cat(slopes, hidden_ND))
        right_N = _cat(right, hidden_ND)
        ctx.mark_non_differentiable(right_N)
        return _cat(logps, hidden_ND), right_N

    @staticmethod
    @once_differentiable  # the slope counts as a constant: a second derivative would be wrong
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        slope_ND, = ctx.saved_tensors
        return gradients[0][:, None].to(slope_ND.dtype) * slope_ND, None, None, None, None


def _softmax(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(log p(target), the softmax's numerator, its denominator): all that both directions need, in three passes."""
    top_N1 = logits_NV.detach().amax(-1, keepdim=True)
    numerator_NV = (logits_NV - top_N1).exp_()
    total_N = numerator_NV.sum(-1)
    return (logits_NV.gather(-1, target_N[:, None]) - top_N1)[:, 0] - total_N.log(), numerator_NV, total_N


def _right(numerator_NV: Tensor, target_N: Tensor) -> Tensor:
    """Where the target has the largest logit, the softmax's numerator is exp(0)."""
    return (numerator_NV.detach().gather(-1, target_N[:, None])[:, 0] == 1).float()


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits.float() if temperature == 1.0 else logits.float() / temperature


def _chunks(hidden_ND: Tensor, target_N: Tensor, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(hidden_ND.split(chunk), target_N.split(chunk))


def _cat(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat(parts) if parts else like.new_zeros(0)


def kl_from_hidden(before_ND: Tensor, now_ND: Tensor, head: Callable[[Tensor], Tensor], chunk: int = CHUNK) -> Tensor:
    """KL(before | now) of the next-token distributions in nats, [N]; the gradient flows into `now` only."""
    def part(before: Tensor, now: Tensor) -> Tensor:
        p_NV = head(before).detach().float().log_softmax(-1)
        return (p_NV.exp() * (p_NV - head(now).float().log_softmax(-1))).sum(-1)

    rows = [checkpoint(part, b, n, use_reentrant=False) for b, n in zip(before_ND.split(chunk), now_ND.split(chunk))]
    return _cat(rows, now_ND)


@torch.no_grad()
def entropy_from_hidden(hidden_ND: Tensor, head: Callable[[Tensor], Tensor], temperature: float = 1.0,
                        chunk: int = CHUNK) -> Tensor:
    """Entropies in nats, for reporting (no gradient), shape [N]."""
    return _cat([entropy(head(h), temperature) for h in hidden_ND.split(chunk)], hidden_ND)
