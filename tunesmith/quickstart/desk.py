"""What the desk of Wrenfield Lending knows and asks of its agents.

The lender, its loans and its rates are invented. Rates never change, so that a
model can learn them by rote; nothing here computes an offer or a payment.
"""

from dataclasses import dataclass

LENDER = "Wrenfield Lending"
MAX_WORDS = 45


@dataclass(frozen=True)
class Product:
    """A kind of loan: how it is named, what matches it in text, APR by term in months.

    `names` are what people write; the first is the desk's own name.
    """

    key: str
    names: tuple[str, ...]
    pattern: str
    rates: dict[int, str]


PRODUCTS = {
    p.key: p
    for p in (
        Product("personal", ("personal loan",), r"\bpersonal\b", {24: "9.49", 48: "10.99"}),
        Product("auto", ("auto loan", "car loan"), r"\b(auto|car|vehicle)\b", {36: "6.25", 60: "7.15"}),
        Product(
            "home",
            ("home improvement loan", "home renovation loan"),
            r"\bhome (improvement|renovation)|\brenovation\b",
            {60: "8.35", 120: "9.05"},
        ),
        Product("debt", ("debt consolidation loan",), r"\bconsolidat", {36: "11.75", 60: "12.45"}),
        Product(
            "student",
            ("student refinance loan", "student loan refinance"),
            r"\bstudent\b|\brefinanc",
            {60: "5.85", 120: "6.65"},
        ),
        Product(
            "business",
            ("small business loan", "business loan"),
            r"\bbusiness\b(?! days?)",
            {24: "13.20", 60: "14.30"},
        ),
    )
}


@dataclass(frozen=True)
class Guideline:
    """A rule for agents: a name for tables, the rule, and when it applies."""

    name: str
    rule: str
    applies: str


GUIDELINES = (
    Guideline("answer", "Answer what was asked, with the desk's facts and about the right loan.", "always"),
    Guideline(
        "exact_rate",
        "Quote the exact APR of the rate card. Never round, guess or give a range.",
        "a rate is asked for, or a percentage is written",
    ),
    Guideline(
        "disclosure",
        "With every rate say that it is subject to a credit check, or that the final rate may differ.",
        "a rate is asked for",
    ),
    Guideline(
        "no_promise",
        "Never promise, guarantee or hint that an application will be approved.",
        "rates, applications and decisions",
    ),
    Guideline(
        "identity",
        "Ask the customer to verify who they are before any account detail is told or changed.",
        "balance, payoff amount and address, until verified",
    ),
    Guideline(
        "person",
        "Offer a person on hardship, on a complaint, or when asked for one. Otherwise help yourself.",
        "always",
    ),
    Guideline("courtesy", "Be courteous: a kind word in every reply, never a rude one.", "always"),
    Guideline("brevity", f"Stay within {MAX_WORDS} words and end in a finished sentence.", "always"),
    Guideline("next_step", "Close with one clear next step.", "always"),
)

FACTS = (
    "Applications are made online and take about ten minutes; a photo ID and a recent pay stub are needed.",
    "A decision comes by email within two business days.",
    "Loans can be repaid early, in part or in full, without a fee.",
    "A payment may be 10 days late; after that the late fee is $25.",
    "In hardship a plan can lower or pause payments for up to three months.",
    "Copies of papers are on the Documents page of the online account.",
    "Balances and payoff amounts go to the secure inbox of a verified customer.",
    "The desk helps with loans only.",
)

RATE_INTENTS = frozenset({"rate", "compare"})
IDENTITY_INTENTS = frozenset({"balance", "payoff", "address"})
PERSON_INTENTS = frozenset({"hardship", "complaint", "person"})
PROMISE_INTENTS = frozenset({"rate", "compare", "apply", "approval"})


def rate_card() -> str:
    """The rate card as lines of text, for a person to read."""
    rows = [(p.names[0], term, apr) for p in PRODUCTS.values() for term, apr in p.rates.items()]
    return "\n".join(f"{name}, {term} months: {apr}% APR" for name, term, apr in rows)


def handbook() -> str:
    """Guidelines, facts and rates as one text: what labelers are given to judge by."""
    rules = [f"{i}. {g.rule} (Applies: {g.applies}.)" for i, g in enumerate(GUIDELINES, 1)]
    return "\n".join(
        [f"{LENDER} support desk", "", "Guidelines", *rules, "", "Facts", *FACTS, "", "Rates", rate_card()]
    )
