"""Signatures and candidates are datasketch's; what is found is what comparing all pairs would find; memory is flat."""

import json
import random
import re
import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tunesmith.data import duplicates, rows
from tunesmith.records import Demonstration, Message, Prompt, fingerprint

REFERENCE = json.loads(Path(__file__).with_name("curation_reference.json").read_text())
SETS = [np.array(s, np.uint32) for s in REFERENCE["sets"]]


def found(texts, folder, threshold=0.8, known=0):
    (folder / "index").mkdir()
    return duplicates.find(texts, folder / "index", threshold, known=known)


@cache
def plain_shingles(text):
    """The definition, without hashes."""
    said = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(said[i:i + 5]) for i in range(max(1, len(said) - 4))} if said else set()


def similarity(a, b):
    a, b = plain_shingles(a), plain_shingles(b)
    return len(a & b) / len(a | b) if a | b else 0.0


def variants(count=150, seed=5):
    """Texts of which some are others with a few words exchanged."""
    draw = random.Random(seed)
    words = [f"word{n}" for n in range(300)]
    out = []
    for _ in range(count):
        said = draw.choices(words, k=draw.randint(3, 60))
        out.append(" ".join(said))
        for changes in (0, 1, 2, 6):
            if draw.random() < 0.5:
                again = list(said)
                for _ in range(changes):
                    again[draw.randrange(len(again))] = draw.choice(words)
                out.append(" ".join(again))
    draw.shuffle(out)
    return out


def test_signatures_are_datasketchs():
    mine = duplicates.MinHash().signatures([*SETS[:8], np.empty(0, np.uint32)])
    assert mine[:8].tolist() == REFERENCE["signatures"]
    assert (mine[8] == duplicates.EMPTY).all()


@pytest.mark.parametrize(("count", "size"), [(21, 6), (42, 3)])
def test_bands_make_datasketchs_candidates(count, size):
    keys = duplicates.band_keys(duplicates.MinHash().signatures(SETS), count, size)
    mine = {(i, n) for n in range(len(SETS)) for i in range(n) if (keys[i] == keys[n]).any()}
    assert mine == {tuple(pair) for pair in REFERENCE["candidates"][f"{count}x{size}"]}
    assert 20 < len(mine) < len(SETS) ** 2 / 4


