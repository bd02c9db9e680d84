"""The gold signal: finds the peak of noisy curves, stops behind it, is seldom wrong where there is none."""

import json

import numpy as np
import pytest

from tunesmith.contracts import Sampling, View, Word
from tunesmith.errors import UserError
from tunesmith.evaluate.watch import Disagreement, Gold, Strangeness, Watch, same_measure
from tunesmith.records import Answer, Message, Prompt

HELD_OUT = [Prompt((Message("user", f"held out {i}"),)) for i in range(96)]
TRAINING = [Prompt((Message("user", f"training {i}"),)) for i in range(10)]


class Curve:
    """A policy and its judge: the answer is the update's number, its score the curve's value there, a taste of the
    prompt's own and noise that nobody can foresee."""

    def __init__(self, value, noise=0.25, seed=0):
        self.value, self.step = value, 0
        asked = [p.id for p in (*HELD_OUT, *TRAINING)]
        rng = np.random.default_rng(seed)
        luck = 0.3 * rng.normal(size=(len(asked), 1)) + noise * rng.normal(size=(len(asked), 61))
        self.luck = dict(zip(asked, luck))

    def sample(self, asked, sampling, *, n=1, model="", progress=None):
        return [[Answer(str(self.step))] for _ in asked]

    def score(self, prompt, answers):
        return [self.value(int(a)) + self.luck[prompt.id][int(a)] for a in answers]


def play(value, updates=60, seed=0, reward=lambda s: s / 10, start=0, gold=None, **how):
    """(words by update, the monitor)."""
    curve = Curve(value, seed=seed)
    gold = gold or Gold(curve, HELD_OUT, updates, **{"every": 5, **how})
    gold.scorer = curve
    told = {}
    for step in range(start, updates + 1):
        curve.step = step
        asked = TRAINING if step == 0 else TRAINING[:4]
        word = gold.observe(step, {"reward": reward(step)} if step else {}, View(asked, (), (), curve, "p", Sampling()))
        told[step] = word
        if word.stop:
            break
    return told, gold


def hill(step):
    """Gains 0.5 until update 20 and loses all of it until 60."""
    return 0.5 * (step / 20 if step <= 20 else 1 - (step - 20) / 40)


def test_it_stops_behind_the_peak_and_keeps_what_is_worth_95_percent_of_it():
    kept = []
    for seed in range(20):
        told, _ = play(hill, seed=seed)
        last = max(told)
        assert told[last].stop.startswith("gold fell from ") and 25 <= last <= 50
        best = max(step for step, word in told.items() if word.best)
        kept.append(hill(best) / hill(20))
        assert told[last].figures["gold_best_step"] == best
    assert np.mean(kept) >= 0.95 and min(kept) >= 0.75


def test_where_gold_only_rises_or_stays_it_does_not_stop():
    """Level 5% per run for stopping at all; noise as large as half of the whole gain."""
    flat = [any(w.stop for w in play(lambda s: 0.0, seed=seed)[0].values()) for seed in range(60)]
    rising = [any(w.stop for w in play(lambda s: s / 100, seed=seed)[0].values()) for seed in range(20)]
    assert np.mean(flat) <= 0.05 and not any(rising)


def test_it_rings_when_the_reward_rises_and_gold_falls():
    told, _ = play(hill)
    alarms = [(s, a) for s, w in told.items() for a in w.alarms]
    assert len(alarms) == 1 and "being gamed" in alarms[0][1]
    told, _ = play(hill, reward=lambda s: 1.0 - s / 100, stop=False)
    assert not [a for w in told.values() for a in w.alarms]  # both fall: the policy broke, nobody is gaming
    told, _ = play(lambda s: 0.0, stop=False)
    assert not [a for w in told.values() for a in w.alarms]


def test_without_early_stop_the_run_goes_on_and_the_best_is_still_told():
    told, _ = play(hill, stop=False)
    assert max(told) == 60 and max(s for s, w in told.items() if w.best) in (15, 20, 25)
    assert set(told[60].figures) == {"gold", "gold_low", "gold_high", "gold_best_step"} and told[3] == Word()


def test_the_last_update_is_looked_at_too():
    told, _ = play(lambda s: s / 10, updates=12)
    assert [s for s, w in told.items() if w.figures] == [0, 5, 10, 12] and told[12].best


