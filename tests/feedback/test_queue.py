import numpy as np
import pytest
from test_ability import judged

from tunesmith.feedback.ability import fit
from tunesmith.feedback.queue import contested, order, rules


def panel():
    votes = [judged("agreed", f"w{n}", ((0,), (1,)), 2) for n in range(8)]
    votes += [judged("split", f"w{n}", ((n % 2,), (1 - n % 2,)), 2) for n in range(8)]
    votes += [judged(f"more {m}", f"w{n}", ((0,), (1,)), 2) for m in range(20) for n in range(8)]
    return votes, fit(votes)


def test_disagreement_comes_before_agreement_and_says_so():
    votes, found = panel()
    agreed, split, new = votes[0], votes[8], judged("new", "", (), 2)
    got = order([agreed, split, new], found)
    assert got[split.id].priority > got[agreed.id].priority > 0.1 > got[new.id].priority >= 0
    assert got[split.id].why.startswith("8 labelers disagree: the consensus is ")
    assert got[new.id].why == "random: nothing is known of it yet"
    assert contested([agreed, split, new], found, 0.7) == [split.id]
    assert rules(got) == {"labelers disagree": 2, "random": 1}


def test_close_scores_come_before_clear_ones():
    groups = [judged(f"q{n}", "", (), 3) for n in range(3)]
    got = order(groups, scores={groups[0].id: [0.0, 3.0, -3.0], groups[1].id: [0.0, 0.1, 0.2], groups[2].id: [0, 1, 2]})
    assert got[groups[1].id].priority > got[groups[2].id].priority > got[groups[0].id].priority
    assert "unsure of the order" in got[groups[0].id].why


def test_an_ensemble_that_disagrees_is_unsure():
    groups = [judged(f"q{n}", "", (), 2) for n in range(2)]
    got = order(groups, scores={groups[0].id: [[0, 2.0], [0, 2.2], [0, 1.9]],
                                groups[1].id: [[0, 2.0], [0, -2.2], [0, 0.1]]})
    assert got[groups[0].id].priority == pytest.approx(0.1, abs=0.01) and got[groups[1].id].priority > 0.8


def test_without_knowledge_the_order_is_random_and_the_same_again():
    groups = [judged(f"q{n}", "", (), 2) for n in range(300)]
    one, two = order(groups, seed=1), order(groups, seed=2)
    assert one == order(groups, seed=1) != two
    values = np.array([o.priority for o in one.values()])
    assert values.max() < 0.1 and values.mean() == pytest.approx(0.05, abs=0.006)
