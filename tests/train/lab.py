"""A laboratory for the trainers: a tiny base that writes the letters a to d, and the settings of small runs."""

import hashlib
import random

import torch

from tunesmith.model import base as bases
from tunesmith.records import Answer, AnswerGroup, Message, Prompt
from tunesmith.settings import PpoSettings, PreferSettings, RewardSettings, SftSettings
from tunesmith.store.workspace import Workspace


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

    def prefer(self, method, **changes):
        sources = (dict(comparisons="groups", beta=0.1) if method in ("dpo", "kto") else
                   dict(reward="likes-a", prompts="prompts", samples=4, updates=4, max_tokens=8))
        return PreferSettings(**{**dict(method=method, policy="sft", name="p", lr=3e-3, batch=4, checkpoint_every=2),
                                 **sources, **changes})

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
