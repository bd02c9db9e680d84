import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from tunesmith.evaluate import overoptimisation
from tunesmith.evaluate.compare import compare
from tunesmith.evaluate.gate import Gate, Rule, judge
from tunesmith.evaluate.overoptimisation import Curve, Point
from tunesmith.evaluate.report import Metric, build, read, render, write
from tunesmith.evaluate.suite import Figure, Item, section
from tunesmith.records import Answer, Message, Prompt
from tunesmith.statistics import Interval, wilson

PROMPTS = [Prompt((Message("user", f"question {n} <img src=x onerror=alert(1)>"),), split="test") for n in range(60)]
EVIL = "<script>alert('model')</script>"
METRICS = [Metric("adherence", "Guideline adherence", "%", "higher", headline=True),
           Metric("rude", "Rude replies", "%", "lower", headline=True, relative=True)]


class Quality:
    """The number that an answer ends with, spread over the prompts so that neither side always wins."""

    def score(self, prompt, answers):
        n = int(prompt.messages[0].content.split()[1])
        return [float(a.split()[-1]) * (1 if n % 5 else -1) for a in answers]


def checks(prompt, answer):
    quality = float(answer.split()[-1])
    n = int(prompt.messages[0].content.split()[1])
    return {"adherence": quality / 2, "rude": n % 4 < 2 - quality, "extra_check": quality}


def comparison(qualities=(0, 1, 2), words="thank you for asking"):
    answers = {name: [Answer(f"{EVIL if n == 0 else words} {n} {q}", finished=n > 2) for n in range(60)]
               for name, q in zip(("base", "sft", "ppo"), qualities, strict=False)}
    return compare(PROMPTS, answers, Quality(), checks=checks)


def curves(seeds=1):
    rng = np.random.default_rng(0)
    return {"sft": [{"step": n, "loss": 3 - n / 300} for n in range(1000)],
            "reward": {"training": [{"step": 1, "loss": .7}, {"step": 2, "loss": .6}], "accuracy": wilson(71, 100),
                       "agreement": wilson(73, 100), "baselines": {"Longer wins": wilson(55, 100)},
                       "calibration": [{"predicted": .3, "observed": wilson(3, 10)},
                                       {"predicted": .8, "observed": wilson(9, 10)}], "calibration_error": .08},
            "ppo": [{"step": n, "reward": n + rng.normal(), "kl": n / 4, "seed": s} for s in range(seeds)
                    for n in range(20)]}


def report(c=None, **kwargs):
    given = {"title": "Loan desk", "judge": {"name": "a rubric", "simulated": True}, "metrics": METRICS,
             "labels": {"base": "Base", "sft": "SFT", "ppo": "PPO"}, "kl": {"ppo": 3.25}, "curves": curves(),
             "how": {"Settings": {"lr": 2e-4, "lora": {"rank": 16}}, "Seeds": {"training": [0, 1]}}, **kwargs}
    return build(c or comparison(), **given)


def test_the_verdict_comes_first_in_plain_words():
    verdict = report()["verdict"]
    assert re.fullmatch(r"On 60 held-out prompts, PPO's answers were preferred over SFT's in "
                        r"80\.0% \[\d\d\.\d, \d\d\.\d\] of prompts; ties \(0\.0%\) count half\.", verdict[0]["text"])
    assert verdict[0]["tone"] == "better"
    told = {s["text"].split(":")[0]: s for s in verdict}
    assert told["Guideline adherence"]["text"].startswith(
        "Guideline adherence: Base 0.0% → SFT 50.0% → PPO 100.0%; change against SFT: +50.0 points [")
    assert told["Rude replies"]["text"].startswith(
        "Rude replies: Base 50.0% → SFT 25.0% → PPO 0.0%; change against SFT: −100% [")
    assert told["Rude replies"]["tone"] == "better" == told["Guideline adherence"]["tone"]


def test_a_worse_model_is_called_worse_and_an_equal_one_unclear():
    worse = report(comparison((2, 1, 0)))["verdict"]
    assert [s["tone"] for s in worse] == ["worse"] * 4
    equal = report(comparison((1, 1, 1)))["verdict"]
    assert equal[0]["tone"] == "unclear" and "50.0%" in equal[0]["text"] and "too close to call" in equal[0]["text"]


