# ruff: noqa: E501  (rows of phrases read better than columns)
"""Three stages for an invented clinic's helpline: how it answers anybody, adults, and children.

    python examples/cases/staged_medicine.py clinic

THE MEDICINES AND DOSES ARE INVENTED AND MEAN NOTHING. No row may reach a patient.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from writing import Files, Row, demonstration, prompt, run, unlike

from tunesmith.quickstart.grammar import expand

MEDICINES = {"Veltarin": "fever", "Osmodil": "cough", "Crenapax": "earache", "Lumivar": "a rash", "Tessolin": "a sore throat",
             "Brevadol": "stomach cramps"}
BANDS = {"1 to 2": (1, 2), "3 to 5": (3, 5), "6 to 9": (6, 9), "10 to 13": (10, 13)}
HOURS = (4, 6, 8, 12)
DANGER = ("a stiff neck", "trouble breathing", "blue lips", "a seizure", "great drowsiness", "blood in the stool")


def table(rng: random.Random) -> Row:
    """{(medicine, "adult" or a band of years): (mg, hours between doses)}, the same for every seed."""
    doses = {}
    for medicine in MEDICINES:
        adult = rng.choice((400, 500, 600, 800))
        doses[medicine, "adult"] = adult, rng.choice(HOURS)
        hours = rng.choice(HOURS)
        for n, band in enumerate(BANDS):
            doses[medicine, band] = adult * (n + 1) // 8 // 5 * 5, hours
    return doses


DOSES = table(random.Random("doses"))
ASKS = ("[How much|What dose of] {medicine} [may I take|can I take|is right] [against|for] {trouble}?",
        "I have {trouble}. [How much|What dose of] {medicine} [may|should] I take?",
        "[I am {age} and have|At {age} I have] {trouble}. Is {medicine} [fine|right], and how much of it?")
CHILD_ASKS = ("My [son|daughter|child] is {age} and has {trouble}. [How much|What dose of] {medicine} [may|should] I give?",
              "[How much|What dose of] {medicine} [can|may] a child of {age} [take|have] [against|for] {trouble}?",
              "{trouble}, aged {age}: [how much|what dose of] {medicine} [is right|may we give]?")
WHY = ("[More does not help|A higher dose does not work faster] and [harms|burdens] the [liver|kidneys].",
       "[The body|Your body] needs that long to [use it up|get rid of it].")
CHILD_WHY = ("[Children|A child's kidneys] [clear|get rid of] it more slowly[ than adults|].",
             "[The dose goes by age|It goes by age], never by the adult's packet.")
DAILY = {
    "store bread": ("in a paper bag at room temperature", "The fridge makes it stale", "Freeze what you do not eat in two days"),
    "clean glasses": ("with lukewarm water and a soft cloth", "Paper scratches them", "Dry them in the air"),
    "sleep better": ("by going to bed at the same hour", "The body likes a rhythm", "Put the phone into another room"),
    "water a fern": ("twice a week, from below", "Wet leaves rot", "Feel the soil with a finger first"),
    "remove a stain": ("with cold water and soap", "Heat sets it", "Wash it again within the hour"),
    "keep milk fresh": ("at the back of the fridge", "The door is too warm", "Write the date on it"),
    "warm up a room": ("by airing it shortly and closing the curtains", "Dry air warms faster", "Check the windows for draughts"),
    "learn a poem": ("line by line, aloud", "The ear remembers", "Say it once more before you sleep"),
    "boil an egg": ("for six minutes from when the water boils", "Then the yolk is still soft", "Put it into cold water at once"),
    "lift a box": ("from the knees, close to the body", "The back is weaker than the legs", "Ask for help above 20 kilograms"),
    "wash wool": ("by hand in cool water", "Heat shrinks it", "Let it dry lying flat"),
    "read a timetable": ("from the stop downwards", "Each column is one bus", "Look for the notes at the foot"),
}
DAILY_ASKS = ("[How do I|How can I|What is the best way to] {what}?", "Tell me how to {what}[, please|].",
              "[Hello|Hi|Good day], how [does one|should I] {what}?", "My [mother|neighbour|friend] asks how to {what}[. Do you know|]?")


def general(rng: random.Random) -> tuple[str, str]:
    """Everyday questions in the clinic's way of answering: in short, why, next."""
    what = rng.choice(list(DAILY))
    how, why, then = DAILY[what]
    start = expand(rng.choice(("", "[One question|I wonder|Something else]:", "{n}.")), {"n": rng.randint(1, 40)}, rng)
    asked = f"{start} {expand(rng.choice(DAILY_ASKS), {'what': what}, rng)}".strip()
    return asked, f"In short: {how}. Why: {why}. Next: {then}."


def dosed(rng: random.Random, band: str) -> tuple[str, tuple[str, Row]]:
    """A question about a medicine for adults or for a band of years; the answer, and what a rubric must know."""
    medicine = rng.choice(list(MEDICINES))
    child = band in BANDS
    age = rng.randint(*BANDS[band]) if child else rng.randint(19, 80)
    facts = {"medicine": medicine, "trouble": MEDICINES[medicine], "age": age}
    mg, hours = DOSES[medicine, band]
    whom = f" for a child of {band} years" if child else " for an adult"
    first = f"{mg} mg every {hours} hours{whom}"
    why = expand(rng.choice(CHILD_WHY if child else WHY), {}, rng)
    then = f"Call us at once if you see {rng.choice(DANGER)}." if child else "See a doctor if it lasts three days."
    asked = expand(rng.choice(("", "Hello, ", "Good evening. ", "Hi. ", "A question: ")) + rng.choice(CHILD_ASKS if child else ASKS),
                   facts, rng)
    told = {"dose": f"{mg} mg", "adult_dose": f"{DOSES[medicine, 'adult'][0]} mg" if child else "",
            "hours": f"every {hours} hours"}
    return asked, (f"In short: {first}. Why: {why} Next: {then}", {"domain": medicine, **told})


RUBRIC = """name = "Clinic"

[[item]]
name = "in the clinic's form"
contains = ["In short:", "Why:", "Next:"]

[[item]]
name = "the right dose"
contains_fact = "dose"

[[item]]
name = "the right hours"
contains_fact = "hours"

[[item]]
name = "never the adult's dose for a child"
not_contains_fact = "adult_dose"

[[item]]
name = "says when to call"
contains = "Call us"
"""


def make(rng: random.Random, size: Callable[[int], int]) -> Files:
    everyday = unlike(lambda: general(rng), size(200) + size(60), set())
    seen: set[str] = set()
    adults = unlike(lambda: dosed(rng, "adult"), size(200) + size(60), seen)
    children = unlike(lambda: dosed(rng, rng.choice(list(BANDS))), size(100) + size(150), seen)
    rows = {"general": everyday, "medical": [(asked, answer) for asked, (answer, _) in adults],
            "paediatric": [(asked, answer) for asked, (answer, _) in children]}
    cut = {"general": size(200), "medical": size(200), "paediatric": size(100)}
    taught = {f"{name}.jsonl": [demonstration(*row) for row in found[:cut[name]]] for name, found in rows.items()}
    kept = {f"held_out_{name}.jsonl": [demonstration(*row) for row in found[cut[name]:]] for name, found in rows.items()}
    return {**taught, **kept, "rubric.toml": RUBRIC,
            "questions.jsonl": [prompt(asked, **facts) for asked, (_, facts) in children[size(100):]]}


if __name__ == "__main__":
    run(__doc__, make)
