# ruff: noqa: E501  (rows of phrases read better than columns)
"""Invented replies of an invented mail-order shop: an archive in many tones, principles, and rules on tone and facts.

    python examples/cases/brand_tone.py tone

Customers ask where their parcel is; a reply says the order's number and the day. The archive's clerks were taught by
nobody: some blame the customer, some write like a form, some shout with joy.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from writing import Files, Row, demonstration, prompt, run, unlike

from tunesmith.quickstart.grammar import expand

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
THINGS = ("boots", "raincoat", "tent", "lamp", "kettle", "map case", "gloves", "blanket")
ASKED = ("[Where is|Where are|What about] my {thing}? Order {order}, it was due on {due}.", "Hello, order {order}, the {thing}: when will [it|this] come? You said {due}.",
         "I [am waiting|still wait] for the {thing} of order {order}. It should have come on {due}.", "Order {order}. {due} has passed and there is no {thing}. What now?")
GOOD = ("[We are sorry|I am sorry] that you had to wait. Order {order} [comes|will be with you] on {day}.", "Thank you for [writing|asking]. Your {thing}, order {order}, [arrives|comes] on {day}.",
        "Sorry for the wait. [We have looked: order|Order] {order} reaches you on {day}.")
BAD = ("As stated on our website, delivery dates are estimates. Order {order} is scheduled for {day}.", "Kindly be advised that order {order} will be dispatched as per {day}.",
       "Great news!!! Your amazing {thing} is on its way, order {order}, {day}!!!", "You should have read the delivery terms. Order {order}: {day}.",
       "Wow, thanks for reaching out! Order {order} is so excited to meet you on {day}!", "Please be patient. Order {order} cannot arrive before {day}, as you were informed.")

VOICE = """name = "Heron's tone"
about = "Heron sells things for bad weather by mail. People write when a parcel is late."

[[principle]]
name = "on the customer's side"
text = "Never blame or lecture the customer, not even politely: a late parcel is ours to explain."

[[principle]]
name = "plain words"
text = "Write as people talk. No phrases of forms and offices."

[[principle]]
name = "calm"
text = "No exclamation marks and no superlatives. Joy at a late parcel is out of place."
"""
TONE = r"""name = "Tone"

[[item]]
name = "blames nobody"
not_contains = ["as stated", "should have read", "be patient", "informed", "website"]

[[item]]
name = "talks like people"
not_contains = ["kindly", "be advised", "as per", "scheduled", "dispatched", "cannot"]

[[item]]
name = "is calm"
not_contains = ["!", "amazing", "great news", "wow", "excited"]

[[item]]
name = "is kind"
contains_any = ["sorry", "thank"]

[[item]]
name = "is short"
max_words = 12
"""
FACTS = """name = "Facts"

[[item]]
name = "says which order, and its number is right"
contains_fact = "order"
"""


def case(rng: random.Random) -> tuple[str, Row]:
    """What a customer writes, and what the reply must hold."""
    order = f"{rng.choice('ABCDEFGH')}{rng.randint(100, 999)}"
    facts = {"order": order, "thing": rng.choice(THINGS), "due": rng.choice(DAYS), "day": rng.choice(DAYS)}
    return expand(rng.choice(ASKED), facts, rng), facts


def reply(rng: random.Random, facts: Row) -> str:
    return expand(rng.choice(GOOD if rng.random() < 0.4 else BAD), facts, rng)


def make(rng: random.Random, size: Callable[[int], int]) -> Files:
    rows = unlike(lambda: case(rng), size(400) + size(300) + size(200), set())
    archive, asked, held_out = rows[:size(400)], rows[size(400):-size(200)], rows[-size(200):]
    return {"archive.jsonl": [demonstration(text, reply(rng, facts)) for text, facts in archive],
            "asked.jsonl": [prompt(text, "parcels", order=facts["order"]) for text, facts in asked],
            "held_out.jsonl": [prompt(text, "parcels", order=facts["order"]) for text, facts in held_out],
            "voice.toml": VOICE, "tone.toml": TONE, "facts.toml": FACTS,
            "kept.toml": 'name = "Kept"\n\n[[item]]\nname = "an order number"\nregex = \'\\b[A-H]\\d{3}\\b\'\n\n'
                         '[[item]]\nname = "a day"\nregex = \'(Mon|Tues|Wednes|Thurs|Fri|Satur)day\'\n'}


if __name__ == "__main__":
    run(__doc__, make)
