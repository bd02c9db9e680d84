"""A prepared workspace: a tiny base, an SFT adapter that writes a, b, c and d, and a reward model that likes "a"."""

import random
import shutil

import pytest
import tiny
from lab import Lab, ask, letters, pretrain, ranked_groups

from tunesmith.records import Demonstration, Message, Prompt
from tunesmith.train import reward, sft


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("lab")
    lab = Lab(root / "ws", tiny.save(root / "model"))
    rng = random.Random(0)
    demonstrations = [Demonstration((*ask(i), Message("assistant", letters(rng)))) for i in range(96)]
    pretrain(lab.model, demonstrations)
    lab.workspace.add_dataset("demos", "demonstrations", demonstrations)
    lab.workspace.add_dataset("prompts", "prompts", [Prompt(ask(i)) for i in range(40)])
    sft.train(lab.workspace, lab.base(), lab.sft(name="sft", batch=16, epochs=2, checkpoint_every=1000))
    reward.train(lab.workspace, lab.base(), lab.reward(name="likes-a", batch=16, epochs=4, lr=2e-2, rank=4,
                                                       checkpoint_every=1000), ranked_groups(120, seed=1))
    lab.workspace.close()
    return lab


@pytest.fixture
def lab(prepared, tmp_path):
    """A private copy of the prepared workspace."""
    shutil.copytree(prepared.root, tmp_path / "ws")
    lab = Lab(tmp_path / "ws", prepared.model)
    yield lab
    lab.workspace.close()
