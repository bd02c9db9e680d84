"""The figures of the Auto-RLHF benchmarks from made-up answers and gains."""

import numpy as np
import pytest

from benchmarks import auto_rlhf, reactions
from tunesmith.records import Answer, AnswerGroup, Message, Pair, Prompt


def test_the_best_of_four_is_what_the_reward_model_likes_best():
    rewards = {"rankings": [[0, 9, 1, 2]] * 3, "calibrated": [[0, 1, 9, 2]] * 3, "fixed": [[9, 1, 0, 2]] * 3}
    drawn = {"gold": [[0.0, 1.0, 0.5, 0.5]] * 3, "rewards": rewards}
    found = auto_rlhf.compared([auto_rlhf.best_of(drawn, "gold")])
    assert found["mean"] == {"sft": [0.5], "rankings": [1.0], "calibrated": [0.5], "fixed": [0.0]}
    assert found["share"]["calibrated"]["value"] == 0 and found["share"]["fixed"]["value"] == -1
    assert found["calibrated over"]["fixed"]["value"] == 0.5


def test_pairs_of_equal_gold_are_no_pairs():
    assert auto_rlhf.ordered([[3.0, 2.0, 1.0]], [[1.0, 1.0, 0.0]])["value"] == 1.0
    assert auto_rlhf.ordered([[3.0, 2.0, 1.0]] * 2, [[0.0, 1.0, 0.5]] * 2)["value"] == pytest.approx(1 / 3)


def test_a_word_in_both_answers_tells_nothing_apart():
    asked, text = "what is the rate", ["the same words here", "the same words there"]
    both = [reactions.features(asked, t) for t in text]
    ids, values = reactions._difference(*both)
    weight = dict(zip(ids.tolist(), values.tolist(), strict=True))
    assert len(weight) == len(set(both[0]) | set(both[1]))
    assert all(weight[i] == 0 for i in set(both[0]) & set(both[1])) and sum(abs(v) > 0 for v in values) > 0


def test_the_linear_reward_learns_from_pairs_and_labels():
    def group(n, **known):
        prompt = Prompt((Message("user", f"question {n}"),))
        return AnswerGroup(prompt, (Answer("kind words"), Answer("rude words")), **known)

    theta = reactions.learn([group(n, pairs=(Pair(0, 1),)) for n in range(20)], 0)
    kind, rude = (theta[reactions.features("question 99", t)].sum() for t in ("kind words", "rude words"))
    assert kind > rude
    labelled = [AnswerGroup(g.prompt, (a,), labels=(float(a.text.startswith("kind")),))
                for g in (group(n) for n in range(20)) for a in g.answers]
    theta = reactions.learn(labelled, 0)
    assert np.diff([theta[reactions.features("question 99", t)].sum() for t in ("rude words", "kind words")]) > 0


def test_gains_are_shown_as_shares_of_those_of_rankings():
    worlds = [{"rankings": 0.2, "calibrated": 0.18, "fixed weights": 0.1}, {"rankings": 0.1, "calibrated": 0.09,
                                                                           "fixed weights": 0.05}]
    rows = reactions.markdown(worlds).splitlines()
    assert rows[3].startswith("| calibrated | 0.135") and "| 90% [90, 90] |" in rows[3] and "0.060" in rows[4]
