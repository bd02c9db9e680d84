# ruff: noqa: E501  (rows of phrases read better than columns)
"""Invented comments of an invented gardening forum, its policy, and what its moderators decided.

    python examples/cases/content_moderation.py forum

The policy is mild: no advertising, no phone numbers or addresses, nothing but gardens. One decision in eight of the
log is a slip. Comments that break a rule have the domain "breach", the others "fine"; no model sees it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from writing import Files, Row, demonstration, prompt, run, unlike

from tunesmith.quickstart.grammar import expand

PLANTS = ("tomatoes", "roses", "beans", "lavender", "potatoes", "tulips", "basil", "apple trees")
FINE = ("My {plant} [wilt|turn yellow|get spots] [every summer|after rain|in {month}]. [Any idea why|What helps|Too much water]?", "I [water|feed|cut] the {plant} in {month} and they [do well|thrive].",
        "Thank you, the [tip|advice] about the {plant} worked [well|at once].", "[Do|Should] {plant} need [shade|lime|sand] in {month}?", "You are wrong about the {plant}, they like [sun|clay|cold nights].")
BREACHES = {
    "advertising": ("Buy {plant} at my shop, {percent} percent off[ today| this week|].", "[Best prices|Cheap deals] on {plant}: visit my [shop|store] in {month}.", "My [shop|store] sells {plant} for {percent} dollars[, order now|]."),
    "private data": ("Call me about the {plant}: 555 0{phone}.", "[My neighbour|The man with the {plant}] lives at {percent} Mill Lane, [go and ask|write to him].", "Send the {plant} to {percent} Mill Lane[, my number is 555 0{phone}|]."),
    "off topic": ("The {sport} match in {month} was [better than|more fun than] any {plant}.", "Never mind the {plant}, who [watched|saw] the {sport} match?", "[Vote|Vote in {month}] for the other party, not for {plant}."),
}
MONTHS, SPORTS = ("March", "May", "June", "August", "October"), ("football", "tennis", "hockey")

POLICY = """# Policy of the garden forum

Moderators decide about one comment at a time and answer KEEP, or REMOVE and the rule that it breaks.

## nothing is sold
Remove comments that advertise, name prices or send people to a shop.

## private data stay private
Remove comments with a phone number or a street address, whoever's it is.

## gardens only
Remove comments that are about something else. A rude tone about plants is no reason to remove.

## say which rule
A decision to remove names the rule in two or three words and says nothing else.
"""
RIGHT = """name = "Right"

[[item]]
name = "decides as the policy does"
contains_fact = "decision"

[[item]]
name = "names the rule"
domains = ["breach"]
contains_fact = "rule"

[[item]]
name = "says nothing else"
max_words = 6
"""
CAUGHT = """name = "Caught"

[[item]]
name = "a breach is removed"
domains = ["breach"]
contains = "remove"
"""


def comment(rng: random.Random) -> tuple[str, Row]:
    """A comment as moderators see it, and what the policy says of it."""
    rule = rng.choice(list(BREACHES)) if rng.random() < 0.4 else ""
    facts = {"plant": rng.choice(PLANTS), "month": rng.choice(MONTHS), "sport": rng.choice(SPORTS),
             "percent": rng.randint(10, 99), "phone": rng.randint(100, 199)}
    text = expand(rng.choice(BREACHES[rule] if rule else FINE), facts, rng)
    return f"Comment: {text}", {"decision": "REMOVE" if rule else "KEEP", "rule": rule}


def decided(facts: Row) -> str:
    return f"REMOVE: {facts['rule']}." if facts["rule"] else "KEEP."


def logged(rng: random.Random, facts: Row) -> str:
    """A moderator's decision; the slips let through more than they remove."""
    slip = rng.random() < 0.125
    if not slip:
        return decided(facts)
    return "KEEP." if facts["rule"] else "REMOVE: off topic."


def asked(text: str, facts: Row) -> Row:
    known = {key: value for key, value in facts.items() if value}
    return prompt(text, "breach" if facts["rule"] else "fine", **known)


def make(rng: random.Random, size: Callable[[int], int]) -> Files:
    rows = unlike(lambda: comment(rng), size(400) + size(300) + size(200), set())
    log, new, held_out = rows[:size(400)], rows[size(400):-size(200)], rows[-size(200):]
    return {"log.jsonl": [demonstration(text, logged(rng, facts)) for text, facts in log],
            "comments.jsonl": [asked(*row) for row in new], "held_out.jsonl": [asked(*row) for row in held_out],
            "policy.md": POLICY, "right.toml": RIGHT, "caught.toml": CAUGHT}


if __name__ == "__main__":
    run(__doc__, make)
