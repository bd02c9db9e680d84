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
    """hidden [..., D] -> [...], `gain * (w h + b) + bias`.

    w starts as N(0, 1/(D+1)) and b as 0 (Stiennon et al. 2020). `gain` and `bias` are set once after training so
    that scores of reference answers have mean 0 and standard deviation 1; they are stored with the weights.
    """

    gain: Tensor
    bias: Tensor

    def __init__(self, width: int, generator: torch.Generator | None = None):
        super().__init__()
        self.linear = nn.Linear(width, 1)
        with torch.no_grad():
            self.linear.weight.normal_(0, 1 / math.sqrt(width + 1), generator=generator)
            self.linear.bias.zero_()
        self.register_buffer("gain", torch.ones(()))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.gain * self.linear(hidden.float())[..., 0] + self.bias

    def normalize(self, scores: Tensor) -> Tensor:
        """Set gain and bias so that these scores (of the head as it is) become mean 0, standard deviation 1.

        Returns the scores as they are now.
        """
        mean, std = scores.mean(), scores.std(unbiased=False).clamp_min(1e-6)
        self.bias.copy_((self.bias - mean) / std)
        self.gain.copy_(self.gain / std)
        return (scores - mean) / std

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
        head = ScalarHead(state["linear.weight"].shape[1])
        head.load_state_dict(state)
    except (SafetensorError, KeyError, IndexError, RuntimeError) as e:
        raise ModelError(f"{file} holds no scalar head: {e}") from e
    return head
