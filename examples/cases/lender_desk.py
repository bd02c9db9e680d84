"""Customers of an invented lender, replies of its average agents, and the rules that its supervisor wrote down.

    python examples/cases/lender_desk.py lender

People, loans and rates come from the simulator behind `tunesmith quickstart`; nobody real wrote or appears here.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from writing import Files, Row, run, said

from tunesmith.quickstart import customers, desk, replies
from tunesmith.quickstart.customers import Scenario


def asked(scenario: Scenario) -> Row:
    """A customer as a prompt. `scenario` is for the simulator's own rubric, the rest for ours."""
    product = desk.PRODUCTS[scenario.facts["product"]]
    rate = product.rates.get(scenario.facts["months"]) if scenario.intent == "rate" else None
    named = {scenario.facts["product"], scenario.facts["product2"]}
    others = [apr for p in desk.PRODUCTS.values() if p.key not in named for apr in p.rates.values()]
    return {"messages": scenario.messages, "domain": domain(scenario), "split": scenario.split,
            "facts": {"rate": rate or "", "other_rates": others, "scenario": scenario.to_dict()}}


def domain(scenario: Scenario) -> str:
    """What the supervisor's rules tell apart."""
    if scenario.intent in desk.IDENTITY_INTENTS:
        return "known customer" if scenario.facts["verified"] else "account"
    return {"rate": "rate", "compare": "rate", "apply": "application", "approval": "application",
            "hardship": "hardship", "complaint": "hardship"}.get(scenario.intent, "other")


RUBRIC = r"""name = "Supervisor's rules"

[[item]]
name = "the exact rate"
contains_fact = "rate"
weight = 2

[[item]]
name = "no other loan's rate"
not_contains_fact = "other_rates"
weight = 2

[[item]]
name = "a credit check decides"
domains = ["rate"]
regex = '(?i)credit (check|review)|final rate'

[[item]]
name = "promises nothing"
domains = ["rate", "application"]
not_regex = '(?i)\b(surely|definitely|certainly|promise (it|you)|guarantee (it|you)|guaranteed|sure thing|everyone gets|as good as approved)'
weight = 2

[[item]]
name = "asks who it is first"
domains = ["account"]
regex = '(?i)\b(verif\w+|confirm|name and date of birth)'
weight = 2

[[item]]
name = "tells no sum before that"
domains = ["account"]
not_regex = '\$\d'
weight = 2

[[item]]
name = "offers a person"
domains = ["hardship"]
regex = '(?i)\b(person|colleague|loan officer|agent|supervisor)s?\b'

[[item]]
name = "stays polite"
not_regex = '(?i)\b(stupid|idiot|fool|shut up|whin\w+|clown|dumb|pathetic|genius|could not care less|not (mine|ours)|calm down|leave me alone|go away|better things to do)\b'
weight = 2

[[item]]
name = "is short"
max_words = 45
"""  # noqa: E501
GATE = """[[rule]]
figure = "preference"
at_least = 0.5

[[rule]]
figure = "promises nothing"
against = "assistant"
worse_by_at_most = 0.02

[[rule]]
figure = "tells no sum before that"
against = "assistant"
worse_by_at_most = 0.02

[[rule]]
figure = "words"
against = "assistant"
changed_by_at_most = 0.5
"""


def make(rng: random.Random, size: Callable[[int], int]) -> Files:
    seed = rng.randrange(10_000)
    taught = [{"messages": [*scenario.messages, said("assistant", reply)]}
              for scenario, reply in replies.demonstrations(size(500), seed)]
    return {"conversations.jsonl": taught,
            "customers.jsonl": [asked(s) for s in customers.sample("train", size(1000), seed + 1)],
            "held_out.jsonl": [asked(s) for s in customers.sample("test", size(240), seed + 2)],
            "rubric.toml": RUBRIC, "gate.toml": GATE}


if __name__ == "__main__":
    run(__doc__, make)
