"""Adapters on data of others: the matrix says who helps where, and few examples find the right mixture."""

import random

import pytest
from lab import ask

from tunesmith.model import adapters, merging
from tunesmith.records import Demonstration, Message
from tunesmith.train import sft, transfer


def demos(letters, count, seed):
    rng = random.Random(seed)
    return [Demonstration((*ask(i), Message("assistant", "".join(rng.choice(letters) for _ in range(6)))))
            for i in range(count)]


@pytest.fixture
def two(lab):
    """A base with an adapter that writes a and b, one that writes x and y, and demonstrations of both."""
    for name, letters in (("ab", "ab"), ("xy", "xy")):
        lab.workspace.add_dataset(name, "demonstrations", demos(letters, 48, 1))
        sft.train(lab.workspace, lab.base(), lab.sft(name=name, data=name, batch=16, epochs=4, lr=1e-2,
                                                     checkpoint_every=1000))
    base = lab.base()
    for name in ("ab", "xy"):
        adapters.load(base, name, lab.workspace.adapter(name).path)
    return base, {name: sft.encode(base, demos(name, 24, 2), base.context)[0] for name in ("ab", "xy")}


def test_nats_are_what_the_loss_is(two):
    base, trees = two
    adapters.trainable(base, "ab")
    sums, tokens = transfer.nats(base, "ab", trees["ab"])
    assert tokens.tolist() == [sum(w for ws in t.weights for w in ws) for t in trees["ab"]]
    mean = transfer._backward(base, "ab", trees["ab"], tokens.sum())
    assert sums.sum() / tokens.sum() == pytest.approx(mean, rel=1e-5)


def test_the_matrix_recommends_whom_the_data_came_from(two):
    base, trees = two
    for data in ("ab", "xy"):
        row = transfer.row(base, data, trees[data], {"ab": "ab", "xy": "xy"})
        other = "xy" if data == "ab" else "ab"
        assert row.best == data and row.loss[data].value < row.loss[other].value
        assert row.gain[data].value == pytest.approx(row.loss["base"].value - row.loss[data].value, abs=1e-6)
        assert set(row.to_dict()) == {"data", "best", "loss", "gain"}


def test_where_nobody_helps_the_bare_base_is_recommended(two):
    base, trees = two
    adapters.attach(base, "idle", adapters.Method(rank=2), 0)  # B = 0: nothing changes
    assert transfer.row(base, "ab", trees["ab"], {"idle": "idle"}).best == "base"


def test_few_examples_find_their_adapter(two):
    base, trees = two
    parts = [merging.change(base, "ab"), merging.change(base, "xy")]
    weights = transfer.weigh(base, parts, trees["ab"][:8])
    assert weights[0] > 0.4 and weights[0] > weights[1] + 0.3
    assert "weighed" not in adapters.names(base)


def test_no_weight_nearby_is_better(two):
    base, trees = two
    parts, few = [merging.change(base, "ab"), merging.change(base, "xy")], trees["xy"][:6]

    def aim(weights):
        merging.attach(base, "tried", merging.total(parts, weights))
        sums, tokens = transfer.nats(base, "tried", few)
        return sums.sum() / tokens.sum() + 0.05 * sum(abs(w) for w in weights) / len(weights)

    best = transfer.weigh(base, parts, few)
    for i in range(2):
        for step in (-0.1, 0.1):
            moved = list(best)
            moved[i] += step
            if abs(moved[i]) <= transfer.REACH:
                assert aim(best) <= aim(moved) + 1e-4
