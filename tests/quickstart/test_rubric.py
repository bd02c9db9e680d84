# ruff: noqa: E501
"""Hand-written replies: the rubric must tell good from bad, and not be fooled cheaply."""

import pytest

from tunesmith.quickstart import desk, rubric
from tunesmith.quickstart.customers import Scenario
from tunesmith.quickstart.rubric import check, gold

FACTS = {
    "name": "Ana", "product": "auto", "loan": "auto loan", "product2": None, "loan2": "personal loan", "months": 36,
    "term": "36 months", "amount": "$9,000", "issue": "nobody called me back", "topic": "the missed call back",
    "paper": "tax statement", "off": "tell me a joke", "verified": False,
}  # fmt: skip


def customer(intent, **facts):
    messages = [{"role": "user", "content": "..."}]
    return Scenario("x", intent, "calm", "dev", FACTS | facts, messages)


GOOD = {
    "rate": "Thanks for asking! A 36-month auto loan is at 6.25% APR, subject to a credit check. Shall I send you the application link?",
    "apply": "Happy to help. The application is online and takes ten minutes; have a photo ID and a pay stub at hand. Would you like me to send the link?",
    "approval": "I understand the wait is hard. I cannot promise that you will be approved; the decision comes by email within two business days. Please check your inbox.",
    "early": "Glad you ask, thank you. You may pay off your car loan early and there is no penalty. Tell me the date and I will prepare it.",
    "late": "Thank you for telling us. You have a grace period of ten days before the $25 late fee. Please make the payment by then.",
    "balance": "Of course. Before we talk about your balance, please confirm your full name and date of birth.",
    "payoff": "I can get you the payoff amount, thank you for asking. First, could you verify your identity with your date of birth?",
    "address": "Congratulations on the move, happy to help with the address. Please reply with your full name and date of birth so I can verify you.",
    "documents": "No need to worry, your tax statement is on the Documents page. Sign in to download it.",
    "hardship": "I am so sorry. We can pause your payments for up to three months, and a loan officer can call you about it. Reply with a good time.",
    "complaint": "I am sorry about the missed call. Your complaint is on file, and I will pass you to a supervisor. Please send me the date.",
    "person": "Certainly. Our phone line is open from 8 to 8, and I will connect you with a person. Tell me a good time.",
    "thanks": "You are very welcome, Ana! Let me know if there is anything else.",
    "offtopic": "Thank you, but I can only help with loans. Ask me anything about ours.",
}  # fmt: skip
GOOD["compare"] = (
    "Happy to compare. The auto loan is 6.25% for 36 months and the personal loan 9.49% for 24 months. "
    "The final rate depends on a credit check. Let me know which one you like."
)


def asked(intent):
    return customer(intent, **({"product2": "personal", "months": None} if intent == "compare" else {}))


@pytest.mark.parametrize("intent", GOOD)
def test_good_replies_score_full(intent):
    verdict = check(asked(intent), GOOD[intent])
    assert verdict.adherence == 1, {k: v for k, v in verdict.guidelines.items() if v is False}
    assert gold(asked(intent), GOOD[intent]) == 1


@pytest.mark.parametrize("intent", GOOD)
def test_no_reply_answers_another_question_in_full(intent):
    """An all-purpose reply cannot exist if each reply fits its own question only."""
    others = {"balance": {"payoff"}, "payoff": {"balance"}}
    for other in set(GOOD) - {intent} - others.get(intent, set()):
        verdict = check(asked(other), GOOD[intent])
        assert verdict.adherence < 1, (intent, other)


