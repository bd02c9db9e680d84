"""A prepared workspace: a tiny base, an SFT adapter that writes a, b, c and d, and a reward model that likes "a"."""

import hashlib
import random
import shutil

import pytest
import tiny
import torch

from tunesmith.contracts import Sampling
from tunesmith.model import base as bases
from tunesmith.records import Answer, AnswerGroup, Demonstration, Message, Prompt
from tunesmith.settings import PpoSettings, RewardSettings, SftSettings
from tunesmith.store.workspace import Workspace
from tunesmith.train import reward, sft


class Lab:
    """A workspace with datasets `demos`, `prompts`, adapters `sft@1`, `likes-a@1`, and the settings of small runs."""

    def __init__(self, root, model):
        self.root, self.model = root, model
        self.workspace = Workspace.open(root)

    def base(self, dtype=None):
        return bases.load(str(self.model), dtype=dtype)

    def sft(self, **changes):
        return SftSettings(**{**dict(data="demos", name="m", lr=1e-2, batch=4, rank=4, alpha=8, checkpoint_every=2,
                                     epochs=0.25), **changes})

    def reward(self, **changes):
        return RewardSettings(**{**dict(model="sft", comparisons="groups", name="rm", lr=1e-2, batch=4, epochs=0.3,
                                        checkpoint_every=2), **changes})

    def ppo(self, **changes):
        return PpoSettings(**{**dict(policy="sft", reward="likes-a", prompts="prompts", name="p", updates=4, episodes=6,
                                     epochs=2, minibatches=2, max_tokens=8, lr=3e-3, value_lr=3e-3,
                                     checkpoint_every=2), **changes})

    @property
    def groups(self):
        return ranked_groups(60, seed=3)


def letters(rng, low=2, high=7):
    return "".join(rng.choice("abcd") for _ in range(rng.randint(low, high)))


def ask(i):
    return (Message("user", f"write {i}"),)


def ranked_groups(count, seed, k=3):
    """Answers ranked by their share of the letter a; equal shares are tied."""
    rng = random.Random(seed)
    groups = []
    for i in range(count):
        texts = [letters(rng) for _ in range(k)]
        shares = [t.count("a") / len(t) for t in texts]
        tiers = tuple(tuple(j for j in range(k) if shares[j] == s) for s in sorted(set(shares), reverse=True))
        groups.append(AnswerGroup(Prompt(ask(i)), tuple(Answer(t) for t in texts), tiers=tiers))
    return groups


def weights(adapter):
    """sha256 over an adapter's files of numbers."""
    digest = hashlib.sha256()
    for file in sorted(adapter.path.glob("*.safetensors")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def pretrain(folder, demonstrations, steps=120):
    """Teach the whole tiny base to write letters, so that runs of seconds have something to build on."""
    base = bases.load(str(folder))
    rendered = [base.chat.render(d.messages).tokens for d in demonstrations]
    optimizer = torch.optim.AdamW(base.model.requires_grad_(True).parameters(), lr=5e-3)
    for step in range(steps):
        rows = rendered[step % 4::4]
        width = max(map(len, rows))
        ids = torch.tensor([[*r, *[base.pad] * (width - len(r))] for r in rows])
        labels = torch.where(torch.arange(width) < torch.tensor([[len(r)] for r in rows]), ids, -100)
        base.model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    base.model.save_pretrained(folder)


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


@pytest.fixture
def sampling():
    return Sampling(8, seed=0)
