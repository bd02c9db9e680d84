"""What lm-evaluation-harness's own scoring functions give on made-up items and log-probs.

With the extra `eval` installed, `python tests/evaluate/harness_scores.py` writes it to harness_scores.json. Items and
answers are ours.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")


class Rows(list[dict[str, Any]]):
    """As much of a data set as `process_docs` needs."""

    def map(self, function: Any) -> list[dict[str, Any]]:
        return [function(dict(row)) for row in self]


def truthfulqa() -> list[dict[str, Any]]:
    """Questions whose true answers stand anywhere among the others, with their log-probs, MC1 and MC2."""
    import numpy as np
    from lm_eval.tasks.truthfulqa.utils import process_results_mc2

    rng, found = random.Random(1), []
    for n in range(12):
        true, false = rng.randint(1, 4), rng.randint(1, 5)
        answers = [(f"True answer {i} of {n}.", 1) for i in range(true)]
        answers += [(f"False answer {i} of {n}.", 0) for i in range(false)]
        first, rest = answers[0], answers[1:]
        rng.shuffle(rest)
        mc1, mc2 = [first, *[a for a in answers if not a[1]]], [first, *rest]
        logprobs = {a: rng.uniform(-40, -1) for a, _ in mc2}
        doc = {"question": f"Question {n}?", "category": "made up",
               "mc1_targets": {"choices": [a for a, _ in mc1], "labels": [t for _, t in mc1]},
               "mc2_targets": {"choices": [a for a, _ in mc2], "labels": [t for _, t in mc2]}}
        best = int(np.argmax([logprobs[a] for a, _ in mc1]))
        found.append({"doc": doc, "logprobs": logprobs, "mc1": float(best == 0), "mc2": float(
            process_results_mc2(doc, [(logprobs[a], False) for a, _ in mc2])["acc"])})
    return found


GROUPS = [  # category, stereotyped groups, answers' [name, group]
    ("Age", ["old"], ["the pensioner", "old"], ["the trainee", "nonOld"]),
    ("Gender_identity", ["F"], ["woman", "woman"], ["man", "man"]),
    ("Gender_identity", ["F"], ["Ann", "F"], ["Tom", "M"]),
    ("Race_x_SES", ["low SES"], ["The neighbour", "lowSES-African"], ["The clerk", "highSES-African"]),
    ("Race_x_gender", ["Black"], ["Ben", "M-Black"], ["Kim", "F-Asian"]),
    ("Nationality", ["Ruritanian"], ["the Ruritanian", "Ruritanian"], ["the Graustarker", "Graustarkian"]),
    ("Physical_appearance", ["obese"], ["the heavy one", "obese"], ["the other", "nonObese"]),
    ("Disability_status", ["disabled"], ["the blind one", "disabled"], ["the other", "nonDisabled"]),
]


def bbq() -> dict[str, Any]:
    """Questions of all kinds, which answer follows the bias, an answer to each, and the scores of all."""
    from lm_eval.tasks.bbq import utils

    rng, docs = random.Random(2), Rows()
    for n, (category, aimed, one, other) in enumerate(GROUPS * 20):
        infos = [one, other, ["unknown", "unknown"]]
        order = rng.sample(range(3), 3)
        texts = [infos[i][0].capitalize() if i < 2 else "Not enough info" for i in order]
        condition = ("ambig", "disambig")[n // 8 % 2]
        docs.append({
            "example_id": n, "question_index": str(n // 4), "category": category, "context_condition": condition,
            "question_polarity": ("neg", "nonneg")[n // 16 % 2], "context": f"Two people met at place {n}.",
            "question": "Who did it?", "answer_info": {f"ans{i}": infos[k] for i, k in enumerate(order)},
            "additional_metadata": {"stereotyped_groups": aimed}, **{f"ans{i}": t for i, t in enumerate(texts)},
            "label": order.index(2) if condition == "ambig" else order.index(rng.randrange(2))})
    processed = utils.process_docs(docs)
    answers, metrics = [], []
    for doc in processed:
        choices, answer = utils.doc_to_choice(doc), rng.randrange(3)
        answers.append(answer)
        text = doc[f"ans{answer}"]
        logprobs = [(-1.0 if choice == text else -9.0, False) for choice in choices]
        metrics.append(utils.process_results_multiple_choice(doc, logprobs))
    scores = {name: float(aggregate([m[name] for m in metrics])) for name, aggregate in (
        ("accuracy_amb", utils.agg_accuracy_amb), ("accuracy_disamb", utils.agg_accuracy_disamb),
        ("amb_bias_score", utils.agg_amb_bias_scores), ("disamb_bias_score", utils.agg_disamb_bias_scores))}
    for category in dict.fromkeys(row[0] for row in GROUPS):
        own = [m for m, doc in zip(metrics, processed) if doc["category"] == category]
        scores[f"amb_bias_score_{category}"] = float(
            utils.agg_amb_bias_scores([m[f"amb_bias_score_{category}"] for m in own]))
        scores[f"disamb_bias_score_{category}"] = float(
            utils.agg_disamb_bias_scores([m[f"disamb_bias_score_{category}"] for m in own]))
    return {"docs": list(docs), "biased": [doc["biased_answers"] for doc in processed], "answers": answers,
            "scores": scores}


def crows_pairs() -> list[dict[str, Any]]:
    """Log-probs of two sentences, and what is said of them."""
    from lm_eval.tasks.crows_pairs.utils import process_results

    rng = random.Random(3)
    pairs = [(rng.uniform(-60, -20), rng.uniform(-60, -20)) for _ in range(20)]
    return [{"logprobs": pair, **process_results({}, [(ll, False) for ll in pair])} for pair in pairs]


ANSWERS = [
    ("no commas, two bullets", ["punctuation:no_comma", "detectable_format:number_bullet_lists"],
     [{}, {"num_bullets": 2}], ["* one\n* two", "* one, two\n* three", "Here you are:\n* one\n* two", "", "* one"]),
    ("all in lower case", ["change_case:english_lowercase"], [{}], ["this is a plain answer in small letters.",
                                                                  "This is not."]),
    ("a title and words", ["detectable_format:title", "keywords:existence", "length_constraints:number_words"],
     [{}, {"keywords": ["loan", "rate"]}, {"relation": "at least", "num_words": 6}],
     ["<<Loans>>\nThe loan has a fixed rate for years.", "<<Loans>>\nIt has a rate.",
      "**<<Loans>>**\nA loan, its rate."]),
    ("ends like this", ["startend:end_checker"], [{"end_phrase": "That is all."}],
     ["Yes. That is all.", "Yes. *That is all.*", "That is all. Yes.", "Yes. That is all.\nRegards"]),
    ("in quotes, as JSON", ["startend:quotation"], [{}], ['"A quoted answer."', "Sure:\n\"A quoted answer.\"", "None"]),
]


def ifeval() -> list[dict[str, Any]]:
    """Answers to instructions, and which of them were followed."""
    from lm_eval.tasks.ifeval.utils import process_results

    found = []
    for n, (prompt, names, kwargs, answers) in enumerate(ANSWERS):
        doc = {"key": n, "prompt": prompt, "instruction_id_list": names, "kwargs": kwargs}
        found += [{"doc": doc, "answer": answer, "found": process_results(doc, [answer])} for answer in answers]
    return found


def record() -> dict[str, Any]:
    """Everything, as JSON has it."""
    made = {"truthfulqa": truthfulqa(), "bbq": bbq(), "crows_pairs": crows_pairs(), "ifeval": ifeval()}
    found: dict[str, Any] = json.loads(json.dumps(made))
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(record(), separators=(",", ":")) + "\n", encoding="utf-8")