def test_what_looks_like_a_hack_is_said():
    c = comparison()
    padded = [Answer("very " * 20 + a.answer.text, finished=True) for a in c.judged["ppo"]]
    told = report(compare(PROMPTS, {**{m: [j.answer for j in c.judged[m]] for m in ("base", "sft")}, "ppo": padded},
                          Quality()))["verdict"][-1]
    assert told["tone"] == "watch" and "longer" in told["text"] and "repetitive" in told["text"]
    assert all(s["tone"] != "watch" for s in report()["verdict"])


def test_several_seeds_widen_the_headline():
    c = comparison()
    r = report(c, seeds=[c, comparison((0, 1, 0)), c])
    row = r["preferences"][0]
    assert row["seeds"]["each"] == pytest.approx([.8, .2, .8])
    assert r["verdict"][0]["text"].startswith("Over 3 training seeds, each on 60 held-out prompts")
    assert row["seeds"]["bootstrap"]["low"] < row["rate"]["low"]
    assert "Over training seeds" in render(r)
    assert r["models"][2]["metrics"]["adherence"]["value"] == pytest.approx(2 / 3)      # 1, 0 and 1
    assert any(s["text"].startswith("Guideline adherence: Base 0.0% → SFT 50.0% → PPO 66.7%; change against SFT: +16.7")
               and s["tone"] == "unclear" for s in r["verdict"])


def test_json_is_the_truth_and_the_page_comes_from_it(tmp_path):
    r = report(kl={"base": float("nan"), "ppo": Interval(3.25, 3, 3.5, 60)})
    page = write(tmp_path / "new" / "report", r)
    back = read(page.parent)
    assert page.read_text(encoding="utf-8") == render(back)
    assert back["models"][2]["metrics"]["kl"] == {"value": 3.25, "low": 3, "high": 3.5, "n": 60}
    assert back["models"][0]["metrics"]["kl"]["value"] is None
    assert [m["key"] for m in back["metrics"]][:4] == ["adherence", "rude", "score", "extra_check"]
    assert "NaN" not in (page.parent / "report.json").read_text()
    assert sorted(p.name for p in page.parent.iterdir()) == ["report.html", "report.json"]


def test_model_text_is_escaped():
    r = report(samples=60)
    assert any(EVIL in a["text"] for s in r["samples"] for a in s["answers"])
    page = render(r)
    assert "<script" not in page and "&lt;script&gt;alert(&#39;model&#39;)" in page
    assert "<img" not in page and "&lt;img src=x onerror=alert(1)&gt;" in page
    hostile = render({"title": EVIL, "verdict": [{"text": EVIL + " 1% [0, 2]", "tone": "info"}],
                      "judge": {"name": EVIL},
                      "how": {EVIL: {EVIL: EVIL}}, "notes": [EVIL],
                      "models": [{"name": "m", "label": EVIL, "metrics": {}}],
                      "curves": {"reward": {"baselines": {EVIL: wilson(1, 2).to_dict()}}}})
    assert "<script" not in hostile


def test_the_page_needs_nothing_from_outside():
    page = render(report())
    assert "<script" not in page
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)
    assert page.count("<svg") == page.count("<desc>") >= 6


def test_missing_sections_are_left_out():
    page = render({"title": "Only a title"})
    assert "Only a title" in page and "<svg" not in page and "<h2" not in page
    page = render({"title": "t", "curves": {"ppo": [{"step": 0, "reward": 1.0, "kl": 0.0}]}})
    assert "Reward against KL" in page and "Entropy" not in page and 'id="preferences"' not in page


def test_samples_are_random_and_own_up_to_losses():
    samples = report(samples=5)["samples"]
    assert [s["why"] for s in samples[:5]] == ["picked at random"] * 5
    lost = [s for s in samples if "lost most" in s["why"]]
    assert lost and all(s["answers"][2]["score"] < s["answers"][1]["score"] for s in lost)
    assert samples[0]["answers"][0]["model"] == "base"
    for s in samples:
        n = int(s["prompt"][0]["content"].split()[1])
        assert s["answers"][0]["broken"] == (["rude"] if n % 4 < 2 else [])
        assert s["answers"][2]["broken"] == []


def test_curves_over_seeds_are_mean_and_range():
    page = render(report(curves={"ppo": curves(3)["ppo"]}))
    assert "Mean and range over the seeds" in page and "seed 2" in page
    assert page.count('class="band') == 2                       # reward and KL
    assert 'class="band' not in render(report())


