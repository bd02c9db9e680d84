from math import isnan

import numpy as np

from tunesmith.feedback.ability import certainty, consensus, fit, standing
from tunesmith.records import Answer, AnswerGroup, Message, Pair, Prompt
from tunesmith.statistics import auc, spearman


def judged(item, labeler, tiers, k=3, **kwargs):
    return AnswerGroup(Prompt((Message("user", item),)), tuple(Answer(f"answer {i}") for i in range(k)), tiers=tiers,
                       labeler=labeler, **kwargs)


def strict(order):
    return tuple((int(i),) for i in order)


def panel(seed, slope=1.5, prompts=50, k=4, votes=4000):
    """30 labelers, of whom 3 are random, 3 left-clickers at 0.9 and 3 inverted; pairs of the answers to 50 prompts."""
    rng = np.random.default_rng(seed)
    worth_GK = rng.normal(size=(prompts, k))
    groups = [judged(f"question {g}", "", (), k) for g in range(prompts)]
    kinds, votes_of = ["random"] * 3 + ["left"] * 3 + ["inverted"] * 3 + ["good"] * 21, []
    for _ in range(votes):
        g, w, (i, j) = rng.integers(prompts), rng.integers(30), rng.choice(k, 2, replace=False)
        p = 1 / (1 + np.exp(-slope * (worth_GK[g, i] - worth_GK[g, j])))
        wins = rng.random() < {"random": 0.5, "left": 0.9, "inverted": 1 - p, "good": p}[kinds[w]]
        pair = Pair(int(i), int(j)) if wins else Pair(int(j), int(i))
        votes_of.append(AnswerGroup(groups[g].prompt, groups[g].answers, pairs=(pair,), labeler=f"w{w:02}",
                                    shown=(int(i), int(j))))
    return groups, votes_of, worth_GK, np.array([kind != "good" for kind in kinds])


def rank_correlation(found, groups, worth_GK):
    return float(np.mean([spearman(found.scores(g), worth) for g, worth in zip(groups, worth_GK)]))


def test_it_finds_random_left_clicking_and_inverted_labelers():
    _, votes, _, bad = panel(0)
    found = fit(votes)
    names = sorted(found.labelers)
    assert auc([-found.labelers[n].ability.value for n in names], bad) == 1
    assert [standing(found, n) for n in names] == (["careless"] * 3 + ["position-biased"] * 3 + ["inverted"] * 3
                                                   + ["reliable"] * 21)
    assert found.warnings == ()


def test_nothing_judged_gives_an_empty_fit():
    found = fit([judged("one", "ann", ())])
    assert not found.labelers and consensus(found, judged("one", "", ())) is None
    assert isnan(certainty(found, judged("one", "", ())))
