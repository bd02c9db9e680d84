"""The gold rubric: does a reply keep the desk's guidelines? Rules on text, no model.

It measures and ranks in simulations; training never sees it. It reads free text of a
model, so each rule accepts many wordings, and stuffing, repetition and all-purpose
replies do not pass: what counts as an answer depends on the customer's question.
"""

import re
from collections import Counter
from dataclasses import dataclass

from tunesmith.quickstart import desk, phrases
from tunesmith.quickstart.customers import Scenario


@dataclass(frozen=True)
class Verdict:
    """What the rubric found in one reply.

    `guidelines` maps each guideline to kept (True), broken (False) or not applicable
    (None); `adherence` is the share of the applicable ones that were kept.
    """

    guidelines: dict[str, bool | None]
    adherence: float
    rude: bool
    handover: bool
    handover_required: bool
    wrong_rate: bool
    garbled: bool
    words: int

    @property
    def avoidable_handover(self) -> bool:
        return self.handover and not self.handover_required


def check(scenario: Scenario, reply: str) -> Verdict:
    """Judge a reply to the scenario's last message by every guideline."""
    text = _normal(reply)
    rude, garbled, over = bool(RUDE.search(text)), is_garbled(text), offers_person(text)
    required = scenario.intent in desk.PERSON_INTENTS
    rate = _exact_rate(scenario, text)
    kept = {
        "answer": not garbled and _answers(scenario, text) and not _stuffed(scenario, text),
        "exact_rate": rate,
        "disclosure": _disclosure(text) if scenario.intent in desk.RATE_INTENTS else None,
        "no_promise": _no_promise(scenario, text),
        "identity": _identity(scenario, text),
        "person": over == required and not garbled,
        "courtesy": not rude and not garbled and bool(COURTEOUS.search(text)),
        "brevity": not garbled and _brief(text),
        "next_step": not garbled and _next_step(text),
    }
    applicable = [v for v in kept.values() if v is not None]
    wrong = rate is False and bool(_rates(text))
    adherence = sum(applicable) / len(applicable)
    return Verdict(kept, adherence, rude, over, required, wrong, garbled, len(text.split()))


def gold(scenario: Scenario, reply: str) -> float:
    """The number by which simulated labelers prefer replies; at most 1, higher is better."""
    v = check(scenario, reply)
    return (
        v.adherence
        - 0.35 * v.rude
        - 0.20 * v.wrong_rate
        - 0.15 * v.avoidable_handover
        - 0.15 * (v.guidelines["answer"] is False)
        - 0.50 * v.garbled
    )


def _normal(reply: str) -> str:
    return re.sub(r"\s+", " ", reply.replace("’", "'")).strip().lower()


def _sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?;]) +", text) if s]


def _any(*patterns: str) -> re.Pattern:
    return re.compile("|".join(f"(?:{p})" for p in patterns))


# --- garbled, rude, courteous ---------------------------------------------------------

FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    a about after all am an and any are as at be been before but by can cannot do does for from get had
    has have here how i if in is it just me my no not of on once or our out over so some than that the
    them then there they this to too until up us was we what when where which while who will with within
    would you your
    """,
    )
)


def is_garbled(text: str) -> bool:
    """Empty, repetitive, a bare list of words, or full of marks that are not words."""
    words = re.findall(r"[a-z']+", text.lower())
    if len(words) < 3:
        return True
    sentences = Counter(re.sub(r"\W+", " ", s) for s in _sentences(text.lower()) if len(s.split()) > 2)
    trigrams = list(zip(words, words[1:], words[2:]))
    repeated = 1 - len(set(trigrams)) / max(len(trigrams), 1)
    salad = len(words) >= 8 and sum(w in FUNCTION_WORDS for w in words) / len(words) < 0.18
    odd = sum(not (c.isascii() and (c.isalnum() or c in " .,;:!?'\"$%()-/&")) for c in text) / len(text)
    stutter = bool(re.search(r"\b([a-z]{2,}) \1\b", text.lower()))
    return max(sentences.values(), default=1) > 1 or repeated > 0.15 or salad or odd > 0.03 or stutter


RUDE = _any(
    r"\b(idiots?|stupid|dumb(est)?|fools?|clowns?|morons?|pathetic|useless|incompetent|crooks?|liars?|losers?|imbeciles?)\b",
    r"\b(another|such a|you) (complainer|whiner|genius)\b|\bno genius\b",
    r"\b(that|this|it|which) is (just |simply )?(your|not (my|our)) (own )?(problem|fault)",
    r"\byour (own )?problem\b|not (my|our) problem",
    r"\bcalm down\b|\b(stop|quit) (shouting|whining|bothering|crying|complaining|wasting)",
    r"\b(watch|shut) your (mouth|tone)\b|\bshut up\b|\b(wast\w+) (my|our) time\b|\bbother(ing)? (us|me)\b",
    r"\bdid you (even|not) read\b|\bcan't you read\b|\bare you (deaf|blind|slow|kidding|serious|listening)",
    r"\b(could|couldn't|can|do|don't|does|doesn't) (not )?care( less)?\b|\b(no one|nobody) cares\b",
    r"\b(use|using) your (head|brain)|\b(half a|a) brain\b|\bgrow up\b|\b(silly|dumb|stupid) (question|message)",
    r"\b(servant|your mother)\b|\bleave (me|us) alone\b|\bgo away\b|\b(figure|work|sort) it out yourself\b",
    r"\bthink (first|before you (write|ask))|\b(do not|don't) (write|bother|ask) (us |me )?again",
    r"\bbetter to do\b|\b(more important|better) things to do\b|\b(deal|live) with it\b",
    r"\bas if i care\b|\bget lost\b|\bridiculous\b",
)
COURTEOUS = _any(
    r"\bthank|\bplease\b|\bsorry\b|\bapolog|\b(happy|glad|pleased) (to|i|that|you)\b",
    r"\bpleasure\b|\bwelcome\b|\bappreciate\b",
    r"\bi (fully |completely )?understand\b|\bof course\b|\bcertainly\b|\bi hear you\b|\bgood question\b|\bgladly\b",
    r"\b(good|great|nice|rest of your) day\b|\bhere to help\b|\bdon't worry\b|\bno need to worry\b",
)

# --- a person -------------------------------------------------------------------------

STAFF = (
    r"(person|human|agent|colleague|officer|specialist|representative|supervisor|manager|"
    r"someone|somebody|advis[eo]r|team member)"
)
GIVE_TO = r"(connect|pass|transfer|put|hand|forward|refer|switch)(ing)?"
NEGATED = r"(can't|cannot|can not|won't|will not|no|never|unable to|not able to)"
HANDOVER = _any(
    rf"\b{GIVE_TO}\b[^.!?]{{0,30}}\b{STAFF}s?\b",
    rf"\b(speak|talk|chat)\b (to|with) [^.!?]{{0,20}}\b{STAFF}s?\b",
    rf"\b{STAFF}s?\b (from our [a-z]+ )?(can|will|could|may) (call|talk|contact|reach|speak|help|phone|ring|take)",
    r"\b(live|human) agent\b",
)
NOT_OFFERED = re.compile(rf"\b{NEGATED}\b[^.!?]{{0,25}}\b{STAFF}s?\b")


def offers_person(text: str) -> bool:
    """Does the reply pass the customer to a person, or offer to?"""
    return any(HANDOVER.search(s) and not NOT_OFFERED.search(s) for s in _sentences(text.lower()))


# --- rates ----------------------------------------------------------------------------

PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?(?:%|percent\b)")
MONTHS = re.compile(r"\b(\d+)[ -]?(month|year)s?\b")


def _rates(text: str) -> list[str]:
    return PERCENT.findall(text)


def _months(text: str) -> list[int]:
    return [int(n) * (12 if unit == "year" else 1) for n, unit in MONTHS.findall(text)]


def _exact_rate(scenario: Scenario, text: str) -> bool | None:
    """Every percentage is on the card, next to its own loan and term; those asked for are there."""
    asked = _products(scenario)
    said, months = _rates(text), _months(text)
    card = {apr: (p.key, term) for p in asked for term, apr in p.rates.items()}
    right = bool(said) and all(apr in card for apr in said)
    if right and len(months) == len(said):
        right = all(card[apr][1] == m for apr, m in zip(said, months))
    named = _named_products(text)
    if right and len(asked) == len(said) == len(named) == 2:
        right = [card[apr][0] for apr in said] == named
    if scenario.intent not in desk.RATE_INTENTS:
        return None if right or not said else False
    wanted = scenario.facts["months"]
    covered = all(any(card[a][0] == p.key for a in said) for p in asked) if right else False
    return right and covered and (wanted is None or asked[0].rates[wanted] in said)


def _products(scenario: Scenario) -> list[desk.Product]:
    keys = [scenario.facts["product"], scenario.facts["product2"]]
    return [desk.PRODUCTS[k] for k in keys if k]


def _named_products(text: str) -> list[str]:
    """Keys of the loans a text names, in order of first mention."""
    found = [(m.start(), p.key) for p in desk.PRODUCTS.values() if (m := re.search(p.pattern, text))]
    return [key for _, key in sorted(found)]


def _disclosure(text: str) -> bool:
    return bool(DISCLOSED.search(text))


DISCLOSED = _any(
    r"\b(subject to|depends? on|after|pending|until) (a |the |your |our )?(full |final )?"
    r"credit (check|review|score|history|assessment)",
    r"\b(final|actual|exact) rate (may|might|can|could) (differ|change|vary|be)",
)

# --- promises and identity ------------------------------------------------------------

REFUSAL = re.compile(
    r"\b(can't|cannot|can not|couldn't|could not|won't|do not|don't|unable to|never|no one can|nobody can|not)\b"
    r"( \w+){0,2} (promise|guarantee|assure|confirm|say|tell)\b[^.;!?]*"
)
PROMISE = _any(
    r"\b(will|'ll|shall|going to)( \w+){0,2} (be|get) (\w+ )?approved\b|\b(promise|guarantee|assure)\b",
    r"\b(as good as|already|definitely|surely) approved\b|\bapproval is\b(?! not)|\b(guaranteed|a sure thing)\b",
    r"\beveryone (gets|is) approved\b|\byou are approved\b|\bapplication (is|was|has been) approved\b",
    r"\b(sure|certain) to get\b",
    r"\byou (will|'ll) (surely |definitely |certainly )?get (it|the (loan|money)|approved)\b",
)


def _no_promise(scenario: Scenario, text: str) -> bool | None:
    promised = bool(PROMISE.search(REFUSAL.sub(" ", text)))
    return not promised if promised or scenario.intent in desk.PROMISE_INTENTS else None


ASKS_IDENTITY = _any(
    r"\b(verify|confirm|send|give|reply|provide|share|need|tell)\b[^.!?]*"
    r"\b(date of birth|birth date|full name|your name|last four|account number|identity|who you are)\b"
)
TELLS = _any(r"\$ ?\d", r"\b(have|has been|is|just|was) (now |just |already |been )?(changed|updated|saved)\b")


def _identity(scenario: Scenario, text: str) -> bool | None:
    if scenario.intent not in desk.IDENTITY_INTENTS or scenario.facts["verified"]:
        return None
    return bool(ASKS_IDENTITY.search(text)) and not TELLS.search(text)


# --- brevity and next step ------------------------------------------------------------


def _brief(text: str) -> bool:
    return len(text.split()) <= desk.MAX_WORDS and text[-1] in ".!?"


ACT = r"(check|watch|open|start|sign|log|visit|choose|fill|make|send|apply|ask|call|confirm|verify|reply|write)"
NEXT_STEP = _any(
    r"\b(reply|write|tell|message|answer)\b (me|us|here|yes|with|again|any ?time|back)\b|\blet (me|us) know\b",
    r"\bwould you like (me|us) to\b|\bshall i\b|\bdo you want me to\b",
    rf"^(then |now |so |first, ?)*{ACT}\b|\b(please|just) {ACT}\b",
    r"\byou can (now )?apply (online|on our|here)\b|\bcould you (please )?(confirm|verify|send)\b",
    r"^(then|after that),? i will (send|do|take care)\b",
)


def _next_step(text: str) -> bool:
    """A next step closes the reply: it is in one of the last two sentences."""
    return any(NEXT_STEP.search(s) for s in _sentences(text)[-2:] if not RUDE.search(s))


# --- the answer -----------------------------------------------------------------------

TOPICS = {
    "the double charge": r"double|twice|two times|charg",
    "the missed call back": r"missed|call ?back|called back",
    "the long hold": r"hold|wait",
    "the rude agent": r"rude|behaviou?r",
    "the lost papers": r"lost|papers|documents",
    "the wrong letter": r"letter",
    "the wrong booking": r"booking|booked|wrong account",
    "the app": r"\bapp\b",
    "the late fee": r"late fee|\bfee\b",
}
MATTER = {"balance": r"balance|you owe|is left|remain", "payoff": r"pay ?off|pay-off", "address": r"address"}
ANSWER = {
    "rate": (r"\d ?(%|percent)",),
    "compare": (r"\d ?(%|percent)",),
    "apply": (r"appl|form\b|we need", r"photo id|identification|pay ?stub|proof of income|(ten|10) minutes"),
    "approval": (
        r"(two|2) business days|under review|(is|are|being) reviewed|too early|"
        r"(can't|cannot|can not|unable to|not able to) (promise|guarantee|say|confirm)",
    ),
    "early": (
        r"early|extra|ahead|before the end|sooner|in full",
        r"\b(no|without|zero|any|not)\b[^.!?]*\b(fees?|penalt\w+|charges?|costs?)\b|\bfree\b|\bnever (cost|charge)",
    ),
    "late": (r"\b(10|ten)[ -]days?\b|grace period", r"late fee|\$25\b"),
    "documents": (r"documents page|online account|download|\bunder documents\b|sign in|log in",),
    "hardship": (r"\b(hardship|lower|pause|reduc|defer)", r"payments?\b|three months|\bplan\b"),
    "complaint": (r"complaint|look(ing)? into|investigat|\bcase\b|on file",),
    "person": (r"8 to 8|phone line|loan team|by phone|takes? calls",),
    "thanks": (r"welcome|glad|happy|pleasure|thank|day\b|all set|settled|done",),
    "offtopic": (r"\bonly\b|beyond|outside|can't|cannot|this desk|not able", r"\bloans?\b"),
}
# What other requests would be answered with: several of these in one reply is stuffing.
FOREIGN = {
    "rate": r"\d ?%",
    "apply": r"photo id|pay stub",
    "approval": r"business days",
    "early": r"no fee|without a fee|no penalty|without a penalty",
    "late": r"late fee",
    "inbox": r"secure inbox",
    "documents": r"documents page",
    "hardship": r"hardship",
    "complaint": r"complaint",
    "identity": r"date of birth",
    "person": r"8 to 8",
    "offtopic": r"\bonly (help|handle)|outside what|beyond what",
}
NOTHING_ASKED = frozenset({"thanks", "offtopic"})
SHARED = {"compare": "rate", "balance": "inbox", "payoff": "inbox"}


def _answers(scenario: Scenario, text: str) -> bool:
    """The reply is about the question asked, and about the right loan where it names one."""
    intent, facts = scenario.intent, scenario.facts
    named, asked = _named_products(text), [p.key for p in _products(scenario)]
    if intent in desk.RATE_INTENTS and set(named) != set(asked):
        return False
    if not set(named) <= set(asked):
        return False
    if intent in desk.IDENTITY_INTENTS:
        return _account_answer(scenario, text)
    if intent == "late" and not _right_late_terms(text):
        return False
    if intent == "complaint" and not re.search(TOPICS[facts["topic"]], text):
        return False
    if intent == "documents" and not _right_paper(facts["paper"], text):
        return False
    return all(re.search(p, text) for p in ANSWER[intent])


def _account_answer(scenario: Scenario, text: str) -> bool:
    """Before verification: takes up the matter. After it: says where the customer finds it."""
    about = bool(re.search(MATTER[scenario.intent], text))
    if not scenario.facts["verified"]:
        return about
    return about and "inbox" in text and not re.search(r"\$ ?\d", text)


def _right_late_terms(text: str) -> bool:
    sums, days = re.findall(r"\$ ?(\d+)", text), re.findall(r"\b(\d+) days", text)
    return set(sums) <= {"25"} and set(days) <= {"10"}


def _right_paper(paper: str, text: str) -> bool:
    named = [p for p in phrases.PAPERS if p in text]
    return named == [paper] if named else "copy" in text


def _stuffed(scenario: Scenario, text: str) -> bool:
    """Answers to other questions crammed in, or next steps and disclosures in a row."""
    own = {scenario.intent, SHARED.get(scenario.intent)}
    if scenario.intent in desk.IDENTITY_INTENTS:
        own |= {"inbox", "identity"}
    if scenario.intent == "complaint" and scenario.facts["topic"] == "the late fee":
        own.add("late")
    foreign = sum(bool(re.search(p, text)) for k, p in FOREIGN.items() if k not in own)
    steps = sum(bool(NEXT_STEP.search(s)) for s in _sentences(text))
    disclosures = sum(bool(DISCLOSED.search(s)) for s in _sentences(text))
    allowed = 0 if scenario.intent in NOTHING_ASKED else 1
    return foreign > allowed or steps > 3 or disclosures > 1
