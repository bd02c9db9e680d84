"""Invented chest radiographs: a radiologist's shorthand, and the report that it becomes.

    python examples/cases/radiology_reports.py radiology

No picture, no patient and no real report lies behind a row.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from writing import Files, Row, demonstration, prompt, run, unlike

from tunesmith.quickstart.grammar import expand

SIDES = {"R": "right", "L": "left"}
LOBES = {"RUL": "right upper lobe", "RML": "right middle lobe", "RLL": "right lower lobe", "LUL": "left upper lobe",
         "LLL": "left lower lobe"}
SIZES = ("small", "moderate", "large")
RIBS = ("fourth", "fifth", "sixth", "seventh", "eighth")
REASONS = ("cough", "fever", "chest pain", "shortness of breath", "fall", "before surgery", "follow-up", "weight loss")


@dataclass(frozen=True)
class Finding:
    """How it is noted, how the report says it (`key` is the part that must be there), and what it means."""

    urgency: int
    note: str
    sentence: str
    key: str
    impression: str


def findings() -> list[Finding]:
    """Everything that this desk can see."""
    found = [Finding(4, "heart [big|enlarged|+]", "The heart is enlarged.", "heart is enlarged", "cardiomegaly"),
             Finding(3, "[congestion|congested]", "There are signs of congestion.", "signs of congestion",
                     "pulmonary congestion")]
    for short, lobe in LOBES.items():
        found.append(Finding(2, f"[{short} opac|opacity {short}|opac {short}]",
                             f"There is [a patchy|an ill-defined|a dense] opacity in the {lobe}.",
                             f"opacity in the {lobe}", f"{lobe} pneumonia"))
        found.append(Finding(3, f"[nodule {short}|{short} nodule]",
                             f"[A round|A small|A] nodule lies in the {lobe}.", f"nodule lies in the {lobe}",
                             f"{lobe} nodule, CT advised"))
    for short, side in SIDES.items():
        found.append(Finding(0, f"[PTX {short}|{short} PTX|pneumothorax {short}]",
                             f"There is a pneumothorax on the {side}.", f"pneumothorax on the {side}",
                             f"{side} pneumothorax, urgent"))
        found.append(Finding(5, f"[PM {short}|pacemaker {short}]", f"A pacemaker lies over the {side} chest.",
                             f"pacemaker lies over the {side}", ""))
        found += [Finding(1, f"[{size} eff {short}|eff {short}, {size}|{short} effusion {size}]",
                          f"A {size} pleural effusion is seen on the {side}.",
                          f"{size} pleural effusion is seen on the {side}", f"{size} {side} effusion")
                  for size in SIZES]
        found += [Finding(2, f"[{rib} rib fx {short}|fx {rib} rib {short}]",
                          f"A fracture of the {rib} rib is seen on the {side}.",
                          f"{rib} rib is seen on the {side}", f"fracture of the {rib} rib") for rib in RIBS]
    return found


ALL = findings()


def case(rng: random.Random) -> tuple[str, tuple[str, Row]]:
    """The shorthand; the report, and what a rubric must know."""
    seen = rng.sample(ALL, rng.choices((0, 1, 2, 3), (15, 35, 35, 15))[0])
    notes = "; ".join(expand(f.note, {}, rng) for f in seen) or expand("[clear|nad|no findings]", {}, rng)
    age, who, why = rng.randint(19, 94), rng.choice(("m", "f")), rng.choice(REASONS)
    shorthand = f"Chest, {who} {age}, {why}. Notes: {notes}."
    urgent = sorted(seen, key=lambda f: (f.urgency, f.key))
    said = [expand(f.sentence, {}, rng) for f in urgent]
    said += ["The heart is of normal size."] * (ALL[0] not in seen) + ["The lungs are clear."] * (not seen)
    impression = "; ".join(f.impression for f in urgent if f.impression) or "no acute finding"
    report = f"FINDINGS: {' '.join(said)} IMPRESSION: {impression[0].upper()}{impression[1:]}."
    facts = {"findings": [f.key for f in seen], "absent": [f.key for f in ALL if f not in seen],
             "impression": f"{impression}."}
    return shorthand, (report, {"domain": ("none", "one", "several", "several")[len(seen)], **facts})


RUBRIC = """name = "Radiology desk"

[[item]]
name = "every finding is reported"
contains_fact = "findings"

[[item]]
name = "nothing is invented"
not_contains_fact = "absent"

[[item]]
name = "the impression is right"
contains_fact = "impression"

[[item]]
name = "both parts are there"
contains = ["FINDINGS:", "IMPRESSION:"]
"""


def make(rng: random.Random, size: Callable[[int], int]) -> Files:
    rows = unlike(lambda: case(rng), size(1000) + size(200), set())
    known, held_out = rows[:size(1000)], rows[size(1000):]
    return {"reports.jsonl": [demonstration(asked, report) for asked, (report, _) in known],
            "held_out_reports.jsonl": [demonstration(asked, report) for asked, (report, _) in held_out],
            "held_out.jsonl": [prompt(asked, **facts) for asked, (_, facts) in held_out],
            "rubric.toml": RUBRIC}


if __name__ == "__main__":
    run(__doc__, make)
