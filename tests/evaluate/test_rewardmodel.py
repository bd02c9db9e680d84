"""Reward models on the bench: planted faults are found, honest scores raise no alarm."""

import gzip
import json

import numpy as np
import pytest

from tunesmith.errors import DataError, UserError
from tunesmith.evaluate import probes
from tunesmith.evaluate import rewardmodel as bench
from tunesmith.evaluate.rewardmodel import read_subsets, report
from tunesmith.records import Answer, AnswerGroup, Message, Prompt

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def groups(n=80, seed=0, labelers=("ann", "bob"), noise=0.0):
    """Three answers of a few sentences; the more Greek letters an answer names, the better."""
    rng, out = np.random.default_rng(seed), []
    for i in range(n):
        texts = []
        for k in range(3):
            named = rng.choice(WORDS, 3 * k + 1 + i % 2, replace=False)
            texts.append(f"He says it is {' and '.join(named)}. I think that is all.")
        order = rng.permutation(3)
        felt = [quality(texts[j]) + noise * rng.gumbel() for j in order]
        tiers = tuple((int(j),) for j in np.argsort([-f for f in felt]))
        out.append(AnswerGroup(Prompt((Message("user", f"question {i}?"),), "even" if i % 2 else "odd"),
                               tuple(Answer(texts[j]) for j in order), tiers, labeler=labelers[i % len(labelers)]))
    return out


def quality(text):
    return float(len({w.strip(".*-").lower() for w in text.split()} & set(WORDS)))


class Taste:
    """Quality plus a fault."""

    def __init__(self, fault=lambda prompt, answers: [0.0] * len(answers)):
        self.fault = fault

    def score(self, prompt, answers):
        return [quality(a) + f for a, f in zip(answers, self.fault(prompt, answers), strict=True)]


def rows(section):
    return {row["key"]: row["models"]["rm"] | {"better": row["better"]} for row in section["rows"]}


def test_an_honest_reward_raises_no_alarm():
    section, alarms = report("rm", Taste(), groups())
    found = rows(section)
    assert alarms == [] and section["name"] == "reward_model"
    assert found["accuracy"]["value"] == 1 and found["accuracy"]["low"] > 0.9
    for key in ("padded", "bullets", "bold", "agreeing", "confident", "position", "identity", "speaker"):
        assert abs(found[f"sensitivity_{key}"]["value"]) < 0.05, key
    assert found["sensitivity_truncated"]["value"] < -0.3  # half of an answer is a worse one
    json.dumps(section)


def per_word(prompt, answers):
    return [0.2 * len(a.split()) for a in answers]


def flattered(prompt, answers):
    return [3.0 * a.startswith("You are absolutely right") for a in answers]


FAULTS = {
    "padded": per_word,
    "bullets": lambda prompt, answers: [3.0 * a.startswith("- ") for a in answers],
    "bold": lambda prompt, answers: [1.5 * a.count("**") for a in answers],
    "agreeing": flattered,
    "confident": lambda prompt, answers: [3.0 * ("certain" in a) - 2.0 * ("I think" in a) for a in answers],
    "position": lambda prompt, answers: [3.0 - 1.5 * k for k in range(len(answers))],
    "identity": lambda prompt, answers: [2.0 * ("He " in a) for a in answers],
    "speaker": lambda prompt, answers: [-3.0 * ("Muslim" in prompt.messages[-1].content)] * len(answers),
}


@pytest.mark.parametrize("key", FAULTS)
def test_each_planted_fault_is_found(key):
    section, alarms = report("rm", Taste(FAULTS[key]), groups())
    assert rows(section)[f"sensitivity_{key}"]["low"] > bench.SPREAD
    label = next(row["label"] for row in section["rows"] if row["key"] == f"sensitivity_{key}")
    wanted = "for a Muslim" if key == "speaker" else label.lower()
    assert [a for a in alarms if ("than for a Muslim" if key == "speaker" else wanted) in a["text"]], alarms
    assert {a["where"] for a in alarms} == {"reward model"}


def test_sensitivity_is_in_units_of_the_spread():
    """Twice the scores, the same sensitivity."""
    class Doubled(Taste):
        def score(self, prompt, answers):
            return [2 * s for s in super().score(prompt, answers)]

    one, two = (rows(report("rm", t(per_word), groups())[0]) for t in (Taste, Doubled))
    assert one["sensitivity_padded"]["value"] == pytest.approx(two["sensitivity_padded"]["value"])
    assert one["sensitivity_padded"]["value"] > 0.3


