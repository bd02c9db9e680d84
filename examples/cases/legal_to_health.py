# ruff: noqa: E501  (rows of phrases read better than columns)
"""Invented clauses of contracts and of a health insurer's letters, each said again in plain words.

    python examples/cases/legal_to_health.py clauses

A law clinic has a six hundred of them, a patients' office forty. No clause is from a real contract or letter.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from writing import Files, Row, demonstration, prompt, run, unlike

from tunesmith.quickstart.grammar import expand

LEGAL = (
    ("The [tenant|lessee] shall give written notice of termination no later than {days} days before the end of the term.", "you must tell the landlord in writing {days} days before you leave", "write the letter early and keep a copy", "end"),
    ("A deposit of {sum} dollars shall be [retained|held] until the premises have been inspected.", "the landlord keeps {sum} dollars until somebody has looked at the flat", "take pictures on the day you leave", "money"),
    ("This agreement renews automatically unless cancelled within {days} days of the anniversary.", "it goes on for another year if you do not cancel within {days} days", "put the date into your calendar", "end"),
    ("Late payment shall incur a charge of {sum} dollars [per instance|for each occurrence].", "paying late costs {sum} dollars each time", "ask for another date before you are late", "money"),
    ("The employer may amend the schedule upon {days} days' notice.", "your working hours may change, and you hear of it {days} days before", "ask for the new plan in writing", "change"),
    ("Disputes shall be [settled|resolved] by arbitration to the exclusion of the courts.", "you cannot go to a court, an arbitrator decides", "ask who pays the arbitrator", "rights"),
    ("The contractor shall indemnify the client against claims of third parties up to {sum} dollars.", "if somebody else is harmed you may have to pay up to {sum} dollars", "ask whether an insurance covers it", "money"),
    ("The [buyer|purchaser] may withdraw within {days} days of delivery without stating reasons.", "you can give it back within {days} days and need no reason", "keep the parcel and the receipt", "rights"),
    ("The supplier may transfer this agreement to an affiliate without consent.", "another firm may take over your contract and need not ask you", "ask whether you may then leave", "change"),
    ("Any subletting requires the prior written consent of the landlord.", "you may not let a room before the landlord has agreed in writing", "ask by letter and wait for the answer", "rights"),
)
HEALTH = (
    ("Coverage of this procedure is subject to prior authorisation, requested no later than {days} days before treatment.", "you must ask us {days} days before, or we do not pay", "let the surgery send the form today", "money"),
    ("The insured person bears a deductible of {sum} dollars per calendar year.", "you pay the first {sum} dollars of each year yourself", "keep all the bills in one place", "money"),
    ("Missed appointments not cancelled within {days} days shall be charged.", "if you do not come and have not cancelled {days} days before, you pay", "call as soon as you know", "end"),
    ("Consent to the processing of samples may be withdrawn at any time without stating reasons.", "you can say no later and need no reason", "write one line to the ward", "rights"),
    ("Records may be disclosed to a specialist involved in the treatment.", "another doctor who treats you may read your file", "say so if you do not want that", "rights"),
    ("An objection to this decision may be lodged in writing within {days} days of receipt.", "if you think this is wrong, write to us within {days} days", "keep a copy and the envelope", "rights"),
    ("A co-payment of {sum} dollars applies to each prescription.", "each medicine costs you {sum} dollars", "ask whether there is a cheaper one", "money"),
    ("The schedule of treatment may be amended upon {days} days' notice.", "the dates may change, and you hear of it {days} days before", "leave your phone number", "change"),
)
ASK = "In plain words, please: "
DAYS, SUMS = tuple(range(3, 91)), tuple(range(20, 2000, 10))


def clause(rng: random.Random, kinds: tuple[tuple[str, str, str, str], ...]) -> tuple[str, tuple[str, Row]]:
    """A clause; its plain words, and what a rubric must know."""
    formal, plain, then, about = rng.choice(kinds)
    facts = {"days": rng.choice(DAYS), "sum": rng.choice(SUMS)}
    number = next((str(facts[name]) for name in facts if f"{{{name}}}" in plain), "")
    start = expand(rng.choice(("", "[Section|Clause|Item] {n}. ", "{n}) ")), {"n": rng.randint(1, 30)}, rng)
    answer = f"This means: {plain.format(**facts)}. What you can do: {then}."
    return ASK + f"{start} {expand(formal, facts, rng)}".strip(), (answer, {"domain": about, "number": number,
                                                              "advice": f"What you can do: {then}."})


RUBRIC = """name = "Plain words"

[[item]]
name = "in the form"
contains = ["This means:", "What you can do:"]

[[item]]
name = "the number is right"
contains_fact = "number"

[[item]]
name = "the advice fits"
contains_fact = "advice"

[[item]]
name = "no jargon"
not_contains = ["shall", "herein", "deductible", "authorisation", "indemnify", "co-payment"]
"""


def make(rng: random.Random, size: Callable[[int], int]) -> Files:
    legal = unlike(lambda: clause(rng, LEGAL), size(600), set())
    health = unlike(lambda: clause(rng, HEALTH), size(40) + size(200), set())
    known, held_out = health[:size(40)], health[size(40):]
    return {"legal.jsonl": [demonstration(asked, answer) for asked, (answer, _) in legal],
            "health.jsonl": [demonstration(asked, answer) for asked, (answer, _) in known],
            "held_out_health.jsonl": [demonstration(asked, answer) for asked, (answer, _) in held_out],
            "letters.jsonl": [prompt(asked, **facts) for asked, (_, facts) in held_out],
            "rubric.toml": RUBRIC}


if __name__ == "__main__":
    run(__doc__, make)