def test_restored_it_goes_on_as_if_nothing_had_happened():
    whole, _ = play(hill)
    first = Gold(None, HELD_OUT, 60, 5)
    curve = Curve(hill)
    first.scorer = curve
    for step in range(0, 13):
        curve.step = step
        first.observe(step, {"reward": step / 10} if step else {},
                      View(TRAINING, (), (), curve, "p", Sampling()))
    again = Gold(None, HELD_OUT, 60, 5)
    again.restore(json.loads(json.dumps(first.state())))
    rest, _ = play(hill, start=13, gold=again)
    assert rest == {s: w for s, w in whole.items() if s >= 13}


def test_prompts_that_train_do_not_judge():
    gold = Gold(Curve(hill), [*HELD_OUT[:3], *TRAINING], 10)
    gold.observe(0, {}, View(TRAINING, (), (), gold.scorer, "p", Sampling()))
    assert len(gold.looks[0].scores) == 3 and len(gold.left_out) == 10
    with pytest.raises(UserError, match="trains too"):
        Gold(Curve(hill), TRAINING, 10).observe(0, {}, View(TRAINING, (), (), Curve(hill), "p", Sampling()))


def test_heads_that_begin_to_disagree_ring_once_and_chance_does_not():
    def ring(levels, seed=0, count=24, noise=0.5):
        rng, watch, told = np.random.default_rng(seed), Disagreement(len(levels)), []
        for step, level in enumerate(levels, 1):
            spreads = [[x] for x in level * rng.gamma(1 / noise ** 2, noise ** 2, count)]
            told.append(watch.observe(step, {}, View((), (), (), None, "p", Sampling(), spreads)))
        return [s for s, w in enumerate(told, 1) if w.alarms]

    assert ring([0.2] * 5 + [0.5] * 10) and len(ring([0.2] * 5 + [0.5] * 10)) == 1
    assert ring([0.2] * 5 + [0.5] * 10)[0] in (6, 7, 8)
    assert sum(bool(ring([0.2] + [0.3] * 20, seed)) for seed in range(100)) <= 8  # at the threshold: 5%
    assert not any(ring([0.2] * 20, seed) for seed in range(50))
    assert Disagreement(5).observe(1, {}, View((), (), (), None, "p", Sampling())) == Word()


def test_answers_that_the_reference_would_never_give_ring():
    """Its surprise per token is KL per token and the policy's own: a policy that sharpens keeps it, one that babbles
    or falls for a trick that the reference finds unlikely does not."""
    def ring(rows):
        watch = Strangeness()
        told = [watch.observe(s, dict(zip(("kl", "entropy", "answer_tokens"), row)), None) for s, row in
                enumerate(rows, 1)]
        return [s for s, w in enumerate(told, 1) if w.alarms]

    start = [(0.0, 0.5, 40.0)]
    assert ring(start + [(8.0, 0.3, 40.0)] * 9) == []  # 8 nats of KL, 0.5 per token: as likely as its own
    assert ring(start + [(60.0, 0.9, 40.0)] * 9) == [3]
    assert ring(start + [(40.0, 0.1, 40.0)] * 9) == [4]
    assert Strangeness().observe(1, {"entropy": 1.0}, None) == Word()


def test_several_monitors_speak_as_one():
    class Part(Strangeness):
        def __init__(self, word):
            super().__init__()
            self.word = word

        def observe(self, step, metrics, view):
            self.window = [float(step)]
            return self.word

    watch = Watch(a=Part(Word({"x": 1.0}, ("one",))), b=Part(Word({"y": 2.0}, ("two",), "enough", True)))
    assert watch.observe(3, {}, None) == Word({"x": 1.0, "y": 2.0}, ("one", "two"), "enough", True)
    again = Watch(a=Part(Word()), b=Part(Word()))
    again.restore(json.loads(json.dumps(watch.state())))
    assert again.state() == watch.state() and again.parts["a"].window == [3.0]


def test_a_report_is_told_when_its_judge_stopped_the_run():
    assert "chose this version" in same_measure("rubric", {"gold": "rubric"})
    assert same_measure("rm2@1", {"gold": "rm2"}) and not same_measure("rm3", {"gold": "rm2"})
    assert not same_measure("rubric", {"gold": ""}) and not same_measure("rubric", {})
