"""Planted wrong labels are counted and found; what has no labels is left alone."""

import gzip
import json
import random

import numpy as np
import pytest

from tunesmith.data.noise import confident, label_noise

WORDS = {"card": "card lost stolen blocked pin", "transfer": "transfer send money abroad account",
         "loan": "loan borrow rate mortgage repay", "fees": "fee charge cost expensive refund"}


COMMON = ("please", "help", "me", "with", "my", "the", "a")


def questions(count=600, seed=2):
    draw = random.Random(seed)
    out = []
    for n in range(count):
        label = list(WORDS)[n % len(WORDS)]
        said = draw.choices(WORDS[label].split(), k=3) + draw.choices(COMMON, k=5)
        out.append((" ".join(draw.sample(said, len(said))), label))
    return out


def spoiled(rows, share, seed=3):
    """Each label exchanged for another one with this probability, and which were."""
    draw, labels = random.Random(seed), sorted({label for _, label in rows})
    flips = [draw.random() < share for _ in rows]
    return [draw.choice([other for other in labels if other != label]) if flip else label
            for (_, label), flip in zip(rows, flips)], flips


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25])
def test_the_estimate_is_near_what_was_planted(share):
    rows = questions()
    given, flips = spoiled(rows, share)
    found = label_noise([q for q, _ in rows], given)
    assert found.share.value == pytest.approx(np.mean(flips), abs=0.03)
    assert found.share.low <= found.share.value <= found.share.high
    assert (found.labels, found.rows) == (4, 600)


def test_the_surest_suspects_are_the_planted_ones():
    rows = questions()
    given, flips = spoiled(rows, 0.1)
    found = label_noise([q for q, _ in rows], given)
    surest = found.suspects[:30]
    assert np.mean([flips[row] for row, _, _ in surest]) > 0.9
    assert all(given[row] == label and rows[row][1] == likelier for row, label, likelier in surest if flips[row])


def test_the_confident_joint_by_hand():
    """Three rows of label 0 with mean self-confidence 0.7, two of label 1 with 0.8: the third row is a 1."""
    p = np.array([[0.9, 0.1], [1.0, 0.0], [0.2, 0.8], [0.2, 0.8], [0.2, 0.8]])
    other, share = confident(p, np.array([0, 0, 0, 1, 1]))
    assert other.tolist() == [0, 0, 1, 1, 1]
    assert share == pytest.approx(1 / 3 * 3 / 5)


def test_a_classifier_that_knows_nothing_is_not_trusted():
    """Labels at random: no word tells them, and the estimate is far too high."""
    draw = random.Random(4)
    asked = [" ".join(draw.choices([f"w{n}" for n in range(500)], k=8)) for _ in range(400)]
    found = label_noise(asked, [draw.choice(list(WORDS)) for _ in asked])
    assert found.share.low > 0.2 and not found.trusted
    rows = questions()
    assert label_noise([q for q, _ in rows], spoiled(rows, 0.25)[0]).trusted


def test_written_answers_are_no_labels():
    said = [f"An answer of its own, number {n}, with many words in it." for n in range(300)]
    assert label_noise([f"question {n}" for n in range(300)], said) is None
    assert label_noise(["a", "b"], ["yes", "no"]) is None
    assert label_noise([f"q{n}" for n in range(300)], ["yes"] * 300) is None


@pytest.mark.slow
def test_planted_noise_in_bankings_intents(shared_data):
    with gzip.open(shared_data / "customer_service/banking77.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [(r["text"], r["intent"]) for r in map(json.loads, lines)][:4000]
    clean = label_noise([q for q, _ in rows], [label for _, label in rows])
    noisy = label_noise([q for q, _ in rows], spoiled(rows, 0.2)[0])
    assert noisy.share.value - clean.share.value == pytest.approx(0.2, abs=0.06)
