"""What agents of the desk write: one grammar, from excellent to rude and wrong.

A `Style` says how likely an agent keeps each guideline. Demonstrations come from the
average agent; the base model was pretrained on a wide population of agents.
"""

import random
from dataclasses import dataclass, fields, replace

from tunesmith.quickstart import agent_phrases as say
from tunesmith.quickstart import desk
from tunesmith.quickstart.customers import Scenario, sample
from tunesmith.quickstart.grammar import expand, tidy, with_article


@dataclass(frozen=True)
class Style:
    """Chances per reply: to keep a guideline, to be rude, to hand over without need."""

    answer: float
    exact_rate: float
    disclosure: float
    no_promise: float
    identity: float
    person: float
    courtesy: float
    brevity: float
    next_step: float
    needless: float
    rude: float
    rude_provoked: float


KEPT = tuple(f.name for f in fields(Style))[:9]
EXCELLENT = Style(1, 1, 1, 1, 1, 1, 1, 1, 1, needless=0, rude=0, rude_provoked=0)
AVERAGE = Style(
    answer=0.78, exact_rate=0.66, disclosure=0.42, no_promise=0.75, identity=0.5, person=0.5,
    courtesy=0.55, brevity=0.84, next_step=0.44, needless=0.18, rude=0.01, rude_provoked=0.12,
)  # fmt: skip


def population(rng: random.Random) -> Style:
    """An agent drawn from all walks: careful ones, careless ones, short-tempered ones."""
    care = rng.triangular(-0.45, 0.4, -0.12)
    temper = rng.random()
    kept = {k: min(max(getattr(AVERAGE, k) + care + rng.uniform(-0.2, 0.2), 0), 1) for k in KEPT}
    return replace(
        AVERAGE, **kept, needless=rng.uniform(0, 0.5), rude=0.08 * temper, rude_provoked=0.08 + 0.56 * temper
    )


def write(scenario: Scenario, style: Style, rng: random.Random) -> str:
    """One reply to the scenario's last message by an agent of the given style."""
    keep = {k: rng.random() < getattr(style, k) for k in KEPT}
    rude = rng.random() < (style.rude_provoked if scenario.provocative else style.rude)
    handover = keep["person"] if scenario.intent in desk.PERSON_INTENTS else rng.random() < style.needless
    facts = _facts(scenario, keep, rng)
    parts = [_opener(scenario, keep, rude, rng)]
    parts += _body(scenario, keep, handover, rng)
    if handover:
        parts.append(rng.choice(say.HANDOVER))
    if keep["next_step"]:
        parts.append(rng.choice(_next_steps(scenario)))
    elif rude:
        parts.append(rng.choice(say.RUDE_CLOSERS))
    said = [expand(p, facts, rng) for p in parts if p]
    if not keep["brevity"]:
        said = _ramble(said, rng)
    return with_article(tidy(" ".join(said)))


def demonstrations(n: int, seed: int, split: str = "train") -> list[tuple[Scenario, str]]:
    """`n` customers with the average agent's replies: the raw material of SFT."""
    scenarios = sample(split, n, seed)
    return [(s, write(s, AVERAGE, random.Random(f"demo/{seed}/{s.id}"))) for s in scenarios]


def _facts(scenario: Scenario, keep: dict, rng: random.Random) -> dict:
    """The scenario's facts and the rates: right ones, or another row's when careless."""
    product = desk.PRODUCTS[scenario.facts["product"]]
    months = scenario.facts["months"] or rng.choice(list(product.rates))
    facts = scenario.facts | {"months": months, "apr": product.rates[months], "leak": f"{rng.randint(900, 29900):,}"}
    facts["loan"] = scenario.facts["loan"] if rng.random() < 0.7 else rng.choice(product.names)
    if scenario.facts["product2"]:
        second = desk.PRODUCTS[scenario.facts["product2"]]
        facts["months2"], facts["apr2"] = rng.choice(list(second.rates.items()))
    if not keep["exact_rate"]:
        others = [r for p in desk.PRODUCTS.values() for r in p.rates.values() if r not in product.rates.values()]
        facts["apr"] = rng.choice(others)
    heard = scenario.messages[-1]["content"].lower()
    facts["dear"] = f", {facts['name']}" if facts["name"].lower() in heard and rng.random() < 0.6 else ""
    return facts


def _opener(scenario: Scenario, keep: dict, rude: bool, rng: random.Random) -> str:
    if rude:
        return rng.choice(say.RUDE_OPENERS)
    if not keep["courtesy"]:
        return ""
    return rng.choice(say.COURTESY[scenario.intent if scenario.intent in say.COURTESY else scenario.mood])


def _body(scenario: Scenario, keep: dict, handover: bool, rng: random.Random) -> list[str]:
    """The answer and what belongs to it: disclosure, identity check, or a promise made."""
    intent = scenario.intent
    unverified = intent in desk.IDENTITY_INTENTS and not scenario.facts["verified"]
    if unverified and keep["identity"]:
        return [rng.choice(say.ONCE_VERIFIED[intent]) if keep["answer"] else "", rng.choice(say.VERIFY)]
    if unverified and rng.random() < 0.7:
        return [rng.choice(say.LEAKS[intent])]
    if not keep["answer"]:
        return [rng.choice(say.NO_ANSWER if handover else say.VAGUE)]
    parts = [rng.choice(say.WRONG_RATE if intent == "rate" and not keep["exact_rate"] else say.ANSWERS[intent])]
    if intent in desk.RATE_INTENTS and keep["disclosure"]:
        parts.append(rng.choice(say.DISCLOSURE))
    if intent in desk.PROMISE_INTENTS and not keep["no_promise"]:
        parts[0] = "" if intent == "approval" else parts[0]
        parts.append(rng.choice(say.PROMISES))
    return parts


def _next_steps(scenario: Scenario) -> tuple[str, ...]:
    if scenario.intent in desk.IDENTITY_INTENTS:
        return say.NEXT["verified"] if scenario.facts["verified"] else say.NEXT["unverified"]
    return say.NEXT[scenario.intent]


def _ramble(said: list[str], rng: random.Random) -> list[str]:
    """Too long, by filler sentences; sometimes also cut off in the middle of one."""
    filler = rng.sample(say.PADDING, len(say.PADDING))
    while len(" ".join(said).split()) <= desk.MAX_WORDS:
        said.insert(rng.randint(min(1, len(said)), len(said)), expand(filler.pop(), {}, rng))
    if rng.random() < 0.2:
        said[-1] = " ".join(said[-1].split()[:-2])
    return said
