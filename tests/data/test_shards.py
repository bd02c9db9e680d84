"""What is written in blocks and reordered on the disk is read back exactly, and damage is noticed."""

import random

import numpy as np
import pytest

from tunesmith.data import shards
from tunesmith.errors import UserError
from tunesmith.records import Demonstration, Message
from tunesmith.store.publish import Damaged, publish

SOURCES = ["a", "never", "b", "c"]


def rows(count, seed=0):
    rng = random.Random(seed)
    return [Demonstration((Message("user", str(i)),), source=rng.choice("aabc")) for i in range(count)]


def encode(block):
    """Row i: i tokens of prompt (0 for some), then learned and unlearned ones; every seventh is too long."""
    for row in block:
        i = int(row.messages[0].content)
        if i % 7 == 3:
            yield "too long"
        else:
            yield list(range(i, i + i % 5 + 4)), [0.0] * (i % 5) + [1.0, 0.0, 0.5, 0.5]


def cut(tmp_path, data, name="x", **how):
    folder = publish(tmp_path, iter([name]), lambda f: shards.write(f, data, SOURCES, encode, **{"vocabulary": 900,
                                                                                               **how}), {}, "tokens")
    return shards.Shards.open(folder)


def test_every_row_comes_back_from_its_source_in_the_order_it_came(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BLOCK", 7)
    monkeypatch.setattr(shards, "PART", 16)
    data = rows(300)
    found = cut(tmp_path, data)
    want = {s: [e for row, e in zip(data, encode(data)) if row.source == s and e != "too long"] for s in SOURCES}
    assert found.counts_S.tolist() == [len(want[s]) for s in SOURCES] and len(found) == sum(map(len, want.values()))
    assert found.skipped == {"too long": sum(i % 7 == 3 for i in range(300))}
    for number, source in enumerate(SOURCES):
        for i, (tokens, weights) in enumerate(want[source]):
            prompt, rest, learned = found.row(number, i)
            assert prompt + rest == tokens and len(prompt) == max(1, weights.index(1.0))
            assert learned == weights[len(prompt):] and rest


def test_one_block_and_many_write_the_same_files(tmp_path, monkeypatch):
    data = rows(500)
    whole = cut(tmp_path, iter(data), "whole")
    monkeypatch.setattr(shards, "BLOCK", 3)
    monkeypatch.setattr(shards, "PART", 5)
    parts = cut(tmp_path, iter(data), "parts")
    assert len(whole) == len(parts)
    for name in ("tokens.bin", "index.bin", "runs.bin"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert not list(tmp_path.glob("*/raw.bin"))


@pytest.mark.parametrize(("vocabulary", "size"), [(1 << 16, 2), ((1 << 16) + 1, 4)])
def test_tokens_take_two_bytes_where_the_vocabulary_allows(tmp_path, vocabulary, size):
    found = cut(tmp_path, rows(9), vocabulary=vocabulary)
    assert found.tokens_T.dtype == np.dtype(f"<u{size}")
    assert sum(len(found.row(0, i)[0] + found.row(0, i)[1]) for i in range(int(found.counts_S[0]))) > 0


def test_a_row_is_the_same_after_its_pages_were_let_go(tmp_path):
    found = cut(tmp_path, rows(300))
    before = [found.row(0, i) for i in range(50)]
    found.rest()
    assert [found.row(0, i) for i in range(50)] == before


def test_damage_is_noticed(tmp_path):
    cut(tmp_path, rows(40))
    file = tmp_path / "x" / "tokens.bin"
    file.write_bytes(b"\1" + file.read_bytes()[1:])
    with pytest.raises(Damaged, match=r"tokens\.bin was altered"):
        shards.Shards.open(tmp_path / "x")


def test_nothing_left_is_said_with_its_reason(tmp_path):
    with pytest.raises(UserError, match="'too long': 1"):
        cut(tmp_path, [Demonstration((Message("user", "3"),), source="a")])