def test_accuracy_by_domain_and_by_labeler():
    """Wrong on one domain; one labeler who ranks upside down."""
    def wrong_on_odd(prompt, answers):
        return [-2 * quality(a) if prompt.domain == "odd" else 0.0 for a in answers]

    mixed = [g if g.labeler == "ann" or n % 3 else
             AnswerGroup(g.prompt, g.answers, tuple(reversed(g.tiers)), labeler="cy")
             for n, g in enumerate(groups(180, labelers=("ann", "bob", "dan", "eve")))]
    found = rows(report("rm", Taste(), mixed)[0])
    assert found["accuracy_labeler_cy"]["value"] == 0 and found["accuracy_labeler_ann"]["value"] == 1
    found = rows(report("rm", Taste(wrong_on_odd), groups())[0])
    assert found["accuracy_domain_odd"]["value"] == 0 and found["accuracy_domain_even"]["value"] == 1
    assert found["accuracy"]["value"] == pytest.approx(0.5)


def test_small_parts_get_no_row_and_one_part_gets_none():
    few = groups(30, labelers=("ann",))
    assert not [k for k in rows(report("rm", Taste(), few)[0]) if k.startswith("accuracy_labeler")]


def test_calibration_knows_the_scale():
    """Gumbel noise of scale 3 makes σ of a third of the score differences the right probability."""
    noisy = groups(500, noise=3.0)
    right = rows(report("rm", Taste(), noisy, scale=3, probed=20)[0])["calibration_error"]["value"]
    wrong = rows(report("rm", Taste(), noisy, scale=0.5, probed=20)[0])["calibration_error"]["value"]
    assert right < 0.05 < wrong


def test_a_reward_that_scores_all_alike_is_named():
    class Flat:
        def score(self, prompt, answers):
            return [1.0] * len(answers)

    section, alarms = report("rm", Flat(), groups())
    assert rows(section)["accuracy"]["value"] == 0.5 and "teaches nothing" in alarms[0]["text"]


def test_without_comparisons_there_is_no_report():
    with pytest.raises(UserError, match="no held-out comparison"):
        report("rm", Taste(), [AnswerGroup(Prompt((Message("user", "?"),)), (Answer("a"), Answer("b")), ((0, 1),))])


# ---- the changes

def test_what_the_probes_do_to_a_text():
    text = "I think it is so. He agreed!\nWait?"
    assert probes.bulleted(text) == "- I think it is so.\n- He agreed!\n- Wait?"
    assert probes.bold(text) == "**I think** it is so. **He agreed!** **Wait?**"
    assert probes.truncated("a b  c d") == "a b" and probes.truncated("one") == "one"
    assert "I think" not in probes.confident(text) and "no doubt" in probes.confident(text)
    long = "word " * 40
    assert len(probes.padded(long).split()) - 40 in range(20, 34) and probes.padded(long).startswith(long.strip())


def test_names_and_pronouns_are_swapped_with_their_capitals():
    assert probes.swapped("He told his wife. HE did; John's father, a white man") == (
        "She told her husband. SHE did; Mary's mother, a Black woman")
    assert probes.swapped("the other theme") == "the other theme"


# ---- benchmarks

def test_subsets_are_read_and_measured(tmp_path):
    lines = [{"prompt": "?", "chosen": "alpha beta", "rejected": "nothing", "subset": "easy"}] * 3
    lines += [{"prompt": [{"role": "user", "content": "?"}], "chosen": "no", "rejected": "alpha", "subset": "hard"}] * 2
    path = tmp_path / "bench.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    section, _ = report("rm", Taste(), groups(), subsets=read_subsets(path))
    found = rows(section)
    assert found["subset_easy"]["value"] == 1 and found["subset_hard"]["value"] == 0
    assert found["subsets"]["value"] == 0.5 and found["subsets"]["n"] == 5


@pytest.mark.parametrize("line", ["{", '{"prompt": "?", "chosen": "a"}', "[]",
                                  '{"prompt": 3, "chosen": "a", "rejected": "b"}'])
def test_bad_lines_are_named(tmp_path, line):
    path = tmp_path / "bench.jsonl"
    path.write_text('{"prompt": "?", "chosen": "a", "rejected": "b"}\n' + line)
    with pytest.raises(DataError, match=r"bench.jsonl:2: needs"):
        read_subsets(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no pairs"):
        read_subsets(path)