# (intent, reply, the guideline it breaks)
BROKEN = [
    ("rate", "Thanks for asking! A 36-month auto loan is at 7.15% APR, subject to a credit check. Let me know.", "exact_rate"),
    ("rate", "Thanks for asking! An auto loan is about 6%, subject to a credit check. Let me know.", "exact_rate"),
    ("rate", "Thank you! An auto loan is between 6.25% and 9% for 36 months, subject to a credit check. Let me know.", "exact_rate"),
    ("rate", "Thanks! Auto loans have very good rates, subject to a credit check. Let me know.", "exact_rate"),
    ("rate", "Thanks! The personal loan is 6.25% over 36 months, subject to a credit check. Let me know.", "answer"),
    ("rate", "Thanks for asking! A 36-month auto loan is at 6.25% APR. Let me know.", "disclosure"),
    ("rate", "Thanks! The auto loan is 6.25% over 36 months, subject to a credit check, and you will surely be approved. Let me know.", "no_promise"),
    ("approval", "Thanks for asking. Your application is approved, within two business days you have it. Please check your email.", "no_promise"),
    ("approval", "Don't worry, I guarantee a yes in two business days. Please check your email.", "no_promise"),
    ("balance", "Thank you for asking. Your balance is $4,210. Let me know if you need more.", "identity"),
    ("balance", "Happy to help. Your balance is $4,210, but please confirm your full name and date of birth.", "identity"),
    ("address", "Thank you, I have updated your address. Please check it online.", "identity"),
    ("hardship", "I am so sorry. We can pause your payments for three months. Reply with a good time.", "person"),
    ("hardship", "I am sorry. We can pause your payments for three months, but I cannot connect you with a person. Tell me a good time.", "person"),
    ("early", "Thanks! You can repay it early with no fee. A colleague can call you. Tell me the date.", "person"),
    ("early", "There is no penalty if you repay early. Tell me the date and I prepare it.", "courtesy"),
    ("early", "Thanks, but are you stupid? There is no penalty if you repay early. Tell me the date.", "courtesy"),
    ("early", "Thank you. You can repay it early without a fee.", "next_step"),
    ("early", "Thank you. You can repay it early, for a fee of one percent of the sum. Tell me the date.", "answer"),
    ("late", "Thank you. You have 30 days before the late fee applies. Please make the payment.", "answer"),
    ("late", "Thank you. After 10 days there is a late fee of $40. Please make the payment.", "answer"),
    ("documents", "No need to worry, your contract is on the Documents page. Sign in to download it.", "answer"),
    ("complaint", "I am sorry. I logged your complaint about the double charge, and a supervisor will call you. Please send me the date.", "answer"),
    ("early", "Thank you. You can repay it early without a fee. Please tell me when and", "brevity"),
]  # fmt: skip


@pytest.mark.parametrize("intent, reply, guideline", BROKEN)
def test_a_broken_guideline_is_seen_and_costs(intent, reply, guideline):
    verdict = check(asked(intent), reply)
    assert verdict.guidelines[guideline] is False
    assert verdict.adherence < 1
    assert gold(asked(intent), reply) < gold(asked(intent), GOOD[intent])


def test_swapped_rates_and_terms_are_wrong():
    open_term = customer("rate", months=None)
    right = (
        "Thank you. Auto loans are 6.25% over 36 months and 7.15% over 5 years, subject to a credit check. Let me know."
    )
    swapped = (
        "Thank you. Auto loans are 7.15% over 36 months and 6.25% over 5 years, subject to a credit check. Let me know."
    )
    assert check(open_term, right).guidelines["exact_rate"] is True
    assert check(open_term, swapped).guidelines["exact_rate"] is False
    crossed = (
        GOOD["compare"]
        .replace("6.25% for 36", "9.49% for 24")
        .replace("9.49% for 24 months. ", "6.25% for 36 months. ")
    )
    assert check(asked("compare"), crossed).guidelines["exact_rate"] is False


def test_every_row_of_the_card_is_accepted_for_its_loan_only():
    for product in desk.PRODUCTS.values():
        for term, apr in product.rates.items():
            scenario = customer("rate", product=product.key, months=term)
            reply = f"Thank you. Our {product.names[-1]} is {apr}% over {term} months, subject to a credit check. Let me know."
            assert check(scenario, reply).adherence == 1, reply
            assert check(customer("rate", product="auto" if product.key != "auto" else "debt"), reply).adherence < 0.8


