"""Log-probabilities of chosen tokens without ever holding [tokens, vocabulary] at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def chosen(logits_NV: Tensor, target_N: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) at the targets, in float32, shape [N]."""
    logits_NV = logits_NV.float() / temperature
    return logits_NV.gather(-1, target_N[:, None])[:, 0] - logits_NV.logsumexp(-1)


def entropy(logits_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy in nats of softmax(logits / temperature), shape [N]."""
    logp_NV = (logits_NV.float() / temperature).log_softmax(-1)
    return -(logp_NV.exp() * logp_NV).sum(-1)


def from_hidden(hidden_ND: Tensor, head: Callable[[Tensor], Tensor], target_N: Tensor, temperature: float = 1.0,
                chunk: int = 1024) -> Tensor:
    """`chosen(head(hidden), target)` in chunks of rows, shape [N].

    The backward pass computes each chunk's logits again, so at most `chunk` rows of the vocabulary live at once.
    """
    def part(hidden: Tensor, target: Tensor) -> Tensor:
        return chosen(head(hidden), target, temperature)

    pieces = []
    for start in range(0, len(target_N), chunk):
        rows = slice(start, start + chunk)
        if torch.is_grad_enabled() and len(target_N) > chunk:
            pieces.append(checkpoint(part, hidden_ND[rows], target_N[rows], use_reentrant=False))
        else:
            pieces.append(part(hidden_ND[rows], target_N[rows]))
    return torch.cat(pieces) if pieces else hidden_ND.new_zeros(0)


@torch.no_grad()
def entropy_from_hidden(hidden_ND: Tensor, head: Callable[[Tensor], Tensor], temperature: float = 1.0,
                        chunk: int = 1024) -> Tensor:
    """Entropies in nats, for reporting (no gradient), shape [N]."""
    parts = [entropy(head(h), temperature) for h in hidden_ND.split(chunk)]
    return torch.cat(parts) if parts else hidden_ND.new_zeros(0)
