# ruff: noqa: E501  (rows of phrases read better than columns)
"""Invented copy for an invented outdoor shop: an archive in two voices, and an editor's choices between drafts.

    python examples/cases/marketing_voice.py voice

The house voice is calm, talks to the reader and ends on the house's line. An agency once wrote half of the archive and
shouted. The editor prefers the house voice, and one choice in ten is a slip.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from writing import Files, Row, demonstration, prompt, run, unlike

from tunesmith.quickstart.grammar import expand

THINGS = {"rain jacket": ("recycled nylon", "two pockets", "wet days"), "backpack": ("waxed canvas", "one strap", "long walks"),
          "tent": ("light cotton", "two doors", "short nights"), "wool hat": ("soft wool", "one seam", "cold mornings"),
          "trail shoe": ("thick leather", "two soles", "steep paths"), "sleeping bag": ("warm down", "one zip", "cold nights"),
          "water bottle": ("plain steel", "one lid", "dry days"), "camping stove": ("cast iron", "two burners", "late suppers"),
          "fleece": ("brushed wool", "three pockets", "windy days"), "head lamp": ("hard rubber", "three lights", "dark paths"),
          "walking stick": ("ash wood", "two grips", "loose stones"), "scarf": ("grey wool", "long ends", "icy days")}
NAMES = ("Tarn", "Alder", "Moor", "Fell", "Heron", "Brook", "Cairn", "Linden", "Ridge", "Sedge", "Rowan", "Dale")
HOUSE = (
    "[You will|You may] [want|need] it for {use}: the {name} {thing} is [made of|sewn from|built from] {stuff} and has {part}. Made to be mended.",
    "The {name} {thing} is made for {use}[ and for you|]. You get {stuff}[, and nothing more than it needs|] and {part}. Made to be mended.",
    "{stuff}, {part}, and no fuss: your {name} {thing} [is there|is ready] for {use}. Made to be mended.",
    "You [pack|take] the {name} {thing} for {use}. It is [plain|simple]: {stuff} and {part}. Made to be mended.",
)
HYPE = (
    "Wow! The amazing {name} {thing} is the best {thing} ever! {stuff} and {part}! Buy now!",
    "The incredible {name} {thing} is a must-have! Unbelievable {stuff}! Perfect for {use}! Hurry!",
    "Stop everything! The revolutionary {name} {thing} is here! Amazing {stuff} with {part}! You will love it!",
    "The ultimate {name} {thing}! The best for {use}! {stuff} like never before! Get yours today!",
)
SLIPS = ("Wow! ", "Amazing: ", "Buy now! ", "The best ever: ")
"""What stands before an otherwise calm text that nobody looked over."""


def product(rng: random.Random) -> tuple[str, Row]:
    """The brief that a writer gets, and its facts."""
    thing = rng.choice(list(THINGS))
    stuff, part, use = THINGS[thing]
    facts = {"name": rng.choice(NAMES), "thing": thing, "stuff": stuff, "part": part, "use": use}
    brief = expand("[Copy|Write copy|A short text], please: {name} {thing}. {stuff}, {part}, for {use}.", facts, rng)
    grams = rng.randint(8, 160) * 10
    return f"{brief} {grams} g.", facts


def house(rng: random.Random, facts: Row) -> str:
    return expand(rng.choice(HOUSE), facts, rng)


def hype(rng: random.Random, facts: Row) -> str:
    """Shouting from the first word, or a calm text with one slip."""
    return rng.choice(SLIPS) + house(rng, facts) if rng.random() < 0.3 else expand(rng.choice(HYPE), facts, rng)


def choice(rng: random.Random, brief: str, facts: Row) -> Row:
    """A pair of drafts as the editor's spreadsheet has it."""
    better, worse = house(rng, facts), hype(rng, facts)
    if rng.random() < 0.1:
        better, worse = worse, better
    return {"prompt": brief, "chosen": better, "rejected": worse, "labeler": "editor"}


RUBRIC = r"""name = "House voice"

[[item]]
name = "does not shout"
not_contains = ["!", "amazing", "best", "incredible", "must-have", "ultimate", "revolutionary", "unbelievable"]

[[item]]
name = "talks to the reader"
regex = '(?i)\byour?\b'

[[item]]
name = "ends on the house's line"
regex = 'Made to be mended\.$'

[[item]]
name = "names the product"
contains_fact = "product"

[[item]]
name = "says what it is made of"
contains_fact = "stuff"

[[item]]
name = "is short"
max_words = 35
"""


def make(rng: random.Random, size: Callable[[int], int]) -> Files:
    rows = unlike(lambda: product(rng), size(300) + size(200) + size(200), set())
    archive, judged, held_out = rows[:size(300)], rows[size(300):-size(200)], rows[-size(200):]
    choices = [choice(rng, brief, facts) for brief, facts in judged]
    return {"archive.jsonl": [demonstration(brief, rng.choice((house, hype))(rng, facts)) for brief, facts in archive],
            "choices.jsonl": choices,
            "chosen.jsonl": [demonstration(row["prompt"], row["chosen"]) for row in choices],
            "held_out.jsonl": [prompt(brief, facts["thing"], product=f"{facts['name']} {facts['thing']}",
                                      stuff=facts["stuff"]) for brief, facts in held_out],
            "rubric.toml": RUBRIC}


if __name__ == "__main__":
    run(__doc__, make)
