"""Scalar heads: a reward or a value from a hidden state, with the normalisation that belongs to it."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.errors import ModelError

FILE = "head.safetensors"


class ScalarHead(nn.Module):
    """hidden [..., D] -> [...], the mean of H heads `gain * (w h + b) + bias`; usually there is one.

    w starts as N(0, 1/(D+1)) and b as 0 (Stiennon et al. 2020). `gain` and `bias` are set once after training so
    that scores of reference answers have mean 0 and standard deviation 1; they are stored with the weights. Several
    heads say by how far they differ how little is known of an answer (Coste et al., arXiv 2310.02743).
    """

    gain: Tensor
    bias: Tensor

    def __init__(self, width: int, generator: torch.Generator | None = None, heads: int = 1):
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(width, heads)
        with torch.no_grad():
            self.linear.weight.normal_(0, 1 / math.sqrt(width + 1), generator=generator)
            self.linear.bias.zero_()
        shape = (heads,) if heads > 1 else ()
        self.register_buffer("gain", torch.ones(shape))
        self.register_buffer("bias", torch.zeros(shape))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.each(hidden).mean(-1)

    def each(self, hidden: Tensor) -> Tensor:
        """Every head's own score, [..., H]."""
        scores: Tensor = self.gain * self.linear(hidden.float()) + self.bias
        return scores

    def normalize(self, scores_AH: Tensor) -> Tensor:
        """Set gain and bias so that these scores (of the heads as they are) have mean 0 and the same standard
        deviation under every head, and standard deviation 1 under the heads' mean.

        Scores of one head may be [A] too. Returns the scores as they are now.
        """
        table_AH = scores_AH.reshape(len(scores_AH), self.heads)
        columns = [column.contiguous() for column in table_AH.unbind(1)]
        mean = torch.stack([c.mean() for c in columns])
        std = torch.stack([c.std(unbiased=False).clamp_min(1e-6) for c in columns])
        if self.heads > 1:
            std = std * ((table_AH - mean) / std).mean(1).std(unbiased=False).clamp_min(1e-6)
        self.bias.copy_((self.bias - mean.view_as(self.bias)) / std.view_as(self.bias))
        self.gain.copy_(self.gain / std.view_as(self.gain))
        return ((table_AH - mean) / std).view_as(scores_AH)

    def save(self, folder: Path) -> None:
        save_file({k: v.detach().contiguous().clone() for k, v in self.state_dict().items()}, folder / FILE)


def load(folder: Path, device: torch.device) -> ScalarHead:
    """The head saved in an adapter's folder.

    Raises:
        ModelError: the adapter has none, so it is not a reward model.
    """
    if not (folder / FILE).is_file():
        raise ModelError(f"{folder.parent.name}@{folder.name} has no scalar head, so it is not a reward model; make "
                         "one with: tunesmith reward")
    return read(folder / FILE).to(device)


def read(file: Path) -> ScalarHead:
    """The head in a file.

    Raises:
        ModelError: it holds something else.
    """
    try:
        state = load_file(file)
        heads, width = state["linear.weight"].shape
        head = ScalarHead(width, heads=heads)
        head.load_state_dict(state)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as e:
        raise ModelError(f"{file} holds no scalar head: {e}") from e
    return head
