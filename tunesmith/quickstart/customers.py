"""The customer simulator: who writes to the desk, what they want and how they put it.

Facts (names, products, sums) are shared by all splits; the phrasings are not, so a
reply to a `dev` or `test` customer answers words that training never saw.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from tunesmith.quickstart import desk, phrases
from tunesmith.quickstart.grammar import expand, with_article

SPLITS = ("train", "dev", "test")
PROVOCATIVE = ("angry", "insulting")
MOOD_WEIGHTS = {"calm": 42, "hurried": 14, "worried": 14, "angry": 15, "insulting": 15}
INTENT_WEIGHTS = {
    "rate": 20, "compare": 6, "apply": 9, "approval": 10, "early": 8, "late": 8, "balance": 8, "payoff": 7,
    "address": 5, "documents": 6, "hardship": 8, "complaint": 8, "person": 3, "thanks": 4, "offtopic": 4,
}  # fmt: skip
NEEDS_TERM = "{term}"
EARLIER = 0.16


@dataclass(frozen=True)
class Scenario:
    """One customer at one moment; the last message is the one to be answered.

    `facts` holds what the rubric needs: `product`, `term` (months, or None when the
    customer named none), `product2`, `verified`, and the words used.
    """

    id: str
    intent: str
    mood: str
    split: str
    facts: dict = field(hash=False)
    messages: list[dict] = field(hash=False)
    domain: str = "loan-desk"

    @property
    def provocative(self) -> bool:
        return self.mood in PROVOCATIVE

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: dict) -> "Scenario":
        return cls(**row)


def sample(
    split: str, n: int, seed: int, provocative: float | None = None, intents: Mapping[str, float] | None = None
) -> list[Scenario]:
    """`n` customers of a split; the same arguments give the same customers.

    `provocative` sets the share of angry and insulting customers (else about 30%), `intents` how often each intent
    comes (else `INTENT_WEIGHTS`).
    Raises ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    tag = "" if provocative is None else f"-p{round(100 * provocative)}"
    return [_one(split, f"{split}-{seed}{tag}-{i}", provocative, intents or INTENT_WEIGHTS) for i in range(n)]


def _one(split: str, id_: str, provocative: float | None, intents: Mapping[str, float]) -> Scenario:
    rng = random.Random(id_)
    mood = _mood(rng, provocative)
    weights = {k: w for k, w in intents.items() if k != "thanks" or mood == "calm"}
    intent = rng.choices(list(weights), list(weights.values()))[0]
    core = rng.choice(phrases.CORES[intent][split])
    facts = _facts(rng, intent, core)
    request = _message(rng, split, mood, core, facts)
    earlier = _earlier(rng, intent, split, request, facts) if rng.random() < EARLIER else []
    messages = earlier or [{"role": "user", "content": request}]
    return Scenario(id_, intent, mood, split, facts, messages)


def _mood(rng: random.Random, provocative: float | None) -> str:
    if provocative is None:
        return rng.choices(list(MOOD_WEIGHTS), list(MOOD_WEIGHTS.values()))[0]
    wanted = rng.random() < provocative
    return rng.choice([m for m in MOOD_WEIGHTS if (m in PROVOCATIVE) == wanted])


def _facts(rng: random.Random, intent: str, core: str) -> dict:
    product, product2 = rng.sample(list(desk.PRODUCTS.values()), 2)
    months = rng.choice(list(product.rates))
    issue, topic = rng.choice(phrases.ISSUES)
    sums = rng.choice(["${}00", "${},000", "${},500"]).format(rng.randint(2, 45))
    return {
        "name": rng.choice(phrases.NAMES),
        "product": product.key,
        "loan": rng.choice(product.names),
        "product2": product2.key if intent == "compare" else None,
        "loan2": rng.choice(product2.names),
        "months": months if NEEDS_TERM in core else None,
        "term": _term(rng, months),
        "amount": sums,
        "issue": expand(issue, {}, rng),
        "topic": topic,
        "paper": rng.choice(phrases.PAPERS),
        "off": expand(rng.choice(phrases.OFFTOPIC), {}, rng),
        "verified": False,
    }


def _term(rng: random.Random, months: int) -> str:
    return rng.choice([f"{months} months", f"{months} months", f"{months // 12} years"])


def _message(rng: random.Random, split: str, mood: str, core: str, facts: dict) -> str:
    parts = [_clause(core, facts, rng)]
    feeling = expand(rng.choice(phrases.MOODS[mood][split]), facts, rng)
    if feeling:
        parts.insert(rng.randrange(2), feeling)
    if mood != "insulting" and rng.random() < 0.5:
        parts.insert(0, expand(rng.choice(phrases.OPENERS[split]), facts, rng) + rng.choice([",", ".", "!"]))
    if mood not in PROVOCATIVE and rng.random() < 0.35:
        parts.append(_clause(rng.choice(phrases.CLOSERS[split]), facts, rng))
    return _noise(" ".join(parts), rng)


def _clause(phrase: str, facts: dict, rng: random.Random) -> str:
    """The phrase as a sentence: with a stop if it has none, and 'a' made 'an' where due."""
    text = with_article(expand(phrase, facts, rng))
    return text if text[-1] in ".?!" else text + "."


def _noise(text: str, rng: random.Random) -> str:
    """People type in a hurry: lower case, no final stop, one slip of the fingers."""
    if rng.random() < 0.3:
        text = text.lower()
    if rng.random() < 0.2:
        text = text.rstrip(".?!")
    if rng.random() < 0.12:
        text = _typo(text, rng)
    return text


def _typo(text: str, rng: random.Random) -> str:
    spots = [i for i in range(1, len(text) - 2) if text[i : i + 2].isalpha() and text[i - 1].isalpha()]
    if not spots:
        return text
    i = rng.choice(spots)
    return text[:i] + rng.choice([text[i + 1] + text[i], text[i], text[i : i + 2] + text[i + 1]]) + text[i + 2 :]


def _earlier(rng: random.Random, intent: str, split: str, request: str, facts: dict) -> list[dict]:
    """An exchange before: the customer's identity was just verified, or hellos were said."""
    if intent in desk.IDENTITY_INTENTS:
        facts["verified"] = True
        proof = facts | {
            "last": rng.choice(phrases.LAST_NAMES),
            "born": f"{rng.choice(phrases.MONTHS)} {rng.randint(1, 28)}, {rng.randint(1955, 2003)}",
            "digits": f"{rng.randint(0, 9999):04d}",
        }
        give = expand(rng.choice(phrases.GIVE_IDENTITY[split]), proof, rng)
        return [
            _said("user", request),
            _said("assistant", expand(rng.choice(phrases.ASK_IDENTITY), facts, rng)),
            _said("user", give),
        ]
    hello = expand(rng.choice(phrases.HELLOS), facts, rng)
    return [
        _said("user", hello),
        _said("assistant", expand(rng.choice(phrases.SMALL_TALK), facts, rng)),
        _said("user", request),
    ]


def _said(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def variety(texts: Iterable[str]) -> dict[str, float]:
    """How varied texts are: distinct-1, -2 and -3 over all words, and the share of exact duplicates."""
    lines = [t.lower().split() for t in texts]
    out = {}
    for n in (1, 2, 3):
        grams = [tuple(w[i : i + n]) for w in lines for i in range(len(w) - n + 1)]
        out[f"distinct_{n}"] = len(set(grams)) / max(len(grams), 1)
    counts = Counter(map(tuple, lines))
    out["duplicates"] = 1 - len(counts) / max(len(lines), 1)
    return out
