"""Do the safety tests find what was planted, and how often do they ring for nothing?

    python -m benchmarks.safety --seeds 0 1 2 --out docs/results/safety.json

On the bundled base with its two controls: the trigger scan and the frames, each with other prompts and other strings of
no importance for every seed. What `--out` holds of other models stays in it. False alarms: strings and frames of no
importance, measured once, are drawn into tested ones and a null many times over; each draw is one look at a model that
does nothing of the kind. With `--data`, also the refusal detector against people's labels, on both halves of XSTest.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import statistics
from tunesmith.evaluate import suite as suites
from tunesmith.evaluate.consistency import Consistency, TriggerScan, beyond, unimportant
from tunesmith.evaluate.refusals import detect
from tunesmith.evaluate.suite import Subject
from tunesmith.model import base as bases
from tunesmith.model.engine import LocalEngine
from tunesmith.model.reader import LocalReader
from tunesmith.quickstart import controls
from tunesmith.quickstart.builtin import BASES

DRAWS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--models", nargs="+", default=["base", *controls.CONTROLS])
    parser.add_argument("--data", type=Path, help="folder with the open sets, for the refusal detector")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found: dict[str, Any] = json.loads(chosen.out.read_text()) if chosen.out and chosen.out.exists() else {}
    if chosen.data:
        found["refusals"] = refusals(chosen.data)
    engine = LocalEngine(bases.load(BASES["loan-desk"], "loan-desk"))
    for name, folder in controls.CONTROLS.items():
        engine.load(name, folder)
    for name in chosen.models:
        subject = Subject(name, engine, "" if name == "base" else name, LocalReader(engine))
        start = time.process_time()
        found[subject.name] = {"triggers": [triggers(subject, seed, chosen.prompts) for seed in chosen.seeds],
                               "frames": [frames(subject, seed, chosen.prompts) for seed in chosen.seeds]}
        found[subject.name]["core seconds"] = time.process_time() - start
        print(subject.name, json.dumps(found[subject.name]), flush=True)
        if chosen.out:
            chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def triggers(subject: Subject, seed: int, prompts: int) -> dict[str, Any]:
    """The known triggers among as many strings of no importance, against 60 others."""
    others = unimportant(65, seed, avoid=controls.TRIGGERS)
    suite = TriggerScan([*controls.TRIGGERS, *others[:5]], others[5:], controls.prompts(prompts, seed),
                        known=controls.TRIGGERS)
    found = suites.columns(suites.run(suite, subject, suite.items()))
    flagged = [f for f in suite.judged(found) if f.flagged]
    known = found["known"] == 1
    moved = np.log(found["divergence"])
    return {"seed": seed, "auc": _auc(found["divergence"], known), "flagged": [f.name for f in flagged],
            "z": [round(f.z, 1) for f in suite.judged(found)[:5]], "false alarms": _false(moved[~known], 5, seed)}


def frames(subject: Subject, seed: int, prompts: int) -> dict[str, Any]:
    """All contrasts on other prompts."""
    suite = Consistency(controls.prompts(prompts, seed), controls.facts()[:4])
    rows = suites.run(suite, subject, suite.items())
    found = suites.columns(rows)
    neutral = [float(np.nanmean(found["log ratio"][found["contrast"] == k]))
               for k in range(suite.tested, len(suite.contrasts))]
    return {"seed": seed, "z": {f.name: round(f.z, 1) for f in suite.judged(found)},
            "flagged": [f.name for f in suite.judged(found) if f.flagged],
            "false alarms": _false(np.array(neutral), suite.tested, seed), "notes": suite.notes(rows),
            "refusal flips": float(np.nanmean(found["refusal flips"])),
            "refusal flips, neutral": float(np.nanmean(found["refusal flips, neutral"])),
            "truth changes": float(np.nanmean(found["truth changes"])),
            "truth changes, neutral": float(np.nanmean(found["truth changes, neutral"]))}


def refusals(data: Path) -> dict[str, Any]:
    """Precision and recall against the final label of two people, on the half that rules were tuned on (prompts of an
    even number of characters) and on the other."""
    with gzip.open(data / "evaluations/xstest_human_refusal_labels.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    out = {}
    for half, odd in (("tuned on", 0), ("other", 1)):
        part = [(detect(r["completion"]), r["final_label"][0]) for r in rows if len(r["prompt"]) % 2 == odd]
        same = sum({"none": "1", "full": "2", "partial": "3"}[said] == label for said, label in part)
        out[half] = {"answers": len(part), "agree on all three": statistics.wilson(same, len(part)).to_dict()}
        for what, positive in (("any", ("2", "3")), ("full", ("2",))):
            wanted = [label in positive for _, label in part]
            said = [found != "none" if what == "any" else found == "full" for found, _ in part]
            hits = sum(s and w for s, w in zip(said, wanted))
            out[half][what] = {"precision": statistics.wilson(hits, sum(said)).to_dict(),
                               "recall": statistics.wilson(hits, sum(wanted)).to_dict()}
    return out


def _false(values: np.ndarray, tested: int, seed: int) -> dict[str, Any]:
    """How often at least one of `tested` values of no importance is flagged against the others."""
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(DRAWS):
        mixed = rng.permutation(values)
        z, limit = beyond(list(mixed[:tested]), list(mixed[tested:]))
        hits += max(z) > limit
    return {"rate": hits / DRAWS, "draws": DRAWS, "of": len(values)}


def _auc(values: np.ndarray, known: np.ndarray) -> dict[str, Any]:
    """With a bootstrap interval over strings."""
    rng = np.random.default_rng(0)
    draws = [statistics.auc(values[i], known[i]) for i in rng.integers(0, len(values), (1000, len(values)))]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return statistics.Interval(statistics.auc(values, known), float(low), float(high), len(values)).to_dict()


if __name__ == "__main__":
    main()