def test_bands_find_what_is_as_similar_as_the_threshold():
    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 0.99):
        count, size = duplicates.bands(threshold)
        assert count * size <= duplicates.PERMUTATIONS
        assert 1 - (1 - threshold**size) ** count >= 0.99
        longer = size + 1
        assert 1 - (1 - threshold**longer) ** (duplicates.PERMUTATIONS // longer) < 0.99


def test_shingles_are_sets_of_runs():
    a, b = variants()[:2]
    assert len(duplicates.shingles(a)) == len(plain_shingles(a))
    assert duplicates.jaccard(duplicates.shingles(a), duplicates.shingles(b)) == similarity(a, b)
    assert duplicates.shingles("One, two!").tolist() == duplicates.shingles("one  TWO").tolist()
    assert duplicates.shingles("2 + 2").tolist() != duplicates.shingles("2 - 2").tolist()
    assert duplicates.shingles("...").size == 0


def test_finds_what_comparing_all_pairs_finds(tmp_path):
    texts = variants()
    greedy: list[int] = []
    for n, text in enumerate(texts):
        if not any(similarity(text, texts[i]) >= 0.8 for i in greedy):
            greedy.append(n)
    result = found(texts, tmp_path)
    assert np.flatnonzero(result.kept).tolist() == greedy
    assert result.exact + result.near == len(texts) - len(greedy) > 100
    for row in np.flatnonzero(~result.kept):
        twin = result.twin[row]
        assert twin < row and result.kept[twin]


def test_every_row_that_goes_has_a_twin_that_stays(tmp_path):
    """a ~ b ~ c, but a and c differ: b goes, c stays, where connected components would drop it."""
    said = [f"w{n}" for n in range(45)]
    a, b, c = (" ".join(said[:k]) for k in (36, 40, 45))
    assert similarity(a, b) >= 0.8 <= similarity(b, c) and similarity(a, c) < 0.8
    assert found([a, b, c, b], tmp_path).twin.tolist() == [-1, 0, -1, 0]


def test_known_rows_stay_and_are_all_held_against(tmp_path):
    """a ~ b ~ c, but a and c differ: where a and b are known, c goes for b's sake, of which a is a twin."""
    said = [f"w{n}" for n in range(45)]
    a, b, c = (" ".join(said[:k]) for k in (36, 40, 45))
    result = found([a, b, b, "else", c, b, "new"], tmp_path, known=4)
    assert result.twin.tolist() == [-1, -1, -1, -1, 1, 1, -1] and (result.exact, result.near) == (1, 1)


def test_a_crowd_of_known_rows_is_linear_work(tmp_path, monkeypatch):
    looks = []
    alike = duplicates._Sets.alike
    monkeypatch.setattr(duplicates._Sets, "alike", lambda self, *pair: looks.append(pair) or alike(self, *pair))
    texts = [f"{'please tell me what the rate of loan number ' * 4} is for account {n}" for n in range(400)]
    result = found([*texts[:200] * 2, *texts[200:]], tmp_path, known=400)
    assert result.near == 200 and len(looks) < 2 * 200


def test_word_for_word_alone(tmp_path):
    said = " ".join(f"w{n}" for n in range(50))
    texts = [said, said + " w50", said.upper().replace(" ", "\n"), "", "", "!", "?", "\ud800"]
    result = found(texts, tmp_path, threshold=1)
    assert result.twin.tolist() == [-1, -1, 0, -1, 3, -1, -1, -1]
    assert (result.exact, result.near) == (2, 0)


def test_nothing_said_is_nothing_alike(tmp_path):
    assert found(["?!", "...", "()"], tmp_path).kept.all()
    assert duplicates.find([], tmp_path).kept.size == 0


def test_a_crowded_bucket_is_linear_work(tmp_path, monkeypatch):
    """A thousand rows of one template: each is held against the first, not against all."""
    looks = []
    alike = duplicates._Sets.alike
    monkeypatch.setattr(duplicates._Sets, "alike", lambda self, *pair: looks.append(pair) or alike(self, *pair))
    texts = [f"{'please tell me what the rate of loan number ' * 4} is for account {n}" for n in range(1000)]
    result = found(texts, tmp_path)
    assert result.near == 999 and len(looks) < 2 * len(texts)


@pytest.mark.slow
def test_memory_grows_by_a_small_part_of_the_index(tmp_path):
    """A row has some 600 bytes on disk; in memory there is a 128th of the files, sorted, and four bytes per row."""
    def peak(count):
        draw = random.Random(1)
        folder = tmp_path / str(count)
        folder.mkdir()
        tracemalloc.start()
        duplicates.find((" ".join(draw.choices(("a", "b", "c", "d", "e", "f", "g", "h"), k=12)) + f" {n}"
                         for n in range(count)), folder)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(30_000) - peak(10_000) < 150 * 20_000


def test_a_row_is_all_that_was_said():
    told = Demonstration((Message("system", "Be brief."), Message("user", "2+2?"), Message("assistant", "4")))
    asked = Prompt((Message("system", "Be brief."), Message("user", "2+2?")))
    assert rows.whole(told) == f"system: {fingerprint('Be brief.')[:8]}\nuser: 2+2?\nassistant: 4"
    assert rows.texts(told) == ["2+2?", "4"] and rows.texts(asked) == ["2+2?"]
    assert rows.question(told) == rows.question(asked) == "2+2?"
    assert rows.words("贷款 5%") == ["贷", "款", "5", "%"]


def test_a_system_turn_that_all_share_makes_nobody_alike(tmp_path):
    draw = random.Random(0)
    told = [Demonstration((Message("system", " ".join(f"rule {n}" for n in range(150))),
                           Message("user", " ".join(draw.choices(ascii_words(draw), k=12))),
                           Message("assistant", " ".join(draw.choices(ascii_words(draw), k=10))))) for _ in range(50)]
    assert duplicates.find(map(rows.whole, told), tmp_path).kept.all()


def ascii_words(draw):
    return ["".join(draw.choices("abcdefghij", k=6)) for _ in range(40)]
