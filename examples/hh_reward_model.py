"""A reward model on real comparisons: which of two replies did people find less harmful?

The rows are Anthropic's HH transcripts (harmless-base; offensive text, so none is ever printed). `train` rows train,
`dev` rows measure; the two share no opening question. The yardsticks are a coin and a rule that only looks at length.

    python examples/hh_reward_model.py --data ../shared/data --out docs/results/examples/hh_reward_model.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from common import arguments, bring, cost, finish, named, open_shop, read

from tunesmith import rounds
from tunesmith.errors import TunesmithError
from tunesmith.model.scorer import RewardModel
from tunesmith.settings import RewardSettings
from tunesmith.statistics import outcomes, paired_difference, wilson
from tunesmith.terminal import Terminal
from tunesmith.train import reward

SET, SUBSET = "preferences/hh_rlhf", "harmless-base"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Import, train, measure."""
    args = arguments(__doc__, argv)
    terminal = Terminal()
    shop = open_shop(args, terminal)

    # 1. Rows to datasets. The layout (prompt + chosen + rejected, turns marked Human: and Assistant:) is recognised.
    rows = [r for r in read(args, SET) if r["subset"] == SUBSET]
    datasets = {}
    for split, few in (("train", 24), ("dev", 16)):
        chosen = [{k: r[k] for k in ("prompt", "chosen", "rejected")} for r in rows if r["split"] == split]
        datasets[split] = bring(shop, named(args, f"hh-{split}"), "comparisons", chosen[:few if args.fast else None],
                                source="github.com/anthropics/hh-rlhf", licence="MIT")
        terminal.say(f"{split}: {datasets[split].count} comparisons; left out: {dict(datasets[split].skipped)}")

    # 2. Comparisons to a reward model. All of `train` trains: `dev` measures, so no prompt is held out here.
    adapter = rounds.reward(shop, RewardSettings(
        base=args.base, comparisons=datasets["train"].name, name=named(args, "hh-reward"), held_out=0.0,
        epochs=1 if args.fast else 2, batch=16, lr=5e-4, seed=args.seed))

    # 3. The held-out pairs, scored. Pairs too long for the base's context are left out of every figure, and counted.
    base = shop.base_of(str(adapter))
    model = RewardModel.load(base, adapter.path)
    train, _ = reward.encode(base, list(datasets["train"].rows()), base.context)
    dev, skipped = reward.encode(base, list(datasets["dev"].rows()), base.context)
    terminal.say(f"dev: {len(dev)} pairs measured; left out: {skipped}")
    scores = model.score_trees([item.tree for item in dev]).reshape(-1, 2).numpy()
    right = outcomes(scores[:, 0], scores[:, 1])  # the chosen reply stands first; a tie counts half
    by_length = length_rule(train)
    length_right = by_length["sign"] * lengths(dev)
    length_right = (np.sign(length_right) + 1) / 2

    results = {
        "model": wilson(float(right.sum()), len(dev)), "coin": 0.5,
        "length_only": wilson(float(length_right.sum()), len(dev)),
        "model_minus_length_only": paired_difference(right, length_right, seed=args.seed),
        "length_rule": by_length["says"], "held_out": reward.assess(model, dev),
        "in_training": wilson(*_right(model, train)),
        "skipped": {"import": {k: dict(d.skipped) for k, d in datasets.items()}, "dev": skipped},
        "base": base.describe(), "cost": cost(shop, adapter)}
    return finish(args, terminal, results, [
        {"held-out pairs ranked as people did": "reward model", "share": str(results["model"]), "pairs": len(dev)},
        {"held-out pairs ranked as people did": by_length["says"], "share": str(results["length_only"]),
         "pairs": len(dev)},
        {"held-out pairs ranked as people did": "a coin", "share": "50.0%", "pairs": ""},
        {"held-out pairs ranked as people did": "reward model on its training pairs",
         "share": str(results["in_training"]), "pairs": len(train)}])


def lengths(items: Sequence[reward.Item]) -> np.ndarray:
    """Characters of the chosen reply minus those of the rejected one."""
    return np.array([len(i.group.answers[0].text) - len(i.group.answers[1].text) for i in items])


def length_rule(train: Sequence[reward.Item]) -> dict[str, Any]:
    """Prefer the longer or the shorter reply, whichever is right more often on `train`."""
    longer = float((lengths(train) > 0).mean() - (lengths(train) < 0).mean()) > 0
    return {"sign": 1 if longer else -1, "says": "the longer reply" if longer else "the shorter reply"}


def _right(model: RewardModel, items: Sequence[reward.Item]) -> tuple[float, int]:
    scores = model.score_trees([item.tree for item in items]).reshape(-1, 2).numpy()
    return float(outcomes(scores[:, 0], scores[:, 1]).sum()), len(items)


if __name__ == "__main__":
    try:
        main()
    except TunesmithError as e:
        sys.exit(f"{e}")
