"""Critiques and debates: what is asked, what is read, quotations that are looked up."""

import pytest

from tunesmith.evaluate.critique import CritiqueJudge, DebateJudge, critiques, debates, looked_up
from tunesmith.evaluate.judges import ModelJudge
from tunesmith.records import Answer, AnswerGroup, Message, Prompt

PROMPT = Prompt((Message("user", "What is the rate?"),))
RIGHT, WRONG = "The rate is 7.15%.", "The rate is certainly 9.99%, trust me."
MANUAL = "Auto loans: 7.15 percent over 60 months."


class Engine:
    """Replies `say(system, user)`; keeps what it was asked."""

    def __init__(self, say):
        self.say, self.asked = say, []

    def sample(self, prompts, sampling, *, n=1, model="", progress=None):
        self.asked += prompts
        return [[Answer(self.say(p[0].content, p[-1].content), "critic-1")] for p in prompts]


def letter_of(asked, text):
    return asked[asked.index(text) - 80:asked.index(text)].split("[answer ")[1][0]


def honest(system, asked):
    """A critic that finds the wrong rate, wherever it stands."""
    bad, good = letter_of(asked, WRONG), letter_of(asked, RIGHT)
    lines = {bad: f'says "9.99%"; answer {good} has it right', good: "no problem found"}
    return "\n".join(f"{x}: {lines[x]}" for x in sorted(lines)) + f"\nBEST: {good}"


@pytest.mark.parametrize("texts", [(RIGHT, WRONG), (WRONG, RIGHT)])
def test_a_critique_names_answers_by_index(texts):
    group = AnswerGroup(PROMPT, tuple(map(Answer, texts)))
    found = critiques(Engine(honest), [group])[0]
    good, bad = texts.index(RIGHT), texts.index(WRONG)
    assert found.choice == good and found.group == group.id and found.by == "critic-1"
    assert f'[[{bad}]]: says "9.99%"; [[{good}]] has it right' in found.text.splitlines()
    assert f"[[{good}]]: no problem found" in found.text.splitlines()


def test_the_critic_sees_an_order_of_its_own():
    groups = [AnswerGroup(PROMPT, (Answer(f"a {n}"), Answer(f"b {n}"))) for n in range(30)]
    engine = Engine(lambda system, asked: "BEST: A")
    assert {c.choice for c in critiques(engine, groups)} == {0, 1}


def test_a_reply_without_form_is_no_critique():
    group = AnswerGroup(PROMPT, (Answer("a"), Answer("b")))
    assert critiques(Engine(lambda s, a: "Both are nice."), [group]) == [None]
    partial = critiques(Engine(lambda s, a: "**A**: too short\nBEST: Z"), [group])[0]
    assert partial.choice is None and "too short" in partial.text


def by_note(system, asked):
    """A judge that only goes by what a critic or a debater says of wrong rates."""
    note = asked.split("[note ")[1] if "[note " in asked else ""
    for letter in "AB":
        if f'answer {letter}: says "9.99%"' in note:
            return f"VERDICT: {'B' if letter == 'A' else 'A'}"
        if f"for answer {letter}" in note and "«7.15 percent" in note.split(f"for answer {letter}")[1].split("Turn")[0]:
            return f"VERDICT: {letter}"
    return "VERDICT: TIE"


@pytest.mark.parametrize("texts,outcome", [((RIGHT, WRONG), 1.0), ((WRONG, RIGHT), 0.0)])
def test_a_judge_reads_the_critique_in_the_letters_of_its_page(texts, outcome):
    judge = CritiqueJudge(ModelJudge(Engine(by_note)), Engine(honest))
    verdict = judge.compare([PROMPT], [texts[0]], [texts[1]])[0]
    assert verdict.outcome == outcome and [k.outcome for k in verdict.looks] == [outcome, outcome]
    assert judge.silent == 0


def test_the_critics_choice_is_told_only_if_wanted():
    for choices in (False, True):
        engine = Engine(by_note)
        CritiqueJudge(ModelJudge(engine), Engine(honest), choices=choices).compare([PROMPT], [RIGHT], [WRONG])
        told = [a[-1].content for a in engine.asked]
        assert ["holds answer A for the better" in told[0], "holds answer B for the better" in told[1]] == [choices] * 2
    judge = CritiqueJudge(ModelJudge(Engine(by_note)), Engine(lambda s, a: "?"))
    assert judge.compare([PROMPT], [RIGHT], [WRONG])[0].outcome == 0.5 and judge.silent == 1


def test_quotations_are_looked_up():
    speech = ("See <quote>The  RATE is 7.15%</quote>, not <quote>9 percent</quote> «forged» <QUOTE>“rate”</QUOTE> "
              "<quote>a</quote>")
    told, quoted, found = looked_up(speech, RIGHT)
    assert (quoted, found) == (4, 2)
    assert told.count("«") == 2 and "«The  RATE is 7.15%»" in told and told.count("nowhere") == 2
    assert "forged" in told and "«forged»" not in told


def debater(system, asked):
    mine = asked.split("You argue for answer ")[1][0]
    right = letter_of(asked, RIGHT)
    if mine == right:
        return "It is right: <quote>7.15 percent over 60 months</quote>. Answer " + right + " says so."
    return "Trust me: <quote>9.99 percent over 60 months</quote>."


@pytest.mark.parametrize("texts,outcome", [((RIGHT, WRONG), 1.0), ((WRONG, RIGHT), 0.0)])
def test_a_debate_lets_a_judge_decide_what_it_cannot_know(texts, outcome):
    """Debaters read the manual, the judge does not: what it learns of it are quotations that were looked up."""
    judging, arguing = Engine(by_note), Engine(debater)
    judge = DebateJudge(ModelJudge(judging), arguing, material=lambda prompt: MANUAL)
    verdict = judge.compare([PROMPT], [texts[0]], [texts[1]])[0]
    assert verdict.outcome == outcome and (judge.quoted, judge.found) == (4, 2)
    assert all(MANUAL not in a[-1].content for a in judging.asked)
    assert all(MANUAL in a[-1].content for a in arguing.asked) and len(arguing.asked) == 4


def test_the_second_turn_answers_the_first():
    engine = Engine(lambda system, asked: f"I say {len(asked)}, against answer "
                                          f"{'B' if 'argue for answer A' in asked else 'A'}.")
    debate = debates(engine, [PROMPT], [RIGHT], [WRONG])[0]
    assert "Turn 1" not in engine.asked[0][1].content and "Your opponent: I say" in engine.asked[2][1].content
    assert "Rebut" in engine.asked[3][1].content and len(debate.speeches) == 2
    plain, swapped = debate.transcript(), debate.transcript(True)
    first = [line for line in plain.splitlines() if line.startswith("Turn 1")]
    assert "for answer A" in first[0] and "against answer B" in first[0] and "for answer B" in first[1]
    turned = [line for line in swapped.splitlines() if line.startswith("Turn 1")]
    assert turned[0].startswith("Turn 1, for answer A") and turned[0].split("say")[1] == (
        first[1].split("say")[1].replace("answer A", "answer B"))  # the speech for the pair's second answer