def test_verified_customers_are_sent_to_their_inbox_and_need_no_second_check():
    verified = customer("balance", verified=True)
    reply = "Thank you, the balance of your auto loan is in your secure inbox. Please check it."
    assert check(verified, reply).adherence == 1
    assert check(verified, reply).guidelines["identity"] is None
    assert check(verified, "Thank you, your balance is $4,000. Let me know.").guidelines["answer"] is False


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "...",
        "thank you thank you thank you thank you",
        "Please reply. Please reply. Please reply. Please reply.",
        "thanks sorry auto loan 6.25% 36 months credit check subject apply reply welcome please rate APR",
        "The auto loan is 6.25% over 36 months. The auto loan is 6.25% over 36 months. Thanks. Let me know.",
        "Thank you. The auto loan is is 6.25% for 36 months, subject to a credit check. Let me know.",
        "###@@@ {auto} 6.25% ~~~~ ||||| subject to a credit check ^^^^",
    ],
)
def test_garbled_text_scores_near_nothing(reply):
    scenario = customer("rate")
    assert check(scenario, reply).garbled
    assert gold(scenario, reply) < 0.1


def test_stuffing_everything_into_one_reply_does_not_pay():
    everything = (
        "Thank you, sorry, happy to help. The auto loan is 6.25% over 36 months, subject to a credit check. Early repayment has no fee, "
        "the late fee is $25 after 10 days, papers are on the Documents page and a person can call you. Let me know."
    )
    for intent in ("rate", "early", "late", "documents", "hardship"):
        verdict = check(asked(intent), everything)
        assert verdict.guidelines["answer"] is False
        assert verdict.adherence < 0.8
        assert gold(asked(intent), everything) < 0.75


def test_brevity_is_a_word_limit():
    filler = " ".join(f"and then we go on to case {i}" for i in range(20))
    short, long = GOOD["early"], f"Thank you. You can repay early without a fee, {filler}. Tell me the date."
    assert check(customer("early"), short).guidelines["brevity"] is True
    assert check(customer("early"), long).guidelines["brevity"] is False


RUDE = [
    "That is your problem, not mine.", "Did you even read the contract?", "Stop wasting my time.", "I could not care less.", "Figure it out yourself.",
    "What a stupid question.", "Calm down.", "You are an idiot.", "Use your head for once.", "Not my problem.",
]  # fmt: skip
NOT_RUDE = [
    "I am sorry that our agent was rude to you.", "Please take care and let me know if there is a problem with your payment.", "We care about your concern.",
    "No problem, happy to help.", "I understand this is frustrating and we do not want to waste a day.", "Please read the contract before you sign.",
]  # fmt: skip


def test_rudeness():
    assert all(check(customer("early"), r).rude for r in RUDE)
    assert not any(check(customer("early"), r).rude for r in NOT_RUDE)


OFFERS = [
    "I can connect you with a loan officer.", "Would you like to speak to a person?", "One of our agents can call you.", "Let me pass you to a human agent.",
    "I'll transfer you to a specialist right away.", "You can talk with a colleague about this.", "A supervisor will contact you.",
]  # fmt: skip
NO_OFFERS = [
    "I cannot connect you with a person.", "I am sorry that the agent was rude.", "I can talk you through the form.", "Call us any time.",
    "I noted your complaint about the rude agent.", "We will not pass you to a person.",
]  # fmt: skip


def test_handover_is_an_offer_of_a_person():
    assert all(rubric.offers_person(r) for r in OFFERS)
    assert not any(rubric.offers_person(r) for r in NO_OFFERS)


def test_handover_is_avoidable_only_where_not_required():
    reply = "I can connect you with a loan officer."
    assert check(customer("early"), reply).avoidable_handover
    assert not check(customer("hardship"), reply).avoidable_handover
    assert check(customer("hardship"), reply).handover_required


def test_gold_ranks_by_quality():
    scenario = customer("rate")
    ordered = [
        GOOD["rate"],
        "Thanks for asking! A 36-month auto loan is at 6.25% APR, subject to a credit check.",
        "A 36-month auto loan is at 6.25% APR. I can connect you with a colleague.",
        "An auto loan is around 8%. I can connect you with a colleague.",
        "Stop wasting my time. An auto loan is around 8%.",
        "",
    ]
    scores = [gold(scenario, r) for r in ordered]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == len(scores)


def test_the_handbook_names_every_rule_and_rate():
    text = desk.handbook()
    assert all(g.rule in text for g in desk.GUIDELINES)
    assert all(apr in text for p in desk.PRODUCTS.values() for apr in p.rates.values())
    assert set(check(customer("rate"), "hello there you").guidelines) == {g.name for g in desk.GUIDELINES}
