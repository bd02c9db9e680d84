"""Supervised fine-tuning on real customer-service dialogues, measured on dialogues held back.

The dialogues are the Schema-Guided Dialogue data: a person and a travel, bank or event desk. Figures are about the
assistant's turns of `dev` dialogues: negative log-likelihood per token and how often the likeliest token is the one
that was written. The yardsticks are the base as it is and a unigram model.

The bundled base read the `train` split in its pretraining (never `dev`): the gain here is what one more look and a
loss on the assistant's turns alone bring. With --base any other model takes its place.

    python examples/service_sft.py --data ../shared/data --out docs/results/examples/service_sft.json
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from common import arguments, bring, cost, finish, named, open_shop, read

from tunesmith import rounds
from tunesmith.errors import TunesmithError
from tunesmith.model import adapters
from tunesmith.model.base import Base
from tunesmith.model.batch import Tree, build, hidden, split
from tunesmith.settings import SftSettings
from tunesmith.statistics import bootstrap_ratio
from tunesmith.terminal import Terminal
from tunesmith.train import sft

SET = "customer_service/sgd_dialogues"
ROLES = {"user": "user", "system": "assistant"}
SIZES = {"train": (3000, 16), "dev": (600, 8)}
"""Dialogues: of a full run, and with --fast."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Import, train, measure."""
    args = arguments(__doc__, argv)
    terminal = Terminal()
    shop = open_shop(args, terminal)

    # 1. Rows to chat messages to datasets.
    rows = read(args, SET)
    datasets = {}
    for part, sizes in SIZES.items():
        chats = [{"messages": [{"role": ROLES[who], "content": text} for who, text in r["turns"]]}
                 for r in rows if r["split"] == part]
        random.Random(args.seed).shuffle(chats)
        datasets[part] = bring(shop, named(args, f"sgd-{part}"), "demonstrations", chats[:sizes[args.fast]],
                               source="Schema-Guided Dialogue", licence="CC BY-SA 4.0")
        terminal.say(f"{part}: {datasets[part].count} dialogues; left out: {dict(datasets[part].skipped)}")

    # 2. One pass over the demonstrations.
    adapter = rounds.sft(shop, SftSettings(base=args.base, data=datasets["train"].name, name=named(args, "sgd-sft"),
                                           epochs=1, batch=16, lr=1e-3, seed=args.seed))

    # 3. Held-out dialogues under the base, with the adapter and without; too long ones are left out and counted.
    base = shop.base_of(str(adapter))
    adapters.load(base, "sft", adapter.path)
    train, _ = sft.encode(base, list(datasets["train"].rows()), base.context)
    dev, skipped = sft.encode(base, list(datasets["dev"].rows()), base.context)
    terminal.say(f"dev: {len(dev)} dialogues measured; left out: {skipped}")
    sums = {"unigram": unigram(train, dev, len(base.tokenizer)), "base": measure(base, "", dev),
            "sft": measure(base, "sft", dev)}
    results: dict[str, Any] = {name: figures(table_D3, args.seed) for name, table_D3 in sums.items()}
    tokens_D = sums["base"][:, 2]
    results["sft_minus_base"] = {
        key: bootstrap_ratio(sums["sft"][:, i] - sums["base"][:, i], tokens_D, seed=args.seed)
        for i, key in enumerate(("nll", "accuracy"))}
    results |= {"dialogues": len(dev), "tokens": int(tokens_D.sum()), "base_model": base.describe(),
                "skipped": {"import": {k: dict(d.skipped) for k, d in datasets.items()}, "dev": skipped},
                "cost": cost(shop, adapter)}
    return finish(args, terminal, results, [
        {"held-out assistant turns": name, "nats per token": f"{results[name]['nll']:.3f}",
         "next token right": str(results[name]["accuracy"])} for name in sums] + [
        {"held-out assistant turns": "sft - base", "nats per token": f"{results['sft_minus_base']['nll']:.3f}",
         "next token right": str(results["sft_minus_base"]["accuracy"])}])


@torch.no_grad()
def measure(base: Base, slot: str, trees: Sequence[Tree]) -> np.ndarray:
    """[dialogues, 3]: summed negative log-likelihood, tokens foretold and all tokens of the assistant's turns."""
    found = []
    for part in split(trees, 4096):
        batch = build([trees[i] for i in part], base.device)
        with adapters.active(base, slot):
            logits_NV = base.logits(hidden(base, batch)[batch.source_N]).float()
        nll_N = torch.nn.functional.cross_entropy(logits_NV, batch.target_N, reduction="none")
        right_N = (logits_NV.argmax(-1) == batch.target_N).float()
        learned_N = (batch.weight_N > 0).float()  # the customer's turns are context only
        table_N3 = torch.stack([nll_N, right_N, torch.ones_like(nll_N)], 1) * learned_N[:, None]
        found.append(table_N3.new_zeros(len(part), 3).index_add_(0, batch.row_N, table_N3))
    return torch.cat(found).double().cpu().numpy()


def unigram(train: Sequence[Tree], dev: Sequence[Tree], vocabulary: int) -> np.ndarray:
    """`measure` of the token frequencies in the training dialogues' assistant turns, plus one each."""
    counts_V = np.bincount([t for tree in train for t in learned(tree)], minlength=vocabulary) + 1.0
    nll_V, likeliest = -np.log(counts_V / counts_V.sum()), int(counts_V.argmax())
    return np.array([[nll_V[tokens].sum(), (tokens == likeliest).sum(), len(tokens)]
                     for tokens in (np.array(learned(tree)) for tree in dev)])


def learned(tree: Tree) -> list[int]:
    """The assistant's tokens."""
    return [t for t, weight in zip(tree.answers[0], tree.weights[0]) if weight > 0]


def figures(table_D3: np.ndarray, seed: int) -> dict[str, Any]:
    """Means per token; intervals by bootstrap over dialogues."""
    return {key: bootstrap_ratio(table_D3[:, i], table_D3[:, 2], seed=seed)
            for i, key in enumerate(("nll", "accuracy"))}


if __name__ == "__main__":
    try:
        main()
    except TunesmithError as e:
        sys.exit(f"{e}")
