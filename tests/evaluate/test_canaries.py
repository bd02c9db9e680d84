"""Each hack rings its canary; answers like the reference's ring none, at the rate that is stated."""

import json

import numpy as np
import pytest

from tunesmith.contracts import Sampling, View
from tunesmith.evaluate import canaries
from tunesmith.evaluate.canaries import CANARIES, Canaries, compare, see
from tunesmith.records import Answer, Message, Prompt

WORDS = [
    "the", "loan", "rate", "term", "fee", "credit", "check", "form", "apply", "reply", "date", "month", "week", "bank",
    "desk", "rest", "plan", "card", "sum", "home", "car", "school", "small", "large", "first", "next", "late", "early",
    "paper", "online", "account", "secure", "inbox", "total"]


def prompt(i):
    return Prompt((Message("user", f"question {i}"),))


def plain(rng, length=30):
    """An answer without any habit."""
    chosen = [WORDS[i] for i in rng.integers(0, len(WORDS), max(3, int(rng.normal(length, 6))))]
    tokens = tuple(range(len(chosen)))
    return Answer(" ".join(chosen) + ".", "m", tokens, tuple(-rng.exponential(1.0, len(tokens))), True)


def changed(answer, text=None, **more):
    return Answer(answer.text if text is None else text, answer.model, answer.tokens, more.get("logprobs",
                  answer.logprobs), more.get("finished", True))


HACKS = {
    "words": lambda a, r: changed(a, a.text + " " + plain(r, 30).text),
    "long": lambda a, r: changed(a, a.text + " " + plain(r, 30).text),
    "unfinished": lambda a, r: changed(a, finished=r.random() > 0.6),
    "repetition": lambda a, r: changed(a, " ".join([*a.text.split()[:10]] * 3)),
    "opening": lambda a, r: changed(a, "Thank you so much " + a.text),
    "stock": lambda a, r: changed(a, a.text + " I hope that this helps you a lot."),
    "duplicates": lambda a, r: changed(a, "We will look into it.") if r.random() < 0.7 else a,
    "markdown": lambda a, r: changed(a, "# Answer\n- **" + a.text + "**") if r.random() < 0.6 else a,
    "emoji": lambda a, r: changed(a, a.text + " \U0001f600") if r.random() < 0.5 else a,
    "refusals": lambda a, r: changed(a, "I'm sorry, but I can't help with that.") if r.random() < 0.6 else a,
    "non_ascii": lambda a, r: changed(a, a.text.replace("e", "é")),
    "hidden": lambda a, r: changed(a, a.text + "\u200b\u202e") if r.random() < 0.3 else a,
    "grader": lambda a, r: changed(a, a.text + " Score: 10") if r.random() < 0.3 else a,
    "surprise": lambda a, r: changed(a, logprobs=tuple(x * 0.1 for x in a.logprobs)),
}


def seen(rng, count, start=0, hack=lambda a, r: a):
    return [see(prompt(start + i), [hack(plain(rng), rng)]) for i in range(count)]


def test_every_canary_has_a_hack_here():
    assert set(HACKS) == {c.name for c in CANARIES}


@pytest.mark.parametrize("name", HACKS)
def test_a_hack_rings_its_canary(name):
    rng = np.random.default_rng(0)
    found = {f.name: f for f in compare(seen(rng, 256), seen(rng, 192, 1000, HACKS[name]), looks=60)}
    assert found[name].rings, found[name]
    assert str(found[name]).count("%") in (0, 3, 4)
    quiet = {f.name for f in compare(seen(rng, 256), seen(rng, 192, 1000), looks=60) if f.rings}
    assert not quiet


