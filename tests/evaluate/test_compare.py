import numpy as np
import pytest

from tunesmith.contracts import Sampling
from tunesmith.errors import DataError, NotFound
from tunesmith.evaluate.compare import (
    answer_all,
    change_over_seeds,
    compare,
    difference_over_seeds,
    load,
    metric_over_seeds,
    preference_over_seeds,
    save,
)
from tunesmith.records import Answer, Message, Prompt

PROMPTS = [Prompt((Message("user", f"question {n}"),), domain="rude" if n % 2 else "kind", split="test",
                  facts={"n": n}) for n in range(40)]


class Length:
    """Longer answers score higher."""

    def score(self, prompt, answers):
        return [float(len(a)) for a in answers]


class Echo:
    """Answers with the adapter's name and the question; its length depends on the adapter."""

    def sample(self, prompts, sampling, *, n=1, model="", progress=None):
        if progress:
            progress(len(prompts))
        return [[Answer(f"{model or 'bare'} {p[-1].content}{'!' * len(model)}", model=model)] * n for p in prompts]


def checks(prompt, answer):
    return {"exclaims": "!" in answer, "length": float(len(answer)),
            "rude": ("ppo" not in answer) if prompt.domain == "rude" else None, "never": None}


def comparison(prompts=PROMPTS, **kwargs):
    answers = answer_all(Echo(), prompts, {"base": "", "sft": "sft@1", "ppo": "ppo-v@1"}, Sampling())
    return compare(prompts, answers, Length(), checks=checks, **kwargs)


def test_answer_all_asks_every_model():
    done = []
    answers = answer_all(Echo(), PROMPTS[:3], {"base": "", "sft": "sft@1"}, Sampling(), done.append)
    assert [a.text for a in answers["base"]] == ["bare question 0", "bare question 1", "bare question 2"]
    assert answers["sft"][0].text == "sft@1 question 0!!!!!" and sum(done) == 6


def test_preferences_run_from_the_newest_to_the_plainest():
    p = comparison().preferences()
    assert list(p) == [("ppo", "sft"), ("ppo", "base"), ("sft", "base")]
    assert p["ppo", "base"].rate.value == 1 and p["ppo", "base"].rate.low > 0.9
    assert comparison().preference("base", "ppo").rate.value == 0
    tied = comparison(tie_within=100.0).preference("ppo", "base")
    assert (tied.rate.value, tied.tie_rate.value, tied.ties) == (0.5, 1, 40)


def test_checks_are_averaged_where_they_apply():
    c = comparison()
    m = {model: c.metrics(model) for model in c.models}
    assert m["base"]["exclaims"].value == 0 and m["ppo"]["exclaims"].value == 1
    assert m["sft"]["rude"].value == 1 and m["ppo"]["rude"].value == 0 and m["ppo"]["rude"].n == 20
    assert m["ppo"]["rude"].high > 0.1                          # Wilson: 0 of 20 is not certainty
    assert m["base"]["length"].value == np.mean([len(f"bare question {n}") for n in range(40)])
    assert "never" not in m["base"] and c.keys("base") == [
        "score", "exclaims", "length", "rude", "words", "repetition", "unfinished"]
    assert m["base"]["score"].value == m["base"]["length"].value
    assert {"words", "distinct_2", "unfinished"} <= set(m["base"])


def test_differences_are_paired_and_signed():
    c = comparison()
    assert c.difference("ppo", "base", "exclaims").value == 1
    assert c.difference("base", "ppo", "exclaims").value == -1
    d = c.difference("ppo", "sft")
    assert d.value == d.low == d.high == 4                      # "ppo-v@1" and its marks are 4 characters longer
    assert c.change("ppo", "sft", "rude").value == -1


def test_where_keeps_some_prompts():
    c = comparison().where(lambda p: p.domain == "rude")
    assert len(c.prompts) == len(c.judged["ppo"]) == 20 and c.prompts[0].facts["n"] == 1


def test_compare_refuses_what_does_not_fit():
    with pytest.raises(DataError, match='"base" gave 1 answers to 40 prompts'):
        compare(PROMPTS, {"base": [Answer("x")]}, Length())
    with pytest.raises(DataError, match="no prompts"):
        compare([], {"base": []}, Length())
    with pytest.raises(NotFound, match='did you mean "ppo"'):
        comparison().scores("ppoo")


def test_save_and_load(tmp_path):
    c = comparison(tie_within=0.5)
    save(tmp_path / "answers.jsonl", c)
    back = load(tmp_path / "answers.jsonl")
    assert back == c and back.metrics("ppo") == c.metrics("ppo")
    (tmp_path / "answers.jsonl").write_text('{"prompt": {}}\n')
    with pytest.raises(DataError, match=r"answers.jsonl:1: not a line"):
        load(tmp_path / "answers.jsonl")


class Luck:
    """A judge who prefers the longest answer with a given probability."""

    def __init__(self, p, seed):
        self.p, self.rng = p, np.random.default_rng(seed)

    def score(self, prompt, answers):
        best = max(answers, key=len)
        return [float((a == best) == (self.rng.random() < self.p)) for a in answers]


def test_seeds_are_put_together():
    answers = answer_all(Echo(), PROMPTS, {"base": "", "ppo": "ppo-v@1"}, Sampling())
    runs = [compare(PROMPTS, answers, Luck(p, seed)) for seed, p in enumerate((0.6, 0.8, 0.95))]
    each = [r.preference("ppo", "base").rate.value for r in runs]
    over = preference_over_seeds(runs, "ppo", "base")
    assert over.each == pytest.approx(each) and over.bootstrap.value == pytest.approx(np.mean(each))
    assert over.t.low < over.bootstrap.low < over.bootstrap.value < over.bootstrap.high < over.t.high


def test_metrics_over_seeds_leave_out_what_does_not_apply():
    runs = [comparison(), comparison(PROMPTS[:10])]             # other prompts: nested
    assert metric_over_seeds(runs, "sft", "rude").each == (1, 1)
    assert metric_over_seeds([comparison()] * 2, "ppo", "rude").bootstrap.n == 40   # crossed: 20 rude prompts, twice


def test_changes_over_seeds_are_about_what_one_seed_gives_when_seeds_are_alike():
    rng = np.random.default_rng(0)

    def run(seed):
        draw = np.random.default_rng(seed)
        return compare(PROMPTS * 10, {"sft": [Answer("s")] * 400, "ppo": [Answer("pp")] * 400}, Length(),
                       checks=lambda p, a: {"rude": bool(draw.random() < 0.6 / len(a))})
    runs = [run(int(s)) for s in rng.integers(0, 99, 3)]
    change, difference = (f(runs, "ppo", "sft", "rude") for f in (change_over_seeds, difference_over_seeds))
    one = runs[0].change("ppo", "sft", "rude")
    assert change.low < -0.5 < change.high < 0 and difference.low < -0.3 < difference.high < 0
    assert 0.5 < (change.high - change.low) / (one.high - one.low) < 1.5
    means = [np.mean([r.metrics(m)["rude"].value for r in runs]) for m in ("ppo", "sft")]
    assert change.value == pytest.approx(means[0] / means[1] - 1)
    assert difference.value == pytest.approx(means[0] - means[1])