def test_the_stages_are_a_table_of_losses_where_there_are_any():
    loss = {name: {"value": x, "low": x - 0.1, "high": x + 0.1, "n": 9} for name, x in (("base", 2.5), ("sft@1", 1.25))}
    page = render(report(retention=[{"data": "<demos>", "loss": loss}]))
    section = page[page.index('<section id="retention">'):]
    section = section[:section.index("</section>")]
    assert "&lt;demos&gt;" in section and "sft@1" in section and "1.25 [1.15, 1.35]" in section.replace("\u00a0", " ")
    assert 'id="retention"' not in render(report())


@pytest.mark.browser
def suite(name="quiz", shift=0.2, chance=0.25):
    """Two models' rows of a made-up test."""
    rng = np.random.default_rng(1)
    items = [Item(str(n), None) for n in range(200)]
    quiz = SimpleNamespace(name=name, title="Quiz", about="Ten questions.", source="ours", items=lambda: items,
                           figures=(Figure("right", "Right answers", chance=chance, human=0.9, headline=True),))
    draw = rng.random(200)
    rows = {m: [{"right": bool(x < p), "question": EVIL} for x in draw] for m, p in (("base", 0.25), ("sft", 0.25),
                                                                                    ("ppo", 0.25 + shift))}
    return section(quiz, items, rows, notes=["a note"])


def test_suites_are_tables_and_sentences():
    found = report(suites=[suite(), suite("other")])
    row = found["suites"][0]["rows"][0]
    assert all(c["adjusted"] >= c["p"] for c in row["changes"] if c["model"] == "ppo") and row["measurable"]
    said = [s for s in found["verdict"] if s["text"].startswith("Right answers (Quiz): Base")]
    assert len(said) == 2 and said[0]["tone"] == "better" and "change against SFT: +" in said[0]["text"]
    said = report(suites=[suite(shift=0.02, chance=0.5), suite("other")])["verdict"]
    assert {"text": "Tests that show no difference: Right answers (Quiz).", "tone": "unclear"} in said
    page = render(found)
    assert "guessing 25.0%, people 90.0%" in page and "a note" in page and EVIL not in page


def test_a_suite_at_chance_says_so():
    found = report(suites=[suite(shift=0.0)])
    assert not found["suites"][0]["rows"][0]["measurable"]
    assert any("not measurable on models of this size: Right answers (Quiz)" in s["text"] and s["tone"] == "info"
               for s in found["verdict"])
    assert "at chance: not measurable at this size" in render(found)


def test_suites_need_no_comparison():
    found = build(None, title="Safety", models=["base", "sft", "ppo"], suites=[suite()])
    assert "preferences" not in found and [m["name"] for m in found["models"]] == ["base", "sft", "ppo"]
    assert "Quiz" in render(found)


def test_a_gate_and_alarms_are_shown():
    found = report(alarms=[{"text": "answers grew by half", "where": "ppo, update 7"}])
    assert found["verdict"][-1] == {"text": "Alarm: answers grew by half", "tone": "watch"}
    found["gate"] = judge(Gate(rule=(Rule(figure="preference", at_least=0.5), Rule(figure="alarms", at_most=0))), found)
    assert [r["passed"] for r in found["gate"]["rules"]] == [True, False]
    page = render(found)
    assert "The gate: not passed" in page and "alarms at most 0" in page and "✗ no" in page


def test_what_an_independent_judge_saw_is_drawn_against_kl():
    points = [Point(kl, d * (0.3 - 0.1 * np.log(d)), kl) for kl in (0.5, 2, 5, 9, 20) for d in (kl ** 0.5,)]
    gold = overoptimisation.section(points, "rl", title="Gold against KL", gold="panel")
    found = report(curves={**curves(), "gold": gold})
    again = Curve.from_dict(found["curves"]["gold"]["fit"])
    assert again.gold(2.0) == pytest.approx(2 * (0.3 - 0.1 * np.log(2)), abs=1e-3)
    page = render(found)
    assert "Judged by panel, which training did not read" in page and "fit of gold" in page


def test_changes_are_paired_with_each_baseline():
    found = report()
    c = {(c["key"], c["baseline"]): c for c in found["changes"]}
    assert c["adherence", "sft"]["difference"]["value"] == pytest.approx(0.5)
    assert c["adherence", "sft"]["relative"]["value"] == pytest.approx(1.0) and ("adherence", "base") in c


def test_the_page_renders_in_a_browser(tmp_path):
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium")
    page = write(tmp_path, report())
    dom = subprocess.run([chromium, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/c",
                          "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60).stdout
    assert "preferred over SFT" in dom and dom.count("<svg") >= 6