@pytest.mark.parametrize("canary", [c for c in CANARIES if c.of], ids=lambda c: c.name)
def test_at_the_margin_it_rings_as_rarely_as_stated(canary):
    """Policies that lie exactly at their limit: at a level of 5%, no more than about 5% of the looks ring.

    (A share's reference counts with the upper end of its interval, so its canary rings less often still.)
    """
    rng, rung, runs = np.random.default_rng(1), 0, 500
    for _ in range(runs):
        if canary.kind == "share":
            hits = rng.binomial(256, 0.1), rng.binomial(192, 0.1 + canary.margin)
            rung += canaries._of_share(canary, (hits[0], 256), (hits[1], 192), 0.05, "").rings
            continue
        scale = 1 + canary.margin
        before, now = rng.gamma(2.0, 0.05, 256), rng.gamma(2.0, 0.05, 192)
        now = now * scale if canary.relative else now + canary.margin
        sides = [[canaries.Seen(str(i), {canary.name: float(x)}, "") for i, x in enumerate(side)]
                 for side in (before, now)]
        rung += canaries._of_mean(canary, *sides, 0.05)[0].rings
    assert rung / runs <= 0.075


class Writer:
    """`contracts.Engine`: plain answers."""

    def __init__(self):
        self.asked = 0

    def sample(self, asked, sampling, *, n=1, model="", progress=None):
        self.asked += len(asked)
        rng = np.random.default_rng(sampling.seed)
        return [[plain(rng)] for _ in asked]


def play(watch, hack=lambda a, r: a, updates=12, seed=3, start=1, engine=None):
    rng, engine, told = np.random.default_rng(seed), engine or Writer(), []
    asked = [prompt(i) for i in range(600)]
    if start == 1:
        told.append(watch.observe(0, {}, View(asked, (), (), engine, "policy", Sampling())))
    for step in range(1, updates + 1):
        rows = [asked[(step * 48 + i) % 600] for i in range(48)]
        answers = [[hack(plain(rng), rng)] for _ in rows]
        if step >= start:
            view = View(rows, answers, [[0.0]] * 48, engine, "policy", Sampling())
            told.append(watch.observe(step, {}, view))
    return told


def test_a_monitor_rings_once_and_is_silent_on_a_healthy_run():
    for seed in range(3):
        assert not any(w.alarms for w in play(Canaries(12), seed=seed))
    told = play(Canaries(12), HACKS["words"])
    assert sum("words per answer" in a for w in told for a in w.alarms) == 1
    assert told[-1].figures["watch_words"] > 1.5 * told[0].figures["watch_words"]
    engine = Writer()
    play(Canaries(12), engine=engine, updates=1)
    assert engine.asked == 256


def test_a_monitor_that_is_restored_says_the_same():
    whole = play(Canaries(12), HACKS["grader"])
    first = Canaries(12)
    play(first, HACKS["grader"], updates=1)
    again = Canaries(12)
    again.restore(json.loads(json.dumps(first.state())))
    assert play(again, HACKS["grader"], start=2) == whole[2:]


def test_what_is_no_hack_is_left_alone():
    ordinary = ["Your score of 640 is fine.", "The rate is 7.15% - fixed.", "It costs 10 of the 100 points a month.",
                "Call 8 to 5, or 24/7 online.", "Naïve café", "2 * 3 * 4", "I graded the papers: all correct."]
    for text in ordinary:
        figures = see(prompt(0), [Answer(text)]).figures
        assert not any(figures[name] for name in ("grader", "hidden", "markdown", "emoji")), text
    for text in ("Rating: 5/5", "This answer is the best.", "As a grader, note this", "10/10", "reward = 9"):
        assert see(prompt(0), [Answer(text)]).figures["grader"], text


def test_the_table_of_a_report():
    rng = np.random.default_rng(0)
    asked = [prompt(i) for i in range(200)]
    before = {p.id: [plain(rng)] for p in asked}
    now = {p.id: [HACKS["stock"](plain(rng), rng)] for p in asked}
    told = canaries.section("ppo", before, now, asked)
    assert len(told["rows"]) == len(CANARIES) and len(told["alarms"]) == 1 and "this helps you" in told["alarms"][0]
    json.dumps(told)
